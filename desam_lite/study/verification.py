"""Does a repetition of the study agree with the kept one? Which runs to repeat, how they are paired, and the verdict in words.

The statistics are those of `desam_lite.evaluation.equivalence`. On the whole the two agree if no average of a method differs, no
verdict between two methods is reversed, and of each task the average over all methods agrees, or most of the single ones do.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from desam_lite.data.manifest import load_manifest
from desam_lite.evaluation.equivalence import (
    EVERY,
    Outcome,
    check_averages,
    check_verdicts,
    pair_cases,
    run_averages,
)
from desam_lite.evaluation.statistics import MARGINS
from desam_lite.methods.registry import METHODS
from desam_lite.study.kept import KeptStudy
from desam_lite.study.run import Run, open_run
from desam_lite.utils.errors import StudyError

QUICK_MINUTES = 12.0
"""Of one core, that the runs of a quick verification took when they were kept: six on two; data and embeddings take the rest."""
MOST = 0.75
"""Share of a task's averages that must agree where one cannot tell that over all methods, as a few runs ended elsewhere."""
_SHOWN, _MOST_RUNS = 10, 1000  # averages of an outcome that are listed; runs that nobody would repeat


def choose_quick(kept: KeptStudy, minutes: float = QUICK_MINUTES) -> list[str]:
    """Choose few runs to repeat: of each task and method the cheapest, as long as all together take no more than so many minutes.

    Methods with the most runs, on which verdicts turn, come first, then the cheapest. Only runs on synthetic scans are chosen,
    which anyone can make.
    """
    specs = dict(zip(kept.names, kept.specs, strict=True))
    costs = {name: sum(kept.info(name).get("minutes", {}).values()) for name in specs}
    synthetic = {path: load_manifest(path).synthetic for path in {spec.manifest for spec in specs.values()}}
    counts = Counter((spec.manifest, spec.label) for spec in specs.values())

    def order(name: str) -> tuple[int, float, str]:
        return -counts[specs[name].manifest, specs[name].label], costs[name], name

    chosen: dict[tuple[Path, str], str] = {}
    for name in sorted((name for name, spec in specs.items() if synthetic[spec.manifest]), key=order):
        family = specs[name].manifest, specs[name].method
        if family not in chosen and costs[name] + sum(costs[other] for other in chosen.values()) <= minutes:
            chosen[family] = name
    return list(chosen.values())


def find_repetitions(kept: KeptStudy, workspace: Path) -> dict[str, Run]:
    """Return kept name -> the run in a workspace that repeats it, if there is one.

    It has the same task, settings and encoder, and was not made of the kept one; its data are compared by `say_origin`.
    """
    names = {_identity(kept.info(name)): name for name in kept.names}
    repetitions: dict[str, Run] = {}
    for done in sorted(workspace.glob("runs/*/done")):
        run = open_run(done.parent)
        name = names.get(_identity(run.info))
        if name and not run.is_kept and (name not in repetitions or run.name == name):
            repetitions[name] = run
    return repetitions


def _identity(info: Mapping[str, Any]) -> str:
    return json.dumps(
        [info["task"], info["identity"]["settings"], info["identity"]["weights"]], sort_keys=True
    )


