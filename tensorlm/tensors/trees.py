"""Binary trees of bilinear nodes, and how far two of them are apart without cancellation.

A node is a bilinear layer whose two inputs come from different subtrees. A network with projected inputs, a CP
decomposition and the difference of two trees are all trees, so one function measures every approximation error.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tensorlm.tensors.checks import require_affordable
from tensorlm.tensors.cp import CPTensor
from tensorlm.tensors.scaling import balanced, exponents, length, ordinary, restored, shifted

HALF_ROUTE = "squared norms and inner products, which lose half of the digits where the two nearly agree"


@dataclass(frozen=True, eq=False)
class Tree:
    """D [(left y_0) * (right y_1)], where y_0, y_1 are the values of the two subtrees `below`, or inputs where there are none.

    D (out, hidden), left (hidden, size of y_0), right (hidden, size of y_1). Subtrees may be one object: they are read once.
    """

    D: Tensor
    left: Tensor
    right: Tensor
    below: tuple["Tree", "Tree"] | None = None


def join(D: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """sum_k D_ok left_ka right_kb as a matrix (out, a b): one matrix product behind the smaller of two Khatri-Rao products.

    >>> join(torch.ones(1, 1), torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]]))
    tensor([[3., 4., 6., 8.]])
    """
    if right.shape[1] < len(D):
        return D @ (left.unsqueeze(2) * right.unsqueeze(1)).flatten(1)
    return ((D.unsqueeze(1) * left.mT).flatten(0, 1) @ right).view(len(D), -1)


def climb(layers: Sequence[CPTensor], leaves: Sequence, make: Callable) -> list:
    """Values of the nodes above the leaves and `layers`: make(layer, left, right) at every node, once where two are the same."""
    values = list(leaves)
    for layer in layers:
        made: dict[tuple[int, int], object] = {}
        pairs = list(zip(values[::2], values[1::2]))
        for left, right in pairs:
            if (id(left), id(right)) not in made:
                made[id(left), id(right)] = make(layer, left, right)
        values = [made[id(left), id(right)] for left, right in pairs]
    return values


def restrict(layers: Sequence[CPTensor], output: Tensor | None, leaves: Sequence[Tensor | None]) -> Tensor:
    """T x_0 B_0^T x_1 B_1^T ... as a matrix (r_0, r_1 r_2 ...), B_0 being `output`, the others `leaves`, and None the identity."""
    *lower, last = layers
    left, right = climb(lower, leaves, _joined)
    return _joined(last, left, right, last.D if output is None else output.mT @ last.D)


def _joined(layer: CPTensor, left: Tensor | None, right: Tensor | None, D: Tensor | None = None) -> Tensor:
    left = layer.L if left is None else (left.mT @ layer.L.mT).mT  # laid out by columns, as `join` reads it
    return join(layer.D if D is None else D, left, layer.R if right is None else layer.R @ right)


def tree_norm(tree: Tree) -> Tensor:
    """|T| of the tensor of a tree, exact to rounding errors of the size of its largest terms, even if they cancel.

    Every subtree is replaced by the triangular factor of a QR decomposition, which has the same Gram matrix; squaring,
    which would lose half of the digits, happens only at the root. Costs O(out * hidden * width^2) a node: a third-order
    tensor. Raises ValueError where that takes more than `checks.DENSE_LIMIT` bytes, and where |T| leaves the number range.
    """
    return _size("tree", tree)


def tree_distance(a: Tree, b: Tree) -> Tensor:
    """|T_a - T_b|, the Frobenius norm of the difference of two trees of one shape, exact to rounding: see `tree_norm`.

    >>> square = Tree(torch.ones(1, 1), torch.eye(1), torch.eye(1))
    >>> tree_distance(square, Tree(torch.full((1, 1), 3.0), torch.eye(1), torch.eye(1)))
    tensor(2.)
    """
    return _size("a and b", a, Tree(-b.D, b.left, b.right, b.below))


def _size(name: str, *trees: Tree) -> Tensor:
    """The norm of the sum of one or two trees, with scaled factors where it is not of ordinary size without."""
    unfolding, exponent = _unfolding(_summed(*trees), {})
    size = torch.linalg.vector_norm(unfolding)
    if exponent == 0 and ordinary(size.detach().item(), size.dtype):
        return size
    scaled, powers = zip(*(_balanced(tree, {}) for tree in trees))
    alike = [Tree(shifted(tree.D, power - max(powers)), tree.left, tree.right, tree.below) for tree, power in zip(scaled, powers)]
    unfolding, exponent = _unfolding(_summed(*alike), {})
    return restored(length(unfolding.flatten()), exponent + max(powers), name, "a norm", reference=1.0)


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


def _summed(first: Tree, *others: Tree) -> Tree:
    for other in others:
        first = _direct_sum(first, other, {}, root=True)
    return first


def _direct_sum(a: Tree, b: Tree, made: dict[tuple[int, int, bool], Tree], root: bool = False) -> Tree:
    """Both trees side by side, on the same inputs; at the root their values are added."""
    if (key := (id(a), id(b), root)) not in made:
        D = torch.cat([a.D, b.D], dim=1) if root else torch.block_diag(a.D, b.D)
        if a.below is None or b.below is None:
            made[key] = Tree(D, torch.cat([a.left, b.left]), torch.cat([a.right, b.right]))
        else:
            below = _direct_sum(a.below[0], b.below[0], made), _direct_sum(a.below[1], b.below[1], made)
            made[key] = Tree(D, torch.block_diag(a.left, b.left), torch.block_diag(a.right, b.right), below)
    return made[key]


def _unfolding(tree: Tree, roots: dict[int, tuple[Tensor, int]]) -> tuple[Tensor, int]:
    """A matrix (out, k), times 2^(the second), with the Gram matrix of the tree's tensor."""
    left, right, exponent = tree.left, tree.right, 0
    if tree.below is not None:
        (one, first), (other, second) = (_root(part, roots) for part in tree.below)
        left, right, exponent = left @ one, right @ other, first + second
    left, right = _narrowed(left), _narrowed(right)
    require_affordable((len(tree.D), left.shape[1], right.shape[1]), tree.D.dtype, HALF_ROUTE)
    return join(tree.D, left, right), exponent


def _root(tree: Tree, roots: dict[int, tuple[Tensor, int]]) -> tuple[Tensor, int]:
    if id(tree) not in roots:
        matrix, exponent = _unfolding(tree, roots)
        matrix = _narrowed(matrix)
        power = 0 if ordinary(matrix.detach().abs().max().item(), matrix.dtype) else int(exponents(matrix, (0, 1)))
        roots[id(tree)] = shifted(matrix, -power) if power else matrix, exponent + power
    return roots[id(tree)]


def _narrowed(matrix: Tensor) -> Tensor:
    """A matrix M with M M^T that of `matrix`, at most square: the transposed triangle of a QR decomposition, which has no gradient."""
    rows, columns = matrix.shape
    return torch.linalg.qr(matrix.mT, mode="r").R.mT if columns > rows and not matrix.requires_grad else matrix
