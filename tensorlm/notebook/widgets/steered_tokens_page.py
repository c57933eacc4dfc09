"""The HTML of steered words: a still picture of the starting point, which a short script then keeps up to date.

Without scripts (GitHub's preview, a printout) the starting values and a table of sample points remain.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from tensorlm.notebook.widgets.slider_page import (
    DASHES,
    HEIGHT,
    WIDTH,
    asset,
    control,
    still,
    stored,
    svg_line,
    svg_text,
    swatch,
    table,
    ticks,
)
from tensorlm.notebook.widgets.stacked_parts_page import COLOURS, FRAME, TOTAL, bar_rows, moved_by, text

Data = Mapping[str, Any]
Evaluate = Callable[[Data, float, Sequence[int]], dict[str, float]]
POINTS = 121
HIDDEN = ' hidden=""'
BOTTOM = FRAME["top"] + FRAME["height"]


def html(name: str, data: Data, evaluate: Evaluate) -> str:
    """The whole widget as one string, the same for the same arguments; ids start with ``tlm-<name>``."""
    strength = data["inputs"][0]["start"]
    here = evaluate(data, strength, (0, 0))
    return f"""<div class="tlm-slider tlm-stack" id="tlm-{name}" data-tlm-steer="{name}" role="group" aria-labelledby="tlm-{name}-title">
<style>{asset("slider.css")}{asset("stacked_parts.css")}</style>
<p class="tlm-title" id="tlm-{name}-title">{escape(data["title"])}</p>
{still("it moves")}
{_list(name, "prompt", [each["text"] for each in data["prompts"]])}
{_list(name, "vector", data["vectors"])}
{control(name, data["inputs"][0])}
{_picture(data, evaluate, here)}
{_words(data, here)}
{_paths(data, here)}
<details><summary>Sample values as a table</summary><div class="tlm-scroll">{_samples(data, evaluate)}</div></details>
{stored({**data, "frame": FRAME, "points": POINTS})}
{moved_by(name, "data-tlm-steer", "steered_words.js")}
</div>"""


def chance(value: float) -> str:
    """A probability as the script writes it, with 3 decimals.

    >>> chance(0.25), chance(0.99996), chance(0.00049)
    ('0.250', '1.000', '0.000')
    """
    return f"{int(value * 1000 + 0.5) / 1000:.3f}"


def _list(name: str, label: str, options: Sequence[str]) -> str:
    """A labelled native list; where no script runs its first option stands there."""
    inner = "".join(f'<option value="{i}"{" selected" * (i == 0)}>{escape(words)}</option>' for i, words in enumerate(options))
    return (f'<div class="tlm-choice"><label for="tlm-{name}-{label}">{label}</label>'
            f'<select id="tlm-{name}-{label}" data-choice="{label}" autocomplete="off">{inner}</select></div>')


def _picture(data: Data, evaluate: Evaluate, here: Mapping[str, float]) -> str:
    """The probabilities over the strength, a vertical line and dots at the strength chosen."""
    first = data["inputs"][0]
    strengths = np.linspace(first["low"], first["high"], POINTS)
    columns = [evaluate(data, float(a), (0, 0)) for a in strengths]
    x, parts = _x(first, first["start"]), [_axes(first)]
    parts.append(f'<line data-here x1="{x:.1f}" y1="{FRAME["top"]}" x2="{x:.1f}" y2="{BOTTOM}" stroke="#6a6a6a" stroke-dasharray="3 3"/>')
    for i in range(_most_words(data)):
        key, colour = f"w{i + 1}", COLOURS[i]
        there = key in here
        path = "M" + "L".join(f"{_x(first, a):.1f} {_y(column[key]):.1f}" for a, column in zip(strengths, columns)) if there else ""
        height = _y(here[key]) if there else BOTTOM
        parts.append(f'<g data-line="{key}"{"" if there else " display=none"}><path data-curve="{key}" d="{path}" fill="none"'
                     f' stroke="{colour}" stroke-width="2" stroke-dasharray="{DASHES[i]}"/>'
                     f'<circle data-marker="{key}" r="4.5" cx="{x:.1f}" cy="{height:.1f}" fill="{colour}" stroke="#ffffff"/></g>')
    label = "Probabilities of words over the strength; the tables below hold the values"
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _axes(first: Data) -> str:
    """A light grid with round numbers in the margin and the name of the strength."""
    right, parts = FRAME["left"] + FRAME["width"], []
    for tick in ticks(first["low"], first["high"]):
        x = _x(first, tick)
        parts.append(svg_line(x, FRAME["top"], x, BOTTOM) + svg_text(x, BOTTOM + 14, "middle", f"{tick:.4g}"))
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(svg_line(FRAME["left"], _y(tick), right, _y(tick)) + svg_text(FRAME["left"] - 4, _y(tick) + 4, "end", f"{tick:g}"))
    return "".join(parts) + svg_text(right, BOTTOM + 27, "end", escape(first["label"]))


def _words(data: Data, here: Mapping[str, float]) -> str:
    rows, words = [], data["prompts"][0]["words"]
    for i in range(_most_words(data)):
        key, there = f"w{i + 1}", i < len(words)
        rows.append(f'<tr data-row="{key}"{"" if there else HIDDEN}><th scope="row">{swatch(COLOURS[i], DASHES[i])} '
                    f'<span data-word="{key}">{escape(words[i]) if there else ""}</span></th>'
                    f'<td class="tlm-number" data-key="{key}" data-exact="{here.get(key, 0.0):.9g}">{chance(here.get(key, 0.0))}</td></tr>')
    return table("Probability of the next word", ["word", "probability"], rows, live=True)


def _paths(data: Data, here: Mapping[str, float]) -> str:
    keyed = [*zip(path_keys(data), COLOURS, data["labels"]), ("sum", TOTAL, "all of it")]
    rows = bar_rows(((key, colour, escape(label)) for key, colour, label in keyed), here, data["reach"][0])
    title = f'Change of the logits, <span data-contest>{escape(data["prompts"][0]["contest"])}</span>, path by path'
    return table(title, ["path", "", "change"], rows, live=True)


def path_keys(data: Data) -> list[str]:
    return [f"p{i}" for i in range(1, len(data["labels"]) + 1)]


def _most_words(data: Data) -> int:
    return max(len(each["words"]) for each in data["prompts"])


def _samples(data: Data, evaluate: Evaluate) -> str:
    """The first prompt at five even strengths, for every vector."""
    first, prompt, rows = data["inputs"][0], data["prompts"][0], []
    for number, vector in enumerate(data["vectors"]):
        for a in np.linspace(first["low"], first["high"], 5):
            shown = evaluate(data, float(a), (0, number))
            cells = [chance(shown[f"w{i + 1}"]) for i in range(len(prompt["words"]))]
            cells += [text(shown[key]) for key in (*path_keys(data), "sum")]
            rows.append(f"<tr><td>{escape(vector)}</td><td>{a:.4g}</td>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    heads = ["vector", first["label"], *prompt["words"], *data["labels"], "all of it"]
    return table(f"Computed beforehand, after: {escape(prompt['text'])}", [escape(words) for words in heads], rows)


def _x(first: Data, a: float) -> float:
    return FRAME["left"] + (a - first["low"]) / (first["high"] - first["low"]) * FRAME["width"]


def _y(probability: float) -> float:
    return FRAME["top"] + (1.02 - probability) / 1.04 * FRAME["height"]
