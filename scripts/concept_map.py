"""Draw the map of the book's ideas: `python scripts/concept_map.py` writes book/img/concept_map.svg, which a test compares.

Boxes stand in rows, and every arrow goes to the row below, so that the map can be drawn on a board from top to bottom.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path

TARGET = Path(__file__).resolve().parent.parent / "book" / "img" / "concept_map.svg"
WIDTH, ROW, BOX, HEIGHT, TOP = 520, 104, (240, 62), 808, 8
COLUMNS = {"left": 128, "middle": 260, "right": 392}
INK, LINE, FILL, EDGE = "#1a1a1a", "#5a6572", "#eaf1f8", "#12355b"


@dataclass(frozen=True)
class Idea:
    row: int
    column: str
    lines: tuple[str, str]
    chapters: str

    @property
    def centre(self) -> tuple[int, int]:
        return COLUMNS[self.column], TOP + self.row * ROW + BOX[1] // 2


IDEAS = {
    "layer": Idea(0, "middle", ("Two readings,", "multiplied"), "01"),
    "table": Idea(1, "left", ("A table of numbers:", "the tensor of a layer"), "01, 06"),
    "degree": Idea(1, "right", ("Degree 2: the output scales", "with the square"), "01, 02"),
    "tree": Idea(2, "left", ("Two layers:", "a tree of tensors"), "07"),
    "attention": Idea(2, "right", ("Attention: a product", "of five factors"), "08"),
    "norm": Idea(3, "left", ("A norm: a ratio, or faded", "into a constant"), "05, 08"),
    "training": Idea(3, "right", ("Trained fast,", "compared fairly"), "03, 04"),
    "model": Idea(4, "middle", ("The whole model", "is one polynomial"), "05"),
    "vector": Idea(5, "left", ("A vector is added: cross", "term and self term"), "02, 09"),
    "weights": Idea(5, "right", ("What the weights", "alone can say"), "09, 12"),
    "answer": Idea(6, "middle", ("The answer at every strength,", "and where it turns over"), "10"),
    "data": Idea(7, "left", ("Which example did it?", "Leave it out"), "11"),
    "reward": Idea(7, "right", ("A reward is a landscape:", "noise smooths it"), "13"),
}
ARROWS = (
    ("layer", "table", "written out"), ("layer", "degree", "scaled"), ("table", "tree", "put together"), ("degree", "attention", "counted"),
    ("tree", "norm", "what is in the way?"), ("attention", "training", "in a model"), ("norm", "model", "folded away"),
    ("training", "model", "at a small price"), ("model", "vector", "steered"), ("model", "weights", "read"),
    ("vector", "answer", "solved"), ("weights", "answer", "with the text"),
    ("answer", "data", "learned from"), ("answer", "reward", "paid for"),
)


def draw() -> str:
    """The map as SVG: legible on white in both themes, its text selectable."""
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img" '
             'font-family="system-ui, -apple-system, Segoe UI, Roboto, Helvetica, Arial, sans-serif" text-anchor="middle">',
             "<title>The ideas of the book and how they lead to one another</title>",
             f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
             f'<marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
             f'<path d="M0 0 8 4 0 8z" fill="{LINE}"/></marker>']
    parts += [arrow(IDEAS[start], IDEAS[end], words) for start, end, words in ARROWS]
    parts += [box(idea) for idea in IDEAS.values()]
    return "\n".join([*parts, "</svg>"]) + "\n"


def box(idea: Idea) -> str:
    x, y = idea.centre
    left, top = x - BOX[0] // 2, y - BOX[1] // 2
    first, second = (escape(line) for line in idea.lines)
    return (f'<rect x="{left}" y="{top}" width="{BOX[0]}" height="{BOX[1]}" rx="7" fill="{FILL}" stroke="{EDGE}" stroke-width="1.5"/>'
            f'<text x="{x}" y="{y - 9}" font-size="15" fill="{INK}">{first}</text>'
            f'<text x="{x}" y="{y + 9}" font-size="15" fill="{INK}">{second}</text>'
            f'<text x="{x}" y="{y + 25}" font-size="12" fill="{EDGE}">chapter{"s" * ("," in idea.chapters)} {idea.chapters}</text>')


def arrow(start: Idea, end: Idea, words: str) -> str:
    (x1, y1), (x2, y2) = start.centre, end.centre
    y1, y2 = y1 + BOX[1] // 2, y2 - BOX[1] // 2 - 1
    x1, x2 = x1 + (x2 - x1) // 4, x2 - (x2 - x1) // 4
    x, y = (x1 + x2) // 2, (y1 + y2) // 2 + 4
    halo = 'stroke="#ffffff" stroke-width="5" stroke-linejoin="round" paint-order="stroke"'
    return (f'<path d="M{x1} {y1}L{x2} {y2}" stroke="{LINE}" stroke-width="1.5" fill="none" marker-end="url(#tip)"/>'
            f'<text x="{x}" y="{y}" font-size="13" font-style="italic" fill="{INK}" {halo}>{escape(words)}</text>')


if __name__ == "__main__":
    TARGET.write_text(draw(), encoding="utf-8")
