"""Ranked results as small tables: rows to compute with, aligned to read; and the names of tokens in them."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from torch import Tensor

from tensorlm.checks import require, require_whole
from tensorlm.ties import by_size, by_value

TIE = 1e-9  # a share of the largest number, by which those in a table may differ and be equal
NUMBER = re.compile(r"[-+−±]?\d[\d,]*(\.\d+)? ?[%*×]?|-?inf|nan|–|")
MINUS = re.compile(r"(?<![\w.,)])-(?=\.?\d)")  # a hyphen before a number, where nothing goes before
Names = Sequence[str] | Callable[[int], str] | None


@dataclass(frozen=True)
class Table:
    """Columns and rows; `print` shows them aligned, a notebook as an HTML table with `caption` over it; columns of numbers to the right.

    >>> print(Table(("token", "push"), (("are", 1.234567), ("is", -20.0))))
    token    push
    are     1.235
    is    -20.000
    """

    columns: tuple[str, ...]
    rows: tuple[tuple, ...]
    caption: str = ""

    def __iter__(self):
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple:
        return self.rows[index]

    def _written(self) -> tuple[list, list[bool]]:
        """The rows as texts below their heads, and whether each column is one of numbers, written out or not."""
        lines = [self.columns, *([f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row] for row in self.rows)]
        return lines, [all(NUMBER.fullmatch(cell) for cell in column) for column in zip(*lines[1:], strict=True)] or [False] * len(lines[0])

    def _repr_html_(self) -> str:
        (heads, *lines), numeric = self._written()
        row = lambda tag, cells: "".join(f'<{tag} style="text-align:{"right" if number else "left"}">{escape(MINUS.sub("−", cell))}</{tag}>'
                                         for cell, number in zip(cells, numeric))
        body = "\n".join(f"<tr>{row('td', line)}</tr>" for line in lines)
        caption = f"<caption>{escape(self.caption)}</caption>" if self.caption else ""
        return f'<table class="tlm-table">{caption}<thead><tr>{row("th", heads)}</tr></thead><tbody>\n{body}\n</tbody></table>'

    def __str__(self) -> str:
        lines, numeric = self._written()
        widths = [max(map(len, column)) for column in zip(*lines)]
        aligned = [[cell.rjust(width) if number else cell.ljust(width) for cell, width, number in zip(line, widths, numeric)]
                   for line in lines]
        return "\n".join("  ".join(line).rstrip() for line in aligned)


def name_of(names: Names, index: int) -> str:
    """The name of a token: from a list of words, from a function of ids such as `lambda t: data.decode([t])`, or its id."""
    if names is None:
        return str(index)
    if callable(names):
        return names(index)
    require(index < len(names), "names", names, f"names for every token, at least {index + 1}")
    return names[index]


def largest(values: Tensor, count: int) -> list[int]:
    """Indices of the `count` entries of largest size, of equal sizes positive first. Raises ValueError for a count below 1."""
    return by_size(values, TIE)[: require_whole("count", count, 1)].tolist()


def promoted(logits: Tensor, names: Names, count: int = 3, demoted: bool = False) -> str:
    """The `count` tokens that a change of the logits (vocab,) favours most (or least), with the change less its mean over tokens.

    A constant on all logits changes no probability, so the mean goes.
    """
    centred = logits - logits.mean()
    order = by_value(-centred if demoted else centred, TIE)[: require_whole("count", count, 1)].tolist()
    return ", ".join(f"{name_of(names, index)} {centred[index].item():+.2f}" for index in order)
