"""Writes README.md beside it: each script, what it is to show, and the numbers of the recorded results.

python benchmarks/readme.py
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from desam_lite.files import write_text

HERE = Path(__file__).resolve().parent
Result = dict[str, Any]

HEAD = """# Benchmarks

Claims about speed and memory, each with the script that measures it and the result it recorded in `results/`. Numbers here are
read from these files by `readme.py`. Every script takes `--quick` (seconds, numbers without meaning; the tests run it), `--out`,
`--threads` and `--device`, and names its result after the device: there is a row per device that has been at hand.

| script | aim | command | result |
|---|---|---|---|
"""


def main() -> None:
    write_text(HERE / "README.md", text())


def text() -> str:
    """Return what the README should say."""
    return HEAD + "".join(_line(name) for name in sorted(AIMS)) + _where()


def _line(name: str) -> str:
    aim, tell = AIMS[name]
    found = [f"{tell(_read(path))} ({path.stem.split('-')[-1]})" for path in _files(name)]
    return f"| `{name}.py` | {aim} | `python benchmarks/{name}.py` | {'; '.join(found) or 'not recorded'} |\n"


def _where() -> str:
    lines = []
    for path in _files("*"):
        known = _read(path)
        commit = (known["code"]["commit"] or "none")[:8] + (" and changes" if known["code"]["dirty"] else "")
        lines.append(
            f"- `{path.name}`: {known['device']}, torch {known['libraries']['torch']}, commit {commit}\n"
        )
    return "\nRecorded on:\n\n" + "".join(lines) if lines else ""


def _files(name: str) -> list[Path]:
    return sorted((HERE / "results").glob(f"{name}-*.json"))


def _read(path: Path) -> Result:
    known: Result = json.loads(path.read_text())
    return known


def _inference(known: Result) -> str:
    rows = {(r["backbone"], r["points"]): r for r in known["rows"]}
    details = {(r["backbone"], r["points"]): r for r in known["details"]}
    said = []
    for backbone in dict.fromkeys(b for b, _ in rows):
        row, many = rows[backbone, 81], rows[backbone, 1024]
        shared = details[backbone, 81]["ratio_shared"]
        said.append(
            f"{backbone}: 81 points {row['ratio']:.3g} x ({row['seconds']:.3g} s), {shared:.3g} x where the exhaustive way "
            f"too computes the context once; 1024 points {many['seconds']:.3g} s, 81 exhaustively "
            f"{row['seconds_exhaustive']:.3g} s; peak {row['peak_mb']:.0f} MB at 81 and {many['peak_mb']:.0f} MB at 1024 points"
        )
    return "; ".join(said)


def _encoder(known: Result) -> str:
    return "; ".join(
        f"{r['backbone']} {r['format']}: {r['ratio']:.3g} x, {r['images_per_second']:.3g} images/s, peak {r['peak_mb']:.0f} MB "
        f"instead of {r['peak_mb_reference']:.0f} MB, {r['matrix_share']:.0%} of the matrix rate"
        for r in known["rows"]
    )


def _training(known: Result) -> str:
    said = []
    for backbone in dict.fromkeys(r["backbone"] for r in known["rows"]):
        for precision in ("32-true", "bf16-mixed"):
            ratios = [
                r["ratio"] for r in known["rows"] if (r["backbone"], r["precision"]) == (backbone, precision)
            ]
            if ratios:
                said.append(
                    f"{backbone} {precision}: {min(ratios):.3g} to {max(ratios):.3g} x over batches and stores"
                )
    return "; ".join(said)


def _sam_tiny(known: Result) -> str:
    values = {(r["weights"], r["part"], r["data"], r["measure"]): r["value"] for r in known["rows"]}

    def each(part: str, data: str, measure: str) -> str:
        found = [
            f"{values[w, part, data, measure]:.2f} ({w})"
            for w in ("shipped", "random", "pixels")
            if (w, part, data, measure) in values
        ]
        return ", ".join(found) or "not measured"

    stream, real = "held-out stream", "promise12_small"
    said = [
        f"held-out IoU, tight box {each('a', stream, 'IoU box')}, "
        f"the filled box itself {values['shipped', 'a', stream, 'IoU filled_box']:.2f}; "
        f"one point, best of three {each('a', stream, 'IoU best_of_three')}; eight clicks {each('a', stream, 'IoU clicks_8')}",
        f"real prostate at UCL, tight box: Dice {each('a', f'{real} UCL prostate', 'Dice box')}, "
        f"the filled box itself {values['shipped', 'a', f'{real} UCL prostate', 'Dice filled_box']:.2f}",
        f"agreement of contrasts, level 3: {each('b', stream, 'agreement level 3')}; "
        f"pixels {each('b', stream, 'agreement pixels')}",
        *(
            f"linear probe out of domain, {data}: Dice {each('c', data, 'Dice out of domain')}"
            for data in ("phantom_prostate", real)
        ),
        *(
            f"DeSAM-{mode} from {source}, out of domain: Dice {each('d', source, f'DeSAM-{mode} Dice out of domain, seed 0')}"
            for source in dict.fromkeys(r["data"] for r in known["rows"] if r["part"] == "d")
            for mode in "BP"
        ),
    ]
    return "; ".join(said)


AIMS: dict[str, tuple[str, Callable[[Result], str]]] = {
    "inference": (
        "a point grid at least 20 x sooner than drawing every mask, at 81 points with ViT-B on 2 cores; 1024 points sooner than "
        "81 exhaustively; memory that does not grow with the points",
        _inference,
    ),
    "encoder": ("at least 1.5 x segment-anything's own encoder on a CPU, 4 x on an H200 (ViT-H)", _encoder),
    "sam_tiny": (
        "held-out IoU over 0.80 with a tight box and 0.60 with one point (best of three), rising with clicks; real organs with a "
        "tight box: Dice over 0.80; a linear probe out of domain 0.15 Dice above a random encoder's; DeSAM out of domain better "
        "than on a random encoder",
        _sam_tiny,
    ),
    "training": ("at least 1.5 x the published recipe on 2 CPU cores, 10 x on an H200", _training),
}


if __name__ == "__main__":
    main()
