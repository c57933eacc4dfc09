"""Classifiers made of bilinear layers as quadratic forms: g(x) = x'Qx + 2 b'x + c0.

Every layer reads (1, x), so biases and residuals are entries of its factors like all others. An output of one layer is a form,
and so is a margin, one output less another. Two layers are of degree 4, and stay a tuple of layers here.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from einops import einsum
from torch import Tensor, nn

from tensorlm.checks import require, require_affordable, require_last_axis, require_same_kind, require_whole
from tensorlm.layers import Norm
from tensorlm.layers.mlp import MLP
from tensorlm.tensors import CPTensor
from tensorlm.tensors.composition import ComposedTensor
from tensorlm.tensors.cp import require_finite_cp

KNOWN_PARTS = "an MLP of degree 2, a CPTensor or ComposedTensor, nn.Linear, a constant Norm, or a sequence of these"
ACTIVATIONS = ("ReLU", "GELU", "SiLU", "ELU", "LeakyReLU", "Tanh", "Sigmoid", "Softplus", "Mish", "Hardswish")
NORMS = ("LayerNorm", "RMSNorm", "GroupNorm", "BatchNorm1d")
ADVICE = {
    **dict.fromkeys(("Softmax", "LogSoftmax"), "leave it out: it keeps the order of the logits"),
    **dict.fromkeys(ACTIVATIONS, "an activation is no polynomial: train with GatedMLP('bilinear', ...) in its place"),
    **dict.fromkeys(NORMS, "it divides by what depends on the input: train without it or with Norm('scale'), a constant"),
    "TensorTransformer": "it reads tokens, and attention is of degree 5: hand over the MLP of one block",
}


class Quadratic(NamedTuple):
    """g(x) = x'Qx + 2 b'x + c0 for one form or many: Q (..., d, d) symmetric, b (..., d), c0 (...).

    >>> form = Quadratic(torch.eye(2), torch.tensor([1.0, 0.0]), torch.tensor(3.0))  # |x|^2 + 2 x1 + 3
    >>> form(torch.tensor([1.0, 2.0]))
    tensor(10.)
    """

    Q: Tensor
    b: Tensor
    c0: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """The value of every form at every point: x (..., d) -> (..., forms)."""
        require_same_kind(Q=self.Q, x=x)
        require_last_axis("x", x, self.b.shape[-1])
        Q, b = self.Q.reshape(-1, *self.Q.shape[-2:]), self.b.reshape(-1, self.b.shape[-1])
        squares = einsum(x, Q, x, "... i, form i j, ... j -> ... form")
        return (squares + 2 * x @ b.mT + self.c0.flatten()).reshape(x.shape[:-1] + self.c0.shape)

    def around(self, x: Tensor) -> "Quadratic":
        """The same forms in the distance from one point x (d,): g(x + delta) = delta'Q delta + 2 (Qx + b)'delta + g(x)."""
        return Quadratic(self.Q, self.Q @ x + self.b, self(x))

    def margin(self, label: int, rival: int) -> "Quadratic":
        """Form `label` less form `rival`, positive where the label leads; ValueError unless both are numbers of forms (m,)."""
        for name, index in (("label", label), ("rival", rival)):
            require_whole(name, index, 0, len(self.c0) - 1)
        return Quadratic(*(part[label] - part[rival] for part in self))


def quadratic_forms(classifier: Any, width: int) -> Quadratic:
    """Every output of one bilinear layer as a form of its input x (width,), in float64: a batch of `out` forms.

    With factors that read (1, x), M = sym(L' diag(D_o) R) holds c0 = M_00, b = M_0i and Q = M_ij. `classifier` is what
    `certificate` takes. Raises as it does, and ValueError where the forms take more than `checks.DENSE_LIMIT` bytes.

    >>> square = CPTensor(torch.ones(1, 1), torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 2.0]]))  # (1 + 2x)^2, reads (1, x)
    >>> [part.tolist() for part in quadratic_forms(square, width=1)]
    [[[[4.0]]], [[2.0]], [1.0]]
    """
    return forms_of(single_layer(classifier, width))


def forms_of(layer: CPTensor) -> Quadratic:
    """The outputs of a layer that reads (1, x)."""
    require_affordable(layer.shape, layer.dtype, "fewer pixels or classes")
    matrices = layer.symmetric()
    return Quadratic(matrices[:, 1:, 1:], matrices[:, 0, 1:], matrices[:, 0, 0])


def single_layer(classifier: Any, width: int) -> CPTensor:
    """The one bilinear layer of a classifier, reading (1, x); ValueError where there are more."""
    layers = as_layers(classifier, width)
    require(len(layers) == 1, "classifier", f"{len(layers)} layers", "one bilinear layer: of more, see radius_bound")
    return layers[0]


def as_layers(classifier: Any, width: int) -> tuple[CPTensor, ...]:
    """The bilinear layers of a classifier of x (width,), each reading (1, what the one before it wrote), in float64 on the CPU.

    Parts are MLPs of degree 2, CPTensors, linear maps and constant norms, in sequence. A layer as wide as what arrives reads it
    as it is; one wider by one reads (1, x). A linear map becomes part of the next layer, at the end of the last one.
    Raises ValueError or TypeError for other parts, naming them and what can be done, and for widths that do not fit.
    """
    require_whole("width", width, 1)
    layers: list[CPTensor] = []
    ahead = torch.eye(1 + width, dtype=torch.float64)  # (1, x) -> (1, what arrives)
    parts = list(parts_of(classifier))
    require(parts, "classifier", classifier, f"at least one part: {KNOWN_PARTS}")
    for part in parts:
        if isinstance(part, nn.Linear | Norm):
            ahead = affine(part, len(ahead) - 1) @ ahead
            continue
        cp = factors(part)
        layers.append(CPTensor(cp.D, reads(cp.L, ahead), reads(cp.R, ahead)))
        ahead = torch.eye(1 + cp.out, dtype=torch.float64)
    if not layers:
        constant = torch.eye(1, 1 + width).to(ahead).expand(len(ahead) - 1, -1)
        return (CPTensor(torch.eye(len(ahead) - 1).to(ahead), ahead[1:], constant.contiguous()),)
    last = layers[-1]
    head = CPTensor(ahead[1:, 1:] @ last.D, last.L, last.R).with_output_bias(ahead[1:, 0].contiguous())
    return *layers[:-1], head


def parts_of(classifier: Any) -> Iterator[Any]:
    """The parts of a classifier in the order in which they are applied; TypeError, with advice, for one that is not known."""
    if isinstance(classifier, ComposedTensor):
        yield from classifier.layers
    elif isinstance(classifier, nn.Sequential | Sequence) and not isinstance(classifier, str):
        for part in classifier:
            yield from parts_of(part)
    elif isinstance(classifier, MLP | CPTensor | nn.Linear | Norm):
        yield classifier
    else:
        name = type(classifier).__name__
        advice = ADVICE.get(name, "of unknown form")
        raise TypeError(f"classifier must be made of polynomial parts, {KNOWN_PARTS}; got {name}: {advice}")


def factors(part: MLP | CPTensor) -> CPTensor:
    """A layer's factors in float64; ValueError for an MLP that is not of degree 2, and for NaN and infinity."""
    if isinstance(part, MLP):
        require(part.degree == 2, "classifier", f"{part.kind} of degree {part.degree}",
                "made of polynomial parts of degree 2; train with GatedMLP('bilinear', ...) in its place")
    matrices = part.cp() if isinstance(part, MLP) else (part.D, part.L, part.R)
    cp = CPTensor(*(matrix.detach().double().cpu() for matrix in matrices))
    require_finite_cp("classifier", cp)
    return cp


