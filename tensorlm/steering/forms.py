"""Models whose norms stay per-token, where the response is still exact: ratios of polynomials in the strength."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tensorlm.layers.norm import EPS
from tensorlm.polynomials.chebyshev import PiecewiseSeries, resolve
from tensorlm.polynomials.powers import POWERS, Polynomial, Ratio
from tensorlm.scaling import length
from tensorlm.steering.prepare import Steerable, layer_tensor
from tensorlm.steering.vectors import Injection
from tensorlm.tensors import RationalBlock
from tensorlm.tensors.rational import advance_along

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
class RatioCurve(Ratio):
    """A ratio with a positive denominator; power 1/2 leaves the root of a norm before the head.

    The denominator is one for all values, so that it moves none past another: what leads is settled by polynomials.
    """

    def slope(self, alphas: Tensor, order: int) -> Tensor:
        return self.derivative(alphas, order)

    def only(self, keep: Tensor) -> "RatioCurve":
        return replace(self, numerator=self.numerator.mapped(lambda coefficients: coefficients[:, keep]))

    def contest(self, low: float, high: float) -> Contest:
        return resolve(self.numerator, low, high, self.numerator.degree)[0], lambda alphas: self.numerator.reduced(alphas)[0]

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


Pair = tuple[Tensor, Tensor]


def ratio_obstacle(steerable: Steerable, injection: Injection) -> str:
    """Why the response is no ratio of polynomials that this module has, "" where it is one.

    A per-token norm stays rational where it is read an even number of times (`tensorlm.tensors.remaining_root`): before an
    MLP of degree 2. Attention reads keys and values three times. The norm before the head leaves one root for all tokens.
    """
    config = steerable.model.config
    per_token = config.attention != "none" and config.qk_norm in ("rms", "joint") and injection.first < steerable.layers
    if config.norm != "rms" and per_token:
        return (f"qk_norm={config.qk_norm!r} is a ratio whose degree grows with the heads and with the positions that are steered, "
                "which is not built")
    if config.norm != "rms":
        return f"norm={config.norm!r} needs no ratio"
    if injection.first == steerable.layers:
        return ""
    if config.attention != "none":
        return (f"{config.attention} attention is no ratio of polynomials behind norm='rms' (its keys and values are read three times "
                "in all, which leaves a square root)")
    if config.mlp != "none" and steerable.blocks[0].mlp.degree != 2:
        return f"ratios are built for MLPs of degree 2, not for mlp={config.mlp!r}"
    return ""


@torch.no_grad()
def ratio_curve(steerable: Steerable, tokens: Tensor, injection: Injection, read: int) -> RatioCurve:
    """Logits at position `read` as one ratio, carried as a pair (N, q) from the first steered block to the head.

    Only for models without a `ratio_obstacle`. A vector or a shortcut adds q times itself to N, a block is `advance_along`.
    L blocks have degrees 3^L over 3^L - 1; behind a norm before the head the denominator is the root of a polynomial of
    twice the degree.
    """
    first = injection.first
    stream, rows, *_ = steerable.model.run(tokens, stop=first)
    s, unit = injection.mask[read] * injection.vectors[0], 1.0
    if s.any() and stream[0, read].any():
        unit = float(length(stream[0, read]) / length(s))
    pair, start = (stream[:, read], stream.new_ones(1)), rows[:, read]
    for layer in range(first, steerable.layers + 1):
        added = injection.rows(layer)
        if added is not None:
            pair = _plus(pair, torch.stack([torch.zeros_like(s), unit * added[read]]))
        start = pair[0] if layer == 0 else start
        if layer < steerable.layers:
            pair = _through_block(steerable, layer, pair, start)
    numerator, denominator, power = *pair, 1.0
    if not steerable.model.head_site.is_constant:
        squares = POWERS.multiply(numerator, numerator).mean(-1)
        denominator = POWERS.add(squares, EPS * POWERS.multiply(denominator, denominator))
        power = 0.5
    return RatioCurve(Polynomial(steerable.even(numerator @ steerable.model.head_matrix().mT), unit), Polynomial(denominator, unit), power)


def _plus(pair: Pair, polynomial: Tensor) -> Pair:
    """N / q + p = (N + q p) / q, for a polynomial p (degree + 1, width)."""
    numerator, denominator = pair
    return POWERS.add(numerator, POWERS.multiply(denominator[:, None], polynomial)), denominator


def _through_block(steerable: Steerable, layer: int, pair: Pair, start: Tensor) -> Pair:
    """A block without attention; `start` are the coefficients of the input row, which a shortcut mixes in."""
    block, config = steerable.blocks[layer], steerable.model.config
    if config.shortcut != "none" and layer > 0:
        pair = _plus((block.shortcut[0] * pair[0], pair[1]), block.shortcut[1] * start)
    return pair if config.mlp == "none" else advance_along(RationalBlock(layer_tensor(steerable.model, layer), EPS), *pair)
