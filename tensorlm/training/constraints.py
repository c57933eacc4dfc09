"""What is done to the hidden matrices after every step: bounded, kept orthogonal, or made sparse."""

from __future__ import annotations

import torch
from torch import Tensor

from tensorlm.model import TensorTransformer
from tensorlm.training.config import TrainConfig

OUTPUTS = ("D", "o")  # matrices that write into the residual stream and start at zero
FACTORS = ("D", "L", "R", "E")  # of an MLP: the factors of its CP form
ITERATIONS = 12


class Constraints:
    """The constraint and the sparsity of a run, applied to the weights between two steps.

    | constraint | what holds afterwards |
    | --- | --- |
    | none | |
    | spectral | no hidden matrix stretches a vector by more than `constraint_size` (Miyato et al., arXiv 1802.05957) |
    | orthogonal | q, k, v, L, R, E have singular values `constraint_size` (orthonormal rows or columns, times that) |

    ``sparsity`` s moves every entry of an MLP's factors towards zero by s times the learning rate and no further than
    zero: the proximal step of an L1 penalty (Tibshirani 1996), decoupled from the optimiser as weight decay is.
    Nothing is kept between steps, so a checkpoint needs nothing from here.
    """

    def __init__(self, model: TensorTransformer, config: TrainConfig) -> None:
        self.kind, self.size, self.sparsity = config.constraint, config.constraint_size, config.sparsity
        named = [(name.split("."), p) for name, p in model.parameter_groups()["matrix"]]
        self.matrices = [p for parts, p in named if self.kind == "spectral" or parts[-1] not in OUTPUTS]
        self.factors = [p for parts, p in named if "mlp" in parts and set(parts) & set(FACTORS)]
        if self.kind == "orthogonal":
            self._each_shape(exactly_orthogonal)

    @torch.no_grad()
    def apply(self, rate: float) -> None:
        """After a step at learning rate ``rate``."""
        if self.kind != "none":
            self._each_shape(bounded if self.kind == "spectral" else retracted)
        if self.sparsity:
            for p in self.factors:
                p.copy_(soft_threshold(p, rate * self.sparsity))

    @torch.no_grad()
    def _each_shape(self, function) -> None:
        by_shape: dict[torch.Size, list[Tensor]] = {}
        for p in self.matrices:
            by_shape.setdefault(p.shape, []).append(p)
        for params in by_shape.values():
            for old, new in zip(params, function(torch.stack(params), self.size)):
                old.copy_(new)


def soft_threshold(x: Tensor, amount: float) -> Tensor:
    """sign(x) max(|x| - amount, 0), entry by entry.

    >>> soft_threshold(torch.tensor([-3.0, 0.5, 2.0]), 1.0)
    tensor([-2.,  0.,  1.])
    """
    return x.sign() * (x.abs() - amount).clamp(min=0)


def bounded(matrices: Tensor, size: float) -> Tensor:
    """Each of (n, rows, cols) divided so that its largest singular value is at most ``size`` (by power iteration).

    >>> values = torch.linalg.svdvals(bounded(torch.diag(torch.tensor([4.0, 1.0]))[None], 2.0))
    >>> torch.allclose(values, torch.tensor([2.0, 0.5]), atol=1e-5)
    True
    """
    gram = matrices @ matrices.mT if matrices.shape[1] <= matrices.shape[2] else matrices.mT @ matrices
    vector = gram.abs().sum(-1, keepdim=True)
    for _ in range(ITERATIONS):
        vector = torch.nn.functional.normalize(gram @ vector, dim=1)
    largest = (gram @ vector).norm(dim=1, keepdim=True).sqrt()
    return matrices / (largest / size).clamp(min=1.0)


def retracted(matrices: Tensor, size: float) -> Tensor:
    """Matrices that were orthogonal before a small step, brought back: two steps of X <- (3 X - X X^T X) / 2.

    >>> near = torch.eye(3)[None] + 0.05 * torch.randn(1, 3, 3, generator=torch.Generator().manual_seed(0))
    >>> bool((torch.linalg.svdvals(retracted(near, 1.0)) - 1).abs().max() < 1e-3)
    True
    """
    x = matrices / size
    for _ in range(2):
        gram = x @ x.mT if x.shape[1] <= x.shape[2] else x.mT @ x
        x = 1.5 * x - 0.5 * (gram @ x if x.shape[1] <= x.shape[2] else x @ gram)
    return x * size


def exactly_orthogonal(matrices: Tensor, size: float) -> Tensor:
    """The nearest matrices with all singular values ``size`` (polar factor).

    >>> w = exactly_orthogonal(torch.tensor([[[3.0, 0.0], [1.0, 2.0]]]), 2.0)
    >>> torch.allclose(w @ w.mT, 4 * torch.eye(2), atol=1e-5)
    True
    """
    u, _, vh = torch.linalg.svd(matrices, full_matrices=False)
    return size * u @ vh
