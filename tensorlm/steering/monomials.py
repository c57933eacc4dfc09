"""Arithmetic of coefficient arrays: polynomials in one or several strengths, cut off at an order or whole."""

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 1 << 20  # numbers that a product keeps at a time before it sums them by degree


@dataclass(frozen=True)
class Monomials:
    """The monomials in `variables` strengths up to total degree `order` (None: no limit), sorted by total degree.

    A polynomial of degree n is an array whose first axis has `rows(n)` = C(n + variables, variables) entries, one
    coefficient (of any shape) for each monomial. Since lower degrees come first, it is the beginning of the array of
    any higher degree, and a sum needs only zeros at the end. What lies above `order` is dropped: the array is a jet.

    >>> Monomials(1).multiply(torch.tensor([1.0, 1.0]), torch.tensor([1.0, 2.0, 1.0]))  # (1 + t)(1 + t)^2
    tensor([1., 3., 3., 1.])
    >>> Monomials(2, order=2).exponents
    ((0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2))
    """

    variables: int = 1
    order: int | None = None

    def __post_init__(self):
        for name, value in (("variables", self.variables), ("order", self.order)):
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < (name == "variables")):
                raise ValueError(f"{name} must be a whole number of at least {int(name == 'variables')}, got {value!r}")
        if self.variables > 1 and self.order is None:
            raise ValueError(f"order must be given for {self.variables} strengths: the number of monomials grows with its power")

    def rows(self, degree: int) -> int:
        """Coefficients of a polynomial of this degree, none above the order."""
        degree = degree if self.order is None else min(degree, self.order)
        return math.comb(degree + self.variables, self.variables)

    @cached_property
    def exponents(self) -> tuple[tuple[int, ...], ...]:
        """The powers of each strength in every monomial, in the order of the rows."""
        return _exponents(self.variables, self.order)

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        """The sum of two arrays of possibly different degrees."""
        short, long = (a, b) if a.shape[0] <= b.shape[0] else (b, a)
        if short.shape[0] == long.shape[0]:
            return short + long
        return torch.cat([long[: short.shape[0]] + short, long[short.shape[0] :]])

    def multiply(self, a: Tensor, b: Tensor, equation: str = "") -> Tensor:
        """The product of two polynomials: (n, ...), (m, ...) -> (rows of both degrees, ...), by direct convolution.

        Coefficients are multiplied number by number, or as `equation` says, an einsum of two coefficients without
        their first axis ("qe,ke->qk"). There is no FFT: its error is relative to the largest coefficient and would drown the small ones.
        """
        if self.variables > 1:
            return self._multiply_by_table(a, b, _by_equation(equation) if equation else _by_number)
        limit = len(a) + len(b) - 1 if self.order is None else min(len(a) + len(b) - 1, self.order + 1)
        return _convolve_matrices(a, b, limit, _by_equation(equation)) if equation else _convolve(a, b, limit)

    def _multiply_by_table(self, a: Tensor, b: Tensor, product) -> Tensor:
        table = _products(self.variables, self.order)[: len(a), : len(b)].to(a.device)
        rows = (table[:, row] >= 0 for row in range(len(b)))
        parts = ((table[kept, row], product(a[kept], b[row : row + 1])[:, 0]) for row, kept in enumerate(rows))
        where, first = next(parts)
        total = first.new_zeros(1 + int(table.max()), *first.shape[1:]).index_add_(0, where, first)
        for where, part in parts:
            total.index_add_(0, where, part)
        return total


def _convolve(a: Tensor, b: Tensor, limit: int) -> Tensor:
    if a.shape[0] > b.shape[0]:
        a, b = b, a
    shape = b.shape[1:] if a.shape[1:] == b.shape[1:] else torch.broadcast_shapes(a.shape[1:], b.shape[1:])
    total = b.new_zeros(a.shape[0] + b.shape[0] - 1, *shape)
    windows = total.as_strided((a.shape[0], b.shape[0], *shape), (total.stride(0), *total.stride()))  # row n begins at degree n
    for window, coefficient in zip(windows[:limit].unbind(), a.unbind()):
        window.addcmul_(coefficient, b)
    return total[:limit]


def _convolve_matrices(a: Tensor, b: Tensor, limit: int, product) -> Tensor:
    """All pairs of coefficients in few big products, summed by degree."""
    pair = product(a[:1], b[:1])
    step = max(1, CHUNK // (len(a) * max(1, pair.numel())))
    if len(b) <= step:
        return _by_degree(product(a, b))[:limit]
    total = pair.new_zeros(limit, *pair.shape[2:])
    for start in range(0, min(len(b), limit), step):
        part = _by_degree(product(a[: limit - start], b[start : start + step]))[: limit - start]
        total[start : start + len(part)] += part
    return total


def _by_number(a: Tensor, b: Tensor) -> Tensor:
    return a[:, None] * b[None]


def _by_equation(equation: str):
    terms, result = equation.split("->")
    one, other = terms.split(",")
    return lambda a, b: torch.einsum(f"A{one},B{other}->AB{result}", a, b)


def _by_degree(pairs: Tensor) -> Tensor:
    """Sums of pairs (n, m, ...) of coefficients with n + m the same: (n + m - 1, ...).

    Rows of length n + m, read as rows of length n + m - 1, each begin one step further on.
    """
    n, m, *rest = pairs.shape
    if min(n, m) == 1:
        return pairs.flatten(0, 1)
    padded = F.pad(pairs.reshape(n, m, -1), (0, 0, 0, n)).reshape(n * (n + m), -1)
    return padded[: n * (n + m - 1)].view(n, n + m - 1, -1).sum(0).view(n + m - 1, *rest)


@lru_cache
def _exponents(variables: int, order: int) -> tuple[tuple[int, ...], ...]:
    if variables == 1:
        return tuple((degree,) for degree in range(order + 1))
    shorter = _exponents(variables - 1, order)
    return tuple((degree - sum(rest), *rest) for degree in range(order + 1) for rest in shorter if sum(rest) <= degree)


@lru_cache
def _products(variables: int, order: int) -> Tensor:
    """The row of the product of two monomials, -1 above the order."""
    exponents = _exponents(variables, order)
    row = {powers: index for index, powers in enumerate(exponents)}
    return torch.tensor([[row.get(tuple(map(sum, zip(one, other))), -1) for other in exponents] for one in exponents])
