"""The third-order tensor itself as the weights of a layer: all its entries, or those that the function has.

f(x)_o = sum_ij T_oij x_i x_j sees only S_oij = (T_oij + T_oji) / 2. `FullTensorMLP` stores T, out width^2 numbers;
`SymmetricMLP` stores S, out width (width + 1) / 2. Both are of degree 2, and both contain every bilinear layer.
"""

import math

import torch
from torch import Tensor, nn

from tensorlm.checks import require_counts
from tensorlm.layers.init import init_weights
from tensorlm.layers.linear import project, require_rows


class FullTensorMLP(nn.Module):
    """The third-order tensor itself: f(x)_o = sum_ij T_oij x_i x_j, degree 2.

    `T` is stored as a matrix (out, width * width), so that optimisers of matrices apply. Memory grows with
    out * width^2: at width 128 it is 21 times the bilinear layer of hidden width 2 * width.

    >>> layer = FullTensorMLP(width=4)
    >>> layer(torch.ones(1, 4)).shape, layer.parameter_count
    (torch.Size([1, 4]), 64)
    """

    kind = "full"

    def __init__(self, width: int, out: int | None = None):
        super().__init__()
        require_counts(width=width, out=width if out is None else out)
        self.width, self.hidden, self.out, self.degree = width, width * width, out or width, 2
        self.T = nn.Parameter(torch.empty(self.out, width * width))
        init_weights(self)

    def forward(self, x: Tensor) -> Tensor:
        require_rows(x, self.width)
        return project((x.unsqueeze(-1) * x.unsqueeze(-2)).flatten(-2), self.T)

    @property
    def parameter_count(self) -> int:
        return self.out * self.hidden


class SymmetricMLP(nn.Module):
    """The symmetric third-order tensor as weights: f(x)_o = sum_ij S_oij x_i x_j with S_oij = S_oji, degree 2.

    `S` is a matrix (out, width (width + 1) / 2): one row an output, one column a product of two inputs, so Muon
    orthogonalises that flattening (out x products). The products are x_i x_j for i < j and x_i^2 / sqrt(2); on Gaussian
    inputs each has variance one. With |S| that of the stored matrix and |S_o..| that of the tensor, 2 |S_o..|^2 = |S|^2:
    turning the input turns the stored rows, so neither initialisation nor Muon prefers an axis (a plain x_i^2 would).
    Entries start as N(0, 1 / columns): an input of unit RMS gives outputs of variance width / (width + 1).

    Shapes: x (..., width) -> (..., out).

    >>> layer = SymmetricMLP(width=4, out=3)
    >>> layer(torch.ones(1, 4)).shape, layer.parameter_count
    (torch.Size([1, 3]), 30)
    """

    kind = "symmetric"

    def __init__(self, width: int, out: int | None = None):
        super().__init__()
        require_counts(width=width, out=width if out is None else out)
        self.width, self.hidden, self.out, self.degree = width, symmetric_columns(width), out or width, 2
        self.S = nn.Parameter(torch.empty(self.out, self.hidden))
        init_weights(self)

    def forward(self, x: Tensor) -> Tensor:
        require_rows(x, self.width)
        squares = x.square() * math.sqrt(0.5)
        apart = [x[..., : self.width - offset] * x[..., offset:] for offset in range(1, self.width)]
        return project(torch.cat([squares, *apart], dim=-1), self.S)

    def tensor(self) -> Tensor:
        """S_oij as a dense tensor (out, width, width); gradients flow through it.

        >>> layer = SymmetricMLP(width=2, out=1)
        >>> _ = layer.S.data.copy_(torch.tensor([[0.0, 0.0, 1.0]]))  # x1 x2
        >>> layer.tensor()[0].tolist()
        [[0.0, 0.5], [0.5, 0.0]]
        """
        rows, columns, factor = _places(self.width, self.S)
        half = self.S.new_zeros(self.out, self.width, self.width)
        half[:, rows, columns] = self.S * factor
        return half + half.triu(1).mT

    @classmethod
    def from_tensor(cls, tensor: Tensor) -> "SymmetricMLP":
        """The layer with the function of T (out, width, width), of which it keeps the symmetric part.

        Raises ValueError for another shape, TypeError for what is no tensor of floating point numbers.

        >>> layer = SymmetricMLP.from_tensor(torch.tensor([[[3.0, 8.0], [0.0, 2.0]]]))
        >>> round(layer(torch.tensor([5.0, -1.0])).item(), 4)  # 3 * 25 - 8 * 5 + 2
        37.0
        """
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            raise TypeError(f"tensor must be a floating point tensor, got {getattr(tensor, 'dtype', type(tensor).__name__)}")
        if tensor.ndim != 3 or tensor.shape[1] != tensor.shape[2] or 0 in tensor.shape:
            raise ValueError(f"tensor must have shape (out, width, width), none of them 0, got {tuple(tensor.shape)}")
        layer = cls(tensor.shape[1], tensor.shape[0]).to(tensor)
        rows, columns, factor = _places(layer.width, layer.S)
        layer.S.data.copy_(((tensor + tensor.mT) / 2)[:, rows, columns] / factor)
        return layer

    @property
    def parameter_count(self) -> int:
        return self.out * self.hidden


def symmetric_columns(width: int) -> int:
    """How many products of two of `width` inputs there are, width (width + 1) / 2.

    >>> symmetric_columns(24)
    300
    """
    return width * (width + 1) // 2


def _places(width: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For each column of S its i and j, by j - i and then i, and the entry of the tensor that a one there makes."""
    rows = torch.cat([torch.arange(width - offset) for offset in range(width)])
    columns = torch.cat([torch.arange(offset, width) for offset in range(width)])
    factor = like.new_full((len(rows),), 0.5)
    factor[:width] = math.sqrt(0.5)
    return rows.to(like.device), columns.to(like.device), factor
