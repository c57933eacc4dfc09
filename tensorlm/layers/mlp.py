"""Multi-layer perceptrons with one interface: twelve kinds, from ReLU to the full third-order tensor.

Each knows its `degree` (None: no polynomial), `reads` (how often a factor a > 0 of the input comes out, None: not as a
power), `products` (elementwise products a token), `encoders()` and `cp()`. A bias would break f(ax) = a^degree f(x).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tensorlm.checks import require, require_counts, require_one_of, require_rows
from tensorlm.layers.init import init_weights


class Kind(NamedTuple):
    """An activation between the encoders and D, `degree` and `reads` of the whole map."""

    activation: Callable[[Tensor], Tensor]
    degree: int | None = None
    reads: int | None = None


ENCODER_KINDS = {
    "relu": Kind(F.relu, reads=1),
    "relu2": Kind(lambda u: F.relu(u).square(), reads=2),
    "gelu": Kind(F.gelu),
    "square": Kind(torch.square, 2, 2),
}
GATED_KINDS = {
    "bilinear": Kind(lambda u: u, 2, 2),
    "swiglu": Kind(F.silu),
    "geglu": Kind(F.gelu),
    "reglu": Kind(F.relu, reads=2),
    "glu": Kind(torch.sigmoid),
}


class MLP(nn.Module):
    """What all kinds share: x (..., width) -> (..., out). Raises ValueError for sizes below 1 and unknown kinds."""

    D: nn.Parameter
    activation: Callable[[Tensor], Tensor]

    def __init__(self, kind: str, width: int, hidden: int, out: int | None, degree: int | None, reads: int | None, products: int):
        super().__init__()
        out = width if out is None else out
        require_counts(width=width, hidden=hidden, out=out)
        self.kind, self.width, self.hidden, self.out = kind, width, hidden, out
        self.degree, self.reads, self.products = degree, reads, products

    @property
    def parameter_count(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())

    def check(self, x: Tensor) -> None:
        if not isinstance(x, Tensor) or not x.is_floating_point() or x.shape[-1:] != (self.width,):
            require_rows(x, self.width)

    def encoders(self) -> list[Tensor]:
        """Matrices (hidden, width) with f(x) = D[(E_1 x) * ... * (E_k x)]; ValueError where there are none."""
        raise ValueError(f"an MLP of kind {self.kind!r} is no product of encoders: its activation is no power")

    def decoder(self) -> Tensor:
        return self.D

    def cp(self) -> tuple[Tensor, Tensor, Tensor]:
        """(D, L, R) with f(x) = D[(Lx) * (Rx)] exactly; ValueError where the map is not of degree 2."""
        if self.degree != 2:
            raise ValueError(f"only a polynomial of degree 2 is D[(Lx) * (Rx)]; this MLP is of kind {self.kind!r} and degree {self.degree}")
        left, right = self.encoders()
        return self.decoder(), left, right

    @torch.no_grad()
    def scale_input(self, scale: Tensor) -> None:
        """Change the weights to those of x -> f(scale * x); scale is a number () or one a feature (width,)."""
        for name, weight in self.named_parameters():
            if name != "D":
                weight.mul_(scale)


class EncoderMLP(MLP):
    """One encoder and an elementwise map: f(x) = D act(E x), E (hidden, width), D (out, hidden).

    Kinds: relu, relu2 (Primer, arXiv 2109.08668), gelu, square. Only `square` is a polynomial, the bilinear layer with L = R.
    """

    def __init__(self, kind: str, width: int, hidden: int, out: int | None = None):
        require_one_of("kind", kind, ENCODER_KINDS)
        self.activation, degree, reads = ENCODER_KINDS[kind]
        super().__init__(kind, width, hidden, out, degree, reads, hidden if reads == 2 else 0)
        self.E = nn.Parameter(torch.empty(hidden, width))
        self.D = nn.Parameter(torch.empty(self.out, hidden))
        init_weights(self)

    def forward(self, x: Tensor) -> Tensor:
        self.check(x)
        return F.linear(self.activation(F.linear(x, self.E.to(x.dtype))), self.D.to(x.dtype))

    def encoders(self) -> list[Tensor]:
        return [self.E, self.E] if self.kind == "square" else super().encoders()


class GatedMLP(MLP):
    """Two encoders multiplied: f(x) = D[act(L x) * (R x)] (Shazeer 2020, arXiv 2002.05202), L, R (hidden, width).

    Kinds: bilinear (act is the identity, degree 2), swiglu, geglu, reglu, glu (no polynomials).

    >>> layer = GatedMLP("bilinear", width=3, hidden=5)
    >>> x = torch.randn(2, 3)
    >>> torch.allclose(layer(3 * x), 9 * layer(x), atol=1e-5)
    True
    """

    def __init__(self, kind: str, width: int, hidden: int, out: int | None = None):
        require_one_of("kind", kind, GATED_KINDS)
        self.activation, degree, reads = GATED_KINDS[kind]
        super().__init__(kind, width, hidden, out, degree, reads, hidden)
        self.L = nn.Parameter(torch.empty(hidden, width))
        self.R = nn.Parameter(torch.empty(hidden, width))
        self.D = nn.Parameter(torch.empty(self.out, hidden))
        init_weights(self)

    def forward(self, x: Tensor) -> Tensor:
        self.check(x)
        left, right = F.linear(x, torch.cat((self.L, self.R)).to(x.dtype)).chunk(2, dim=-1)
        return F.linear(self.activation(left) * right, self.D.to(x.dtype))

    def encoders(self) -> list[Tensor]:
        return [self.L, self.R] if self.kind == "bilinear" else super().encoders()


class ProductMLP(MLP):
    """k encoders (hidden, width) multiplied: f(x) = D[(E_1 x) * ... * (E_k x)], a polynomial of degree k."""

    def __init__(self, width: int, hidden: int, out: int | None = None, encoders: int = 3):
        require_counts(encoders=encoders)
        super().__init__("product", width, hidden, out, encoders, encoders, (encoders - 1) * hidden)
        self.E = nn.ParameterList([torch.empty(hidden, width) for _ in range(encoders)])
        self.D = nn.Parameter(torch.empty(self.out, hidden))
        init_weights(self)

    def forward(self, x: Tensor) -> Tensor:
        self.check(x)
        first, *others = F.linear(x, torch.cat(tuple(self.E)).to(x.dtype)).chunk(len(self.E), dim=-1)
        for factor in others:
            first = first * factor
        return F.linear(first, self.D.to(x.dtype))

    def encoders(self) -> list[Tensor]:
        return list(self.E)


class FullTensorMLP(MLP):
    """The third-order tensor itself: f(x)_o = sum_ij T_oij x_i x_j, degree 2, stored as a matrix (out, width * width).

    >>> FullTensorMLP(width=4).parameter_count
    64
    """

    def __init__(self, width: int, out: int | None = None):
        super().__init__("full", width, width * width, out, 2, 2, width * width)
        self.T = nn.Parameter(torch.empty(self.out, width * width))
        init_weights(self)

    def forward(self, x: Tensor) -> Tensor:
        self.check(x)
        return F.linear((x.unsqueeze(-1) * x.unsqueeze(-2)).flatten(-2), self.T.to(x.dtype))

    def encoders(self) -> list[Tensor]:
        """Two matrices of zeros and ones that pick x_i and x_j for every column of T."""
        ones = torch.eye(self.width, dtype=self.T.dtype, device=self.T.device)
        return [ones.repeat_interleave(self.width, 0), ones.repeat(self.width, 1)]

    def decoder(self) -> Tensor:
        return self.T

    @torch.no_grad()
    def scale_input(self, scale: Tensor) -> None:
        self.T.mul_(torch.outer(scale, scale).flatten() if scale.ndim else scale**2)


class SymmetricMLP(MLP):
    """The symmetric third-order tensor as weights: f(x)_o = sum_ij S_oij x_i x_j with S_oij = S_oji, degree 2.

    `S` is a matrix (out, width (width + 1) / 2), one column a product: x_i x_j for i < j, and x_i^2 / sqrt(2). On Gaussian
    inputs each has variance one, so neither initialisation nor Muon prefers an axis. Entries start as N(0, 1 / columns).

    >>> layer = SymmetricMLP(width=4, out=3)
    >>> layer(torch.ones(1, 4)).shape, layer.parameter_count
    (torch.Size([1, 3]), 30)
    """

    def __init__(self, width: int, out: int | None = None):
        require_counts(width=width)
        pairs = width * (width + 1) // 2
        super().__init__("symmetric", width, pairs, out, 2, 2, pairs)
        self.S = nn.Parameter(torch.empty(self.out, pairs))
        init_weights(self)

    def forward(self, x: Tensor) -> Tensor:
        self.check(x)
        squares = x.square() * math.sqrt(0.5)
        apart = [x[..., : self.width - offset] * x[..., offset:] for offset in range(1, self.width)]
        return F.linear(torch.cat([squares, *apart], dim=-1), self.S.to(x.dtype))

    def tensor(self) -> Tensor:
        """S_oij as a dense tensor (out, width, width); gradients flow through it."""
        rows, columns, factor = _upper_places(self.width, self.S)
        half = self.S.new_zeros(self.out, self.width, self.width)
        half[:, rows, columns] = self.S * factor
        return half + half.triu(1).mT

    @classmethod
    def from_tensor(cls, tensor: Tensor) -> "SymmetricMLP":
        """The layer with the function of T (out, width, width), of which it keeps the symmetric part."""
        require_rows(tensor, None, "tensor")
        require(tensor.ndim == 3 and tensor.shape[1] == tensor.shape[2] and tensor.numel(), "tensor", tensor,
                "of shape (out, width, width), none of them 0")
        layer = cls(tensor.shape[1], tensor.shape[0]).to(tensor)
        rows, columns, factor = _upper_places(layer.width, layer.S)
        layer.S.data.copy_(((tensor + tensor.mT) / 2)[:, rows, columns] / factor)
        return layer

    def encoders(self) -> list[Tensor]:
        """Two matrices of zeros and ones that pick x_i and x_j for every column of S."""
        rows, columns, _ = _upper_places(self.width, self.S)
        ones = torch.eye(self.width, dtype=self.S.dtype, device=self.S.device)
        return [ones[rows], ones[columns]]

    def decoder(self) -> Tensor:
        """The coefficients of x_i x_j: 2 S_oij for i < j, and S_oii."""
        rows, columns, factor = _upper_places(self.width, self.S)
        return self.S * factor * (1 + (rows != columns).to(self.S.dtype))

    @torch.no_grad()
    def scale_input(self, scale: Tensor) -> None:
        rows, columns, _ = _upper_places(self.width, self.S)
        self.S.mul_(scale[rows] * scale[columns] if scale.ndim else scale**2)


def _upper_places(width: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For each column of S its i and j, diagonal by diagonal, and S_oij where that column holds a one."""
    rows = torch.cat([torch.arange(width - offset) for offset in range(width)])
    columns = torch.cat([torch.arange(offset, width) for offset in range(width)])
    factor = like.new_full((len(rows),), 0.5)
    factor[:width] = math.sqrt(0.5)
    return rows.to(like.device), columns.to(like.device), factor


