"""How much is asked of trained models where nothing is trained: more prompts, more grids, more scans of a patient."""

from typing import NamedTuple

from desam_lite.utils.errors import StudyError


class Extent(NamedTuple):
    """How much is asked in a profile.

    Attributes:
        sides: Points along a side of the grids that are compared.
        cases: Tested cases of each domain.
        slices: Slices of each case on which every prompt of a grid is drawn.
        empty: Slices without organ of each case, for false alarms.
        side: Points along a side of that grid.
        fine: The same, for the one slice that is shown.
        positions: Of each dial of the scanner, from 0 to 1.
        dials: How many of the scanner's dials are turned, besides all together; 0 for all.
        patients: Scanned with each dial at each position.
    """

    sides: tuple[int, ...]
    cases: int
    slices: int
    empty: int
    side: int
    fine: int
    positions: tuple[float, ...]
    dials: int
    patients: int


_EXTENTS = {
    "smoke": Extent((1, 2, 4), 1, 1, 1, 4, 6, (0.0, 1.0), 2, 1),
    "teach": Extent((1, 2, 3, 5, 9, 16), 1, 1, 1, 9, 15, (0.0, 0.5, 1.0), 0, 2),
    "paper": Extent((1, 2, 3, 5, 9, 16, 32), 30, 5, 5, 16, 32, (0.0, 0.25, 0.5, 0.75, 1.0), 0, 10),
}


def get_extent(profile: str) -> Extent:
    """Return how much is asked in a profile.

    Raises:
        StudyError: There is no such profile.
    """
    if profile not in _EXTENTS:
        raise StudyError(f"there is no profile '{profile}': use one of {', '.join(_EXTENTS)}.")
    return _EXTENTS[profile]
