"""The HTML of stacked parts: a still picture of the starting point, which a short script then keeps up to date.

Without scripts (GitHub's preview, a printout) the starting values and a table of sample points remain.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from tensorlm.notebook.figures import palette
from tensorlm.notebook.widgets.page import precise
from tensorlm.notebook.widgets.slider_page import (
    DASHES,
    HEIGHT,
    WIDTH,
    asset,
    control,
    script,
    still,
    stored,
    svg_line,
    svg_text,
    swatch,
    table,
    ticks,
)

Data = Mapping[str, Any]
Evaluate = Callable[[Data, float, Sequence[int]], dict[str, float]]
POINTS = 81
FRAME = {"left": 46, "top": 8, "width": WIDTH - 56, "height": HEIGHT - 38}
COLOURS = [palette[name] for name in ("sky", "green", "blue", "orange", "pink", "amber")]
TOTAL = palette["black"]
HIDDEN = ' display="none"'


def html(name: str, data: Data, evaluate: Evaluate) -> str:
    """The whole widget as one string, the same for the same arguments; ids start with ``tlm-<name>``."""
    first, strength = data["inputs"][0], data["inputs"][0]["start"]
    chosen = [0] * len(data["choices"])
    return f"""<div class="tlm-slider tlm-stack" id="tlm-{name}" data-tlm-stack="{name}" role="group" aria-labelledby="tlm-{name}-title">
