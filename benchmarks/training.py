"""Samples per second and peak memory of training the decoder, data loading included, against the published recipe.

    python benchmarks/training.py             # four minutes on a CPU; --quick: seconds

Random weights, random embeddings and discs as masks: none changes the work. Random numbers compress as badly as features do.
"""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from common import Cost, Options, read_options, write_result
from torch.nn import functional
from tqdm import tqdm

from desam_lite.data.datasets import EmbeddingData, Placement, SliceRef
from desam_lite.data.embedding_files import Format
from desam_lite.data.embeddings import EmbeddingStore
from desam_lite.data.slices import CaseSlices, SliceStore
from desam_lite.methods.desam import DeSAMMethod
from desam_lite.model.build import build_desam
from desam_lite.model.desam import DeSAM
from desam_lite.model.predictor import GridSettings
from desam_lite.model.prompts import ImageEmbeddings, Prompts
from desam_lite.training.devices import make_fabric
from desam_lite.training.loop import TrainSettings, train_epoch
from desam_lite.utils.memory import keep_freed_memory

NOTE = (
    "One epoch over the slices, batches read, steps taken. The published recipe, written plainly: one "
    "compressed npz of float32 maps per slice, read for every batch in the process that trains, one point"
    " per sample, Dice + cross-entropy + L1, Adam, float32. (The public code puts its arrays into object "
    "arrays; these need pickle, and are left out in its favour.) Ours is the loop of desam_lite.training.loop."
    " format and placement: of our embeddings; precision: Fabric's."
)
SIZE = 384  # side of the slices, in pixels


class Case(NamedTuple):
    """One way to train that is measured."""

    fmt: Format
    placement: Placement
    precision: str


CASES = (
    Case("float32", "disk", "32-true"),
    Case("float16", "disk", "32-true"),
    Case("float16", "memory", "32-true"),
    Case("float16", "memory", "bf16-mixed"),
)


def main() -> None:
    options = read_options(__doc__ or "")
    sizes = {"sam_tiny": 4} if options.quick else {"sam_tiny": 32, "vit_b": 8}  # slices
    cases: Sequence[Case] = CASES[2:3] if options.quick else CASES
    rows = []
    for backbone, count in sizes.items():
        with tempfile.TemporaryDirectory() as folder:
            rows += _backbone(backbone, count, cases, Path(folder), options)
    write_result("training", options, rows, note=NOTE)


def _backbone(
    name: str, count: int, cases: Sequence[Case], folder: Path, options: Options
) -> list[dict[str, Any]]:
    slices = Discs(count)
    stores = {fmt: _fill(name, fmt, slices, folder) for fmt in sorted({c.fmt for c in cases} | {"float32"})}
    files = _publish(stores["float32"], slices, folder)
    rows = []
    for batch in (1, 8):
        published = options.cost(_published(name, files, batch, options), repeats=1)
        for case in tqdm(cases, f"{name}, batches of {batch}"):
            ours = options.cost(_ours(name, stores[case.fmt], batch, case, options), repeats=1)
            known = {"backbone": name, "batch_size": batch, **case._asdict(), "slices": count}
            rows.append({**known, **_compare(count, ours, published)})
    return rows


def _compare(count: int, ours: Cost, published: Cost) -> dict[str, float]:
    return {
        "samples_per_second": count / ours.seconds,
        "samples_per_second_published": count / published.seconds,
        "ratio": published.seconds / ours.seconds,
        "peak_mb": ours.peak_mb,
        "peak_mb_published": published.peak_mb,
    }


class Discs:
    """Stands in for the prepared slices of a task: one case, a disc in every slice."""

    def __init__(self, count: int):
        y, x = np.mgrid[:SIZE, :SIZE]
        disc = ((x - SIZE / 2) ** 2 + (y - SIZE / 2) ** 2 < (SIZE / 5) ** 2).astype(np.uint8)
        self.labels = np.repeat(disc[None], count, axis=0)

    def key(self, domain: str, case: str) -> str:
        """Return a name for the content of the case."""
        return case

    def load(self, domain: str, case: str) -> CaseSlices:
        """Return the case, its grey levels those of its labels."""
        made: Any = None  # neither spacing nor grid matters here
        return CaseSlices("discs", domain, case, self.labels, self.labels, (1.0, 1.0, 1.0), made)


