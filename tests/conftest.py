"""Fixtures shared by all test files."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_model import use_micro

from desam_lite.data.embeddings import EmbeddingStore, fill_store
from desam_lite.data.geometry import Geometry, from_slices
from desam_lite.data.nifti import write_mask, write_volume
from desam_lite.data.tasks import Task, open_task
from desam_lite.methods import METHODS
from desam_lite.methods.registry import CHOICES, METHOD_CHOICES
from desam_lite.model.build import build_desam

ROOT = Path(__file__).resolve().parents[1]
CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:  # noqa: F821
    """Debian's chromium, headless; tests that need it are skipped where it is not."""
    if not CHROMIUM.exists():
        pytest.skip(f"there is no {CHROMIUM}: install Debian's package chromium")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as running:
        launched = running.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield launched
        launched.close()


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Single-threaded torch: small tensors are faster so, and results do not depend on the machine's cores."""
    torch.set_num_threads(1)


@pytest.fixture
def methods_as_before() -> Iterator[None]:
    """Take what a test registers out of the tables of methods again."""
    tables: list[dict[str, Any]] = [METHODS, CHOICES, METHOD_CHOICES]
    before = [dict(table) for table in tables]
    yield
    for table, kept in zip(tables, before, strict=True):
        table.clear()
        table.update(kept)


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Call the command as a shell would; gives (status, standard output, standard error)."""
    from desam_lite.cli import main as cli

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["desam-lite", *map(str, words)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        out, err = capfd.readouterr()
        code = stopped.value.code
        return (code if isinstance(code, int) else int(code is not None)), out, err

    return call


def complaint(err: str) -> str:
    """The last line of standard error, without the progress bars before it."""
    return err.replace("\r", "\n").strip().splitlines()[-1]


@pytest.fixture(scope="session")
def realdata() -> Path:
    """The folder of real labelled scans beside the checkout, or a skip that says why."""
    folder = ROOT.parent / "shared" / "realdata"
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}")
    return folder


def write_tiny_case(folder: Path, case: str, seed: int) -> None:
    """Write a 6 x 40 x 32 volume with a bright ellipsoid on a noisy ground, and its label."""
    rng = np.random.default_rng(seed)
    z, y, x = np.meshgrid(*(np.arange(n) for n in (6, 40, 32)), indexing="ij")
    centre = np.array([3, 20, 16]) + rng.uniform(-1, 1, 3) * (0.5, 4, 4)
    radius = np.array([2.2, 9, 7]) * rng.uniform(0.8, 1.2, 3)
    inside = sum(((a - c) / r) ** 2 for a, c, r in zip((z, y, x), centre, radius, strict=True)) < 1
    image = rng.normal(100, 15, inside.shape) + 90 * inside
    geometry = Geometry((32, 40, 6), np.diag([-1.0, -1.0, 3.0, 1.0]))  # stored as LPS, 3 mm slices
    write_volume(folder / f"{case}.nii.gz", from_slices(image.astype(np.float32), geometry), geometry.affine)
    write_mask(folder / f"{case}_segmentation.nii.gz", inside, geometry)


def write_tiny_task(folder: Path, cases: int = 4) -> tuple[Path, Path]:
    """Write a manifest and data of two domains; return the manifest's path and the data root."""
    text = (
        "name: tiny\ntitle: Tiny\norgans: [{name: blob, label: 1}]\ndomains: {A: {title: A}, B: {title: B}}\n"
    )
    manifest = folder / "tiny.yaml"
    manifest.parent.mkdir(parents=True, exist_ok=True)
    manifest.write_text(text)
    for number, domain in enumerate("AB"):
        for case in range(cases):
            write_tiny_case(folder / "data" / domain, f"{domain}{case}", 10 * number + case)
    return manifest, folder / "data"


@pytest.fixture(scope="session")
def tiny_task(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Manifest and data root of a two-domain task that trains in a second; do not change its files."""
    return write_tiny_task(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def micro() -> Iterator[None]:
    """Make the backbone "micro", of a few thousand weights, known while the tests of a file run."""
    with pytest.MonkeyPatch.context() as patch:
        use_micro(patch)
        yield


@pytest.fixture(scope="module")
def task(tiny_task: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Task:
    """The tiny task, checked and prepared."""
    return open_task(*tiny_task, tmp_path_factory.mktemp("ws"), progress=False)


@pytest.fixture(scope="module")
def store(task: Task, micro: None, tmp_path_factory: pytest.TempPathFactory) -> EmbeddingStore:
    """Embeddings of all cases of the tiny task under the backbone "micro"."""
    filled = EmbeddingStore(tmp_path_factory.mktemp("maps"), task.slices, "micro", "none", "float32")
    fill_store(filled, build_desam("micro"), progress=False)
    return filled
