"""Unpacking what was downloaded, without letting an archive write anywhere but into its own folder."""

import os
import shutil
import stat
import time
import zipfile
from pathlib import Path, PurePosixPath, PureWindowsPath

from desam_lite.utils.errors import StudyError
from desam_lite.utils.files import atomic_path
from desam_lite.utils.progress import track


def unpack(archive: Path, folder: Path, *, progress: bool = True) -> Path:
    """Unpack a zip archive; members that are there already are kept, so an interrupted run goes on.

    Args:
        archive: A ``.zip`` file.
        folder: Where to unpack it; made when missing.
        progress: Whether to show a progress bar.

    Returns:
        ``folder``.

    Raises:
        StudyError: Not a zip, damaged, encrypted, too large for the disk, or a member whose path leaves the folder; then
            nothing is written.
    """
    try:
        with zipfile.ZipFile(archive) as source:
            members = [member for member in source.infolist() if not (member.is_dir() or _is_junk(member))]
            for member in members:
                _require_inside(archive, member)
            _require_space(archive, members, folder)
            for member in track(members, f"unpacking {archive.name}", enabled=progress):
                _unpack_member(source, member, folder)
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise StudyError(f"{archive} is no whole zip archive ({error}): download it again.") from error
    except RuntimeError as error:  # zipfile's way to say that a password is needed
        raise StudyError(
            f"{archive} cannot be unpacked ({error}): unpack it by hand and give the folder."
        ) from error
    return folder


def _is_junk(member: zipfile.ZipInfo) -> bool:
    return member.filename.startswith("__MACOSX/")  # what macOS adds: as many files again, none of them data


def _require_inside(archive: Path, member: zipfile.ZipInfo) -> None:
    name = member.orig_filename
    parts = [*PurePosixPath(name).parts, *PureWindowsPath(name).parts]
    leaves = ".." in parts or name.startswith(("/", "\\")) or PureWindowsPath(name).drive or "\0" in name
    if leaves or stat.S_ISLNK(member.external_attr >> 16):
        raise StudyError(
            f"{archive} holds {name!r}, a link or a path that leaves the folder: do not use this archive."
        )


def _require_space(archive: Path, members: list[zipfile.ZipInfo], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    needed = sum(member.file_size for member in members if not _is_there(folder, member))
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise StudyError(
            f"{archive} unpacks to {needed / 1e9:.1f} GB but {folder} has {free / 1e9:.1f} GB: make room."
        )


def _is_there(folder: Path, member: zipfile.ZipInfo) -> bool:
    target = folder / member.filename
    return target.is_file() and target.stat().st_size == member.file_size


def _unpack_member(source: zipfile.ZipFile, member: zipfile.ZipInfo, folder: Path) -> None:
    if _is_there(folder, member):
        return
    target = folder / member.filename
    with atomic_path(target) as temporary, source.open(member) as packed, temporary.open("wb") as file:
        shutil.copyfileobj(packed, file, 1 << 20)
    packed_at = time.mktime((*member.date_time, 0, 0, -1))
    os.utime(target, (packed_at, packed_at))  # unpacked again it looks the same, so an import knows it again
