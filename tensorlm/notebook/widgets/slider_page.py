"""The HTML of a slider: a static picture of the starting point, which a short script then keeps up to date.

Without scripts (GitHub's preview, a printout) the starting values and a table of sample points remain.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from html import escape
from importlib import resources
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from tensorlm.notebook.figures import palette
from tensorlm.notebook.widgets.page import exact, precise

Data = Mapping[str, Any]
Evaluate = Callable[[Data, Any], dict[str, float | None]]
DASHES = ("", "7 4", "2 3", "9 3 2 3", "4 2", "12 4", "1 2")
WIDTH, HEIGHT = 360, 220


def html(name: str, data: Data, evaluate: Evaluate) -> str:
    """The whole widget as one string, the same for the same arguments; ids start with ``tlm-<name>``."""
    start = evaluate(data, [each["start"] for each in data["inputs"]])
    body = {"bilinear": _bilinear, "scale": _scale, "polynomial": _polynomial}[data["kind"]](data, start)
    controls = "\n".join(control(name, each) for each in data["inputs"])
    return f"""<div class="tlm-slider" id="tlm-{name}" data-tlm-slider="{name}" role="group" aria-labelledby="tlm-{name}-title">
<style>{asset("slider.css")}</style>
<p class="tlm-title" id="tlm-{name}-title">{escape(data["title"])}</p>
{still("it moves")}
{controls}
{body}
<details><summary>Sample values as a table</summary><div class="tlm-scroll">{_samples(data, evaluate)}</div></details>
{stored(data)}
{script(name, "slider.js")}
</div>"""


def still(moves: str) -> str:
    """What stands there until the script has run: an untrusted notebook shows the page without it."""
    return f'<p class="tlm-still">A still picture, since its script has not run: in Jupyter, run this cell, and {moves}.</p>'


def stored(data: Data, compact: bool = False) -> str:
    """The data as the script reads them."""
    words = json.dumps(data, allow_nan=False, separators=(",", ":") if compact else None).replace("<", chr(92) + "u003c")
    return f'<script type="application/json" data-tlm-data>{words}</script>'


def script(name: str, file: str, *arguments: str) -> str:
    """What moves a widget: its script, the one that gives a second copy on a page ids of its own, and what else the first one takes."""
    return f'<script>{asset(file).strip()}({", ".join([json.dumps(name), asset("apart.js").strip(), *arguments])});</script>'


def text(value: float | None) -> str:
    """A number as the script writes it, with 7 significant digits.

    >>> text(0.25), text(-3.0), text(1e-15), text(None)
    ('0.2500000', '-3.000000', '0.000000', 'undefined')
    """
    return "undefined" if value is None else precise(0.0 if abs(value) < 1e-12 else value)


def box(data: Data, y: tuple[float, float] | None, evaluate: Evaluate, points: int = 121) -> dict[str, Any]:
    """The drawing area of the curves: where it lies in the picture, its ranges, and the curves' heights at even steps."""
    low, high = data["inputs"][0]["low"], data["inputs"][0]["high"]
    columns = [evaluate(data, [a]) for a in np.linspace(low, high, points)]
    heights = [[None if c[key] is None else float(f"{c[key]:.6g}") for c in columns] for key in columns[0]]
    known = [height for curve in heights for height in curve if height is not None]
    least, most = y or (min(known), max(known))
    margin = 0.0 if y else max(0.05 * (most - least) or 1.0, 1e-4 * abs(most))
    bottom, top = (float(f"{height:.6g}") for height in (least - margin, most + margin))
    if not bottom < top:
        raise ValueError(f"y: got {y}, allowed: numbers that differ in their first 6 digits")
    return {"left": 46, "top": 8, "width": WIDTH - 56, "height": HEIGHT - 38, "low": low, "high": high,
            "min": bottom, "max": top, "heights": heights}


@functools.cache
def asset(file: str) -> str:
    return resources.files("tensorlm.notebook").joinpath("assets", file).read_text(encoding="utf-8")


