"""The plan of the study: which data, embeddings, runs and pages there are, and what each notebook is given."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_study import PARAMETERS, write_notebook

from desam_lite.study.plans import EXPERIMENTS, plan_experiment
from desam_lite.study.profiles import get_profile
from desam_lite.study.workflow.notebooks import read_parameters
from desam_lite.study.workflow.plan import StudyOptions, choose_parameters, make_plan, run_resources
from desam_lite.utils.errors import StudyError
from desam_lite.utils.files import write_json

ROOT = Path(__file__).resolve().parents[3]
TASKS = {"domain_splits": "phantom_prostate", "one": "phantom_prostate", "organs": "phantom_abdomen"}


def declared(**tasks: str) -> dict[str, dict[str, tuple[str, Any]]]:
    usual = {"profile": ("str", "teach"), "data_root": ("str", ""), "seeds": ("list[int]", [])}
    return {name: usual | {"manifest": ("str", task)} for name, task in tasks.items()}


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a notebook that trains and one that does not."""
    text = PARAMETERS.replace("tiny.yaml", "phantom_prostate").replace('["A", "B"]', '["A"]')
    write_notebook(tmp_path / "notebooks" / "domain_splits.ipynb", text)
    write_notebook(tmp_path / "notebooks" / "look.ipynb", 'profile: str = "teach"\n')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_notebook_of_the_repository_is_in_the_plan_with_the_runs_it_asks_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    plan = make_plan(StudyOptions(profile="smoke", workspace=tmp_path))
    sources = {path.stem: path for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert plan["pages"].keys() == sources.keys()
    for name in sources.keys() & EXPERIMENTS.keys():
        values = {key: default for key, (_, default) in read_parameters(sources[name]).items()}
        chosen = {key: values[key] for key in ("sources", "methods", "seeds") if key in values}
        specs = plan_experiment(name, get_profile("smoke"), values["manifest"], **chosen)
        planned = [plan["runs"][key]["spec"] for key in plan["pages"][name]["runs"]]
        assert planned == [spec.model_dump(mode="json") for spec in specs]


def test_a_run_that_two_experiments_need_is_planned_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    options = StudyOptions(
        profile="smoke", workspace=tmp_path, experiments=("domain_splits", "decoder_ablation")
    )
    plan = make_plan(options)
    shared = [run for run in plan["runs"].values() if len(run["experiments"]) == 2]
    assert {run["title"] for run in shared} == {"DeSAM-B from A, seed 0", "DeSAM-P from A, seed 0"}
    (store,) = plan["embeddings"].values()
    assert {run for run, of in plan["runs"].items() if of["embeddings"]} == set(store["runs"])
    assert store["resources"]["cpus"] == 1  # so that something else may go on beside it


def test_a_notebook_that_trains_nothing_is_a_page_only(study: Path) -> None:
    plan = make_plan(StudyOptions(profile="smoke"))
    assert plan["pages"]["look"]["runs"] == []
    assert plan["pages"]["look"]["parameters"] == {"profile": "smoke"}
    assert len(plan["pages"]["domain_splits"]["runs"]) == 2


def test_a_page_is_another_one_when_its_notebook_or_its_parameters_change(study: Path) -> None:
    def key(**options: Any) -> str:
        return str(
            make_plan(StudyOptions(**{"profile": "smoke", **options}))["pages"]["domain_splits"]["key"]
        )

    first = key()
    assert key() == first
    assert key(parameters={"methods": ["prior"]}) != first
    write_notebook(study / "notebooks" / "look.ipynb", 'profile: str = "smoke"\n')
    assert key() == first
    source = study / "notebooks" / "domain_splits.ipynb"
    source.write_text(source.read_text().replace("progress=False", "progress=True"))
    assert key() != first


def test_a_parameter_goes_to_the_notebooks_that_have_it(study: Path) -> None:
    pages = make_plan(StudyOptions(profile="smoke", parameters={"methods": ["prior"]}))["pages"]
    assert pages["domain_splits"]["parameters"]["methods"] == ["prior"]
    assert "methods" not in pages["look"]["parameters"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"parameters": {"sedes": [1]}}, "no notebook takes 'sedes'"),
        ({"parameters": {"manifest": "x"}}, "no notebook takes 'manifest' as -p"),
        ({"experiments": ("nowhere",)}, "no experiment 'nowhere': choose from domain_splits, look"),
        ({"profile": "huge"}, "no profile 'huge'"),
        ({"manifests": ("nowhere",)}, "no manifest 'nowhere'"),
        ({"data": ("x", "y")}, "2 data folders for 1 manifests"),
        ({"notebooks": Path("empty")}, "no notebook in empty"),
        ({"profile": "paper", "parameters": {"methods": ["desam_b"]}}, "needs SAM's own weights"),
    ],
)
def test_what_cannot_be_planned_is_one_sentence(study: Path, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(StudyError, match=sentence):
        make_plan(StudyOptions(**options))


def test_a_manifest_goes_to_the_notebooks_with_its_organs_and_the_others_keep_their_own() -> None:
    options = StudyOptions(profile="paper", manifests=("prostate",), data=("/d",), weights="w.pth")
    given = choose_parameters(options, declared(**TASKS))
    real = {"profile": "paper", "manifest": "prostate", "data_root": "/d"}
    assert given == {"domain_splits": real, "one": real, "organs": {"profile": "teach"}}


def test_several_manifests_each_find_their_notebooks() -> None:
    options = StudyOptions(profile="paper", manifests=("abdomen", "prostate"), data=("/abdomen", "/prostate"))
    given = choose_parameters(options, declared(**TASKS))
    assert given["one"]["data_root"] == "/prostate"
    assert given["organs"] == {"profile": "paper", "manifest": "abdomen", "data_root": "/abdomen"}


def test_a_task_with_organs_of_no_notebook_goes_to_those_on_the_main_task(tmp_path: Path) -> None:
    own = {"name": "heart", "title": "Heart", "organs": [{"name": "ventricle", "label": 1}]}
    (tmp_path / "heart.yaml").write_text(yaml.safe_dump({**own, "domains": {"A": {"title": "A"}}}))
    options = StudyOptions(profile="smoke", manifests=(str(tmp_path / "heart.yaml"),), data=("/d",))
    given = choose_parameters(options, declared(**TASKS))
    assert [name for name, values in given.items() if "manifest" in values] == ["domain_splits", "one"]
    assert given["organs"] == {"profile": "smoke"}


def test_data_without_a_manifest_are_those_of_the_main_task() -> None:
    given = choose_parameters(StudyOptions(data=("/d",)), declared(**TASKS))
    assert given["one"] == {"profile": "teach", "data_root": "/d"}
    assert given["organs"] == {"profile": "teach"}


def test_a_paper_run_asks_for_a_gpu_and_a_small_one_for_none(tmp_path: Path) -> None:
    def asked(profile: str, method: str) -> dict[str, int]:
        (spec,) = plan_experiment(
            "domain_splits",
            get_profile(profile),
            "phantom_prostate",
            sources=["A"],
            methods=[method],
            seeds=[0],
            weights="random",
        )
        return run_resources(spec, profile)

    assert asked("paper", "desam_p")["gpu"] == 1
    assert asked("paper", "desam_p")["mem_mb"] > asked("paper", "unet")["mem_mb"]
    assert asked("paper", "prior")["gpu"] == 0
    assert asked("teach", "desam_p")["gpu"] == 0


def test_what_takes_longest_and_what_needs_no_run_start_before_the_rest(tmp_path: Path) -> None:
    small = {"mem_mb": 1, "runtime": 1, "cpus": 1, "gpu": 0}

    def run(backbone: str | None, store: str | None) -> dict[str, Any]:
        return {"data": "d", "embeddings": store, "spec": {"backbone": backbone}, "resources": small}

    runs = {"slices": run(None, None), "decoder": run("sam_tiny", "e"), "encoder": run("sam_tiny", None)}
    pages = {"told": {"data": ["d"], "runs": list(runs)}, "les+son": {"data": [], "runs": []}}
    plan = {"data": {"d": {}}, "embeddings": {"e": {"data": "d", "resources": small}}, "runs": runs}
    write_json(tmp_path / "plan.json", plan | {"pages": pages, "book": False, "book_sources": []})
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "workflow" / "Snakefile")]
    command += ["--directory", str(tmp_path), "--dry-run", "--workflow-profile", "none"]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    jobs = re.findall(r"rule (\w+):.*?output: (\S+).*?priority: (\d+)", told.stdout + told.stderr, re.DOTALL)
    first = sorted({(int(priority), rule, out) for rule, out, priority in jobs}, reverse=True)
    assert [(rule, out) for _, rule, out in first] == [
        ("data", "data/d.json"),
        ("embeddings", "embeddings/e.json"),
        ("page_alone", "pages/les+son.json"),
        ("encoding_run", "runs/encoder.json"),
        ("page", "pages/told.json"),
        ("run", "runs/slices.json"),
        ("run", "runs/decoder.json"),
    ]
