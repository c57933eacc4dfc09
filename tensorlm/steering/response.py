"""The response of a model to a steering vector at every strength: logits, slopes, tipping points, in the form that fits."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from tensorlm.checks import require_interval, require_number, require_whole
from tensorlm.polynomials.chebyshev import ChebyshevSeries, TippingPoint, lead_changes, nodes, resolve
from tensorlm.polynomials.powers import Polynomial
from tensorlm.steering.forms import PowerCurve, RatioCurve, SeriesCurve, pieces_as_json, ratio_curve, ratio_obstacle
from tensorlm.steering.prepare import Positions, Steerable, as_strengths, require_in_range, require_prompt, require_token
from tensorlm.steering.propagation import propagate
from tensorlm.steering.vectors import Injection, steered_logits, unit

PROBES = 11  # strengths at which a response is compared with the running model
LOST = 2.0**-26  # a change below this share of the logits has lost half of its digits


@dataclass(frozen=True, eq=False)
class SteeringResponse:
    """Logits at position `read` as a function of the strength. Made by `steering_response`.

    `route` says how: "monomials" and "ratio" hold at every strength, "chebyshev" and "sweep" on `interval`. `exact`: the whole
    function up to rounding, nothing cut off and nothing fitted. `degree`: of the polynomial, (numerator, denominator) of a
    ratio, None where there is none. `reason`: why this route, in words. `curve` is the function itself (`tensorlm.steering.forms`).

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


ROUTES = ("auto", "monomials", "chebyshev", "ratio", "sweep")
MOST = 128  # the largest degree of which all coefficients are computed
ALLOWED = 3e-11  # relative error that cancellation may be expected to cause
RESOLVED = 1e-13
ROUNDING = 2.0**-52


def steering_response(model, tokens: Tensor, vector: Tensor, layer: int | list[int], positions: Positions = "all", read: int = -1,
                      order: int | None = None, interval: tuple[float, float] = (-4.0, 4.0), route: str = "auto",
                      centre: float = 0.0) -> SteeringResponse:
    """The logits at position `read` while alpha * vector is added to the stream before block `layer`, for every alpha.

    `model`: a `TensorTransformer` or, to steer often, a `Steerable`. `tokens`: one prompt. `layer` 0 stands for the input rows
    (shortcuts carry the change too), the number of blocks for the stream before the head; several are allowed, with a
    vector each or one for all. `positions`: "all", one, several, or a mask of booleans. `order`: a jet about the strength
    `centre`, with terms up to that order. `interval`: strengths in which tipping points are sought and errors measured.

    Routes, and when "auto" takes them:

    | route | what | exact | when |
    | --- | --- | --- | --- |
    | monomials | all coefficients in alpha | everywhere | polynomial, degree at most 128, no cancellation above 3e-11 |
    | chebyshev | the model at degree + 1 nodes a piece | on the interval | polynomial otherwise; above degree 128 resolved to 1e-13 |
    | ratio | numerator and denominator | everywhere | norm 'rms' without attention, MLPs of degree 2; before the head any |
    | sweep | the model at Chebyshev nodes | no, measured | everything else |

    Raises TypeError for half precision, ValueError for what does not fit, for a model whose norms are still annealing, and for
    a route that the model has not.

    >>> from tensorlm.model import ModelConfig, TensorTransformer
    >>> model = TensorTransformer(ModelConfig(norm="none", output_init="normal"), seed=0)
    >>> response = steering_response(model, torch.arange(5), torch.ones(64), layer=1)
    >>> response.degree, response.exact, response.logits(0.5).shape, response.error < 1e-10
    (10, True, torch.Size([65]), True)
    """
    if route not in ROUTES:
        raise ValueError(f"route must be one of {ROUTES}, got {route!r}")
    if order is not None:
        require_whole("order", order)
    steerable, centre = Steerable.of(model), require_number("centre", centre)
    tokens, read = require_prompt(steerable.model, tokens, read)
    injection = Injection.make(steerable, tokens.shape[1], vector, layer, positions)
    case = Case(steerable, tokens, injection, read, require_interval(interval))
    case.require(route, order)
    if route == "auto":
        route = "monomials" if not case.obstacle else "ratio" if not case.no_ratio else "sweep"
        if order is None and route != "sweep":
            return case.monomials(None, centre, choose=True) if route == "monomials" else case.ratio(choose=True)
    makers: dict[str, Callable[[], SteeringResponse]] = {
        "monomials": partial(case.monomials, order, centre), "chebyshev": case.chebyshev, "ratio": case.ratio, "sweep": case.sweep}
    return makers[route]()


