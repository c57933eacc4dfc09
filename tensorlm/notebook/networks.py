"""Tensor networks in the field's notation: a tensor is a shape, an index is a line, a line between two shapes is a sum.

An open line is a free index, so the order of a network is the number of its open lines. A small black dot is the copy tensor (1 where all
its indices are equal, 0 elsewhere); a triangle is an isometry, its apex on the side of the smaller space. Notation after Penrose (1971)
and tensornetwork.org. Draw one with :func:`draw` on a :func:`canvas`; the ready-made figures are those of the chapters on the tensor form,
composed layers and attention: ``figures.show(networks.layer())``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tensorlm.notebook.network_drawing import Drawing, Leg, Point, Wire, canvas, draw, say

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
