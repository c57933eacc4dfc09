"""The response of a model to a steering vector at every strength: logits and tipping points, by the method that fits."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from tensorlm.checks import all_finite, require_interval, require_number, require_one_of, require_whole
from tensorlm.polynomials.chebyshev import ChebyshevSeries, PiecewiseSeries, TippingPoint, lead_changes, nodes, resolve
from tensorlm.polynomials.powers import Polynomial
from tensorlm.steering.attribution import source_polynomials
from tensorlm.steering.forms import Curve, contest, ratio_curve, ratio_obstacle
from tensorlm.steering.prepare import Positions, Steerable, as_strengths, require_in_range, require_token, require_vector
from tensorlm.steering.propagation import propagate
from tensorlm.steering.vectors import Injection, SteeredPrompt, require_prompt

PROBES = 11  # strengths at which a response is compared with the running model
METHODS = ("auto", "monomials", "chebyshev", "ratio", "sweep")
MAX_DEGREE = 128  # of which all coefficients are computed
ALLOWED_ERROR = 3e-11  # relative, that cancellation may be expected to cause
RESOLVED_TAIL = 1e-13
ROUNDING = 2.0**-52


@dataclass(frozen=True, eq=False)
class SteeringResponse:
    """Logits at the position that is read as a function of the strength, `curve`. Made by `steering_response`.

    `method` says how: "monomials" and "ratio" hold at every strength, "chebyshev" and "sweep" on `interval`. `exact`: the whole
    function up to rounding, nothing cut off and nothing fitted. `degree`: of the polynomial, (numerator, denominator) of a
    ratio, None where there is none. `reason`: why this method, in words.

    >>> from tensorlm.model import ModelConfig, TensorTransformer
    >>> model = TensorTransformer(ModelConfig(norm="none", attention="none", output_init="normal"), seed=0)
    >>> response = steering_response(model, torch.arange(5), torch.ones(64) / 4, layer=1, interval=(-2, 2))
    >>> point = response.tipping_points()[0]
    >>> below, above = response.logits([point.strength - 1e-6, point.strength + 1e-6]).argmax(-1).tolist()
    >>> (below, above) == (point.before, point.after)
    True
    """

    prompt: SteeredPrompt
    interval: tuple[float, float]
    curve: Curve
    method: str
    degree: int | tuple[int, int] | None
    exact: bool
    reason: str

    def logits(self, alphas) -> Tensor:
        """A number or (n,) -> (vocab_size,) or (n, vocab_size); ValueError where the response does not hold or leaves the number range."""
        alphas, single = as_strengths(alphas)
        values = require_in_range(self.prompt.steerable.even(self.curve(alphas)), alphas)
        return values[0] if single else values

    def log_probabilities(self, alphas) -> Tensor:
        """The log-softmax of the logits, of the same shape."""
        return self.logits(alphas).log_softmax(-1)

    def tipping_points(self, token_a: int | None = None, token_b: int | None = None) -> tuple[TippingPoint, ...]:
        """Strengths in the interval at which the most likely token changes, by real roots of differences of logits.

        With one token, those at which it gains or loses the first place; with two, those at which one of them overtakes the
        other, whoever leads. Each says who is ahead just below and just above, so that each `after` is the next `before`. Of
        tokens with equal logits the first one leads, as argmax has it: one of two with the same row of the head never does.
        Roots at which a difference touches zero and turns back are none.
        """
        for name, token in (("token_a", token_a), ("token_b", token_b)):
            if token is not None:
                require_token(self.prompt.steerable.model, name, token)
        if token_b is None:
            return tuple(point for point in self._lead_changes if token_a is None or token_a in (point.before, point.after))
        if token_a is None or token_a == token_b:
            raise ValueError(f"token_a and token_b must be two tokens, got {token_a!r} and {token_b!r}")
        first = self.prompt.steerable.first_alike
        return () if first[token_a] == first[token_b] else self._contest(torch.tensor(sorted((token_a, token_b))))

    @cached_property
    def _lead_changes(self) -> tuple[TippingPoint, ...]:
        return self._contest(self.prompt.steerable.first_alike.unique())

    def _contest(self, tokens: Tensor) -> tuple[TippingPoint, ...]:
        """The changes of the lead among these tokens, in rising order."""
        found = lead_changes(*contest(self.curve, tokens, *self.interval))
        return tuple(TippingPoint(strength, int(tokens[before]), int(tokens[after])) for strength, before, after in found)

    def error_at(self, alphas) -> Tensor:
        """The largest error against the running model at each strength, relative to the largest logit there: (n,)."""
        alphas = as_strengths(alphas)[0]
        return relative_error(self.curve(alphas), self.prompt.logits(alphas[:, None]))

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

    def as_json(self, readout: Tensor | None = None) -> dict[str, Any]:
        """What a page computes the response with: plain lists of coefficients in rising powers of the strength.

        `logits` has a row for each token. With a `readout` (width,), `paths` has one for each of `sources`: what the terms of
        `by_source` add to readout . stream, from strength 0 on. ValueError where the method is not "monomials", or centred elsewhere.
        """
        if not isinstance(self.curve, Polynomial) or self.curve.centre != 0:
            raise ValueError(f"response must be a polynomial about the strength 0, got method {self.method!r}")
        found: dict[str, Any] = dict(degree=self.degree, exact=self.exact, error=self.error, interval=self.interval,
                                     logits=self.curve.rescaled(1.0).coefficients.mT.tolist())
        if readout is not None:
            readout = require_vector(self.prompt.entering.x.shape[-1], "readout", readout)
            terms = source_polynomials(self.prompt, readout)
            found |= dict(sources=list(terms), paths=[term.tolist() for term in terms.values()])
        return found


def relative_error(values: Tensor, truth: Tensor) -> Tensor:
    """The largest error at each strength, relative to the largest true value there: (n, values) twice -> (n,)."""
    return (values - truth).abs().amax(-1) / truth.abs().amax(-1).clamp(min=torch.finfo(truth.dtype).tiny)


def steering_response(model, tokens: Tensor, vector: Tensor, layer: int | list[int], positions: Positions = "all", read: int = -1,
                      order: int | None = None, interval: tuple[float, float] = (-4.0, 4.0), method: str = "auto",
                      centre: float = 0.0) -> SteeringResponse:
    """The logits at position `read` while alpha * vector is added to the stream before block `layer`, for every alpha.

    `model`: a `TensorTransformer` or, to steer often, a `Steerable`. `tokens`: one prompt. `layer` 0 stands for the input rows
    (shortcuts carry the change too), the number of blocks for the stream before the head; several are allowed, with a
    vector each or one for all. `positions`: "all", one, several, or a mask of booleans. `order`: a jet about the strength
    `centre`, with terms up to that order. `interval`: strengths in which tipping points are sought and errors measured.

    Methods, and when "auto" takes them:

    | method | what | exact | when |
    | --- | --- | --- | --- |
    | monomials | all coefficients in alpha | everywhere | polynomial, degree at most 128, no cancellation above 3e-11 |
    | chebyshev | the model at degree + 1 nodes a piece | on the interval | polynomial otherwise; above degree 128 resolved to 1e-13 |
    | ratio | numerator and denominator | everywhere | norm 'rms' without attention, MLPs of degree 2; before the head any |
    | sweep | the model at Chebyshev nodes | no, measured | everything else |

    Raises TypeError for half precision, ValueError for what does not fit, for a model whose norms are still annealing, and for
    a method that the model has not.

    >>> from tensorlm.model import ModelConfig, TensorTransformer
    >>> model = TensorTransformer(ModelConfig(norm="none", output_init="normal"), seed=0)
    >>> response = steering_response(model, torch.arange(5), torch.ones(64), layer=1)
    >>> response.degree, response.exact, response.logits(0.5).shape, response.error < 1e-10
    (10, True, torch.Size([65]), True)
    """
    require_one_of("method", method, METHODS)
    if order is not None:
        require_whole("order", order)
    steerable, centre = Steerable.of(model, often=False), require_number("centre", centre)
    tokens, read = require_prompt(steerable.model, tokens, read)
    injection = Injection.make(steerable, tokens.shape[1], vector, layer, positions)
    answer = _Answer(SteeredPrompt(steerable, tokens, (injection,), read), require_interval(interval), order, centre)
    answer.require(method)
    response = getattr(answer, method if order is None else "monomials")()
    if (order is not None or method == "monomials") and not all_finite(response.curve.coefficients):
        raise ValueError(f"coefficients are not finite for strengths in {interval}; choose a smaller interval, or order for a jet")
    return response


@dataclass(frozen=True, eq=False)
class _Answer:
    """A steered prompt and the methods by which its response can be had."""

    prompt: SteeredPrompt
    interval: tuple[float, float]
    order: int | None
    centre: float

    @cached_property
    def obstacle(self) -> str:
        """Why the logits are no polynomial in the strength; "" if they are one."""
        return self.prompt.steerable.obstacle(self.prompt.first)

    @cached_property
    def degree(self) -> int:
        """The degree of the logits in the strength, from the degrees of the parts alone."""
        return propagate(self.prompt, order=0).degree

    def require(self, method: str) -> None:
        """Raise ValueError where the model has no such method, or no jet."""
        order, fraction = self.order, self.prompt.steerable.model.anneal_fraction() if self.obstacle else 1.0
        if fraction < 1.0 and method != "sweep":
            raise ValueError(f"model must have constant norms, but its annealed sites are still {1 - fraction:.0%} per-token norms; call "
                             "set_anneal(1.0) once training ends, or choose method='sweep'")
        if self.obstacle and (method in ("monomials", "chebyshev") or order is not None):
            wanted = f"order={order}" if order is not None else f"method={method!r}"
            raise ValueError(f"{wanted} needs a polynomial, but {self.obstacle}; without it, method='auto' takes what there is")
        if method == "ratio" and (reason := ratio_obstacle(self.prompt)):
            raise ValueError(f"method='ratio' does not fit: {reason}; method='auto' takes what there is")
        if order is not None and method not in ("auto", "monomials"):
            raise ValueError(f"order={order} asks for a jet, a choice of method='monomials', got method={method!r}")

    def auto(self) -> SteeringResponse:
        """The whole function by the first method that fits and loses no digits to cancellation."""
        if self.obstacle:
            if ratio_obstacle(self.prompt):
                return self.sweep()
            found = self.ratio()
            error = self._cancelled(found.curve)
            why = f"A ratio of degrees {found.degree}, whose terms would cancel to a relative error of about {error:.0e}"
            return self.sweep(why) if error else found
        if self._bound() > MAX_DEGREE and self.degree > MAX_DEGREE:
            return self.chebyshev(f"Degree {self.degree:,} is above {MAX_DEGREE}, of which all coefficients are computed.")
        found = self.monomials()
        if isinstance(found.curve, Polynomial) and not all_finite(found.curve.coefficients):
            return self.chebyshev("In powers of the strength, coefficients leave the number range.")
        error = self._cancelled(found.curve)
        why = f"In powers of the strength, terms would cancel to a relative error of about {error:.0e}."
        return self.chebyshev(why) if error else found

    def monomials(self) -> SteeringResponse:
        unit = self._unit()
        logits, degree = propagate(self.prompt, self.order, unit, self.centre)
        exact = self.order is None or self.order >= degree
        reason = "All coefficients were computed." if exact else (
            f"A jet: the terms up to order {self.order} of a polynomial of degree {degree:,}, about the strength {self.centre:g}; the "
            "error is its measured remainder.")
        return self._response(Polynomial(logits, unit, self.centre, exact), "monomials", degree, exact, reason)

    def chebyshev(self, why: str = "") -> SteeringResponse:
        whole = self.degree <= MAX_DEGREE
        series, tail = self._resolved(self.degree if whole else None)
        asked = f"{self.degree + 1} nodes a piece, which determine it" if whole else f"as many nodes as a tail of {tail:.0e} asked for"
        reason = f"{why} The running model was evaluated at {asked} ({len(series.pieces)} pieces).".strip()
        return self._response(series, "chebyshev", self.degree, whole, reason)

    def ratio(self) -> SteeringResponse:
        curve = ratio_curve(self.prompt)
        root = ", its denominator under the root that the norm before the head leaves" if curve.power == 0.5 else ""
        degrees = (curve.numerator.degree, curve.denominator.degree)
        return self._response(curve, "ratio", degrees, True, f"Per-token norms are read an even number of times{root}.")

    def sweep(self, why: str = "") -> SteeringResponse:
        series, tail = self._resolved(None)
        why = why or (f"Not a polynomial, since {self.obstacle}" if self.obstacle else "A sweep was asked for")
        reason = (f"{why}. The running model was evaluated at Chebyshev nodes ({len(series.pieces)} pieces); what they "
                  f"left unresolved is about {tail:.0e}. It holds for this interval alone, and says nothing from the weights.")
        return self._response(series, "sweep", None, False, reason)

    def _resolved(self, degree: int | None) -> tuple[PiecewiseSeries, float]:
        return resolve(lambda alphas: self.prompt.logits(alphas[:, None]), *self.interval, degree, RESOLVED_TAIL)

    def _bound(self) -> int:
        """At least the degree, without going through the model."""
        parts = self.prompt.steerable.parts[self.prompt.first :]
        return math.prod(layer.degree or 1 for part in parts for layer in (part.attention, part.mlp) if layer is not None)

    def _unit(self) -> float:
        """The farthest strength, or so much more that the highest power of what it adds to the stream is no less than 1e-200."""
        largest = float(self.prompt.injections[0].vectors.abs().max())
        unit = max(abs(end - self.centre) for end in self.interval)
        if not 0 < unit * largest < 0.02:
            return unit
        highest = max(1, self.degree if self.order is None else min(self.order, self.degree))
        return max(unit, 10.0 ** (-200 / highest) / largest)

    def _cancelled(self, curve: Any) -> float:
        """The relative error that cancellation between terms should cause on the interval, 0 if it is allowed."""
        error = ROUNDING * float(curve.cancellation(torch.linspace(*self.interval, 17, dtype=torch.float64)).max())
        return 0.0 if error <= ALLOWED_ERROR else error

    def _response(self, curve: Curve, method: str, degree, exact: bool, reason: str) -> SteeringResponse:
        return SteeringResponse(self.prompt, self.interval, curve, method, degree, exact, reason)
