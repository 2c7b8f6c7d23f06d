"""Tables of a run kept on disk: made once, whole or not at all; of a kept run they are read where they were kept."""

from pathlib import Path

import pandas as pd
import pytest
from small_run import spec_for

from desam_lite.study.kept import write_kept
from desam_lite.study.plans import kept_folder
from desam_lite.study.report.cache import cached_table
from desam_lite.study.run import Run, execute_run
from desam_lite.utils.errors import StudyError


def run_in(directory: Path) -> Run:
    return Run(spec_for((directory, directory)), "tiny", directory)


def test_a_table_is_made_once_and_names_stay_texts(tmp_path: Path) -> None:
    made = []

    def make() -> pd.DataFrame:
        made.append(1)
        return pd.DataFrame({"case": ["007"], "dice": [0.5]})

    run = run_in(tmp_path)
    first, second = (cached_table(run, "grids", {"a": 1}, make) for _ in range(2))
    assert len(made) == 1 and first.equals(second) and first["case"][0] == "007"
    cached_table(run, "grids", {"a": 2}, make)
    cached_table(run, "maps", {"a": 2}, make)
    assert len(made) == 3


def test_a_table_that_fails_to_be_made_leaves_nothing(tmp_path: Path) -> None:
    def make() -> pd.DataFrame:
        raise StudyError("no")

    with pytest.raises(StudyError):
        cached_table(run_in(tmp_path), "grids", {}, make)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_the_tables_of_a_kept_run_are_kept_and_others_are_made(
    tiny_task: tuple[Path, Path], tmp_path: Path
) -> None:
    table = pd.DataFrame({"case": ["007", "008"], "dice": [0.123456789, 0.5]})
    done = execute_run(spec_for(tiny_task, method="prior"), tmp_path / "done", progress=False)
    for number in range(2):
        cached_table(done, "grids", {"a": number}, lambda: table)
    write_kept([done.directory], kept_folder(tmp_path / "again"), models=())
    again = execute_run(done.spec, tmp_path / "again", progress=False)
    read = cached_table(again, "grids", {"a": 1}, lambda: pytest.fail("made again"))
    pd.testing.assert_frame_equal(read, table, rtol=1e-4)
    assert cached_table(again, "grids", {"a": 2}, lambda: table * 2)["dice"][1] == 1
    assert cached_table(again, "maps", {"a": 1}, lambda: table * 2)["dice"][1] == 1
