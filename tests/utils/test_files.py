"""Atomic writes and names by content."""

from pathlib import Path

import pytest

from desam_lite.utils.files import atomic_path, digest, sha256_file, write_json


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    target = tmp_path / "scan.nii.gz"
    target.write_text("old")
    with pytest.raises(RuntimeError), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert [p.name for p in tmp_path.iterdir()] == ["scan.nii.gz"]
    assert target.read_text() == "old"


def test_the_temporary_name_keeps_the_whole_suffix(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "deep" / "scan.nii.gz") as temporary:
        assert temporary.name.endswith(".nii.gz")
        temporary.write_text("x")
    assert (tmp_path / "deep" / "scan.nii.gz").read_text() == "x"


def test_written_files_are_readable_like_any_other(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("x")
    write_json(tmp_path / "value.json", {"b": 1, "a": [None, 0.5]})
    assert (tmp_path / "value.json").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_names_go_by_content_not_by_order() -> None:
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})
    assert len(digest(None)) == 16


def test_file_hash_is_sha256(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_file(tmp_path / "abc") == expected
