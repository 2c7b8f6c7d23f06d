"""A repetition of the kept study agrees where it is honest, is named where it is not, and says what it cannot tell."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from repeated_study import repeat_methods, simulate_methods, to_metrics
from small_run import spec_for

from desam_lite.data.manifest import load_manifest
from desam_lite.evaluation import scoring
from desam_lite.evaluation.equivalence import check_averages, check_verdicts
from desam_lite.methods.run_spec import RunSpec
from desam_lite.study import run as study_run
from desam_lite.study.kept import KeptStudy, read_kept, write_kept
from desam_lite.study.profiles import get_profile
from desam_lite.study.run import execute_run
from desam_lite.study.verification import (
    choose_quick,
    decide_outcome,
    find_repetitions,
    label_settings,
    say_agreement,
    say_averages,
    say_faults,
    say_verdicts,
    verify_runs,
)
from desam_lite.synthetic.phantoms import make_task
from desam_lite.training.loop import TrainSettings
from desam_lite.utils.errors import StudyError

SCATTERS = [0.0, 0.0, 0.01, 0.02, 0.03, 0.04]
LABELS = [f"method {number}" for number in range(len(SCATTERS))]
TRAINED = dict(zip(LABELS, map(bool, SCATTERS), strict=True))
FAULT = "method 3"
NONE_REVERSED = pd.DataFrame({"first": ["a"], "second": ["b"], "reversed": [False]})


def simulated(seed: int, as_seed: float, runs: slice = slice(None)) -> tuple[pd.DataFrame, pd.DataFrame]:
    """An honest repetition and the kept study."""
    rng = np.random.default_rng(seed)
    methods = simulate_methods(rng, SCATTERS)
    return to_metrics(repeat_methods(rng, methods, as_seed), runs), to_metrics(methods)


def outcome_of(new: pd.DataFrame, kept: pd.DataFrame) -> str:
    return decide_outcome(check_averages(new, kept), check_verdicts(new, kept))


@pytest.mark.parametrize(("as_seed", "runs"), [(0.1, None), (1.0, None), (0.05, 1)])
def test_honest_repetitions_agree_in_nineteen_of_twenty(as_seed: float, runs: int | None) -> None:
    """Runs of which every tenth ends as another seed would, of which all do, and one run of each method."""
    studies = [simulated(seed, as_seed, slice(runs)) for seed in range(20)]
    outcomes = [decide_outcome(check_averages(new, kept), NONE_REVERSED) for new, kept in studies]
    assert outcomes.count("agrees") >= 19
    assert not check_verdicts(*studies[0])["reversed"].any()


def plant(new: pd.DataFrame, amount: float, spread: float, labels: list[str]) -> pd.DataFrame:
    """Add a fault to the Dice of some methods, the same for all cases or not, and not the same in all runs."""
    rng = np.random.default_rng(0)
    runs = new["run"].map({run: rng.normal(0, spread) for run in new["run"].unique()})
    fault = amount + runs + rng.normal(0, spread, len(new))
    return new.assign(dice=new["dice"] + fault * new["label"].isin(labels))


@pytest.mark.parametrize(
    ("amount", "spread", "labels", "sentence"),
    [
        (0.03, 0.0, [FAULT], f"t: {FAULT} moved alone, nearly the same in every case, which looks like something added"),
        (-0.2, 0.08, [FAULT], f"t: {FAULT} moved alone, case by case, which looks like its training, for instance"),
        (-0.2, 0.08, LABELS[:1], "t: method 0 moved alone, without being trained, which looks like its code"),
        (-0.04, 0.02, LABELS[2:], "labels in its batches: method 0 and method 1 are not trained and stay"),
        (-0.04, 0.02, LABELS, "t: methods moved together, which looks like other scans or labels"),
    ],
)  # fmt: skip
def test_a_planted_fault_is_named(amount: float, spread: float, labels: list[str], sentence: str) -> None:
    for seed in range(5):
        new, kept = simulated(seed, 0.1)
        averages = check_averages(plant(new, amount, spread, labels), kept)
        (line,) = say_faults(averages, TRAINED)
        assert sentence in line
        assert decide_outcome(averages, NONE_REVERSED) == "differs"
        outcome = say_agreement("differs", averages, NONE_REVERSED)
        assert outcome.startswith("The results do NOT agree")
        assert any(label in outcome for label in labels) and not any(
            label in outcome for label in {*LABELS} - {*labels}
        )


def test_a_fault_of_all_methods_shows_in_one_run_of_each() -> None:
    new, kept = simulated(0, 0.1, slice(1))
    averages = check_averages(plant(new, -0.04, 0.01, LABELS), kept)
    assert "moved together" in say_faults(averages, TRAINED)[0]


def test_equal_results_say_so() -> None:
    _, kept = simulated(0, 0.0)
    averages, verdicts = check_averages(kept, kept), check_verdicts(kept, kept)
    assert say_averages(averages) == ["t: 14 of 14 averages agree within 2 points of Dice."]
    assert say_verdicts(verdicts) == [
        "30 of 30 verdicts between two methods stay; the order out of domain stays."
    ]
    assert say_agreement("agrees", averages, verdicts) == "The results agree with the kept study."


def test_two_equal_methods_change_places_without_a_reversed_verdict() -> None:
    _, kept = simulated(0, 0.0)
    kept = kept[kept["label"] == FAULT]
    twin = kept.assign(label="twin", run="twin" + kept["run"], dice=kept["dice"] + 0.001)
    kept = pd.concat([kept, twin])
    new = kept.assign(dice=kept["dice"] + 0.003 * (kept["label"] == FAULT))
    verdicts = check_verdicts(new, kept)
    assert "changes in 1 of 1 pairs, which were at most 0.1 points apart" in say_verdicts(verdicts)[0]
    assert outcome_of(new.assign(dice=kept["dice"] + 0.0005 * (kept["label"] == FAULT)), kept) == "agrees"


def test_a_reversed_verdict_is_named_and_decides() -> None:
    _, kept = simulated(0, 0.0)
    new = kept.assign(dice=kept["dice"] - 0.4 * (kept["label"] == LABELS[5]))
    averages, verdicts = check_averages(new, kept), check_verdicts(new, kept)
    assert any(
        line.startswith(
            f"  reversed: t, {LABELS[0]} and {LABELS[5]} out of domain, protocol whole_volume: 'worse' by"
        )
        for line in say_verdicts(verdicts)
    )
    assert f"{LABELS[0]} against {LABELS[5]}" in say_agreement("differs", averages, verdicts)


def test_what_one_cannot_tell_is_listed_with_the_runs_that_would() -> None:
    kept = to_metrics(simulate_methods(np.random.default_rng(0), [0.02]), slice(1))
    new = kept.assign(dice=kept["dice"] + 0.001)
    averages, verdicts = check_averages(new, kept), check_verdicts(new, kept)
    place = "t, method 0 in domain, protocol whole_volume"
    lines = say_averages(averages)
    assert f"  cannot tell: {place}: +0.1 points of Dice in 1 run; about 1 more would tell" in lines
    assert say_verdicts(verdicts) == []
    outcome = decide_outcome(averages, verdicts)
    assert outcome == "cannot tell"
    assert say_agreement(outcome, averages, verdicts).endswith("cannot be told: repeat about 1 more runs.")


def test_an_agreement_names_the_methods_of_which_one_cannot_tell() -> None:
    new, kept = simulated(0, 0.0, slice(1))
    rng = np.random.default_rng(0)
    chaos = rng.normal(0.03, 0.05, len(new))
    new = new.assign(dice=new["dice"] + chaos * (new["label"] == LABELS[5]))
    averages, verdicts = check_averages(new, kept), check_verdicts(new, kept)
    assert decide_outcome(averages, verdicts) == "agrees"
    sentence = say_agreement("agrees", averages, verdicts)
    assert sentence.startswith("The results agree with the kept study; of ")
    assert sentence.endswith(f"{LABELS[5]} alone one cannot tell.")


# ---- real runs of a second each


def small_specs(place: tuple[Path, Path]) -> list[RunSpec]:
    learnt = {"epochs": 6, "learning_rate": 1e-2, "split": "half_tested"}
    return [
        spec_for(place, seed=seed, **settings)
        for seed in (0, 1)
        for settings in ({"method": "prior"}, learnt, {**learnt, "augmentation": "light"})
    ]


@pytest.fixture(scope="module")
def small(tiny_task: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> KeptStudy:
    """A kept study of six small runs, as if of synthetic scans."""
    folder = tmp_path_factory.mktemp("small")
    manifest = folder / "tiny.yaml"
    manifest.write_text(tiny_task[0].read_text() + "synthetic: true\n")
    runs = [execute_run(spec, folder, progress=False) for spec in small_specs((manifest, tiny_task[1]))]
    write_kept([run.directory for run in runs], folder / "published", models=())
    return read_kept(folder / "published")


REPEAT = """\
import sys
from pathlib import Path
import torch
from desam_lite.study.kept import read_kept
from desam_lite.study.profiles import get_profile
from desam_lite.study.run import execute_run
torch.set_num_threads(2)
for spec in read_kept(Path(sys.argv[1])).specs:
    execute_run(spec, sys.argv[2], progress=False)
