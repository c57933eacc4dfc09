"""CP decomposition of stacked layers by alternating least squares, from factors: T_oij... ~ sum_c A0_oc A1_ic A2_jc ...

One sweep updates every factor in turn, A_n = M_n V_n^-1, where M_n is T contracted with the other factors and V_n the
elementwise product of their Gram matrices (Kolda & Bader 2009, section 3.4). M_n comes from the tree: what is below each
branch is kept, so a sweep is O(2^N hidden width rank), never width^(2^N).
"""

import functools
import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tensorlm.checks import require, require_finite, require_same_kind, require_whole
from tensorlm.scaling import restored
from tensorlm.tensors.composition import ComposedTensor, Tree, as_composed, branch_grams, tree_distance
from tensorlm.tensors.cp import CPTensor, require_inputs

MAX_COUNT = 2**20  # columns or sweeps beyond which a number is taken for a slip
CANCELLATION_POWER = 0.5  # an error^2 below eps^this, 1.5e-8 in float64, of the terms it is the sum of is measured otherwise
DEPENDENCE_POWER = 0.75  # eigenvalues of V_n below eps^this of the largest, 2e-12 in float64, count as zero


@dataclass(frozen=True, eq=False)
class CPFit:
    """Factors A_0 (out, r), A_1, A_2, ... (width, r) of a CP decomposition, and |T - fit| / |T| after every sweep."""

    factors: tuple[Tensor, ...]
    errors: tuple[float, ...]

    @property
    def rank(self) -> int:
        return self.factors[0].shape[1]

    def __call__(self, x: Tensor) -> Tensor:
        """The fitted function, sum_c A0_oc (A1_c . x) (A2_c . x) ...: x (..., width) -> (..., out)."""
        output, *inputs = self.factors
        require_inputs(len(inputs[0]), factors=output, x=x)
        return functools.reduce(torch.mul, (x @ factor for factor in inputs)) @ output.mT

    def layer(self) -> CPTensor:
        """The fit of one layer as a layer of hidden width r; ValueError for a deeper network."""
        require(len(self.factors) == 3, "order of the fit", len(self.factors), "3, that of one bilinear layer")
        return CPTensor(self.factors[0], self.factors[1].mT, self.factors[2].mT)

    def tree(self) -> Tree:
        """The fit as a tree of elementwise products."""
        output, *leaves = self.factors
        unit = torch.eye(self.rank, dtype=output.dtype, device=output.device)
        nodes = [Tree(unit, left.mT, right.mT) for left, right in zip(leaves[::2], leaves[1::2])]
        while len(nodes) > 1:
            nodes = [Tree(unit, unit, unit, pair) for pair in zip(nodes[::2], nodes[1::2])]
        return Tree(output, nodes[0].left, nodes[0].right, nodes[0].below)


def cp_als(tensor: CPTensor | ComposedTensor, rank: int, steps: int = 50, start: list[Tensor] | None = None, seed: int = 0) -> CPFit:
    """CP decomposition of T at this rank, of one layer (order 3) or a network (order 2^N + 1), after `steps` sweeps.

    `start` holds a matrix (size of the mode, rank) for each mode, the output first, which the first update replaces; None
    draws Gaussian ones from `seed`. Nothing is normalised, as in TensorLy's `parafac`. ALS finds a local minimum, and where
    none exists factors grow without bound (Kolda & Bader 2009, section 3.3). Try several seeds. Raises ValueError for a
    rank, steps or start that do not fit, for NaN or infinity, and where numbers leave their range.

    >>> layer = CPTensor(torch.eye(2), torch.tensor([[1.0, 0.0], [2.0, 0.0]]), torch.tensor([[0.0, 1.0], [0.0, 1.0]]))
    >>> fit = cp_als(layer, rank=1, steps=2)  # x1 x2 and 2 x1 x2
    >>> fit.errors[-1] < 1e-6, fit(torch.tensor([1.0, 3.0])).round(decimals=3)
    (True, tensor([3., 6.]))
    """
    network = as_composed(tensor)
    require_whole("rank", rank, 1, MAX_COUNT)
    require_whole("steps", steps, 1, MAX_COUNT)
    start = _start(network, rank, start, seed)
    with torch.inference_mode():
        found = branch_grams(network.layers)
        squared, sweep = found.wires[-1].trace().item(), _Sweep(ComposedTensor(found.layers), start)
        if not math.isfinite(sweep.units.sum() + sweep.grams[0].sum()):
            for number, factor in enumerate(start):
                require_finite(f"start[{number}]", factor)
            raise ValueError(f"start must have products within the range of {network.dtype}; divide each matrix by its size")
        errors = [sweep.run(squared) for _ in range(steps)]
        output = restored(sweep.factors[0], found.exponent, "tensor", "|T|") if found.exponent else sweep.factors[0]
    return CPFit(tuple(factor.mT.clone() for factor in (output, *sweep.factors[1:])), tuple(errors))  # out of inference mode


def _start(network: ComposedTensor, rank: int, start: list[Tensor] | None, seed: int) -> list[Tensor]:
    """The given factors, checked, or Gaussian ones of the inputs and zero for the output, which the first update finds."""
    if start is None:
        generator = torch.Generator().manual_seed(seed)
        drawn = [torch.randn(size, rank, dtype=network.dtype, generator=generator) for size in network.shape[1:]]
        zeros = torch.zeros(network.out, rank, dtype=network.dtype)
        return [factor.to(network.layers[0].D.device) for factor in (zeros, *drawn)]
    require(len(start) == network.order, "start", start, f"a list with a matrix for each of {network.order} modes")
    require_same_kind(tensor=network.layers[0].D, **{f"start[{number}]": factor for number, factor in enumerate(start)})
    for number, (factor, size) in enumerate(zip(start, network.shape)):
        require(factor.shape == (size, rank), f"start[{number}]", factor, f"({size}, {rank})")
    powers = 2 * torch.stack([factor.abs().amax(0).log2() for factor in start[1:]]).sum(0)
    largest = math.log2(torch.finfo(network.dtype).max) - 2
    if any(math.isfinite(power) and abs(power) > largest for power in powers.tolist()):
        raise ValueError(f"start must have columns with products within the range of {network.dtype}; divide by lengths")
    return list(start)