@dataclass(frozen=True, eq=False)
class Case:
    """One question: who is steered, with what, where it is read; and the forms that an answer can take."""

    steerable: Steerable
    tokens: Tensor
    injection: Injection
    read: int
    interval: tuple[float, float]

    @cached_property
    def obstacle(self) -> str:
        """Why the logits are no polynomial in the strength; "" if they are one."""
        return self.steerable.obstacle(self.injection.first)

    @cached_property
    def no_ratio(self) -> str:
        return ratio_obstacle(self.steerable, self.injection)

    @cached_property
    def degree(self) -> int:
        """The degree of the logits in the strength, from the degrees of the parts alone."""
        return propagate(self.steerable, self.tokens, self.injection, self.read, order=0).final.degree

    def require(self, route: str, order: int | None) -> None:
        """Raise ValueError where the route or a jet is not to be had."""
        fraction = self.steerable.anneal_fraction
        if fraction < 1.0 and route != "sweep":
            raise ValueError(f"model must have constant norms, but its annealed sites are still {1 - fraction:.0%} per-token norms; call "
                             "set_anneal(1.0) once training ends, or choose route='sweep'")
        if self.obstacle and (route in ("monomials", "chebyshev") or order is not None):
            wanted = f"order={order}" if order is not None else f"route={route!r}"
            raise ValueError(f"{wanted} needs a polynomial, but {self.obstacle}; without it, route='auto' takes what there is")
        if route == "ratio" and self.no_ratio:
            raise ValueError(f"route='ratio' is not to be had: {self.no_ratio}; route='auto' takes what there is")
        if order is not None and route not in ("auto", "monomials"):
            raise ValueError(f"order={order} asks for a jet, a choice of route='monomials', got route={route!r}")

    def monomials(self, order: int | None = None, centre: float = 0.0, choose: bool = False) -> SteeringResponse:
        """Powers of the strength; with `choose`, Chebyshev series where those are too many or cancel."""
        if choose and self._bound() > MOST and self.degree > MOST:
            return self.chebyshev(f"Degree {self.degree:,} is above {MOST}, of which all coefficients are computed.")
        unit = self._unit(centre, order)
        trajectory = propagate(self.steerable, self.tokens, self.injection, self.read, order, unit, centre)
        degree, logits = trajectory.final.degree, trajectory.logits()
        curve = PowerCurve(Polynomial(logits, unit, centre, order is None or order >= degree))
        if choose and not torch.isfinite(logits).all():
            return self.chebyshev("In powers of the strength, coefficients leave the number range.")
        if choose and (error := self._cancelled(curve)):
            return self.chebyshev(f"In powers of the strength, terms would cancel to a relative error of about {error:.0e}.")
        if not choose and not torch.isfinite(logits).all():
            raise ValueError(f"coefficients are not finite for strengths in {self.interval}; choose a smaller interval, or order for a jet")
        reason = "All coefficients were computed." if curve.polynomial.exact else (
            f"A jet: the terms up to order {order} of a polynomial of degree {degree:,}, about the strength {centre:g}; the error is its "
            "measured remainder.")
        return self._response(curve, "monomials", degree, curve.polynomial.exact, reason)

    def chebyshev(self, why: str = "") -> SteeringResponse:
        whole = self.degree <= MOST
        series, tail = resolve(self._run, *self.interval, self.degree if whole else None, RESOLVED)
        nodes = f"{self.degree + 1} nodes a piece, which determine it" if whole else f"as many nodes as a tail of {tail:.0e} asked for"
        reason = f"{why} The running model was evaluated at {nodes} ({len(series.pieces)} pieces).".strip()
        return self._response(SeriesCurve(series), "chebyshev", self.degree, whole, reason)

    def ratio(self, choose: bool = False) -> SteeringResponse:
        curve = ratio_curve(self.steerable, self.tokens, self.injection, self.read)
        degrees = (curve.numerator.degree, curve.denominator.degree)
        root = ", its denominator under the root that the norm before the head leaves" if curve.power == 0.5 else ""
        if choose and (error := self._cancelled(curve)):
            return self.sweep(f"A ratio of degrees {degrees}, whose terms would cancel to a relative error of about {error:.0e}")
        return self._response(curve, "ratio", degrees, True, f"Per-token norms are read an even number of times{root}.")

    def sweep(self, why: str = "") -> SteeringResponse:
        series, tail = resolve(self._run, *self.interval, None, RESOLVED)
        why = why or (f"Not a polynomial, since {self.obstacle}" if self.obstacle else "A sweep was asked for")
        reason = (f"{why}. The running model was evaluated at Chebyshev nodes ({len(series.pieces)} pieces); what they "
                  f"left unresolved is about {tail:.0e}. It holds for this interval alone, and says nothing from the weights.")
        return self._response(SeriesCurve(series), "sweep", None, False, reason)

    def _bound(self) -> int:
        """At least the degree, without going through the model."""
        steerable, blocks = self.steerable, self.steerable.layers - self.injection.first
        if blocks == 0:
            return 1
        mlp = steerable.blocks[0].mlp.degree if steerable.model.config.mlp != "none" else 1
        return ((5 if steerable.has_attention else 1) * mlp) ** blocks

    def _unit(self, centre: float, order: int | None) -> float:
        """The farthest strength, or so much more that the highest power of what it adds to the stream is no less than 1e-200."""
        unit, largest = max(abs(end - centre) for end in self.interval), float(self.injection.vectors.abs().max())
        if not 0 < unit * largest < 0.02:
            return unit
        highest = max(1, self.degree if order is None else min(order, self.degree))
        return max(unit, 10.0 ** (-200 / highest) / largest)

    def _cancelled(self, curve: PowerCurve | RatioCurve) -> float:
        """The relative error that cancellation between terms should cause on the interval, 0 if it is allowed."""
        error = ROUNDING * float(curve.cancellation(torch.linspace(*self.interval, 17, dtype=torch.float64)).max())
        return 0.0 if error <= ALLOWED else error

    def _run(self, alphas: Tensor) -> Tensor:
        return steered_logits(self.steerable, self.tokens, self.injection, alphas, self.read)

    def _response(self, curve, route: str, degree, exact: bool, reason: str) -> SteeringResponse:
        return SteeringResponse(self.steerable, self.tokens, self.injection, self.read, self.interval, curve, route, degree, exact, reason)
