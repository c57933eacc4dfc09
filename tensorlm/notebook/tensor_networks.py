"""Tensor networks in the field's notation: a tensor is a shape, an index is a line, a line between two shapes is a sum.

An open line is a free index, so the order of a network is the number of its open lines. A small black dot is the copy
tensor; a triangle is an isometry, its apex on the side of the smaller space. After Penrose (1971), tensornetwork.org.
"""

import cmath
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
from matplotlib import patches
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.path import Path

from tensorlm.notebook.figures import palette, tint

DIRECTIONS = {"right": 0, "up-right": 60, "up": 90, "up-left": 120, "left": 180, "down-left": 240, "down": 270, "down-right": 300}
SIZES = {"circle": 0.32, "box": 0.3, "isometry": 0.4, "dot": 0.08}
COLOURS = {"D": "blue", "L": "orange", "R": "green", "T": "sky", "Q": "orange", "K": "green", "V": "pink", "O": "blue", "C": "amber"}
INCH, LEG = 0.62, 0.42                               # inches a unit of a canvas; units that an open line reaches beyond its shape
Point = tuple[float, float]
Shapes = Mapping[str, tuple[complex, str]]           # place and kind of each node


def draw(ax: Axes, nodes: Mapping[str, Point], wires: Iterable[Sequence[Any]] = (), legs: Iterable[Sequence[Any]] = (),
         kinds: Mapping[str, str] | None = None) -> None:
    """Draw the network of `nodes` (name to position) on `ax`; a node shows its name up to the first space.

    A wire is (start, end, index="", bend=0.0, dashed=False), a leg, which is a free index, (node, direction, index="",
    dashed=False) with a name of `DIRECTIONS` or degrees. `kinds` gives a node the shape "circle" (the default), "box",
    "isometry" or "dot". Raises KeyError for an unknown name.
    """
    ax.set_axis_off()
    ax.set_aspect("equal")
    shapes = {name: (complex(*place), (kinds or {}).get(name, "circle")) for name, place in nodes.items()}
    for wire in wires:
        _wire(ax, shapes, *wire)
    for leg in legs:
        _leg(ax, shapes, *leg)
    for name, (place, kind) in shapes.items():
        _shape(ax, name, place, kind)
    ax.autoscale_view()


def canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """A white figure whose axes are `width` by `height` units, at one size of shapes and letters for all diagrams."""
    fig = plt.figure(figsize=(INCH * width, INCH * height), facecolor="white", layout="none")
    ax = fig.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, width), ylim=(0, height), aspect="equal")
    ax.set_axis_off()
    return fig, ax


def say(ax: Axes, x: float, y: float, words: str, size: float = 14, va: str = "center") -> None:
    """Words or a sign such as `"$=$"` between two networks, centred at (x, y), or hanging from there with `va="top"`."""
    ax.text(x, y, words, fontsize=size, ha="center", va=va, color="#1a1a1a", linespacing=1.35, zorder=5)


def _wire(ax: Axes, shapes: Shapes, start: str, end: str, label: str = "", bend: float = 0.0, dashed: bool = False) -> None:
    """A line or a curve between two centres; its name stands on the outer side, to the right or above where there is none."""
    (first, kind), (last, other) = shapes[start], shapes[end]
    along = (last - first) / abs(last - first)
    across = 1j * along
    if label:
        seen = (abs(last - first) + SIZES[kind] - SIZES[other]) / 2  # from the start to the middle of what the shapes leave
        top = first + seen * along + bend * across
        outward = ((top - sum(place for place, _ in shapes.values()) / len(shapes)) * across.conjugate()).real
        top += math.copysign(0.21, outward if abs(outward) > 1e-6 else across.real + 1e-3 * across.imag) * across
        say(ax, top.real, top.imag, f"${label}$", 12.5)
    _line(ax, [first, (first + last) / 2 + 2 * bend * across, last], dashed, f"wire {start} - {end}")


def _leg(ax: Axes, shapes: Shapes, node: str, direction: str | float, label: str = "", dashed: bool = False) -> None:
    place, kind = shapes[node]
    along = cmath.rect(1, math.radians(DIRECTIONS[direction] if isinstance(direction, str) else direction))
    end = place + (SIZES[kind] + LEG) * along
    if label:
        say(ax, (end + 0.2 * along).real, (end + 0.2 * along).imag, f"${label}$", 12.5)
    _line(ax, [place, end, end], dashed, f"leg {node} {direction}")