TENSOR_KINDS: dict[str, type[FullTensorMLP] | type[SymmetricMLP]] = {"full": FullTensorMLP, "symmetric": SymmetricMLP}
MLP_KINDS = (*GATED_KINDS, *ENCODER_KINDS, "product", *TENSOR_KINDS)


def build_mlp(kind: str, width: int, hidden: int | None = None, out: int | None = None, encoders: int = 3) -> MLP:
    """The MLP of this kind. `hidden=None` takes `matched_hidden` of a budget of 8 width^2 parameters.

    >>> build_mlp("swiglu", width=48).hidden, build_mlp("relu", width=48).hidden
    (128, 192)
    """
    require_one_of("kind", kind, MLP_KINDS)
    require_counts(width=width, hidden=1 if hidden is None else hidden, out=1 if out is None else out, encoders=encoders)
    if kind in TENSOR_KINDS:
        return TENSOR_KINDS[kind](width, out)
    hidden = matched_hidden(kind, width, 8 * width * width, encoders) if hidden is None else hidden
    if kind == "product":
        return ProductMLP(width, hidden, out, encoders)
    return (GatedMLP if kind in GATED_KINDS else EncoderMLP)(kind, width, hidden, out)


def mlp_parameters(kind: str, width: int, hidden: int, out: int | None = None, encoders: int = 3) -> int:
    """Number of parameters: hidden * (encoders * width + out); of a tensor out * width^2, or out * width (width + 1) / 2."""
    with torch.device("meta"):
        return build_mlp(kind, width, None if kind in TENSOR_KINDS else hidden, out, encoders).parameter_count


def matched_hidden(kind: str, width: int, parameters: int, encoders: int = 3) -> int:
    """The hidden width whose parameter count is nearest to `parameters`, rounded to a multiple of 8 (above 8).

    The book's rule for matching layers in size: 8 width^2 parameters give 4 width for one encoder, 8 width / 3 for two.

    >>> matched_hidden("relu", 64, 8 * 64**2), matched_hidden("bilinear", 64, 6 * 64**2)
    (256, 128)
    """
    require_one_of("kind", kind, [known for known in MLP_KINDS if known not in TENSOR_KINDS])
    require_counts(width=width, parameters=parameters, encoders=encoders)
    matrices = (encoders if kind == "product" else 2 if kind in GATED_KINDS else 1) + 1
    exact = parameters / (width * matrices)
    return max(1, round(exact)) if exact < 8 else 8 * round(exact / 8)
