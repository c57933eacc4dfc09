"""The forms that a response may have besides a polynomial: a Chebyshev series on an interval, or a ratio of polynomials."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tensorlm.layers.norm import EPS, TOKEN_KINDS
from tensorlm.polynomials.chebyshev import PiecewiseSeries, resolve
from tensorlm.polynomials.powers import POWERS, Polynomial, Ratio
from tensorlm.scaling import length
from tensorlm.steering.propagation import walk
from tensorlm.steering.vectors import SteeredPrompt

Curve = Polynomial | PiecewiseSeries | Ratio


def contest(curve: Curve, tokens: Tensor, low: float, high: float) -> tuple[PiecewiseSeries, Callable[[Tensor], Tensor]]:
    """For `lead_changes`: series of some tokens on an interval, and values that are ordered as their logits are."""
    if isinstance(curve, PiecewiseSeries):
        series = PiecewiseSeries(tuple(replace(piece, coefficients=piece.coefficients[:, tokens]) for piece in curve.pieces))
        return series, series
    top = (curve.numerator if isinstance(curve, Ratio) else curve).mapped(lambda coefficients: coefficients[:, tokens])
    return resolve(top, low, high, top.degree)[0], lambda alphas: top.reduced(alphas)[0]


def ratio_obstacle(prompt: SteeredPrompt) -> str:
    """Why the response is no ratio of polynomials that this module has, "" where it is one.

    A per-token norm stays rational where it is read an even number of times (`tensorlm.tensors.remaining_root`): before an
    MLP of degree 2. Attention reads keys and values three times. The norm before the head leaves one root for all tokens.
    """
    config, block = prompt.steerable.model.config, prompt.steerable.model.blocks[0]
    before_head = prompt.first == prompt.steerable.layers
    if config.norm != "rms" and not before_head and block.attention is not None and config.qk_norm in TOKEN_KINDS:
        return f"qk_norm={config.qk_norm!r} is a ratio whose degree grows with the heads and the steered positions, which is not built"
    if config.norm != "rms":
        return f"norm={config.norm!r} needs no ratio"
    if not before_head and block.attention is not None:
        return (f"{config.attention} attention is no ratio of polynomials behind norm='rms' (its keys and values are read three times "
                "in all, which leaves a square root)")
    if not before_head and block.mlp is not None and block.mlp.degree != 2:
        return f"ratios are built for MLPs of degree 2, not for mlp={config.mlp!r}"
    return ""


@dataclass(frozen=True, eq=False)
class RatioStream:
    """A stream as coefficients of numerators (n, 1, 1, width) over those of a denominator (m, 1, 1, 1), for `walk`."""

    numerator: Tensor
    denominator: Tensor

    def plus(self, other: "RatioStream") -> "RatioStream":
        """The sum, numerator and denominator divided by one number; ValueError where coefficients leave the number range."""
        numerator = POWERS.add(POWERS.multiply(self.numerator, other.denominator), POWERS.multiply(other.numerator, self.denominator))
        denominator = POWERS.multiply(self.denominator, other.denominator)
        size = denominator.abs().max()
        if not 0 < size < math.inf or not torch.isfinite(numerator).all():
            raise ValueError("strengths must leave coefficients within the number range: choose vectors and an interval of ordinary size")
        return RatioStream(numerator / size, denominator / size)

    def scaled(self, number: Tensor) -> "RatioStream":
        return RatioStream(number * self.numerator, self.denominator)

    def last(self) -> "RatioStream":
        return self

    def mean_square(self) -> Tensor:
        """The denominator behind a norm of each token: that of mean(x^2) + EPS, once numerators are squared."""
        squares = POWERS.multiply(self.numerator, self.numerator).mean(-1, keepdim=True)
        return POWERS.add(squares, EPS * POWERS.multiply(self.denominator, self.denominator))

    def transformed(self, block) -> "RatioStream":
        """An MLP of degree 2 behind a norm of each token, which it reads twice: f(N) / (mean N^2 + EPS q^2)."""
        D, L, R = block.mlp.cp()
        return RatioStream(POWERS.multiply(self.numerator @ L.mT, self.numerator @ R.mT) @ D.mT, self.mean_square())


@torch.no_grad()
def ratio_curve(prompt: SteeredPrompt) -> Ratio:
    """The logits as one ratio, for prompts without a `ratio_obstacle`.

    L blocks have degrees 3^L over 3^L - 1; behind a norm before the head the denominator is the root of a polynomial of twice the degree.
    """
    model, one, unit = prompt.steerable.model, torch.ones(1, 1, 1, 1, dtype=torch.float64), 1.0
    vector, row = prompt.injections[0].vectors[0], prompt.entering.x[0, -1]
    if prompt.injections[0].mask[prompt.read] and vector.any() and row.any():
        unit = float(length(row) / length(vector))
    steps = {layer: RatioStream(torch.stack([torch.zeros_like(added), unit * added]), one) for layer, added in prompt.added.items()}
    x = walk(prompt, lambda values: RatioStream(values[None], one), steps)
    power, denominator = (1.0, x.denominator) if model.head_site.is_constant else (0.5, x.mean_square())
    logits = prompt.steerable.even(x.numerator[:, 0, 0] @ model.head_matrix().mT)
    return Ratio(Polynomial(logits, unit), Polynomial(denominator.flatten(), unit), power)
