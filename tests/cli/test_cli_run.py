"""``desam-lite run``, ``score``, ``execute`` and ``check-book`` as a shell sees them."""

import json
import re
import shutil
from pathlib import Path
from typing import Any, get_type_hints

import nbformat
import pandas as pd
import pytest
from conftest import complaint
from hypothesis import given
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_notebook

from desam_lite.cli import run as cli_run
from desam_lite.cli.options import parse_assignments
from desam_lite.study.profiles import METHOD_CHOICES
from desam_lite.utils.errors import StudyError
from desam_lite.utils.files import sha256_file

Place = tuple[Path, Path]
UNET = ["--method", "unet", "--profile", "smoke", "--set", "epochs=1", "--set", "unet_size=32"]


def words(place: Place, workspace: Path, *more: object) -> list[object]:
    return ["run", place[0], "--data", place[1], "--workspace", workspace, "--source", "A", *more]


def test_a_run_prints_the_dice_of_every_target_and_is_not_repeated(
    run, tiny_task: Place, tmp_path: Path
) -> None:
    code, out, err = run(
        *words(tiny_task, tmp_path, "--accelerator", "cpu", *UNET, "--set", "learning_rate=1e-3")
    )
    assert code == 0 and "training U-Net on A" in err
    (directory,) = (tmp_path / "runs").iterdir()
    assert out.startswith(f"U-Net trained on A, seed 0: {directory}\n")
    metrics = pd.read_csv(directory / "metrics.csv")
    grouped = metrics.groupby(["protocol", "organ", "target"])["dice"]
    printed = [line.split()[-4:] for line in out.splitlines()[3:]]
    assert [(target, int(count)) for target, _, _, count in printed] == [
        (name[2], len(rows)) for name, rows in grouped
    ]
    assert [float(line[1]) for line in printed] == pytest.approx(grouped.mean().tolist(), abs=6e-4)
    stamps = {p: p.stat().st_mtime_ns for p in directory.rglob("*")}
    again = run(*words(tiny_task, tmp_path, *UNET, "--set", "learning_rate=0.001"))
    assert again[:2] == (0, out)
    assert "training" not in again[2]
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps


def test_the_slices_trained_on_are_an_option(run, tiny_task: Place, tmp_path: Path) -> None:
    for more in ([], ["--train-slices", "all"]):
        assert run(*words(tiny_task, tmp_path, *UNET, *more))[0] == 0
    cards = [json.loads(path.read_text()) for path in (tmp_path / "runs").glob("*/model.json")]
    rules = [card["run"]["identity"]["settings"]["train_slices"] for card in cards]
    assert sorted(rules) == ["all", "published"]


def test_masks_of_another_tool_are_scored_or_refused_in_one_listing(
    run, tiny_task: Place, tmp_path: Path
) -> None:
    masks, workspace = tmp_path / "masks", tmp_path / "ws"
    for domain in "AB":  # the references themselves
        for path in (tiny_task[1] / domain).glob("*_segmentation.nii.gz"):
            masks.mkdir(exist_ok=True)
            shutil.copy(path, masks / f"{domain}_{path.name}")
    call = ["score", masks, "--manifest", tiny_task[0], "--data", tiny_task[1], "--workspace", workspace]
    call += ["--source", "A", "--label", "an expert", "--profile", "smoke"]
    code, out, err = run(*call)
    assert (code, out) == (1, "") and "nothing was scored, 3 fault(s) of the masks:" in err
    assert err.count(", which is not tested: take it out.") == 3
    for line in err.splitlines():
        if line.endswith("take it out."):
            Path(line.partition(" is of ")[0]).unlink()
    code, out, _ = run(*call)
    (directory,) = (workspace / "runs").iterdir()
    assert code == 0 and out.startswith(f"an expert trained on A, seed 0: {directory}\n")
    assert [line.split()[-3] for line in out.splitlines()[5:7]] == ["1.000"] * 2  # whole_volume
    assert out.endswith("""in a notebook: -p 'methods=["unet", "masks:an expert"]'\n""")


def test_the_help_names_every_method() -> None:
    option = get_type_hints(cli_run.run, include_extras=True)["method"].__metadata__[0]
    assert set(METHOD_CHOICES) <= set(re.findall(r"\w+", option.help))


def test_data_are_looked_for_by_the_name_of_the_task(
    run, tiny_task: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_task[1], tmp_path / "data" / "tiny")
    manifest = shutil.copy(tiny_task[0], tmp_path / "of_another_name.yaml")
    code, out, _ = run(
        "run", manifest, "--source", "B", "--method", "prior", "--profile", "smoke", "--seed", 3
    )
    assert code == 0 and out.startswith("Prior trained on B, seed 3: results/runs/")


