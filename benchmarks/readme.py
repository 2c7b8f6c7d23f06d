"""Writes README.md beside it: each script, what it is to show, and the numbers of the recorded results.

python benchmarks/readme.py
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from desam_lite.study.report.benchmark_tables import (
    method_rows,
    say_methods,
    say_slices,
    slices_rows,
    tuning_rows,
)
from desam_lite.utils.files import write_text

HERE = Path(__file__).resolve().parent
REHEARSAL = "rehearsal.json"
Result = dict[str, Any]

HEAD = """# Benchmarks

Claims about speed and memory, each with the script that measures it and the result it recorded in `results/`. Numbers here are
read from these files by `readme.py`. Every script takes `--quick` (seconds to minutes, numbers without meaning; the tests run all
but those of `embedding_dice.py`, `graph.py` and `sam_tiny.py`), `--out`, `--threads` and `--device`, and names its result after
the device: there is a row per device that has been at hand.

| script | aim | command | result |
|---|---|---|---|
"""


def main() -> None:
    write_text(HERE / "README.md", text())


def text() -> str:
    """Return what the README should say."""
    return (
        HEAD
        + "".join(_line(name) for name in sorted(AIMS))
        + _gpu()
        + _study_tables()
        + _method_tables()
        + _slices_tables()
        + _where()
    )


def _line(name: str) -> str:
    aim, tell = AIMS[name]
    results = [f"{tell(_read(path))} ({path.stem.split('-')[-1]})" for path in _files(name)]
    return (
        f"| `{name}.py` | {aim} | `python benchmarks/{name}.py` | {'; '.join(results) or 'not recorded'} |\n"
    )


def _gpu() -> str:
    """Return what the GPU gave, or that there was none."""
    head = (
        "\n## On a GPU\n\n`make gpu` (`bash benchmarks/gpu.sh` where nothing can be installed) runs all of it in under nine "
        "minutes.\n"
    )
    sessions = [_read(path) for path in _files("gpu")]
    if not sessions:
        rehearsal = _read(HERE / REHEARSAL)
        passed = sum(step["outcome"] == "passed" for step in rehearsal["steps"])
        return (
            f"{head}**Not run on a GPU**: none has been at hand. Rehearsed at tiny size on {rehearsal['device']} (torch "
            f"{rehearsal['libraries']['torch']}): {passed} of {len(rehearsal['steps'])} steps passed, "
            f"{rehearsal['seconds']:.0f} s; the tests repeat that. Until then GPU hours are estimates, wherever they are given.\n"
        )
    return head + "".join(map(_steps, sessions))


def _steps(session: Result) -> str:
    tests = [row["outcome"] for row in session["tests"]]
    head = f"\n{session['device']}: {tests.count('passed')} of {len(tests)} GPU tests passed.\n\n"
    rows = (f"| {s['name']} | {s['outcome']} | {s['seconds']:.0f} |\n" for s in session["steps"])
    return f"{head}| step | outcome | seconds |\n|---|---|---|\n{''.join(rows)}"


def _where() -> str:
    lines = []
    for path in _files("*"):
        record = _read(path)
        commit = (record["code"]["commit"] or "none")[:8] + (
            " and changes" if record["code"]["dirty"] else ""
        )
        lines.append(
            f"- `{path.name}`: {record['device']}, torch {record['libraries']['torch']}, commit {commit}\n"
        )
    return "\n## Recorded on\n\n" + "".join(lines) if lines else ""


def _files(name: str) -> list[Path]:
    return sorted((HERE / "results").glob(f"{name}-*.json"))


def _read(path: Path) -> Result:
    record: Result = json.loads(path.read_text())
    return record


def _inference(record: Result) -> str:
    rows = {(r["backbone"], r["points"]): r for r in record["rows"]}
    details = {(r["backbone"], r["points"]): r for r in record["details"]}
    parts = []
    for backbone in dict.fromkeys(b for b, _ in rows):
        row, many = rows[backbone, 81], rows.get((backbone, 1024))
        detail = details[backbone, 81]
        text = (
            f"{backbone}: 81 points {row['ratio']:.3g} x ({row['seconds']:.3g} s), {detail['ratio_shared']:.3g} x where the "
            f"exhaustive way too computes the context once"
        )
        if "pixels_different" in detail:
            text += f", {detail['pixels_different']} pixels of the mask differ"
        if many is not None:  # a time limit may have come before
            text += (
                f"; 1024 points {many['seconds']:.3g} s, 81 exhaustively {row['seconds_exhaustive']:.3g} s; peak "
                f"{row['peak_mb']:.0f} MB at 81 and {many['peak_mb']:.0f} MB at 1024 points"
            )
        parts.append(text)
    return "; ".join(parts)


def _encoder(record: Result) -> str:
    rows = "; ".join(
        f"{r['backbone']} {r['format']}: {r['ratio']:.3g} x{_to_float32(r)}, {r['images_per_second']:.3g} images/s, peak "
        f"{r['peak_mb']:.0f} MB instead of {r['peak_mb_reference']:.0f} MB, {r['matrix_share']:.0%} of the matrix rate"
        for r in record["rows"]
    )
    past = (
        f"; before, at commit {e['code']['commit'][:8]}: {_encoder(e)}" for e in record.get("earlier", [])
    )
    return rows + "".join(past)


def _to_float32(row: Result) -> str:
    ratio = row.get("ratio_to_float32")
    return "" if ratio is None or row["format"] == "float32" else f" ({ratio:.3g} x the reference in float32)"


def _training(record: Result) -> str:
    parts = []
    for backbone in dict.fromkeys(r["backbone"] for r in record["rows"]):
        for precision in ("32-true", "bf16-mixed"):
            ratios = [
                r["ratio"] for r in record["rows"] if (r["backbone"], r["precision"]) == (backbone, precision)
            ]
            if ratios:
                text = f"{backbone} {precision}: {min(ratios):.3g} to {max(ratios):.3g} x over batches and stores"
                held = [
                    r["ratio_held"]
                    for r in record["rows"]
                    if (r["backbone"], r["precision"], r["placement"]) == (backbone, precision, "device")
                ]
                parts.append(
                    text + (f", {min(held):.3g} to {max(held):.3g} x without any reading" if held else "")
                )
    return "; ".join(parts)


def _embeddings(record: Result) -> str:
    return (
        "; ".join(
            f"{r['backbone']} {r['fmt']}: {r['bytes_over_float32']:.3g} of the bytes of float32, {r['bytes_over_npz']:.3g} of "
            f"the published npz; reads cold {r['read_cold_gb_s']:.2g} GB/s ({r['cold_share_of_raw']:.0%} of whole files, "
            f"{r['cold_share_of_raw_random']:.0%} of the same slices raw), warm {r['read_warm_gb_s']:.2g} GB/s "
            f"({r['warm_share_of_raw']:.0%}, {r['warm_share_of_raw_random']:.0%}); decoded in {r['decode_cpu_ms']:.2g} ms "
            f"a slice instead of {r['published_decode_cpu_ms']:.3g}"
            for r in record["rows"]
            if r["fmt"] in ("bfloat16", "float8")
        )
        + "".join(
            f"; {r['backbone']} {r['fmt']} end to end {r['images_per_second']:.3g} images/s, limited by the {r['limit']}"
            for r in record.get("end_to_end", [])
        )
        + f"; machine's load before: {record['load_before']:.2g}"
    )


def _embedding_dice(record: Result) -> str:
    return "; ".join(
        f"{r['task']} {r['fmt']}: {r['dice_targets']:.3g} on the targets, {r['difference_targets']:+.2g} to float32 (95 % "
        f"{r['difference_low']:+.2g} to {r['difference_high']:+.2g}, {r['target_cases']} cases, {r['seeds']} seeds)"
        for r in record["rows"]
        if r["fmt"] != "float32"
    )


def _attention(record: Result) -> str:
    parts = []
    for kind in dict.fromkeys(row["kind"] for row in record["rows"]):
        rows = [r for r in record["rows"] if r["kind"] == kind and r["ms"] is not None]
        rows.sort(key=lambda row: row["ms"])
        parts.append(f"{kind}: " + ", ".join(f"{row['way']} {row['ms']:.3g} ms" for row in rows))
    return "; ".join(parts)


def _pretrain(record: Result) -> str:
    rates = [f"{r['images_per_second']:.3g} images/s of {r['side']} pixels" for r in record["rows"]]
    run = record.get("run")
    return "; ".join(rates) + (
        "" if run is None else f"; a run of {run['images']} images at {run['images_per_second']:.3g}/s"
    )


def _phantoms(record: Result) -> str:
    parts = []
    for task in dict.fromkeys(r["task"] for r in record["rows"]):
        rows = [r for r in record["rows"] if r["task"] == task]
        seconds, ratios = [r["slowest"] for r in rows], [r["ratio"] for r in rows]
        parts.append(
            f"{task}: slowest volume {max(seconds):.2g} s ({record['clock']} clock), {min(ratios):.2g} to "
            f"{max(ratios):.2g} x sooner than on the whole grid, peak {max(r['peak_mb'] for r in rows):.0f} MB"
        )
    return "; ".join(parts)


def _phantom_gap(record: Result) -> str:
    means = {(r["task"], r["label"], r["in_domain"]): r["dice"] for r in record["averages"]}
    each = dict.fromkeys((task, label) for task, label, _ in means)
    return "; ".join(
        f"{task} {label} {means[task, label, True]:.2f} in, {means[task, label, False]:.2f} out of domain"
        for task, label in each
    )


def _sam_tiny(record: Result) -> str:
    values = {(r["weights"], r["part"], r["data"], r["measure"]): r["value"] for r in record["rows"]}

    def each(part: str, data: str, measure: str) -> str:
        results = [
            f"{values[w, part, data, measure]:.2f} ({w})"
            for w in ("shipped", "random", "pixels")
            if (w, part, data, measure) in values
        ]
        return ", ".join(results) or "not measured"

    stream, real = "held-out stream", "promise12_small"
    parts = [
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
        *_trained_on(record),
    ]
    return "; ".join(parts)


def _trained_on(record: Result) -> list[str]:
    """Say what was trained on each encoder, out of domain, as the mean and the range over seeds."""
    results: dict[tuple[str, str], dict[str, list[float]]] = {}
    for row in record["rows"]:
        label, inside, _ = row["measure"].partition(" Dice out of domain")
        if row["part"] == "d" and inside:
            results.setdefault((row["data"], label), {}).setdefault(row["weights"], []).append(row["value"])
    return [
        f"{label} out of domain, {data}: Dice "
        + ", ".join(
            f"{sum(values) / len(values):.2f} (on {weights}, {len(values)} seeds from {min(values):.2f} to {max(values):.2f})"
            for weights, values in each.items()
        )
        for (data, label), each in results.items()
    ]


def _methods(record: Result) -> str:
    parts = []
    for settings in record["settings"]:
        away = {
            r["label"]: r["dice"]
            for r in record["averages"]
            if r["task"] == settings["task"] and not r["in_domain"]
        }
        named = ", ".join(f"{label} {away[label]:.2f}" for label in ("DeSAM-B", "DeSAM-P", "U-Net", "Prior"))
        parts.append(f"{settings['task']}, {len(settings['seeds'])} seeds, out of domain: {named}")
    return f"{'; '.join(parts)} (all: below)"


def _method_tables() -> str:
    """Return a table of all methods for each task."""
    return "".join(
        _method_table(record, settings["task"])
        for record in map(_read, _files("methods"))
        for settings in record["settings"]
    )


def _all_slices(record: Result) -> str:
    rows = [r for r in record["rows"] if r["protocol"] == "whole_volume" and not r["in_domain"]]
    each = ", ".join(f"{row['label'].replace(', ', ' + ')} {row['dice']:.2f}" for row in rows)
    return f"whole volume, out of domain: {each} (below)"


def _slices_tables() -> str:
    """Return what training on all slices gives."""
    return "".join(
        f"\n## Trained on all slices\n\n{say_slices(record)}.\n\n{_markdown(slices_rows(record))}"
        for record in map(_read, _files("all_slices"))
    )


def _tuning(record: Result) -> str:
    frame = tuning_rows(pd.DataFrame(record["rows"]))
    chosen = (frame["chosen rate"] != "not all tried yet").sum()
    return f"{chosen} of {len(frame)} methods tried with all three (below)"


def _study_cost(record: Result) -> str:
    longest = max(record["rows"], key=lambda row: row["hours"])
    assumed = sum(row["assumed"] for row in record["rows"])
    return (
        f"{record['hours']:.0f} core hours, of which {longest['label']} {longest['hours']:.0f}; the epochs of {assumed} of "
        f"{len(record['rows'])} methods are assumed (below)"
    )


def _study_tables() -> str:
    """Return what was tried of learning rates, and what each method of the study costs."""
    tables = [
        ("Learning rates tried", tuning_rows(pd.DataFrame(_read(path)["rows"]))) for path in _files("tuning")
    ]
    for path in _files("study_cost"):
        frame = pd.DataFrame(_read(path)["rows"])[["label", "epochs", "minutes", "hours"]]
        tables.append(("What the kept study costs", frame.round(1).astype(str)))
    return "".join(f"\n## {title}\n\n{_markdown(frame)}" for title, frame in tables)


def _markdown(frame: pd.DataFrame) -> str:
    lines = [list(frame.columns), ["---"] * len(frame.columns), *frame.to_numpy().tolist()]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _method_table(record: Result, task: str) -> str:
    rows = _markdown(method_rows(record, task))
    return f"\n## All methods on {task}\n\n{say_methods(record, task)}.\n\n{rows}"


def _graph(record: Result) -> str:
    rows = {r["case"]: r for r in record["rows"]}
    whole, idle = rows["cold and cached"], rows["nothing to do"]
    parts = [
        f"{whole['runs']:.0f} small runs and their page: graph {whole['seconds_graph']:.3g} s, of which the page "
        f"{whole['seconds_of_which_page']:.3g} s, a loop over the runs alone {whole['seconds_loop']:.3g} s; again "
        f"{whole['seconds_cached']:.2g} s",
        f"nothing to do with {idle['runs']:.0f} finished runs {idle['seconds']:.2g} s",
        f"a job that fails at once {rows['job']['seconds']:.2g} s",
    ]
    return "; ".join(parts) + f"; machine's load before: {record['load_before']:.2g}"


def _public_code(record: Result) -> str:
    effects = [f"{r['name']} {_points(r)}" for r in record["effects"]]
    losses = [f"{r['name']} {_points(r)}" for r in record["choice"]]
    return (
        f"on the targets, the public way minus the other: {'; '.join(effects)}; on the source's validation, Dice alone minus "
        f"Dice + cross-entropy: {'; '.join(losses)}"
    )


def _points(row: Result) -> str:
    ends = "" if row["low"] is None else f" ({100 * row['low']:+.1f} to {100 * row['high']:+.1f})"
    return f"{100 * row['mean']:+.1f}{ends} points, {row['seeds']} seeds, {row['verdict']}"


def _decision_rule(record: Result) -> str:
    parts = []
    for seeds in dict.fromkeys(r["seeds"] for r in record["rows"]):
        rows = [r for r in record["rows"] if r["seeds"] == seeds]
        least, most = min(r["coverage"] for r in rows), max(r["false_alarms"] for r in rows)
        before = min(r["coverage_bootstrap"] for r in rows)
        parts.append(
            f"{seeds} seeds: coverage {least:.1%} or more, false alarms {most:.1%} or less (a percentile bootstrap: {before:.0%})"
        )
    return "; ".join(parts)


AIMS: dict[str, tuple[str, Callable[[Result], str]]] = {
    "decision_rule": (
        "on simulated studies the 95 % interval covers at least 93 % and 'better' or 'worse' is a false alarm in at most 5 %",
        _decision_rule,
    ),
    "inference": (
        "a point grid at least 20 x sooner than drawing every mask, at 81 points with ViT-B on 2 cores; 1024 points sooner than "
        "81 exhaustively; memory that does not grow with the points",
        _inference,
    ),
    "encoder": (
        "at least 1.5 x segment-anything's own encoder on a CPU; on a GPU ViT-H in bfloat16 4 x its float32 and over 40 % of the "
        "matrix rate",
        _encoder,
    ),
    "attention": ("which of the equal ways of attention a GPU is fastest with", _attention),
    "embeddings": (
        "half of the published bytes in bfloat16 and a quarter in float8; reads at over 70 % of the machine's own file reads",
        _embeddings,
    ),
    "embedding_dice": ("Dice with float8 and the 16-bit formats, against float32", _embedding_dice),
    "tuning": ("three learning rates a method, chosen on the validation of source A alone", _tuning),
    "study_cost": ("core hours of the kept study, method by method", _study_cost),
    "graph": (
        "a no-op under 5 s with 500 finished runs; a job of a second does not import for ten",
        _graph,
    ),
    "all_slices": (
        "on real prostates, Dice of DeSAM trained on slices with an organ and on all, with and without a clean-up of the mask",
        _all_slices,
    ),
    "methods": ("Dice of every method and both controls in and out of domain, over three seeds", _methods),
    "phantom_gap": (
        "Dice between the synthetic hospitals: a U-Net above 0.85 in and between 0.4 and 0.7 out of domain, below 0.85 with "
        "augmentation; the prior at most as on real sites (0.54)",
        _phantom_gap,
    ),
    "phantoms": ("a synthetic volume in under 2 s on one core", _phantoms),
    "pretrain": ("`sam_tiny` trained on at least 1,000 synthetic images a second on a GPU", _pretrain),
    "public_code": (
        "Dice with each way of the public code and without, at the seeds of the rule; the mask loss that the source's validation "
        "prefers",
        _public_code,
    ),
    "sam_tiny": (
        "held-out IoU over 0.80 with a tight box and 0.60 with one point (best of three), rising with clicks; real organs with a "
        "tight box: Dice over 0.80; a linear probe out of domain 0.15 Dice above a random encoder's; DeSAM out of domain better "
        "than on a random encoder",
        _sam_tiny,
    ),
    "training": ("at least 1.5 x the published recipe on 2 CPU cores, 10 x on a GPU (ViT-H)", _training),
}


if __name__ == "__main__":
    main()
