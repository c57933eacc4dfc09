"""Exact certificates of a bilinear layer beside bounds by intervals and by linear relaxation, on it and on a ReLU network.

    python -m benchmarks.certificates [--out FILE.csv] [--seeds 0 1 2] [--images 60] [--repeats 3]

8x8 digits, both networks of the same size, trained alike without and with noise; float64, one thread. Every method certifies a
Euclidean radius for each image, against all nine rivals. The peers are written out here for one hidden layer, whose inputs to a
unit are bounded exactly by |x - x0| <= r:

- norms: margin / (|D_c - D_o| |E|), of the ReLU network;
- interval: each hidden unit by itself (Gowal et al. arXiv 1810.12715);
- crown: every unit between two planes, chosen by rule (Zhang et al. arXiv 1811.00866; products as Shi et al. arXiv 2002.06622);
- alpha-crown: planes that gradient steps choose for each image and rival (Xu et al. arXiv 2011.13824).

Interval and crown find the radius by halving, alpha-crown by halving between crown's and the attack's. `share` is the mean share of
the attack's radius that is certified, `flips` and `holds` the share of images whose label changes a millionth beyond the exact
radius and stays a millionth before it, `ms` the CPU milliseconds of one image's radius, the search for it included: median and
quartiles, the methods taking turns.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.provenance import write_provenance
from benchmarks.timing import interleave
from tensorlm.data import load_digits
from tensorlm.files import write_csv
from tensorlm.layers.mlp import MLP
from tensorlm.proofs import attack_radius, certificate
from tensorlm.proofs.certificate_runs import applied, by_norms, trained
from tensorlm.tensors import lift

RADII = (0.1, 0.2, 0.3, 0.4, 0.6, 0.8)
FIELDS = ["network", "noise", "seed", "parameters", "accuracy", "method", "mean", "median", "share", "least_share",
          "flips", "holds", "ms", "ms_low", "ms_high", *(f"certified_{radius}" for radius in RADII)]
HIDDEN = {"bilinear": 64, "relu": 118}  # 8,960 and 8,850 parameters
NOISES = (0.0, 0.15)
REACH, HALVINGS = 2.0, 16
ATTACK_STEPS, ATTACK_HALVINGS = 30, 10
ALPHA_HALVINGS, ALPHA_STEPS, ALPHA_RATE = 8, 20, 0.1


class Task(NamedTuple):
    """A network, images (n, d), their labels, and for each image what its margins weigh hidden units by (n, rivals, hidden)."""

    layer: MLP
    x: Tensor
    labels: Tensor
    weights: Tensor

    @classmethod
    def of(cls, layer: MLP, x: Tensor, labels: Tensor) -> "Task":
        classes = torch.arange(layer.out)
        rivals = torch.stack([classes[classes != label] for label in labels.tolist()])
        return cls(layer, x, labels, layer.D[labels].unsqueeze(1) - layer.D[rivals])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=3, help="of each timing")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    runs = [(kind, noise, seed) for noise in NOISES for kind in HIDDEN for seed in options.seeds]
    rows = [row for run in runs for row in measure(*run, options.images, options.repeats)]
    if options.out:
        save(options.out, rows, seeds=options.seeds, images=options.images, repeats=options.repeats)


def save(path: Path, rows: list[dict], **settings) -> None:
    write_csv(path, FIELDS, rows)
    write_provenance(path, "python -m benchmarks.certificates", dtype="float64", **settings)


def measure(kind: str, noise: float, seed: int, images: int, repeats: int) -> list[dict]:
    """Train a network and certify its first test images by every method."""
    data = load_digits()
    layer, = trained(kind, noise, seed, data, hidden=HIDDEN[kind])
    accuracy = (layer(lift(data.test_x.double())).argmax(-1) == data.test_y).double().mean().item()
    task = Task.of(layer, data.test_x[:images].double(), data.test_y[:images])
    attacked = attack(task)
    sides, rows = methods(task, attacked), []
    times = interleave(sides, repeats)
    for method, call in sides.items():
        found = call()
        share, (low, middle, high) = (found / attacked)[attacked > 0], (time / images for time in times[method])
        row = dict(network=kind, noise=noise, seed=seed, parameters=layer.parameter_count, accuracy=round(accuracy, 4), method=method,
                   mean=round(found.mean().item(), 4), median=round(found.median().item(), 4), share=round(share.mean().item(), 4),
                   least_share=round(share.min().item(), 4), **(edge(task) if method == "exact" else dict(flips="", holds="")))
        row |= dict(ms=round(middle, 3), ms_low=round(low, 3), ms_high=round(high, 3))
        row |= {f"certified_{radius}": round((found > radius).double().mean().item(), 4) for radius in RADII}
        rows.append(row)
        print(f"{kind:9} noise {noise:<5} seed {seed}  accuracy {row['accuracy']:.3f}  {method:12} mean {row['mean']:.3f}  "
              f"share of attack {row['share']:.3f}  {middle:9.3f} ms an image", flush=True)
    return rows


def edge(task: Task) -> dict[str, float]:
    """The shares of images whose label is another a millionth beyond the certified point, and the same a millionth before it."""
    found = certificate(task.layer, task.x, task.labels)
    step = (found.nearest - task.x)[found.correct]
    there = [task.layer(lift(task.x[found.correct] + size * step)).argmax(-1) for size in (1 + 1e-6, 1 - 1e-6)]
    beyond, before = ((side == task.labels[found.correct]).double().mean().item() for side in there)
    return dict(flips=1 - beyond, holds=before)


def methods(task: Task, attacked: Tensor) -> dict[str, Callable[[], Tensor]]:
    """Every method of this network: a function without arguments that gives radii (n,)."""
    own: dict[str, Callable[[], Tensor]] = {"norms": partial(by_norms, task.layer, task.x, task.labels)}
    if task.layer.degree == 2:
        own = {"exact": lambda: certificate(task.layer, task.x, task.labels).radius}
    fixed = {"interval": partial(interval_margin, task), "crown": partial(crown_margin, task)}
    return {**own, **{name: partial(halved, task, bound) for name, bound in fixed.items()},
            "alpha-crown": partial(alpha_crown, task, attacked), "attack": partial(attack, task)}


def attack(task: Task) -> Tensor:
    function = partial(applied, [task.layer])
    return attack_radius(function, task.x, task.labels, reach=REACH, steps=ATTACK_STEPS, halvings=ATTACK_HALVINGS).radius


# Bounds of one hidden layer

def halved(task: Task, bound: Callable[[Tensor], Tensor], low: Tensor | None = None, high: Tensor | None = None,
           halvings: int = HALVINGS) -> Tensor:
    """The largest radii (n,) at which the bound (n, rivals) of every margin is positive, from below."""
    low = torch.zeros(len(task.x), dtype=task.x.dtype) if low is None else low
    high = torch.full_like(low, REACH) if high is None else high
    for _ in range(halvings):
        middle = (low + high) / 2
        holds = (bound(middle) > 0).all(1)
        low, high = torch.where(holds, middle, low), torch.where(holds, high, middle)
    return low


def inputs(task: Task, radius: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """For each encoder its matrix on (1, x), and the least and largest inputs of its units in the ball (n, hidden)."""
    encoders = task.layer.encoders() if task.layer.degree == 2 else [dict(task.layer.named_parameters())["E"]]
    spread = [radius.unsqueeze(1) * torch.linalg.vector_norm(E[:, 1:], dim=1) for E in encoders]
    return [(E, lift(task.x) @ E.mT - reach, lift(task.x) @ E.mT + reach) for E, reach in zip(encoders, spread)]


def interval_margin(task: Task, radius: Tensor) -> Tensor:
    """The least margins (n, rivals) with every hidden unit anywhere in its interval."""
    units = inputs(task, radius)
    if len(units) == 1:
        low, high = units[0][1].relu(), units[0][2].relu()
    else:
        (_, a, A), (_, b, B) = units
        corners = torch.stack([a * b, a * B, A * b, A * B])
        low, high = corners.amin(0), corners.amax(0)
    return (task.weights.clamp_min(0) @ low.unsqueeze(-1) + task.weights.clamp_max(0) @ high.unsqueeze(-1)).squeeze(-1)


def crown_margin(task: Task, radius: Tensor, alpha: Tensor | None = None) -> Tensor:
    """The least margins (n, rivals) with every hidden unit above or below a plane; `alpha` (n, rivals, hidden) in [0, 1] moves it."""
    units = inputs(task, radius)
    alpha = rule(units, task.weights) if alpha is None else alpha
    slopes, constant = (relu_planes if len(units) == 1 else product_planes)(units, task.weights > 0, alpha)
    steep = torch.stack([(task.weights * slope) @ E for slope, (E, _, _) in zip(slopes, units)]).sum(0)
    start = (task.weights * constant).sum(-1) + (steep * lift(task.x).unsqueeze(1)).sum(-1)
    return start - radius.unsqueeze(1) * torch.linalg.vector_norm(steep[..., 1:], dim=-1)


def rule(units: list[tuple[Tensor, Tensor, Tensor]], weights: Tensor) -> Tensor:
    """CROWN's own choice: the slope of ReLU that leaves the smaller area, the first plane of a product."""
    if len(units) == 2:
        return torch.ones_like(weights)
    _, low, high = units[0]
    return (high > -low).to(weights.dtype).unsqueeze(1).expand_as(weights)