<style>{asset("slider.css")}{asset("stacked_parts.css")}</style>
<p class="tlm-title" id="tlm-{name}-title">{escape(data["title"])}</p>
{still("it moves")}
{_lists(name, data)}
{control(name, first)}
{_picture(data, evaluate, chosen, strength)}
{_rows(data, evaluate(data, strength, chosen), chosen)}
<details><summary>Sample values as a table</summary><div class="tlm-scroll">{_samples(data, evaluate)}</div></details>
{stored({**data, "frame": FRAME, "points": POINTS})}
{moved_by(name, "data-tlm-stack", "stacked_parts.js")}
</div>"""


def text(value: float) -> str:
    """A number as the script writes it, signed, with 2 decimals; the exact one stands beside it for whoever asks.

    >>> text(1.257), text(-0.004), text(-3.14159)
    ('+1.26', '0.00', '−3.14')
    """
    size = math.floor(abs(value) * 100 + 0.5)
    words = f"{size / 100:.2f}" if abs(value) < 1e15 else precise(abs(value))
    return f"{('−' if value < 0 else '+') if size else ''}{words}"


def span(start: float, end: float, reach: float) -> tuple[float, float]:
    """Left edge and width, in percent, of a bar from ``start`` to ``end`` on a scale from ``-reach`` to ``reach``.

    >>> span(0.0, 2.0, 4.0), span(2.0, -2.0, 4.0)
    ((50.0, 25.0), (25.0, 50.0))
    """
    left, right = (50 + 50 * max(-1.0, min(1.0, place / reach)) for place in (min(start, end), max(start, end)))
    return left, right - left


def moved_by(name: str, marker: str, file: str) -> str:
    """What moves a widget: the script that all with a strength share, and its own."""
    return script(name, "strength.js", json.dumps(marker), asset(file).strip())


def bar_rows(entries: Iterable[tuple[str, str, str]], shown: Mapping[str, float], reach: float) -> list[str]:
    """Rows of (key, colour, label as HTML) whose bars start where the one above ended; that of the sum starts at nothing."""
    before, rows = 0.0, []
    for key, colour, label in entries:
        start = 0.0 if key == "sum" else before
        left, width = span(start, start + shown[key], reach)
        before = start + shown[key]
        rows.append(f'<tr{" class=tlm-total" * (key == "sum")}><th scope="row">{label}</th>'
                    f'<td class="tlm-track" aria-hidden="true"><span><i data-bar="{key}" style="left:{left:.4g}%;width:{width:.4g}%;'
                    f'background:{colour}"></i></span></td>'
                    f'<td class="tlm-number" data-key="{key}" data-exact="{shown[key]:.9g}">{text(shown[key])}</td></tr>')
    return rows


def keys(data: Data) -> list[str]:
    """The parts in their order, then the sum."""
    return [f"p{i}" for i in range(1, len(data["parts"]) + 1)] + ["sum"]


def _lists(name: str, data: Data) -> str:
    """One labelled native list for each choice; where no script runs the first options stand there."""
    def options(each: Data) -> str:
        return "".join(f'<option value="{i}"{" selected" * (i == 0)}>{escape(words)}</option>' for i, words in enumerate(each["options"]))

    return "\n".join(
        f'<div class="tlm-choice"><label for="tlm-{name}-choice{i}">{escape(each["label"])}</label>'
        f'<select id="tlm-{name}-choice{i}" data-choice="{i}" autocomplete="off">{options(each)}</select></div>'
        for i, each in enumerate(data["choices"]))


def _picture(data: Data, evaluate: Evaluate, chosen: Sequence[int], strength: float) -> str:
    """Every part and the sum as curves over the strength, a vertical line and dots at the strength chosen."""
    scale, first = data["scales"][chosen[-1]], data["inputs"][0]
    strengths = np.linspace(first["low"], first["high"], POINTS)
    columns = [evaluate(data, float(a), chosen) for a in strengths]
    here, x = evaluate(data, strength, chosen), _x(first, strength)
    bottom = FRAME["top"] + FRAME["height"]
    parts = [f'<g data-axes="{i}"{HIDDEN * (i != chosen[-1])}>{_axes(first, each)}</g>' for i, each in enumerate(data["scales"])]
    parts.append(f'<line data-here x1="{x:.1f}" y1="{FRAME["top"]}" x2="{x:.1f}" y2="{bottom}" stroke="#6a6a6a" stroke-dasharray="3 3"/>')
    for key, colour, dash in _looks(data):
        path = "M" + "L".join(f"{_x(first, a):.1f} {_y(scale, column[key]):.1f}" for a, column in zip(strengths, columns))
        width = 3 if key == "sum" else 2
        parts.append(f'<path data-curve="{key}" d="{path}" fill="none" stroke="{colour}" stroke-width="{width}" stroke-dasharray="{dash}"/>'
                     f'<circle data-marker="{key}" r="4.5" cx="{x:.1f}" cy="{_y(scale, here[key]):.1f}" fill="{colour}" stroke="#ffffff"/>')
    names = ", ".join(escape(part["label"]) for part in data["parts"])
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="Curves: {names}, {escape(data["total"])}">{"".join(parts)}</svg>'


def _axes(first: Data, scale: Data) -> str:
    """A light grid with round numbers in the margin, a darker line at zero, and the name of the strength."""
    bottom, right, parts = FRAME["top"] + FRAME["height"], FRAME["left"] + FRAME["width"], []
    for tick in ticks(first["low"], first["high"]):
        x = _x(first, tick)
        parts.append(svg_line(x, FRAME["top"], x, bottom) + svg_text(x, bottom + 14, "middle", f"{tick:.4g}"))
    for tick in ticks(scale["min"], scale["max"]):
        y, colour = _y(scale, tick), "#6a6a6a" if tick == 0 else "#dddddd"
        parts.append(svg_line(FRAME["left"], y, right, y, colour) + svg_text(FRAME["left"] - 4, y + 4, "end", f"{tick:.4g}"))
    return "".join(parts) + svg_text(right, bottom + 27, "end", escape(first["label"]))


def _rows(data: Data, shown: Mapping[str, float], chosen: Sequence[int]) -> str:
    labels = [part["label"] for part in data["parts"]] + [data["total"]]
    entries = ((key, colour, f"{swatch(colour, dash)} {escape(label)}") for (key, colour, dash), label in zip(_looks(data), labels))
    rows = bar_rows(entries, shown, data["scales"][chosen[-1]]["reach"])
    return table("Each part starts where the one above it ends", ["part", "", "value"], rows, live=True)


def _looks(data: Data) -> list[tuple[str, str, str]]:
    """Key, colour and dashes of every part and of the sum, which is black and solid."""
    return [*zip(keys(data)[:-1], COLOURS, DASHES[1:]), ("sum", TOTAL, "")]


def _samples(data: Data, evaluate: Evaluate) -> str:
    """All options of the last list at five even strengths, the other lists at their first option."""
    first, last, rows = data["inputs"][0], data["choices"][-1], []
    for option, words in enumerate(last["options"]):
        for a in np.linspace(first["low"], first["high"], 5):
            shown = evaluate(data, float(a), [0] * (len(data["choices"]) - 1) + [option])
            values = "".join(f"<td>{text(shown[key])}</td>" for key in keys(data))
            rows.append(f"<tr><td>{escape(words)}</td><td>{a:.4g}</td>{values}</tr>")
    heads = [escape(words) for words in (last["label"], first["label"], *(part["label"] for part in data["parts"]), data["total"])]
    others = "".join(f", {escape(each['label'])}: {escape(each['options'][0])}" for each in data["choices"][:-1])
    return table("Computed beforehand" + others, heads, rows)


def _x(first: Data, a: float) -> float:
    return FRAME["left"] + (a - first["low"]) / (first["high"] - first["low"]) * FRAME["width"]


def _y(scale: Data, height: float) -> float:
    return FRAME["top"] + (scale["max"] - height) / (scale["max"] - scale["min"]) * FRAME["height"]
