"""``desam-lite weights`` as a shell sees it."""

import hashlib
from pathlib import Path

import pytest
import torch
from conftest import complaint

from desam_lite.model.download import PUBLIC, PublicWeights

CONTENT = b"not really weights" * 100
NAME = PUBLIC["vit_b"].name


@pytest.fixture(autouse=True)
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the published ViT-B, which is a small file here."""
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    monkeypatch.setitem(PUBLIC, "vit_b", PublicWeights("vit_b", NAME, len(CONTENT), sha256))
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / NAME).write_bytes(CONTENT)
    return tmp_path / "mirror"


def test_list_tells_address_hashes_and_what_is_here(run, mirror: Path) -> None:
    code, out, _ = run("weights", "list", "--folder", mirror)
    assert code == 0
    for weights in PUBLIC.values():
        assert weights.url in out and weights.sha256 in out
    assert out.count(", here") == 1 and out.count(", not here") == 3


def test_fetch_shows_progress_and_names_the_file(run, mirror: Path, tmp_path: Path) -> None:
    code, out, err = run("weights", "fetch", "vit_b", "--folder", tmp_path / "w", "--mirror", mirror)
    assert (code, out) == (0, f"{tmp_path / 'w' / NAME}: the published vit_b\n")
    assert f"fetching {NAME}" in err
    assert (tmp_path / "w" / NAME).read_bytes() == CONTENT


def test_fetch_of_what_is_not_there_is_one_sentence(run, mirror: Path, tmp_path: Path) -> None:
    code, out, err = run("weights", "fetch", "vit_h", "--folder", tmp_path / "w", "--mirror", mirror)
    assert (code, out) == (1, "") and len(err.strip().splitlines()) == 1
    assert "sam_vit_h_4b8939.pth cannot be read" in complaint(err)


def test_check_reads_what_is_in_the_folder_unless_files_are_named(run, mirror: Path) -> None:
    code, out, _ = run("weights", "check", "--folder", mirror)
    assert code == 0 and out.startswith(f"{mirror / NAME}: the published {NAME} (SHA-256 ")
    torch.save({"a": torch.ones(1)}, mirror / "own.pth")
    (mirror / "cut.pth").write_bytes(b"PK\x03\x04")
    code, out, err = run("weights", "check", mirror / "cut.pth", mirror / "gone.pth", mirror / "own.pth")
    assert code == 1 and out.startswith(f"{mirror / 'own.pth'}: 1 tensors")
    assert "cut.pth' is damaged" in err and "gone.pth' does not exist" in err


def test_check_of_an_empty_folder_says_so(run, tmp_path: Path) -> None:
    code, _, err = run("weights", "check", "--folder", tmp_path)
    assert code == 1 and "none of the public weights of SAM and MedSAM is in" in complaint(err)


@pytest.mark.parametrize("command", ["list", "fetch", "check"])
def test_help_shows_an_example(command: str, run) -> None:
    code, out, _ = run("weights", command, "--help")
    assert code == 0 and f"Example: desam-lite weights {command}" in " ".join(out.split())
