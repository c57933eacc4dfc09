"""Exercises that check themselves: a test has known wrong answers rejected, and the printed solution accepted."""

import functools
import importlib
import operator
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from einops import einsum
from torch import Tensor

from tensorlm.checks import require, require_one_of
from tensorlm.notebook import exercises
from tensorlm.tables import Table

DTYPE = torch.float64
TOLERANCE = 1e-9
CORRECT, UNANSWERED = ": correct.", ": not answered yet."
as_tensor = functools.partial(torch.as_tensor, dtype=DTYPE)


class NotAnswered(Exception):
    """The learner's function is still a stub."""


@dataclass(frozen=True)
class Exercise:
    """`check(answer)` raises AssertionError naming the likely mistake, as for each of the known wrong `mutants`."""

    id: str
    title: str
    check: Callable[[Any], None]
    mutants: tuple[Any, ...]

    def __post_init__(self) -> None:
        fits = isinstance(self.mutants, Sequence) and len(self.mutants) > 1
        require(fits, f"mutants of exercise {self.id}", self.mutants, "at least two wrong answers")

    def verdict(self, answer: Any) -> str:
        """One sentence for the learner; never raises for anything that the learner's code does."""
        name, function = f"Exercise {self.id}", callable(self.mutants[0])
        if answer is not None and answer is not Ellipsis and callable(answer) != function:
            return f"{name}: not yet. A {'function' if function else 'value'} is wanted, got {type(answer).__name__}."
        try:
            self.check(_watched(answer))
        except (NotAnswered, NotImplementedError):
            return name + UNANSWERED
        except AssertionError as wrong:
            return f"{name}: not yet. {wrong}"
        except Exception as crash:
            return f"{name}: your code raised {type(crash).__name__}: {crash}"
        return name + CORRECT


def exercise(id: str, title: str, *mutants: Any) -> Callable[[Callable[[Any], None]], Exercise]:
    """Makes the function below, a check, the exercise with these known wrong answers."""
    return lambda check: Exercise(id, title, check, mutants)


class Checker:
    """`check("01.1", answer)` prints whether `answer` (a value or a function) solves the exercise; ValueError for an unknown id.

    The running session remembers each exercise that was asked about, and `check.progress()` prints them as a table: a try is an
    answer that was given, so a stub that still holds `...` counts as none, and what was solved once stays solved.

    >>> check("99.9", 1)
    Traceback (most recent call last):
    ValueError: exercise must be one of '01.0', ..., got '99.9'
    >>> check("01.2", lambda d, k: d**k)    # doctest: +ELLIPSIS
    Exercise 01.2: not yet. ...
    """

    def __init__(self) -> None:
        self.tries: dict[str, int] = {}
        self.solved: set[str] = set()

    def __call__(self, exercise_id: str, answer: Any) -> None:
        require_one_of("exercise", exercise_id, registry())
        verdict = registry()[exercise_id].verdict(answer)
        print(verdict)
        self.tries[exercise_id] = self.tries.get(exercise_id, 0) + (not verdict.endswith(UNANSWERED))
        if verdict.endswith(CORRECT):
            self.solved.add(exercise_id)

    def progress(self) -> None:
        """Print the exercises that were checked in this session: whether each is solved, and after how many tries.

        >>> mine = Checker()
        >>> mine("01.2", ...)
        Exercise 01.2: not answered yet.
        >>> mine("01.2", lambda d, k: d**k)    # doctest: +ELLIPSIS
        Exercise 01.2: not yet. ...
        >>> mine("02.1", lambda layers, encoders: encoders**layers)
        Exercise 02.1: correct.
        >>> mine.progress()
        exercise                           solved  tries
        01.2      How many monomials?      no          1
        02.1      The exponent of a stack  yes         1
        1 of 2 solved
        """
        if not self.tries:
            print("No exercise was checked in this session yet.")
            return
        rows = [(name, registry()[name].title, "yes" if name in self.solved else "no", self.tries[name]) for name in sorted(self.tries)]
        print(Table(("exercise", "", "solved", "tries"), tuple(rows)))
        print(f"{len(self.solved)} of {len(self.tries)} solved")


