"""How alike layers and networks are, from their factors, and what a function fixes of a tensor.

A polynomial fixes only the part of its tensor that is symmetric under all n! permutations of the n inputs: of one layer, S.
A stack of layers, each symmetrised, is invariant under the permutations that the tree allows, 8 of 24 for two layers: enough
to compare networks, not functions. (x1 x2)(x3 x4) and (x1 x3)(x2 x4) are one polynomial and, as networks, orthogonal.
"""

from collections.abc import Callable

import torch
from einops import einsum
from torch import Tensor

from tensorlm.checks import require, require_affordable, require_one_of, require_same_kind, require_whole
from tensorlm.scaling import balanced, exponents, length, restored, shifted
from tensorlm.tensors.composition import ComposedTensor, as_composed
from tensorlm.tensors.cp import CPTensor, cp_unfolding, require_finite_cp

Network = CPTensor | ComposedTensor
MAX_INPUTS = {"full": 4, "tree": 8}  # of `symmetrise`: 4! permutations, and 2^7
MAX_OPERATIONS = 2**37  # multiply-adds of function_inner, a few seconds: two layers of width 64
SAME_SHARE = 1e-10  # of their size by which one function, written twice, may differ from itself
SLICE_BYTES = 2**26  # of the dense slices that `same_function` works through


def symmetrise(dense: Tensor, group: str = "full") -> Tensor:
    """Mean of a dense tensor (out, width, width, ...) over permutations of its inputs, the axes after the first.

    group="full": all n!, what the polynomial fixes; n at most 4. group="tree": the 2^(n - 1) that exchange the two subtrees of
    some nodes of a binary tree, n a power of two up to 8. Both are orthogonal projections.

    >>> symmetrise(torch.tensor([[[0.0, 1.0], [0.0, 0.0]]])).flatten()
    tensor([0.0000, 0.5000, 0.5000, 0.0000])
    """
    require_same_kind(dense=dense)
    inputs = dense.ndim - 1
    require(inputs > 0 and len(set(dense.shape[1:])) == 1 and dense.numel(), "dense", dense, "of shape (out, width, width, ...)")
    require_one_of("group", group, MAX_INPUTS)
    require_whole("number of inputs", inputs, 1, MAX_INPUTS[group])
    if group == "tree":
        require(inputs & (inputs - 1) == 0, "number of inputs", inputs, "a power of two")
        return _over_tree(dense, range(1, inputs + 1))
    dense = dense / 4  # so that no sum leaves the number range
    for last in range(2, inputs + 1):
        dense = torch.stack([dense, *(dense.transpose(axis, last) for axis in range(1, last))]).sum(0) / last
    return dense * 4


def _over_tree(dense: Tensor, axes: range) -> Tensor:
    if len(axes) == 1:
        return dense
    half = len(axes) // 2
    dense = _over_tree(_over_tree(dense, axes[:half]), axes[half:]) / 2
    return dense + dense.permute(*range(axes[0]), *axes[half:], *axes[:half], *range(axes[-1] + 1, dense.ndim))


def network_cosine(a: Network, b: Network) -> Tensor:
    """Cosine of the layer-by-layer symmetrised tensors, a number, from the factors in O(hidden^2 (hidden + width)).

    <T_a, T_b> goes up the tree, G = D_a [(L_a G L_b^T) * (R_a G R_b^T) + (L_a G R_b^T) * (R_a G L_b^T)] D_b^T / 2. For one layer
    it is that of functions too. Raises ValueError for another shape, NaN or infinity, and where one of them is zero.
    """
    return _cosine(_network_inner, *_pair(a, b))


def function_cosine(a: Network, b: Network) -> Tensor:
    """function_inner(a, b) / (|a| |b|): 1 where b is a times a positive number, as polynomials; ValueError for zero."""
    return _cosine(_function_inner, *_pair(a, b))


def function_inner(a: Network, b: Network) -> Tensor:
    """<Sym T_a, Sym T_b>, the inner product of polynomials, for one or two layers, exactly and from the factors.

    Of the 24 permutations of four inputs, a third keeps the pairs (ij)(kl) of a symmetrised network and two thirds cross
    them, so it is <T_a, T_b> / 3 + 2/3 of sum_oijkl T_a,oijkl T_b,oikjl, in O(m_a^2 m_b^2 width^2) for wires of m_a and m_b.
    Raises as `network_cosine` does, for three layers or wide ones, and where the result leaves the number range.

    >>> xy = CPTensor(torch.ones(1, 1), torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]))
    >>> function_inner(xy, xy)
    tensor(0.5000)
    """
    return restored(*_function_inner(*_pair(a, b)), "a and b", "<Sym T_a, Sym T_b>")


def same_function(a: CPTensor, b: CPTensor) -> bool:
    """Whether a and b are one function: |S_a - S_b| <= 1e-10 max(|S_a|, |S_b|), or within the rounding of the factors.

    The distance comes from the entries of the difference, so that nothing cancels. The rounding is taken as 8 eps * sum_k
    |D_k||L_k||R_k| of both, in float32 about 1e-6 of their size. Raises ValueError for other shapes, NaN or infinity.

    >>> xy = CPTensor(torch.ones(1, 1), torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]))
    >>> same_function(xy, xy.swap())
    True
    """
    for name, cp in (("a", a), ("b", b)):
        require_finite_cp(name, cp)
    _pair(a, b)
    (a, first), (b, second) = _scaled(a), _scaled(b)
    a, b = (CPTensor(shifted(cp.D, power - max(first, second)), cp.L, cp.R) for cp, power in ((a, first), (b, second)))
    size = max(shifted(*_network_inner(as_composed(cp), as_composed(cp))).item() for cp in (a, b)) ** 0.5
    units = sum((length(cp.D, 0) * length(cp.L, 1) * length(cp.R, 1)).sum().item() for cp in (a, b))
    return bool(_distance(a, b) <= max(SAME_SHARE * size, 8 * torch.finfo(a.dtype).eps * units))


