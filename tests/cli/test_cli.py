import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from conftest import complaint
from small_task import image_data, save, write_task

DATA_COMMANDS = ["make", "import", "verify", "index", "show"]


def test_sound_task_passes(run, tmp_path: Path) -> None:
    manifest, root = write_task(tmp_path)
    code, out, _ = run("data", "verify", manifest, "--data", root)
    assert (code, out) == (0, "tiny: 4 cases in 2 domains, no fault\n")


def test_verify_lists_every_fault_at_once_and_fails(run, tmp_path: Path) -> None:
    manifest, root = write_task(tmp_path)
    (root / "A" / "Case00.nii.gz").write_bytes(b"no scan")
    (root / "B" / "Case01_segmentation.nii.gz").unlink()
    code, _, err = run("data", "verify", manifest, "--data", root)
    assert code == 1 and "2 fault(s)" in err and "Traceback" not in err
    assert "A/Case00: " in err and "B/Case01: has no label" in err


def test_verify_tells_warnings_and_passes(run, tmp_path: Path) -> None:
    manifest, root = write_task(tmp_path, intensity={"window": [-125, 275]})
    save(root / "A" / "Case00.nii.gz", image_data() % 256)
    code, _, err = run("data", "verify", manifest, "--data", root)
    assert code == 0 and "warning: A/Case00: image: Hounsfield units expected" in err


def test_index_is_written_with_its_faults(run, tmp_path: Path) -> None:
    manifest, root = write_task(tmp_path)
    (root / "A" / "Case00.nii.gz").write_bytes(b"no scan")
    code, out, _ = run("data", "index", manifest, "--data", root, "--out", tmp_path / "new" / "index.csv")
    table = pd.read_csv(tmp_path / "new" / "index.csv", keep_default_na=False)
    assert code == 0 and "4 rows, 1 with a fault" in out
    assert len(table) == 4 and "not a NIfTI file" in table["fault"][0]


def test_contact_sheet_is_a_png_of_sound_cases(run, tmp_path: Path) -> None:
    manifest, root = write_task(tmp_path)
    (root / "A" / "Case00.nii.gz").write_bytes(b"no scan")
    code, out, _ = run(
        "data", "show", manifest, "--data", root, "--out", tmp_path / "sheet.png", "--cases", 1
    )
    assert code == 0 and "sheet.png" in out
    assert (tmp_path / "sheet.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_contact_sheet_of_nothing_sound_points_to_verify(run, tmp_path: Path) -> None:
    manifest, root = write_task(tmp_path)
    for path in root.rglob("*.nii.gz"):
        path.write_bytes(b"no scan")
    code, _, err = run("data", "show", manifest, "--data", root, "--out", tmp_path / "sheet.png")
    assert code == 1 and "'desam-lite data verify' lists what is wrong" in complaint(err)
    assert not (tmp_path / "sheet.png").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["data", "verify", "prostat"], "no manifest 'prostat': did you mean 'prostate'?"),
        (
            ["data", "verify", "prostate", "--data", "nowhere"],
            "there is no data folder nowhere for task 'prostate'",
        ),
        (["data", "verify", "prostate"], "there is no data folder data/prostate"),
        (["data", "verify", "phantom_prostate"], "desam-lite data make phantom_prostate"),
        (
            ["data", "show", "prostate", "--out", "sheet.jpg"],
            "--out is sheet.jpg: give a name that ends in .png",
        ),
    ],
)
def test_failure_is_one_sentence_and_status_1(
    run, words: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*words)
    assert code == 1 and out == "" and sentence in err
    assert len(err.strip().splitlines()) == 1 and err.startswith("desam-lite: ")


def test_place_that_cannot_be_written_is_a_sentence_too(run, tmp_path: Path) -> None:
    manifest, root = write_task(tmp_path)
    (tmp_path / "file").write_text("in the way")
    code, _, err = run("data", "index", manifest, "--data", root, "--out", tmp_path / "file" / "index.csv")
    assert code == 1 and "Traceback" not in err and str(tmp_path / "file") in complaint(err)


@pytest.mark.parametrize(
    "words", [["data", "verify"], ["data", "show", "prostate", "--cases", "0"], ["nonsense"]]
)
def test_wrong_usage_is_told_with_status_2(run, words: list[str]) -> None:
    code, _, err = run(*words)
    assert code == 2 and "Usage: " in err


@pytest.mark.parametrize("command", DATA_COMMANDS)
def test_help_shows_an_example(run, command: str) -> None:
    code, out, _ = run("data", command, "--help")
    assert code == 0 and f"Example: desam-lite data {command}" in " ".join(out.split())


def test_info_tells_versions_device_and_manifests(run) -> None:
    code, out, _ = run("info")
    assert code == 0 and "torch 2" in out and "device:" in out
    assert "data_manifests/phantom_prostate.yaml" in out


def test_info_tells_gpus_and_libraries_that_are_not_there(run, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from desam_lite.cli import main as cli

    monkeypatch.setattr(cli, "_SHOWN_LIBRARIES", ("torch", "no-such-library"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: f"GPU {number}")
    code, out, _ = run("info")
    assert code == 0 and "no-such-library (not installed)" in out and "device:    cuda: GPU 0, GPU 1" in out


def test_make_hands_its_options_to_the_phantoms(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from desam_lite.synthetic import phantoms

    calls: list[tuple[object, ...]] = []
    monkeypatch.setattr(phantoms, "make_task", lambda *a, **k: calls.append((a, k)))
    words = ["--out", tmp_path / "p", "--cases", 2, "--seed", 7, "--domain", "A", "--domain", "C"]
    code, out, _ = run("data", "make", "phantom_prostate", *words)
    assert code == 0 and "2 cases per domain, seed 7" in out
    assert calls == [(("phantom_prostate", tmp_path / "p"), {"cases": 2, "seed": 7, "domains": ["A", "C"]})]


def test_import_sums_up_and_fails_only_where_a_case_was_left_out(run, tmp_path: Path) -> None:
    _, root = write_task(tmp_path)
    code, out, _ = run("data", "import", "folders", root, "--out", tmp_path / "out")
    assert code == 0 and "A 2, B 2; 4 made now" in out
    (root / "A" / "Case01_segmentation.nii.gz").unlink()
    code, out, err = run("data", "import", "folders", root, "--out", tmp_path / "out")
    assert code == 1 and "0 made now" in out and "Case01.nii.gz has no label" in complaint(err)


def test_help_answers_at_once_without_the_heavy_libraries() -> None:
    program = (
        "import sys\nfrom desam_lite.cli.main import main\nsys.argv = ['desam-lite', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'monai', 'pandas', 'matplotlib', 'nibabel', 'scipy', 'papermill'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    begin = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "data" in done.stdout and "info" in done.stdout
    assert (
        time.perf_counter() - begin < 20
    )  # a guard against hangs; the list of modules is what keeps it quick


def test_data_commands_need_no_torch_and_finished_runs_no_training_libraries(tmp_path: Path) -> None:
    manifest, root = write_task(tmp_path)
    program = (
        "import sys\nfrom desam_lite.cli.main import main\n"
        f"sys.argv = ['desam-lite', 'data', 'verify', {str(manifest)!r}, '--data', {str(root)!r}]\n"
        "try:\n    main()\nexcept SystemExit as done:\n    assert not done.code\n"
        "print({'torch', 'monai', 'lightning_fabric', 'matplotlib'} & set(sys.modules))\n"
        "import desam_lite.study.run\n"
        "print({'monai', 'lightning_fabric', 'matplotlib'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1:] == ["set()", "set()"]
