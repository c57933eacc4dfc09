"""Figures that read the same in the light and the dark theme and to colour-blind eyes.

White background always; one palette (Okabe and Ito's, black last). The alt text of a figure says its finding and stands in
the metadata of the cell (`mystnb.image.alt`).
"""

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from PIL import Image

from tensorlm.checks import as_array, require, require_instance, require_number
from tensorlm.tables import Table

palette = {"blue": "#0072B2", "orange": "#D55E00", "green": "#009E73", "pink": "#CC79A7", "amber": "#E69F00",
           "sky": "#56B4E9", "black": "#000000"}
COLOURS = 256  # of a stored figure
INCHES = 500  # of a figure's side at most: matplotlib draws 65,536 pixels
LARGEST = 1e300  # end of a colour scale: matplotlib needs room above it
dashes = ["-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1))]


def style() -> None:
    """Make the book's look the default of matplotlib: opaque, colour-blind safe, each line with its own dash pattern."""
    plt.rcParams.update({
        "figure.facecolor": "white", "axes.facecolor": "white", "savefig.facecolor": "white", "savefig.transparent": False,
        "figure.figsize": (6.4, 3.4), "figure.dpi": 130, "figure.constrained_layout.use": True,
        "font.size": 10, "axes.titlesize": 11, "lines.linewidth": 1.8,
        "legend.frameon": True, "legend.framealpha": 0.9, "legend.edgecolor": "none",
        "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#dddddd", "grid.linewidth": 0.6,
        "axes.axisbelow": True, "image.cmap": "viridis", "svg.hashsalt": "tensorlm",
        "axes.prop_cycle": cycler(color=list(palette.values())) + cycler(linestyle=dashes),
    })


def images(pictures: Any, titles: Sequence[Any] = (), names: Sequence[Any] = (), limit: float | None = None, size: float = 0.66) -> Figure:
    """A table of small signed images (rows, columns, height, width) on one scale: blue below zero, white at zero, red above.

    `titles` stand over the columns, `names` before the rows; `limit` is the end of the scale (default: the largest absolute
    entry), `size` the width of an image in inches. Raises ValueError naming the argument.

    >>> fig = images([[[[1.0, -1.0]], [[0.0, 2.0]]]], titles=["a", "b"])
    >>> [ax.get_title() for ax in fig.axes]
    ['a', 'b']
    >>> plt.close(fig)
    """
    values = as_array(pictures, "pictures")
    require(values.ndim == 4 and values.size, "pictures", values, "an array (rows, columns, height, width), not empty")
    rows, columns = values.shape[:2]
    for name, words, count in (("titles", titles, columns), ("names", names, rows)):
        require(isinstance(words, Sequence) and len(words) in (0, count), name, words, f"a sequence of {count} or none")
    require_number("size", size, above=0, most=INCHES / max(rows, columns))
    largest = require_number("largest entry of pictures", float(np.abs(values).max()), most=LARGEST) or 1.0
    bound = largest if limit is None else require_number("limit", limit, above=0, most=LARGEST)
    fig, axes = plt.subplots(rows, columns, figsize=(size * columns + 0.3 * bool(names), size * rows + 0.25 * bool(titles)), squeeze=False)
    for (row, column), ax in np.ndenumerate(axes):
        ax.imshow(values[row, column], cmap="RdBu_r", vmin=-bound, vmax=bound, interpolation="nearest")
        ax.set(xticks=[], yticks=[])
        ax.grid(False)
        if names and column == 0:
            ax.set_ylabel(names[row], fontsize=9)
        if titles and row == 0:
            ax.set_title(titles[column], fontsize=9)
    return fig


def flow(ax: Axes, places: Mapping[str, tuple[float, float]], arrows: Iterable[tuple[str, str]], size: float = 12) -> None:
    """Boxes with words on `ax`, joined by arrows: how data flow through a layer. `places` maps the words of a box to its centre.

    Words may be mathematics and have several lines; `size` is that of the letters in points. Raises KeyError for an arrow
    between words that have no place.

    >>> fig, ax = plt.subplots()
    >>> flow(ax, {"$x$": (0, 0), "$Lx$": (1, 0)}, [("$x$", "$Lx$")])
    >>> [box.get_text() for box in ax.texts if box.get_text()]
    ['$x$', '$Lx$']
    >>> plt.close(fig)
    """
    ax.set_axis_off()
    ax.margins(0.12, 0.25)
    ax.plot(*zip(*places.values()), alpha=0)
    look = {"boxstyle": "round,pad=0.4", "facecolor": tint(palette["sky"]), "edgecolor": palette["blue"]}
    boxes = {words: ax.text(*place, words, size=size, ha="center", va="center", bbox=look).get_bbox_patch()
             for words, place in places.items()}
    for start, end in arrows:
        ends = {"patchA": boxes[start], "patchB": boxes[end], "shrinkA": 1, "shrinkB": 1}
        ax.annotate("", places[end], places[start], arrowprops={"arrowstyle": "-|>", "color": "black", **ends})


def cells(ax: Axes, values: Any, labels: Sequence[str] = (), limit: float = 1.0, digits: int = 0) -> None:
    """A small matrix on `ax` as coloured cells with their numbers, colours from `-limit` to `limit`; `labels` name rows and columns.

    >>> fig, ax = plt.subplots()
    >>> cells(ax, [[1.0, -2.0], [0.0, 1.0]], labels=["a", "b"], limit=2)
    >>> [number.get_text() for number in ax.texts]
    ['1', '-2', '0', '1']
    >>> plt.close(fig)
    """
    matrix = as_array(values, "values")
    require(matrix.ndim == 2 and matrix.size, "values", values, "a matrix, not empty")
    ax.imshow(matrix, cmap="RdBu_r", vmin=-limit, vmax=limit)
    for (row, column), value in np.ndenumerate(matrix):
        ax.text(column, row, f"{value + 0.0:.{digits}f}", ha="center", va="center", size=12)  # no -0
    ticks = range(len(labels))
    ax.set(xticks=ticks, yticks=ticks, xticklabels=labels, yticklabels=labels)
    ax.grid(False)


def show(fig: Figure) -> None:
    """Show a figure and close it, as a PNG of at most 256 colours: a third of the size, and no eye tells them apart."""
    require_instance("fig", fig, Figure)
    drawn, packed = io.BytesIO(), io.BytesIO()
    fig.savefig(drawn, format="png", bbox_inches="tight")
    Image.open(drawn).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(packed, "PNG", optimize=True)
    display({"image/png": packed.getvalue(), "text/plain": repr(fig)}, raw=True)
    plt.close(fig)


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]], caption: str = "") -> Table:
    """Rows of words and numbers as a table of the page, numbers to the right; a cell of its own shows it.

    Floats are written with three decimals; give a text where others say more. ValueError for a row of another length.

    >>> print(table(["layer", "loss"], [["bilinear", 0.5], ["ReLU", 0.625]]))
    layer      loss
    bilinear  0.500
    ReLU      0.625
    """
    for row in rows:
        require(len(row) == len(columns), "row", list(row), f"as long as the {len(columns)} columns")
    return Table(tuple(columns), tuple(map(tuple, rows)), caption)


