"""Stacked bilinear layers as one tensor in tree form: N layers are a polynomial of degree 2^N, a tensor of order 2^N + 1.

Two layers: T_oijkl = sum_mn T2_omn T1_mij T1_nkl. The tree has one copy of the last layer, two of the one before it, four of
the next, so its cost is that of the factors, while the dense tensor has out * width^(2^N) entries. The leaves (inputs) are
ordered left subtree first, and the left branch of a layer is its L.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from tensorlm.checks import require_affordable, require_instance
from tensorlm.scaling import balanced, exponents, length, restored, shifted
from tensorlm.tensors.cp import CPTensor, cp_unfolding, require_chain, require_finite_cp


@dataclass(frozen=True, eq=False)
class Tree:
    """D [(left y_0) * (right y_1)], where y_0, y_1 are the values of the two subtrees `below`, or inputs where there are none.
    Subtrees may be one object: they are read once."""

    D: Tensor
    left: Tensor
    right: Tensor
    below: tuple["Tree", "Tree"] | None = None


@dataclass(frozen=True, eq=False)
class ComposedTensor:
    """f(x) = f_N(... f_1(x)) of N layers, the first applied first.

    Raises ValueError where there is no layer or two that follow each other do not fit, TypeError for mixed dtypes.

    >>> network = compose(*[CPTensor(torch.ones(1, 1), torch.ones(1, 1), torch.ones(1, 1))] * 3)  # x^2, three times
    >>> network.degree, network.order, network(torch.tensor([2.0]))
    (8, 9, tensor([256.]))
    """

    layers: tuple[CPTensor, ...]

    def __post_init__(self):
        require_chain("layers", self.layers, CPTensor)

    @property
    def width(self) -> int:
        return self.layers[0].width

    @property
    def out(self) -> int:
        return self.layers[-1].out

    @property
    def dtype(self) -> torch.dtype:
        return self.layers[0].dtype

    @property
    def degree(self) -> int:
        """Degree of the polynomial, and number of leaves."""
        return 2 ** len(self.layers)

    @property
    def order(self) -> int:
        return self.degree + 1

    @property
    def shape(self) -> tuple[int, ...]:
        return self.out, *(self.width,) * self.degree

    @property
    def parameter_count(self) -> int:
        return sum(layer.parameter_count for layer in self.layers)

    @property
    def dense_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def __call__(self, x: Tensor) -> Tensor:
        """f(x), layer by layer: x (..., width) -> (..., out)."""
        for layer in self.layers:
            x = layer(x)
        return x

    def dense(self) -> Tensor:
        """T (out, width, ..., width). Raises ValueError, naming the bytes, where it takes more than `checks.DENSE_LIMIT`."""
        require_affordable(self.shape, self.dtype, "the factors: evaluation, mode_grams, hosvd, odt and cp_als never need the dense tensor")
        return evaluate_tree(self.layers, [None] * self.degree, _layer_products)[0].view(self.shape)

    def symmetrised(self) -> "ComposedTensor":
        """The network of the layers' symmetric parts: the same function, and both copies of a wire share one basis."""
        return ComposedTensor(tuple(layer.symmetrised() for layer in self.layers))

    def mode_grams(self) -> list[Tensor]:
        """Gram matrices of all 1 + 2^N modes, the output first, from the factors in O(2^N h^2 (h + width)); ValueError for
        NaN or infinity, and beyond the number range."""
        found = branch_grams(self.layers)
        return [restored(gram, 2 * found.exponent, "tensor", "Gram matrices") for gram in found.of_modes()]

    def squared_norm(self) -> Tensor:
        """|T|^2, the sum of the squared entries; ValueError where it leaves the number range."""
        found = branch_grams(self.layers)
        return restored(found.wires[-1].trace(), 2 * found.exponent, "tensor", "|T|^2")

    def tree(self, bases: Sequence[Tensor] | None = None) -> Tree:
        """The same tensor as a `Tree`, both copies of a layer being one object; with `bases`, a matrix of columns for each
        mode, the output first: T x_0 B_0 B_0^T x_1 B_1 B_1^T ..."""
        leaves = [None] * self.degree if bases is None else [basis @ basis.mT for basis in bases[1:]]
        tree = evaluate_tree(self.layers, leaves, _node)[0]
        return tree if bases is None else replace(tree, D=bases[0] @ (bases[0].mT @ tree.D))