def _line(ax: Axes, points: list[complex], dashed: bool, gid: str) -> None:
    look: dict[str, Any] = {"edgecolor": "#1a1a1a", "linewidth": 1.7, "capstyle": "round"}
    if dashed:
        look = {"edgecolor": "#6a6a6a", "linewidth": 1.3, "linestyle": (0, (3, 2)), "capstyle": "butt"}
    path = Path([(point.real, point.imag) for point in points], [Path.MOVETO, Path.CURVE3, Path.CURVE3])
    ax.add_patch(patches.PathPatch(path, fill=False, zorder=1, gid=gid, **look))


def _shape(ax: Axes, name: str, place: complex, kind: str) -> None:
    size, x, y, colour = SIZES[kind], place.real, place.imag, palette.get(COLOURS.get(name[:1], ""), "#5a5a5a")
    look: dict[str, Any] = {"facecolor": tint(colour), "edgecolor": colour, "linewidth": 1.6, "zorder": 3, "gid": f"node {name}"}
    if kind == "dot":
        look |= {"facecolor": "black", "edgecolor": "black"}
    else:
        say(ax, x, y - (0.16 * size if kind == "isometry" else 0.02), f"${name.split(' ')[0]}$")
    if kind == "isometry":
        corners = [(x - size, y - 0.7 * size), (x + size, y - 0.7 * size), (x, y + size)]
        ax.add_patch(patches.Polygon(corners, joinstyle="round", **look))
    elif kind == "box":
        corner, side = (x - size + 0.06, y - size + 0.06), 2 * size - 0.12
        ax.add_patch(patches.FancyBboxPatch(corner, side, side, boxstyle="round,pad=0.06", **look))
    else:
        ax.add_patch(patches.Circle((x, y), size, **look))


def layer() -> Figure:
    """A bilinear layer: the third-order tensor T, its CP form, and the function, which puts one x on both inputs."""
    fig, ax = canvas(10.4, 5.4)
    draw(ax, {"T": (1.2, 3.0)}, legs=[("T", "up", "o"), ("T", "down-left", "i"), ("T", "down-right", "j")])
    factors, wires, kinds = _factors(4.3, 4.25)
    draw(ax, factors, wires, [("D", "up", "o"), ("L", "down", "i"), ("R", "down", "j")], kinds)
    factors, wires, kinds = _factors(8.5, 4.25)
    draw(ax, factors | {"x i": (7.65, 1.45), "x j": (9.35, 1.45)}, wires + [("L", "x i"), ("R", "x j")], [("D", "up", "o")], kinds)
    say(ax, 2.6, 3.0, "$=$", 17)
    _captions(ax, 0.95, {1.2: "the tensor $T$,\norder 3",
                         4.3: "its CP form: $D$, $L$ and $R$\nmeet in a copy tensor",
                         8.5: "$f(x)$: the same $x$\non both inputs"})
    return fig


def two_layers() -> Figure:
    """Two layers as a tree with two copies of the first: order 5, one output and four inputs; folded and with all its factors."""
    fig, ax = canvas(10.0, 8.1)
    tree = {"T_2": (1.9, 5.3), "T_1 a": (1.05, 3.9), "T_1 b": (2.75, 3.9)}
    inputs = [("T_1 a", 245, "i"), ("T_1 a", 295, "j"), ("T_1 b", 245, "k"), ("T_1 b", 295, r"\ell")]
    draw(ax, tree, [("T_2", "T_1 a", "m"), ("T_2", "T_1 b", "n")], [("T_2", "up", "o"), *inputs])
    nodes, wires, kinds = _factors(6.9, 6.95, "_2", spread=1.35)
    legs = [("D_2", "up", "o")]
    for copy, x, above, wire, names in ((" a", 5.55, "L_2", "m", ("i", "j")), (" b", 8.25, "R_2", "n", ("k", r"\ell"))):
        below, inner, dots = _factors(x, 3.95, "_1", copy, spread=0.68)
        nodes, kinds = nodes | below, kinds | dots
        wires += inner + [(above, f"D_1{copy}", wire)]
        legs += [(f"L_1{copy}", "down", names[0]), (f"R_1{copy}", "down", names[1])]
    draw(ax, nodes, wires, legs, kinds)
    say(ax, 3.95, 4.6, "$=$", 17)
    _captions(ax, 2.75, {1.9: "one tensor of order 5:\none output leg and\nfour input legs"})
    _captions(ax, 0.95, {6.9: "the same with all their factors:\nthe first layer stands there twice"})
    return fig


