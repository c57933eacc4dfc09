"""Figures that read the same in the light and the dark theme and to colour-blind eyes.

White background always; one palette (Okabe and Ito's, black last); maps of signed values have zero in the middle of the
colour scale. The alt text of a figure says its finding and stands in the metadata of the cell (``mystnb.image.alt``).
"""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

palette = {
    "blue": "#0072B2",
    "orange": "#D55E00",
    "green": "#009E73",
    "pink": "#CC79A7",
    "amber": "#E69F00",
    "sky": "#56B4E9",
    "black": "#000000",
}
dashes = ["-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1))]


def style() -> None:
    """Make the book's look the default of matplotlib: opaque, colour-blind safe, each line with its own dash pattern.

    >>> style(); plt.rcParams["figure.facecolor"]
    'white'
    """
    plt.rcParams.update({
        "figure.facecolor": "white", "axes.facecolor": "white", "savefig.facecolor": "white", "savefig.transparent": False,
        "figure.figsize": (6.4, 3.4), "figure.dpi": 90, "figure.constrained_layout.use": True,
        "font.size": 10, "axes.titlesize": 11, "legend.frameon": False, "lines.linewidth": 1.8,
        "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#dddddd", "grid.linewidth": 0.6,
        "axes.axisbelow": True, "image.cmap": "viridis", "svg.hashsalt": "tensorlm",
        "axes.prop_cycle": cycler(color=list(palette.values())) + cycler(linestyle=dashes),
    })


def diverging(ax: Axes, matrix: Any, label: str = "", limit: float | None = None) -> AxesImage:
    """Draw ``matrix`` (rows, columns) as a heat map, blue below zero, white at zero, red above, with a labelled colour bar.

    The scale runs from ``-limit`` to ``limit`` (default: the largest absolute entry). Returns the image.
    Raises ``ValueError`` unless ``matrix`` has two axes and finite entries.

    >>> _, ax = plt.subplots()
    >>> diverging(ax, [[1.0, -3.0]], "weight").get_clim()
    (-3.0, 3.0)
    >>> plt.close("all")
    """
    values = np.asarray(matrix.detach().cpu() if hasattr(matrix, "detach") else matrix, dtype=float)
    if values.ndim != 2 or not np.isfinite(values).all():
        raise ValueError(f"matrix: got shape {values.shape}, allowed: two axes and finite entries")
    bound = float(np.abs(values).max() or 1.0) if limit is None else limit
    image = ax.imshow(values, cmap="RdBu_r", vmin=-bound, vmax=bound, interpolation="nearest")
    ax.grid(False)
    ax.figure.colorbar(image, ax=ax, label=label, shrink=0.85)
    return image


def show(fig: Figure) -> None:
    """Display ``fig`` once and close it, so that nothing is drawn a second time at the end of the cell.

    >>> fig, _ = plt.subplots(); show(fig)
    Figure(...)
    >>> plt.get_fignums()
    []
    """
    display(fig)
    plt.close(fig)
