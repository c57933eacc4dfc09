"""Drawing of a trace: the tree from a read-out back to the steering vector as indented lines, each with a bar."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from tensorlm.checks import require, require_instance, require_number, require_one_of, require_whole
from tensorlm.notebook.figures import palette, tint

COLOURS = {"readout": "black", "vector": "orange", "attention": "blue", "head": "sky", "mlp": "green", "unit": "green",
           "eigenvector": "green", "rest": "black"}
WIDTH, ROW, INDENT, LETTER = 4.2, 0.26, 0.12, 0.078   # inches: of the figure, a line, a step to the right, a letter
MARGIN, WORDS, BARS, NUMBERS = 0.08, 2.6, 1.0, 0.55   # inches left of all, for labels at most, bars, and the numbers behind them
ARROW, GLUE = " ← ", "\u00a0"                         # between steps, and within one that is not to be broken
FURTHER = 0.6                                         # height of a label's further lines, in lines
TEXT: dict[str, Any] = {"fontsize": 9, "va": "center", "color": "#1a1a1a"}


@dataclass(frozen=True)
class Line:
    """What a line says, the kind of its last step, its contribution, depth, and the line of its parent."""

    label: str
    kind: str
    value: float
    depth: int
    parent: int | None

    @property
    def wrapped(self) -> list[str]:
        letters = round((WORDS - INDENT * self.depth) / LETTER)
        steps = [step.replace(" ", GLUE) if len(step) <= letters - 2 else step for step in self.label.split(ARROW)]
        pieces = textwrap.wrap((GLUE + ARROW[1:]).join(steps), letters, break_long_words=False, break_on_hyphens=False)
        return [piece.replace(GLUE, " ") for piece in pieces or [""]]


def draw_trace(tree: Mapping[str, Any], unit: str = "logits", digits: int = 1) -> Figure:
    """A figure of a trace, from the read-out at the top to the vector; `tree` is what a trace's `as_dict` gives.

    A step with one cause stands in one line with it, `mlp 1 ← attention 1`. Bars to the right push the way the whole does,
    bars to the left (hatched) push back; what was pruned is dotted. Raises ValueError for a node that does not fit.

    >>> leaf = {"label": "vector at 3", "kind": "vector", "value": 1.5, "children": []}
    >>> fig = draw_trace({"label": "are - is", "kind": "readout", "value": 1.5, "children": [leaf]})
    >>> [text.get_text() for text in fig.axes[0].texts][1:]
    ['are - is ← vector at 3', '+1.5']
    >>> plt.close(fig)
    """
    require_instance("unit", unit, str)
    require_whole("digits", digits, 0, 100)
    lines = trace_lines(tree)
    whole = tree["value"]
    shares = [line.value / whole if whole else math.inf for line in lines]
    require(all(map(math.isfinite, shares)), "value of the tree", whole, "a change that its parts have finite shares of")
    words = max(INDENT * line.depth + LETTER * max(map(len, line.wrapped)) for line in lines) + 0.15
    rows = list(accumulate((1 + FURTHER * (len(line.wrapped) - 1) for line in lines), initial=0.0))
    width, height, low, high = max(WIDTH, words + BARS + NUMBERS), rows[-1], min(0.0, *shares), max(0.0, *shares)
    fig = plt.figure(figsize=(width, ROW * (height + 1.2)), facecolor="white", layout="none")
    ax = fig.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, width), ylim=(height - 0.4, -1.4))
    ax.set_axis_off()
    scale = (width - NUMBERS - words) / ((high - low) or 1.0)
    zero = words - low * scale
    ax.text(zero, -0.9, f"contribution ({unit})", ha="center" if low < -0.3 else "left", parse_math=False, **TEXT)
    ax.plot([zero, zero], [-0.5, height - 0.5], color="#6a6a6a", linewidth=0.8, zorder=3)
    for row, line, share in zip(rows, lines, shares):
        left = MARGIN + INDENT * line.depth
        if line.parent is not None:  # from under the parent, down and to the right
            elbow, top = left - 0.55 * INDENT, rows[line.parent + 1] - 0.58
            ax.plot([elbow, elbow, left - 0.02], [top, row, row], color="#9a9a9a", linewidth=0.8, zorder=1)
        rest, colour = line.kind == "rest", palette[COLOURS[line.kind]]
        for place, piece in enumerate(line.wrapped):
            ax.text(left, row + FURTHER * place, piece, ha="left", parse_math=False, **TEXT)
        ax.barh(row, scale * share, left=zero, height=0.62, facecolor="white" if rest else tint(colour, 0.6), edgecolor=colour,
                linewidth=0.9, linestyle=":" if rest else "-", hatch="////" if share < 0 else None, zorder=2)
        ax.text(width - 0.06, row, f"{line.value:+.{digits}f}", ha="right", **TEXT)
    return fig


def trace_lines(node: Any, depth: int = 0, parent: int | None = None, above: int = 0) -> list[Line]:
    """The lines drawn, top to bottom: a node with, in the same line, the only cause of it and of that; then those below."""
    _check(node)
    labels = [node["label"]]
    while len(node["children"]) == 1:
        node = node["children"][0]
        _check(node)
        labels.append(node["label"])
    lines = [Line(ARROW.join(labels), node["kind"], float(node["value"]), depth, parent)]
    for child in node["children"]:
        lines += trace_lines(child, depth + 1, above, above + len(lines))
    return lines


def _check(node: Any) -> None:
    fits = isinstance(node, Mapping) and {"label", "kind", "value", "children"} <= node.keys()
    require(fits, "tree: a node", node, "a mapping with label, kind, value and children")
    require_instance("tree: label", node["label"], str)
    name = f"tree: {{}} of {node['label']!r}"
    require_one_of(name.format("kind"), node["kind"], COLOURS)
    require_number(name.format("value"), node["value"])
    require_instance(name.format("children"), node["children"], Sequence)
