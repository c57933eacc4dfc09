"""Exact steering responses beside dense sweeps of the same model.

    python -m benchmarks.steering [--out FILE.csv] [--repeats 15] [--only WORD ...]
    python -m benchmarks.steering --growth [--out FILE.csv]

float64, one thread, both sides in one process and interleaved; medians and quartiles of CPU time. Both sides start from the
same float64 model and one prompt. Ours is a whole call (coefficients, the choice of a form, and the values), or coefficients
and values alone. The sweep evaluates the running model at all strengths in batches, of the size that is the fastest of
four; blocks below the steered one run once. `difference` is the largest error of a logit, relative to the largest logit at
that strength; of tipping points, the largest distance in strength.

`--growth` times all coefficients, jets of order 8 and as many runs as the degree needs, for more and more layers.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.provenance import write_provenance
from benchmarks.timing import interleave, seconds
from tensorlm.files import write_csv
from tensorlm.model import ModelConfig, TensorTransformer
from tensorlm.polynomials.powers import Polynomial
from tensorlm.steering import Injection, Steerable, steered_logits, steering_response
from tensorlm.steering.propagation import Coefficients, propagate
from tensorlm.steering.vectors import SteeredPrompt

FIELDS = ["task", "setting", "degree", "peer", "ours_ms", "ours_low", "ours_high", "peer_ms", "peer_low", "peer_high", "ratio",
          "must", "aim", "difference", "note"]
GROWTH_FIELDS = ["model", "layers", "degree", "route", "order", "milliseconds", "low", "high", "error", "reach"]
BATCHES = (50, 125, 250, 1000)
REACH = 2.0  # strengths from -REACH to REACH
ORDER = 8
LIMIT = 1000  # the largest degree of which all coefficients are timed


@dataclass(frozen=True)
class Case:
    """One row: both sides, each giving values to compare; `judge` turns the two results into a difference and a note."""

    task: str
    setting: str
    degree: int | tuple[int, int] | None
    peer: str
    ours: Callable
    theirs: Callable
    judge: Callable
    goal: tuple[float | None, float | None]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--growth", action="store_true", help="growth with the number of layers instead of the comparison with sweeps")
    parser.add_argument("--only", nargs="+", default=[""], help="rows whose name contains one of these words")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if options.growth:
        rows = [row for kind, most in GROWTH.items() for layers in range(1, most + 1) for row in grow(kind, layers, options.repeats)]
    else:
        rows = [measure(build(), options.repeats) for name, build in CASES.items() if any(word in name for word in options.only)]
    if options.out:
        save(options.out, rows, GROWTH_FIELDS if options.growth else FIELDS, options.repeats)


def save(path: Path, rows: list[dict], fields: list[str], repeats: int) -> None:
    write_csv(path, fields, rows)
    command = "python -m benchmarks.steering" + (" --growth" if fields is GROWTH_FIELDS else "")
    write_provenance(path, command, repeats=repeats, dtype="float64")


def measure(case: Case, repeats: int) -> dict:
    """Time a case and compare its results."""
    difference, note = case.judge(case.ours(), case.theirs())
    times = interleave({"ours": case.ours, "peer": case.theirs}, repeats)
    row = dict(task=case.task, setting=case.setting, degree=case.degree, peer=case.peer, must=case.goal[0], aim=case.goal[1],
               difference=f"{difference:.1e}", note=note, ratio=round(times["peer"][1] / times["ours"][1], 1))
    for name, (low, middle, high) in times.items():
        row |= {f"{name}_ms": round(middle, 4), f"{name}_low": round(low, 4), f"{name}_high": round(high, 4)}
    print(f"{case.task:20} {case.setting:42} degree {case.degree:<5} {row['ours_ms']:9.3f} ms {row['peer_ms']:10.3f} ms {row['ratio']:7}  "
          f"(must {case.goal[0]}, aim {case.goal[1]})  difference {row['difference']}  {note}", flush=True)
    return row


# Models

def mlp_model(layers: int, width: int = 128, hidden: int = 256, vocabulary: int = 128) -> TensorTransformer:
    """Bilinear MLPs with residuals, no attention and no norm; entries N(0, 1 / columns)."""
    options: dict[str, Any] = dict(attention="none", smear="none", norm="none", head_dim=1, context=8)
    return _randomised(ModelConfig(vocab_size=vocabulary, width=width, layers=layers, mlp_hidden=hidden, **options), 1.0)


def attention_model(layers: int, width: int = 64, vocabulary: int = 128, mlp: str = "bilinear") -> TensorTransformer:
    """Bilinear attention with decay and learned ages, and MLPs if asked for; outputs a tenth of N(0, 1 / columns)."""
    return _randomised(ModelConfig(vocab_size=vocabulary, width=width, layers=layers, mlp=mlp, head_dim=min(16, width), norm="none"), 0.1)


def _randomised(config: ModelConfig, outputs: float) -> TensorTransformer:
    model, generator = TensorTransformer(config), torch.Generator().manual_seed(0)
    for name, value in model.named_parameters():
        scale = (outputs if name.split(".")[-1] in ("D", "o") else 1.0) / value.shape[-1] ** 0.5
        value.data = scale * torch.randn(value.shape, dtype=torch.float64, generator=generator)
    return model.requires_grad_(False)


def question(model: TensorTransformer, time: int, layer: int = 0) -> tuple[Steerable, Tensor, Tensor, Injection]:
    """The prepared model, a prompt, a vector as long as its input rows, and the injection at all positions."""
    steerable, generator = Steerable.of(model), torch.Generator().manual_seed(1)
    tokens = torch.randint(0, model.config.vocab_size, (time,), generator=generator)
    vector = torch.randn(model.config.width, dtype=torch.float64, generator=generator)
    return steerable, tokens, vector, Injection.make(steerable, time, vector, layer)


def coefficients(steerable: Steerable, tokens: Tensor, injection: Injection, **options) -> Coefficients:
    return propagate(SteeredPrompt.make(steerable, tokens, injection), **options)


# Cases

def response_case(build: Callable, layers: int, time: int, count: int, goal: tuple, layer: int = 0) -> Case:
    steerable, tokens, vector, injection = question(build(layers), time, layer)
    alphas = torch.linspace(-REACH, REACH, count, dtype=torch.float64)
    ask = partial(steering_response, steerable, tokens, vector, layer, interval=(-REACH, REACH))
    response, sweep = ask(), fastest_sweep(steerable, tokens, injection, alphas)

    def judge(ours, theirs):
        return relative(ours, theirs), f"{response.method}, sweep in batches of {sweep.keywords['batch']}"

    return Case("steering response", setting(steerable, time, count, layer), response.degree, "batched dense sweep",
                lambda: ask().logits(alphas), sweep, judge, goal)


def values_case(build: Callable, layers: int, time: int, count: int, goal: tuple, layer: int = 0) -> Case:
    """Coefficients and values alone, without the choice of a form: the work itself."""
    steerable, tokens, _, injection = question(build(layers), time, layer)
    alphas = torch.linspace(-REACH, REACH, count, dtype=torch.float64)
    sweep = fastest_sweep(steerable, tokens, injection, alphas)

    def ours():
        return Polynomial(coefficients(steerable, tokens, injection, unit=REACH).logits, REACH)(alphas)

    degree = coefficients(steerable, tokens, injection, order=0).degree
    return Case("coefficients, values", setting(steerable, time, count, layer), degree, "batched dense sweep", ours, sweep,
                lambda one, other: (relative(one, other), f"sweep in batches of {sweep.keywords['batch']}"), goal)


def tipping_case(build: Callable, layers: int, time: int, count: int, goal: tuple, layer: int = 0) -> Case:
    """Every change of the most likely token: by roots, and by a sweep that sees them as well as its spacing allows."""
    steerable, tokens, vector, injection = question(build(layers), time, layer)
    alphas = torch.linspace(-REACH, REACH, count, dtype=torch.float64)
    ask = partial(steering_response, steerable, tokens, vector, layer, interval=(-REACH, REACH))
    sweep = fastest_sweep(steerable, tokens, injection, alphas)

    def theirs():
        leaders = sweep().argmax(-1)
        places = torch.nonzero(leaders[:-1] != leaders[1:])[:, 0]
        return [(float(alphas[i] + alphas[i + 1]) / 2, int(leaders[i]), int(leaders[i + 1])) for i in places]

    def judge(ours, swept):
        same = [p[1:] for p in ours] == [p[1:] for p in swept]
        gaps = [abs(one[0] - other[0]) for one, other in zip(ours, swept)] if same else [float("nan")]
        return max(gaps, default=0.0), f"{len(ours)} changes, the sweep sees {len(swept)}; its spacing is {2 * REACH / (count - 1):.0e}"

    return Case("tipping points", setting(steerable, time, count, layer), ask().degree, f"sweep of {count} strengths",
                lambda: ask().tipping_points(), theirs, judge, goal)


def setting(steerable: Steerable, time: int, count: int, layer: int) -> str:
    config = steerable.model.config
    kind = "MLP only" if config.attention == "none" else f"T={time}"
    return f"L={config.layers} d={config.width} {kind}, layer {layer}, {count} strengths"


def fastest_sweep(steerable: Steerable, tokens: Tensor, injection: Injection, alphas: Tensor) -> partial:
    """The dense sweep in batches of the size that takes the least time, so that the peer is not slowed by its memory."""
    sides = [partial(sweep_in_batches, steerable, tokens, injection, alphas, batch=batch) for batch in BATCHES if batch <= len(alphas)]
    return min(sides, key=lambda side: (side(), min(seconds(side, 1) for _ in range(2)))[1])


def sweep_in_batches(steerable: Steerable, tokens: Tensor, injection: Injection, alphas: Tensor, batch: int) -> Tensor:
    return torch.cat([steered_logits(steerable, tokens, injection, part) for part in alphas.split(batch)])


def relative(ours: Tensor, theirs: Tensor) -> float:
    return float(((ours - theirs).abs().amax(-1) / theirs.abs().amax(-1)).max())


# Growth

def grow(kind: str, layers: int, repeats: int, time: int = 16) -> list[dict]:
    """Milliseconds of all coefficients, of a jet and of degree + 1 runs, with the errors that they reach."""
    build = BUILDERS[kind]
    steerable, tokens, _, injection = question(build(layers), time)
    degree = coefficients(steerable, tokens, injection, order=0).degree
    sides: dict[tuple[str, int | None], Callable] = {("jet", ORDER): partial(coefficients, steerable, tokens, injection, order=ORDER)}
    if degree <= LIMIT:
        points = torch.linspace(-REACH, REACH, degree + 1, dtype=torch.float64)
        sides |= {("coefficients", None): partial(coefficients, steerable, tokens, injection, unit=REACH),
                  ("runs", None): partial(steered_logits, steerable, tokens, injection, points)}
    rows = []
    for (route, order), (low, middle, high) in interleave(sides, repeats).items():
        reach = 0.25 if route == "jet" else REACH
        error = None
        if route != "runs":
            polynomial = Polynomial(sides[route, order]().logits, REACH if route == "coefficients" else 1.0)
            error = growth_error(steerable, tokens, injection, polynomial, reach)
        times = dict(milliseconds=round(middle, 4), low=round(low, 4), high=round(high, 4))
        accuracy = dict(error="" if error is None else f"{error:.1e}", reach=reach)
        rows.append(dict(model=kind, layers=layers, degree=degree, route=route, order=order, **times, **accuracy))
        print(f"{kind:20} L={layers} degree {degree:<8} {route:14} {middle:10.3f} ms ({low:.3f} to {high:.3f})  {accuracy['error']}",
              flush=True)
    return rows


def growth_error(steerable, tokens, injection, polynomial: Polynomial, reach: float) -> float:
    probes = torch.linspace(-reach, reach, 11, dtype=torch.float64)
    return relative(polynomial(probes), steered_logits(steerable, tokens, injection, probes))


CASES = {
    "values 2": partial(values_case, mlp_model, 2, 1, 1000, (None, None)),
    "values 4": partial(values_case, mlp_model, 4, 1, 1000, (15, 40)),
    "values 6": partial(values_case, mlp_model, 6, 1, 1000, (None, None)),
    "response 2": partial(response_case, mlp_model, 2, 1, 1000, (None, None)),
    "response 4": partial(response_case, mlp_model, 4, 1, 1000, (None, None)),
    "response 6": partial(response_case, mlp_model, 6, 1, 1000, (None, None)),
    "response attention": partial(response_case, attention_model, 2, 16, 1000, (None, None), 1),
    "response attention 0": partial(response_case, attention_model, 2, 16, 1000, (None, None)),
    "tipping 4": partial(tipping_case, mlp_model, 4, 1, 10_000, (None, None)),
    "tipping attention": partial(tipping_case, attention_model, 2, 16, 10_000, (None, None), 1),
}
BUILDERS: dict[str, Callable[..., TensorTransformer]] = {
    "MLP": mlp_model, "attention": partial(attention_model, mlp="none"), "attention and MLP": attention_model}
GROWTH = {"MLP": 9, "attention": 6, "attention and MLP": 4}


if __name__ == "__main__":
    main()
