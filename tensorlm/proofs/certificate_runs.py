"""The studies of certificates: one layer beside a ReLU network, noise in training, boxes, and more layers.

Images are scikit-learn's 8x8 digits with pixels from 0 to 1. Every layer reads (1, x), has no other bias, and is trained in
float64 with AdamW; noise is Gaussian, drawn anew for every batch. The attack is projected gradient descent.
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from tensorlm.data import load_digits
from tensorlm.data.digits import DigitData
from tensorlm.layers import build_mlp
from tensorlm.layers.init import init_weights
from tensorlm.layers.mlp import MLP
from tensorlm.proofs.attack import attack_radius
from tensorlm.proofs.bounds import CURVATURES, METHODS, box_radius, radius_bound
from tensorlm.proofs.certify import certificate
from tensorlm.studies import Row, Study
from tensorlm.tensors import lift

CLASSES, HIDDEN, MIDDLE = 10, {"bilinear": 32, "relu": 60}, 16
STEPS, BATCH, RATE, DECAY = 600, 128, 0.01, 0.3
RADII = tuple(tenths / 10 for tenths in range(1, 9))
SEEDS = (0, 1, 2, 3, 4)
DEPTHS = (1, 2, 3)
NOISES = (0.0, 0.15, 0.3, 0.5)
REACH = 2.0  # of the attack, in Euclidean length


# Training

def trained(kind: str, noise: float, seed: int, data: DigitData, depth: int = 1, hidden: int | None = None) -> list[MLP]:
    """`depth` layers of a kind, each reading (1, what the one before it wrote), without gradients."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [data.side**2] + [MIDDLE] * (depth - 1) + [CLASSES]
    layers = [build_mlp(kind, 1 + into, hidden or HIDDEN[kind], out).double() for into, out in zip(sizes, sizes[1:])]
    for layer in layers:
        init_weights(layer, generator)
    optimiser = torch.optim.AdamW([weight for layer in layers for weight in layer.parameters()], lr=RATE, weight_decay=DECAY)
    images, classes = data.train_x.double(), data.train_y
    for _ in range(STEPS):
        rows = torch.randint(0, len(images), (BATCH,), generator=generator)
        batch = images[rows] + noise * torch.randn(BATCH, images.shape[1], generator=generator, dtype=torch.float64)
        loss = torch.nn.functional.cross_entropy(applied(layers, batch), classes[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return [layer.requires_grad_(False) for layer in layers]


def applied(layers: Sequence[MLP], x: Tensor) -> Tensor:
    """The logits, with gradients, for the attack and for training."""
    for layer in layers:
        x = layer(lift(x))
    return x


def parameters(layers: Sequence[MLP]) -> int:
    return sum(layer.parameter_count for layer in layers)


# One layer and a ReLU network

def compare(seed: int, kind: str, noise: float) -> list[Row]:
    """Certified and attacked radii of all test images."""
    data = load_digits()
    layers, x, labels = trained(kind, noise, seed, data), data.test_x.double(), data.test_y
    certified = certificate(layers, x, labels).radius if kind == "bilinear" else by_norms(layers[0], x, labels)
    attacked = attack_radius(partial(applied, layers), x, labels, reach=REACH).radius
    correct = certified > 0
    ratio = (attacked / certified)[correct]
    row: Row = dict(kind=kind, noise=noise, parameters=parameters(layers), accuracy=share(correct), certified=median(certified),
                    attacked=median(attacked), mean_ratio=mean(ratio), least_ratio=least(ratio))
    row |= {f"certified_{radius}": share(certified > radius) for radius in RADII}
    return [row | {f"attacked_{radius}": share(attacked > radius) for radius in RADII}]


def by_norms(layer: MLP, x: Tensor, labels: Tensor) -> Tensor:
    """What products of norms certify of D relu(E (1, x)): (f_c - f_o) / (|D_c - D_o| |E|), the least over rivals o (n,)."""
    values, E = layer(lift(x)), dict(layer.named_parameters())["E"]
    steep = torch.linalg.vector_norm(layer.D[labels].unsqueeze(1) - layer.D, dim=-1) * torch.linalg.matrix_norm(E[:, 1:], 2)
    leads = (values.gather(1, labels.unsqueeze(1)) - values) / steep
    return leads.scatter(1, labels.unsqueeze(1), torch.inf).amin(1).clamp_min(0)


# Boxes, and more layers

def box(seed: int, noise: float, images: int) -> list[Row]:
    """The largest change of a pixel: three bounds and the attack."""
    data = load_digits()
    layers, x, labels = trained("bilinear", noise, seed, data), data.test_x[:images].double(), data.test_y[:images]
    attacked = attack_radius(partial(applied, layers), x, labels, norm="linf", reach=0.5).radius
    bounds = {method: box_radius(layers, x, labels, method) for method in CURVATURES}
    return [dict(noise=noise, images=images) | against(attacked, bounds)]


def deep(seed: int, depth: int, noise: float, images: int) -> list[Row]:
    """Layers on layers: three bounds of the Euclidean distance and the attack."""
    data = load_digits()
    layers, x, labels = trained("bilinear", noise, seed, data, depth), data.test_x[:images].double(), data.test_y[:images]
    attacked = attack_radius(partial(applied, layers), x, labels, reach=REACH).radius
    bounds = {method: radius_bound(layers, x, labels, method) for method in METHODS}
    return [dict(layers=depth, noise=noise, parameters=parameters(layers), images=images) | against(attacked, bounds)]


def against(attacked: Tensor, bounds: dict[str, Tensor]) -> Row:
    """The accuracy, medians, and the mean and least share of the attack's radius that each bound reaches."""
    correct = attacked > 0
    row: Row = dict(accuracy=share(correct), attacked=median(attacked))
    for method, bound in bounds.items():
        ratio = (bound / attacked)[correct]
        row |= {method: median(bound), f"{method}_share": mean(ratio), f"{method}_least": least(ratio)}
    return row


def share(flags: Tensor) -> float:
    return flags.double().mean().item()


def mean(values: Tensor) -> float:
    return values.mean().item()


def least(values: Tensor) -> float:
    return values.min().item()


def median(values: Tensor) -> float:
    return values.median().item()


def columns_of(methods: Sequence[str]) -> tuple[str, ...]:
    return ("accuracy", "attacked", *(f"{method}{suffix}" for method in methods for suffix in ("", "_share", "_least")))


CERTIFIED = Study(
    "proof_certified", "How far are images from another class: a bilinear layer exactly, a ReLU network by bounds?",
    ("kind", "noise", "parameters", "accuracy", "certified", "attacked", "mean_ratio", "least_ratio",
     *(f"certified_{radius}" for radius in RADII), *(f"attacked_{radius}" for radius in RADII)),
    compare, {f"{kind}, noise {noise}": dict(kind=kind, noise=noise) for kind in HIDDEN for noise in NOISES}, SEEDS,
    check=("bilinear, noise 0.15", 0, {}), tolerance=0.01)
BOX = Study(
    "proof_box", "How much may every pixel change, by three bounds and an attack?",
    ("noise", "images", *columns_of(tuple(CURVATURES))), box,
    {f"noise {noise}": dict(noise=noise, images=100) for noise in NOISES}, SEEDS, check=("noise 0.0", 0, {}), tolerance=0.01)
DEEP = Study(
    "proof_depth", "How much of the radius can be proven through one, two and three bilinear layers?",
    ("layers", "noise", "parameters", "images", *columns_of(tuple(METHODS))), deep,
    {f"{depth} layers, noise {noise}": dict(depth=depth, noise=noise, images=50) for depth in DEPTHS for noise in NOISES[:2]},
    SEEDS, check=("2 layers, noise 0.0", 0, {}), tolerance=0.01)
