"""Scores of `tensorlm.data_attribution` beside the same scores by torch.func, autograd, dattri and kronfluence: agreement and time.

    PYTHONPATH=FOLDER python -m benchmarks.influence [--out FILE.csv] [--repeats 3] [--only WORD ...]

One bilinear classifier of the 8x8 digits (2,240 parameters), 1,000 training and 300 test images, margins, float64, one thread;
both sides from the model to the table of scores, in one process and in turns; medians and quartiles of CPU time. Libraries that
are not installed are named and left out: `pip install --target FOLDER --no-deps dattri pretty_midi mido importlib_resources
kronfluence accelerate einconv opt_einsum` in a folder of its own does not touch the torch at hand.

`difference` is |ours - peer| / |ours| after both lose their mean over the training images; `pearson` the mean over test
images of the correlation over training images.
"""

import argparse
import importlib.metadata
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import influence_peers as peers
from benchmarks.provenance import write_provenance
from benchmarks.timing import interleave
from tensorlm.data_attribution import Classifiers, Recipe, centred_digits, influence, tracin, trajectory, trak, unrolled
from tensorlm.data_attribution.classifiers import Examples
from tensorlm.files import write_csv

FIELDS = ["method", "setting", "peer", "ours_ms", "ours_low", "ours_high", "peer_ms", "peer_low", "peer_high", "ratio", "pearson",
          "difference", "note"]
LIBRARIES = ("dattri", "kronfluence")
HESSIAN_DAMPING, DAMPING, RIDGE = 0.003, 0.001, 100.0
TEST_IMAGES, UNROLLED_IMAGES = 300, 10


@dataclass(frozen=True)
class Problem:
    """What all rows ask about: the data, the recipe, one trained model, and the models at the end of each epoch."""

    data: Examples
    recipe: Recipe
    model: Classifiers
    checkpoints: Classifiers

    @property
    def rates(self) -> Tensor:
        """The sum of the rates of each epoch, over 1 - momentum."""
        rates = self.recipe.rates(len(self.data.x))
        return rates.view(self.recipe.epochs, -1).sum(1) / (1 - self.recipe.momentum)


def problem(images: int = 1000, test_images: int = TEST_IMAGES, epochs: int = 20) -> Problem:
    recipe, digits = Recipe(dtype=torch.float64, epochs=epochs), centred_digits(images, torch.float64)
    data = digits._replace(test_x=digits.test_x[:test_images], test_y=digits.test_y[:test_images])
    each = recipe.steps(images) // epochs
    run = trajectory(data.x, data.y, torch.ones(1, images), recipe, steps=range(each, recipe.steps(images) + 1, each))
    return Problem(data, recipe, run[recipe.steps(images)], Classifiers(*(torch.cat(parts) for parts in zip(*run.values()))))


@dataclass(frozen=True)
class Case:
    """One row: both sides as functions without arguments; ours is the peer's times `scale`, up to a number for each test image."""

    method: str
    setting: str
    peer: str
    ours: Callable
    theirs: Callable
    scale: float
    note: str = ""

    @property
    def library(self) -> str:
        return self.peer.split()[0]


