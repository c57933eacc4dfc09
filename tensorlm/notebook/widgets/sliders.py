"""Sliders that need no kernel: the page evaluates the real function, since here the function is a polynomial.

A slider is plain HTML and JavaScript with its weights as JSON, works from disk with the network off, by keyboard, in
JupyterLab and in Colab's output frames. :func:`evaluate` is the same computation in Python, so that a browser test can
compare what the page shows with what it must show.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_DOWN, Context, Decimal
from typing import Any

import numpy as np

from tensorlm.notebook.arguments import finite_array, mapping, real, require, require_text, whole
from tensorlm.notebook.widgets import slider_page
from tensorlm.notebook.widgets.page import decimals, plain, powers

SUBSCRIPTS = "₀₁₂₃₄₅₆₇₈₉"


@dataclass(frozen=True)
class Slider:
    """A widget: its name (the id on the page) and all that the page gets to know, JSON-safe."""

    name: str
    data: dict[str, Any]

    def __post_init__(self) -> None:
        try:
            json.dumps(self.data, allow_nan=False)
        except ValueError:
            raise ValueError(f"{self.name}: got values that overflow, allowed: finite numbers wherever the inputs can stand") from None

    def evaluate(self, values: Sequence[float]) -> dict[str, float | None]:
        """What the page must show when its range inputs stand at ``values``: see :func:`evaluate`."""
        return evaluate(self.data, values)

    def _repr_html_(self) -> str:
        return slider_page.html(self.name, self.data, evaluate)

    def __repr__(self) -> str:
        return f"Slider {self.name!r}: {self.data['title']}"


def bilinear(name: str, D: Any, L: Any, R: Any, point: Sequence[float], low: float = -2.0, high: float = 2.0,
             step: float = 0.05, title: str = "A bilinear layer, f(x) = D[(Lx) * (Rx)]") -> Slider:
    """One range input a coordinate of x (at most 3): shows each encoder, each hidden product and each output.

    ``D`` (o, h), ``L`` and ``R`` (h, d), ``point`` (d,) the starting x. Keys of ``evaluate``: ``l1..``, ``r1..`` (encoders),
    ``h1..`` (products), ``f1..`` (outputs). Raises ``ValueError`` for other shapes, more than 3 inputs or 8 hidden units.

    >>> bilinear("demo", [[1, -1]], [[1, 0], [0, 1]], [[1, 1], [0, 1]], [1.0, 0.5]).evaluate([2.0, 1.0])["f1"]
    5.0
    """
    D, L, R, x = _factors(D, L, R, point, most_inputs=3)
    require_text(title=title)
    inputs = [range_input(f"x{i + 1}", f"x{SUBSCRIPTS[i + 1]}", low, high, step, start) for i, start in enumerate(x)]
    corners = np.array(np.meshgrid(*[[low, high]] * L.shape[1])).reshape(L.shape[1], -1)
    products = (L @ corners) * (R @ corners)
    data = {"kind": "bilinear", "title": title, "inputs": inputs, "D": plain(D), "L": plain(L), "R": plain(R),
            "bounds": {"h": _bound(products), "f": _bound(D @ products)}}
    return Slider(checked_name(name), data)


def scale(name: str, D: Any, L: Any, R: Any, point: Sequence[float], output: int = 0, low: float = -2.0, high: float = 2.0,
          start: float = 1.0, step: float = 0.05, title: str = "One input, scaled: f(ax) = a² f(x)") -> Slider:
    """One range input a: the contributions D_ok (L_k ax)(R_k ax) of every hidden unit to one output, and their shares.

    Factors as in :func:`bilinear`; ``output`` is o. Keys of ``evaluate``: ``c1..`` (contributions), ``s1..`` (shares of the sum of
    absolute contributions, ``None`` where that sum is 0), ``f`` (the output at ax, summed), ``a2f`` (a² times the output at x).

    >>> shown = scale("demo", [[1, -1]], [[1, 0], [0, 1]], [[1, 1], [0, 1]], [1.0, 0.5]).evaluate([2.0])
    >>> shown["f"] == shown["a2f"], shown["s2"]
    (True, 0.14285714285714285)
    """
    D, L, R, x = _factors(D, L, R, point)
    output = whole("output", output, 0, len(D) - 1)
    require_text(title=title)
    inputs = [range_input("a", "a", low, high, step, start)]
    contributions = D[output] * (L @ x) * (R @ x) * max(abs(low), abs(high)) ** 2
    data = {"kind": "scale", "title": title, "inputs": inputs, "point": plain(x),
            "D": plain(D[output]), "L": plain(L), "R": plain(R),
            "bounds": {"c": _bound(contributions), "s": 1.0, "f": _bound(np.abs(contributions).sum())}}
    return Slider(checked_name(name), data)


def polynomial(name: str, curves: Mapping[str, Sequence[Any]], variable: str = "a", low: float = -2.0, high: float = 2.0,
               start: float = 1.0, step: float | None = None, y: tuple[float, float] | None = None,
               title: str = "Move the marker along the curves") -> Slider:
    """Curves in one variable with a marker that a range input moves.

    ``curves`` maps a label to the coefficients of a polynomial, constant term first, or to a pair (numerator, denominator) of such for a
    rational curve. ``y`` is the vertical range drawn (default: that of the curves). Keys of ``evaluate``: ``y1..`` in their order.
    Raises ``ValueError`` naming the argument that cannot be drawn.

    >>> polynomial("demo", {"square": [0, 0, 1], "bounded": ([0, 1], [1, 0, 1])}, start=1.0).evaluate([2.0])
    {'y1': 4.0, 'y2': 0.4}
    """
    curves = mapping("curves", curves)
    if not 1 <= len(curves) <= 7:
        raise ValueError(f"curves: got {len(curves)}, allowed: 1 to 7")
    if y is not None:
        ends = finite_array(y, "y")
        require(ends.shape == (2,) and ends[0] < ends[1], "y", y, "two finite numbers, the lower one first")
    require_text(variable=variable, title=title)
    key = variable if re.fullmatch(r"[^\W\d][\w-]*", variable) else "variable"
    inputs = [range_input(key, variable, low, high, (real("high", high) - real("low", low)) / 80 if step is None else step, start)]
    drawn = [{"label": label, **_fraction(label, coefficients, low, high)} for label, coefficients in curves.items()]
    data = {"kind": "polynomial", "title": title, "inputs": inputs, "curves": drawn}
    return Slider(checked_name(name), {**data, "box": slider_page.box(data, y, evaluate)})


def evaluate(data: Mapping[str, Any], values: Sequence[float]) -> dict[str, float | None]:
    """What a page with ``data`` shows when its inputs stand at ``values``; ``None`` for what is undefined there.

    >>> evaluate({"kind": "polynomial", "curves": [{"numerator": [1, 2], "denominator": [1]}]}, [3.0])
    {'y1': 7.0}
    """
    inputs = finite_array(values, "values")
    count = len(data["L"][0]) if data["kind"] == "bilinear" else 1
    require(inputs.shape == (count,), "values", values, f"{count} numbers, one an input")
    return {"bilinear": _bilinear, "scale": _scale, "polynomial": _polynomial}[data["kind"]](data, inputs)


def _bilinear(data: Mapping[str, Any], x: np.ndarray) -> dict[str, float | None]:
    left, right = np.array(data["L"]) @ x, np.array(data["R"]) @ x
    hidden = left * right
    return _named(l=left, r=right, h=hidden, f=np.array(data["D"]) @ hidden)


def _scale(data: Mapping[str, Any], values: np.ndarray) -> dict[str, float | None]:
    D, L, R, x = (np.array(data[key]) for key in ("D", "L", "R", "point"))
    c = D * (L @ (values[0] * x)) * (R @ (values[0] * x))
    total = float(np.abs(c).sum())
    shares = np.abs(c) / total if total else [None] * len(c)
    return {**_named(c=c, s=shares), "f": float(c.sum()), "a2f": float(values[0] ** 2 * (D * (L @ x) * (R @ x)).sum())}


def _polynomial(data: Mapping[str, Any], values: np.ndarray) -> dict[str, float | None]:
    def value(curve: Mapping[str, Any]) -> float | None:
        above, below = (float(np.polynomial.polynomial.polyval(values[0], curve[part])) for part in ("numerator", "denominator"))
        return above / below if below else None

    return {f"y{i + 1}": value(curve) for i, curve in enumerate(data["curves"])}


def _named(**groups: Any) -> dict[str, float | None]:
    """Flat keys: the letter of the group and the number of the entry, from 1."""
    flat = {f"{letter}{i + 1}": entry for letter, entries in groups.items() for i, entry in enumerate(entries)}
    return {key: None if entry is None else float(entry) for key, entry in flat.items()}


def _fraction(label: str, coefficients: Sequence[Any], low: float, high: float) -> dict[str, list[float]]:
    """A polynomial or a pair of polynomials as numerator and denominator."""
    try:
        pair = len(coefficients) == 2 and all(np.ndim(part) == 1 for part in coefficients)
    except (TypeError, ValueError, RuntimeError):
        pair = False
    above, below = (finite_array(side, f"curves: {label!r}") for side in (coefficients if pair else (coefficients, [1.0])))
    if not (above.ndim == 1 and above.size and below.any()):
        raise ValueError(f"curves: got {coefficients!r} for {label!r}, allowed: one coefficient at least, and a denominator other than 0")
    return {key: plain(side, powers(len(side), low, high)) for key, side in (("numerator", above), ("denominator", below))}


def _factors(D: Any, L: Any, R: Any, point: Any, most_inputs: int | None = None) -> tuple[np.ndarray, ...]:
    D, L, R, x = (finite_array(values, name) for name, values in (("D", D), ("L", L), ("R", R), ("point", point)))
    if not (D.ndim == L.ndim == 2 and L.shape == R.shape and D.shape[1] == L.shape[0] and x.shape == L.shape[1:] and D.size and L.size):
        raise ValueError(f"shapes: got D {D.shape}, L {L.shape}, R {R.shape}, point {x.shape}, allowed: (o, h), (h, d), (h, d), (d,), "
                         "not empty")
    if L.shape[0] > 8 or L.shape[1] > (most_inputs or L.shape[1]):
        raise ValueError(f"L: got {L.shape[0]} hidden units and {L.shape[1]} inputs, allowed: 8 and {most_inputs or 'any'} at most")
    return D, L, R, x


def range_input(key: str, label: str, low: float, high: float, step: float, start: float) -> dict[str, Any]:
    """One range input; the start must be a value that the browser can show, which is ``low`` plus whole steps.

    Browsers add steps in decimal: a step whose multiple would miss ``high`` by rounding is cut after 15 digits.
    ``decimals`` of the value shown tell one step from the next.
    """
    low, high, step, start = real("low", low), real("high", high), real("step", step), real("start", start)
    if not (-math.inf < low < high < math.inf and 0 < step < math.inf and (high - low) / step < 1e15):
        raise ValueError(f"range of {key}: got low={low}, high={high}, step={step}, allowed: finite, low < high, step above 0, below "
                         "1e15 steps")
    steps = (start - low) / step
    if not low <= start <= high or abs(steps - round(steps)) > 1e-6:
        raise ValueError(f"start of {key}: got {start}, allowed: {low} plus a whole number of steps of {step}, up to {high}")
    first, end, each, count = Decimal(repr(low)), Decimal(repr(high)), Decimal(repr(step)), math.floor((high - low) / step + 1e-6)
    if first + count * each > end:
        each = Context(prec=15, rounding=ROUND_DOWN).divide(end - first, Decimal(count))
    places = max(decimals(low), decimals(float(each)))
    return {"key": key, "label": label, "low": low, "high": high, "last": float(first + count * each), "step": float(each),
            "start": float(first + round(steps) * each), "decimals": min(places, max(6, 5 - math.floor(math.log10(step))))}


def _bound(values: Any) -> float:
    return float(f"{float(np.abs(values).max()) or 1.0:.6g}")


def checked_name(name: str) -> str:
    fits = isinstance(name, str) and re.fullmatch(r"[a-z][a-z0-9-]*", name)
    require(fits, "name", name, "lower-case letters, digits and '-', starting with a letter")
    return name
