"""How wide an optimum is: rewards against the size of random changes of the weights, and what of that is exact.

For a bilinear layer `f(x) = D[(Lx) * (Rx)]` whose weights all move by `sigma e`, `e ~ N(0, 1)` each, `f` is linear in each of D, L
and R, and their noises are independent: the mean output does not move at all, `E f = f(x)`, at any sigma. All that noise costs, it
costs through the variance.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from einops import einsum
from torch import Tensor

from tensorlm.checks import require, require_number, require_rows, require_whole
from tensorlm.tensors import CPTensor


class Spread(NamedTuple):
    """Mean and variance of a reward over random changes of each size: (sizes,) each; `error` is the mean's standard error."""

    mean: Tensor
    variance: Tensor
    error: Tensor


def reward_spread(reward: Callable[[Tensor], Tensor], point: Tensor, sigmas: Sequence[float], draws: int = 200, seed: int = 0) -> Spread:
    """`E R(point + sigma e)` and its variance over `draws` samples at each of `sigmas`, the same noises at all of them.

    `reward` maps points (draws, n) to (draws,); `point` is (n,). Raises ValueError for fewer than two draws.

    >>> found = reward_spread(lambda x: -x.pow(2).sum(-1) / 2, torch.zeros(4), [0.0, 1.0], draws=10_000)
    >>> [round(value, 1) for value in found.mean.tolist()]                 # slope in sigma^2: minus half the trace
    [0.0, -2.0]
    """
    require_whole("draws", draws, 2)
    require(point.ndim == 1, "point", point, "a vector of weights")
    noise = torch.randn(draws, len(point), generator=torch.Generator().manual_seed(seed), dtype=point.dtype)
    found = torch.stack([reward(point + require_number("sigmas", sigma, least=0) * noise).double() for sigma in sigmas])
    return Spread(found.mean(1), found.var(1), found.std(1) / draws**0.5)


def noisy_layer(layer: CPTensor, x: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    """Mean (..., out) and covariance (..., out, out) of `f(x)` of a bilinear layer whose weights all get noise of `sigma`, exactly.

    With u = Lx, v = Rx and s = sigma^2 |x|^2: `E[u u'] = u u' + s I`, `E[v v'] = v v' + s I`, M their elementwise product, and
    `Cov f = D M D' + sigma^2 tr(M) I - f f'`; the mean is `f(x)`. `x` is (..., in). Raises ValueError for another width.

    >>> layer = CPTensor(torch.eye(2), torch.eye(2), torch.eye(2))
    >>> mean, covariance = noisy_layer(layer, torch.ones(2), 0.0)
    >>> mean.tolist(), covariance.abs().max().item()
    ([1.0, 1.0], 0.0)
    """
    require_rows(x, layer.width)
    u, v = x @ layer.L.T, x @ layer.R.T
    moved = require_number("sigma", sigma, least=0) ** 2 * x.pow(2).sum(-1)[..., None, None]
    unit = torch.eye(u.shape[-1], dtype=u.dtype)
    second = (einsum(u, u, "... k, ... l -> ... k l") + moved * unit) * (einsum(v, v, "... k, ... l -> ... k l") + moved * unit)
    mean = (u * v) @ layer.D.T
    spread = einsum(layer.D, second, layer.D, "o k, ... k l, p l -> ... o p")
    own = sigma**2 * second.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None] * torch.eye(layer.out, dtype=u.dtype)
    return mean, spread + own - einsum(mean, mean, "... o, ... p -> ... o p")