def cases(given: Problem, hessian_damping: float = HESSIAN_DAMPING) -> Iterator[Case]:
    """Every row, whether its peer is installed or not."""
    data, recipe, model = given.data, given.recipe, given.model
    each = 1 / len(data.x)
    hessian = partial(influence, model, data, recipe, curvature="hessian", damping=hessian_damping)
    gauss_newton, ekfac = (partial(influence, model, data, recipe, curvature=name, damping=DAMPING) for name in ("gauss_newton", "ekfac"))
    dot, checkpoints = partial(tracin, model, [1.0], data, recipe), partial(tracin, given.checkpoints, given.rates, data, recipe)
    few = data._replace(test_x=data.test_x[:UNROLLED_IMAGES], test_y=data.test_y[:UNROLLED_IMAGES])
    shifts = [damping + recipe.weight_decay for damping in (hessian_damping, DAMPING)]
    every_epoch = f"{given.checkpoints.size} checkpoints"
    yield Case("influence, exact Hessian", f"damping {hessian_damping}", "torch.func jvp of grad, 64 columns at a time, Cholesky", hessian,
               partial(peers.hessian_scores, model, data, shifts[0]), each)
    yield Case("influence, exact Hessian", f"damping {hessian_damping}", "dattri explicit Hessian", hessian,
               partial(peers.by_dattri, "hessian", model, data, shifts[0]), each, "its table is float32")
    yield Case("influence, Gauss-Newton", f"damping {DAMPING}", "torch.func Jacobians multiplied out, Cholesky", gauss_newton,
               partial(peers.gauss_newton_scores, model, data, shifts[1]), each)
    yield Case("influence, EK-FAC", f"damping {DAMPING}", "kronfluence EK-FAC", ekfac,
               partial(peers.by_kronfluence, model, data, shifts[1]), each, "one sampled label for each image, where ours takes the mean")
    yield Case("influence, EK-FAC", f"damping {DAMPING}", "kronfluence EK-FAC, 40 labels", ekfac,
               partial(peers.by_kronfluence, model, data, shifts[1], 40), each, "with more sampled labels it comes nearer to their mean")
    yield Case("influence, EK-FAC", f"damping {DAMPING}", "dattri EK-FAC", ekfac, partial(peers.by_dattri, "ekfac", model, data, shifts[1]),
               each, "gradients of the data's labels, not of the model's own")
    yield Case("gradient dot", "one model", "torch.func vmap of grad", dot, partial(peers.dot_by_functorch, model, [1.0], data), each)
    yield Case("TracIn", every_epoch, "torch.func vmap of grad", checkpoints,
               partial(peers.dot_by_functorch, given.checkpoints, given.rates.tolist(), data), each)
    yield Case("TracIn", every_epoch, "dattri TracIn without projection", checkpoints,
               partial(peers.by_dattri, "tracin", given.checkpoints, data, rates=given.rates), each, "its table is float32")
    yield Case("TRAK, no projection", f"ridge {RIDGE:g}", "torch.func vmap of grad, solve", partial(trak, model, data, ridge=RIDGE),
               partial(peers.trak_by_functorch, model, data, RIDGE), -1.0)
    yield Case("unrolled derivative", f"{len(few.test_x)} test images", "autograd through the graph of the whole training",
               partial(unrolled, few, recipe), partial(peers.unrolled_by_autograd, few, recipe, 0), 1.0)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=[""], help="rows whose method or peer contains one of these words")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows = []
    for case in cases(problem()):
        if any(word in f"{case.method} {case.peer}" for word in options.only):
            if case.library in missing():
                print(f"{case.method}: {case.peer} is left out, as {case.library} is not installed", flush=True)
            else:
                rows.append(measure(case, options.repeats))
    if options.out:
        save(options.out, rows, options.repeats)


def missing() -> list[str]:
    return [library for library in LIBRARIES if importlib.util.find_spec(library) is None]


def save(path: Path, rows: list[dict], repeats: int) -> None:
    write_csv(path, FIELDS, rows)
    versions = {library: importlib.metadata.version(library) for library in LIBRARIES if library not in missing()}
    write_provenance(path, "python -m benchmarks.influence", repeats=repeats, dtype="float64", libraries=versions, not_installed=missing())


def measure(case: Case, repeats: int) -> dict:
    """Compare the scores of both sides, then time them."""
    agreement = agree(case.ours(), case.scale * case.theirs())
    times = interleave({"ours": case.ours, "peer": case.theirs}, repeats)
    row: dict[str, Any] = dict(method=case.method, setting=case.setting, peer=case.peer, note=case.note, **agreement)
    for name, (low, middle, high) in times.items():
        row |= {f"{name}_ms": round(middle, 2), f"{name}_low": round(low, 2), f"{name}_high": round(high, 2)}
    row["ratio"] = round(times["peer"][1] / times["ours"][1], 1)
    print(f"{case.method:26} {row['ours_ms']:10.1f} ms {row['peer_ms']:10.1f} ms {row['ratio']:7.1f} x  pearson {row['pearson']:.4f}  "
          f"difference {row['difference']}  {case.peer}", flush=True)
    return row


def agree(ours: Tensor, theirs: Tensor) -> dict[str, Any]:
    one, other = (scores.double() - scores.double().mean(0) for scores in (ours, theirs))
    correlations = torch.linalg.vecdot(one, other, dim=0) / (torch.linalg.vector_norm(one, dim=0) * torch.linalg.vector_norm(other, dim=0))
    return dict(pearson=round(float(correlations.mean()), 6), difference=f"{float((one - other).norm() / one.norm()):.1e}")


if __name__ == "__main__":
    main()