def tint(colour: str, strength: float = 0.22) -> tuple[float, ...]:
    """`colour` on white paper, as light as black letters need it."""
    return tuple(round(1 - strength * (1 - part), 4) for part in to_rgb(colour))


def stream(ax: Axes, words: Sequence[str], enters: int, block: int, blocks: int = 2, added: str = "+ α s", read: str = "logits") -> None:
    """Draw a text as the columns of a model's residual stream: where a vector enters, before `block`, and where the logits are read.

    >>> fig, ax = plt.subplots()
    >>> stream(ax, ["bird", "near", "birds"], enters=0, block=1)
    >>> [text.get_text() for text in ax.texts]
    ['bird', 'near', 'birds', 'block 0', 'block 1', '', '+ α s', '', 'logits', '', 'attention']
    >>> plt.close(fig)
    """
    last, top = len(words) - 1, blocks + 0.4
    say = lambda x, y, text, **look: ax.text(x, y, text, ha="center", va="center", **look)
    for column, word in enumerate(words):
        ax.plot([column, column], [0.0, top], color="#8a8a8a", linewidth=1.2, linestyle="-", zorder=1)
        say(column, -0.25, word, fontsize=11)
    for number in range(blocks):
        ax.add_patch(FancyBboxPatch((-0.6, number + 0.3), last + 1.2, 0.5, "round,pad=0.05", facecolor="#eeeeee", edgecolor="#8a8a8a"))
        say(last + 1.1, number + 0.55, f"block {number}", fontsize=10)
    arrow = {"arrowstyle": "-|>", "linewidth": 2.2}
    colour, entry = palette["orange"], block + 0.07
    ax.annotate("", (enters + 0.02, entry), (enters - 0.75, entry), arrowprops={**arrow, "color": colour})
    say(enters - 1.05, entry, added, color=colour, fontsize=11)
    ax.annotate("", (last, top + 0.25), (last, top - 0.5), arrowprops={**arrow, "color": palette["blue"]})
    say(last, top + 0.4, read, color=palette["blue"], fontsize=11)
    bent = {**arrow, "color": palette["blue"], "linewidth": 1.4, "connectionstyle": "arc3,rad=-0.25"}
    ax.annotate("", (last - 0.03, block + 0.6), (enters + 0.05, block + 0.45), arrowprops=bent)
    say((enters + last) / 2, block + 0.45, "attention", color=palette["blue"], fontsize=9)
    ax.set(xlim=(min(-0.8, enters - 1.5), last + 1.5), ylim=(-0.5, top + 0.6))
    ax.set_axis_off()


