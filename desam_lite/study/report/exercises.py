"""Exercises that check a reader's own answer, a number or a function, and give a hint where it is wrong."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np


class Feedback(NamedTuple):
    """Whether an answer is right, and the sentence that a notebook shows."""

    right: bool
    message: str

    def __repr__(self) -> str:
        return self.message


@dataclass(frozen=True)
class Check:
    """The check of one exercise, called with the reader's answer.

    Attributes:
        expected: The right number, array or text; or a function that the reader's function must agree with.
        hint: One sentence, shown with a wrong answer.
        inputs: Arguments on which two functions are compared, a tuple for each call.
        tolerance: Largest difference that is still right, as a part of the expected value.

    >>> Check(0.5, "Count the pixels of both masks.")(0.4)
    Not yet: 0.4 is wrong. Hint: Count the pixels of both masks.
    """

    expected: Any
    hint: str
    inputs: Sequence[tuple[Any, ...]] = ()
    tolerance: float = 1e-3

    def __call__(self, answer: Any) -> Feedback:
        """Compare an answer with the expected one; three dots are no answer yet."""
        if answer is ...:
            return Feedback(False, "Not answered yet: replace the three dots with your answer.")
        wrong = next(self._faults(answer), "")
        return Feedback(not wrong, f"Not yet: {wrong}. Hint: {self.hint}" if wrong else "Right.")

    def _faults(self, answer: Any) -> Iterator[str]:
        if not callable(self.expected):
            if not self._agrees(answer, self.expected):
                yield f"{answer!r} is wrong"
            return
        for number, arguments in enumerate(self.inputs, start=1):
            try:
                if not self._agrees(answer(*arguments), self.expected(*arguments)):
                    yield f"the value of call {number} of {len(self.inputs)} is wrong"
            except Exception as error:  # whatever a reader's function does, the feedback is a sentence
                yield f"call {number} of {len(self.inputs)} stopped ({type(error).__name__}: {error})"

    def _agrees(self, value: Any, expected: Any) -> bool:
        if isinstance(expected, str):
            return bool(value == expected)
        try:
            numbers, target = (
                np.asarray(v.detach() if hasattr(v, "detach") else v, float) for v in (value, expected)
            )
        except (TypeError, ValueError):
            return False
        same = numbers.shape == target.shape
        return same and np.allclose(numbers, target, rtol=self.tolerance, atol=1e-6, equal_nan=True)
