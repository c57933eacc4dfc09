"""Numbers on a page: written as JavaScript writes them, exact where a browser computes with them, cut where rounding begins."""

from __future__ import annotations

import math
from decimal import ROUND_HALF_UP, Decimal, localcontext
from typing import Any

import numpy as np


def precise(value: float, digits: int = 7) -> str:
    """JavaScript's `toPrecision`: plain from 1e-6 to below 1e7 (with 7 digits), halves away from zero.

    >>> precise(1.5e-05), precise(-1234567.0), precise(12345678.0), precise(1.5e-07), precise(2**-11, 3)
    ('0.00001500000', '-1234567', '1.234568e+7', '1.500000e-7', '0.000488')
    """
    with localcontext(prec=1200, rounding=ROUND_HALF_UP):
        size = Decimal(abs(value))
        size = round(size, digits - 1 - size.adjusted()) if size else size
        power = size.adjusted() if size else 0
        if -7 < power < digits:
            words = f"{size:.{digits - 1 - power}f}"
        else:
            words = f"{size.scaleb(-power):.{digits - 1}f}e{power:+d}"
    return "-" * (value < 0) + words


def exact(number: float, places: int = 0) -> str:
    """All digits of a number that make it that one, without an exponent; at least so many decimals.

    >>> exact(30864.175), exact(1.5e-05), exact(2.0), exact(-2.0, 2), exact(1e21)
    ('30864.175', '0.000015', '2', '-2.00', '1000000000000000000000')
    """
    return f"{Decimal(repr(float(number))):.{max(places, decimals(number))}f}"


def decimals(number: float) -> int:
    """How many digits stand behind the point when all are written.

    >>> decimals(0.05), decimals(1e-9), decimals(2e22)
    (2, 9, 0)
    """
    return max(0, -int(Decimal(repr(float(number))).normalize().as_tuple().exponent))


def plain(array: np.ndarray, weights: Any = 1.0, digits: int = 12) -> Any:
    """Nested lists without what rounding decides, which differs between processors: ``digits`` of the largest entry, all cut at one place.

    Entries count as large as they are times ``weights``: coefficients of powers times the powers of the largest strength.

    >>> plain(np.array([[1234.5678, 1e-9], [0.0049, -3.0]]), digits=6)
    [[1234.57, 0.0], [0.0, -3.0]]
    """
    array, weights = np.asarray(array, dtype=float), np.broadcast_to(np.asarray(weights, dtype=float), np.shape(array))
    with np.errstate(over="ignore"):
        largest = float(np.abs(array * weights).max(initial=0.0))
    if not math.isfinite(largest):
        raise ValueError("values: got some that overflow, allowed: finite numbers wherever the inputs can stand")
    places = digits - 1 - np.floor(np.log10(largest / weights)) if largest else np.zeros(array.shape)
    return _cut(array, places)


def _cut(array: np.ndarray, places: np.ndarray) -> Any:
    return [_cut(row, each) for row, each in zip(array, places)] if array.ndim else round(float(array), int(places)) + 0.0


def powers(count: int, low: float, high: float) -> np.ndarray:
    """How large the powers 0 to ``count`` - 1 of a strength can be between ``low`` and ``high``, at least 1."""
    with np.errstate(over="ignore"):
        return max(abs(low), abs(high), 1.0) ** np.arange(count)
