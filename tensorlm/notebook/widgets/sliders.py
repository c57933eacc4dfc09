"""Sliders that need no kernel: the page evaluates the polynomial itself, and `evaluate` is the same in Python."""

import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.polynomial.polynomial import polyval

from tensorlm.checks import as_array, require, require_interval, require_number, require_whole
from tensorlm.notebook.figures import palette
from tensorlm.notebook.widgets import page
from tensorlm.notebook.widgets.page import Data, Plot, Widget
from tensorlm.notebook.widgets.smoothed_landscape import landscape as landscape

SUMS = {"f": "f(ax)", "a2f": "a² f(x)"}
POINTS = 121
Shown = dict[str, float | None]


def bilinear(name: str, D: Any, L: Any, R: Any, point: Sequence[float], low: float = -2.0, high: float = 2.0,
             step: float = 0.05, title: str = "A bilinear layer, f(x) = D[(Lx) * (Rx)]") -> Widget:
    """One range input a coordinate of x (at most 3): shows each encoder, each hidden product and each output.

    `D` (o, h), `L` and `R` (h, d), `point` (d,) the start; at most 8 hidden units. Keys of `evaluate`: `l1..`, `r1..`
    (encoders), `h1..` (products), `f1..` (outputs). Raises ValueError naming the argument.

    >>> bilinear("demo", [[1, -1]], [[1, 0], [0, 1]], [[1, 1], [0, 1]], [1.0, 0.5]).evaluate([2.0, 1.0])["f1"]
    5.0
    """
    D, L, R, x = _factors(D, L, R, point, most_inputs=3)
    inputs = [page.range_input(f"x{i + 1}", "x" + "₁₂₃"[i], low, high, step, start) for i, start in enumerate(x)]
    corners = np.array(np.meshgrid(*[[low, high]] * L.shape[1])).reshape(L.shape[1], -1)
    products = (L @ corners) * (R @ corners)
    return _slider(name, kind="bilinear", title=title, inputs=inputs, D=page.plain(D), L=page.plain(L), R=page.plain(R),
                   bounds={"h": _bound(products), "f": _bound(D @ products)})


def scale(name: str, D: Any, L: Any, R: Any, point: Sequence[float], output: int = 0, low: float = -2.0, high: float = 2.0,
          start: float = 1.0, step: float = 0.05, title: str = "One input, scaled: f(ax) = a² f(x)") -> Widget:
    """One range input a: the contributions D_ok (L_k ax)(R_k ax) of every hidden unit to one output, and their shares.

    Factors as in `bilinear`; `output` is o. Keys of `evaluate`: `c1..` (contributions), `s1..` (shares of the sum of their
    sizes, None where that is 0), `f` (the output at ax, summed), `a2f` (a² times the output at x).
    """
    D, L, R, x = _factors(D, L, R, point)
    output = require_whole("output", output, 0, len(D) - 1)
    inputs = [page.range_input("a", "a", low, high, step, start)]
    contributions = D[output] * (L @ x) * (R @ x) * max(abs(low), abs(high)) ** 2
    bounds = {"c": _bound(contributions), "s": 1.0, "f": _bound(np.abs(contributions).sum())}
    return _slider(name, kind="scale", title=title, inputs=inputs, point=page.plain(x), D=page.plain(D[output]),
                   L=page.plain(L), R=page.plain(R), bounds=bounds)


def polynomial(name: str, curves: Mapping[str, Sequence[Any]], variable: str = "a", low: float = -2.0, high: float = 2.0,
               start: float = 1.0, step: float | None = None, y: tuple[float, float] | None = None,
               title: str = "Move the marker along the curves") -> Widget:
    """Curves in one variable with a marker that a range input moves.

    `curves` maps a label to the coefficients of a polynomial, constant term first, or to a pair (numerator, denominator) of
    such. `y` is the vertical range drawn (default: that of the curves). Keys: `y1..`. Raises ValueError naming the argument.

    >>> polynomial("demo", {"square": [0, 0, 1], "bounded": ([0, 1], [1, 0, 1])}, start=1.0).evaluate([2.0])
    {'y1': 4.0, 'y2': 0.4}
    """
    page.require_names("curves", curves, 7)
    key = variable if isinstance(variable, str) and re.fullmatch(r"[^\W\d][\w-]*", variable) else "variable"
    step = (require_number("high", high) - require_number("low", low)) / 80 if step is None else step
    data = {"kind": "polynomial", "title": title, "inputs": [page.range_input(key, variable, low, high, step, start)],
            "curves": [{"label": label, **_fraction(label, each, low, high)} for label, each in curves.items()]}
    return _slider(name, **data, box=_box(data, None if y is None else require_interval(y, "y")))


