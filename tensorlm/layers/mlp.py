"""Multi-layer perceptrons with one interface: twelve kinds, from ReLU to the full third-order tensor.

Every class has `kind`, `width`, `hidden`, `out`, `degree` (the polynomial degree of the map, or None where it is no
polynomial) and `parameter_count`. None has a bias: a bias breaks the scaling law f(ax) = a^degree f(x) (chapter 02).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tensorlm.checks import require_counts
from tensorlm.layers.full_tensor import FullTensorMLP, SymmetricMLP, symmetric_columns
from tensorlm.layers.init import init_weights
from tensorlm.layers.linear import project, require_rows

ENCODER_KINDS = {
    "relu": F.relu,
    "relu2": lambda u: F.relu(u).square(),
    "gelu": F.gelu,
    "square": torch.square,
}
GATED_KINDS = {
    "bilinear": lambda u: u,
    "swiglu": F.silu,
    "geglu": F.gelu,
    "reglu": F.relu,
    "glu": torch.sigmoid,
}
TENSOR_KINDS: dict[str, type[FullTensorMLP] | type[SymmetricMLP]] = {"full": FullTensorMLP, "symmetric": SymmetricMLP}
MLP_KINDS = (*GATED_KINDS, *ENCODER_KINDS, "product", *TENSOR_KINDS)


class EncoderMLP(nn.Module):
    """One encoder and an elementwise map: f(x) = D act(E x).

    Kinds: relu, relu2 (Primer, arXiv 2109.08668), gelu, square. Only `square` is a polynomial (degree 2): it is the
    bilinear layer with L = R. Shapes: x (..., width) -> (..., out); E (hidden, width), D (out, hidden).

    >>> layer = EncoderMLP("square", width=4, hidden=8)
    >>> layer.degree, layer.parameter_count
    (2, 64)
    """

    def __init__(self, kind: str, width: int, hidden: int, out: int | None = None):
        super().__init__()
        _require_kind(kind, ENCODER_KINDS)
        _require_sizes(width, hidden, out)
        self.kind, self.width, self.hidden, self.out = kind, width, hidden, out or width
        self.degree = 2 if kind == "square" else None
        self.E = nn.Parameter(torch.empty(hidden, width))
        self.D = nn.Parameter(torch.empty(self.out, hidden))
        init_weights(self)

    def forward(self, x: Tensor) -> Tensor:
        require_rows(x, self.width)
        return project(ENCODER_KINDS[self.kind](project(x, self.E)), self.D)

    @property
    def parameter_count(self) -> int:
        return mlp_parameters(self.kind, self.width, self.hidden, self.out)


class GatedMLP(nn.Module):
    """Two encoders multiplied: f(x) = D[act(L x) * (R x)] (Shazeer 2020, arXiv 2002.05202).

    Kinds: bilinear (act is the identity, degree 2), swiglu, geglu, reglu, glu (no polynomials).
    Shapes: x (..., width) -> (..., out); L, R (hidden, width), D (out, hidden).

    >>> layer = GatedMLP("bilinear", width=3, hidden=5)
    >>> x = torch.randn(2, 3)
    >>> torch.allclose(layer(3 * x), 9 * layer(x), atol=1e-5)
    True
    """

    def __init__(self, kind: str, width: int, hidden: int, out: int | None = None):
        super().__init__()
        _require_kind(kind, GATED_KINDS)
        _require_sizes(width, hidden, out)
        self.kind, self.width, self.hidden, self.out = kind, width, hidden, out or width
        self.degree = 2 if kind == "bilinear" else None
        self.L = nn.Parameter(torch.empty(hidden, width))
        self.R = nn.Parameter(torch.empty(hidden, width))
        self.D = nn.Parameter(torch.empty(self.out, hidden))
        init_weights(self)

    def forward(self, x: Tensor) -> Tensor:
        require_rows(x, self.width)
        left, right = project(x, self.L, self.R).chunk(2, dim=-1)
        return project(GATED_KINDS[self.kind](left) * right, self.D)

    @property
    def parameter_count(self) -> int:
        return mlp_parameters(self.kind, self.width, self.hidden, self.out)


class ProductMLP(nn.Module):
    """k encoders multiplied: f(x) = D[(E_1 x) * ... * (E_k x)], a polynomial of degree k.

    Shapes: x (..., width) -> (..., out); each E_n (hidden, width), D (out, hidden). k = 2 is the bilinear layer.

    >>> ProductMLP(width=4, hidden=8, encoders=3).degree
    3
    """

    kind = "product"

    def __init__(self, width: int, hidden: int, out: int | None = None, encoders: int = 3):
        super().__init__()
        _require_sizes(width, hidden, out, encoders)
        self.width, self.hidden, self.out, self.degree = width, hidden, out or width, encoders
        self.E = nn.ParameterList([torch.empty(hidden, width) for _ in range(encoders)])
        self.D = nn.Parameter(torch.empty(self.out, hidden))
        init_weights(self)

    def forward(self, x: Tensor) -> Tensor:
        require_rows(x, self.width)
        first, *others = project(x, *self.E).chunk(len(self.E), dim=-1)
        for factor in others:
            first = first * factor
        return project(first, self.D)

    @property
    def parameter_count(self) -> int:
        return mlp_parameters(self.kind, self.width, self.hidden, self.out, self.degree)


MLP = EncoderMLP | GatedMLP | ProductMLP | FullTensorMLP | SymmetricMLP


def build_mlp(kind: str, width: int, hidden: int | None = None, out: int | None = None, encoders: int = 3) -> MLP:
    """The MLP of this kind. `hidden=None` takes `matched_hidden` of a budget of 8 width^2 parameters.

    >>> build_mlp("swiglu", width=48).hidden, build_mlp("relu", width=48).hidden
    (128, 192)
    """
    _require_kind(kind, MLP_KINDS)
    _require_sizes(width, 1 if hidden is None else hidden, out, encoders)
    if kind in TENSOR_KINDS:
        return TENSOR_KINDS[kind](width, out)
    hidden = hidden or matched_hidden(kind, width, 8 * width * width, encoders)
    if kind == "product":
        return ProductMLP(width, hidden, out, encoders)
    return (GatedMLP if kind in GATED_KINDS else EncoderMLP)(kind, width, hidden, out)


def mlp_parameters(kind: str, width: int, hidden: int, out: int | None = None, encoders: int = 3) -> int:
    """Number of parameters: hidden * (encoders * width + out); of the tensor out * width^2, or out * width (width + 1) / 2.

    >>> mlp_parameters("bilinear", width=64, hidden=128), mlp_parameters("full", width=64, hidden=0)
    (24576, 262144)
    """
    _require_kind(kind, MLP_KINDS)
    _require_sizes(width, 1 if kind in TENSOR_KINDS else hidden, out, encoders)
    out = out or width
    if kind in TENSOR_KINDS:
        return out * (width * width if kind == "full" else symmetric_columns(width))
    return hidden * (_encoders(kind, encoders) * width + out)


def matched_hidden(kind: str, width: int, parameters: int, encoders: int = 3) -> int:
    """The hidden width whose parameter count is nearest to `parameters`, rounded to a multiple of 8 (above 8).

    This is the book's rule for matching layers in size. For square layers of 8 width^2 parameters it
    gives 4 width for one encoder and 8 width / 3 for two.

    >>> matched_hidden("relu", 64, 8 * 64**2), matched_hidden("bilinear", 64, 6 * 64**2)
    (256, 128)
    """
    _require_kind(kind, MLP_KINDS)
    if kind in TENSOR_KINDS:
        raise ValueError("the full tensor has no hidden width: its size is fixed by the widths")
    require_counts(width=width, parameters=parameters, encoders=encoders)
    exact = parameters / (width * (_encoders(kind, encoders) + 1))
    return max(1, round(exact)) if exact < 8 else 8 * round(exact / 8)


def _encoders(kind: str, encoders: int) -> int:
    return encoders if kind == "product" else 2 if kind in GATED_KINDS else 1


def _require_sizes(width: int, hidden: int, out: int | None, encoders: int = 1) -> None:
    require_counts(width=width, hidden=hidden, out=1 if out is None else out, encoders=encoders)


def _require_kind(kind: str, allowed) -> None:
    if kind not in allowed:
        raise ValueError(f"unknown MLP kind {kind!r}; expected one of {tuple(allowed)}")
