"""Bytes, writing, reading and decoding of stored embeddings, against the published way and against the machine's own file reads.

    python benchmarks/embeddings.py           # minutes on a CPU; --quick: seconds
    python benchmarks/embeddings.py --device cuda   # one minute, of ViT-H

Random numbers with the spread of features stand in for what the encoder gives; the note says how much either is compressed.
"""

import io
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast, get_args

import numpy as np
import torch
from common import Options, build_model, read_options, write_result
from tqdm import tqdm

from desam_lite.data.embedding_files import Format
from desam_lite.data.embeddings import AT_ONCE, EmbeddingStore, encode_on_demand, fill_store
from desam_lite.data.slices import CaseSlices, SliceStore
from desam_lite.model.build import build_desam
from desam_lite.model.prompts import ImageEmbeddings
from desam_lite.model.sam import BACKBONES

NOTE = (
    "Published way, written plainly: one compressed npz of float32 maps per slice (the public code's object arrays hold the "
    "same bytes but need pickle; masks are left out on both sides). read: batches of 8 slices drawn over all cases, through "
    "EmbeddingStore, into new memory; cold: after the files were dropped from the system's memory (posix_fadvise), "
    "as a first epoch; warm: again, as a second. raw: the same files from end to end in blocks of 8 MiB into one "
    "buffer. raw_random: blocks of one slice in the order of the batches. Medians over rounds in which the kinds take turns. "
    "decode: processor time from stored bits in memory to float32 maps, per slice; decode_gb_s: bits of that per second. "
    "rms_error: of normal numbers, over their standard deviation. real_share: npz over float32 for features that sam_tiny "
    "gives with random weights. end_to_end: images per second from slices to files (fill_store), of the encoder alone on the "
    "same slices, and of writing the maps alone; the slower of the two is the limit."
)
BATCH, CASES, BLOCK = 8, 4, 8 << 20
SIDE = 384  # of a slice, in pixels


class Layout(NamedTuple):
    """Shapes of a slice's maps."""

    backbone: str
    width: int
    neck: int
    grid: int

    def draw(self, count: int, generator: torch.Generator) -> ImageEmbeddings:
        """Return random maps of some slices."""
        sizes = (self.width, self.width, self.width, self.neck)
        first, second, third, neck = (
            torch.randn(count, size, self.grid, self.grid, generator=generator) for size in sizes
        )
        return ImageEmbeddings((first, second, third), neck)


def main() -> None:
    options = read_options(__doc__ or "")
    if options.quick:
        sizes, encoded, formats = {"sam_tiny": 16}, {"sam_tiny": 8}, get_args(Format)  # slices
    elif options.on_gpu:
        sizes, encoded, formats = {"vit_h": 16}, {"vit_h": 32, "vit_b": 64}, ("float16", "float8")
    else:
        sizes, encoded, formats = (
            {"sam_tiny": 512, "vit_b": 16},
            {"sam_tiny": 64, "vit_b": 8},
            get_args(Format),
        )
    rows: list[dict[str, Any]] = []
    end_to_end: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:  # /tmp may be memory
        for backbone, count in encoded.items():
            for fmt in formats if options.on_gpu else ("float16",):
                end_to_end.append(
                    _end_to_end(backbone, fmt, count, Path(folder) / f"{backbone}-{fmt}", options)
                )
                print(end_to_end[-1], flush=True)
                write_result("embeddings", options, rows, note=NOTE, end_to_end=end_to_end)
    for backbone, count in sizes.items():
        spec = BACKBONES[backbone]
        layout = Layout(backbone, spec.width, spec.neck, spec.grid)
        with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
            for row in _measure(layout, count, formats, Path(folder), options):
                rows.append(row)
                write_result(
                    "embeddings", options, rows, note=NOTE, end_to_end=end_to_end, real_share=_real_share()
                )


