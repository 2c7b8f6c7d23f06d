"""A new run is held against the kept one: what agrees, what does not, and what nobody can tell."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from desam_lite.study.run import Run
from desam_lite.study.verification import (
    COLUMNS,
    FALSE_ALARM,
    compare_with_reference,
    read_reference,
    reference_path,
    tidy,
    verdict,
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
                    drawn = round(mean + noise.normal(0, scatter), 4)
                    rows.append(("t", label, source, target, seed, "gland", "published", "dice", drawn, 8))
    return pd.DataFrame(rows, columns=COLUMNS)


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
    assert list(table.columns) == COLUMNS
    assert table.set_index("metric")["mean"].to_dict() == {"dice": 0.6, "hd95": 4.0}
    assert table.set_index("metric")["cases"].to_dict() == {"dice": 2, "hd95": 1}


def test_two_runs_of_one_name_are_refused() -> None:
    with pytest.raises(StudyError, match="two different runs"):
        tidy(pd.concat([case_rows("r1"), case_rows("r2")]))


def test_a_study_agrees_with_itself() -> None:
    agrees, said = verdict(compare_with_reference(study(1), study(1)))
    assert agrees and "The results agree" in said


def test_sound_runs_are_rarely_called_different() -> None:
    wrong = sum(not verdict(compare_with_reference(study(2 * n + 1), study(2 * n + 2)))[0] for n in range(25))
    assert wrong <= 3  # two levels of one metric: 0.5 of 25 expected
    assert FALSE_ALARM == 0.01


def test_a_method_that_got_worse_is_named() -> None:
    new = study(3)
    new.loc[new["label"] == "DeSAM-P", "mean"] -= 0.06  # three times the scatter, everywhere
    compared = compare_with_reference(new, study(4))
    worse = compared[compared["verdict"] == "differs"]
    assert set(worse["label"]) == {"DeSAM-P"}
    assert {"in domain", "out of domain"} <= set(worse["source"])
    agrees, said = verdict(compared)
    assert not agrees and "differs: t DeSAM-P out of domain" in said


def test_one_bad_cell_is_seen_although_the_averages_hide_it() -> None:
    new = study(5)
    new.loc[(new["label"] == "Prior") & (new["source"] == "B") & (new["target"] == "E"), "mean"] -= 0.2
    compared = compare_with_reference(new, study(5))
    (cell,) = compared[(compared["verdict"] == "differs") & (compared["level"] == "cell")].to_dict("records")
    assert (cell["source"], cell["target"]) == ("B", "E")


def test_tolerance_grows_with_the_scatter_and_shrinks_with_seeds() -> None:
    def median(seeds: int, scatter: float) -> float:
        kept = study(6, seeds=seeds, scatter=scatter)
        return float(compare_with_reference(kept, kept)["tolerance"].median())

    assert median(3, 0.04) > 1.5 * median(3, 0.02)
    assert median(8, 0.02) < 0.8 * median(3, 0.02)


def test_what_is_missing_does_not_pass() -> None:
    kept = study(7)
    compared = compare_with_reference(kept[kept["source"] != "C"], kept)
    assert (compared["verdict"] == "missing").sum() == 12
    assert not verdict(compared)[0]


def test_with_one_seed_only_equal_numbers_pass() -> None:
    kept = study(8, seeds=1)
    assert verdict(compare_with_reference(kept, kept))[0]
    moved = kept.assign(mean=kept["mean"] + 0.01)
    assert set(compare_with_reference(moved, kept)["verdict"]) == {"cannot tell"}


def test_no_results_do_not_agree() -> None:
    kept = study(9)
    assert not verdict(compare_with_reference(kept.head(0), kept))[0]


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
    monkeypatch.setattr(cli_course, "_planned_runs", lambda *_: runs)
    return runs


def test_written_results_are_verified_by_the_same_command(
    finished: list[Run], tmp_path: Path, run: Callable[..., tuple[int, str, str]]
) -> None:
    asked = ("verify-results", "--reference", tmp_path / "kept")
    code, _, err = run(*asked)
    assert code == 1 and "there is no reference" in err
    code, out, _ = run(*asked, "--write")
    assert code == 0 and "2 runs" in out
    assert json.loads((tmp_path / "kept" / "teach.json").read_text())["minutes"] == 2.0
    code, out, _ = run(*asked)
    assert code == 0 and "t dice average: 1 agrees" in out
    for one in finished:  # with two seeds alone a tolerance is wide: nothing is drawn any more
        path = one.directory / "metrics.csv"
        pd.read_csv(path).assign(dice=0.0).to_csv(path, index=False)
    code, out, _ = run(*asked)
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
