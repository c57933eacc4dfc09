"""Tensor networks in the field's notation: a tensor is a shape, an index is a line, a line between two shapes is a sum.

An open line is a free index, so the order of a network is the number of its open lines. A small black dot is the copy tensor (1 where all
its indices are equal, 0 elsewhere); a triangle is an isometry, its apex on the side of the smaller space. Notation after Penrose (1971)
and tensornetwork.org. Draw one with :func:`draw` on a :func:`canvas`; the ready-made figures are those of the chapters on the tensor form,
composed layers and attention: ``figures.show(networks.layer())``.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
from matplotlib import patches
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.path import Path
from matplotlib.text import Text

from tensorlm.notebook.arguments import finite, instances, mapping, point, real, require, require_drawable, require_text, texts
from tensorlm.notebook.figures import palette, tint

DIRECTIONS = {"right": 0, "up-right": 60, "up": 90, "up-left": 120, "left": 180, "down-left": 240, "down": 270, "down-right": 300}
SIZES = {"circle": 0.32, "box": 0.3, "isometry": 0.4, "dot": 0.08}
COLOURS = {"D": "blue", "L": "orange", "R": "green", "T": "sky", "Q": "orange", "K": "green", "V": "pink", "O": "blue", "C": "amber"}
ANCHORS = ("center", "top", "bottom", "baseline", "center_baseline")
INCH, LEG = 0.62, 0.42                               # inches a unit of a canvas; units that an open line reaches beyond its shape
Point = tuple[float, float]


@dataclass(frozen=True)
class Wire:
    """A sum over a shared index: two nodes, the name of the index, how far the line bends to its left, whether it is dashed."""

    start: str
    end: str
    label: str = ""
    bend: float = 0.0
    dashed: bool = False

    def __post_init__(self) -> None:
        require_text(**{"Wire.start": self.start, "Wire.end": self.end})
        _check_line(self, self.bend, "bend")


@dataclass(frozen=True)
class Leg:
    """A free index: its node, the direction (a name of ``DIRECTIONS`` or degrees), the name of the index, whether it is dashed."""

    node: str
    direction: str | float
    label: str = ""
    dashed: bool = False

    def __post_init__(self) -> None:
        require_text(**{"Leg.node": self.node})
        _check_line(self, 0.0 if isinstance(self.direction, str) else self.direction, "direction")

    @property
    def angle(self) -> float:
        return math.radians(DIRECTIONS[self.direction] if isinstance(self.direction, str) else self.direction)


@dataclass(frozen=True)
class Drawing:
    """What was drawn: shapes by node, lines and words. ``order`` is that of the tensor the network stands for."""

    nodes: dict[str, patches.Patch]
    wires: list[patches.PathPatch]
    legs: list[patches.PathPatch]
    words: list[Text]

    @property
    def order(self) -> int:
        return len(self.legs)


def draw(ax: Axes, nodes: Mapping[str, Point], wires: Iterable[Wire | Sequence[Any]] = (), legs: Iterable[Leg | Sequence[Any]] = (),
         kinds: Mapping[str, str] | None = None, labels: Mapping[str, str] | None = None, groups: Mapping[str, Sequence[str]] | None = None,
         at: Point = (0.0, 0.0)) -> Drawing:
    """Draw the network of ``nodes`` (name to position) on ``ax``, moved by ``at``.

    ``wires`` are :class:`Wire` or their arguments, such as ``("L", "dot", "h")``; ``legs`` are :class:`Leg` or theirs, such as
    ``("L", "down", "i")``. ``kinds`` gives a node the shape ``"circle"`` (the default), ``"box"``, ``"isometry"`` or ``"dot"``. A node
    shows its name up to the first space, as mathematics, unless ``labels`` says otherwise; a dot shows nothing. ``groups`` maps a caption
    to the nodes that a dashed frame goes around.
    Raises ``ValueError`` naming what does not fit. A matrix product has two free indices left:

    >>> _, ax = canvas(4, 2)
    >>> draw(ax, {"A": (1, 1), "B": (2.5, 1)}, wires=[("A", "B", "k")], legs=[("A", "left", "i"), ("B", "right", "j")]).order
    2
    >>> plt.close("all")
    """
    require(isinstance(ax, Axes), "ax", ax, "matplotlib Axes")
    wires, legs = instances("wires", Wire, wires), instances("legs", Leg, legs)
    nodes = {name: point(f"nodes: position of {name!r}", place) for name, place in mapping("nodes", nodes).items()}
    at = point("at", at)
    kinds, labels, groups = (mapping(name, {} if each is None else each)
                             for name, each in (("kinds", kinds), ("labels", labels), ("groups", groups)))
    kinds = dict.fromkeys(nodes, "circle") | kinds
    groups = {caption: texts(f"groups: nodes of {caption!r}", members) for caption, members in groups.items()}
    _check(nodes, wires, legs, kinds, labels, groups)
    place = {name: (x + at[0], y + at[1]) for name, (x, y) in nodes.items()}
    captions = {name: "" if kinds[name] == "dot" else f"${name.split(' ')[0]}$" for name in nodes} | labels
    for name, caption in captions.items():
        require_drawable(f"labels: that of {name!r}" if name in labels else "nodes: a name", caption)
    middle = tuple(sum(axis) / len(place) for axis in zip(*place.values()))
    ax.set_axis_off()
    ax.set_aspect("equal")
    words = [_frame(ax, caption, [place[name] for name in members]) for caption, members in groups.items()]
    sizes = {name: SIZES[kinds[name]] for name in nodes}
    lines = [_wire(ax, wire, (place[wire.start], place[wire.end]), (sizes[wire.start], sizes[wire.end]), middle, words) for wire in wires]
    ends = [_leg(ax, leg, place[leg.node], sizes[leg.node], words) for leg in legs]
    shapes = {name: _shape(ax, name, place[name], kinds[name], captions[name], words) for name in nodes}
    ax.autoscale_view()
    return Drawing(shapes, lines, ends, words)


def canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """A white figure whose axes are ``width`` by ``height`` units, at one size of shapes and letters for all diagrams.

    >>> fig, ax = canvas(10, 5); fig.get_size_inches().tolist()
    [6.2, 3.1]
    >>> plt.close(fig)
    """
    width, height = (finite(f"{name} of the canvas", side, above=0.001, most=500) for name, side in (("width", width), ("height", height)))
    fig = plt.figure(figsize=(INCH * width, INCH * height), facecolor="white", layout="none")
    ax = fig.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, width), ylim=(0, height), aspect="equal")
    ax.set_axis_off()
    return fig, ax


def say(ax: Axes, x: float, y: float, words: str, size: float = 14, va: str = "center") -> Text:
    """Words or a sign such as ``"$=$"`` between two networks, centred at (x, y), or hanging from there with ``va="top"``."""
    require(isinstance(ax, Axes), "ax", ax, "matplotlib Axes")
    require(isinstance(va, str) and va in ANCHORS, "va", va, ", ".join(ANCHORS))
    x, y, size = finite("x", x), finite("y", y), finite("size", size, above=0, most=1000)
    require_drawable("words", words)
    return ax.text(x, y, words, fontsize=size, ha="center", va=va, color="#1a1a1a", linespacing=1.35, zorder=5)


def _check_line(line: Wire | Leg, number: Any, name: str) -> None:
    kind = type(line).__name__
    require(getattr(line.label, "shape", ()) == (), f"{kind}.label", line.label, "text")
    require_drawable(f"{kind}.label", line.label, "${}$" if line.label else "{}")
    require(getattr(line.dashed, "shape", ()) == (), f"{kind}.dashed", line.dashed, "True or False")
    real(f"{kind}.{name}", number)


def _check(nodes: Mapping[str, Point], wires: list[Wire], legs: list[Leg], kinds: Mapping[str, str], labels: Mapping[str, str],
           groups: Mapping[str, Sequence[str]]) -> None:
    if not nodes:
        raise ValueError("nodes: got none, allowed: at least one name with its position (x, y)")
    for argument, words in (("kinds", kinds), ("labels", labels)):
        require_text(**{f"{argument}: that of {name!r}": each for name, each in words.items()})
    if unknown := [(name, kind) for name, kind in kinds.items() if kind not in SIZES]:
        raise ValueError(f"kinds: got {unknown[0][1]!r} for {unknown[0][0]!r}, allowed: {', '.join(SIZES)}")
    for leg in legs:
        if leg.direction not in DIRECTIONS if isinstance(leg.direction, str) else not math.isfinite(leg.direction):
            raise ValueError(f"legs: got direction {leg.direction!r} at {leg.node!r}, allowed: {', '.join(DIRECTIONS)}, or finite degrees")
    if empty := [caption for caption, members in groups.items() if not members]:
        raise ValueError(f"groups: got no node for {empty[0]!r}, allowed: one at least")
    used = {"wires": [end for wire in wires for end in (wire.start, wire.end)], "legs": [leg.node for leg in legs], "kinds": kinds,
            "labels": labels, "groups": [name for members in groups.values() for name in members]}
    for argument, names in used.items():
        if strangers := [name for name in names if name not in nodes]:
            raise ValueError(f"{argument}: got unknown node {strangers[0]!r}, allowed: {', '.join(map(repr, nodes))}")
    _check_apart(nodes, wires, legs)


def _check_apart(nodes: Mapping[str, Point], wires: list[Wire], legs: list[Leg]) -> None:
    """Nothing lies on top of another thing of its kind, and no wire is a point."""
    drawn: dict[str, list[tuple[Hashable, str]]] = {
        "nodes": [(tuple(place), name) for name, place in nodes.items()],
        "wires": [((frozenset((wire.start, wire.end)), wire.bend), f"{wire.start} to {wire.end}") for wire in wires],
        "legs": [((leg.node, round(math.degrees(leg.angle), 6)), f"{leg.node} {leg.direction}") for leg in legs]}
    for argument, things in drawn.items():
        places = [place for place, _ in things]
        if twice := [name for i, (place, name) in enumerate(things) if place in places[:i]]:
            raise ValueError(f"{argument}: got {twice[0]!r} on top of another one, allowed: each in a place of its own (a wire may bend)")
    if loops := [wire.start for wire in wires if wire.start == wire.end]:
        raise ValueError(f"wires: got one from {loops[0]!r} to itself, allowed: wires between two nodes")
    if bent := [wire for wire in wires if not math.isfinite(wire.bend)]:
        raise ValueError(f"wires: got bend {bent[0].bend} from {bent[0].start!r} to {bent[0].end!r}, allowed: finite numbers")


def _wire(ax: Axes, wire: Wire, ends: tuple[Point, Point], sizes: tuple[float, float], middle: Point,
          words: list[Text]) -> patches.PathPatch:
    """A line or a curve between two centres; its name stands on the outer side, to the right or above where there is none."""
    (start, end), length = ends, math.dist(*ends)
    along = tuple((b - a) / length for a, b in zip(start, end))
    across = (-along[1], along[0])                                                        # to the left of the way from start to end
    seen = (length + sizes[0] - sizes[1]) / 2                                             # the middle of what the shapes leave to be seen
    control = ((start[0] + end[0]) / 2 + 2 * wire.bend * across[0], (start[1] + end[1]) / 2 + 2 * wire.bend * across[1])
    if wire.label:
        top = tuple(a + seen * step + wire.bend * n for a, step, n in zip(start, along, across))
        outward = sum(n * (t - m) for n, t, m in zip(across, top, middle))
        side = math.copysign(0.21, outward if abs(outward) > 1e-6 else across[0] + 1e-3 * across[1])
        _name(ax, top[0] + side * across[0], top[1] + side * across[1], wire.label, words)
    return _line(ax, [start, control, end], wire.dashed, f"wire {wire.start} - {wire.end}")


def _leg(ax: Axes, leg: Leg, place: Point, size: float, words: list[Text]) -> patches.PathPatch:
    along, reach = (math.cos(leg.angle), math.sin(leg.angle)), size + LEG
    end = (place[0] + reach * along[0], place[1] + reach * along[1])
    if leg.label:
        _name(ax, place[0] + (reach + 0.2) * along[0], place[1] + (reach + 0.2) * along[1], leg.label, words)
    return _line(ax, [place, end, end], leg.dashed, f"leg {leg.node} {leg.direction}")


def _line(ax: Axes, points: list[Point], dashed: bool, gid: str) -> patches.PathPatch:
    look: dict[str, Any] = {"edgecolor": "#1a1a1a", "linewidth": 1.7}
    if dashed:
        look = {"edgecolor": "#6a6a6a", "linewidth": 1.3, "linestyle": (0, (3, 2))}
    path = Path(points, [Path.MOVETO, Path.CURVE3, Path.CURVE3])
    line = patches.PathPatch(path, fill=False, capstyle="butt" if dashed else "round", zorder=1, gid=gid, **look)
    ax.add_patch(line)
    return line


def _name(ax: Axes, x: float, y: float, label: str, words: list[Text]) -> None:
    words.append(say(ax, x, y, f"${label}$", 12.5))


def _shape(ax: Axes, name: str, place: Point, kind: str, caption: str, words: list[Text]) -> patches.Patch:
    size, (x, y) = SIZES[kind], place
    colour = palette.get(COLOURS.get(caption.strip("$")[:1], ""), "#5a5a5a")
    look: dict[str, Any] = {"facecolor": tint(colour), "edgecolor": colour, "linewidth": 1.6, "zorder": 3, "gid": f"node {name}"}
    base = y - 0.7 * size
    corner, side = (x - size + 0.06, y - size + 0.06), 2 * size - 0.12
    shape = {
        "circle": lambda: patches.Circle(place, size, **look),
        "box": lambda: patches.FancyBboxPatch(corner, side, side, boxstyle="round,pad=0.06", **look),
        "isometry": lambda: patches.Polygon([(x - size, base), (x + size, base), (x, y + size)], joinstyle="round", **look),
        "dot": lambda: patches.Circle(place, size, **look | {"facecolor": "black", "edgecolor": "black"}),
    }[kind]()
    if caption:
        words.append(say(ax, x, y - (0.16 * size if kind == "isometry" else 0.02), caption, 14))
    return ax.add_patch(shape)


def _frame(ax: Axes, caption: str, places: list[Point]) -> Text:
    """A dashed frame around some nodes, its caption above."""
    pad = max(SIZES.values()) + 0.14
    (left, low), (right, high) = ([edge(axis) for axis in zip(*places)] for edge in (min, max))
    corner, width, height = (left - pad, low - pad), right - left + 2 * pad, high - low + 2 * pad
    ax.add_patch(patches.FancyBboxPatch(corner, width, height, boxstyle="round,pad=0,rounding_size=0.2", fill=False, edgecolor="#6a6a6a",
                                        linestyle=(0, (4, 3)), linewidth=1.2, zorder=0, gid=f"group {caption}"))
    return say(ax, (left + right) / 2, high + pad + 0.2, caption, 11.5)


__all__ = ["Drawing", "Leg", "Wire", "attention_head", "canvas", "draw", "inner_product", "layer", "odt_sweep", "say", "two_layers"]


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
    _captions(ax, 2.75, {1.9: "two layers,\norder 5"})
    _captions(ax, 0.95, {6.9: "the same with all their factors:\nthe first layer stands there twice"})
    return fig


def inner_product() -> Figure:
    """The inner product of a layer's symmetric part with itself: half the straight pairing of L and R, and half the crossed one."""
    fig, ax = canvas(10.6, 3.6)
    for x, crossed in ((2.25, False), (6.95, True)):
        nodes = {"dot a": (x, 1.8), "dot b": (x + 3.3, 1.8)}
        nodes |= {f"{name} {side}": (x + shift, y) for side, shift in (("a", 0.95), ("b", 2.35))
                  for name, y in zip("DLR", (2.95, 1.8, 0.65))}
        pairs = [("L", "R", ""), ("R", "L", "")] if crossed else [("L", "L", "i"), ("R", "R", "j")]
        wires: list[Sequence[Any]] = [(f"{left} a", f"{right} b", name) for left, right, name in [("D", "D", "o"), *pairs]]
        wires += [(f"dot {side}", f"{name} {side}") for side in "ab" for name in "DLR"]
        draw(ax, nodes, wires, kinds={"dot a": "dot", "dot b": "dot"})
    say(ax, 1.05, 1.8, r"$\langle S, S \rangle = \frac{1}{2}$", 17)
    say(ax, 6.25, 1.8, r"$+\;\frac{1}{2}$", 17)
    return fig


