"""Several steering vectors at once: the logits as a polynomial in all strengths, to a low total degree."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from tensorlm.checks import is_whole, require_instance, require_number, require_whole
from tensorlm.polynomials.powers import Monomials
from tensorlm.steering.prepare import Positions, Steerable, as_strengths, require_in_range, require_prompt
from tensorlm.steering.propagation import propagate
from tensorlm.steering.response import Case, relative_error
from tensorlm.steering.vectors import Injection, steered_logits

MOST_ROWS = 500  # monomials
RANGE = 100  # decimal exponents that the largest power of a strength may have


@dataclass(frozen=True, eq=False)
class JointResponse:
    """Logits at position `read` for strengths (alpha_1, ..., alpha_m) of m vectors. Made by `joint_response`.

    `coefficients` (monomials, vocab_size) in powers of alpha / reach, sorted by total degree as `exponents` says. `degree` is the total
    degree of the whole polynomial; `exact` if the order reaches it.
    """

    steerable: Steerable
    tokens: Tensor
    injections: tuple[Injection, ...]
    read: int
    reach: float
    order: int
    degree: int
    coefficients: Tensor

    @property
    def exact(self) -> bool:
        return self.order >= self.degree

    @property
    def exponents(self) -> tuple[tuple[int, ...], ...]:
        """Powers of each strength, row by row."""
        return Monomials(len(self.injections), self.order).exponents[: len(self.coefficients)]

    def logits(self, alphas) -> Tensor:
        """(m,) or (n, m) -> (vocab_size,) or (n, vocab_size). ValueError for strengths whose logits leave the number range."""
        alphas, single = as_strengths(alphas, len(self.injections))
        powers = (alphas / self.reach)[:, None, :].pow(alphas.new_tensor(self.exponents))
        values = require_in_range(self.steerable.even(powers.prod(-1) @ self.coefficients), "logits", alphas)
        return values[0] if single else values

    def coefficient(self, *powers: int) -> Tensor:
        """What alpha_1^p1 alpha_2^p2 ... is multiplied by in every logit: (vocab_size,); zeros above the degree.

        The one of (1, 1) is the interaction of two vectors: what both together do and neither does alone, to lowest order.
        """
        if len(powers) != len(self.injections) or any(not is_whole(p) or p < 0 for p in powers) or sum(powers) > self.order:
            raise ValueError(f"powers must be {len(self.injections)} whole numbers of at least 0 with a sum of at most {self.order}, "
                             f"got {powers}")
        if powers not in self.exponents:
            return torch.zeros_like(self.coefficients[0])
        return self.coefficients[self.exponents.index(powers)] / self.reach ** sum(powers)

    def error_at(self, alphas) -> Tensor:
        """The largest error against the running model, relative to the largest logit there: (n, m) -> (n,)."""
        alphas = as_strengths(alphas, len(self.injections))[0]
        truth = steered_logits(self.steerable, self.tokens, self.injections, alphas, self.read)
        return relative_error(self.logits(alphas), truth)

    @cached_property
    def error(self) -> float:
        """The largest `error_at` of 32 points of the cube of strengths up to `reach`: of a jet, its measured remainder.

        Half of them are corners, where the remainder is largest as a rule; draws from the inside alone say far too little.
        """
        draws = torch.rand(32, len(self.injections), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        points = 2 * draws - 1
        points[:16] = points[:16].sign()
        return float(self.error_at(self.reach * points).max())

    def report(self) -> str:
        """What is exact here and what is not, in a few sentences."""
        status = "exact up to rounding" if self.exact else f"cut off above total degree {self.order}, so not exact"
        return (f"The logits at position {self.read} are a polynomial of total degree {self.degree:,} in {len(self.injections)} strengths; "
                f"{len(self.coefficients)} monomials are held, {status}. Largest error against the running model at 32 points "
                f"with strengths up to {self.reach:g}: {self.error:.1e} of the largest logit.")


def joint_response(model, tokens: Tensor, vectors: Tensor, layers: int | Sequence[int],
                   positions: str | int | Tensor | Sequence[Positions] = "all", read: int = -1, order: int = 2,
                   reach: float = 1.0) -> JointResponse:
    """The logits while alpha_1 s_1 + alpha_2 s_2 + ... is added to the stream, each vector at its own layer and positions.

    `vectors` (m, width). `layers` and `positions`: one for all vectors, or a list or tuple with an entry for each of the m. Positions
    for all are "all", a number or a mask of booleans; an entry may also be a list of numbers: [[0, 2], "all"] for two vectors.
    All terms of total degree up to `order` are computed, C(m + order, m) of them. `reach`: the strengths for which they are
    meant; only the error is measured there. Raises TypeError or ValueError for what does not fit, and where the model is no
    polynomial.

    >>> from tensorlm.model import ModelConfig, TensorTransformer
    >>> model = TensorTransformer(ModelConfig(norm="none", attention="none", layers=1, output_init="normal"), seed=0)
    >>> pair = joint_response(model, torch.arange(3), torch.eye(64)[:2], layers=0)
    >>> pair.exponents, pair.exact, pair.error < 1e-12
    (((0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2)), True, True)
    """
    steerable = Steerable.of(model)
    tokens, read = require_prompt(steerable.model, tokens, read)
    require_instance("vectors", vectors, Tensor)
    if vectors.ndim != 2 or len(vectors) == 0:
        raise ValueError(f"vectors must have shape (vectors, {steerable.model.config.width}), got {tuple(vectors.shape)}")
    count = len(vectors)
    each_layer, each_place = _for_each("layers", layers, count), _for_each("positions", positions, count)
    algebra, reach = Monomials(count, require_whole("order", order)), require_number("reach", reach)
    if not -RANGE < order * math.log10(reach if reach > 0 else 0.1 ** (2 * RANGE)) < RANGE:
        raise ValueError(f"reach must be above 0, and its power {order} between 1e-{RANGE} and 1e{RANGE}, got {reach!r}")
    if algebra.rows(order) > MOST_ROWS:
        raise ValueError(f"order {order} in {count} strengths has {algebra.rows(order):,} monomials, more than {MOST_ROWS}; choose a "
                         "lower order")
    injections = tuple(Injection.make(steerable, tokens.shape[1], *parts) for parts in zip(vectors, each_layer, each_place))
    Case(steerable, tokens, min(injections, key=lambda one: one.first), read, (-reach, reach)).require("monomials", order)
    trajectory = propagate(steerable, tokens, injections, read, order, reach)
    logits = trajectory.logits()
    if not torch.isfinite(logits).all():
        raise ValueError(f"coefficients are not finite for strengths up to {reach:g}; choose a smaller reach or order")
    return JointResponse(steerable, tokens, injections, read, reach, order, trajectory.final.degree, logits)


def _for_each(name: str, value: Any, count: int) -> list:
    """One value for all vectors, or as many as there are, as a list."""
    values = list(value) if isinstance(value, list | tuple) else [value] * count
    if len(values) != count:
        raise ValueError(f"{name} must be one for all vectors, or a list of {count}, one for each, got {len(values)}: {value!r}")
    return values
