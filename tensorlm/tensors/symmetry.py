"""What a network's function fixes of its tensor: permutations of the inputs, symmetrisation, and inner products.

A polynomial determines only the part of its tensor that is symmetric under all n! permutations of the n inputs. A stack of
layers, each symmetrised, is invariant under the permutations that the tree itself allows, 8 of 24 for two layers: enough to
compare networks as networks, not as functions. (x1 x2)(x3 x4) and (x1 x3)(x2 x4) are one polynomial and, as networks, orthogonal.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from tensorlm.checks import require_affordable, require_same_kind, require_whole
from tensorlm.scaling import exponents, length, restored, shifted
from tensorlm.tensors.composition import ComposedTensor, as_composed, compose, require_finite_layers
from tensorlm.tensors.cp import CPTensor
from tensorlm.tensors.similarity import scaled, scaled_inner

GROUPS = ("full", "tree")
MOST_LEAVES = 8  # of tree_permutations: 128 permutations; 16 leaves would have 32768
MOST_FULL = 4  # inputs of the full symmetriser
MOST_OPERATIONS = 2**37  # multiply-adds of function_inner, a few seconds: two layers of width 64
Network = CPTensor | ComposedTensor
CHUNK = 2**22  # numbers evaluated at a time by function_inner_sampled


def tree_permutations(leaves: int) -> list[tuple[int, ...]]:
    """The permutations of the leaves of a binary tree that exchange the two subtrees of some nodes: 2^(leaves - 1) of them.

    >>> tree_permutations(2), len(tree_permutations(4)), len(tree_permutations(8))
    ([(0, 1), (1, 0)], 8, 128)
    """
    _require_leaves(leaves)
    if leaves == 1:
        return [(0,)]
    half = [(order, tuple(leaves // 2 + leaf for leaf in order)) for order in tree_permutations(leaves // 2)]
    pairs = [(left, right) for left, _ in half for _, right in half]
    return [left + right for left, right in pairs] + [right + left for left, right in pairs]


def symmetrise(dense: Tensor, group: str = "full") -> Tensor:
    """Mean of a dense tensor (out, width, width, ...) over the permutations of its inputs, the axes after the first.

    group="full": all n!, what the polynomial fixes; n at most 4. group="tree": the 2^(n - 1) of `tree_permutations`, n a power
    of two. Both are orthogonal projections. Built from few transpositions: S_n is the mean of n cosets of S_(n - 1), and
    a node's exchange doubles the groups of its subtrees.

    >>> matrix = torch.tensor([[[0.0, 1.0], [0.0, 0.0]]])
    >>> symmetrise(matrix)
    tensor([[[0.0000, 0.5000],
             [0.5000, 0.0000]]])
    """
    require_same_kind(dense=dense)
    inputs = dense.ndim - 1
    if inputs < 1 or len(set(dense.shape[1:])) != 1 or dense.numel() == 0:
        raise ValueError(f"dense must have the shape (out, width, width, ...), got {tuple(dense.shape)}")
    if group not in GROUPS:
        raise ValueError(f"group must be one of {GROUPS}, got {group!r}")
    if group == "tree":
        return _over_tree(dense, range(1, inputs + 1))
    require_whole("number of inputs", inputs, 1, MOST_FULL)
    dense = dense / 4  # so that no sum leaves the number range
    for last in range(2, inputs + 1):
        dense = torch.stack([dense, *(dense.transpose(axis, last) for axis in range(1, last))]).sum(0) / last
    return dense * 4


def _over_tree(dense: Tensor, axes: range) -> Tensor:
    _require_leaves(len(axes))
    if len(axes) == 1:
        return dense
    half = len(axes) // 2
    dense = _over_tree(_over_tree(dense, axes[:half]), axes[half:])
    order = [*range(axes[0]), *axes[half:], *axes[:half], *range(axes[-1] + 1, dense.ndim)]
    dense = dense / 2
    return dense + dense.permute(order)


def network_inner(a: Network, b: Network) -> Tensor:
    """<T_a, T_b> of the layer-by-layer symmetrised tensors, a number, from the factors in O(hidden^2 (hidden + width)).

    Up the tree, G = D_a [(L_a G L_b^T) * (R_a G R_b^T) + (L_a G R_b^T) * (R_a G L_b^T)] D_b^T / 2. An inner product of
    networks: for one layer that of functions too, beyond it see `function_inner`. Raises ValueError for another depth, width
    or out, for NaN or infinity, and where the result leaves the number range.

    >>> a, b = counterexample()
    >>> network_inner(a, b).item(), network_inner(a, a).item()
    (0.0, 0.125)
    """
    return restored(*_network_inner(*_pair(a, b)), "a and b", "<T_a, T_b>")


def network_cosine(a: Network, b: Network) -> Tensor:
    """network_inner(a, b) / (|a| |b|): of networks, not of functions; raises as it does, and where one of them is zero.

    >>> network_cosine(*counterexample()).item()
    0.0
    """
    return _cosine(_network_inner, *_pair(a, b))


def function_inner(a: Network, b: Network) -> Tensor:
    """<Sym T_a, Sym T_b>, the inner product of polynomials, for one or two layers, exactly and from the factors.

    Of the 24 permutations of four inputs, a third keeps the pairs (ij)(kl) of a symmetrised network and two thirds cross
    them, so it is <T_a, T_b> / 3 + 2/3 of sum_oijkl T_a,oijkl T_b,oikjl. The crossed sum goes through tr(A_m B_q A_n B_p), A and B
    being the slices of the first layers' S: O(m_a^2 m_b^2 width^2) for wires of m_a and m_b. Raises as `network_inner`
    does, and ValueError for three layers or wider ones, which function_inner_sampled estimates.

    >>> a, b = counterexample()
    >>> round(function_inner(a, b).item(), 6), round(function_inner(a, a).item(), 6)
    (0.041667, 0.041667)
    """
    return restored(*_function_inner(*_pair(a, b)), "a and b", "<Sym T_a, Sym T_b>")


def function_cosine(a: Network, b: Network) -> Tensor:
    """function_inner(a, b) / (|a| |b|): 1 exactly where b is a times a positive number, as polynomials. Raises as it does.

    >>> round(function_cosine(*counterexample()).item(), 6)
    1.0
    """
    return _cosine(_function_inner, *_pair(a, b))


def function_inner_sampled(a: Network, b: Network, samples: int = 4096, seed: int = 0) -> tuple[float, float]:
    """An unbiased estimate of <Sym T_a, Sym T_b> for any depth, and its standard error, from random complex inputs.

    For polynomials of degree n, E[f_a(z) . conj f_b(z)] = n! <Sym T_a, Sym T_b> over complex Gaussian z (the Bombieri inner
    product). |z| is integrated out exactly, E|z|^(2n) = width (width + 1) ... (width + n - 1), and z drawn from the unit sphere.
    The relative error grows with the degree. Raises as `network_inner` does, and for fewer than 2 samples.

    >>> a, b = counterexample()
    >>> estimate, error = function_inner_sampled(a, b)
    >>> abs(estimate - 1 / 24) < 4 * error < 0.01
    True
    """
    a, b = _pair(a, b)
    if not isinstance(samples, int) or samples < 2:
        raise ValueError(f"samples must be an int of at least 2, got {samples!r}")
    generator = torch.Generator().manual_seed(seed)
    widest = max(layer.hidden for layer in (*a.layers, *b.layers))
    values = []
    for part in torch.arange(samples).split(max(1, CHUNK // max(widest, a.width))):
        parts = torch.randn(len(part), a.width, 2, dtype=a.dtype, generator=generator).to(a.device)
        points = torch.nn.functional.normalize(parts.flatten(1), dim=1).view_as(parts)
        (one, first), (other, second) = _evaluate(a, torch.view_as_complex(points)), _evaluate(b, torch.view_as_complex(points))
        products = (one * other.conj()).real.sum(-1).double() * math.comb(a.width + a.degree - 1, a.degree)
        values.append(restored(products, first + second, "a and b", "<Sym T_a, Sym T_b>"))
    products = torch.cat(values)
    return products.mean().item(), float(length(products - products.mean())) / math.sqrt(samples - 1) / math.sqrt(samples)


def counterexample() -> tuple[ComposedTensor, ComposedTensor]:
    """Two networks for x1 x2 x3 x4, (x1 x2)(x3 x4) and (x1 x3)(x2 x4): cosine 1 as functions, 0 as networks, in float64.

    >>> a, b = counterexample()
    >>> x = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    >>> a(x).item(), b(x).item()
    (24.0, 24.0)
    """
    inputs, wires = torch.eye(4, dtype=torch.float64), torch.eye(2, dtype=torch.float64)
    product = CPTensor(torch.ones(1, 1, dtype=torch.float64), wires[:1], wires[1:])
    (a, b) = (CPTensor(wires, inputs[first], inputs[second]) for first, second in (([0, 2], [1, 3]), ([0, 1], [2, 3])))
    return compose(a, product), compose(b, product)


def _network_inner(a: ComposedTensor, b: ComposedTensor) -> tuple[Tensor, int]:
    """network_inner as a number near 1 and the exponent of a power of two."""
    crossed, exponent = torch.empty(0), 0
    for number, layers in enumerate(zip(a.layers, b.layers)):
        (one, first), (other, second) = (scaled(layer) for layer in layers)
        LG, RG = (one.L @ crossed, one.R @ crossed) if number else (one.L, one.R)
        pairs = (LG @ other.L.mT) * (RG @ other.R.mT) + (LG @ other.R.mT) * (RG @ other.L.mT)
        crossed = one.D @ (pairs / 2) @ other.D.mT
        power = int(exponents(crossed, (0, 1)))
        crossed, exponent = shifted(crossed, -power), 2 * exponent + first + second + power
    return crossed.trace(), exponent


def _function_inner(a: ComposedTensor, b: ComposedTensor) -> tuple[Tensor, int]:
    """function_inner as a number near 1 and the exponent of a power of two."""
    if len(a.layers) == 1:
        return scaled_inner(a.layers[0], b.layers[0])
    if len(a.layers) > 2:
        raise ValueError(f"a and b must have at most 2 layers, got {len(a.layers)}; use function_inner_sampled")
    wires = a.layers[0].out, b.layers[0].out
    operations = math.prod(wires) ** 2 * a.width**2
    if operations > MOST_OPERATIONS:
        raise ValueError(f"a and b must be narrower: {operations:.1e} multiply-adds are more than {MOST_OPERATIONS:.1e}; "
                         "use function_inner_sampled")
    same, power = _network_inner(a, b)
    lower, upper = ([scaled(layer) for layer in pair] for pair in zip(a.layers, b.layers))
    crossed = _crossed(*((first[0], second[0]) for first, second in zip(lower, upper)))
    exponent = sum(2 * low + high for (_, low), (_, high) in zip(lower, upper))
    return shifted(same, power - exponent) / 3 + 2 * crossed / 3, exponent


def _crossed(a: tuple[CPTensor, CPTensor], b: tuple[CPTensor, CPTensor]) -> Tensor:
    """sum_o,mnpq U_omn V_opq tr(A_m B_q A_n B_p), where U, V are the upper layers' S, one m at a time."""
    lower_a, lower_b, upper_a, upper_b = (layer.symmetric() for layer in (a[0], b[0], a[1], b[1]))
    require_affordable((len(lower_a), *lower_b.shape), lower_a.dtype, "function_inner_sampled")
    products = lower_a.unsqueeze(1) @ lower_b  # A_n B_p: (n, p, width, width)
    total = products.new_zeros(())
    for m, turned in enumerate(products.mT):
        traces = turned.flatten(1) @ products.flatten(2).flatten(0, 1).mT  # tr(A_m B_q A_n B_p): (q, n p)
        weights = torch.einsum("on,opq->qnp", upper_a[:, m], upper_b)
        total = total + (traces * weights.flatten(1)).sum()
    return total