def compose(*layers: CPTensor) -> ComposedTensor:
    """The tensor of f_N(... f_1(x)): layers in the order in which they are applied."""
    return ComposedTensor(layers)


def as_composed(tensor: CPTensor | ComposedTensor) -> ComposedTensor:
    """A network as it is, one layer as a stack of one; TypeError for anything else."""
    if isinstance(tensor, CPTensor):
        return ComposedTensor((tensor,))
    require_instance("tensor", tensor, ComposedTensor)
    return tensor


class Grams(NamedTuple):
    """For each layer the pair (L G' L^T, R G' R^T), each (hidden, hidden), and the Gram matrix G (out, out) of its output.
    The network's output is 2^exponent times that of `layers`."""

    layers: tuple[CPTensor, ...]
    pairs: list[tuple[Tensor, Tensor]]
    wires: list[Tensor]
    exponent: int

    def of_modes(self) -> list[Tensor]:
        """Gram matrices of the output and, in their order, of all leaves: down from the output, E_L = L^T [(D^T E D) * (R G
        R^T)] L, and the same with L and R exchanged."""
        around: list[Tensor] = []
        for layer, (left, right) in zip(reversed(self.layers), reversed(self.pairs)):
            D, L, R = layer.D, layer.L, layer.R
            units = [D.mT @ above @ D for above in around] if around else [D.mT @ D]
            around = [gram for unit in units for gram in (L.mT @ (unit * right) @ L, R.mT @ (unit * left) @ R)]
        return [self.wires[-1], *around]


def branch_grams(layers: tuple[CPTensor, ...]) -> Grams:
    """Gram matrices up from the inputs, G = D [(L G' L^T) * (R G' R^T)] D^T; ValueError, naming layer and factor, for NaN or infinity.

    Where squares would leave the number range, layers are balanced, and divided so that the trace of every G is near 1.
    """
    found, least = _grams(layers), torch.finfo(layers[0].dtype).tiny ** 0.25
    if all(least < wire.trace().item() < 1 / least for wire in found.wires):
        return found
    for number, layer in enumerate(layers):
        require_finite_cp(f"layers[{number}]", layer)
    made: tuple[CPTensor, ...] = ()
    exponent = 0
    for layer in layers:
        D, L, R, own = balanced(layer.D, layer.L, layer.R)
        power = math.frexp(_grams((*made, CPTensor(D, L, R))).wires[-1].trace().item())[1] // 2
        made = *made, CPTensor(shifted(D, -power), L, R)
        exponent = 2 * exponent + own + power
    return _grams(made)._replace(exponent=exponent)


def _grams(layers: tuple[CPTensor, ...]) -> Grams:
    pairs: list[tuple[Tensor, Tensor]] = []
    wires: list[Tensor] = []
    for layer in layers:
        left, right = (layer.L @ wires[-1], layer.R @ wires[-1]) if wires else (layer.L, layer.R)
        pairs.append((left @ layer.L.mT, right @ layer.R.mT))
        wires.append(layer.D @ (pairs[-1][0] * pairs[-1][1]) @ layer.D.mT)
    return Grams(layers, pairs, wires, 0)


def evaluate_tree(layers: Sequence[CPTensor], leaves: Sequence, node: Callable) -> list:
    """Values of the nodes above the leaves and `layers`: node(layer, left, right) for each, once where two are the same."""
    values = list(leaves)
    for layer in layers:
        pairs = list(zip(values[::2], values[1::2]))
        keys = [(id(left), id(right)) for left, right in pairs]
        made = {key: node(layer, *pair) for key, pair in dict(zip(keys, pairs)).items()}
        values = [made[key] for key in keys]
    return values


def mode_products(layers: Sequence[CPTensor], bases: Sequence[Tensor]) -> Tensor:
    """T x_0 B_0^T x_1 B_1^T ... as a matrix (r_0, r_1 r_2 ...), with a matrix of columns for each mode, the output first."""
    *lower, last = layers
    values, decoders = bases[1:], [*(layer.D for layer in lower), bases[0].mT @ last.D]
    for layer, D in zip(layers, decoders):
        L, R = layer.L.mT, layer.R
        pairs = zip(values[::2], values[1::2])
        values = [cp_unfolding(D, (left.mT @ L).mT, R @ right) for left, right in pairs]  # left by columns, as it is read
    return values[0]