def bands(ax: Axes, strengths: Any, chances: Mapping[str, Any], marks: Sequence[float] = ()) -> None:
    """Probabilities of named words over the strength, stacked and named where they are widest; `marks` are ticks on the upper edge.

    >>> fig, ax = plt.subplots()
    >>> bands(ax, [0, 1], {"is": [0.75, 0.25], "are": [0.25, 0.75]}, marks=[0.5])
    >>> [text.get_text() for text in ax.texts]
    ['is', 'are']
    >>> plt.close(fig)
    """
    x, heights = as_array(strengths, "strengths"), np.stack([as_array(row, word) for word, row in chances.items()])
    colours: Any = [tint(palette[name], 0.45) for name in ("blue", "amber", "green", "pink", "sky")]
    ax.stackplot(x, heights, colors=colours)
    edges = np.cumsum(heights, 0)
    for row, (word, height) in enumerate(zip(chances, heights)):
        widest = _widest(height > 0.25)
        ax.text(x[widest], edges[row, widest] - height[widest] / 2, word, ha="center", va="center", fontsize=11)
    for mark in marks:
        ax.plot([mark, mark], [0.0, 1.0], color="black", linewidth=1.0, linestyle="--")
        ax.plot([mark], [1.0], "v", color="black", markersize=6, clip_on=False)
    ax.set(xlim=(x[0], x[-1]), ylim=(0, 1), ylabel="probability")
    ax.grid(False)


def _widest(there: np.ndarray) -> int:
    """The middle of the longest run of entries that are true, 0 where none is."""
    best, start = (0, 0), 0
    for place, true in enumerate([*there, False]):
        if place > start:
            best = max(best, (place - start, start))
        start = start if true else place + 1
    return best[1] + best[0] // 2


def intervals(ax: Axes, gaps: Mapping[str, tuple[float, float]], colour: str = "blue", marker: str = "o", digits: int = 3) -> None:
    """Differences as named rows: (mean, half width of the interval) each, with both as text; an open marker is not significant.

    The first row is on top, a line stands at zero. `colour` is one of the palette. Room to the right of the text is the
    caller's, by `ax.set(xlim=...)`.

    >>> fig, ax = plt.subplots()
    >>> intervals(ax, {"a": (0.035, 0.02), "b": (-0.001, 0.002)})
    >>> [text.get_text() for text in ax.texts]
    ['+0.035 ± 0.020', '−0.001 ± 0.002']
    >>> plt.close(fig)
    """
    for row, (mean, half) in enumerate(gaps.values()):
        require_number("half width", half, least=0)
        inside = palette[colour] if abs(mean) > half else "white"
        ax.errorbar(mean, row, xerr=half, fmt=marker, markersize=6, capsize=3, color=palette[colour], markerfacecolor=inside)
        words, box = f"{mean:+.{digits}f} ± {half:.{digits}f}".replace("-", "−"), {"facecolor": "white", "edgecolor": "none", "pad": 1}
        ax.annotate(words, (mean + half, row), (6, 0), textcoords="offset points", va="center", fontsize=8.5, bbox=box)
    ax.axvline(0, color="black", linewidth=0.8, linestyle="-")
    ax.set(yticks=range(len(gaps)), yticklabels=gaps, ylim=(len(gaps) - 0.5, -0.6))
    ax.grid(axis="y", visible=False)


def heat(values: Any, rows: Sequence[str], columns: Sequence[str], low: float, high: float) -> Figure:
    """Positive numbers as a grid of shades on a logarithmic scale from `low` to `high`, each cell with its number.

    >>> fig = heat([[0.5, 2.0]], ["title"], ["own", "other"], 0.1, 10)
    >>> [text.get_text() for text in fig.axes[0].texts]
    ['0.500', '2.000']
    >>> plt.close(fig)
    """
    shades = as_array(values, "values")
    fig, ax = plt.subplots(figsize=(6.4, 0.6 + 0.6 * len(rows)))
    ax.imshow(np.log(shades), cmap="Blues", vmin=np.log(low), vmax=np.log(high), aspect="auto")
    middle = np.sqrt(low * high)
    for (row, column), value in np.ndenumerate(shades):
        ax.text(column, row, f"{value:.3f}", ha="center", va="center", color="white" if value > middle else "black")
    ax.set_xticks(range(len(columns)), columns)
    ax.set_yticks(range(len(rows)), rows)
    ax.grid(False)
    return fig
