"""Checks of arguments: every error is a ``ValueError`` that names the argument, what came and what is allowed."""

from __future__ import annotations

import math
import operator
import reprlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.cbook import is_math_text
from matplotlib.mathtext import MathTextParser

REAL = "real numbers, in an array or in lists of equal lengths"


def require(fits: Any, name: str, value: Any, allowed: str) -> None:
    """Raise ``ValueError`` unless ``fits``; an array is named by its shape.

    >>> require(False, "fig", np.ones((2, 3)), "a matplotlib Figure")
    Traceback (most recent call last):
    ValueError: fig: got ndarray of shape (2, 3), allowed: a matplotlib Figure
    """
    if not fits:
        raise unfit(name, value, allowed)


def unfit(name: str, value: Any, allowed: str) -> ValueError:
    shape = getattr(value, "shape", None)
    try:
        got = f"{type(value).__name__} of shape {tuple(shape)}" if isinstance(shape, tuple) else reprlib.repr(value)
    except ValueError:  # Python does not write integers of more than 4,300 digits
        got = type(value).__name__
    return ValueError(f"{name}: got {got}, allowed: {allowed}")


def require_text(**texts: Any) -> None:
    for name, value in texts.items():
        require(isinstance(value, str), name, value, "text")


def real(name: str, value: Any) -> float:
    """A number, which may be infinite or nan, as a float. Text is no number.

    >>> real("limit", "3")
    Traceback (most recent call last):
    ValueError: limit: got '3', allowed: a number
    """
    try:
        require(not isinstance(value, str | bytes | complex), name, value, "a number")
        return float(value.detach() if hasattr(value, "detach") else value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        raise unfit(name, value, "a number") from None


def finite(name: str, value: Any, above: float = -math.inf, most: float = sys.float_info.max) -> float:
    """A finite number above ``above``, ``most`` at most, as a float.

    >>> finite("limit", -1, above=0)
    Traceback (most recent call last):
    ValueError: limit: got -1, allowed: a finite number above 0
    """
    number = real(name, value)
    bounds = [f" above {above:g}"] * (above > -math.inf) + [f" up to {most:g}"] * (most < sys.float_info.max)
    require(above < number <= most, name, value, "a finite number" + ",".join(bounds))
    return number


def whole(name: str, value: Any, least: int, most: int) -> int:
    """A whole number from ``least`` to ``most``.

    >>> whole("output", 1.5, 0, 3)
    Traceback (most recent call last):
    ValueError: output: got 1.5, allowed: 0 to 3, a whole number
    """
    try:
        number = least - 1 if isinstance(value, bool) else operator.index(value)
    except (TypeError, RuntimeError):
        number = least - 1
    require(least <= number <= most, name, value, f"{least} to {most}, a whole number")
    return number


def entries(name: str, values: Any) -> list[Any]:
    """What can be iterated over, as a list."""
    try:
        return list(values)
    except (TypeError, RuntimeError):
        raise unfit(name, values, "a sequence") from None


def texts(name: str, values: Any) -> list[str]:
    """A sequence of text, as a list."""
    words = entries(name, values)
    require(all(isinstance(each, str) for each in words), name, values, "a sequence of text")
    return words


def mapping(name: str, value: Any) -> dict[str, Any]:
    """A mapping with text as its keys, as a dictionary."""
    require(isinstance(value, Mapping) and all(isinstance(key, str) for key in value), name, value, "a mapping whose keys are text")
    return dict(value)


def instances(name: str, kind: type, values: Any) -> list[Any]:
    """Each entry as the ``kind``, a dataclass, that it is or whose arguments it holds."""
    made = []
    for value in entries(name, values):
        try:
            made.append(value if isinstance(value, kind) else kind(*value))
        except TypeError:
            raise unfit(name, value, f"{kind.__name__} or its arguments {tuple(kind.__annotations__)}") from None
    return made


def point(name: str, place: Any) -> tuple[float, float]:
    """A position as two floats."""
    try:
        x, y = map(float, finite_array(place).tolist())
    except (TypeError, ValueError):
        raise unfit(name, place, "two finite numbers (x, y)") from None
    return x, y


def require_drawable(name: str, words: Any, form: str = "{}") -> None:
    """Raise ``ValueError`` where matplotlib does not know the mathematics between dollar signs, once ``words`` stand in ``form``.

    >>> require_drawable("words", "$T_$")
    Traceback (most recent call last):
    ValueError: words: got '$T_$', allowed: text with mathematics that matplotlib knows between its dollar signs
    """
    try:
        for line in filter(is_math_text, form.format(str(words)).split("\n")):
            MathTextParser("path").parse(line)
    except ValueError:
        raise unfit(name, words, "text with mathematics that matplotlib knows between its dollar signs") from None


def options(chosen: Any, counts: Sequence[int]) -> list[int]:
    """The numbers of the options that lists of ``counts`` options stand at."""
    numbers = entries("chosen", chosen)
    require(len(numbers) == len(counts), "chosen", chosen, f"{len(counts)} numbers, one a list")
    return [whole("chosen", number, 0, count - 1) for number, count in zip(numbers, counts)]


def finite_array(values: Any, name: str = "weights") -> np.ndarray:
    """Numbers, in lists, an array or a tensor, as an array of float64. Text, complex and ragged entries are refused.

    >>> finite_array([[1.0], [1.0, 2.0]], "D")
    Traceback (most recent call last):
    ValueError: D: got [[1.0], [1.0, 2.0]], allowed: real numbers, in an array or in lists of equal lengths
    """
    try:
        if hasattr(values, "detach"):
            values = values.detach().cpu()
            given = np.asarray(values.double() if values.is_floating_point() else values)
        else:
            given = np.asarray(values)
        require(values is not None and given.dtype.kind in "biufO", name, values, REAL)
        array = given.astype(float)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        raise unfit(name, values, REAL) from None
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: got an entry that is not finite, allowed: finite numbers")
    return array