def _evaluate(network: ComposedTensor, points: Tensor) -> tuple[Tensor, int]:
    """The polynomial at complex points, as numbers near 1 and the exponent of a power of two."""
    exponent = 0
    for layer in network.layers:
        cp, power = scaled(layer)
        D, L, R = (matrix.mT.to(points.dtype) for matrix in (cp.D, cp.L, cp.R))
        values = torch.view_as_real(((points @ L) * (points @ R)) @ D)
        own = int(exponents(values.flatten(), 0))
        points, exponent = torch.view_as_complex(shifted(values, -own)), 2 * exponent + power + own
    return points, exponent


def _cosine(product: Callable[[ComposedTensor, ComposedTensor], tuple[Tensor, int]], a: ComposedTensor, b: ComposedTensor) -> Tensor:
    value, exponent = product(a, b)
    for name, network in (("a", a), ("b", b)):
        square, power = product(network, network)
        if square <= 0:
            raise ValueError(f"{name} must not be zero, for which no cosine is defined")
        value, exponent = value / shifted(square, power % 2).sqrt(), exponent - power // 2
    return shifted(value, exponent)


def _pair(a: Network, b: Network) -> tuple[ComposedTensor, ComposedTensor]:
    a, b = as_composed(a), as_composed(b)
    for network in (a, b):
        require_finite_layers(network.layers)
    require_same_kind(a=a.layers[0].D, b=b.layers[0].D)
    for name in ("degree", "width", "out"):
        if getattr(a, name) != getattr(b, name):
            raise ValueError(f"b must have {name} {getattr(a, name)} like a, got {getattr(b, name)}")
    return a, b


def _require_leaves(leaves: int) -> None:
    require_whole("leaves", leaves, 1, MOST_LEAVES)
    if leaves & (leaves - 1):
        raise ValueError(f"leaves must be a power of two, got {leaves}")
