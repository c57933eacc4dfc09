"""Tensor algorithms that work from the factors, beside the same algorithms on the dense tensor.

    python -m benchmarks.tensor_form [--out FILE.csv] [--repeats 15] [--only WORD ...]
    python -m benchmarks.tensor_form --growth [--out FILE.csv]

float64, one thread, both sides in one process and interleaved; medians and quartiles of CPU time. A side that takes less
than 20 ms is called as often as fills them. Peers are given their dense tensor ready made, except where a row says that
building it counts. Every row holds the accuracy that both sides reach. The dense HOSVD and Gram matrices are there twice:
by unfoldings, as the textbook (and TensorLy) has them, and without copies, the fastest that we found.

`--growth` times our side for widths 16 to 256, and the dense side, without copies, as long as its tensor fits.
"""

import argparse
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cotengra
import tensorly
import torch
from tensorly.decomposition import parafac

from benchmarks.dense_tensors import dense_eigen, dense_gram, dense_gram_by_unfolding, dense_grams, dense_hosvd, dense_hosvd_by_unfolding
from benchmarks.provenance import write_provenance
from benchmarks.timing import interleave
from tensorlm.files import write_csv
from tensorlm.tensors import CPTensor, compose, cp_als, eigen, hosvd, interaction
from tensorlm.tensors.composition import ComposedTensor
from tensorlm.tensors.hosvd import Tucker

FIELDS = ["task", "setting", "peer", "ours_ms", "ours_low", "ours_high", "peer_ms", "peer_low", "peer_high", "ratio", "must", "aim", "goal",
          "measure", "ours_accuracy", "peer_accuracy", "difference", "peer_time_includes"]
GROWTH_FIELDS = ["task", "route", "width", "hidden", "milliseconds", "low", "high", "dense_bytes"]
GROWTH_WIDTHS = (16, 24, 32, 48, 64, 96, 128, 192, 256)
GROWTH_DENSE = 32


@dataclass(frozen=True)
class Case:
    """One row: both sides as functions without arguments, and how far each result is from right and from the other."""

    task: str
    setting: str
    peer: str
    ours: Callable
    theirs: Callable | None
    measure: str
    judge: Callable  # (our result, their result or None) -> accuracy of ours, of theirs, difference
    goal: tuple[float | None, float | None, str]  # must, aim, and whether these are a ratio ("x") or seconds ("s")
    includes: str = "the algorithm alone; its dense tensor is ready made"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--growth", action="store_true", help="growth with the width instead of the comparison with peers")
    parser.add_argument("--only", nargs="+", default=[""], help="rows whose name contains one of these words")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if options.growth:
        rows = [row for width in GROWTH_WIDTHS for row in grow(width, options.repeats)]
    else:
        rows = [measure(build(), options.repeats) for name, build in CASES.items() if any(word in name for word in options.only)]
    if options.out:
        save(options.out, rows, GROWTH_FIELDS if options.growth else FIELDS, options.repeats)


def save(path: Path, rows: list[dict], fields: list[str], repeats: int) -> None:
    write_csv(path, fields, rows)
    command = "python -m benchmarks.tensor_form" + (" --growth" if fields is GROWTH_FIELDS else "")
    write_provenance(path, command, repeats=repeats, dtype="float64", tensorly=tensorly.__version__, cotengra=cotengra.__version__)


def measure(case: Case, repeats: int) -> dict:
    """Time a case and judge its results."""
    sides = {"ours": case.ours} | ({"peer": case.theirs} if case.theirs else {})
    accuracies = case.judge(*(call() for call in sides.values()), *([] if case.theirs else [None]))
    times = interleave(sides, repeats)
    row: dict[str, Any] = dict(task=case.task, setting=case.setting, peer=case.peer, measure=case.measure)
    row["peer_time_includes"] = case.includes if case.theirs else ""
    row |= dict(zip(("must", "aim", "goal"), case.goal))
    for name, (low, middle, high) in times.items():
        row |= {f"{name}_ms": round(middle, 4), f"{name}_low": round(low, 4), f"{name}_high": round(high, 4)}
    if case.theirs:
        row["ratio"] = round(times["peer"][1] / times["ours"][1], 1)
    row |= {name: f"{value:.1e}" for name, value in zip(("ours_accuracy", "peer_accuracy", "difference"), accuracies) if value is not None}
    print(f"{case.task:34} {case.setting:24} {row['ours_ms']:10.3f} ms {row.get('peer_ms', ''):>12} ms {row.get('ratio', ''):>8}  "
          f"(must {case.goal[0]}, aim {case.goal[1]} {case.goal[2]})  {case.peer}", flush=True)
    return row


