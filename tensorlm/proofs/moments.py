"""Exact expectations: mean and covariance of what bilinear layers write, from their factors and the moments of the input.

A hidden unit is a product of two linear functions, so its mean needs second moments of the input and its covariance with
another unit fourth ones. Of a Gaussian these are known (Isserlis 1918), and no tensor is formed: one layer costs
O(hidden^2 width). Of two layers the mean is as exact, since the second layer needs nothing but the *exact* second moment of
what the first one writes; from there on `tensorlm.proofs.cumulants` goes one layer further.

Where this stands: the Alignment Research Center asks for estimates of a network's mean output, and of the probability of a
rare one, that do not come from running it on samples. For wide random MLPs with ReLU they propagate approximate cumulants
through the layers, with an error that falls with the width (Wu et al., arXiv 2605.05179); for rare tokens of a transformer
they compare importance sampling with distributions fitted to the logits (Wu and Hilton, arXiv 2410.13211). A bilinear
network is the case in which the first layers of that propagation are closed formulas, for trained weights as for random
ones, at any width; what stays approximate is depth (`method="closure"`) and how far the inputs are from Gaussian.
"""

import math
from typing import Any

import torch
from torch import Tensor

from tensorlm.checks import require, require_one_of, require_same_kind
from tensorlm.proofs.cumulants import two_layer_moments
from tensorlm.proofs.distributions import Distribution, Gaussian, Mixture, Moments, Samples, require_distribution
from tensorlm.proofs.forms import as_layers
from tensorlm.tensors.composition import ComposedTensor, as_composed
from tensorlm.tensors.cp import CPTensor, require_finite_cp

METHODS = ("exact", "closure")
UNIT_BLOCK = 128  # hidden units at a time: what they and all others have in common stays in the cache
EXACT_LAYERS = 2  # of whose output the second moment is exact under a Gaussian


def output_moments(network: Any, distribution: Distribution, method: str = "exact") -> Moments:
    """Mean (out,) and covariance (out, out) of f(x), x from `distribution`.

    | layers | "exact" | "closure" |
    | --- | --- | --- |
    | 1 | O(hidden^2 width) | the same |
    | 2 | O(hidden^2 width^3), by joint cumulants | each layer's input taken for Gaussian, with the moments it would then have |
    | more | refused | the same |

    `network`: a CPTensor, a ComposedTensor, an MLP of degree 2, or a sequence of these, linear maps (with bias) and constant
    norms; a layer one wider than what arrives reads (1, x). Of `Samples` both methods are the exact average over the rows.
    Raises ValueError or TypeError for a part that is no such polynomial (named, with what can be done) and for widths that do
    not fit, ValueError where "exact" is asked of too many layers or would need too much memory.

    >>> square = CPTensor(torch.eye(1), torch.eye(1), torch.eye(1))  # x^2 of x ~ N(0, 1): mean 1, variance 2
    >>> output_moments(square, Gaussian(torch.zeros(1), torch.eye(1)))
    Moments(mean=tensor([1.]), covariance=tensor([[2.]]))
    """
    return moments_of(*fitting(network, distribution, method), method)


def moments_of(layers: tuple[CPTensor, ...], distribution: Distribution, method: str) -> Moments:
    """`output_moments` of layers that fit; of none, those of the input."""
    if isinstance(distribution, Samples):
        return Gaussian.fit(ComposedTensor(layers)(distribution.rows)).moments
    if isinstance(distribution, Mixture):
        return mixed(distribution.weights, [moments_of(layers, part, method) for part in distribution.parts])
    if method == "closure" or len(layers) <= 1:
        return closure(layers, distribution.moments)
    require(len(layers) <= EXACT_LAYERS, "method", method, f"'closure' for the covariance of {len(layers)} layers")
    lower, upper = layers
    return two_layer_moments(lower, upper, distribution.mean, distribution.root)


def output_mean(network: Any, distribution: Distribution, method: str = "exact") -> Tensor:
    """E f(x), (out,): exact for up to three layers, at the price of the covariance of all but the last one.

    One layer needs the second moment of the input alone, so every distribution with that moment gives one mean; two layers
    cost O(hidden^2 width) and three O(hidden^2 width^3). Raises as `output_moments`.

    >>> from tensorlm.tensors import compose
    >>> square = CPTensor(torch.eye(1), torch.eye(1), torch.eye(1))
    >>> normal = Gaussian(torch.zeros(1), torch.eye(1))
    >>> [float(output_mean(network, normal)) for network in (compose(square, square), compose(square, square, square))]
    [3.0, 105.0]
    """
    layers, distribution = fitting(network, distribution, method)
    if isinstance(distribution, Samples):
        return ComposedTensor(layers)(distribution.rows).mean(0)
    parts = distribution.parts if isinstance(distribution, Mixture) else (distribution,)
    weights = distribution.weights if isinstance(distribution, Mixture) else (1.0,)
    *below, last = layers
    return mixed_mean(weights, [layer_mean(last, moments_of(tuple(below), part, method).second) for part in parts])


def layer_mean(cp: CPTensor, second: Tensor) -> Tensor:
    """E D[(L x) * (R x)] = D diag(L E[x x^T] R^T): (out,)."""
    return cp.D @ ((cp.L @ second) * cp.R).sum(1)


