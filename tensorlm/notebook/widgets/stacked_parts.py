"""The response of a layer to a steering vector: powers of one strength, stacked on the page from nothing to the sum."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from tensorlm.checks import as_array, require, require_instance, require_number, require_whole
from tensorlm.notebook.figures import palette
from tensorlm.notebook.widgets import page
from tensorlm.notebook.widgets.page import Data, Plot, Widget

POINTS = 81
COLOURS = [palette[name] for name in ("sky", "green", "blue", "orange", "pink", "amber")]


def stack(name: str, parts: Mapping[str, int], choices: Mapping[str, Sequence[str]], values: Any, variable: str = "α",
          low: float = -2.0, high: float = 2.0, start: float = 1.0, step: float = 0.05, total: str = "sum",
          title: str = "Parts of a response, stacked") -> Widget:
    """A range input for the strength and one list for each of `choices`; shows every part, and their sum.

    `parts` maps a name to its power (0 to 6) of the strength; `choices` maps a label to the options of a list, the last one
    the quantity that is read, with a scale of its own. `values` (options of the first list, ..., of the last, parts) are the
    coefficients. Keys of `evaluate`: `p1` .. in the order of `parts`, and `sum`. Raises ValueError naming the argument.

    >>> demo = stack("demo", {"cross": 1, "self": 2}, {"output": ["first", "second"]}, [[3.0, 1.0], [0.0, -1.0]])
    >>> demo.evaluate(2.0, [0]), demo.evaluate(-2.0, [1])["sum"]
    ({'p1': 6.0, 'p2': 4.0, 'sum': 10.0}, -4.0)
    """
    page.require_names("parts", parts, 6)
    page.require_names("choices", choices, 3)
    powers = [require_whole(f"parts: power of {label!r}", power, 0, 6) for label, power in parts.items()]
    lists = [{"label": label, "options": page.texts(f"choices of {label!r}", each)} for label, each in choices.items()]
    require_instance("total", total, str)
    control = page.range_input("strength", variable, low, high, step, start)
    coefficients, shape = as_array(values, "values"), (*(len(each["options"]) for each in lists), len(parts))
    fits = coefficients.shape == shape and 0 not in shape
    require(fits, "values", coefficients, f"an array of shape {shape}, options of each list and parts, not empty")
    data = {"kind": "stacked", "title": title, "total": total, "inputs": [control],
            "parts": [{"label": label, "power": power} for label, power in zip(parts, powers)], "choices": lists,
            "values": page.plain(coefficients, page.powers(7, low, high)[powers])}
    data["scales"] = [_scale(control, rows.reshape(-1, len(parts)), powers) for rows in np.moveaxis(coefficients, -2, 0)]
    return Widget("StackedParts", name, data, evaluate, html)


def evaluate(data: Data, strength: float, chosen: Sequence[int]) -> dict[str, float]:
    """What a page with `data` shows at `strength` when the lists stand at the options with the numbers `chosen`."""
    row, strength = data["values"], require_number("strength", strength, least=-1e50, most=1e50)
    for option in page.chosen_options(chosen, [len(each["options"]) for each in data["choices"]]):
        row = row[option]
    shown = [coefficient * strength ** part["power"] for coefficient, part in zip(row, data["parts"])]
    return {**page.numbered(p=shown), "sum": float(sum(shown))}


def _scale(control: Data, rows: np.ndarray, powers: list[int]) -> dict[str, float]:
    """Of one quantity over all options of the other lists: the range of the curves, and how far partial sums reach."""
    strengths = np.linspace(control["low"], control["high"], POINTS)
    terms = rows[:, None, :] * strengths[None, :, None] ** np.array(powers)
    partial = terms.cumsum(-1)
    drawn = np.concatenate([terms.ravel(), partial[..., -1].ravel(), [0.0]])
    margin = 0.04 * (drawn.max() - drawn.min()) or 1.0
    least, most, reach = drawn.min() - margin, drawn.max() + margin, np.abs(partial).max() or 1.0
    return {key: float(f"{value:.6g}") for key, value in (("min", least), ("max", most), ("reach", reach))}


def html(widget: Widget) -> str:
    data = widget.data
    lists = (page.choice(widget.name, f"choice{i}", str(i), *each.values()) for i, each in enumerate(data["choices"]))
    return page.strength_frame(widget, "stack", lists, [_parts(data), _samples(data)], "stacked_parts.js", POINTS)


def _names(data: Data) -> list[str]:
    return [*(part["label"] for part in data["parts"]), data["total"]]


def _parts(data: Data) -> str:
    first, chosen, hidden, rows = data["inputs"][0], [0] * len(data["choices"]), ' display="none"', []
    here, names, count = evaluate(data, first["start"], chosen), list(map(escape, _names(data))), len(data["parts"])
    looks = [*zip(COLOURS[:count], page.DASHES[1:]), (palette["black"], "")]
    plots = [Plot(first["low"], first["high"], first["label"], each["min"], each["max"]) for each in data["scales"]]
    columns = [evaluate(data, float(a), chosen) for a in np.linspace(first["low"], first["high"], POINTS)]
    parts = [f'<g data-axes="{i}"{hidden * (i > 0)}>{plot.axes()}</g>' for i, plot in enumerate(plots)]
    parts.append(plots[0].here(first["start"]))
    for key, name, (colour, dash) in zip(here, names, looks):
        path = plots[0].path([column[key] for column in columns])
        parts.append(f'<path data-curve="{key}" d="{path}" {page.STROKE.format(colour, 3 if key == "sum" else 2, dash)}/>'
                     + plots[0].dot(key, first["start"], here[key], colour))
        rows.append((key, colour, f"{page.SWATCH.format(colour, dash)} {name}"))
    picture = page.PICTURE.format("Curves: " + ", ".join(names), "".join(parts))
    bars = page.stacked_bars(rows, here, data["scales"][0]["reach"])
    table = page.table("Each part starts where the one above it ends", ["part", "", "value"], bars, live=True)
    return f"{picture}\n{table}"


def _samples(data: Data) -> str:
    first, (*others, last) = data["inputs"][0], data["choices"]
    shown = lambda a, option: evaluate(data, float(a), [0] * len(others) + [option]).values()
    rows = [[words, f"{a:.4g}", *(page.rounded(value, signed=True) for value in shown(a, option))]
            for option, words in enumerate(last["options"]) for a in np.linspace(first["low"], first["high"], 5)]
    caption = "".join(f", {each['label']}: {each['options'][0]}" for each in others)
    return page.samples(caption, [last["label"], first["label"], *_names(data)], rows)
