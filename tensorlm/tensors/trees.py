"""Binary trees of bilinear nodes, and how far two of them are apart without cancellation.

A node is a bilinear layer whose two inputs come from different subtrees. A network with projected inputs, a CP
decomposition and the difference of two trees are all trees, so one function measures every approximation error.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tensorlm.tensors.checks import require_affordable
from tensorlm.tensors.cp import CPTensor

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


def climb(layers: tuple[CPTensor, ...], leaves: list, make: Callable) -> list:
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


def restrict(layers: tuple[CPTensor, ...], output: Tensor | None, leaves: list[Tensor | None]) -> Tensor:
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
    tensor. Raises ValueError where that takes more than `checks.DENSE_LIMIT` bytes.
    """
    return torch.linalg.vector_norm(_unfolding(tree, {}))


def tree_distance(a: Tree, b: Tree) -> Tensor:
    """|T_a - T_b|, the Frobenius norm of the difference of two trees of one shape, exact to rounding: see `tree_norm`.

    >>> square = Tree(torch.ones(1, 1), torch.eye(1), torch.eye(1))
    >>> tree_distance(square, Tree(torch.full((1, 1), 3.0), torch.eye(1), torch.eye(1)))
    tensor(2.)
    """
    return tree_norm(_direct_sum(a, Tree(-b.D, b.left, b.right, b.below), {}, root=True))


def _direct_sum(a: Tree, b: Tree, made: dict, root: bool = False) -> Tree:
    """Both trees side by side, on the same inputs; at the root their values are added."""
    if (key := (id(a), id(b), root)) not in made:
        D = torch.cat([a.D, b.D], dim=1) if root else torch.block_diag(a.D, b.D)
        if a.below is None:
            made[key] = Tree(D, torch.cat([a.left, b.left]), torch.cat([a.right, b.right]))
        else:
            below = tuple(_direct_sum(*pair, made) for pair in zip(a.below, b.below))
            made[key] = Tree(D, torch.block_diag(a.left, b.left), torch.block_diag(a.right, b.right), below)
    return made[key]


def _unfolding(tree: Tree, roots: dict[int, Tensor]) -> Tensor:
    """A matrix (out, k) with the Gram matrix of the tree's tensor."""
    left, right = tree.left, tree.right
    if tree.below is not None:
        left, right = left @ _root(tree.below[0], roots), right @ _root(tree.below[1], roots)
    left, right = _narrowed(left), _narrowed(right)
    require_affordable((len(tree.D), left.shape[1], right.shape[1]), tree.D.dtype, HALF_ROUTE)
    return join(tree.D, left, right)


def _root(tree: Tree, roots: dict[int, Tensor]) -> Tensor:
    if id(tree) not in roots:
        roots[id(tree)] = _narrowed(_unfolding(tree, roots))
    return roots[id(tree)]


def _narrowed(matrix: Tensor) -> Tensor:
    """A matrix M with M M^T that of `matrix`, at most square: the transposed triangle of a QR decomposition."""
    rows, columns = matrix.shape
    return torch.linalg.qr(matrix.mT, mode="r").R.mT if columns > rows else matrix
