"""A new run is held against the kept one: what agrees, what does not, and what nobody can tell."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from desam_lite.evaluation.statistics import METRICS
from desam_lite.study.run import Run
from desam_lite.study.verification import (
    TABLE_COLUMNS,
    TOLERANCE,
    compare_with_reference,
    read_reference,
    reference_path,
    say_verdict,
    tidy,
    write_reference,
)
from desam_lite.utils.errors import StudyError

SCATTER = 0.02


def study(
    rng_seed: int, *, seeds: int = 3, labels: tuple[str, ...] = ("Prior", "DeSAM-P"), scatter: float = SCATTER
) -> pd.DataFrame:
    """A tidy table whose cells have fixed means (equal for every rng_seed) and a random part per seed."""
    truth, noise = np.random.default_rng(0), np.random.default_rng(rng_seed)
    rows = []
    for label in labels:
        for source in "ABC":
            for target in "ABCDEF":
                mean = truth.uniform(0.3, 0.9)
                for seed in range(seeds):
                    score = round(mean + noise.normal(0, scatter), 4)
                    rows.append(("t", label, source, target, seed, "gland", "published", "dice", score, 8))
    return pd.DataFrame(rows, columns=TABLE_COLUMNS)


def case_rows(run: str = "r1", seed: int = 0) -> pd.DataFrame:
    """Rows as a run gives them: two cases of target B, one of them without a finite distance."""
    common = {
        "run": run,
        "task": "t",
        "label": "U-Net",
        "source": "A",
        "target": "B",
        "seed": seed,
        "organ": "gland",
    }
    return pd.DataFrame(
        [
            {**common, "protocol": "published", "case": "c1", "dice": 0.5, "hd95": 4.0},
            {**common, "protocol": "published", "case": "c2", "dice": 0.7, "hd95": np.nan},
        ]
    )


def test_the_table_holds_the_mean_over_cases_and_how_many_there_were() -> None:
    table = tidy(case_rows())
    assert list(table.columns) == TABLE_COLUMNS
    assert table.set_index("metric")["mean"].to_dict() == {"dice": 0.6, "hd95": 4.0}
    assert table.set_index("metric")["cases"].to_dict() == {"dice": 2, "hd95": 1}


def test_two_runs_of_one_name_are_refused() -> None:
    with pytest.raises(StudyError, match="two different runs"):
        tidy(pd.concat([case_rows("r1"), case_rows("r2")]))


def test_a_study_agrees_with_itself() -> None:
    agrees, lines = say_verdict(compare_with_reference(study(1), study(1)))
    assert agrees and "t dice: 4 agrees; apart 0.0000" in lines and "The results agree" in lines


def test_sound_runs_agree() -> None:
    assert all(say_verdict(compare_with_reference(study(2 * n + 1), study(2 * n)))[0] for n in range(25))


def test_a_method_that_got_worse_is_named() -> None:
    new = study(3)
    new.loc[(new["label"] == "DeSAM-P") & (new["source"] != new["target"]), "mean"] -= 0.12
    compared = compare_with_reference(new, study(3))
    (worse,) = compared[compared["verdict"] == "differs"].to_dict("records")
    assert (worse["label"], worse["where"]) == ("DeSAM-P", "out of domain")
    agrees, lines = say_verdict(compared)
    assert not agrees and "differs: t DeSAM-P out of domain, gland, published, dice" in lines


def test_a_missing_cell_does_not_pass() -> None:
    kept = study(7)
    left_out = (kept["label"] == "Prior") & (kept["source"] == "C") & (kept["target"] == "C")
    compared = compare_with_reference(kept[~left_out], kept)
    (missing,) = compared[compared["verdict"] == "missing"].to_dict("records")
    assert (missing["label"], missing["where"]) == ("Prior", "in domain")
    assert not say_verdict(compared)[0]


def test_every_metric_has_a_tolerance() -> None:
    assert set(METRICS) == TOLERANCE.keys()


def test_no_results_do_not_agree() -> None:
    kept = study(9)
    assert not say_verdict(compare_with_reference(kept.head(0), kept))[0]


def test_a_table_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    kept = study(10)
    kept.to_csv(reference_path(tmp_path, "teach"), index=False)
    pd.testing.assert_frame_equal(read_reference(tmp_path, "teach"), kept)


def test_no_reference_and_a_foreign_table_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="there is no reference"):
        read_reference(tmp_path, "teach")
    reference_path(tmp_path, "teach").write_text("a,b\n1,2\n")
    with pytest.raises(StudyError, match="is no table of results"):
        read_reference(tmp_path, "teach")


@pytest.fixture
def finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """Two finished runs on disk, found in place of those the study plans."""
    from desam_lite.cli import course as cli_course
    from desam_lite.methods.run_spec import make_spec

    spec = make_spec(manifest=tmp_path / "t.yaml", data_root=tmp_path, source="A", method="unet")
    runs = []
    for seed in (0, 1):
        folder = tmp_path / f"run{seed}"
        folder.mkdir()
        frame = case_rows().drop(columns=["run", "task", "label", "source", "seed"])
        frame.assign(dice=frame["dice"] + 0.01 * seed).to_csv(folder / "metrics.csv", index=False)
        info = {"code": {"version": "0"}, "device": "cpu", "libraries": {}, "minutes": {"training": 1.0}}
        (folder / "run.json").write_text(json.dumps(info))
        (folder / "done").touch()
        runs.append(Run(spec.model_copy(update={"seed": seed}), "t", folder))
    monkeypatch.setattr(cli_course, "find_planned_runs", lambda *_: runs)
    return runs


def test_written_results_are_verified_by_the_same_command(
    finished: list[Run], tmp_path: Path, run: Callable[..., tuple[int, str, str]]
) -> None:
    command = ("verify-results", "--reference", tmp_path / "kept")
    code, _, err = run(*command)
    assert code == 1 and "there is no reference" in err
    code, out, _ = run(*command, "--write")
    assert code == 0 and "2 runs" in out
    assert json.loads((tmp_path / "kept" / "teach.json").read_text())["minutes"] == 2.0
    code, out, _ = run(*command)
    assert code == 0 and "t dice: 1 agrees" in out
    for result in finished:
        path = result.directory / "metrics.csv"
        pd.read_csv(path).assign(dice=0.0).to_csv(path, index=False)
    code, out, _ = run(*command)
    assert code == 1 and "do NOT agree" in out


def test_unfinished_results_are_not_kept(finished: list[Run], tmp_path: Path) -> None:
    (finished[1].directory / "done").unlink()
    with pytest.raises(StudyError, match=r"1 of 2 runs are not finished \(U-Net from A, seed 1\)"):
        write_reference(finished, tmp_path, "teach")


def test_every_planned_run_is_looked_for_once(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    code, _, err = run(
        "verify-results", "--workspace", tmp_path, "--profile", "smoke", "--data", tmp_path / "none"
    )
    assert code == 1 and "there are no data at" in err