def grow(width: int, repeats: int, rank: int = 8) -> list[dict]:
    """Milliseconds of the composed Gram matrices and HOSVD at one width, from the factors and, where it fits, dense."""
    network = random_network(width, 2)
    grams, hosvds = "mode Grams", f"HOSVD, rank {rank}"
    sides: dict[tuple[str, str], Callable] = {(grams, "factors"): network.mode_grams, (hosvds, "factors"): partial(hosvd, network, rank)}
    if width <= GROWTH_DENSE:
        dense = network.dense()
        sides |= {(grams, "dense"): partial(dense_grams, dense), (hosvds, "dense"): partial(dense_hosvd, dense, rank)}
    rows = []
    for (task, route), (low, middle, high) in interleave(sides, repeats).items():
        times = dict(milliseconds=round(middle, 4), low=round(low, 4), high=round(high, 4))
        rows.append(dict(task=task, route=route, width=width, hidden=2 * width, **times, dense_bytes=network.dense_bytes))
        print(f"{task:16} {route:8} d={width:<4} {middle:12.3f} ms ({low:.3f} to {high:.3f})", flush=True)
    return rows


# Tensors

def random_layer(out: int, hidden: int, width: int, generator: torch.Generator) -> CPTensor:
    sizes = ((out, hidden), (hidden, width), (hidden, width))
    return CPTensor(*(torch.randn(*size, dtype=torch.float64, generator=generator) / size[1] ** 0.5 for size in sizes))


def random_network(width: int, layers: int, seed: int = 0) -> ComposedTensor:
    generator = torch.Generator().manual_seed(seed)
    return compose(*(random_layer(width, 2 * width, width, generator) for _ in range(layers)))


# Cases

def als_case(width: int, layers: int, rank: int, steps: int, goal: tuple) -> Case:
    network, generator = random_network(width, layers), torch.Generator().manual_seed(1)
    start = [torch.randn(size, rank, dtype=torch.float64, generator=generator) for size in network.shape]
    dense, weights = network.dense(), torch.ones(rank, dtype=torch.float64)

    def theirs():
        with torch.inference_mode(), tensorly.backend_context("pytorch"):
            return parafac(dense, rank, n_iter_max=steps, init=(weights, list(start)), tol=0, return_errors=True)

    def judge(fit, result):
        (_, factors), errors = result
        difference = max(float((one - other).norm() / other.norm()) for one, other in zip(fit.factors, factors))
        return fit.errors[-1], float(errors[-1]), difference

    task = "CP-ALS of one layer" if layers == 1 else f"CP-ALS of {layers} composed layers"
    return Case(task, f"d={width} h={2 * width} r={rank}, {steps} steps", "TensorLy parafac, same start and steps",
                lambda: cp_als(network, rank, steps, start), theirs, "|T - fit| / |T|; difference of factors", judge, goal)


def hosvd_case(width: int, rank: int, peer: Callable | None, goal: tuple) -> Case:
    network = random_network(width, 2)
    dense, size = network.dense() if peer else None, float(network.squared_norm().sqrt())
    names = {dense_hosvd: "own dense HOSVD without copies", dense_hosvd_by_unfolding: "own dense HOSVD by unfoldings", None: ""}

    def judge(tucker: Tucker, result):
        if result is None:  # |core|^2 + error^2 = |T|^2, the error being computed on its own
            return abs(float(tucker.core.square().sum() + tucker.error**2) / size**2 - 1), None, None
        core, factors = result
        fit = core
        for factor in factors:
            fit = torch.tensordot(fit, factor, dims=([0], [1]))
        difference = abs(float(tucker.core.norm() / core.norm()) - 1)
        return float(tucker.error) / size, float((dense - fit).norm()) / size, difference

    return Case("HOSVD and core of 2 composed layers", f"d={width} h={2 * width} r={rank}", names[peer], partial(hosvd, network, rank),
                partial(peer, dense, rank) if peer else None,
                "|T - fit| / |T|; difference of |core|" if peer else "| |core|^2 + error^2 - |T|^2 | / |T|^2", judge, goal)