def control(name: str, each: Data) -> str:
    """Label, native range input (arrow keys, Home, End) and its announced value."""
    places, key, label = each["decimals"], escape(each["key"]), escape(each["label"])
    low, last, start = (exact(each[part], places) for part in ("low", "last", "start"))
    shown = f"{each['start']:.{places}f}"
    return (f'<div class="tlm-control"><label for="tlm-{name}-{key}">{label}</label>'
            f'<input type="range" id="tlm-{name}-{key}" data-input="{key}" min="{low}" max="{last}" step="{exact(each["step"])}"'
            f' value="{start}" aria-valuetext="{label} = {shown}" autocomplete="off">'
            f'<output for="tlm-{name}-{key}" data-value="{key}" aria-live="polite">{shown}</output></div>')


def table(caption: str, head: list[str], rows: list[str], live: bool = False) -> str:
    announced = ' aria-live="polite"' if live else ""
    columns = "".join(f'<th scope="col">{title}</th>' if title else "<td></td>" for title in head)
    return (f'<div class="tlm-scroll"><table><caption>{caption}</caption><thead><tr>{columns}</tr></thead>'
            f'<tbody{announced}>\n' + "\n".join(rows) + "\n</tbody></table></div>")


def _number(key: str, value: float | None) -> str:
    return f'<td class="tlm-number" data-key="{key}">{text(value)}</td>'


def _bar(key: str, value: float | None, bound: float) -> str:
    """A bar from the middle, blue to the right above zero, orange to the left below; the number beside it says the same."""
    half = 50 * min(1.0, abs(value or 0.0) / bound)
    below, left = ("tlm-below", 50 - half) if (value or 0) < 0 else ("", 50)
    return (f'<td class="tlm-track" aria-hidden="true"><span><i class="{below}" data-bar="{key}" data-bound="{exact(bound)}"'
            f' style="left:{left:.4g}%;width:{half:.4g}%"></i></span></td>')


def _bilinear(data: Data, start: Mapping[str, float | None]) -> str:
    bounds = data["bounds"]
    hidden = [f'<tr><th scope="row">{k}</th><td class="tlm-detail"><span data-key="l{k}">{text(start[f"l{k}"])}</span> × '
              f'<span data-key="r{k}">{text(start[f"r{k}"])}</span></td>{_bar(f"h{k}", start[f"h{k}"], bounds["h"])}'
              f'{_number(f"h{k}", start[f"h{k}"])}</tr>' for k in range(1, len(data["L"]) + 1)]
    outputs = [f'<tr><th scope="row">{o}</th>{_bar(f"f{o}", start[f"f{o}"], bounds["f"])}{_number(f"f{o}", start[f"f{o}"])}</tr>'
               for o in range(1, len(data["D"]) + 1)]
    return (table("Hidden units: each encoder, and their product", ["unit", "(Lx) × (Rx)", "", "product"], hidden)
            + table("Outputs: the products, mixed by D", ["output", "", "f(x)"], outputs, live=True))


def _scale(data: Data, start: Mapping[str, float | None]) -> str:
    bounds = data["bounds"]
    rows = [f'<tr><th scope="row">{k}</th>{_bar(f"c{k}", start[f"c{k}"], bounds["c"])}{_number(f"c{k}", start[f"c{k}"])}'
            f'{_bar(f"s{k}", start[f"s{k}"], bounds["s"])}{_number(f"s{k}", start[f"s{k}"])}</tr>' for k in range(1, len(data["L"]) + 1)]
    sums = [f'<tr><th scope="row">{label}</th>{_bar(key, start[key], bounds["f"])}{_number(key, start[key])}</tr>'
            for key, label in (("f", "f(ax), summed over the units"), ("a2f", "a² f(x)"))]
    return (table("Contribution of each hidden unit at ax, and its share", ["unit", "", "contribution", "", "share"], rows)
            + table("The output", ["", "", "value"], sums, live=True))


def _polynomial(data: Data, start: Mapping[str, float | None]) -> str:
    colours = list(palette.values())
    a, labels = data["inputs"][0]["start"], [escape(curve["label"]) for curve in data["curves"]]
    lines = "".join(_curve(data["box"], i, colours[i]) + _marker(data["box"], f"y{i + 1}", start[f"y{i + 1}"], a, colours[i])
                    for i in range(len(labels)))
    rows = [f'<tr><th scope="row">{swatch(colours[i], DASHES[i])} {label}</th>{_number(f"y{i + 1}", start[f"y{i + 1}"])}</tr>'
            for i, label in enumerate(labels)]
    picture = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="Curves: {", ".join(labels)}">{_axes(data)}{lines}</svg>'
    return picture + table("Values at the marker", ["curve", "value"], rows, live=True)