"""


def test_a_repetition_with_other_instructions_and_threads_agrees(small: KeptStudy, tmp_path: Path) -> None:
    other = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "OMP_WAIT_POLICY": "PASSIVE"}
    command = [sys.executable, "-c", REPEAT, str(small.folder), str(tmp_path)]
    subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT), **other})
    repetitions = find_repetitions(small, tmp_path)
    assert repetitions.keys() == set(small.names)
    outcome, text = verify_runs(small, repetitions)
    assert outcome == "agrees", text
    assert text.startswith("6 of 6 kept runs were repeated: ") and "tiny: " in text


def repeat(study: KeptStudy, workspace: Path) -> tuple[str, str]:
    for spec in study.specs:
        execute_run(spec, workspace, progress=False)
    return verify_runs(study, find_repetitions(study, workspace))


def test_labels_shifted_by_a_pixel_are_named(
    small: KeptStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score_case = scoring.score_case

    def score_shifted(prediction: np.ndarray, reference: np.ndarray, *rest: object) -> object:
        return score_case(prediction, np.roll(reference, (1, 1), axis=(1, 2)), *rest)

    monkeypatch.setattr(scoring, "score_case", score_shifted)
    outcome, text = repeat(small, tmp_path)
    assert outcome == "differs", (
        text
    )  # what it looks like is told of simulated studies: such small networks have learnt little
    assert "differs: tiny, Prior out of domain" in text


def test_a_learning_rate_ten_times_too_high_is_named(
    small: KeptStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make_fast(learning_rate: float, **settings: Any) -> TrainSettings:
        return TrainSettings(learning_rate=10 * learning_rate, **settings)

    for spec in small.specs:
        with monkeypatch.context() as patch:
            if spec.label == "U-Net":
                patch.setattr(study_run, "TrainSettings", make_fast)
            execute_run(spec, tmp_path, progress=False)
    outcome, text = verify_runs(small, find_repetitions(small, tmp_path))
    assert outcome == "differs"
    assert "tiny: U-Net moved alone, case by case, which looks like its training" in text


def test_three_points_added_to_a_method_are_named(small: KeptStudy, tmp_path: Path) -> None:
    for spec in small.specs:
        run = execute_run(spec, tmp_path, progress=False)
        if spec.label == "U-Net":
            table = pd.read_csv(run.directory / "metrics.csv")
            table.assign(dice=table["dice"] + 0.03).to_csv(run.directory / "metrics.csv", index=False)
    outcome, text = verify_runs(small, find_repetitions(small, tmp_path))
    assert outcome == "differs" and "tiny: U-Net moved alone, nearly the same in every case" in text
    assert text.endswith("The results do NOT agree with the kept study: U-Net.")


def test_one_kept_run_trained_again_does_not_differ(small: KeptStudy, tmp_path: Path) -> None:
    """Of the kept study in the repository or, as long as it has no runs, of the small one: the cheapest that is trained."""
    published = ROOT / "results" / "published"
    study = read_kept(published) if (published / "runs.csv.gz").is_file() else small
    trained = [
        (study.info(name)["minutes"]["training"], name, spec)
        for name, spec in zip(study.names, study.specs, strict=True)
        if spec.epochs and load_manifest(spec.manifest).synthetic
    ]
    _, name, spec = min(trained)
    if not (ROOT / spec.data_root).is_dir():
        spec = spec.model_copy(update={"data_root": tmp_path / "data"})
        task = load_manifest(spec.manifest).name
        make_task(task, spec.data_root, cases=get_profile("study").cases, progress=False)
    execute_run(spec, tmp_path, progress=False)
    repetitions = find_repetitions(study, tmp_path)
    assert list(repetitions) == [name]
    outcome, text = verify_runs(study, repetitions)
    assert outcome != "differs", text
    if study is small:  # by this machine
        assert outcome == "agrees", text


def test_runs_that_come_from_the_kept_study_repeat_nothing(small: KeptStudy, tmp_path: Path) -> None:
    small.restore(small.names[0], tmp_path / "runs" / small.names[0])
    assert find_repetitions(small, tmp_path) == {}
    with pytest.raises(
        StudyError, match="none of the 6 kept runs was repeated: 'make verify QUICK=1' repeats a few"
    ):
        verify_runs(small, {})


def test_runs_of_one_label_with_other_settings_get_labels_of_their_own() -> None:
    common = {"task": "t", "label": "U-Net"}
    infos = {
        name: {**common, "identity": {"settings": {"source": source, "seed": 0, "epochs": epochs, **more}}}
        for name, source, epochs, more in [
            ("a", "A", 5, {}),
            ("b", "B", 5, {}),
            ("c", "A", 9, {}),
            ("d", "A", 5, {"organs": ["liver"]}),
        ]
    }
    labels = label_settings(infos)
    assert labels["a"] == labels["b"] and len(set(labels.values())) == 3
    assert "epochs 9" in labels["c"] and "organs ['liver']" in labels["d"]
    assert label_settings({name: infos[name] for name in "ab"}) == {"a": "U-Net", "b": "U-Net"}


def test_quick_takes_the_cheapest_run_of_each_method_as_long_as_it_fits(
    small: KeptStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    minutes = dict(zip(small.names, [5.0, 4.0, 3.0, 2.0, 1.0, 0.5], strict=True))
    monkeypatch.setattr(small, "info", lambda name: {"minutes": {"training": minutes[name]}})
    methods = dict(zip(small.names, [spec.method for spec in small.specs], strict=True))
    cheapest = {
        min((minutes[n], n) for n in small.names if methods[n] == method)[1] for method in methods.values()
    }
    assert set(choose_quick(small)) == cheapest and len(cheapest) == 2
    assert choose_quick(small, minutes=0.7) == [min(cheapest, key=minutes.__getitem__)]
    assert choose_quick(small, minutes=0.1) == []


def test_the_command_repeats_a_few_runs_and_ends_with_the_verdict(
    small: KeptStudy, tmp_path: Path, run: Callable[..., tuple[int, str, str]]
) -> None:
    command = ("verify-results", "--kept", small.folder, "--workspace", tmp_path)
    code, _, err = run(*command)
    assert code == 1 and "none of the 6 kept runs was repeated" in err
    code, out, _ = run(*command, "--quick", "--jobs", 1)
    assert code == 0 and out.startswith("2 of 6 kept runs were repeated: 0.00 points")
    assert out.endswith("The results agree with the kept study.\n")
    for path in tmp_path.glob("runs/*/metrics.csv"):
        pd.read_csv(path).assign(dice=0.0).to_csv(path, index=False)
    code, out, _ = run(*command)
    assert code == 1 and "The results agree" not in out and "0 of 12 averages agree" in out


def test_without_kept_runs_the_command_says_what_to_do(
    tmp_path: Path, run: Callable[..., tuple[int, str, str]]
) -> None:
    code, _, err = run("verify-results", "--kept", tmp_path)
    assert code == 1
    assert f"no run is kept in {tmp_path} yet: compute the study with 'make reproduce'" in err
