"""Samples per second and peak memory of training the decoder, data loading included, against the published recipe.

    python benchmarks/training.py             # four minutes on a CPU, one on a GPU (ViT-H there); --quick: seconds

Random weights, random embeddings and discs as masks: none changes the work. Random numbers compress as badly as features do.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from common import Cost, Options, build_model, read_options, shares_by_operation, write_result
from torch.nn import functional
from tqdm import tqdm

from desam_lite.data.datasets import EmbeddingData, Placement, SliceRef
from desam_lite.data.embedding_files import Format
from desam_lite.data.embeddings import EmbeddingStore
from desam_lite.data.slices import CaseSlices, SliceStore
from desam_lite.methods.desam import DeSAMMethod
from desam_lite.model.desam import DeSAM
from desam_lite.model.names import AutomaticMode
from desam_lite.model.predictor import GridSettings
from desam_lite.model.prompts import ImageEmbeddings, Prompts
from desam_lite.model.sam import get_backbone
from desam_lite.training.devices import make_fabric
from desam_lite.training.loop import TrainSettings, train_epoch
from desam_lite.utils.memory import keep_freed_memory

NOTE = (
    "One epoch over the slices, batches read, steps taken. The published recipe, written plainly: one "
    "compressed npz of float32 maps per slice, read for every batch in the process that trains, one prompt"
    " per sample, Dice + cross-entropy + L1, Adam, float32. (The public code puts its arrays into object "
    "arrays; these need pickle, and are left out in its favour.) held: the same step on batches that are on "
    "the device already, without any reading. Ours is the loop of desam_lite.training.loop."
    " float32 as torch has it: on a GPU the convolutions of both sides are then in TF32."
    " format and placement: of our embeddings; precision: Fabric's; ratio: to the published recipe with its "
    "reading; ratio_held: without. profile: share of an epoch of ours by operation, in the first row."
)
SIZE = 384  # side of the slices, in pixels
PUBLISHED_BATCH = 8
Batch = tuple[torch.Tensor, list[torch.Tensor]]
"""Masks in memory, and the maps of three levels and the neck."""


class Case(NamedTuple):
    """One way to train that is measured."""

    mode: AutomaticMode
    fmt: Format
    placement: Placement
    precision: str


CASES = (
    Case("points", "float32", "disk", "32-true"),
    Case("points", "float16", "disk", "32-true"),
    Case("points", "float16", "memory", "32-true"),
    Case("points", "float16", "memory", "bf16-mixed"),
)
GPU_CASES = (
    Case("points", "float16", "device", "bf16-mixed"),
    Case("points", "float16", "disk", "bf16-mixed"),
    Case("points", "float16", "device", "32-true"),
    Case("box", "float16", "device", "bf16-mixed"),
    Case("box", "float16", "disk", "bf16-mixed"),
)
QUICK_CASES = (CASES[2], Case("box", "float16", "device", "bf16-mixed"))


def main() -> None:
    options = read_options(__doc__ or "")
    if options.quick:
        sizes, cases, batches = {"sam_tiny": 4}, QUICK_CASES, (2,)  # slices of each backbone
    elif options.on_gpu:
        sizes, cases, batches = {"vit_h": 2 * PUBLISHED_BATCH}, GPU_CASES, (PUBLISHED_BATCH,)
    else:
        sizes, cases, batches = {"sam_tiny": 32, "vit_b": 8}, CASES, (1, PUBLISHED_BATCH)
    rows: list[dict[str, Any]] = []
    profiles: dict[str, dict[str, float]] = {}
    for backbone, count in sizes.items():
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(backbone, count, cases, Path(folder), options)
            for batch in batches:
                for row, epoch in bench.measure(batch):
                    rows.append(row)
                    write_result("training", options, rows, profile=profiles, note=NOTE)
                    if not profiles and (options.on_gpu or options.quick):
                        name = f"{backbone} {row['mode']} {row['precision']} from {row['placement']}"
                        profiles[name] = shares_by_operation(epoch, options)
    write_result("training", options, rows, profile=profiles, note=NOTE)


class Bench:
    """The data of one backbone, ours and the published way's.

    Args:
        backbone: Its name.
        count: Slices.
        cases: Ways of ours to measure.
        folder: Where the data are written.
        options: Of the benchmark.
    """

    def __init__(self, backbone: str, count: int, cases: Sequence[Case], folder: Path, options: Options):
        self.backbone, self.cases, self.options = backbone, cases, options
        self.slices = Discs(count)
        formats = sorted({case.fmt for case in cases} | {"float32"})
        self.stores = {fmt: _fill(backbone, fmt, self.slices, folder) for fmt in formats}
        self.files = _publish(self.stores["float32"], self.slices, folder)

    def measure(self, batch: int) -> Iterator[tuple[dict[str, Any], Callable[[], None]]]:
        """Yield the row of each case, and an epoch of ours."""
        count, options = len(self.files), self.options
        repeats = 5 if options.on_gpu else 1
        published: dict[AutomaticMode, tuple[Cost, Cost]] = {}
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            opened = list(pool.map(_open, self.files))
        read = [_stack(opened[start : start + batch]) for start in range(0, count, batch)]
        maps = [(mask, _move(levels, options)) for mask, levels in read]
        for case in tqdm(self.cases, f"{self.backbone}, batches of {batch}"):
            if case.mode not in published:
                plain = PublishedTraining(self.backbone, self.files, batch, case.mode, options)
                held = options.cost(lambda p=plain: p.epoch_held(maps), repeats=repeats)
                # Its steps are warm by now, and its reading takes so long that once is enough on a GPU.
                published[case.mode] = options.cost(plain.epoch, repeats=0 if options.on_gpu else 1), held
            reading, held = published[case.mode]
            epoch = _ours(self.backbone, self.stores[case.fmt], batch, case, options)
            ours = options.cost(epoch, repeats=repeats)
            row = {
                "backbone": self.backbone,
                "batch_size": batch,
                **case._asdict(),
                "slices": count,
                "samples_per_second": count / ours.seconds,
                "samples_per_second_published": count / reading.seconds,
                "samples_per_second_held": count / held.seconds,
                "ratio": reading.seconds / ours.seconds,
                "ratio_held": held.seconds / ours.seconds,
                "peak_mb": ours.peak_mb,
                "peak_mb_published": reading.peak_mb,
            }
            yield row, epoch


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
        geometry: Any = None  # neither spacing nor grid matters here
        return CaseSlices("discs", domain, case, self.labels, self.labels, (1.0, 1.0, 1.0), geometry)


def _fill(backbone: str, fmt: Format, slices: Discs, folder: Path) -> EmbeddingStore:
    """Write random maps as a store of embeddings holds them, some at once."""
    store = EmbeddingStore(folder, cast(SliceStore, slices), backbone, "random", fmt)
    spec = get_backbone(backbone)
    widths = (spec.width, spec.width, spec.width, spec.neck)
    generator = torch.Generator().manual_seed(0)

    first, second, third, neck = (
        torch.randn(PUBLISHED_BATCH, width, spec.grid, spec.grid, generator=generator) for width in widths
    )
    drawn = ImageEmbeddings(
        (first, second, third), neck
    )  # for all batches: drawing takes longer than training

    def batches() -> Iterator[ImageEmbeddings]:
        for start in range(0, len(slices.labels), PUBLISHED_BATCH):
            yield drawn[torch.arange(min(PUBLISHED_BATCH, len(slices.labels) - start))]

    store.write("A", "discs", batches(), len(slices.labels))
    return store


def _publish(store: EmbeddingStore, slices: Discs, folder: Path) -> list[Path]:
    """Write every slice as the published recipe does; its masks are a quarter of the model's square."""
    side = 4 * get_backbone(store.identity["backbone"]).grid

    def write(row: int) -> Path:
        maps = store.load("A", "discs", [row])
        label = torch.from_numpy(slices.labels[row])[None, None].float()
        mask = functional.interpolate(label, (side, side))[0]
        arrays = {f"level{i}": level[0].numpy() for i, level in enumerate(maps.levels)}
        path = folder / f"{row}.npz"
        np.savez_compressed(path, neck=maps.neck[0].numpy(), mask=mask.numpy(), **arrays)
        return path

    with ThreadPoolExecutor(
        torch.get_num_threads()
    ) as pool:  # compression runs outside the interpreter's lock
        return list(pool.map(write, range(len(slices.labels))))