def _x(frame: Data, a: float) -> float:
    return frame["left"] + (a - frame["low"]) / (frame["high"] - frame["low"]) * frame["width"]


def _y(frame: Data, height: float) -> float:
    return frame["top"] + (frame["max"] - height) / (frame["max"] - frame["min"]) * frame["height"]


def _curve(frame: Data, index: int, colour: str) -> str:
    """One curve as a path, cut where it is undefined or leaves the frame."""
    heights, path, pen = frame["heights"][index], [], "M"
    for a, height in zip(np.linspace(frame["low"], frame["high"], len(heights)), heights):
        inside = height is not None and frame["min"] <= height <= frame["max"]
        if inside:
            path.append(f"{pen}{_x(frame, a):.1f} {_y(frame, height):.1f}")
        pen = "L" if inside else "M"
    return f'<path d="{"".join(path)}" fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{DASHES[index]}"/>'


def _marker(frame: Data, key: str, value: float | None, a: float, colour: str) -> str:
    inside = value is not None and frame["min"] <= value <= frame["max"]
    height = _y(frame, value) if value is not None and inside else frame["top"]
    return (f'<circle data-marker="{key}" r="5" cx="{_x(frame, a):.1f}" cy="{height:.1f}" fill="{colour}" stroke="#ffffff"'
            f' visibility="{"visible" if inside else "hidden"}"/>')


def _axes(data: Data) -> str:
    """A light grid with round numbers in the margin, a darker line at zero, and the name of the variable."""
    frame, parts = data["box"], []
    bottom, right = frame["top"] + frame["height"], frame["left"] + frame["width"]
    for tick in ticks(frame["low"], frame["high"]):
        x = _x(frame, tick)
        parts.append(svg_line(x, frame["top"], x, bottom) + svg_text(x, bottom + 14, "middle", f"{tick:.4g}"))
    for tick in ticks(frame["min"], frame["max"]):
        y, colour = _y(frame, tick), "#6a6a6a" if tick == 0 else "#dddddd"
        parts.append(svg_line(frame["left"], y, right, y, colour) + svg_text(frame["left"] - 4, y + 4, "end", f"{tick:.4g}"))
    return "".join(parts) + svg_text(right, bottom + 27, "end", escape(data["inputs"][0]["label"]))


def ticks(low: float, high: float) -> list[float]:
    """About five round numbers from ``low`` to ``high``.

    >>> ticks(-4.5, 6.5)
    [-4.0, -2.0, 0.0, 2.0, 4.0, 6.0]
    """
    return [round(float(tick), 12) for tick in MaxNLocator(6, steps=[1, 2, 5, 10]).tick_values(low, high) if low <= tick <= high]


def svg_line(x1: float, y1: float, x2: float, y2: float, colour: str = "#dddddd") -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'


def svg_text(x: float, y: float, anchor: str, words: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="11" fill="#3a3a3a">{words}</text>'


def swatch(colour: str, dash: str) -> str:
    return (f'<svg viewBox="0 0 30 8" style="display:inline-block;width:30px;height:8px;margin:0" aria-hidden="true">'
            f'<path d="M0 4H30" stroke="{colour}" stroke-width="3" stroke-dasharray="{dash}"/></svg>')


def _samples(data: Data, evaluate: Evaluate) -> str:
    """A few points, computed in Python: the start, and each input at five even places while the others stay."""
    starts = [each["start"] for each in data["inputs"]]
    points = [starts] + [starts[:i] + [float(a)] + starts[i + 1:] for i, each in enumerate(data["inputs"])
                         for a in np.linspace(each["low"], each["high"], 5)]
    keys = list(evaluate(data, starts))
    wanted = [key for key in keys if key[0] in "fy" or key == "a2f"]
    names = {key: escape(data["curves"][int(key[1:]) - 1]["label"]) if key[0] == "y" else {"f": "f(ax)", "a2f": "a² f(x)"}.get(key, key)
             for key in wanted}
    cells = [[f"{a:.4g}" for a in point] + [text(evaluate(data, point)[key]) for key in wanted] for point in points]
    rows = ["<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in cells]
    return table("Computed beforehand", [escape(each["label"]) for each in data["inputs"]] + list(names.values()), rows)