def _fill(name: str, fmt: Format, slices: Discs, folder: Path) -> EmbeddingStore:
    """Write random maps as a store of embeddings holds them."""
    store = EmbeddingStore(folder, cast(SliceStore, slices), name, "random", fmt)
    spec = build_desam(name).spec
    generator = torch.Generator().manual_seed(0)
    widths = (spec.width, spec.width, spec.width, spec.neck)
    shape = (spec.grid, spec.grid)
    maps = [torch.randn(len(slices.labels), width, *shape, generator=generator) for width in widths]
    store.write("A", "discs", [ImageEmbeddings((maps[0], maps[1], maps[2]), maps[3])], len(slices.labels))
    return store


def _publish(store: EmbeddingStore, slices: Discs, folder: Path) -> list[Path]:
    """Write every slice as the published recipe does; its masks are a quarter of the model's square."""
    side = 4 * build_desam(store.identity["backbone"]).embedding_size
    paths = []
    for row, label in enumerate(tqdm(slices.labels, "writing npz")):
        maps = store.load("A", "discs", [row])
        mask = functional.interpolate(torch.from_numpy(label)[None, None].float(), (side, side))[0]
        arrays = {f"level{i}": level[0].numpy() for i, level in enumerate(maps.levels)}
        paths.append(folder / f"{row}.npz")
        np.savez_compressed(paths[-1], neck=maps.neck[0].numpy(), mask=mask.numpy(), **arrays)
    return paths


def _published(name: str, files: list[Path], batch: int, options: Options) -> Callable[[], None]:
    """Return an epoch of the published recipe."""
    model = build_desam(name, device=options.device).train()
    optimizer = torch.optim.Adam(model.trainable_parameters(), lr=1e-4)
    rng = np.random.default_rng(0)

    def epoch() -> None:
        order = rng.permutation(len(files))
        for start in range(0, len(order), batch):
            loaded = [np.load(files[row]) for row in order[start : start + batch]]
            names = ("level0", "level1", "level2", "neck", "mask")
            tensors = [
                torch.stack([torch.from_numpy(file[key]) for file in loaded]).to(options.device)
                for key in names
            ]
            loss = _published_loss(model, tensors, rng)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return epoch


def _published_loss(model: DeSAM, tensors: list[torch.Tensor], rng: np.random.Generator) -> torch.Tensor:
    level0, level1, level2, neck, mask = tensors
    inside = [int(rng.random() < 0.5) for _ in mask]
    places = [
        rng.choice(np.argwhere(m[0].cpu().numpy() == wanted)) for m, wanted in zip(mask, inside, strict=True)
    ]
    xy = torch.tensor(np.array(places)[:, None, ::-1].copy() * (model.image_size / mask.shape[-1]))
    prompts = Prompts.points(xy, torch.ones(len(mask), 1))
    logits, iou = model.decode(ImageEmbeddings((level0, level1, level2), neck), prompts)
    probability = logits.sigmoid()
    overlap, sizes = (probability * mask).sum((2, 3)), (probability**2 + mask**2).sum((2, 3))
    assert iou is not None
    judged = functional.l1_loss(iou, torch.tensor(inside, dtype=torch.float32, device=iou.device)[:, None])
    dice = 1 - (2 * overlap / sizes.clamp_min(1e-5)).mean()
    return dice + functional.binary_cross_entropy_with_logits(logits, mask) + judged


def _ours(name: str, store: EmbeddingStore, batch: int, case: Case, options: Options) -> Callable[[], None]:
    """Return an epoch of our loop."""
    fabric = make_fabric("gpu" if options.device.type == "cuda" else "cpu", precision=case.precision)
    method = DeSAMMethod(build_desam(name), "points", GridSettings())
    optimizer = torch.optim.Adam(method.parameters(), lr=1e-4)
    module, prepared = fabric.setup(method.module, optimizer)
    rows = store.slices.load("A", "discs").labels
    data = EmbeddingData(
        store,
        [SliceRef("A", "discs", row) for row in range(len(rows))],
        1,
        size=method.mask_size,
        square=method.input_size,
        device=options.device,
        placement=case.placement,
    )
    settings = TrainSettings(batch_size=batch)

    def epoch() -> None:
        with keep_freed_memory():
            train_epoch(method, module, prepared, data, settings, 0, fabric)

    return epoch


if __name__ == "__main__":
    main()
