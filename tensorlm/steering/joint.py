"""Several steering vectors at once: the logits as a polynomial in all strengths, to a low total degree."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from tensorlm.checks import is_whole, require, require_instance, require_number, require_whole
from tensorlm.polynomials.powers import Monomials
from tensorlm.steering.prepare import Positions, Steerable, as_strengths, require_in_range
from tensorlm.steering.propagation import propagate
from tensorlm.steering.response import relative_error
from tensorlm.steering.vectors import Injection, SteeredPrompt, require_prompt

MAX_MONOMIALS = 500
MAX_DECIMALS = 100  # decimal exponents that the largest power of a strength may have
PROBES = 32


@dataclass(frozen=True, eq=False)
class JointResponse:
    """Logits at the position that is read for strengths (alpha_1, ..., alpha_m) of m vectors. Made by `joint_response`.

    `coefficients` (monomials, vocab_size) in powers of alpha / reach, sorted by total degree as `exponents` says. `degree` is the total
    degree of the whole polynomial; `exact` if the order reaches it.
    """

    prompt: SteeredPrompt
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
        return Monomials(len(self.prompt.injections), self.order).exponents[: len(self.coefficients)]

    def logits(self, alphas) -> Tensor:
        """(m,) or (n, m) -> (vocab_size,) or (n, vocab_size). ValueError for strengths whose logits leave the number range."""
        alphas, single = as_strengths(alphas, len(self.prompt.injections))
        powers = (alphas / self.reach)[:, None, :].pow(alphas.new_tensor(self.exponents))
        values = require_in_range(self.prompt.steerable.even(powers.prod(-1) @ self.coefficients), alphas)
        return values[0] if single else values

    def coefficient(self, *powers: int) -> Tensor:
        """What alpha_1^p1 alpha_2^p2 ... is multiplied by in every logit, (vocab_size,): (1, 1) is the interaction of two vectors."""
        count = len(self.prompt.injections)
        fits = len(powers) == count and all(is_whole(p) and p >= 0 for p in powers) and sum(powers) <= self.order
        require(fits, "powers", powers, f"{count} whole numbers of at least 0 with a sum of at most {self.order}")
        if powers not in self.exponents:
            return torch.zeros_like(self.coefficients[0])
        return self.coefficients[self.exponents.index(powers)] / self.reach ** sum(powers)

    def error_at(self, alphas) -> Tensor:
        """The largest error against the running model, relative to the largest logit there: (n, m) -> (n,)."""
        alphas = as_strengths(alphas, len(self.prompt.injections))[0]
        return relative_error(self.logits(alphas), self.prompt.logits(alphas))

    @cached_property
    def error(self) -> float:
        """The largest `error_at` of 32 points of the cube of strengths up to `reach`, half of them corners."""
        generator = torch.Generator().manual_seed(0)
        points = 2 * torch.rand(PROBES, len(self.prompt.injections), dtype=torch.float64, generator=generator) - 1
        points[: PROBES // 2] = points[: PROBES // 2].sign()
        return float(self.error_at(self.reach * points).max())


def joint_response(model, tokens: Tensor, vectors: Tensor, layers: int | Sequence[int],
                   positions: str | int | Tensor | Sequence[Positions] = "all", read: int = -1, order: int = 2,
                   reach: float = 1.0) -> JointResponse:
    """The logits while alpha_1 s_1 + alpha_2 s_2 + ... is added to the stream, each vector at its own layer and positions.

    `vectors` (m, width). `layers` and `positions`: one for all vectors, or a list or tuple with an entry for each of the m. Positions
    for all are "all", a number or a mask of booleans; an entry may also be a list of numbers: [[0, 2], "all"] for two vectors.
    All C(m + order, m) terms of total degree up to `order` are computed. `reach`: the strengths within which the error is measured.
    Raises TypeError or ValueError for what does not fit, and where the model is no polynomial.

    >>> from tensorlm.model import ModelConfig, TensorTransformer
    >>> model = TensorTransformer(ModelConfig(norm="none", attention="none", layers=1, output_init="normal"), seed=0)
    >>> pair = joint_response(model, torch.arange(3), torch.eye(64)[:2], layers=0)
    >>> pair.exponents, pair.exact, pair.error < 1e-12
    (((0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2)), True, True)
    """
    steerable = Steerable.of(model, often=False)
    tokens, read = require_prompt(steerable.model, tokens, read)
    require_instance("vectors", vectors, Tensor)
    require(vectors.ndim == 2 and len(vectors), "vectors", vectors, f"vectors of shape (vectors, {steerable.model.config.width})")
    count = len(vectors)
    each_layer, each_place = _for_each("layers", layers, count), _for_each("positions", positions, count)
    algebra, reach = Monomials(count, require_whole("order", order)), require_number("reach", reach, above=0)
    fits = abs(order * math.log10(reach)) < MAX_DECIMALS
    require(fits, "reach", reach, f"a number whose power {order} is between 1e-{MAX_DECIMALS} and 1e{MAX_DECIMALS}")
    if algebra.rows(order) > MAX_MONOMIALS:
        raise ValueError(f"order {order} in {count} strengths has {algebra.rows(order):,} monomials, more than {MAX_MONOMIALS}; choose a "
                         "lower order")
    injections = tuple(Injection.make(steerable, tokens.shape[1], *parts) for parts in zip(vectors, each_layer, each_place))
    prompt = SteeredPrompt(steerable, tokens, injections, read)
    logits, degree = propagate(prompt, order, reach)
    if not torch.isfinite(logits).all():
        raise ValueError(f"coefficients are not finite for strengths up to {reach:g}; choose a smaller reach or order")
    return JointResponse(prompt, reach, order, degree, logits)


def _for_each(name: str, value: Any, count: int) -> list:
    """One value for all vectors, or as many as there are, as a list."""
    values = list(value) if isinstance(value, list | tuple) else [value] * count
    if len(values) != count:
        raise ValueError(f"{name} must be one for all vectors, or a list of {count}, one for each, got {len(values)}: {value!r}")
    return values