def _end_to_end(backbone: str, fmt: Format, count: int, folder: Path, options: Options) -> dict[str, Any]:
    """Return images per second from slices to files, and of both halves of that alone."""
    model = build_model(backbone, options)
    store = EmbeddingStore(folder, cast(SliceStore, Cases(count // CASES)), backbone, "random", fmt)
    images = [store.slices.load(*case).images for case in store.slices.cases()]

    def encode() -> ImageEmbeddings:
        for case in images:
            read = encode_on_demand(model, case, fmt)
            for start in range(0, len(case), AT_ONCE):
                maps = read(range(start, min(start + AT_ONCE, len(case))))
        return maps

    encode_on_demand(model, images[0], fmt)(range(min(AT_ONCE, len(images[0]))))  # warms up
    encoding = options.seconds(encode)
    whole = options.seconds(lambda: fill_store(store, model, progress=False))
    maps = encode().to(device=torch.device("cpu"))
    for case in store.slices.cases():
        store.path(*case).unlink()
    parts = [maps] * (len(images[0]) // len(maps))
    writing = options.seconds(
        lambda: [store.write(*case, parts, len(maps) * len(parts)) for case in store.slices.cases()]
    )
    written = len(maps) * len(parts) * len(images)
    return {
        "backbone": backbone,
        "fmt": fmt,
        "slices": count,
        "images_per_second": count / whole,
        "images_per_second_encoder": count / encoding,
        "images_per_second_writing": written / writing,
        "limit": "encoder" if encoding / count > writing / written else "writing",
    }


def _measure(
    layout: Layout, count: int, formats: Sequence[Format], folder: Path, options: Options
) -> Iterator[dict[str, Any]]:
    """Yield the row of each format."""
    published = _published(layout, folder / "npz", max(1, count // 64))
    for fmt in tqdm(formats, layout.backbone):
        store, written = _fill(layout, fmt, count, folder)
        files = [store.path("A", case) for _, case in store.slices.cases()]
        size = sum(path.stat().st_size for path in files) / count
        yield {
            "backbone": layout.backbone,
            "fmt": fmt,
            "slices": count,
            "bytes_per_slice": size,
            "bytes_over_float32": size / published["float32_bytes"],
            "bytes_over_npz": size / published["bytes"],
            "ratio": published["bytes"] / size,
            "write_mb_s": written,
            **_reads(store, files, count, rounds=1 if options.quick or options.on_gpu else 3),
            **_decode(layout, fmt),
            "rms_error": _error(layout, fmt),
            "published_bytes_per_slice": published["bytes"],
            "published_write_mb_s": published["write_mb_s"],
            "published_decode_cpu_ms": published["decode_cpu_ms"],
        }
        for path in files:
            path.unlink()


class Cases:
    """Stands in for the prepared slices of a task: cases by number, of so many slices of noise."""

    def __init__(self, slices: int):
        self.slices = slices

    def cases(self) -> list[tuple[str, str]]:
        """Return domain and name of each."""
        return [("A", str(number)) for number in range(CASES)]

    def key(self, domain: str, case: str) -> str:
        """Return a name for the content of a case."""
        return case

    def load(self, domain: str, case: str) -> CaseSlices:
        """Return a case, its labels those of its intensities."""
        noise = np.random.default_rng(int(case)).integers(0, 256, (self.slices, SIDE, SIDE), dtype=np.uint8)
        geometry: Any = None  # neither spacing nor grid matters here
        return CaseSlices("noise", domain, case, noise, noise, (1.0, 1.0, 1.0), geometry)


def _fill(layout: Layout, fmt: Format, count: int, folder: Path) -> tuple[EmbeddingStore, float]:
    """Write ``count`` slices; return the store, and the MB of it written per second (flushed to disk)."""
    store = EmbeddingStore(folder, cast(SliceStore, Cases(count // CASES)), layout.backbone, "random", fmt)
    batch = layout.draw(BATCH, torch.Generator().manual_seed(0))
    each = count // CASES
    start = time.perf_counter()
    for domain, case in store.slices.cases():
        store.write(
            domain, case, (batch[torch.arange(min(BATCH, each - at))] for at in range(0, each, BATCH)), each
        )
    seconds = time.perf_counter() - start
    return store, sum(store.path(*pair).stat().st_size for pair in store.slices.cases()) / seconds / 1e6


def _published(layout: Layout, folder: Path, count: int) -> dict[str, float]:
    """Write and read slices as the published recipe does."""
    folder.mkdir()
    maps = layout.draw(count, torch.Generator().manual_seed(0))
    start = time.perf_counter()
    for row in range(count):
        single = maps[row]
        arrays = {f"level{number}": level.numpy() for number, level in enumerate(single.levels)}
        np.savez_compressed(folder / f"{row}.npz", neck=single.neck.numpy(), **arrays)
    seconds = time.perf_counter() - start
    size = sum(path.stat().st_size for path in folder.iterdir()) / count
    contents = [io.BytesIO(path.read_bytes()) for path in folder.iterdir()]
    before = time.process_time()
    for content in contents:
        with np.load(content) as file:
            for name in file.files:
                torch.from_numpy(file[name])
    return {
        "bytes": size,
        "float32_bytes": 4 * sum(m[0].numel() for m in (*maps.levels, maps.neck)),
        "write_mb_s": size * count / seconds / 1e6,
        "decode_cpu_ms": (time.process_time() - before) / count * 1e3,
    }


def _reads(store: EmbeddingStore, files: list[Path], count: int, rounds: int) -> dict[str, float]:
    """Return GB/s of reading, ours and raw, cold and warm; the kinds take turns, as the machine may slow down."""
    each = count // CASES
    rng = np.random.default_rng(0)
    order = [("A", str(n // each), int(n % each)) for n in rng.permutation(each * CASES)]
    total = sum(path.stat().st_size for path in files)
    kinds: dict[str, Callable[[], None]] = {
        "raw": lambda: _read_whole(files),
        "raw_random": lambda: _read_blocks(store, order, total // len(order)),
        "read": lambda: _read_batches(store, order),
    }
    seconds: dict[str, list[float]] = {f"{name}_{state}": [] for name in kinds for state in ("cold", "warm")}
    for _ in range(rounds):
        for name, call in kinds.items():
            _forget(files)
            for state in ("cold", "warm"):
                start = time.perf_counter()
                call()
                seconds[f"{name}_{state}"].append(time.perf_counter() - start)
    rates = {f"{name}_gb_s": total / statistics.median(taken) / 1e9 for name, taken in seconds.items()}
    shares = {
        f"{state}_share_of_{raw}": statistics.median(
            r / o for r, o in zip(seconds[f"{raw}_{state}"], seconds[f"read_{state}"], strict=True)
        )
        for state in ("cold", "warm")
        for raw in ("raw", "raw_random")
    }
    return {**rates, **shares}


def _forget(files: list[Path]) -> None:
    """Drop files from the system's memory; they must not be mapped, so a new time makes the store open them anew."""
    from desam_lite.data.embedding_files import open_unchanged

    open_unchanged.cache_clear()
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _read_whole(files: list[Path]) -> None:
    buffer = memoryview(bytearray(BLOCK))
    for path in files:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def _read_blocks(store: EmbeddingStore, order: list[tuple[str, str, int]], size: int) -> None:
    buffer = memoryview(bytearray(size))
    opened = {case: store.path("A", case).open("rb", buffering=0) for _, case in store.slices.cases()}
    for _, case, row in order:
        opened[case].seek(row * size)
        opened[case].readinto(buffer)
    for file in opened.values():
        file.close()


def _read_batches(store: EmbeddingStore, order: list[tuple[str, str, int]]) -> None:
    for start in range(0, len(order), BATCH):
        store.load_slices(order[start : start + BATCH])


def _decode(layout: Layout, fmt: Format) -> dict[str, float]:
    """Return processor milliseconds per slice from stored bits in memory to float32 maps, and MB of bits that is per second."""
    from desam_lite.data.embedding_files import from_stored, to_stored

    stored = to_stored(layout.draw(BATCH, torch.Generator().manual_seed(0)), fmt)
    times = []
    for _ in range(7):
        before = time.process_time()
        from_stored(stored).to(dtype=torch.float32)
        times.append((time.process_time() - before) / BATCH)
    seconds = statistics.median(times)
    size = sum(values[0].nbytes for values in stored.values())
    return {"decode_cpu_ms": seconds * 1e3, "decode_gb_s": size / max(seconds, 1e-9) / 1e9}


def _error(layout: Layout, fmt: Format) -> float:
    from desam_lite.data.embedding_files import as_stored

    maps = layout.draw(1, torch.Generator().manual_seed(1))
    stored = as_stored(maps, fmt)
    return float((stored.neck.float() - maps.neck).pow(2).mean().sqrt() / maps.neck.std())


@torch.no_grad()
def _real_share() -> float:
    """Return how far npz compresses features that an encoder gives of a picture."""
    model = build_desam("sam_tiny")
    side = model.image_size
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    noise = torch.randn(3, side, side, generator=torch.Generator().manual_seed(0)) / 10
    disc = ((x - side / 2) ** 2 + (y - side / 2) ** 2 < (side / 4) ** 2).float() + noise
    maps = model.encode(disc[None])
    packed = io.BytesIO()
    named = {str(number): m[0].numpy() for number, m in enumerate((*maps.levels, maps.neck))}
    np.savez_compressed(packed, **named)
    return packed.tell() / sum(m.nbytes for m in named.values())


if __name__ == "__main__":
    main()