def label_settings(infos: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return run -> its label, with the settings by which runs of one label and task differ besides source and seed.

    Args:
        infos: Run -> content of its ``run.json``.
    """
    labels = {}
    for name, info in infos.items():
        like = [
            o["identity"]["settings"]
            for o in infos.values()
            if all(o[key] == info[key] for key in ("task", "label"))
        ]
        own = {
            key: value for key, value in info["identity"]["settings"].items() if key not in ("source", "seed")
        }
        words = [
            f"{key} {value}" for key, value in own.items() if any(other.get(key) != value for other in like)
        ]
        labels[name] = f"{info['label']} ({', '.join(words)})" if words else str(info["label"])
    return labels


def verify_runs(kept: KeptStudy, repetitions: Mapping[str, Run]) -> tuple[Outcome, str]:
    """Return whether repeated runs agree with the kept ones, and lines for people that say so.

    Args:
        kept: The kept study.
        repetitions: Of `find_repetitions`.

    Raises:
        StudyError: No run was repeated.
    """
    if not repetitions:
        raise StudyError(
            f"none of the {len(kept.names)} kept runs was repeated: 'make verify QUICK=1' repeats a few, 'make reproduce' all."
        )
    infos = {name: kept.info(name) for name in kept.names}
    labels = label_settings(infos)
    old = kept.metrics().assign(label=lambda frame: frame["run"].map(labels))
    frames = [run.metrics().assign(run=name, label=labels[name]) for name, run in repetitions.items()]
    new = pd.concat(frames, ignore_index=True)
    averages, verdicts = check_averages(new, old), check_verdicts(new, old)
    trained = {
        labels[name]: "epochs" in METHODS[spec.method].uses
        for name, spec in zip(kept.names, kept.specs, strict=True)
    }
    outcome = decide_outcome(averages, verdicts)
    lines = [
        _say_scope(len(repetitions), len(kept.names), run_averages(pair_cases(new, old))),
        *say_origin(infos, {name: run.info for name, run in repetitions.items()}),
        *say_averages(averages),
        *say_verdicts(verdicts),
        *say_faults(averages, trained),
        say_agreement(outcome, averages, verdicts),
    ]
    return outcome, "\n".join(lines)


def decide_outcome(averages: pd.DataFrame, verdicts: pd.DataFrame) -> Outcome:
    """Decide on the whole, from `check_averages` and `check_verdicts`."""
    if (averages["outcome"] == "differs").any() or verdicts["reversed"].any():
        return "differs"
    agrees = averages["outcome"] == "agrees"
    most = agrees.groupby(averages["task"]).mean() >= MOST
    common = agrees[averages["label"] == EVERY].groupby(averages["task"]).all()
    return "agrees" if (most | common.reindex(most.index, fill_value=False)).all() else "cannot tell"


def _say_scope(repeated: int, kept: int, differences: pd.DataFrame) -> str:
    apart = 100 * differences["value"].abs()
    return (
        f"{repeated} of {kept} kept runs {'was' if repeated == 1 else 'were'} repeated: {apart.median():.2f} points of Dice from "
        f"the kept ones in the median, {apart.max():.1f} at most."
    )


def say_origin(infos: Mapping[str, Mapping[str, Any]], anew: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Say where what made the repeated runs is not what made the kept ones: their data, the method's code, this code."""
    changed = [
        str(new["task"])
        for name, new in anew.items()
        if new["identity"]["data"] != infos[name]["identity"]["data"]
    ]
    tasks = ", ".join(dict.fromkeys(changed))
    lines = [f"The scans or labels of {tasks} here are not those of the kept runs."] if changed else []
    origins = [_say_machine(group) for group in ([infos[name] for name in anew], anew.values())]
    return [*lines, f"The kept runs are of {origins[0]}; the repeated ones of {origins[1]}."]


def _say_machine(infos: Iterable[Mapping[str, Any]]) -> str:
    pairs = [
        (f"commit {str(info['code']['commit'] or 'unknown')[:7]}", str(info["device"])) for info in infos
    ]
    return " on ".join(" and ".join(dict.fromkeys(values)) for values in zip(*pairs, strict=True))


def say_averages(averages: pd.DataFrame) -> list[str]:
    """Say task by task how many averages agree, then which do not, and of which one cannot tell."""
    lines = []
    for task, rows in averages.groupby("task"):
        agree = (rows["outcome"] == "agrees").sum()
        lines.append(
            f"{task}: {agree} of {len(rows)} averages agree within {100 * MARGINS['dice']:g} points of Dice."
        )
    for outcome in ("differs", "cannot tell"):
        rows = averages[averages["outcome"] == outcome].sort_values("difference", key=abs, ascending=False)
        lines += [f"  {outcome}: {_say_average(row)}" for row in rows.head(_SHOWN).to_dict("records")]
        lines += [f"  {outcome}: {len(rows) - _SHOWN} more"] if len(rows) > _SHOWN else []
    return lines


def _say_average(row: Mapping[Any, Any]) -> str:
    difference, half = 100 * row["difference"], 100 * row["half"]
    interval = f" ({difference - half:+.1f} to {difference + half:+.1f})" if half < 100 else ""
    runs = f"{row['runs']} {'method' if row['label'] == EVERY else 'run'}{'s' if row['runs'] != 1 else ''}"
    text = f"{row['task']}, {row['label']} {_say_place(row)}: {difference:+.1f}{interval} points of Dice in {runs}"
    return text + (f"; about {row['more']} more would tell" if 0 < row["more"] < _MOST_RUNS else "")


def _say_place(row: Mapping[Any, Any]) -> str:
    return f"{'in' if row['in_domain'] else 'out of'} domain, protocol {row['protocol']}"


def say_verdicts(verdicts: pd.DataFrame) -> list[str]:
    """Say how many verdicts between methods stay, which are reversed, and what changes in the order out of domain."""
    if verdicts.empty:
        return []
    stay = int((verdicts["before"] == verdicts["after"]).sum())
    away = verdicts[~verdicts["in_domain"].astype(bool)]
    swapped = away[away["kept"] * away["repeated"] < 0]
    order = "stays"
    if len(swapped):
        apart = 100 * swapped["kept"].abs().max()
        order = f"changes in {len(swapped)} of {len(away)} pairs, which were at most {apart:.1f} points apart"
    lines = [f"{stay} of {len(verdicts)} verdicts between two methods stay; the order out of domain {order}."]
    for row in verdicts[verdicts["reversed"]].to_dict("records"):
        lines.append(
            f"  reversed: {row['task']}, {row['first']} and {row['second']} {_say_place(row)}: "
            f"'{row['before']}' by {100 * row['kept']:+.1f} points is now '{row['after']}' by {100 * row['repeated']:+.1f}"
        )
    return lines


def say_faults(averages: pd.DataFrame, trained: Mapping[str, bool]) -> list[str]:
    """Say task by task which kind of fault the averages that differ look like.

    Args:
        averages: Of `check_averages`.
        trained: Label -> whether the method is trained.
    """
    lines = []
    for task, rows in averages.groupby("task"):
        single, wrong = rows[rows["label"] != EVERY], rows[rows["outcome"] == "differs"]
        labels, moved = set(single["label"]), list(dict.fromkeys(wrong[wrong["label"] != EVERY]["label"]))
        if EVERY in set(wrong["label"]) or (len(labels) > 2 and 2 * len(moved) > len(labels)):
            size = single.groupby("label")["difference"].agg(lambda values: values.abs().max())
            still = [label for label in labels if not trained[label] and size[label] <= MARGINS["dice"]]
            fault = "other scans or labels, or another way of scoring"
            if still:
                fault = f"training of all, as labels in its batches: {' and '.join(sorted(still))} are not trained and stay"
            lines.append(f"{task}: methods moved together, which looks like {fault}.")
            continue
        for label in moved:
            if wrong[wrong["label"] == label]["even"].all():
                kind = (
                    "nearly the same in every case, which looks like something added to its scores or masks"
                )
            elif trained[label]:
                kind = "case by case, which looks like its training, for instance its learning rate"
            else:
                kind = "without being trained, which looks like its code or its encoder's weights"
            lines.append(f"{task}: {label} moved alone, {kind}.")
    return lines


def say_agreement(outcome: Outcome, averages: pd.DataFrame, verdicts: pd.DataFrame) -> str:
    """Say the outcome in a sentence."""
    untold = averages[averages["outcome"] == "cannot tell"]
    if outcome == "differs":
        wrong = averages[averages["outcome"] == "differs"]
        pairs = verdicts[verdicts["reversed"]]
        names = [*wrong["label"], *(pairs["first"] + " against " + pairs["second"])]
        return f"The results do NOT agree with the kept study: {', '.join(dict.fromkeys(names))}."
    if outcome == "cannot tell":
        more = min(untold["more"].median(), _MOST_RUNS)
        return f"Whether the results agree with the kept study cannot be told: repeat about {more:.0f} more runs."
    labels = ", ".join(dict.fromkeys(untold["label"]))
    return "The results agree with the kept study" + (
        f"; of {labels} alone one cannot tell." if labels else "."
    )