def _slider(name: str, **data: Any) -> Widget:
    return Widget("Slider", name, data, evaluate, html)


def _factors(D: Any, L: Any, R: Any, point: Any, most_inputs: int | None = None) -> tuple[np.ndarray, ...]:
    D, L, R, x = (as_array(values, name) for name, values in (("D", D), ("L", L), ("R", R), ("point", point)))
    if not (D.ndim == L.ndim == 2 and L.shape == R.shape and D.shape[1] == L.shape[0] and x.shape == L.shape[1:] and D.size and L.size):
        raise ValueError("shapes of D, L, R, point must be (o, h), (h, d), (h, d), (d,), not empty, "
                         f"got {D.shape}, {L.shape}, {R.shape}, {x.shape}")
    if L.shape[0] > 8 or L.shape[1] > (most_inputs or L.shape[1]):
        raise ValueError(f"L must have at most 8 hidden units and {most_inputs or 'any'} inputs, "
                         f"got {L.shape[0]} hidden units and {L.shape[1]} inputs")
    return D, L, R, x


def _bound(values: Any) -> float:
    return float(f"{float(np.abs(values).max()) or 1.0:.6g}")


def _fraction(label: str, coefficients: Sequence[Any], low: float, high: float) -> dict[str, list[float]]:
    try:
        pair = len(coefficients) == 2 and all(np.ndim(part) == 1 for part in coefficients)
    except (TypeError, ValueError, RuntimeError):
        pair = False
    above, below = (as_array(side, f"curves: {label!r}") for side in (coefficients if pair else (coefficients, [1.0])))
    fits = above.ndim == below.ndim == 1 and above.size and below.any()
    require(fits, f"curves: {label!r}", coefficients, "at least one coefficient, and a denominator other than 0")
    return {name: page.plain(side, page.powers(len(side), low, high)) for name, side in (("numerator", above), ("denominator", below))}


def _box(data: Data, y: tuple[float, float] | None) -> dict[str, Any]:
    low, high = data["inputs"][0]["low"], data["inputs"][0]["high"]
    columns = [evaluate(data, [a]) for a in np.linspace(low, high, POINTS)]
    heights = [[None if column[key] is None else float(f"{column[key]:.6g}") for column in columns] for key in columns[0]]
    known = [height for curve in heights for height in curve if height is not None]
    least, most = y or (min(known), max(known))
    margin = 0.0 if y else max(0.05 * (most - least) or 1.0, 1e-4 * abs(most))
    bottom, top = (float(f"{height:.6g}") for height in (least - margin, most + margin))
    require(bottom < top, "y", y, "numbers that differ in their first 6 digits")
    return {**page.FRAME, "low": low, "high": high, "min": bottom, "max": top, "heights": heights}


def evaluate(data: Data, values: Sequence[float]) -> Shown:
    """What a page with `data` shows when its inputs stand at `values`; None for what is undefined there."""
    inputs, count = as_array(values, "values"), len(data["L"][0]) if data["kind"] == "bilinear" else 1
    require(inputs.shape == (count,), "values", values, f"{count} numbers, one an input")
    if data["kind"] == "polynomial":
        value = lambda side: float(polyval(inputs[0], side))
        ratios = ((value(curve["numerator"]), value(curve["denominator"])) for curve in data["curves"])
        return {f"y{i}": above / below if below else None for i, (above, below) in enumerate(ratios, 1)}
    D, L, R = (np.array(data[key]) for key in "DLR")
    if data["kind"] == "bilinear":
        left, right = L @ inputs, R @ inputs
        return page.numbered(l=left, r=right, h=left * right, f=D @ (left * right))
    x, a = np.array(data["point"]), inputs[0]
    c = D * (L @ (a * x)) * (R @ (a * x))
    total = float(np.abs(c).sum())
    shares = np.abs(c) / total if total else [None] * len(c)
    return {**page.numbered(c=c, s=shares), "f": float(c.sum()), "a2f": float(a**2 * (D * (L @ x) * (R @ x)).sum())}


