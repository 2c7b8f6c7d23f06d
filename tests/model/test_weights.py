"""What a weights setting names is found, known by its content, and read without running any of it."""

import hashlib
import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from desam_lite.cli.weights import identify_weights
from desam_lite.model.download import PUBLIC, PublicWeights
from desam_lite.model.names import SHIPPED_WEIGHTS
from desam_lite.model.sam import get_backbone
from desam_lite.model.sam_decoder import SAM
from desam_lite.model.weights import (
    SHIPPED,
    SHIPPED_SHA256,
    find_weights,
    parse_weights,
    read_tensors,
    shipped_card,
    weights_sha256,
)
from desam_lite.utils.errors import StudyError
from desam_lite.utils.files import sha256_file

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
    with pytest.raises(
        StudyError, match=rf"w\.pth' has SHA-256 {right}, .* not the stated file, which has 0{{64}}"
    ):
        find_weights(f"{path}#sha256={'0' * 64}")


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


# The weights that come with the package


def test_the_file_is_the_one_that_code_and_card_name() -> None:
    assert sha256_file(SHIPPED) == SHIPPED_SHA256 == shipped_card()["sha256"]
    assert find_weights(SHIPPED_WEIGHTS) == SHIPPED
    assert SHIPPED.stat().st_size < 25_000_000


def test_another_file_in_its_place_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / SHIPPED.name
    other.write_bytes(SHIPPED.read_bytes()[:-1] + b"\0")
    monkeypatch.setattr("desam_lite.model.weights.SHIPPED", other)
    with pytest.raises(StudyError, match=rf"{SHIPPED.name}' has SHA-256 .*not the stated file"):
        find_weights(SHIPPED_WEIGHTS)


def test_it_holds_every_tensor_of_sam_in_half_precision() -> None:
    tensors = read_tensors(SHIPPED)
    own = SAM("sam_tiny").state_dict()
    assert {name: value.shape for name, value in tensors.items()} == {n: v.shape for n, v in own.items()}
    assert {value.dtype for value in tensors.values()} == {torch.float16}
    assert all(value.isfinite().all() for value in tensors.values())


def test_card_tells_recipe_data_limits_and_licence() -> None:
    card = shipped_card()
    assert card["sizes"] == json.loads(json.dumps(vars(get_backbone("sam_tiny"))))
    assert card["pictures"] > 0
    assert card["curve"][-1]["step"] == card["steps"]
    assert card["licence"] == "MIT"
    assert all(card[key] for key in ("recipe", "data", "limits", "device", "probe"))


# SAM's public files


CONTENT = bytes(range(256)) * 40
NAME = PUBLIC["vit_b"].name


@pytest.fixture
def public(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the published ViT-B be a small file."""
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    monkeypatch.setitem(PUBLIC, "vit_b", PublicWeights("vit_b", NAME, len(CONTENT), sha256))


def test_a_public_name_promises_the_published_content(public: None, tmp_path: Path) -> None:
    path = tmp_path / NAME
    path.write_bytes(CONTENT)
    assert find_weights(path) == path
    path.write_bytes(CONTENT[:-1])
    for refuse in (find_weights, identify_weights):
        with pytest.raises(StudyError, match=f"{NAME}' has SHA-256 .* is not the published file"):
            refuse(path)
    stated = hashlib.sha256(CONTENT[:-1]).hexdigest()  # whatever is stated
    with pytest.raises(StudyError, match="not the published file"):
        find_weights(f"{path}#sha256={stated}")


def test_a_published_file_is_recognised_by_its_content_under_any_name(public: None, tmp_path: Path) -> None:
    for name in (NAME, "copy.pth"):
        (tmp_path / name).write_bytes(CONTENT)
        assert identify_weights(tmp_path / name).startswith(f"the published {NAME} (SHA-256 ")


def test_other_weights_are_counted(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2), "b": torch.ones(3)}, tmp_path / "own.pth")
    assert identify_weights(tmp_path / "own.pth").startswith(
        "2 tensors, none of the public files of SAM and MedSAM"
    )