def _layer_products(layer: CPTensor, left: Tensor | None, right: Tensor | None) -> Tensor:
    """The layer's unfolding above two matrices, None being the identity."""
    left = layer.L if left is None else (left.mT @ layer.L.mT).mT  # laid out by columns, as `cp_unfolding` reads it
    return cp_unfolding(layer.D, left, layer.R if right is None else layer.R @ right)


def _node(layer: CPTensor, left, right) -> Tree:
    if isinstance(left, Tree):
        return Tree(layer.D, layer.L, layer.R, (left, right))
    return Tree(layer.D, layer.L if left is None else layer.L @ left, layer.R if right is None else layer.R @ right)


def tree_distance(a: Tree, b: Tree) -> Tensor:
    """|T_a - T_b|, the Frobenius norm of the difference of two trees of one shape, exact to rounding, even if terms cancel.

    Every pair of subtrees is replaced by the triangular factor of a QR decomposition, which has the same Gram matrix;
    squaring, which would lose half of the digits, happens only at the root. Costs O(out * hidden * width^2) a node.
    Raises ValueError where that takes more than `checks.DENSE_LIMIT` bytes, and where the distance leaves the number range.
    """
    (a, first), (b, second) = _balanced(a, {}), _balanced(b, {})
    top = max(first, second)
    D = torch.cat([shifted(a.D, first - top), -shifted(b.D, second - top)], dim=1)
    unfolding, exponent = _unfolding(D, a, b, {})
    return restored(length(unfolding.flatten()), exponent + top, "a and b", "a norm", reference=1.0)


def _balanced(tree: Tree, made: dict[int, tuple[Tree, int]]) -> tuple[Tree, int]:
    """The tree with factors near 1, divided by a power of two, and its exponent; subtrees that are one object stay so."""
    if id(tree) not in made:
        D, left, right, exponent = balanced(tree.D, tree.left, tree.right)
        below = None
        if tree.below is not None:
            (one, first), (other, second) = (_balanced(part, made) for part in tree.below)
            below, exponent = (one, other), exponent + first + second
        made[id(tree)] = Tree(D, left, right, below), exponent
    return made[id(tree)]


def _unfolding(D: Tensor, a: Tree, b: Tree, made: dict) -> tuple[Tensor, int]:
    """D on the hidden units of both trees, side by side above the same inputs: a matrix with its Gram matrix, and an exponent."""
    if a.below is None or b.below is None:
        left, right, exponent = torch.cat([a.left, b.left]), torch.cat([a.right, b.right]), 0
    else:
        (one, first), (other, second) = (_root(*parts, made) for parts in zip(a.below, b.below))
        left, right = torch.block_diag(a.left, b.left) @ one, torch.block_diag(a.right, b.right) @ other
        exponent = first + second
    left, right = _narrowed(left), _narrowed(right)
    instead = "squared norms and inner products, which lose half of the digits where the two nearly agree"
    require_affordable((len(D), left.shape[1], right.shape[1]), D.dtype, instead)
    return cp_unfolding(D, left, right), exponent


def _root(a: Tree, b: Tree, made: dict) -> tuple[Tensor, int]:
    """The outputs of both trees, one above the other, as a matrix near 1 that is at most square, and an exponent."""
    if (id(a), id(b)) not in made:
        unfolding, exponent = _unfolding(torch.block_diag(a.D, b.D), a, b, made)
        matrix = _narrowed(unfolding)
        power = int(exponents(matrix, (0, 1)))
        made[id(a), id(b)] = shifted(matrix, -power), exponent + power
    return made[id(a), id(b)]


def _narrowed(matrix: Tensor) -> Tensor:
    """A matrix M with M M^T that of `matrix`, at most square: the transposed triangle of a QR decomposition, which has no gradient."""
    rows, columns = matrix.shape
    return torch.linalg.qr(matrix.mT, mode="r").R.mT if columns > rows and not matrix.requires_grad else matrix