check = Checker()


@functools.cache
def registry() -> dict[str, Exercise]:
    """All exercises of the book by id. Raises ValueError for an id given twice or filed under the wrong chapter."""
    found: dict[str, Exercise] = {}
    for name in sorted(info.name for info in pkgutil.iter_modules(exercises.__path__)):
        for each in vars(importlib.import_module(f"{exercises.__name__}.{name}")).values():
            if isinstance(each, Exercise):
                fits = each.id not in found and f"ch{each.id.partition('.')[0]}" == name
                require(fits, f"exercise id in {name}.py", each.id, "a new one that starts with the number of its chapter")
                found[each.id] = each
    return found


def answered(value: Any) -> Any:
    if value is None or value is Ellipsis:
        raise NotAnswered
    return value


def _watched(answer: Any) -> Any:
    """`answer`, or a function around it that raises NotAnswered when it gives nothing back."""
    if isinstance(answered(answer), type) or not callable(answer):
        return answer
    return functools.wraps(answer)(lambda *args, **kwargs: answered(answer(*args, **kwargs)))


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DTYPE)


def random_layer(seed: int, out: int = 4, hidden: int = 5, width: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Factors of a bilinear layer: D (out, hidden), L and R (hidden, width)."""
    return random(out, hidden, seed=seed), random(hidden, width, seed=seed + 1), random(hidden, width, seed=seed + 2)


def apply(factors: Sequence[Tensor], x: Tensor) -> Tensor:
    D, L, R = factors
    return ((x @ L.mT) * (x @ R.mT)) @ D.mT


def third_order(D: Tensor, L: Tensor, R: Tensor) -> Tensor:
    """T_oij = sum_k D_ok L_ki R_kj, as it stands."""
    return einsum(D, L, R, "out unit, unit i, unit j -> out i j")


def random_form(*eigenvalues: float, seed: int) -> Tensor:
    basis = torch.linalg.qr(random(len(eigenvalues), len(eigenvalues), seed=seed)).Q
    Q = basis @ torch.diag(as_tensor(eigenvalues)) @ basis.mT
    return (Q + Q.mT) / 2


def as_factors(answer: Any) -> list[Tensor]:
    assert isinstance(answer, tuple | list) and len(answer) == 3, "Give the three factors as a tuple (D, L, R)."
    return [as_tensor(answered(factor)) for factor in answer]


def near(got: Any, expected: Any) -> bool:
    """Whether both have one shape and differ by less than the tolerance, relative to the size of `expected`."""
    got, expected = as_tensor(got), as_tensor(expected)
    return got.shape == expected.shape and bool((got - expected).norm() <= TOLERANCE * (1 + expected.norm()))


def compare(got: Any, expected: Any, hint: str, mistakes: Mapping[str, Any] | None = None, each: str = "") -> None:
    """Raise AssertionError with the mistake whose value was given, else with `hint`; `each` names the entries of a shape."""
    shapes = tuple(as_tensor(expected).shape), tuple(as_tensor(got).shape)
    assert not each or shapes[0] == shapes[1], f"{each}: expected shape {shapes[0]}, got {shapes[1]}."
    for mistake, wrong in (mistakes or {}).items():
        assert not near(got, wrong), mistake
    assert near(got, expected), hint


def cases(words: str, reference: Callable[..., Any], hints: Sequence[tuple[tuple, str]],
          kind: Callable[[Any], Any] = lambda got: got, fits: Callable[[Any, Any], bool] = operator.eq) -> Callable[[Any], None]:
    """The check of an answer, taken as a `kind`, at arguments with their hints, which `words` formats."""
    def check(answer: Any) -> None:
        for given, hint in hints:
            got, expected = kind(answer(*given)), reference(*given)
            assert fits(got, expected), words.format(*given, got=got, expected=expected, hint=hint)

    return check
