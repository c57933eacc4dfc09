"""Ranked results as small tables: rows to compute with, Markdown to read."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from tensorlm.ties import by_size, by_value

TIE = 1e-9  # a share of the largest number, by which those in a table may differ and be equal
Names = Sequence[str] | Callable[[int], str] | None


@dataclass(frozen=True)
class Table:
    """Columns and rows; `print` shows them aligned, a notebook as Markdown.

    >>> print(Table(("token", "push"), (("are", 1.234567), ("is", -20.0))))
    token    push
    are     1.235
    is    -20.000
    >>> Table(("token",), (("a|b",),)).markdown().splitlines()[-1]
    '| a\\\\|b |'
    """

    columns: tuple[str, ...]
    rows: tuple[tuple, ...]
    digits: int = 3

    def __iter__(self):
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple:
        return self.rows[index]

    def column(self, name: str) -> list:
        """The entries of one column; KeyError names those there are."""
        if name not in self.columns:
            raise KeyError(f"no column {name!r}; there are {self.columns}")
        return [row[self.columns.index(name)] for row in self.rows]

    def markdown(self) -> str:
        lines = [self.columns, ["---:" if self._is_number(index) else "---" for index in range(len(self.columns))], *self._texts()]
        return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)

    def __str__(self) -> str:
        lines = [list(self.columns), *self._texts()]
        widths = [max(len(line[index]) for line in lines) for index in range(len(self.columns))]
        aligned = [[cell.rjust(width) if self._is_number(index) else cell.ljust(width)
                    for index, (cell, width) in enumerate(zip(line, widths))] for line in lines]
        return "\n".join("  ".join(line).rstrip() for line in aligned)

    def _repr_markdown_(self) -> str:
        return self.markdown()

    def _texts(self) -> list[list[str]]:
        return [[f"{cell:.{self.digits}f}" if isinstance(cell, float) else str(cell) for cell in row] for row in self.rows]

    def _is_number(self, index: int) -> bool:
        return bool(self.rows) and all(isinstance(row[index], float | int) for row in self.rows)


def name_of(names: Names, index: int) -> str:
    """The name of a token: from a list of words, from a function of ids such as `lambda t: data.decode([t])`, or its id.

    >>> name_of(["the", "near"], 1), name_of(None, 1), name_of(lambda token: "#" * token, 2)
    ('near', '1', '##')
    """
    if names is None:
        return str(index)
    if callable(names):
        return names(index)
    if index >= len(names):
        raise ValueError(f"names must have a name for every token, got {len(names)} and token {index}")
    return names[index]


def largest(values: Tensor, count: int) -> list[int]:
    """Indices of the `count` entries of largest size, of equal sizes positive first. Raises ValueError for a count below 1.

    >>> import torch
    >>> largest(torch.tensor([1.0, -3.0, 2.0]), 2)
    [1, 2]
    """
    require_count(count)
    return by_size(values, TIE)[:count].tolist()


def promoted(logits: Tensor, names: Names, count: int = 3, demoted: bool = False) -> str:
    """The `count` tokens that a change of the logits (vocab,) favours most (or least), with the change less its mean over tokens.

    A constant on all logits changes no probability, so the mean goes.

    >>> import torch
    >>> change = torch.tensor([5.0, 6.0, 10.0])
    >>> promoted(change, ["a", "b", "c"], 2), promoted(change, ["a", "b", "c"], 1, demoted=True)
    ('c +3.00, b -1.00', 'a -2.00')
    """
    require_count(count)
    centred = logits - logits.mean()
    order = by_value(-centred if demoted else centred, TIE)[:count].tolist()
    return ", ".join(f"{name_of(names, index)} {centred[index].item():+.2f}" for index in order)


def require_count(count: int) -> None:
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise ValueError(f"count must be a whole number of at least 1, got {count!r}")
