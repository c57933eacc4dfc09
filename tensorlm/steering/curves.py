"""Vector-valued functions of a strength in three exact or measured forms, with one interface.

`curve(alphas)` (n,) -> (n, values); `curve.slope(alphas, order)`, its derivative there; `curve.only(keep)`, some of its
values; `curve.contest(low, high)`, a piecewise polynomial whose values stand in the same order at every strength, and the
function that it approximates.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tensorlm.steering.chebyshev import PiecewiseSeries, resolve
from tensorlm.steering.polynomial import Polynomial

Contest = tuple[PiecewiseSeries, Callable[[Tensor], Tensor]]


@dataclass(frozen=True, eq=False)
class PowerCurve:
    """A polynomial in powers of the strength, known everywhere (a jet: near its centre)."""

    polynomial: Polynomial

    def __call__(self, alphas: Tensor) -> Tensor:
        return self.polynomial(alphas)

    def slope(self, alphas: Tensor, order: int) -> Tensor:
        return self.polynomial.derivative(order)(alphas)

    def only(self, keep: Tensor) -> "PowerCurve":
        return PowerCurve(self.polynomial.mapped(lambda coefficients: coefficients[:, keep]))

    def contest(self, low: float, high: float) -> Contest:
        return resolve(self.polynomial, low, high, self.polynomial.degree)[0], self.polynomial

    def cancellation(self, alphas: Tensor) -> Tensor:
        return self.polynomial.cancellation(alphas)

    def as_json(self, digits: int) -> dict[str, Any]:
        p = self.polynomial
        return dict(basis="monomials", unit=p.unit, centre=p.centre, coefficients=rounded(p.coefficients.mT, digits))


@dataclass(frozen=True, eq=False)
class SeriesCurve:
    """Chebyshev series on neighbouring intervals, known on the whole of them only."""

    series: PiecewiseSeries

    def __call__(self, alphas: Tensor) -> Tensor:
        return self.series(alphas)

    def slope(self, alphas: Tensor, order: int) -> Tensor:
        return self.series.derivative(order)(alphas)

    def only(self, keep: Tensor) -> "SeriesCurve":
        return SeriesCurve(PiecewiseSeries(tuple(replace(piece, coefficients=piece.coefficients[:, keep]) for piece in self.series.pieces)))

    def contest(self, low: float, high: float) -> Contest:
        return self.series, self.series

    def as_json(self, digits: int) -> dict[str, Any]:
        return dict(basis="chebyshev", pieces=pieces_as_json(self.series, digits))


@dataclass(frozen=True, eq=False)
class RatioCurve:
    """numerator / denominator^power with a positive denominator; power 1/2 leaves the root of a norm before the head.

    The denominator is one for all values, so that it moves none past another: what leads is settled by polynomials.
    """

    numerator: Polynomial
    denominator: Polynomial
    power: float

    def __call__(self, alphas: Tensor) -> Tensor:
        return self.slope(alphas, 0)

    def slope(self, alphas: Tensor, order: int) -> Tensor:
        """From the Taylor coefficients of both sides at each strength, f_k of d^-p by k d_0 f_k = sum_j (-p j - k + j) d_j f_(k-j)."""
        tops, growth = self._taylor(self.numerator, alphas, order)
        bottoms, _ = self._taylor(self.denominator, alphas, order)
        inverse = [bottoms[0].pow(-self.power)]
        for k in range(1, order + 1):
            terms = [(-self.power * j - k + j) * bottoms[j] * inverse[k - j] for j in range(1, k + 1)]
            inverse.append(sum(terms) / (k * bottoms[0]))
        total = sum(tops[j] * inverse[order - j][:, None] for j in range(order + 1))
        excess = self.numerator.degree - self.power * self.denominator.degree - order
        return math.factorial(order) * total * growth.pow(excess)[:, None]

    @staticmethod
    def _taylor(side: Polynomial, alphas: Tensor, order: int) -> tuple[list[Tensor], Tensor]:
        """p^(k) / k! divided by g^(degree - k), g = max(1, |t|)."""
        growth = ((alphas - side.centre) / side.unit).abs().clamp(min=1)
        parts = [side.derivative(k) for k in range(order + 1)]
        return [(part.reduced(alphas)[0] if k <= side.degree else torch.zeros_like(part(alphas))) / math.factorial(k)
                for k, part in enumerate(parts)], growth

    def only(self, keep: Tensor) -> "RatioCurve":
        return replace(self, numerator=self.numerator.mapped(lambda coefficients: coefficients[:, keep]))

    def contest(self, low: float, high: float) -> Contest:
        return resolve(self.numerator, low, high, self.numerator.degree)[0], lambda alphas: self.numerator.reduced(alphas)[0]

    def cancellation(self, alphas: Tensor) -> Tensor:
        return torch.maximum(self.numerator.cancellation(alphas), self.denominator.cancellation(alphas))

    def as_json(self, digits: int) -> dict[str, Any]:
        return dict(basis="ratio", unit=self.numerator.unit, centre=self.numerator.centre, power=self.power,
                    coefficients=rounded(self.numerator.coefficients.mT, digits),
                    denominator=rounded(self.denominator.coefficients, digits))


def pieces_as_json(series: PiecewiseSeries, digits: int) -> list[dict[str, Any]]:
    """Ends and coefficients of every piece, one row of coefficients a value."""
    return [dict(low=piece.low, high=piece.high, coefficients=rounded(piece.coefficients.mT, digits)) for piece in series.pieces]


def rounded(values: Tensor, digits: int):
    """Nested lists of numbers with that many significant digits."""
    if values.ndim:
        return [rounded(row, digits) for row in values]
    return float(f"{float(values):.{digits}g}")
