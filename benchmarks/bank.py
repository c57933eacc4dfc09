"""A thousand small classifiers trained at once, beside a loop of autograd and beside `torch.func.vmap`.

    python -m benchmarks.bank [--out FILE.csv] [--repeats 9] [--models 1001] [--only WORD ...]

Leave-one-out models of 1,000 digits, 65 inputs, 16 products, batches of 50, one thread, all sides in one process and interleaved;
medians and quartiles of the CPU time of one model and step. The loop trains one model after the other with autograd and torch's fused
optimiser; vmap takes the gradients of all models at once, or of blocks of 64, and moves them by the same fused optimiser. First
values, batches and schedule are the same on all sides; `difference` is the largest between the weights of a model that two sides
end with. The last rows are whole runs of 400 steps: CPU-seconds, without a peer.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.provenance import write_provenance
from benchmarks.timing import interleave
from tensorlm.data_attribution import Recipe, centred_digits, train_bank, without
from tensorlm.data_attribution.block import batches, first_values
from tensorlm.data_attribution.classifiers import Classifiers, Examples
from tensorlm.files import write_csv
from tensorlm.training import Muon

FIELDS = ["task", "setting", "peer", "ours", "ours_low", "ours_high", "theirs", "theirs_low", "theirs_high", "unit", "ratio", "aim",
          "difference"]
RATES = {"sgd": 0.5, "adam": 0.02, "muon": 0.05}
DTYPES = {"float32": torch.float32, "float64": torch.float64}
AIMS = {("sgd", "float32", "loop"): 25, ("sgd", "float32", "vmap"): 2.5}
EPOCHS, LOOP_MODELS, VMAP_BLOCK = 2, 4, 64
PEERS = {"loop": "loop of autograd, fused optimiser", "vmap": "torch.func.vmap of all models",
         "vmap blocks": f"torch.func.vmap of blocks of {VMAP_BLOCK}"}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--models", type=int, default=1001, help="1 more than are left out")
    parser.add_argument("--only", nargs="+", default=[""], help="settings that contain one of these words")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows = []
    for dtype in DTYPES:
        for optimiser in RATES:
            setting = f"{optimiser}, {dtype}"
            if any(word in setting for word in options.only):
                rows += compare(optimiser, dtype, options.models, options.repeats)
                rows.append(whole_run(optimiser, dtype, options.models))
    rows.sort(key=lambda row: row["unit"], reverse=True)
    if options.out:
        write_csv(options.out, FIELDS, rows)
        write_provenance(options.out, "python -m benchmarks.bank", repeats=options.repeats, models=options.models)


def compare(optimiser: str, dtype: str, models: int, repeats: int) -> list[dict[str, Any]]:
    """Rows of one setting: microseconds of a model and step, on our side and on each peer's."""
    recipe = Recipe(optimiser, RATES[optimiser], epochs=EPOCHS, dtype=DTYPES[dtype])
    data, weights = centred_digits(dtype=recipe.dtype), without(1000, range(models - 1)).to(DTYPES[dtype])
    few = min(LOOP_MODELS, models)
    sides: dict[str, tuple[int, Callable[[], Classifiers]]] = {
        "ours": (models, partial(train_bank, data.x, data.y, weights, recipe)),
        "loop": (few, partial(by_loop, data, weights[:few], recipe)),
    }
    if optimiser != "muon":  # torch has no Muon for stacks of matrices
        sides["vmap"] = (models, partial(by_vmap, data, weights, recipe, models))
        sides["vmap blocks"] = (models, partial(by_vmap, data, weights, recipe, VMAP_BLOCK))
    ended = {name: call() for name, (_, call) in sides.items()}
    steps = recipe.steps(len(data.x))
    times = interleave({name: call for name, (_, call) in sides.items()}, repeats)
    micros = {name: tuple(1e3 * part / (sides[name][0] * steps) for part in parts) for name, parts in times.items()}
    ours = micros.pop("ours")
    return [report(optimiser, dtype, name, ours, theirs, distance(ended["ours"], ended[name])) for name, theirs in micros.items()]


def report(optimiser: str, dtype: str, peer: str, ours: tuple[float, ...], theirs: tuple[float, ...], difference: float) -> dict[str, Any]:
    row: dict[str, Any] = dict(task="a model and step", setting=f"{optimiser}, {dtype}", peer=PEERS[peer], unit="us")
    for name, values in (("ours", ours), ("theirs", theirs)):
        row |= dict(zip((f"{name}_low", name, f"{name}_high"), (round(value, 2) for value in values)))
    row |= dict(ratio=round(theirs[1] / ours[1], 1), aim=AIMS.get((optimiser, dtype, peer)), difference=f"{difference:.1e}")
    print(f"{row['setting']:14} {row['peer']:34} {row['ours']:8.2f} us {row['theirs']:9.2f} us {row['ratio']:6.1f}x  (aim {row['aim']})  "
          f"difference {row['difference']}", flush=True)
    return row