class _Node:
    """One copy of a layer. `below` is what its branches read, modes or nodes, by the matrices `encoders`, with transposes.
    All values are rows, (r, hidden) and (r, width): products of few rows with large matrices are fastest that way."""

    def __init__(self, layers: tuple[CPTensor, ...], modes: range):
        *lower, layer = layers
        encoders = layer.L, layer.R
        self.below: tuple[int | _Node, ...] = tuple(modes)
        if lower:
            half = len(modes) // 2
            encoders = layer.L @ lower[-1].D, layer.R @ lower[-1].D  # from hidden units straight to hidden units
            self.below = _Node(tuple(lower), modes[:half]), _Node(tuple(lower), modes[half:])
        self.encoders = [(encoder.contiguous(), encoder.mT.contiguous()) for encoder in encoders]

    def fill(self, factors: list[Tensor]) -> Tensor:
        """Compute the values of both branches; their product, the hidden units."""
        inputs = [factors[below] if isinstance(below, int) else below.fill(factors) for below in self.below]
        self.values = [value @ transposed for (_, transposed), value in zip(self.encoders, inputs)]
        return self.values[0] * self.values[1]


class _Sweep:
    """The factors of the fit, as rows (r, size), with what a sweep keeps of them: Gram matrices, and values in the tree."""

    def __init__(self, network: ComposedTensor, start: list[Tensor]):
        self.network, self.factors = network, [factor.mT.contiguous() for factor in start]
        self.output = network.layers[-1].D.contiguous(), network.layers[-1].D.mT.contiguous()
        self.grams = [factor @ factor.mT for factor in self.factors]
        self.root = _Node(network.layers, range(1, network.order))
        self.units = self.root.fill(self.factors)

    def run(self, squared: float) -> float:
        """Update every factor once, the output first; |T - fit| / |T|, given |T|^2."""
        self.before: Tensor | None = None  # product of the Gram matrices of the modes that this sweep has updated
        self.after = list(itertools.accumulate(self.grams[:0:-1], torch.mul))  # of those of the modes after each other one
        D, transposed = self.output
        self.units = self._descend(self.root, self._update(0, self.units @ transposed) @ D)
        return self._error(squared)

    def _descend(self, node: _Node, above: Tensor) -> Tensor:
        """Update the factors below a node, `above` (r, hidden) being what multiplies its hidden units; return these anew."""
        values = node.values
        for side, ((encoder, transposed), below) in enumerate(zip(node.encoders, node.below)):
            inwards = (above * values[1 - side]) @ encoder
            values[side] = (self._update(below, inwards) if isinstance(below, int) else self._descend(below, inwards)) @ transposed
        return values[0] * values[1]

    def _update(self, mode: int, contracted: Tensor) -> Tensor:
        """A_n = M_n V_n^-1, V_n being the elementwise product of the other Gram matrices: those before, anew, and those after."""
        before, after = self.before, self.after.pop() if self.after else None
        others = [product for product in (before, after) if product is not None]
        factor = _solve(others[0] if len(others) == 1 else others[0] * others[1], contracted, self.factors[mode])
        gram = factor @ factor.mT
        self.before = whole = gram if before is None else before * gram
        self.factors[mode], self.grams[mode] = factor, gram
        self.last = contracted, factor, whole
        return factor

    def _error(self, squared: float) -> float:
        """From the last update: <T, fit> = sum(M_n * A_n), and |fit|^2 is the sum over the product of all Gram matrices;
        so near to an exact fit that |T|^2 - 2 <T, fit> + |fit|^2 would cancel, from `tree_distance`."""
        contracted, factor, whole = self.last
        left = squared - 2 * (contracted * factor).sum().item() + whole.sum().item()
        size = math.sqrt(squared) or 1.0
        if left > torch.finfo(factor.dtype).eps ** CANCELLATION_POWER * (squared + whole.abs().sum().item()):
            return math.sqrt(left) / size
        fit = CPFit(tuple(factor.mT for factor in self.factors), ())
        return tree_distance(self.network.tree(), fit.tree()).item() / size


def _solve(product: Tensor, contracted: Tensor, old: Tensor) -> Tensor:
    """V^-1 M for a positive semi-definite V (r, r), by Cholesky; where a column keeps nothing, 1 / (V_kk V^-1_kk), of its
    squared length beside all others, only in directions in which V is not zero to rounding, and `old` in the others."""
    least = torch.finfo(product.dtype).eps ** DEPENDENCE_POWER
    lower, failed = torch.linalg.cholesky_ex(product)
    if not failed:
        inverse = torch.cholesky_inverse(lower)
        if all(least * size * own < 1 for size, own in zip(product.diagonal().tolist(), inverse.diagonal().tolist())):
            return inverse @ contracted
    if not math.isfinite(product.sum() + contracted.sum()):
        raise ValueError(f"tensor must have a fit within the range of {product.dtype}; use .double() or another start")
    sizes = product.diagonal().sqrt()
    sizes = torch.where(sizes > 0, sizes, 1.0)
    scales = sizes * sizes.unsqueeze(1)  # lest short columns seem dependent
    inverse = torch.linalg.pinv(product / scales, rtol=least, hermitian=True) / scales
    return old + inverse @ (contracted - product @ old)
