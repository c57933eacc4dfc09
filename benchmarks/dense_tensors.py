"""The algorithms of `tensorlm.tensors` on dense tensors: the peers of `benchmarks.tensor_form`, as fast as we could make them."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from tensorlm.tensors import CPTensor, interaction


def dense_gram(dense: Tensor, mode: int) -> Tensor:
    """Gram matrix of one mode, without a copy of the tensor except where blocks would be tiny."""
    size = dense.shape[mode]
    if mode == dense.ndim - 1:
        rows = dense.reshape(-1, size)
        return rows.mT @ rows
    blocks = dense.reshape(math.prod(dense.shape[:mode]), size, -1)
    if blocks.shape[2] <= size:
        return dense_gram_by_unfolding(dense, mode)
    return torch.bmm(blocks, blocks.mT).sum(0)


def dense_gram_by_unfolding(dense: Tensor, mode: int) -> Tensor:
    unfolding = dense.movedim(mode, 0).reshape(dense.shape[mode], -1)
    return unfolding @ unfolding.mT


def dense_grams(dense: Tensor, gram: Callable = dense_gram) -> list[Tensor]:
    return [gram(dense, mode) for mode in range(dense.ndim)]


def dense_hosvd(dense: Tensor, rank: int) -> tuple[Tensor, list[Tensor]]:
    """HOSVD by Gram matrices and one eigendecomposition of all of them, the core by products with views: no copies."""
    factors = dense_factors(dense_grams(dense), rank)
    core = dense
    for mode, factor in enumerate(factors):
        blocks = core.reshape(math.prod(core.shape[:mode]), core.shape[mode], -1)
        last = mode == dense.ndim - 1
        product = blocks.flatten(1) @ factor if last else torch.matmul(factor.mT, blocks)
        core = product.view(*core.shape[:mode], rank, *core.shape[mode + 1 :])
    return core, factors


def dense_hosvd_by_unfolding(dense: Tensor, rank: int) -> tuple[Tensor, list[Tensor]]:
    """HOSVD as the textbook writes it: unfold, multiply, fold."""
    factors = dense_factors(dense_grams(dense, dense_gram_by_unfolding), rank)
    core = dense
    for factor in factors:
        core = torch.tensordot(core, factor, dims=([0], [0]))
    return core, factors


def dense_factors(grams: list[Tensor], rank: int) -> list[Tensor]:
    return [vectors.flip(-1)[:, :rank] for vectors in torch.linalg.eigh(torch.stack(grams))[1]]


def dense_eigen(cp: CPTensor) -> tuple[Tensor, Tensor]:
    return torch.linalg.eigh(interaction(cp))
