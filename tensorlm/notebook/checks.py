"""Exercises that check themselves, and checks that are themselves checked.

An :class:`Exercise` carries known wrong answers beside its check; a test demands that every one of them is rejected, and
that the solution printed in the chapter is accepted. The exercises of chapter 2 stand in ``exercises/ch02.py``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tensorlm.notebook.arguments import require, require_text
from tensorlm.notebook.exercises import modules


class NotAnswered(Exception):
    """The learner's function is still a stub: it gave ``None`` or ``...`` back."""


@dataclass(frozen=True)
class Exercise:
    """One exercise: ``check(answer)`` returns for a right answer, and raises ``AssertionError`` naming the likely mistake.

    ``mutants`` are wrong answers that learners give; at least two, each rejected by ``check``.

    >>> double = Exercise("00.1", "Double it", check=lambda f: _equal(f(3), 6), mutants=(lambda x: x + 2, lambda x: x * x))
    >>> double.verdict(lambda x: 2 * x)
    'Exercise 00.1: correct.'
    >>> double.verdict(lambda x: x + 2)
    'Exercise 00.1: not yet. Got 5, expected 6.'
    >>> double.verdict(lambda x: ...)
    'Exercise 00.1: not answered yet.'
    >>> double.verdict(6)
    'Exercise 00.1: not yet. A function is wanted, got int.'
    """

    id: str
    title: str
    check: Callable[[Any], None]
    mutants: tuple[Any, ...]

    def __post_init__(self) -> None:
        require_text(id=self.id, title=self.title)
        require(isinstance(self.mutants, Sequence) and len(self.mutants) > 1, f"mutants of exercise {self.id}", self.mutants, "2 or more")

    def verdict(self, answer: Any) -> str:
        """One sentence for the learner; never raises for anything that the learner's code does."""
        name, function = f"Exercise {self.id}", callable(self.mutants[0])
        if answer is not None and answer is not Ellipsis and callable(answer) != function:
            return f"{name}: not yet. A {'function' if function else 'value'} is wanted, got {type(answer).__name__}."
        try:
            self.check(_watched(answer))
        except (NotAnswered, NotImplementedError):
            return f"{name}: not answered yet."
        except AssertionError as wrong:
            return f"{name}: not yet. {wrong}"
        except Exception as crash:
            return f"{name}: your code raised {type(crash).__name__}: {crash}"
        return f"{name}: correct."


def check(exercise_id: str, answer: Any) -> None:
    """Print whether ``answer`` (a value or a function) solves the exercise. Raises ``ValueError`` for an unknown id.

    >>> check("99.9", 1)
    Traceback (most recent call last):
    ValueError: exercise: got '99.9', allowed: ...
    """
    known = registry()
    require(isinstance(exercise_id, str) and exercise_id in known, "exercise", exercise_id, ", ".join(sorted(known)) or "none yet")
    print(known[exercise_id].verdict(answer))


@functools.cache
def registry() -> dict[str, Exercise]:
    """All exercises of the book by id. Raises ``ValueError`` for an id given twice or filed under the wrong chapter.

    >>> all(key == exercise.id for key, exercise in registry().items())
    True
    """
    found: dict[str, Exercise] = {}
    for chapter, module in modules().items():
        for exercise in module.EXERCISES:
            if exercise.id in found or exercise.id.partition(".")[0] != chapter:
                raise ValueError(f"exercise id {exercise.id!r} in ch{chapter}.py: allowed: new ids that start with '{chapter}.'")
            found[exercise.id] = exercise
    return found


def _watched(answer: Any) -> Any:
    """``answer``, or a function around it that raises :class:`NotAnswered` when it gives nothing back."""
    if answer is None or answer is Ellipsis:
        raise NotAnswered
    if isinstance(answer, type) or not callable(answer):
        return answer

    @functools.wraps(answer)
    def call(*args: Any, **kwargs: Any) -> Any:
        result = answer(*args, **kwargs)
        if result is None or result is Ellipsis:
            raise NotAnswered
        return result

    return call


def _equal(got: Any, expected: Any) -> None:
    """Raise ``AssertionError`` with both values unless they are equal."""
    assert got == expected, f"Got {got}, expected {expected}."