WRONG: dict[str, tuple[list[object], str]] = {
    "domain": (["--source", "Z"], "has no domain 'Z': choose from A, B."),
    "method": (["--method", "nnunet"], "no method 'nnunet': choose from prior, unet, "),
    "profile": (["--profile", "huge"], "there is no profile 'huge': use one of smoke, teach, study, paper."),
    "placement": (["--placement", "moon"], "no placement 'moon': use auto, device, memory, disk."),
    "accelerator": (["--accelerator", "abacus"], "no accelerator 'abacus': use auto, cpu or gpu."),
    "setting": (
        ["--set", "epoch=3"],
        "--set epoch: there is no such setting; choose from variant, prompt_mode",
    ),
    "setting with an option": (["--set", "source=B"], "--set source: this is given by --source."),
    "slices as setting": (
        ["--set", "train_slices=all"],
        "--set train_slices: this is given by --train-slices.",
    ),
    "slices": (["--train-slices", "some"], "run setting 'train_slices' = 'some': Input should be 'all'"),
    "setting of the experiment": (["--set", "seeds=[1]"], "--set seeds: there is no such setting"),
    "setting without value": (["--set", "epochs"], "--set epochs: write name=value."),
    "setting that is no YAML": (["--set", "epochs=[1"], "--set epochs=[1: the value is not plain YAML"),
    "value": (["--set", "epochs=0"], "run setting 'epochs' = 0: Input should be greater than or equal to 1"),
    "type": (["--set", "epochs=many"], "run setting 'epochs' = 'many': Input should be a valid integer"),
    "size of the U-Net": (["--set", "unet_size=100"], "unet_size 100 is not divisible by 16"),
    "data": (["--data", "nowhere"], "there is no data folder"),
    "manifest": (["MANIFEST"], "nowhere.yaml"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_one_sentence_before_any_training(
    name: str, run, tiny_task: Place, tmp_path: Path
) -> None:
    more, sentence = WRONG[name]
    call = words(tiny_task, tmp_path / "ws", *UNET, *(more if more != ["MANIFEST"] else []))
    if more == ["MANIFEST"]:
        call[1] = tmp_path / "nowhere.yaml"
    code, out, err = run(*call)
    assert (code, out) == (1, "")
    assert sentence in complaint(err) and complaint(err).startswith("desam-lite: ")
    assert "Traceback" not in err
    assert not list((tmp_path / "ws").glob("runs/*/checkpoint.pt"))


def test_a_gpu_that_is_not_there_is_one_sentence(
    run, tiny_task: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightning_fabric import Fabric

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("No supported gpu backend found!")

    monkeypatch.setattr(Fabric, "__init__", refuse)
    code, _, err = run(*words(tiny_task, tmp_path, "--accelerator", "gpu", *UNET))
    assert code == 1 and "accelerator 'gpu' cannot be used here" in complaint(err)
    assert not (tmp_path / "runs").exists()


def test_the_paper_profile_asks_for_weights(run, tiny_task: Place, tmp_path: Path) -> None:
    code, _, err = run(*words(tiny_task, tmp_path, "--profile", "paper", "--method", "desam_p"))
    assert code == 1 and "weights" in complaint(err)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3), ("0.5", 0.5), ("1e-4", 1e-4), ("-2E3", -2e3), ("[A, B]", ["A", "B"]), ("true", True), ("", ""),
        ("bf16-mixed", "bf16-mixed"), ("'1e4'", "1e4"), ("/a=b", "/a=b"), ("[]", []), ("null", None),
        ("010", 10), ("[010, -07]", [10, -7]), ("no", "no"), ("[NO, on]", ["NO", "on"]), ("1:30", "1:30"),
        ("2024-01-02", "2024-01-02"), ("0x10", "0x10"), ("1.", 1.0), (".5", 0.5), ("False", False),
    ],
)  # fmt: skip
def test_values_are_read_as_one_would_write_them(text: str, value: Any) -> None:
    (found,) = parse_assignments([f"name={text}"], "-p").values()
    assert found == value and type(found) is type(value)


def test_the_last_of_two_values_counts() -> None:
    assert parse_assignments(["a=1", "b=2", "a=3"], "-p") == {"a": 3, "b": 2}


@pytest.mark.parametrize("pair", ["name", "=3", "", "name=[1", "name={a: b: c}"])
def test_what_is_no_assignment_is_named(pair: str) -> None:
    with pytest.raises(StudyError, match=r"^-p "):
        parse_assignments([pair], "-p")


@given(st.integers(), st.integers(0, 4))
def test_a_whole_number_is_read_as_it_is_written_with_any_zeros_before_it(number: int, zeros: int) -> None:
    text = f"{'-' * (number < 0)}{'0' * zeros}{abs(number)}"
    assert parse_assignments([f"n={text}"], "-p") == {"n": number}


# Notebooks


def notebook(path: Path, *, tagged: bool = True) -> Path:
    made = new_notebook()
    made.cells.append(
        new_code_cell('profile: str = "teach"', metadata={"tags": ["parameters"] if tagged else []})
    )
    made.cells.append(new_code_cell("print(profile)"))
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(made, path)
    return path


def page(source: Path, folder: Path) -> Path:
    """Write the executed copy of a notebook as `execute` would."""
    copy = nbformat.read(source, as_version=4)
    copy.metadata["desam_lite"] = {"source_sha256": sha256_file(source), "parameters": {}}
    folder.mkdir(exist_ok=True)
    nbformat.write(copy, folder / source.name)
    return folder / source.name