def _distance(a: CPTensor, b: CPTensor) -> Tensor:
    """|S_a - S_b| of one layer with the units of both, in bases of inputs and outputs where those are smaller, by slices."""
    D, L, R = torch.cat([a.D, -b.D], dim=1), torch.cat([a.L, b.L]), torch.cat([a.R, b.R])
    hidden = D.shape[1]
    if 2 * hidden < a.width:
        L, R = torch.linalg.qr(torch.cat([L, R]).mT).R.mT.split(hidden)
    if hidden < a.out:
        D = torch.linalg.qr(D).R
    rows = max(1, SLICE_BYTES // (L.shape[1] ** 2 * D.dtype.itemsize))
    halves = (cp_unfolding(chunk, L, R).unflatten(1, (L.shape[1], -1)) / 2 for chunk in D.split(rows))
    return torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(half + half.mT) for half in halves]))


def _scaled(cp: CPTensor) -> tuple[CPTensor, int]:
    """The layer with factors near 1 that is 2^-e times `cp`, and e."""
    *factors, exponent = balanced(cp.D, cp.L, cp.R)
    return CPTensor(*factors), exponent


def _network_inner(a: ComposedTensor, b: ComposedTensor) -> tuple[Tensor, int]:
    """<T_a, T_b> as a number near 1 and the exponent of a power of two."""
    crossed, exponent = torch.empty(0), 0
    for number, layers in enumerate(zip(a.layers, b.layers)):
        (one, first), (other, second) = map(_scaled, layers)
        left, right = (one.L @ crossed, one.R @ crossed) if number else (one.L, one.R)
        pairs = (left @ other.L.mT) * (right @ other.R.mT) + (left @ other.R.mT) * (right @ other.L.mT)
        crossed = one.D @ (pairs / 2) @ other.D.mT
        power = int(exponents(crossed, (0, 1)))
        crossed, exponent = shifted(crossed, -power), 2 * exponent + first + second + power
    return crossed.trace(), exponent


def _function_inner(a: ComposedTensor, b: ComposedTensor) -> tuple[Tensor, int]:
    if len(a.layers) == 1:
        return _network_inner(a, b)
    require(len(a.layers) == 2, "a and b", a, "networks of at most 2 layers")
    operations = (a.layers[0].out * b.layers[0].out * a.width) ** 2
    require(operations <= MAX_OPERATIONS, "multiply-adds of a and b", operations, f"at most {MAX_OPERATIONS}: narrower layers will do")
    same, power = _network_inner(a, b)
    layers, powers = zip(*map(_scaled, (*a.layers, *b.layers)))
    crossed = _crossed(*(layer.symmetric() for layer in layers))
    exponent = sum(powers) + sum(powers[::2])  # lower layers are read twice
    return shifted(same, power - exponent) / 3 + 2 * crossed / 3, exponent


def _crossed(lower_a: Tensor, upper_a: Tensor, lower_b: Tensor, upper_b: Tensor) -> Tensor:
    """sum_o,mnpq U_omn V_opq tr(A_m B_q A_n B_p), where A, B and U, V are the lower and the upper layers' S, one m at a time."""
    require_affordable((len(lower_a), *lower_b.shape), lower_a.dtype, "narrower layers")
    products = lower_a.unsqueeze(1) @ lower_b  # A_n B_p: (n, p, width, width)
    total = products.new_zeros(())
    for m, turned in enumerate(products.mT):
        traces = turned.flatten(1) @ products.flatten(2).flatten(0, 1).mT  # tr(A_m B_q A_n B_p): (q, n p)
        weights = einsum(upper_a[:, m], upper_b, "out n, out p q -> q n p")
        total = total + (traces * weights.flatten(1)).sum()
    return total


def _cosine(product: Callable[[ComposedTensor, ComposedTensor], tuple[Tensor, int]], a: ComposedTensor, b: ComposedTensor) -> Tensor:
    value, exponent = product(a, b)
    for name, network in (("a", a), ("b", b)):
        square, power = product(network, network)
        require(square > 0, name, network, "other than zero, for which no cosine is defined")
        value, exponent = value / shifted(square, power % 2).sqrt(), exponent - power // 2
    return shifted(value, exponent)


def _pair(a: Network, b: Network) -> tuple[ComposedTensor, ComposedTensor]:
    """Both as networks; raises unless they are finite and of one dtype, device and shape."""
    a, b = as_composed(a), as_composed(b)
    for number, layer in (*enumerate(a.layers), *enumerate(b.layers)):
        require_finite_cp(f"layers[{number}]", layer)
    require_same_kind(a=a.layers[0].D, b=b.layers[0].D)
    require(a.shape == b.shape, "shape of b", b.shape, f"{a.shape} like that of a")
    return a, b