def affine(part: nn.Linear | Norm, width: int) -> Tensor:
    """The matrix (1 + out, 1 + width) of (1, y) -> (1, Wy + c); ValueError for a norm of each input."""
    if isinstance(part, Norm):
        require(part.is_constant and part.groups == 1, "classifier", f"a Norm of kind {part.kind!r}",
                "made of polynomial parts; this one divides by what depends on the input: train with Norm('scale')")
        weight, bias = torch.diag(part.factor().double().cpu().flatten().expand(width)), None
    else:
        weight, bias = part.weight.detach().double().cpu(), part.bias
    require(weight.shape[1] == width, "classifier", tuple(weight.shape), f"of parts that fit: a map that reads {width} numbers")
    result = torch.zeros(1 + weight.shape[0], 1 + width).to(weight)
    result[0, 0], result[1:, 1:] = 1, weight
    if bias is not None:
        result[1:, 0] = bias.detach()
    return result


def reads(factor: Tensor, ahead: Tensor) -> Tensor:
    """Rows of L or R on (1, x), from rows on y or on (1, y), where `ahead` is the matrix from (1, x) to (1, y)."""
    arriving = len(ahead) - 1
    wanted = f"of parts that fit: a layer that reads {arriving} numbers x, or {arriving + 1} as (1, x)"
    require(factor.shape[1] in (arriving, arriving + 1), "classifier", f"a layer that reads {factor.shape[1]} numbers", wanted)
    return factor @ ahead[len(ahead) - factor.shape[1]:]