def layer_moments(cp: CPTensor, moments: Moments) -> Moments:
    """Mean and covariance of D[(L x) * (R x)] for x Gaussian with these `moments`.

    With S = E[x x^T], a = L mu and b = R mu, units i and j have the covariance (L S L^T)_ij (R S R^T)_ij + (L S R^T)_ij (R S
    L^T)_ij - 2 a_i b_i a_j b_j: the three pairings of a fourth moment, corrected for what does not vary.
    """
    D, L, R, second = cp.D, cp.L, cp.R, moments.second
    left, right = L @ second, R @ second
    fixed = D @ ((L @ moments.mean) * (R @ moments.mean))
    half = sum((pairings(cp, left, right, start) for start in range(0, cp.hidden, UNIT_BLOCK)), D.new_zeros(()))
    return Moments(D @ (left * R).sum(1), half + half.mT - 2 * torch.outer(fixed, fixed))


def pairings(cp: CPTensor, left: Tensor, right: Tensor, start: int) -> Tensor:
    """What a block of units from `start` on and all later ones add to half of the outputs' covariance: (out, out)."""
    D, L, R = cp.D[:, start:], cp.L[start:], cp.R[start:]
    left, right = left[start : start + UNIT_BLOCK], right[start : start + UNIT_BLOCK]
    hidden = torch.addcmul((left @ L.mT) * (right @ R.mT), left @ R.mT, right @ L.mT)
    own = len(left)
    return D[:, :own] @ (hidden[:, :own] / 2 @ D[:, :own].mT + hidden[:, own:] @ D[:, own:].mT)


def closure(layers: tuple[CPTensor, ...], moments: Moments) -> Moments:
    """Moments layer by layer, the input of each taken for Gaussian."""
    for layer in layers:
        moments = layer_moments(layer, moments)
    return moments


def relu_moments(encoder: Tensor, decoder: Tensor, moments: Moments, order: int = 1) -> Moments:
    """Moments of decoder relu(encoder x) for x Gaussian, `closure`'s counterpart for a layer that is no polynomial.

    A unit's mean and variance are exact. Two units covary by sum_k c_k c'_k rho^k / k! over the Hermite coefficients c_k of
    their rectified inputs, of which `order` terms are kept; 1 is the usual linearisation, covariance times the two
    probabilities of being active. Raises ValueError where shapes do not fit or `order` is below 1.

    >>> relu_moments(torch.eye(1), torch.eye(1), Moments(torch.zeros(1), torch.eye(1))).mean
    tensor([0.3989])
    """
    require(isinstance(order, int) and order >= 1, "order", order, "a whole number of at least 1")
    mean, covariance = encoder @ moments.mean, encoder @ moments.covariance @ encoder.mT
    size = covariance.diagonal().clamp_min(torch.finfo(mean.dtype).tiny).sqrt()
    at = mean / size
    active, density = torch.special.ndtr(at), torch.exp(-at.square() / 2) / math.sqrt(2 * math.pi)
    rectified = mean * active + size * density
    variance = (mean.square() + size.square()) * active + mean * size * density - rectified.square()
    correlation = covariance / torch.outer(size, size)
    coefficients, hermite, before = [size * active], torch.ones_like(at), torch.zeros_like(at)
    for k in range(2, order + 1):  # c_k = size density He_(k-2)(-at)
        coefficients.append(size * density * hermite)
        hermite, before = -at * hermite - (k - 2) * before, hermite
    terms = (torch.outer(c, c) * correlation**k / math.factorial(k) for k, c in enumerate(coefficients, 1))
    between = sum(terms, torch.zeros_like(covariance))
    hidden = between - between.diagonal().diag() + variance.diag()
    return Moments(decoder @ rectified, decoder @ hidden @ decoder.mT)


def mixed_mean(weights: tuple[float, ...], means: list[Tensor]) -> Tensor:
    return torch.stack([weight * mean for weight, mean in zip(weights, means)]).sum(0)


def mixed(weights: tuple[float, ...], parts: list[Moments]) -> Moments:
    """Moments of a mixture: the mean covariance, and that of the means."""
    mean = mixed_mean(weights, [part.mean for part in parts])
    around = [part.covariance + torch.outer(part.mean - mean, part.mean - mean) for part in parts]
    return Moments(mean, torch.stack([weight * matrix for weight, matrix in zip(weights, around)]).sum(0))


def fitting(network: Any, distribution: Distribution, method: str) -> tuple[tuple[CPTensor, ...], Distribution]:
    """The layers of a network in a row, and the distribution of what the first one reads: x, or (1, x).

    Factors that read x stay as they are, with their dtype and gradients; everything else becomes layers on (1, x) first.
    """
    require_one_of("method", method, METHODS)
    require_distribution(distribution)
    layers = as_composed(network).layers if isinstance(network, CPTensor | ComposedTensor) else ()
    if not layers or layers[0].width != distribution.width:
        *below, last = as_layers(network, distribution.width)
        layers, distribution = (*(layer.with_constant() for layer in below), last), distribution.lifted()
    for number, layer in enumerate(layers):
        require_finite_cp(f"layers[{number}]", layer)
    require_same_kind(network=layers[0].D, distribution=distribution.like)
    return layers, distribution
