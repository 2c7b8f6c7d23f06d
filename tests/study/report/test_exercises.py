"""An exercise tells a right answer from a wrong one, whatever a reader types, and never shows a stack trace."""

from typing import Any

import numpy as np
import pytest
import torch

from desam_lite.study.report.exercises import Check

HINT = "Think of both masks."


@pytest.mark.parametrize("answer", [0.5, 0.5004, np.float32(0.5), torch.tensor(0.5, requires_grad=True)])
def test_a_right_number_is_right(answer: Any) -> None:
    assert Check(0.5, HINT)(answer) == (True, "Right.")


@pytest.mark.parametrize("answer", [0.4, -0.5, [0.5, 0.5], "half", None, float("nan")])
def test_a_wrong_answer_gets_the_hint(answer: Any) -> None:
    right, message = Check(0.5, HINT)(answer)
    assert not right and message.startswith("Not yet: ") and message.endswith(HINT)


def test_no_answer_is_neither_right_nor_called_wrong() -> None:
    assert not Check(0.5, HINT)(...).right
    assert str(Check(0.5, HINT)(...)).startswith("Not answered yet")


def test_a_text_must_be_the_same() -> None:
    check = Check("B", HINT)
    assert check("B").right and not check("A").right


def test_a_function_is_compared_on_every_input() -> None:
    check = Check(abs, HINT, inputs=[(1.0,), (-2.0,)])
    assert check(lambda x: (x * x) ** 0.5).right
    assert "call 2 of 2" in check(lambda x: x).message
    assert "not callable" in check(3.0).message


def test_equal_inputs_are_told_apart() -> None:
    check = Check(lambda mask: mask.sum(), HINT, inputs=[(np.zeros(2),), (np.ones(2),)])
    assert "call 2 of 2" in check(lambda mask: 0).message


def test_an_array_of_another_shape_is_wrong() -> None:
    assert not Check(np.ones(3), HINT)(np.ones((1, 3))).right


def test_a_function_that_stops_gives_a_sentence() -> None:
    check = Check(abs, HINT, inputs=[(1.0,)])
    message = check(lambda x: x / 0).message
    assert "ZeroDivisionError" in message and message.endswith(HINT)
