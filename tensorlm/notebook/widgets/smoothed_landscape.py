"""A reward landscape as a search of spread sigma sees it, along the line from an honest hill to a hack; and where a climb ends.

The hill has height 1 and one width in all `n` directions; the hack is narrow in `k` of them and as wide as the hill in the others.
Smoothed by sigma, each keeps `(w^2 / (w^2 + sigma^2))^(1/2)` of its height for every direction of width w.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tensorlm.checks import require, require_number, require_whole
from tensorlm.notebook.figures import palette
from tensorlm.notebook.widgets import page
from tensorlm.notebook.widgets.page import Data, Plot, Widget

POINTS, SCAN, HALVINGS = 161, 200, 60  # of a curve; steps from hill to hack; of the step in which the slope turns
BOTTOM, TOP = -4, 2.2  # of the picture, in powers of ten
ROWS = (("hill", "top of the honest hill, smoothed"), ("hack", "top of the hack, smoothed"), ("end", "where the climb ends"),
        ("paid", "the reward there, not smoothed"))
Shown = dict[str, Any]


def landscape(name: str, dimensions: Sequence[int] = (8, 32), codimensions: Sequence[int] = (1, 2, 4, 8), height: float = 100.0,
              width: float = 0.2, distance: float = 2.0, hill_width: float = 2.0, high: float = 1.5, start: float = 0.3, step: float = 0.02,
              title: str = "What a search of spread σ sees") -> Widget:
    """A range input for sigma, lists for n and k; the climb is that of endlessly many samples, from the top of the hill.

    Keys of `evaluate`: `hill` and `hack`, the smoothed heights of the two bumps alone; `end`, how far from the hill's top the climb
    ends; `paid`, the reward there; `where`, in words. Raises ValueError naming the argument.

    >>> shown = landscape("demo").evaluate(0.7, [1, 1])
    >>> round(shown["hack"] / shown["hill"], 2), shown["where"]
    (8.47, 'in the hack')
    """
    for label, values, least in (("dimensions", dimensions, max([1, *codimensions])), ("codimensions", codimensions, 1)):
        require(0 < len(values) <= 8, label, values, "1 to 8 whole numbers")
        for value in values:
            require_whole(label, value, least, 1000)
    sizes = dict(height=height, width=width, distance=distance, hill_width=hill_width)
    data = {"kind": "landscape", "title": title, "inputs": [page.range_input("sigma", "σ", 0.0, high, step, start)],
            **{key: require_number(key, value, above=0) for key, value in sizes.items()},
            "choices": [{"label": "directions n", "options": list(map(str, dimensions)), "numbers": list(dimensions)},
                        {"label": "narrow in k", "options": list(map(str, codimensions)), "numbers": list(codimensions)}],
            "low": -distance / 2, "high": 2 * distance, "bottom": BOTTOM, "top": TOP, "points": POINTS, "scan": SCAN, "halvings": HALVINGS}
    return Widget("SmoothedLandscape", name, data, evaluate, html)


def evaluate(data: Data, sigma: float, chosen: Sequence[int]) -> Shown:
    """What a page with `data` shows at `sigma` when the lists of n and k stand at the options with the numbers `chosen`."""
    bumps = _bumps(data, require_number("sigma", sigma, least=0), chosen)
    end = _end(bumps, data)
    share = end / data["distance"]
    where = "on the hill" if share < 0.25 else "in the hack" if share > 0.75 else "between the two"
    return {"hill": bumps[0][0], "hack": bumps[1][0], "end": end, "paid": _height(_bumps(data, 0.0, chosen), end), "where": where}


def _bumps(data: Data, sigma: float, chosen: Sequence[int]) -> list[tuple[float, float, float]]:
    """Height, place and squared width of the hill and of the hack along the line between them, smoothed."""
    counts = [len(each["options"]) for each in data["choices"]]
    n, k = (each["numbers"][option] for each, option in zip(data["choices"], page.chosen_options(chosen, counts)))
    wide, narrow = (data[key] ** 2 + sigma**2 for key in ("hill_width", "width"))
    keeps_wide, keeps_narrow = data["hill_width"] / math.sqrt(wide), data["width"] / math.sqrt(narrow)
    return [(keeps_wide**n, 0.0, wide), (data["height"] * keeps_wide ** (n - k) * keeps_narrow**k, data["distance"], narrow)]


def _height(bumps: Sequence[tuple[float, float, float]], x: float) -> float:
    return sum(height * math.exp(-((x - centre) ** 2) / (2 * square)) for height, centre, square in bumps)


def _slope(bumps: Sequence[tuple[float, float, float]], x: float) -> float:
    return sum(height * (centre - x) / square * math.exp(-((x - centre) ** 2) / (2 * square)) for height, centre, square in bumps)


def _end(bumps: Sequence[tuple[float, float, float]], data: Data) -> float:
    """The first place from the hill's top on at which the slope is no longer upwards."""
    step, i = data["distance"] / data["scan"], 1
    while i < data["scan"] and _slope(bumps, i * step) > 0:
        i += 1
    low, high = (i - 1) * step, i * step
    for _ in range(data["halvings"]):
        middle = (low + high) / 2
        low, high = (middle, high) if _slope(bumps, middle) > 0 else (low, middle)
    return low