def test_a_notebook_is_executed_with_its_parameters_and_its_page_passes(run, tmp_path: Path) -> None:
    source = notebook(tmp_path / "notebooks" / "why.ipynb")
    out = tmp_path / "executed" / "why.ipynb"
    code, said, _ = run("execute", source, "--out", out, "-p", "profile=smoke")
    assert code == 0 and said.endswith(f"wrote {out}\n")
    assert "smoke" in str(nbformat.read(out, as_version=4).cells[-1].outputs)
    code, said, _ = run("check-book", "--executed", out.parent, "--notebooks", source.parent)
    assert code == 0 and "1 page(s)" in said


@pytest.mark.parametrize(
    ("tagged", "parameter", "sentence"),
    [
        (True, "profil=smoke", "has no parameter 'profil': did you mean 'profile'"),
        (True, "profile=3", "parameter 'profile'"),
        (True, "profile", "-p profile: write name=value."),
        (False, "profile=smoke", "no code cells tagged 'parameters'"),
    ],
)
def test_a_wrong_parameter_or_notebook_is_one_sentence_and_leaves_the_page(
    tagged: bool, parameter: str, sentence: str, run, tmp_path: Path
) -> None:
    source = notebook(tmp_path / "notebooks" / "why.ipynb", tagged=tagged)
    older = page(source, tmp_path / "executed")
    before = older.read_bytes()
    code, out, err = run("execute", source, "--out", older, "-p", parameter)
    assert (code, out) == (1, "") and sentence in complaint(err)
    assert older.read_bytes() == before
    assert [path.name for path in older.parent.iterdir()] == ["why.ipynb"]


@pytest.mark.parametrize(
    ("out", "sentence"),
    [
        ("folder", "is a folder, and a file is needed"),
        ("why.ipynb", "is also an input"),
        ("why.ipynb/copy.ipynb", "why.ipynb is no folder you may write to"),
    ],
)
def test_a_place_that_cannot_be_written_is_refused_before_the_notebook_runs(
    out: str, sentence: str, run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("desam_lite.study.workflow.notebooks.execute_notebook", _never)
    source = notebook(tmp_path / "why.ipynb")
    (tmp_path / "folder").mkdir()
    code, _, err = run("execute", source, "--out", tmp_path / out)
    assert code == 1 and re.search(sentence, complaint(err))


def _never(*args: object, **options: object) -> None:
    raise AssertionError("the work began")


def test_paths_among_the_parameters_start_where_the_user_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "study" / "data_manifests").mkdir(parents=True)
    source, here = notebook(tmp_path / "study" / "notebooks" / "why.ipynb"), tmp_path / "here"
    (here / "scans").mkdir(parents=True)
    (here / "mine.yaml").touch()
    monkeypatch.chdir(here)
    values = {"manifest": "mine.yaml", "data_root": "scans", "weights": "shipped", "workspace": "ws", "n": 1}
    absolute = {
        "manifest": str(here / "mine.yaml"),
        "data_root": str(here / "scans"),
        "workspace": str(here / "ws"),
    }
    assert cli_run._seen_from_here(dict(values), source) == values | absolute
    assert cli_run._seen_from_here({"manifest": "prostate"}, source) == {"manifest": "prostate"}
    monkeypatch.chdir(tmp_path / "study")
    assert cli_run._seen_from_here(dict(values), source) == values


def test_a_run_whose_workspace_is_a_file_is_refused(run, tiny_task: Place, tmp_path: Path) -> None:
    (tmp_path / "ws").touch()
    code, _, err = run(*words(tiny_task, tmp_path / "ws"))
    assert code == 1 and "--workspace" in err and "is a file, and a folder is needed" in complaint(err)


def test_pages_that_are_not_fit_are_listed_together(run, tmp_path: Path) -> None:
    for name in ("why.ipynb", "how.ipynb", "when.ipynb"):
        source = notebook(tmp_path / "notebooks" / name)
        if name != "why.ipynb":
            page(source, tmp_path / "executed")
    with (tmp_path / "notebooks" / "how.ipynb").open("a") as file:
        file.write("\n")  # another version of the source
    code, _, err = run(
        "check-book", "--executed", tmp_path / "executed", "--notebooks", tmp_path / "notebooks"
    )
    assert code == 1 and "2 page(s) are not fit for the book:" in err
    assert "how.ipynb" in err and "why.ipynb" in err and "when.ipynb" not in err


def test_a_book_without_notebooks_is_not_fit(run, tmp_path: Path) -> None:
    code, _, err = run("check-book", "--executed", tmp_path, "--notebooks", tmp_path / "nowhere")
    assert code == 1 and "there is no notebook in" in complaint(err)


@pytest.mark.parametrize("command", ["run", "score", "execute", "check-book"])
def test_help_shows_an_example(command: str, run) -> None:
    code, out, _ = run(command, "--help")
    assert code == 0 and f"Example: desam-lite {command}" in " ".join(out.split())
