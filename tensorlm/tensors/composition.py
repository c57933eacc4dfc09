"""Stacked bilinear layers as one tensor in tree form: N layers are a polynomial of degree 2^N, a tensor of order 2^N + 1.

Two layers: T_oijkl = sum_mn T2_omn T1_mij T1_nkl. The tree has one copy of the last layer, two of the one before it, four of
the next, so its cost is that of the factors, while the dense tensor has out * width^(2^N) entries: 256 GiB for two layers
of width 128. The leaves (inputs) are ordered left subtree first, and the left branch of a layer is its L.

The function fixes only the part of T that is symmetric under all permutations of the inputs; see `symmetry`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from tensorlm.checks import DENSE_LIMIT, require_affordable, require_finite, require_instance, require_matrix, require_same_kind
from tensorlm.scaling import balanced, exponents, length, ordinary, restored, shifted
from tensorlm.tensors.cp import CPTensor, symmetrised

Pair = tuple[Tensor, Tensor]


class Grams(NamedTuple):
    """For each of `layers` the pair (L G' L^T, R G' R^T), each (hidden, hidden), and the Gram matrix G (out, out) of its output.

    The network's own output n is 2^exponents[n] times that of `layers`: these are the network's own, and the exponents 0,
    unless squares would leave the number range.
    """

    layers: tuple[CPTensor, ...]
    pairs: list[Pair]
    wires: list[Tensor]
    exponents: list[int]


def branch_grams(layers: tuple[CPTensor, ...]) -> Grams:
    """Gram matrices up from the inputs; ValueError, naming layer and factor, for NaN or infinity."""
    found = _branch_grams(layers, scaled=False)
    if all(ordinary(wire.detach().trace().item(), wire.dtype) for wire in found.wires):
        return found
    require_finite_layers(layers)
    return _branch_grams(layers, scaled=True)


def environments(layers: tuple[CPTensor, ...], pairs: list[Pair]) -> list[Tensor]:
    """The Gram matrix (width, width) of the network around every leaf, in the order of the leaves."""
    *lower, (layer, pair) = zip(layers, pairs)
    above = list(_around_inputs(layer, pair, None))
    for layer, pair in reversed(lower):
        above = [around for whole in above for around in _around_inputs(layer, pair, whole)]
    return above


def require_finite_layers(layers: tuple[CPTensor, ...]) -> None:
    """Raise ValueError, naming layer and factor, if an entry is NaN or infinite."""
    for number, layer in enumerate(layers):
        for name in "DLR":
            require_finite(f"layers[{number}].{name}", getattr(layer, name))


def _branch_grams(layers: tuple[CPTensor, ...], scaled: bool) -> Grams:
    """`scaled`: every layer is balanced, and divided by a power of two, so that the trace of its output's Gram matrix is near 1."""
    made: list[CPTensor] = []
    pairs: list[Pair] = []
    wires: list[Tensor] = []
    exponents = [0]
    for layer in layers:
        D, L, R, exponent = balanced(layer.D, layer.L, layer.R) if scaled else (layer.D, layer.L, layer.R, 0)
        left, right = (L @ wires[-1], R @ wires[-1]) if wires else (L, R)
        pairs.append((left @ L.mT, right @ R.mT))
        wire = D @ (pairs[-1][0] * pairs[-1][1]) @ D.mT
        power = math.frexp(wire.detach().trace().item())[1] // 2 if scaled else 0
        wires.append(shifted(wire, -2 * power) if scaled else wire)
        exponents.append(2 * exponents[-1] + exponent + power)
        made.append(CPTensor(shifted(D, -power), L, R) if scaled else layer)
    return Grams(tuple(made), pairs, wires, exponents[1:])


def _around_inputs(layer: CPTensor, pair: Pair, above: Tensor | None) -> Pair:
    """(E_L, E_R) of one copy of a layer, given E above it, None at the output."""
    D, L, R = layer.D, layer.L, layer.R
    units = D.mT @ D if above is None else D.mT @ above @ D
    return L.mT @ (units * pair[1]) @ L, R.mT @ (units * pair[0]) @ R


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


FACTOR_ROUTES = "the factors: evaluation, contract, mode_grams, hosvd, odt and cp_als never need the dense tensor"