class PublishedTraining:
    """The published recipe on a model of its own.

    Args:
        backbone: Its name.
        files: One npz per slice.
        batch: Slices per step.
        mode: What the prompt is.
        options: Of the benchmark.
    """

    def __init__(self, backbone: str, files: list[Path], batch: int, mode: AutomaticMode, options: Options):
        self.files, self.batch, self.mode, self.options = files, batch, mode, options
        self.model = build_model(backbone, options).train()
        self.optimizer = torch.optim.Adam([p for p in self.model.parameters() if p.requires_grad], lr=1e-4)
        self.rng = np.random.default_rng(0)

    def epoch(self) -> None:
        """Read every batch and take its step."""
        order = self.rng.permutation(len(self.files)).tolist()
        for mask, maps in _read(self.files, order, self.batch):
            self._step(mask, _move(maps, self.options))

    def epoch_held(self, batches: list[Batch]) -> None:
        """Take the steps of batches that are on the device."""
        for mask, maps in batches:
            self._step(mask, maps)

    def _step(self, mask: torch.Tensor, maps: list[torch.Tensor]) -> None:
        loss = _published_loss(self.model, mask, maps, self.mode, self.rng)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def _read(files: Sequence[Path], order: Sequence[int], batch: int) -> Iterator[Batch]:
    """Read files as the published recipe does, in this order."""
    for start in range(0, len(order), batch):
        yield _stack([_open(files[row]) for row in order[start : start + batch]])


