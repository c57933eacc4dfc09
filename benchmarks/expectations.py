"""Exact expectations beside sampling: what a mean or a tail costs, and how many samples would be as good.

    python -m benchmarks.expectations [--out FILE.csv] [--repeats 15] [--only WORD ...]

float64, one thread, both sides in one process and interleaved; medians and quartiles of CPU time. A side that takes less
than 20 ms is called as often as fills them. The peer is Monte Carlo: inputs are drawn, run and averaged, 1,000 at a time,
and the time of what it needs for the accuracy named in the row is that of 1,000 samples times as many thousands. With a
control variate the outputs of the first layer, whose mean is exact, are regressed away, and the regression is in its time.
`ours_error` and `peer_error` are relative errors: zero stands for rounding. For ReLU networks ours is the covariance
propagation, which is not exact: the samples are those that have the same error.
"""

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.provenance import write_provenance
from benchmarks.timing import interleave
from tensorlm.files import write_csv
from tensorlm.proofs import Gaussian, Quadratic, output_mean, output_moments, relu_moments, tail_probability
from tensorlm.tensors import CPTensor, compose, interaction

FIELDS = ["task", "setting", "peer", "ours_ms", "ours_low", "ours_high", "peer_ms", "peer_low", "peer_high", "samples_in_our_time",
          "samples_needed", "ratio", "must", "aim", "goal", "ours_error", "peer_error", "difference"]
SAMPLES, DRAWN, TRUTH = 1000, 20_000, 400_000
ERROR = 0.01
TAIL, TAIL_ERROR = 1e-6, 0.1
Network = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Case:
    """One row: both sides as functions without arguments (the peer on `SAMPLES` samples), and what the peer needs."""

    task: str
    setting: str
    peer: str
    ours: Callable
    theirs: Callable
    samples_needed: float
    ours_error: float
    peer_error: float
    difference: float  # of our result from a large sample, in its standard errors
    goal: tuple[float | None, float | None, str] = (None, None, "")  # must, aim, of what


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--only", nargs="+", default=[""], help="rows whose name contains one of these words")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows = [measure(build(), options.repeats) for name, build in CASES.items() if any(word in name for word in options.only)]
    if options.out:
        save(options.out, rows, options.repeats)


def save(path: Path, rows: list[dict], repeats: int) -> None:
    write_csv(path, FIELDS, rows)
    write_provenance(path, "python -m benchmarks.expectations", repeats=repeats, dtype="float64", samples=SAMPLES)


def measure(case: Case, repeats: int) -> dict[str, Any]:
    """Time both sides of a case."""
    times = interleave({"ours": case.ours, "peer": case.theirs}, repeats)
    row: dict[str, Any] = dict(task=case.task, setting=case.setting, peer=case.peer)
    for name, (low, middle, high) in times.items():
        row |= {f"{name}_ms": round(middle, 4), f"{name}_low": round(low, 4), f"{name}_high": round(high, 4)}
    ours, theirs = times["ours"][1], times["peer"][1] / SAMPLES
    row |= dict(samples_in_our_time=round(ours / theirs), samples_needed=round(case.samples_needed),
                ratio=float(f"{case.samples_needed * theirs / ours:.3g}"), **dict(zip(("must", "aim", "goal"), case.goal)))
    row |= {name: f"{getattr(case, name):.1e}" for name in ("ours_error", "peer_error")} | dict(difference=round(case.difference, 2))
    print(f"{case.task:34} {case.setting:20} {row['ours_ms']:10.3f} ms = {row['samples_in_our_time']:>8} samples of {case.peer:28} "
          f"that needs {row['samples_needed']:>12}: {row['ratio']:>10} x", flush=True)
    return row


# Networks

def random_matrix(rows: int, columns: int, generator: torch.Generator, gain: float = 1.0) -> Tensor:
    return torch.randn(rows, columns, dtype=torch.float64, generator=generator) * math.sqrt(gain / columns)


def random_layer(out: int, hidden: int, width: int, generator: torch.Generator) -> CPTensor:
    return CPTensor(*(random_matrix(*size, generator) for size in ((out, hidden), (hidden, width), (hidden, width))))


def normal(width: int) -> Gaussian:
    return Gaussian(torch.zeros(width, dtype=torch.float64), torch.eye(width, dtype=torch.float64))


def draw(count: int, width: int, generator: torch.Generator) -> Tensor:
    return torch.randn(count, width, dtype=torch.float64, generator=generator)