def relu_planes(units: list[tuple[Tensor, Tensor, Tensor]], below: Tensor, alpha: Tensor) -> tuple[list[Tensor], Tensor]:
    """Slopes and constants (n, rivals, hidden): below relu(u) the line alpha u, above it the chord, each where its weight asks for it."""
    low, high = units[0][1].unsqueeze(1), units[0][2].unsqueeze(1)
    bent, active = (low < 0) & (high > 0), (low >= 0).to(alpha.dtype)
    chord = high / (high - low)
    slope = torch.where(bent, torch.where(below, alpha, chord), active)
    return [slope], torch.where(bent & ~below, -chord * low, 0)


def product_planes(units: list[tuple[Tensor, Tensor, Tensor]], below: Tensor, alpha: Tensor) -> tuple[list[Tensor], Tensor]:
    """The same for p q with p in [a, A] and q in [b, B]: between two planes through its corners (McCormick 1976) on either side."""
    a, A, b, B = (side.unsqueeze(1) for unit in units for side in unit[1:])
    rest = 1 - alpha
    first, second = torch.where(below, b, B), torch.where(below, B, b)
    return [alpha * first + rest * second, alpha * a + rest * A], -(alpha * a * first + rest * A * second)


def alpha_crown(task: Task, attacked: Tensor) -> Tensor:
    """Radii (n,) by planes that are chosen anew, from the last ones on, at every radius that is tried."""
    low = halved(task, partial(crown_margin, task))
    alpha = rule(inputs(task, low), task.weights).clone()
    return halved(task, partial(best_margin, task, alpha=alpha), low, torch.maximum(low, attacked), ALPHA_HALVINGS)


def best_margin(task: Task, radius: Tensor, alpha: Tensor) -> Tensor:
    """The best margins (n, rivals) of some steps of Adam on `alpha`, which is changed in place."""
    moved = alpha.clone().requires_grad_()
    optimiser = torch.optim.Adam([moved], lr=ALPHA_RATE)
    best = torch.full(alpha.shape[:2], -torch.inf, dtype=alpha.dtype)
    for _ in range(ALPHA_STEPS):
        margins = crown_margin(task, radius, moved)
        best = torch.maximum(best, margins.detach())
        optimiser.zero_grad()
        (-margins.sum()).backward()
        optimiser.step()
        moved.data.clamp_(0, 1)
    alpha.copy_(moved.detach())
    return best


if __name__ == "__main__":
    main()
