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
from desam_lite.study.workflow.plan import (
    IN_PAGE,
    StudyOptions,
    choose_parameters,
    graph_folder,
    make_plan,
    run_resources,
    write_plan,
)
from desam_lite.utils.errors import StudyError

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


def jobs_of(plan: dict[str, Any], kind: str) -> dict[str, dict[str, Any]]:
    return {job: entry for job, entry in plan["jobs"].items() if entry["kind"] == kind}


def pages_of(plan: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {job.removeprefix("page-"): entry for job, entry in jobs_of(plan, "page").items()}


def test_every_notebook_of_the_repository_is_in_the_plan_with_the_runs_it_asks_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    plan = make_plan(StudyOptions(profile="smoke", workspace=tmp_path))
    sources, pages = {path.stem: path for path in (ROOT / "notebooks").glob("*.ipynb")}, pages_of(plan)
    assert pages.keys() == sources.keys()
    for name in sources.keys() & EXPERIMENTS.keys():
        values = {key: default for key, (_, default) in read_parameters(sources[name]).items()}
        chosen = {key: values[key] for key in ("sources", "methods", "seeds") if key in values}
        specs = plan_experiment(name, get_profile("smoke"), values["manifest"], **chosen)
        planned = [plan["jobs"][job]["spec"] for job in pages[name]["needs"] if job.startswith("run-")]
        assert planned == [spec.model_dump(mode="json") for spec in specs]


def test_every_job_comes_after_those_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    jobs = make_plan(StudyOptions(profile="smoke", workspace=tmp_path))["jobs"]
    order = {job: number for number, job in enumerate(jobs)}
    assert all(order[need] < order[job] for job, entry in jobs.items() for need in entry["needs"])
    assert list(jobs)[-1] == "book"


def test_a_run_that_two_experiments_need_is_planned_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    options = StudyOptions("smoke", workspace=tmp_path, experiments=("domain_splits", "decoder_ablation"))
    plan = make_plan(options)
    first, second = (set(page["needs"]) for page in pages_of(plan).values())
    shared = {plan["jobs"][job]["title"] for job in first & second if job.startswith("run-")}
    assert shared == {"DeSAM-B from A, seed 0", "DeSAM-P from A, seed 0"}
    ((store, entry),) = jobs_of(plan, "embeddings").items()
    assert all(
        (store in run["needs"]) == bool(run["spec"]["backbone"]) for run in jobs_of(plan, "run").values()
    )
    assert entry["cpus"] == 1  # so that another job may go on meanwhile


def test_a_notebook_that_trains_nothing_is_a_page_only(study: Path) -> None:
    pages = pages_of(make_plan(StudyOptions(profile="smoke")))
    assert pages["look"]["needs"] == []
    assert pages["look"]["parameters"] == {"profile": "smoke"}
    assert sum(job.startswith("run-") for job in pages["domain_splits"]["needs"]) == 2


def test_a_page_is_another_one_when_its_notebook_or_its_parameters_change(study: Path) -> None:
    def key(**options: Any) -> str:
        return str(
            pages_of(make_plan(StudyOptions(**{"profile": "smoke", **options})))["domain_splits"]["key"]
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
    pages = pages_of(make_plan(StudyOptions(profile="smoke", parameters={"methods": ["prior"]})))
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


def test_what_takes_longest_and_what_needs_no_run_start_before_the_rest(study: Path) -> None:
    chosen = {"methods": ["unet", "desam_b", "samed"]}
    plan = make_plan(StudyOptions(profile="smoke", parameters=chosen, workspace=study))
    write_plan(plan, study)
    jobs = sorted(plan["jobs"].values(), key=lambda entry: -entry["priority"])
    titles = [(entry["priority"], entry["title"]) for entry in jobs if entry["kind"] != "book"]
    assert titles == [
        (30, "data of phantom_prostate"),
        (20, "embeddings of phantom_prostate by sam_tiny (shipped)"),
        (15, "SAMed from A, seed 0"),
        (15, "page look"),
        (12, "page domain_splits"),
        (10, "U-Net from A, seed 0"),
        (10, "DeSAM-B from A, seed 0"),
    ]
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "workflow" / "Snakefile")]
    command += ["--directory", str(graph_folder(study)), "--dry-run", "--workflow-profile", "none"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    printed = re.findall(r"rule (\w+):.*?output: records/(\S+)[.]json", done.stdout + done.stderr, re.DOTALL)
    rules = {job: rule for rule, job in printed}
    assert rules.keys() == plan["jobs"].keys()
    assert {plan["jobs"][job]["title"] for job, rule in rules.items() if rule.startswith("early_")} == {
        "SAMed from A, seed 0",
        "page look",
    }


def test_a_page_that_trains_while_it_runs_stays_small_in_the_book_of_the_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    for profile, small in (("study", "teach"), ("smoke", "smoke")):
        pages = pages_of(make_plan(StudyOptions(profile=profile, workspace=tmp_path)))
        chosen = {name: page["parameters"].get("profile") for name, page in pages.items()}
        assert {chosen[name] for name in IN_PAGE} == {small} and chosen["domain_splits"] == profile