def sampled(network: Network, width: int, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mean and squared standard errors over `count` inputs N(0, 1)."""
    blocks = [network(draw(DRAWN, width, generator)) for _ in range(max(1, count // DRAWN))]
    mean = torch.stack([block.mean(0) for block in blocks]).mean(0)
    return mean, torch.stack([block.var(0) for block in blocks]).mean(0) / (DRAWN * len(blocks))


def off(found: Tensor, mean: Tensor, errors: Tensor) -> float:
    """Root mean square distance in standard errors."""
    return float(((found - mean).square() / errors).mean().sqrt())


def controlled(y: Tensor, control: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of y with a control of known mean regressed away, and the squared residuals an output (out,)."""
    around, rest = control - control.mean(0), y - y.mean(0)
    slopes = torch.linalg.solve(around.mT @ around, around.mT @ rest)
    return y.mean(0) + (known - control.mean(0)) @ slopes, (rest - around @ slopes).square().sum(0)


# Cases

def mean_case(width: int, depth: int, control: bool = False) -> Case:
    """The exact mean of two or three layers beside sampling to a relative error of 1 %."""
    generator, inputs = torch.Generator().manual_seed(0), normal(width)
    hidden = 4 * width if depth == 2 else 2 * width
    network = compose(*(random_layer(width, hidden, width, generator) for _ in range(depth)))
    first, exact = network.layers[0], output_mean(network, inputs)
    known = output_mean(first, inputs)
    mean, errors = sampled(network, width, DRAWN, generator)
    variance = float(errors.sum()) * DRAWN
    if control:
        x = draw(DRAWN, width, generator)
        variance = float(controlled(network(x), first(x), known)[1].sum()) / (DRAWN - width)

    def plain() -> Tensor:
        return network(draw(SAMPLES, width, generator)).mean(0)

    def with_control() -> Tensor:
        y = first(draw(SAMPLES, width, generator))
        return controlled(compose(*network.layers[1:])(y), y, known)[0]

    goal = (1000, 300, "samples in our time") if depth == 2 and not control else (None, None, "")
    return Case(f"exact mean of {depth} layers", f"d={width} h={hidden}", "sampling, control variate" if control else "sampling",
                partial(output_mean, network, inputs), with_control if control else plain,
                variance / float(exact.square().sum()) / ERROR**2, 0.0, ERROR, off(exact, mean, errors), goal)


def moments_case(width: int) -> Case:
    """Mean and covariance of one layer; the covariance to 1 % in the Frobenius norm."""
    generator, inputs, hidden = torch.Generator().manual_seed(0), normal(width), 4 * width
    cp = random_layer(width, hidden, width, generator)
    exact = output_moments(cp, inputs)
    y = cp(draw(DRAWN, width, generator)) - exact.mean
    spread = float(y.square().sum(1).square().mean() - exact.covariance.square().sum())  # E |y y^T|^2 - |C|^2
    mean, errors = sampled(cp, width, DRAWN, generator)

    def theirs() -> tuple[Tensor, Tensor]:
        y = cp(draw(SAMPLES, width, generator))
        return y.mean(0), torch.cov(y.mT)

    return Case("exact moments of 1 layer", f"d={width} h={hidden}", "sampling", partial(output_moments, cp, inputs), theirs,
                spread / float(exact.covariance.square().sum()) / ERROR**2, 0.0, ERROR, off(exact.mean, mean, errors))


def tail_case(width: int) -> Case:
    """P(logit difference > t) near 1e-6 beside sampling to a relative error of 10 %."""
    generator, inputs = torch.Generator().manual_seed(0), normal(width)
    cp = random_layer(2, width, width, generator)
    zero = torch.zeros(width, dtype=torch.float64)
    form = Quadratic(interaction(cp, torch.tensor([1.0, -1.0], dtype=torch.float64)), zero, zero[0])
    low, high = 0.0, 1000.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if float(tail_probability(form, inputs, middle, "saddle")) > TAIL else (low, middle)
    exact, rough = (float(tail_probability(form, inputs, high, method)) for method in ("exact", "saddle"))

    def theirs() -> Tensor:
        y = cp(draw(SAMPLES, width, generator))
        return (y[:, 0] - y[:, 1] > high).double().mean()

    return Case("exact tail at 1e-6", f"d={width} h={width}", "sampling", partial(tail_probability, form, inputs, high), theirs,
                1 / exact / TAIL_ERROR**2, 0.0, TAIL_ERROR, rough / exact - 1)


def relu_case(width: int, depth: int) -> Case:
    """Covariance propagation through a ReLU network beside as many samples as have its error."""
    generator, hidden = torch.Generator().manual_seed(0), 4 * width
    layers = [(random_matrix(hidden, width, generator, 2.0), random_matrix(width, hidden, generator)) for _ in range(depth)]

    def network(x: Tensor) -> Tensor:
        for encoder, decoder in layers:
            x = (x @ encoder.mT).relu() @ decoder.mT
        return x

    def ours() -> Tensor:
        moments = normal(width).moments
        for encoder, decoder in layers:
            moments = relu_moments(encoder, decoder, moments)
        return moments.mean

    mean, errors = sampled(network, width, TRUTH, generator)
    squared = max(float((ours() - mean).square().sum() - errors.sum()), float(errors.sum()))
    relative = math.sqrt(squared) / float(mean.norm())
    return Case(f"ReLU: propagated mean of {depth}", f"d={width} h={hidden}", "sampling", ours,
                lambda: network(draw(SAMPLES, width, generator)).mean(0), float(errors.sum()) * TRUTH / squared, relative, relative,
                off(ours(), mean, errors))


CASES: dict[str, Callable[[], Case]] = {
    **{f"mean 2 {width}": partial(mean_case, width, 2) for width in (32, 64, 128, 256)},
    **{f"mean 2 control {width}": partial(mean_case, width, 2, True) for width in (32, 64, 128, 256)},
    **{f"mean 3 {width}": partial(mean_case, width, 3) for width in (16, 32, 64)},
    **{f"moments {width}": partial(moments_case, width) for width in (32, 64, 128, 256)},
    **{f"tail {width}": partial(tail_case, width) for width in (16, 64)},
    **{f"relu {depth} {width}": partial(relu_case, width, depth) for depth in (2, 3) for width in (32, 64, 128)},
}


if __name__ == "__main__":
    main()
