"""A residual stream whose rows are polynomials, with the exact degree of each position."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from tensorlm.steering.monomials import Monomials


@dataclass(frozen=True, eq=False)
class Signal:
    """Coefficients `rows` (n, time, ...) or, for heads, (n, heads, time, ...), and the degree of every position.

    A degree is the one that generic weights reach: the sum over factors, the largest over terms. It counts what an order
    has cut off, so that `degree` + 1 rows are the whole polynomial and fewer are a jet. Rows above a position's own
    degree are zero there.
    """

    rows: Tensor
    degrees: tuple[int, ...]

    @classmethod
    def constant(cls, x: Tensor) -> "Signal":
        """Unsteered values, (1, time, width) or (1, heads, time, head_dim)."""
        return cls(x, (0,) * x.shape[-2])

    @property
    def time(self) -> int:
        return len(self.degrees)

    @property
    def degree(self) -> int:
        """The largest of all positions."""
        return max(self.degrees)

    def mapped(self, linear: Callable[[Tensor], Tensor]) -> "Signal":
        """A linear map of every coefficient that leaves positions apart."""
        return Signal(linear(self.rows), self.degrees)

    def at(self, positions: Sequence[int], algebra: Monomials) -> "Signal":
        """Some positions only, without rows that are zero there."""
        degrees = tuple(self.degrees[position] for position in positions)
        return Signal(self.rows[: algebra.rows(max(degrees)), ..., list(positions), :], degrees)

    def plus(self, other: "Signal", algebra: Monomials) -> "Signal":
        return Signal(algebra.add(self.rows, other.rows), tuple(map(max, self.degrees, other.degrees)))

    def by_degree(self, polynomial: Callable[[Tensor], Tensor], algebra: Monomials, factor: int) -> "Signal":
        """A polynomial map of degree `factor` of each position, done for positions of one degree at a time."""
        groups = groups_of(self.degrees)
        degrees = tuple(factor * degree for degree in self.degrees)
        if len(groups) == 1:
            return Signal(polynomial(self.rows), degrees)
        parts = [(index, polynomial(self.rows[: algebra.rows(degree), index])) for (degree,), index in groups.items()]
        result = self.rows.new_zeros(max(len(part) for _, part in parts), self.time, parts[0][1].shape[-1])
        for index, part in parts:
            result[: len(part), index] = part
        return Signal(result, degrees)


def groups_of(*degrees: Sequence[int]) -> dict[tuple[int, ...], list[int]]:
    """Positions with the same degrees: those degrees and the positions' numbers.

    >>> groups_of((0, 3, 0))
    {(0,): [0, 2], (3,): [1]}
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for position, key in enumerate(zip(*degrees)):
        groups.setdefault(key, []).append(position)
    return groups