def _curve(data: Data, sigma: float, chosen: Sequence[int]) -> list[float]:
    """Powers of ten of the smoothed reward along the line, cut at the edge of the picture."""
    bumps = _bumps(data, sigma, chosen)
    heights = (_height(bumps, float(x)) for x in np.linspace(data["low"], data["high"], data["points"]))
    return [max(data["bottom"], math.log10(max(height, 1e-300))) for height in heights]


def html(widget: Widget) -> str:
    data, first = widget.data, widget.data["inputs"][0]
    lists = (page.choice(widget.name, f"choice{i}", str(i), each["label"], each["options"]) for i, each in enumerate(data["choices"]))
    body = "\n".join([*lists, page.control(widget.name, first), _picture(data), _numbers(data), _samples(data)])
    return page.frame(widget, "landscape", body, ["smoothed_landscape.js"], " tlm-stack", ("stacked_parts.css",), {"frame": page.FRAME})


def _picture(data: Data) -> str:
    sigma, chosen = data["inputs"][0]["start"], [0, 0]
    plot = Plot(data["low"], data["high"], "distance from the hill's top", data["bottom"], data["top"])
    end = evaluate(data, sigma, chosen)["end"]
    parts = [plot.axes(heights=[])]
    for power in range(math.ceil(data["bottom"]), math.floor(data["top"]) + 1, 2):
        y = plot.y(power)
        parts.append(page.LINE.format(page.LEFT, y, page.RIGHT, y, "#dddddd"))
        parts.append(page.TEXT.format(page.LEFT - 4, y + 4, "end", f"{10.0**power:.4g}"))
    for key, spread, colour, dash in (("reward", 0.0, palette["orange"], page.DASHES[1]), ("seen", sigma, palette["blue"], "")):
        parts.append(f'<path data-curve="{key}" d="{plot.path(_curve(data, spread, chosen))}" {page.STROKE.format(colour, 2.5, dash)}/>')
    height = max(data["bottom"], math.log10(_height(_bumps(data, sigma, chosen), end)))
    parts.append(plot.dot("end", end, height, palette["black"], 5))
    return page.PICTURE.format("Curves from the honest hill to the hack: the reward, and the reward smoothed by σ", "".join(parts))


def _numbers(data: Data) -> str:
    shown = evaluate(data, data["inputs"][0]["start"], [0, 0])
    rows = [f'<tr><th scope="row">{label}</th>{page.cell(key, _words(key, shown[key]), f"{shown[key]:.9g}")}</tr>' for key, label in ROWS]
    rows.append(f'<tr class="tlm-total"><th scope="row">so the climb ends</th>{page.cell("where", shown["where"])}</tr>')
    looks = ((palette["orange"], page.DASHES[1], "the reward"), (palette["blue"], "", "smoothed by σ"))
    legend = ", ".join(f"{page.SWATCH.format(colour, dash)} {words}" for colour, dash, words in looks)
    return page.table(f"{legend}; dot: where the climb ends", [], rows, live=True)


def _words(key: str, value: float) -> str:
    return page.rounded(value, 3) if key == "end" else page.precise(value, 4)


def _samples(data: Data) -> str:
    first, (directions, narrow) = data["inputs"][0], data["choices"]
    rows = [[words, f"{sigma:.4g}", *(_words(key, shown[key]) for key, _ in ROWS), shown["where"]]
            for option, words in enumerate(narrow["options"]) for sigma in np.linspace(first["low"], first["high"], 6)
            for shown in [evaluate(data, float(sigma), [0, option])]]
    heads = [narrow["label"], "σ", *(key for key, _ in ROWS), "where"]
    return page.samples(f", {directions['label']}: {directions['options'][0]}", heads, rows)