def attention_head() -> Figure:
    """A bilinear head: its weights, a tensor of order 6; and at work, where the mask c joins the positions i and j (dashed)."""
    fig, ax = canvas(10.8, 5.7)
    rows = {"Q_1": "K_1", "Q_2": "K_2", "O": "V"}
    names = {"Q_1": "q_1", "Q_2": "q_2", "O": "o", "K_1": "k_1", "K_2": "k_2", "V": "v"}
    weights, head = ({name: (x + shift, 3.6 - 0.95 * y) for y, pair in enumerate(rows.items()) for name, shift in zip(pair, (0, 1.4))}
                     for x in (1.25, 6.75))
    draw(ax, weights, [(left, right, "d_h") for left, right in rows.items()],
         [(name, "left" if name in rows else "right", index) for name, index in names.items()])
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
        wires: list[Sequence[Any]] = [(top, f"{low} {side}", wire) for side in sides]
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
    """Nodes, wires and kinds of one layer in CP form, D at (x, y) and L and R below."""
    D, L, R, dot = (f"{letter}{index}{copy}" for letter in ("D", "L", "R", "dot"))
    nodes = {D: (x, y), dot: (x, y - 0.95), L: (x - spread, y - 1.75), R: (x + spread, y - 1.75)}
    return nodes, [(D, dot, "h"), (L, dot), (R, dot)], {dot: "dot"}


def _captions(ax: Axes, y: float, words: dict[float, str]) -> None:
    """Words under each part of a figure, all hanging from the height ``y``."""
    for x, each in words.items():
        say(ax, x, y, each, 11.5, "top")