def grams_case(width: int, gram: Callable | None, goal: tuple) -> Case:
    network = random_network(width, 2)
    dense = network.dense() if gram else None
    names = {dense_gram: "own dense Grams without copies", dense_gram_by_unfolding: "own dense Grams by unfoldings", None: ""}

    def spread(grams):  # every trace is |T|^2
        traces = torch.stack([matrix.trace() for matrix in grams])
        return float((traces.max() - traces.min()) / traces.mean())

    def judge(ours, theirs):
        if theirs is None:
            return spread(ours), None, None
        return spread(ours), spread(theirs), max(float((one - other).norm() / other.norm()) for one, other in zip(ours, theirs))

    return Case("mode Grams of 2 composed layers", f"d={width} h={2 * width}", names[gram], network.mode_grams,
                partial(dense_grams, dense, gram) if dense is not None and gram is not None else None,
                "spread of the traces, all |T|^2; difference of the matrices", judge, goal)


def eigen_case(out: int, width: int, hidden: int, prebuilt: bool, goal: tuple) -> Case:
    cp = random_layer(out, hidden, width, torch.Generator().manual_seed(0))
    matrices = interaction(cp)

    def wrong(values, vectors):  # vectors as rows
        return float(((vectors.mT * values.unsqueeze(-2)) @ vectors - matrices).norm() / matrices.norm())

    def judge(spectrum, result):
        values, vectors = result
        largest = values.gather(-1, values.abs().argsort(dim=-1, descending=True)[:, : 2 * hidden])
        difference = float((spectrum.values - largest).abs().max() / largest.abs().max())
        return wrong(spectrum.values, spectrum.vectors), wrong(values, vectors.mT), difference

    peer, includes = ("batched eigh, matrices ready made", "eigh alone") if prebuilt else ("batched eigh", "building the matrices and eigh")
    return Case("eigendecomposition of all outputs", f"{out} x {width}, h={hidden}", peer, partial(eigen, cp),
                partial(torch.linalg.eigh, matrices) if prebuilt else partial(dense_eigen, cp),
                "|Q - V diag(lambda) V^T| / |Q|; difference of eigenvalues", judge, goal, includes)


def contraction_case(width: int, goal: tuple) -> Case:
    """|T|^2 as one contraction of 18 matrices: a library that searches for a path finds the factor form by itself."""
    network = random_network(width, 2)
    lower, upper = network.layers
    matrices = [upper.D, upper.L, upper.R, *(lower.D, lower.L, lower.R) * 2]
    first = ["oa", "ab", "ac", "bd", "di", "dj", "ce", "ek", "el"]
    second = [term.translate(str.maketrans("abcde", "vwxyz")) for term in first]
    equation = ",".join(first + second) + "->"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*kahypar")  # an optional partitioner, of no use to so small a contraction
        contract = cotengra.einsum_expression(equation, *(tuple(matrix.shape) for matrix in matrices * 2), optimize="auto-hq")
    exact = float(network.squared_norm())

    def judge(ours, theirs):
        traces = torch.stack([gram.trace() for gram in network.mode_grams()[1:]]).mean()
        return abs(float(ours / traces) - 1), abs(float(theirs / traces) - 1), abs(float(theirs) / exact - 1)

    return Case("|T|^2 of 2 composed layers", f"d={width} h={2 * width}", "cotengra auto-hq, path found before", network.squared_norm,
                lambda: contract(*matrices, *matrices), "relative to the traces of the input Grams; difference", judge, goal,
                "the contraction from the factors")


CASES = {
    "als one layer": partial(als_case, 128, 1, 16, 20, (10, 30, "x")),
    "als composed 16": partial(als_case, 16, 2, 8, 10, (50, 150, "x")),
    "als composed 24": partial(als_case, 24, 2, 8, 5, (500, 2000, "x")),
    "hosvd 16 unfolding": partial(hosvd_case, 16, 8, dense_hosvd_by_unfolding, (40, 60, "x")),
    "hosvd 16 no copies": partial(hosvd_case, 16, 8, dense_hosvd, (40, 60, "x")),
    "grams 32 unfolding": partial(grams_case, 32, dense_gram_by_unfolding, (1000, 5000, "x")),
    "grams 32 no copies": partial(grams_case, 32, dense_gram, (1000, 5000, "x")),
    "hosvd 128": partial(hosvd_case, 128, 16, None, (1, 0.1, "s")),
    "grams 128": partial(grams_case, 128, None, (1, 0.1, "s")),
    "eigen with build": partial(eigen_case, 10, 784, 64, False, (15, 40, "x")),
    "eigen alone": partial(eigen_case, 10, 784, 64, True, (None, None, "x")),
    "contraction": partial(contraction_case, 64, (None, 1, "x")),
}


if __name__ == "__main__":
    main()
