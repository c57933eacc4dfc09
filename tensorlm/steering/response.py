"""The response of a model to a steering vector at every strength: logits, slopes, tipping points, in the form that fits."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from tensorlm.steering.chebyshev import ChebyshevSeries, nodes, resolve
from tensorlm.steering.checks import as_strengths, require_in_range, require_token, require_whole
from tensorlm.steering.curves import PowerCurve, RatioCurve, SeriesCurve, pieces_as_json
from tensorlm.steering.injection import Injection, steered_logits
from tensorlm.steering.opened import Steerable
from tensorlm.steering.roots import TippingPoint, lead_changes
from tensorlm.steering.vectors import unit

PROBES = 11  # strengths at which a response is compared with the running model
LOST = 2.0**-26  # a change below this share of the logits has lost half of its digits


@dataclass(frozen=True, eq=False)
class SteeringResponse:
    """Logits at position `read` as a function of the strength. Made by `steering_response`.

    `route` says how: "monomials" and "ratio" hold at every strength, "chebyshev" and "sweep" on `interval`. `exact`: the whole
    function up to rounding, nothing cut off and nothing fitted. `degree`: of the polynomial, (numerator, denominator) of a
    ratio, None where there is none. `reason`: why this route, in words. `curve` is the function itself (`tensorlm.steering.curves`).

    >>> from tensorlm.model import ModelConfig, TensorTransformer
    >>> from tensorlm.steering import steering_response
    >>> model = TensorTransformer(ModelConfig(norm="none", attention="none", output_init="normal"), seed=0)
    >>> response = steering_response(model, torch.arange(5), torch.ones(64) / 4, layer=1, interval=(-2, 2))
    >>> point = response.tipping_points()[0]
    >>> below, above = response.logits([point.strength - 1e-6, point.strength + 1e-6]).argmax(-1).tolist()
    >>> (below, above) == (point.before, point.after), bool((response.derivative(0.0, order=3) == 0).all())
    (True, True)
    """

    steerable: Steerable
    tokens: Tensor
    injection: Injection
    read: int
    interval: tuple[float, float]
    curve: PowerCurve | SeriesCurve | RatioCurve
    route: str
    degree: int | tuple[int, int] | None
    exact: bool
    reason: str

    def logits(self, alphas) -> Tensor:
        """A number or (n,) -> (vocab_size,) or (n, vocab_size).

        ValueError outside of the interval where it holds only there, and for strengths whose logits leave the number range.
        """
        alphas, single = as_strengths(alphas)
        values = require_in_range(self.steerable.even(self.curve(alphas)), "logits", alphas)
        return values[0] if single else values

    def log_probabilities(self, alphas) -> Tensor:
        """The log-softmax of the logits, of the same shape."""
        return self.logits(alphas).log_softmax(-1)

    def derivative(self, alphas, order: int = 1) -> Tensor:
        """The derivative of the logits in alpha, of the same shape; that of a jet loses one order each time. ValueError as for `logits`."""
        require_whole("order", order)
        alphas, single = as_strengths(alphas)
        values = require_in_range(self.steerable.even(self.curve.slope(alphas, order)), "derivatives", alphas)
        return values[0] if single else values

    def direction(self, alphas) -> Tensor:
        """The change logits(alpha) - logits(0) at unit length, of the same shape; at 0 its limit from above, the slope.

        The slope also stands in where so little changes that rounding would decide. Zeros where no logit changes at all.
        """
        alphas, single = as_strengths(alphas)
        logits = self.logits(alphas)
        change, slope = logits - self._unsteered, self.curve.slope(alphas, 1)
        lost = change.abs().amax(-1, keepdim=True) <= LOST * logits.abs().amax(-1, keepdim=True)
        values = unit(torch.where(lost & (slope != 0).any(-1, keepdim=True), torch.where(alphas[:, None] < 0, -slope, slope), change))
        return values[0] if single else values

    def tipping_points(self, token_a: int | None = None, token_b: int | None = None) -> tuple[TippingPoint, ...]:
        """Strengths in the interval at which the most likely token changes, by real roots of differences of logits.

        With one token, those at which it gains or loses the first place; with two, those at which one of them overtakes the
        other, whoever leads. Each says who is ahead just below and just above, so that each `after` is the next `before`. Of
        tokens with equal logits the first one leads, as argmax has it: one of two with the same row of the head never does.
        Roots at which a difference touches zero and turns back are none.
        """
        for name, token in (("token_a", token_a), ("token_b", token_b)):
            if token is not None:
                require_token(self.steerable.model, name, token)
        if token_b is None:
            return tuple(point for point in self._lead_changes if token_a is None or token_a in (point.before, point.after))
        if token_a is None or token_a == token_b:
            raise ValueError(f"token_a and token_b must be two tokens, got {token_a!r} and {token_b!r}")
        first = self.steerable.first_alike
        return () if first[token_a] == first[token_b] else self._contest(torch.tensor(sorted((token_a, token_b))))

    def error_at(self, alphas) -> Tensor:
        """The largest error against the running model at each strength, relative to the largest logit there: (n,)."""
        alphas = as_strengths(alphas)[0]
        truth = steered_logits(self.steerable, self.tokens, self.injection, alphas, self.read)
        return relative_error(self.curve(alphas), truth)

    @cached_property
    def error(self) -> float:
        """The largest `error_at` of 11 strengths across the interval: of a jet, its measured remainder."""
        return float(self.error_at(torch.linspace(*self.interval, PROBES, dtype=torch.float64)).max())

    def polynomial_fit_error(self, degree: int) -> float:
        """How far the logits are from polynomials of this degree on the interval, relative to their largest swing.

        The error of the truncated Chebyshev series, which is within a few times of the best polynomial's (Trefethen,
        ch. 16): the largest over strengths and tokens, divided by the largest departure of a logit from its mean; 0 where no logit moves.
        """
        count = max(8 * (require_whole("degree", degree) + 1), 257)
        points = nodes(count, *self.interval)
        values = self.curve(points)
        series = ChebyshevSeries.through(values, *self.interval)
        fitted = ChebyshevSeries(series.coefficients[: degree + 1], *self.interval)(points)
        swing = (values - values.mean(0)).abs().max()
        return float((fitted - values).abs().max() / swing) if swing > 1e-12 * values.abs().max() else 0.0

    def report(self) -> str:
        """What is exact here and what is not, in a few sentences."""
        kind = {"monomials": f"a polynomial of degree {self.degree}", "ratio": f"a ratio of polynomials of degrees {self.degree}",
                "chebyshev": f"a polynomial of degree {self.degree}", "sweep": "no polynomial"}[self.route]
        form = {"monomials": "in powers of the strength", "ratio": "in powers of the strength",
                "chebyshev": "as Chebyshev series on ({:g}, {:g})".format(*self.interval),
                "sweep": "measured on ({:g}, {:g}) and interpolated".format(*self.interval)}[self.route]
        status = "exact up to rounding" if self.exact else "not exact"
        return (f"The logits at position {self.read} are {kind} in the strength; held {form}, {status}. {self.reason} Largest error "
                f"against the running model at {PROBES} strengths in ({self.interval[0]:g}, {self.interval[1]:g}): {self.error:.1e} of "
                "the largest logit.")

    def as_json(self, tokens: list[int] | None = None, digits: int = 12) -> dict[str, Any]:
        """What a page needs to compute the logits of `tokens` (default: all) at every strength of the interval.

        `basis` "monomials" or "ratio": rows of coefficients in rising powers of (alpha - centre) / unit, one row a token;
        "chebyshev": the same for every piece, in T_k of t from -1 (low) to 1 (high). `rest`, where tokens were left out:
        log-sum-exp of all others as pieces of one row, so that probabilities can be had.
        """
        vocabulary = self.steerable.model.config.vocab_size
        chosen = list(range(vocabulary)) if tokens is None else list(tokens)
        for token in chosen:
            require_token(self.steerable.model, "tokens: each", token)
        if not chosen or len(set(chosen)) < len(chosen):
            raise ValueError(f"tokens must be at least one, and none twice, got {tokens!r}")
        require_whole("digits", digits, 1)
        about = dict(tokens=chosen, read=self.read, layers=list(self.injection.layers), interval=list(self.interval), route=self.route,
                     degree=self.degree, exact=self.exact, error=float(f"{self.error:.2g}"))
        others = [token for token in range(vocabulary) if token not in set(chosen)]
        if others:
            series, _ = resolve(lambda alphas: self.curve(alphas)[:, others].logsumexp(-1)[:, None], *self.interval, tolerance=1e-13)
            about["rest"] = pieces_as_json(series, digits)
        return about | self.curve.only(torch.tensor(chosen)).as_json(digits)

    @cached_property
    def _unsteered(self) -> Tensor:
        return steered_logits(self.steerable, self.tokens, self.injection, [0.0], self.read)

    @cached_property
    def _lead_changes(self) -> tuple[TippingPoint, ...]:
        return self._contest(self.steerable.first_alike.unique())

    def _contest(self, tokens: Tensor) -> tuple[TippingPoint, ...]:
        """The changes of the lead among these tokens, in rising order."""
        found = lead_changes(*self.curve.only(tokens).contest(*self.interval))
        return tuple(TippingPoint(strength, int(tokens[before]), int(tokens[after])) for strength, before, after in found)


def relative_error(values: Tensor, truth: Tensor) -> Tensor:
    """The largest error at each strength, relative to the largest true value there: (n, values) twice -> (n,)."""
    return (values - truth).abs().amax(-1) / truth.abs().amax(-1).clamp(min=torch.finfo(truth.dtype).tiny)
