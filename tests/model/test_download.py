"""SAM's weights are fetched whole or not at all, go on where they stopped, and get their name only as the published content."""

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from desam_lite.model import download as public_weights
from desam_lite.model.download import PUBLIC, PublicWeights, fetch_weights
from desam_lite.utils.errors import StudyError

CONTENT = bytes(range(256)) * 12_000  # 3 MB: several steps of a download
NAME = PUBLIC["vit_b"].name


class Server:
    """A web server of one file on this machine, with the faults of the world.

    Attributes:
        url: Of the folder.
        content: What it gives as the file.
        stop_after: Bytes of an answer's body after which it hangs up.
        ranges: Whether it can begin elsewhere than at the first byte.
        delay: Seconds before it answers.
        tells_length: Whether it says how much it will send.
        kind: Content type it gives; none when empty.
        chunked: Whether it answers in chunks, which say where they end.
        asked: The header "Range" of every request.
    """

    def __init__(self) -> None:
        self.content, self.stop_after, self.ranges, self.tells_length = CONTENT, len(CONTENT), True, True
        self.requests: list[str | None] = []
        self.delay, self.kind, self.chunked = 0.0, "", False
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, self))
        self.url = f"http://127.0.0.1:{self._server.server_port}/mirror"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, owner: Server, *args: object) -> None:
        self.owner = owner
        super().__init__(*args)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        owner, requests = self.owner, self.headers.get("Range")
        owner.requests.append(requests)
        time.sleep(owner.delay)
        if self.path != f"/mirror/{NAME}":
            self.send_error(404)
            return
        start = int(requests.removeprefix("bytes=").rstrip("-")) if requests and owner.ranges else 0
        size = len(owner.content)
        if start >= size:
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Connection", "close")
        if start:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        if owner.tells_length:
            self.send_header("Content-Length", str(size - start))
        if owner.kind:
            self.send_header("Content-Type", owner.kind)
        if owner.chunked:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"%x\r\n" % size + owner.content + b"\r\n0\r\n\r\n")
            return
        self.end_headers()
        with suppress(OSError):  # the other side may have seen enough
            self.wfile.write(owner.content[start : start + owner.stop_after])

    def log_message(self, *args: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the published ViT-B be the small file of these tests."""
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    monkeypatch.setitem(PUBLIC, "vit_b", PublicWeights("vit_b", NAME, len(CONTENT), sha256))


def fetch(folder: Path, mirror: str | Path) -> Path:
    return fetch_weights("vit_b", folder, mirror=str(mirror), progress=False)


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_the_files_are_those_their_names_say() -> None:
    assert list(PUBLIC) == ["vit_b", "vit_l", "vit_h", "medsam"]
    for backbone, weights in list(PUBLIC.items())[:3]:
        assert weights.name.startswith(f"sam_{backbone}_")
        assert weights.url == f"https://dl.fbaipublicfiles.com/segment_anything/{weights.name}"
        assert len(weights.sha256) == 64


def test_a_file_is_fetched_from_a_server_once(server: Server, tmp_path: Path) -> None:
    path = fetch(tmp_path / "new" / "weights", server.url)
    assert path == tmp_path / "new" / "weights" / NAME
    assert path.read_bytes() == CONTENT
    assert fetch(path.parent, server.url) == path
    assert server.requests == [None]
    assert visible(path.parent) == [NAME]


def test_without_mirror_it_comes_from_sams_own_address(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(public_weights, "SAM_URL", server.url)
    assert fetch_weights("vit_b", tmp_path, progress=False).read_bytes() == CONTENT


@pytest.mark.parametrize("tells_length", [True, False])
def test_a_download_that_broke_off_goes_on_where_it_stopped(
    tells_length: bool, server: Server, tmp_path: Path
) -> None:
    server.stop_after, server.tells_length = 1_300_000, tells_length
    for _ in range(2):
        with pytest.raises(
            StudyError, match=r"ended at \d+ of .*fetch again, which goes on where it stopped"
        ):
            fetch(tmp_path, server.url)
        assert visible(tmp_path) == []
    assert fetch(tmp_path, server.url).read_bytes() == CONTENT
    assert server.requests == [None, "bytes=1300000-", "bytes=2600000-"]


def test_a_server_that_cannot_go_on_is_asked_for_all_of_it(server: Server, tmp_path: Path) -> None:
    (tmp_path / f".{NAME}.part").write_bytes(b"x" * 1000)  # not even the right bytes
    server.ranges = False
    assert fetch(tmp_path, server.url).read_bytes() == CONTENT
    assert server.requests == ["bytes=1000-"]


def test_a_part_that_is_complete_is_checked_and_not_fetched_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / f".{NAME}.part").write_bytes(CONTENT)
    assert fetch(tmp_path, server.url).read_bytes() == CONTENT
    assert server.requests == []


def test_a_part_that_is_longer_than_the_file_is_begun_anew(server: Server, tmp_path: Path) -> None:
    (tmp_path / f".{NAME}.part").write_bytes(CONTENT + b"more")
    assert fetch(tmp_path, server.url).read_bytes() == CONTENT
    assert server.requests == [None]


@pytest.mark.parametrize("begun", [0, 1000])
def test_content_that_is_not_the_published_one_gets_no_name_and_is_deleted(
    begun: int, server: Server, tmp_path: Path
) -> None:
    if begun:  # the beginning of something else
        (tmp_path / f".{NAME}.part").write_bytes(b"y" * begun)
    else:
        server.content = CONTENT[:-1] + b"!"
    with pytest.raises(StudyError, match=r"has SHA-256 [0-9a-f]{64}, not the published .* was deleted"):
        fetch(tmp_path, server.url)
    assert visible(tmp_path) == []
    server.content = CONTENT
    assert fetch(tmp_path, server.url).read_bytes() == CONTENT
    assert server.requests[-1] is None


def test_a_file_of_another_size_is_refused_before_it_comes(server: Server, tmp_path: Path) -> None:
    server.content = content = CONTENT[:-5]
    with pytest.raises(StudyError, match=f"has {len(content)} bytes, the published file {len(CONTENT)}"):
        fetch(tmp_path, server.url)
    assert not (tmp_path / f".{NAME}.part").exists()


@pytest.mark.parametrize("begun", [0, 10])
@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "application/octet-stream", ""])
@pytest.mark.parametrize("length", ["chunked", "told", "untold"])
def test_a_log_in_page_is_not_kept_as_the_beginning(
    length: str, kind: str, begun: int, server: Server, tmp_path: Path
) -> None:
    part = tmp_path / f".{NAME}.part"
    part.write_bytes(CONTENT[:begun])
    server.content, server.kind, server.tells_length = b"\n<html>log in</html>" * 20, kind, length == "told"
    server.chunked, server.ranges = length == "chunked", False
    with pytest.raises(StudyError, match="gave a page instead of the file"):
        fetch(tmp_path, server.url)
    assert part.read_bytes() == CONTENT[:begun]
    server.content, server.kind, server.tells_length, server.chunked = CONTENT, "", True, False
    assert fetch(tmp_path, server.url).read_bytes() == CONTENT


def test_a_whole_answer_that_is_too_short_is_no_beginning_either(server: Server, tmp_path: Path) -> None:
    server.content, server.chunked, server.tells_length = b"no such bucket", True, False
    with pytest.raises(StudyError, match=f"has 14 of {len(CONTENT)} bytes"):
        fetch(tmp_path, server.url)
    assert not (tmp_path / f".{NAME}.part").read_bytes()


def test_a_server_that_has_less_than_is_here_already_is_refused(server: Server, tmp_path: Path) -> None:
    (tmp_path / f".{NAME}.part").write_bytes(CONTENT[:1000])
    server.content = CONTENT[:500]
    with pytest.raises(StudyError, match=r"\(HTTP Error 416.*--mirror"):
        fetch(tmp_path, server.url)


def test_a_mirror_may_be_a_folder(tmp_path: Path) -> None:
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / NAME).write_bytes(CONTENT)
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / f".{NAME}.part").write_bytes(CONTENT[:70_000])
    assert fetch(tmp_path / "here", tmp_path / "mirror").read_bytes() == CONTENT
    assert (tmp_path / "mirror" / NAME).read_bytes() == CONTENT


def _nowhere(server: Server) -> str:
    server.close()
    return server.url


@pytest.mark.parametrize(
    ("mirror", "fault"),
    [
        (lambda server: f"{server.url}/not/here", r"cannot be read \(HTTP Error 404.*--mirror"),
        (_nowhere, r"cannot be read \(\[Errno 111\] Connection refused\): fetch again"),
        (lambda server: "http:///nowhere", "cannot be read"),
        (lambda server: "/nowhere/at/all", "/nowhere/at/all/.* cannot be read .*No such file"),
    ],
)
def test_a_source_that_has_nothing_is_named(
    mirror: Callable[[Server], str], fault: str, server: Server, tmp_path: Path
) -> None:
    with pytest.raises(StudyError, match=fault):
        fetch(tmp_path, mirror(server))
    assert visible(tmp_path) == []


def test_a_file_in_the_way_is_neither_used_nor_replaced(server: Server, tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"mine")
    with pytest.raises(StudyError, match="is there and is not the published file: move it away"):
        fetch(tmp_path, server.url)
    assert (tmp_path / NAME).read_bytes() == b"mine"
    assert server.requests == []


def test_what_is_offered_to_a_browser_alone_is_not_fetched_but_said_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        StudyError, match=r"get it from https://drive.google.com/.*, put it into .*weights check"
    ):
        fetch_weights("medsam", tmp_path)
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    small = PublicWeights("medsam", "medsam_vit_b.pth", len(CONTENT), sha256, "https://page")
    monkeypatch.setitem(PUBLIC, "medsam", small)
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / small.name).write_bytes(CONTENT)
    fetched = fetch_weights("medsam", tmp_path, mirror=str(tmp_path / "mirror"), progress=False)
    assert fetched.read_bytes() == CONTENT and fetch_weights("medsam", tmp_path) == fetched


def test_a_backbone_without_public_weights_is_refused_with_those_that_have_some(tmp_path: Path) -> None:
    with pytest.raises(
        StudyError, match="no public weights of 'sam_tiny': choose from vit_b, vit_l, vit_h, medsam"
    ):
        fetch_weights("sam_tiny", tmp_path)


def test_two_processes_fetch_a_file_once(server: Server, tmp_path: Path) -> None:
    server.delay = 0.1
    threads = [threading.Thread(target=fetch, args=(tmp_path, server.url)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.requests == [None]
    assert (tmp_path / NAME).read_bytes() == CONTENT