@dataclass(frozen=True, eq=False)
class ComposedTensor:
    """f(x) = f_N(... f_1(x)) of N layers, the first applied first: layers[i].out == layers[i + 1].width.

    Raises ValueError where there is no layer or two that follow each other do not fit, TypeError for mixed dtypes.

    >>> square = CPTensor(torch.ones(1, 1), torch.ones(1, 1), torch.ones(1, 1))  # x^2
    >>> network = compose(square, square, square)
    >>> network.degree, network.order, network(torch.tensor([2.0]))
    (8, 9, tensor([256.]))
    """

    layers: tuple[CPTensor, ...]

    def __post_init__(self):
        object.__setattr__(self, "layers", tuple(self.layers))
        if not self.layers:
            raise ValueError("layers must hold at least 1 CPTensor, got none")
        for number, layer in enumerate(self.layers):
            require_instance(f"layers[{number}]", layer, CPTensor)
        require_same_kind(**{f"layers[{number}]": layer.D for number, layer in enumerate(self.layers)})
        for number, (lower, upper) in enumerate(zip(self.layers, self.layers[1:])):
            if lower.out != upper.width:
                raise ValueError(f"layers[{number + 1}] must have width {lower.out}, the out of the layer before it, got {upper.width}")

    def __repr__(self) -> str:
        return f"ComposedTensor({', '.join(map(repr, self.layers))})"

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
    def device(self) -> torch.device:
        return self.layers[0].device

    @property
    def degree(self) -> int:
        """Degree of the polynomial, 2^N: f(a x) = a^(2^N) f(x). Also the number of leaves."""
        return 2 ** len(self.layers)

    @property
    def order(self) -> int:
        """Number of axes of the tensor, 2^N + 1."""
        return self.degree + 1

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the dense tensor, (out, width, ..., width)."""
        return self.out, *(self.width,) * self.degree

    @property
    def parameter_count(self) -> int:
        return sum(layer.parameter_count for layer in self.layers)

    @property
    def dense_count(self) -> int:
        """Entries of the dense tensor, out * width^(2^N)."""
        return self.out * self.width**self.degree

    @property
    def dense_bytes(self) -> int:
        return self.dense_count * self.dtype.itemsize

    def __call__(self, x: Tensor) -> Tensor:
        """f(x), layer by layer: x (..., width) -> (..., out)."""
        for layer in self.layers:
            x = layer(x)
        return x

    def tree(self) -> Tree:
        """The same tensor as a `Tree`, both copies of a layer being one object."""
        return climb(self.layers, [None] * self.degree, _node)[0]

    def projected(self, bases: list[Tensor]) -> Tree:
        """The tree of T x_0 B_0 B_0^T x_1 B_1 B_1^T ...: `bases` holds (out, r_0) and a (width, r_n) for every leaf."""
        output, *leaves = self._require_matrices("bases", bases, "modes")
        tree = climb(self.layers, [basis @ basis.mT for basis in leaves], _node)[0]
        return Tree(output @ (output.mT @ tree.D), tree.left, tree.right, tree.below)

    def dense(self, limit: float = DENSE_LIMIT) -> Tensor:
        """T (out, width, ..., width). Raises ValueError, naming the bytes, where it takes more than `limit`."""
        require_affordable(self.shape, self.dtype, FACTOR_ROUTES, limit)
        return restrict(self.layers, None, [None] * self.degree).view(self.shape)

    def restricted(self, bases: list[Tensor], limit: float = DENSE_LIMIT) -> Tensor:
        """T x_0 B_0^T x_1 B_1^T ... (r_0, r_1, ...): T's coordinates in bases (out, r_0), (width, r_1), ..., never by way of T.

        This is the core of a Tucker decomposition with these factors (Kolda & Bader 2009, section 4).
        """
        output, *leaves = self._require_matrices("bases", bases, "modes")
        shape = tuple(basis.shape[1] for basis in bases)
        require_affordable(shape, self.dtype, "lower ranks", limit)
        return restrict(self.layers, output, leaves).view(shape)

    def symmetrised(self) -> "ComposedTensor":
        """The network of the layers' symmetric parts: the same function, and both copies of a wire share one basis.

        For two layers its tensor is T averaged over 8 of the 24 permutations of the inputs, not over all of them.
        """
        return ComposedTensor(tuple(symmetrised(layer) for layer in self.layers))

    def contract(self, vectors: list[Tensor]) -> Tensor:
        """T with one vector in every input, column by column: 2^N matrices (width, r) -> (out, r).

        Column c is sum over i, j, ... of T_oij... a_ic b_jc ...; with x in every place it is f(x).

        >>> product = CPTensor(torch.ones(1, 1), torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]))  # x1 x2
        >>> compose(product).contract([torch.tensor([[3.0], [0.0]]), torch.tensor([[0.0], [2.0]])])
        tensor([[6.]])
        """
        self._require_matrices("vectors", vectors, "inputs")
        if len({value.shape[1] for value in vectors}) > 1:
            raise ValueError(f"vectors must have equally many columns, got {[value.shape[1] for value in vectors]}")
        return climb(self.layers, vectors, lambda layer, left, right: layer.D @ ((layer.L @ left) * (layer.R @ right)))[0]

    def wire_grams(self) -> list[Tensor]:
        """For each layer, from the first, the Gram matrix (out, out) of everything below its output wire.

        G_n = D [(L G L^T) * (R G R^T)] D^T with G = G_(n-1), and the identity for the input. The last one is `output_gram`.
        Like all Gram matrices, ValueError for NaN or infinity, and where entries leave the number range.
        """
        found = branch_grams(self.layers)
        return [_restored(wire, exponent) for wire, exponent in zip(found.wires, found.exponents)]

    def output_gram(self) -> Tensor:
        """Gram matrix of the output mode, T_(0) T_(0)^T: (out, out)."""
        found = branch_grams(self.layers)
        return _restored(found.wires[-1], found.exponents[-1])

    def input_gram(self, leaf: int) -> Tensor:
        """Gram matrix of one input mode, T_(1 + leaf) T_(1 + leaf)^T: (width, width)."""
        if not isinstance(leaf, int) or not 0 <= leaf < self.degree:
            raise ValueError(f"leaf must be an int from 0 to {self.degree - 1}, got {leaf!r}")
        found = branch_grams(self.layers)
        return _restored(environments(found.layers, found.pairs)[leaf], found.exponents[-1])

    def mode_grams(self) -> list[Tensor]:
        """Gram matrices of all 1 + 2^N modes, the output first: their eigenvectors are the HOSVD's factors.

        Down from the output, E_L = L^T [(D^T E D) * (R G R^T)] L and the same with L and R exchanged, where G is the Gram
        matrix below the other branch: O(2^N h^2 (h + width)), never width^(2^N).
        """
        found = branch_grams(self.layers)
        grams = [found.wires[-1], *environments(found.layers, found.pairs)]
        return [_restored(gram, found.exponents[-1]) for gram in grams]

    def squared_norm(self) -> Tensor:
        """|T|^2, the sum of the squared entries; ValueError where it leaves the number range."""
        found = branch_grams(self.layers)
        return restored(found.wires[-1].trace(), 2 * found.exponents[-1], "tensor", "|T|^2")

    def _require_matrices(self, name: str, matrices: list[Tensor], places: str) -> list[Tensor]:
        """Raise unless there is a matrix for each of the "modes", or the "inputs", with its number of rows."""
        sizes = self.shape if places == "modes" else self.shape[1:]
        if len(matrices) != len(sizes):
            raise ValueError(f"{name} must hold a matrix for each of {len(sizes)} {places}, got {len(matrices)}")
        for number, (matrix, size) in enumerate(zip(matrices, sizes)):
            require_matrix(f"{name}[{number}]", matrix)
            require_same_kind(layers=self.layers[0].D, **{f"{name}[{number}]": matrix})
            if len(matrix) != size:
                raise ValueError(f"{name}[{number}] must have {size} rows, got shape {tuple(matrix.shape)}")
        return list(matrices)


def compose(*layers: CPTensor) -> ComposedTensor:
    """The tensor of f_N(... f_1(x)): layers in the order in which they are applied."""
    return ComposedTensor(layers)


def as_composed(tensor: CPTensor | ComposedTensor) -> ComposedTensor:
    """A network as it is, one layer as a stack of one; TypeError for anything else."""
    if isinstance(tensor, CPTensor):
        return ComposedTensor((tensor,))
    require_instance("tensor", tensor, ComposedTensor)
    return tensor


def _node(layer: CPTensor, left, right) -> Tree:
    """One node of a tree, above two subtrees or above two leaves (matrices, None being the identity)."""
    if isinstance(left, Tree):
        return Tree(layer.D, layer.L, layer.R, (left, right))
    return Tree(layer.D, _through(layer.L, left), _through(layer.R, right))


def _restored(gram: Tensor, exponent: int) -> Tensor:
    return gram if exponent == 0 else restored(gram, 2 * exponent, "tensor", "Gram matrices")


def _through(encoder: Tensor, below: Tensor | None) -> Tensor:
    return encoder if below is None else encoder @ below
