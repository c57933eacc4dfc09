"""Figures that read the same in the light and the dark theme and to colour-blind eyes.

White background always; one palette (Okabe and Ito's, black last). The alt text of a figure says its finding and stands in
the metadata of the cell (`mystnb.image.alt`).
"""

import io
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from IPython.display import display
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
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
        "font.size": 10, "axes.titlesize": 11, "legend.frameon": False, "lines.linewidth": 1.8,
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