def attention_head() -> Figure:
    """A bilinear head: its weights, a tensor of order 6; and at work, where the mask c joins the positions i and j (dashed)."""
    fig, ax = canvas(10.8, 5.7)
    rows = {"Q_1": "K_1", "Q_2": "K_2", "O": "V"}
    weights, head = ({name: (x + shift, 3.6 - 0.95 * y) for y, pair in enumerate(rows.items()) for name, shift in zip(pair, (0, 1.4))}
                     for x in (1.25, 6.75))
    draw(ax, weights, [(left, right, "d_h") for left, right in rows.items()],
         [(name, "left" if name in rows else "right", name.lower()) for name in (*rows, *rows.values())])
    tokens = {f"X {name}": (x + (-1.05 if name in rows else 1.05), y) for name, (x, y) in head.items() if name != "O"}
    nodes = head | tokens | {"dot i": (4.75, 3.125), "dot j": (10.3, 2.65), "c": (7.45, 4.85)}
    seats = [(name, "dot i" if "Q" in name else "dot j", "", 0.0, True) for name in tokens]
    mask = [("c", "dot i", "", -0.75, True), ("c", "dot j", "", 0.85, True)]
    draw(ax, nodes, [*rows.items(), *((f"X {name}", name) for name in head if name != "O"), *seats, *mask],
         [("O", "left", "o"), ("dot i", "left", "i", True)], {"dot i": "dot", "dot j": "dot", "c": "box"})
    _captions(ax, 0.95, {1.95: "the weights of a head,\norder 6",
                         7.45: "at work: the position $i$ stays open, that of the keys\nand values is summed over; $c$ holds constants"})
    return fig


def odt_sweep() -> Figure:
    """Orthogonalise, diagonalise, truncate: an isometry is split off below, the rest moves up, the wires are turned and cut."""
    fig, ax = canvas(11.0, 4.9)
    steps = (("T_2", "T_1", "", "", "a tree of\ntwo layers"), ("T_2", "V", "C", "", "split $T_1$:\nisometry, rest"),
             ("T_2'", "V", "", "", "move the\nrest up"), ("T_2''", "V'", "", "r", "turn the wires,\ncut to rank $r$"))
    for step, (top, low, rest, wire, words) in enumerate(steps):
        x, sides = 1.35 + 2.78 * step, {"a": -0.72, "b": 0.72}
        nodes = {top: (x, 3.85)} | {f"{low} {side}": (x + shift, 1.75) for side, shift in sides.items()}
        wires: list[tuple] = [(top, f"{low} {side}", wire) for side in sides]
        if rest:
            nodes |= {f"{rest} {side}": (x + 0.52 * shift, 2.78) for side, shift in sides.items()}
            wires = [(f"{rest} {side}", end) for side in sides for end in (top, f"{low} {side}")]
        legs = [(top, "up")] + [(f"{low} {side}", angle) for side in sides for angle in (250, 290)]
        draw(ax, nodes, wires, legs, {name: "isometry" for name in nodes if name.startswith("V")})
        _captions(ax, 0.85, {x: words})
        if step:
            say(ax, x - 1.39, 3.4, r"$\rightarrow$", 15)
    return fig


def _factors(x: float, y: float, index: str = "", copy: str = "",
             spread: float = 0.85) -> tuple[dict[str, Point], list[Any], dict[str, str]]:
    D, L, R, dot = (f"{letter}{index}{copy}" for letter in ("D", "L", "R", "dot"))
    nodes = {D: (x, y), dot: (x, y - 0.95), L: (x - spread, y - 1.75), R: (x + spread, y - 1.75)}
    return nodes, [(D, dot, "h"), (L, dot), (R, dot)], {dot: "dot"}


def _captions(ax: Axes, y: float, words: dict[float, str]) -> None:
    for x, each in words.items():
        say(ax, x, y, each, 11.5, "top")