def html(widget: Widget) -> str:
    data = widget.data
    start = evaluate(data, [each["start"] for each in data["inputs"]])
    tables = {"bilinear": _bilinear, "scale": _scale, "polynomial": _polynomial}[data["kind"]](data, start)
    body = "\n".join([*(page.control(widget.name, each) for each in data["inputs"]), tables, _samples(data)])
    return page.frame(widget, "slider", body, ["slider.js"])


def text(value: float | None) -> str:
    return "undefined" if value is None else page.precise(0.0 if abs(value) < 1e-12 else value)


def _row(label: Any, start: Shown, bounds: Data, *keys: str, before: str = "") -> str:
    cells = (page.bar(key, start[key], bound := bounds[key.strip("0123456789")[-1]], f' data-bound="{page.exact(bound)}"')
             + page.cell(key, text(start[key])) for key in keys)
    return f'<tr><th scope="row">{label}</th>{before}{"".join(cells)}</tr>'


def _bilinear(data: Data, start: Shown) -> str:
    factors = '<td class="tlm-detail"><span data-key="l{0}">{1}</span> × <span data-key="r{0}">{2}</span></td>'
    hidden = [_row(k, start, data["bounds"], f"h{k}", before=factors.format(k, text(start[f"l{k}"]), text(start[f"r{k}"])))
              for k in range(1, len(data["L"]) + 1)]
    outputs = [_row(o, start, data["bounds"], f"f{o}") for o in range(1, len(data["D"]) + 1)]
    return (page.table("Hidden units: each encoder, and their product", ["unit", "(Lx) × (Rx)", "", "product"], hidden)
            + page.table("Outputs: the products, mixed by D", ["output", "", "f(x)"], outputs, live=True))


def _scale(data: Data, start: Shown) -> str:
    rows = [_row(k, start, data["bounds"], f"c{k}", f"s{k}") for k in range(1, len(data["L"]) + 1)]
    sums = [_row(label, start, data["bounds"], key) for key, label in (("f", "f(ax), summed over the units"), ("a2f", SUMS["a2f"]))]
    return (page.table("Contribution of each hidden unit at ax, and its share", ["unit", "", "contribution", "", "share"], rows)
            + page.table("The output", ["", "", "value"], sums, live=True))


def _polynomial(data: Data, start: Shown) -> str:
    box, first = data["box"], data["inputs"][0]
    plot, parts, rows = Plot(first["low"], first["high"], first["label"], box["min"], box["max"]), [], []
    labels = [escape(curve["label"]) for curve in data["curves"]]
    for (key, value), label, heights, colour, dash in zip(start.items(), labels, box["heights"], palette.values(), page.DASHES):
        height, seen = (value, "visible") if value is not None and plot.inside(value) else (plot.top, "hidden")
        parts.append(f'<path d="{plot.path(heights)}" {page.STROKE.format(colour, 2, dash)}/>'
                     + plot.dot(key, first["start"], height, colour, 5, f' visibility="{seen}"'))
        rows.append(f'<tr><th scope="row">{page.SWATCH.format(colour, dash)} {label}</th>{page.cell(key, text(value))}</tr>')
    picture = page.PICTURE.format("Curves: " + ", ".join(labels), "".join([plot.axes(), *parts]))
    return picture + page.table("Values at the marker", ["curve", "value"], rows, live=True)


def _samples(data: Data) -> str:
    starts = [each["start"] for each in data["inputs"]]
    points = [starts] + [starts[:i] + [float(a)] + starts[i + 1:] for i, each in enumerate(data["inputs"])
                         for a in np.linspace(each["low"], each["high"], 5)]
    wanted = [key for key in evaluate(data, starts) if key[0] in "fy" or key == "a2f"]
    names = [data["curves"][int(key[1:]) - 1]["label"] if key[0] == "y" else SUMS.get(key, key) for key in wanted]
    rows = [[f"{a:.4g}" for a in point] + [text(evaluate(data, point)[key]) for key in wanted] for point in points]
    return page.samples("", [each["label"] for each in data["inputs"]] + names, rows)
