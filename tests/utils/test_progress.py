import pytest

from desam_lite.utils.progress import track


def test_a_bar_shows_what_is_done_as_text_and_changes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track(iter("abc"), "counting", total=3)) == ["a", "b", "c"]
    out, err = capsys.readouterr()
    assert out == "" and "counting: 100%" in err and "3/3" in err and err.isascii()


def test_a_bar_that_is_not_wanted_is_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track([1, 2], "counting", enabled=False)) == [1, 2]
    assert capsys.readouterr() == ("", "")
