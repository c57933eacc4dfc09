"""Draw the logo, the favicon and the social card of the book: the third-order tensor of D[(Lx)*(Rx)].

    python scripts/draw_logo.py                 # write them into book/_static
    python scripts/draw_logo.py --out FOLDER

Three legs meet at a dot, the copy tensor: D above it, L and R below. One list of shapes gives the SVG and the PNG files; letters are
strokes, so that no font decides how the logo looks.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.patches import Circle, PathPatch  # noqa: E402
from matplotlib.path import Path as Curve  # noqa: E402

OUT = Path(__file__).resolve().parent.parent / "book" / "_static"
SIDE, RADIUS, LINE, STROKE = 120, 19, 5, 4.2          # units of the drawing
WIRE, PAPER, INK = "#7a7a7a", "#ffffff", "#1a1a1a"
BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#00805D"  # each at least 3 to 1 on white, on the dark theme, and under white letters
CENTRE = (60.0, 60.0)
NODES = {"D": ((60.0, 31.0), BLUE), "L": ((31.0, 83.0), ORANGE), "R": ((89.0, 83.0), GREEN)}
LEGS = {"D": (60.0, 4.0), "L": (13.0, 114.0), "R": (107.0, 114.0)}
LETTERS: dict[str, list[tuple[Any, ...]]] = {
    "D": [("M", -6, -9), ("L", -6, 9), ("L", -1, 9), ("C", 10, 9, 10, -9, -1, -9), ("L", -6, -9)],
    "L": [("M", -5, -9), ("L", -5, 9), ("L", 6, 9)],
    "R": [("M", -6, 9), ("L", -6, -9), ("L", 1, -9), ("C", 9, -9, 9, 1, 1, 1), ("L", -6, 1), ("M", 1, 1), ("L", 7, 9)],
}
LINES = [(0.62, 38, "bold", "Tensor-transformers"), (0.475, 21.5, "normal", "Language models that are polynomials"),
         (0.33, 30, "normal", r"$f(x) = D\,[(Lx) \odot (Rx)]$")]     # of the card: height, size, weight, words
CODES = {"M": [Curve.MOVETO], "L": [Curve.LINETO], "C": [Curve.CURVE4] * 3}


@dataclass(frozen=True)
class Stroke:
    """A line of a colour and a width along steps such as ("M", x, y), ("L", x, y), ("C", x1, y1, x2, y2, x, y)."""

    steps: Sequence[tuple[Any, ...]]
    colour: str
    width: float

    def svg(self) -> str:
        along = " ".join(f"{step[0]}{' '.join(f'{number:g}' for number in step[1:])}" for step in self.steps)
        return (f'<path d="{along}" fill="none" stroke="{self.colour}" stroke-width="{self.width:g}" stroke-linecap="round"'
                ' stroke-linejoin="round"/>')

    def paint(self, ax: Axes, unit: float) -> None:
        points = [pair for step in self.steps for pair in zip(step[1::2], step[2::2])]
        curve = Curve(points, [code for step in self.steps for code in CODES[step[0]]])
        ax.add_patch(PathPatch(curve, fill=False, edgecolor=self.colour, linewidth=self.width * unit, capstyle="round", joinstyle="round"))


@dataclass(frozen=True)
class Disc:
    """A filled circle."""

    place: tuple[float, float]
    radius: float
    colour: str

    def svg(self) -> str:
        return f'<circle cx="{self.place[0]:g}" cy="{self.place[1]:g}" r="{self.radius:g}" fill="{self.colour}"/>'

    def paint(self, ax: Axes, unit: float) -> None:
        ax.add_patch(Circle(self.place, self.radius, color=self.colour, linewidth=0))


def shapes(letters: bool = True, thick: float = 1.0) -> list[Stroke | Disc]:
    """The motif, from back to front; `thick` widens lines for small pictures."""
    drawn: list[Stroke | Disc] = []
    for name, (place, _) in NODES.items():
        drawn.append(Stroke([("M", *LEGS[name]), ("L", *place), ("L", *CENTRE)], WIRE, LINE * thick))
    drawn.append(Disc(CENTRE, 6 * thick, WIRE))
    for name, (place, colour) in NODES.items():
        drawn.append(Disc(place, RADIUS * thick**0.3, colour))
        if letters:
            moved = [(step[0], *(number + place[i % 2] for i, number in enumerate(step[1:]))) for step in LETTERS[name]]
            drawn.append(Stroke(moved, PAPER, STROKE))
    return drawn


def logo() -> str:
    """The logo as the text of an SVG file."""
    inner = "\n".join(shape.svg() for shape in shapes())
    words = "Tensor-transformers: D above, L and R below, joined at a dot"
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {SIDE} {SIDE}" width="{SIDE}" height="{SIDE}" role="img"'
            f' aria-label="{words}">\n<title>{words}</title>\n{inner}\n</svg>\n')


def paint(fig: Figure, box: tuple[float, float, float, float], **look) -> None:
    """The motif in a square of the figure, given in its pixels at 100 to the inch: left, bottom, width, height."""
    width, height = fig.get_size_inches() * 100
    ax = fig.add_axes((box[0] / width, box[1] / height, box[2] / width, box[3] / height))
    ax.set(xlim=(0, SIDE), ylim=(SIDE, 0), aspect="equal")
    ax.set_axis_off()
    for shape in shapes(**look):
        shape.paint(ax, box[2] / SIDE * 0.72)


def favicon() -> Figure:
    """64 pixels, without letters, on nothing."""
    fig = plt.figure(figsize=(0.64, 0.64), dpi=100)
    fig.patch.set_alpha(0)
    paint(fig, (0, 0, 64, 64), letters=False, thick=1.6)
    return fig


def card() -> Figure:
    """1200 by 630 pixels: what a message shows of a link to the book."""
    with plt.rc_context({"font.family": "DejaVu Sans", "mathtext.fontset": "dejavusans"}):
        fig = plt.figure(figsize=(12, 6.3), dpi=100, facecolor=PAPER)
        paint(fig, (50, 105, 420, 420))
        for height, size, weight, words in LINES:
            fig.text(0.425, height, words, fontsize=size, weight=weight, color=INK)
        fig.canvas.draw()
    return fig


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=OUT)
    out = parser.parse_args(arguments).out
    out.mkdir(parents=True, exist_ok=True)
    (out / "logo.svg").write_text(logo(), encoding="utf-8")
    for name, fig in (("favicon", favicon()), ("social_card", card())):
        fig.savefig(out / f"{name}.png", dpi=100, metadata={"Software": None})
        plt.close(fig)


if __name__ == "__main__":
    main()
