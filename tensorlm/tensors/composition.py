"""Stacked bilinear layers as one tensor in tree form: N layers are a polynomial of degree 2^N, a tensor of order 2^N + 1.

Two layers: T_oijkl = sum_mn T2_omn T1_mij T1_nkl. The tree has one copy of the last layer, two of the one before it, four of
the next, so its cost is that of the factors, while the dense tensor has out * width^(2^N) entries: 256 GiB for two layers
of width 128. The leaves (inputs) are ordered left subtree first, and the left branch of a layer is its L.

The function fixes only the part of T that is symmetric under all permutations of the inputs; see `symmetry`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from tensorlm.tensors.checks import DENSE_LIMIT, require_affordable, require_instance, require_matrix, require_same_kind
from tensorlm.tensors.cp import CPTensor
from tensorlm.tensors.forms import symmetrised
from tensorlm.tensors.grams import branch_grams, environments
from tensorlm.tensors.scaling import restored
from tensorlm.tensors.trees import Tree, climb, restrict

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

