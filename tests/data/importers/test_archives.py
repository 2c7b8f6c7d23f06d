"""Zip archives: nothing leaves its folder, nothing is done twice."""

import stat
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from layout_files import bring, files, write_saml

from desam_lite.data.importers.archives import unpack
from desam_lite.utils.errors import StudyError


def zip_folder(folder: Path, archive: Path) -> Path:
    with zipfile.ZipFile(archive, "w") as target:
        for path in sorted(folder.rglob("*")):
            target.write(path, path.relative_to(folder))
        target.writestr("__MACOSX/RUNMC/._Case00.nii.gz", b"resource fork")
    return archive


def test_zip_archive_is_imported_and_leaves_no_second_copy(tmp_path: Path) -> None:
    write_saml(tmp_path / "in")
    archive = zip_folder(tmp_path / "in", tmp_path / "saml.zip")
    summary = bring("saml", archive, tmp_path / "out")
    assert summary.cases == dict.fromkeys("ABCDEF", 1) and summary.faults == ()
    assert not (tmp_path / "out" / ".unpacked").exists() and len(files(tmp_path / "out")) == 13
    assert bring("saml", archive, tmp_path / "out").made == 0


@pytest.mark.parametrize(
    "name", ["../evil.nii.gz", "/evil.nii.gz", "a/../../evil.nii.gz", "..\\evil.nii.gz", "C:\\evil.nii"]
)
def test_zip_member_that_leaves_the_folder_stops_everything(name: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr("RUNMC/Case00.nii.gz", b"fine")
        archive.writestr(zipfile.ZipInfo(name), b"evil")
    with pytest.raises(StudyError, match=r"bad.zip holds .* a path that leaves the folder: do not use"):
        bring("saml", tmp_path / "bad.zip", tmp_path / "deep" / "out")
    assert files(tmp_path) == ["bad.zip"]


def test_zip_member_that_is_a_link_is_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("RUNMC/Case00.nii.gz")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(StudyError, match="a link or a path that leaves"):
        bring("saml", tmp_path / "bad.zip", tmp_path / "out")


@pytest.mark.parametrize("content", [b"no zip at all", b"PK\x03\x04 cut"])
def test_damaged_zip_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "bad.zip").write_bytes(content)
    with pytest.raises(StudyError, match=r"bad.zip is no whole zip archive .* download it again"):
        bring("saml", tmp_path / "bad.zip", tmp_path / "out")


def test_zip_that_does_not_fit_on_the_disk_is_refused_before_unpacking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_saml(tmp_path / "in")
    archive = zip_folder(tmp_path / "in", tmp_path / "saml.zip")
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(StudyError, match=r"saml.zip unpacks to .* GB but .* make room"):
        bring("saml", archive, tmp_path / "out")
    assert files(tmp_path / "out") == []


def test_zip_with_a_password_is_named(tmp_path: Path) -> None:
    write_saml(tmp_path / "in")
    archive = zip_folder(tmp_path / "in", tmp_path / "saml.zip")
    content = bytearray(archive.read_bytes())
    for header in (
        b"PK\x03\x04",
        b"PK\x01\x02",
    ):  # set the flag "encrypted" in every local and central header
        start = content.find(header)
        while start >= 0:
            content[start + (6 if header[2] == 3 else 8)] |= 1
            start = content.find(header, start + 4)
    archive.write_bytes(bytes(content))
    with pytest.raises(StudyError, match=r"saml.zip cannot be unpacked .*: unpack it by hand"):
        bring("saml", archive, tmp_path / "out")


def test_half_unpacked_archive_is_not_unpacked_from_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_saml(tmp_path / "in")
    archive = zip_folder(tmp_path / "in", tmp_path / "saml.zip")
    unpack(archive, tmp_path / "there", progress=False)
    (tmp_path / "there" / "HK" / "Case05.nii.gz").unlink()
    opened: list[str] = []
    original = zipfile.ZipFile.open
    monkeypatch.setattr(
        zipfile.ZipFile,
        "open",
        lambda self, m, *a, **k: opened.append(m.filename) or original(self, m, *a, **k),
    )
    unpack(archive, tmp_path / "there", progress=False)
    assert opened == ["HK/Case05.nii.gz"]
