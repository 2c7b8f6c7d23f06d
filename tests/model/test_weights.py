"""What a weights setting names is found, known by its content, and read without running any of it."""

import hashlib
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from desam_lite.model.weights import find_weights, parse_weights, read_tensors, weights_sha256
from desam_lite.utils.errors import StudyError

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


class Evil:
    """Makes a folder when it is unpickled as usual."""

    def __init__(self, place: Path):
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.place),)


def assert_same(read: dict[str, torch.Tensor]) -> None:
    assert read.keys() == TENSORS.keys()
    assert all(torch.equal(read[name], TENSORS[name]) for name in TENSORS)


def named_by_md5(folder: Path, content: bytes, prefix: str = "") -> Path:
    path = folder / f"sam_vit_b_{prefix or hashlib.md5(content).hexdigest()[:6]}.pth"
    path.write_bytes(content)
    return path


def test_a_setting_is_a_path_with_or_without_hash() -> None:
    assert parse_weights("some/sam.pth") == (Path("some/sam.pth"), None)
    assert parse_weights(f"some/sam.pth#sha256={'AB' * 32}") == (Path("some/sam.pth"), "ab" * 32)


@pytest.mark.parametrize("stated", ["", "abc", "zz" * 32, "ab" * 33])
def test_a_stated_hash_has_64_hexadecimal_digits(stated: str) -> None:
    with pytest.raises(StudyError, match="64 hexadecimal digits"):
        parse_weights(f"sam.pth#sha256={stated}")


def test_the_stated_hash_must_be_that_of_the_content(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    path.write_bytes(b"content")
    right = hashlib.sha256(b"content").hexdigest()
    assert find_weights(path) == path
    assert find_weights(f"{path}#sha256={right}") == path
    with pytest.raises(StudyError, match=rf"w\.pth' has SHA-256 {right}, not {'0' * 64} as asked for"):
        find_weights(f"{path}#sha256={'0' * 64}")


def test_a_public_name_must_carry_the_md5_of_the_content(tmp_path: Path) -> None:
    path = named_by_md5(tmp_path, b"the published bytes")
    assert find_weights(path) == path
    other = named_by_md5(tmp_path, b"cut sho", "01ec64")
    found = hashlib.md5(b"cut sho").hexdigest()
    with pytest.raises(StudyError, match=f"not the published file, whose MD5 starts with 01ec64.*{found}"):
        find_weights(other)


@pytest.mark.parametrize("name", ["sam_vit_b.pth", "my_sam_vit_b_01ec64.pth", "sam_vit_b_01ec64.safetensors"])
def test_other_names_promise_nothing(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"anything")
    assert find_weights(tmp_path / name) == tmp_path / name


def test_missing_and_empty_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.pth").touch()
    fetch = "does not exist: fetch it with 'desam-lite weights fetch vit_l'"
    faults = {"gone.pth": "does not exist", "": "does not exist", "empty.pth": "is empty"}
    for name, fault in {**faults, "sam_vit_l_0b3195.pth": fetch}.items():
        with pytest.raises(StudyError, match=fault):
            find_weights(tmp_path / name)


def test_an_unchanged_file_is_hashed_once_and_a_changed_one_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, whole, read = tmp_path / "w.pth", hashlib.file_digest, []
    monkeypatch.setattr(hashlib, "file_digest", lambda *a: (read.append(1), whole(*a))[1])
    path.write_bytes(b"one")
    first = [weights_sha256(path) for _ in range(3)]
    assert set(first) == {hashlib.sha256(b"one").hexdigest()}
    assert len(read) == 1
    path.write_bytes(b"another")
    assert weights_sha256(path) == hashlib.sha256(b"another").hexdigest()


@pytest.mark.parametrize("zipped", [True, False])
def test_pytorch_files_old_and_new_are_read(zipped: bool, tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    assert_same(read_tensors(tmp_path / "w.pth"))


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "w"])
def test_safetensors_are_read_whatever_their_name(name: str, tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / name)
    assert_same(read_tensors(tmp_path / name))


@pytest.mark.parametrize("wrapper", ["model", "state_dict"])
def test_wrapped_and_distributed_state_dicts_are_unwrapped(wrapper: str, tmp_path: Path) -> None:
    distributed = {f"module.{name}": value for name, value in TENSORS.items()}
    torch.save({wrapper: distributed, "epoch": 3}, tmp_path / "w.pth")
    assert_same(read_tensors(tmp_path / "w.pth"))


def test_a_part_that_is_called_module_keeps_its_name(tmp_path: Path) -> None:
    torch.save({"module.x": torch.ones(1), "y": torch.ones(1)}, tmp_path / "w.pth")
    assert read_tensors(tmp_path / "w.pth").keys() == {"module.x", "y"}


@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle2", "pickle5"])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(kind: str, tmp_path: Path) -> None:
    path, trace = tmp_path / "w.pth", tmp_path / "it_ran"
    content = {**TENSORS, "x": Evil(trace)}
    if kind.startswith("pickle"):
        path.write_bytes(pickle.dumps({"x": Evil(trace)}, protocol=int(kind[-1])))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
    with pytest.raises(StudyError, match="could run code, and is refused") as caught:
        read_tensors(path)
    assert not trace.exists()
    assert ("mkdir" in str(caught.value)) == (kind != "pickle5")
    # The file is what it claims: the usual way to read it would have run it.
    if kind == "pickle2":
        pickle.loads(path.read_bytes())  # noqa: S301
        assert trace.exists()


def test_a_pickle_under_the_name_of_safetensors_does_not_run(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(pickle.dumps(Evil(tmp_path / "it_ran"), protocol=2))
    with pytest.raises(StudyError, match="no whole safetensors file"):
        read_tensors(path)
    assert not (tmp_path / "it_ran").exists()


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
def test_files_cut_short_are_refused(kind: str, share: float, tmp_path: Path) -> None:
    path, large = tmp_path / "w.bin", {"x": torch.zeros(3000)}
    if kind == "safetensors":
        path = tmp_path / "w.safetensors"
        save_file(large, path)
    else:
        torch.save(large, path, _use_new_zipfile_serialization=kind == "zip")
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(StudyError, match=r"w\..*(damaged|no whole|neither)"):
        read_tensors(path)


@pytest.mark.parametrize(
    "header", [b"{", b'{"a":}', b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,4]}}']
)
def test_damaged_safetensors_headers_are_refused(header: bytes, tmp_path: Path) -> None:
    path = tmp_path / "w.bin"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(StudyError, match="no whole safetensors file"):
        read_tensors(path)


@pytest.mark.parametrize("content", [b"x", b"# weights of mine\n", b"\x89HDF\r\n\x1a\n" + bytes(64)])
def test_other_files_are_named_as_such(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(StudyError, match="neither safetensors nor a PyTorch file"):
        read_tensors(tmp_path / "w.pth")


def test_an_ordinary_archive_is_no_file_of_tensors(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(StudyError, match="no file of tensors"):
        read_tensors(tmp_path / "w.pth")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (torch.ones(3), "no tensors by name"),
        ({}, "no tensors by name"),
        ({"model": {}}, "no tensors by name"),
        ({"a": torch.ones(1), "epoch": 3}, "entry 'epoch'"),
        ({7: torch.ones(1)}, "entry 7"),
    ],
)
def test_what_is_no_state_dict_is_refused(content: object, fault: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(StudyError, match=fault):
        read_tensors(tmp_path / "w.pth")
