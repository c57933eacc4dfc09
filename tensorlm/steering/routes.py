"""Which form of the response fits a model, an injection and an interval: the choice, made by facts and said in words."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor

from tensorlm.steering.chebyshev import resolve
from tensorlm.steering.checks import Positions, require_interval, require_number, require_prompt, require_whole
from tensorlm.steering.curves import PowerCurve, RatioCurve, SeriesCurve
from tensorlm.steering.injection import Injection, steered_logits
from tensorlm.steering.opened import Steerable
from tensorlm.steering.polynomial import Polynomial
from tensorlm.steering.propagation import propagate
from tensorlm.steering.ratios import ratio_curve, ratio_obstacle
from tensorlm.steering.response import SteeringResponse

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