def whole_run(optimiser: str, dtype: str, models: int) -> dict[str, Any]:
    """A row with the CPU-seconds of all models of 400 steps, once."""
    recipe = Recipe(optimiser, RATES[optimiser], dtype=DTYPES[dtype])
    data, weights = centred_digits(dtype=recipe.dtype), without(1000, range(models - 1))
    started = time.process_time()
    train_bank(data.x, data.y, weights, recipe)
    seconds = round(time.process_time() - started, 2)
    print(f"{optimiser}, {dtype}: {models:,} models of {recipe.steps(1000)} steps in {seconds} CPU-s", flush=True)
    return dict(task=f"{models:,} models of {recipe.steps(1000)} steps", setting=f"{optimiser}, {dtype}", peer="", ours=seconds, unit="s",
                aim=5 if (optimiser, dtype) == ("sgd", "float32") else None)


def distance(one: Classifiers, other: Classifiers) -> float:
    """The largest difference of a weight, over the models that both have."""
    return max(float((a[: len(b)] - b).abs().max()) for a, b in zip(one, other))


# Peers

def loss(factors: tuple[Tensor, ...], x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    left, right, down = factors
    losses = F.cross_entropy(((x @ left.mT) * (x @ right.mT)) @ down.mT, y, reduction="none")
    return (weights * losses).sum() / weights.sum()


def optimiser_of(parameters: list[Tensor], recipe: Recipe) -> torch.optim.Optimizer:
    """Torch's own, fused; the package's Muon, which is faster on a CPU than torch's."""
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(parameters, lr=recipe.rate, momentum=recipe.momentum, weight_decay=recipe.weight_decay, fused=True)
    if recipe.optimiser == "adam":
        return torch.optim.Adam(parameters, lr=recipe.rate, betas=(recipe.momentum, 0.999), weight_decay=recipe.weight_decay, fused=True)
    return Muon(parameters, lr=recipe.rate, momentum=recipe.momentum, weight_decay=0, ns_dtype=recipe.dtype)  # type: ignore[arg-type]


def move(optimiser: torch.optim.Optimizer, parameters: list[Tensor], recipe: Recipe, rate: float) -> None:
    """One step; L2 is in the gradients of all."""
    optimiser.param_groups[0]["lr"] = rate
    if recipe.optimiser == "muon":
        for parameter in parameters:
            parameter.grad.add_(parameter.detach(), alpha=recipe.weight_decay)  # type: ignore[union-attr]
    optimiser.step()


def by_loop(data: Examples, weights: Tensor, recipe: Recipe) -> Classifiers:
    """One model after the other."""
    models = []
    for present in weights:
        factors = [torch.nn.Parameter(factor[0].clone()) for factor in first_values(0, data.x.shape[1], 10, recipe)]
        parameters: list[Tensor] = list(factors)
        optimiser = optimiser_of(parameters, recipe)
        for rate, rows in zip(recipe.rates(len(data.x)).tolist(), batches(0, len(data.x), recipe)):
            optimiser.zero_grad()
            loss(tuple(parameters), data.x[rows], data.y[rows], present[rows]).backward()
            move(optimiser, parameters, recipe, rate)
        models.append([factor.detach() for factor in factors])
    return Classifiers(*(torch.stack(parts) for parts in zip(*models)))


def by_vmap(data: Examples, weights: Tensor, recipe: Recipe, block: int) -> Classifiers:
    """`block` models at a time: gradients by vmap of grad, one fused optimiser for the stack."""
    gradients = torch.func.vmap(torch.func.grad(loss), in_dims=(0, None, None, 0))
    models = []
    for present in weights.split(block):
        parameters = [factor.repeat(len(present), 1, 1) for factor in first_values(0, data.x.shape[1], 10, recipe)]
        optimiser = optimiser_of(parameters, recipe)
        for rate, rows in zip(recipe.rates(len(data.x)).tolist(), batches(0, len(data.x), recipe)):
            for parameter, gradient in zip(parameters, gradients(tuple(parameters), data.x[rows], data.y[rows], present[:, rows])):
                parameter.grad = gradient
            move(optimiser, parameters, recipe, rate)
        models.append(parameters)
    return Classifiers(*(torch.cat(parts) for parts in zip(*models)))


if __name__ == "__main__":
    main()