def _open(path: Path) -> list[torch.Tensor]:
    with np.load(path) as file:
        return [torch.from_numpy(file[name]) for name in ("mask", "level0", "level1", "level2", "neck")]


def _stack(opened: list[list[torch.Tensor]]) -> Batch:
    mask, *maps = (torch.stack(parts) for parts in zip(*opened, strict=True))
    return mask, maps


def _move(maps: list[torch.Tensor], options: Options) -> list[torch.Tensor]:
    return [level.to(options.device) for level in maps]


def _published_loss(
    model: DeSAM, mask: torch.Tensor, maps: list[torch.Tensor], mode: AutomaticMode, rng: np.random.Generator
) -> torch.Tensor:
    """Return the loss on masks ``(B, 1, h, w)`` in memory and maps on the device."""
    level0, level1, level2, neck = maps
    inside = [int(rng.random() < 0.5) for _ in mask]
    if mode == "points":
        places = [rng.choice(np.argwhere(m[0].numpy() == side)) for m, side in zip(mask, inside, strict=True)]
        xy = torch.tensor(np.array(places)[:, None, ::-1].copy() * (model.image_size / mask.shape[-1]))
        prompts = Prompts.points(xy, torch.ones(len(mask), 1))
    else:
        prompts = Prompts.whole_image(len(mask))
    target = mask.to(neck.device)
    logits, iou = model.decode(ImageEmbeddings((level0, level1, level2), neck), prompts)
    probability = logits.sigmoid()
    overlap, sizes = (probability * target).sum((2, 3)), (probability**2 + target**2).sum((2, 3))
    dice = 1 - (2 * overlap / sizes.clamp_min(1e-5)).mean()
    loss = dice + functional.binary_cross_entropy_with_logits(logits, target)
    if mode == "points":
        assert iou is not None
        aim = torch.tensor(inside, dtype=torch.float32, device=iou.device)[:, None]
        loss = loss + functional.l1_loss(iou, aim)
    return loss


def _ours(
    backbone: str, store: EmbeddingStore, batch: int, case: Case, options: Options
) -> Callable[[], None]:
    """Return an epoch of our loop."""
    fabric = make_fabric("gpu" if options.device.type == "cuda" else "cpu", precision=case.precision)
    method = DeSAMMethod(build_model(backbone, options), case.mode, GridSettings())
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
