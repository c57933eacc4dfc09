"""How a head knows where a token stands: constants and learned constants that keep attention a polynomial."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

POSITIONS = ("rope", "decay", "toeplitz", "key_offset")
ROW_SCALES = {"none": 0.0, "sqrt": 0.5, "mean": 1.0}
ROPE_BASE = 10_000.0


class Positions(nn.Module):
    """The position features of one attention layer.

    | feature | what it does | kind |
    | --- | --- | --- |
    | rope | rotates q and k by an angle that grows with position (arXiv 2104.09864) | constant |
    | decay | multiplies the score of a key n tokens back by exp(-m_h n), m_h = 2^(-8 h / heads) | constant |
    | toeplitz | multiplies it by 1 + t_h[n], n < context; beyond the context t is 0 | learned, context numbers a head |
    | key_offset | the second half of each key comes from the previous position | constant |

    `row_scale` divides row i of the causal (decaying) mask by its own sum to the power 0, 1/2 or 1 (none, sqrt, mean).
    Under softmax attention decay and toeplitz are added to the scores (-m_h n and t_h[n]), and no row is scaled.

    >>> Positions(("decay",), heads=1, head_dim=4, context=8, row_scale="mean").mask(3).round(decimals=2)
    tensor([[[1.0000, 0.0000, 0.0000],
             [0.2700, 0.7300, 0.0000],
             [0.0900, 0.2400, 0.6700]]])
    """

    def __init__(self, features: tuple[str, ...], heads: int, head_dim: int, context: int, row_scale: str = "sqrt"):
        super().__init__()
        unknown = [feature for feature in features if feature not in POSITIONS]
        if unknown or row_scale not in ROW_SCALES:
            raise ValueError(f"positions must be among {POSITIONS} and row_scale one of {tuple(ROW_SCALES)}, "
                             f"got {features} and {row_scale!r}")
        if head_dim % 2 and {"rope", "key_offset"} & set(features):
            raise ValueError(f"rope and key_offset need an even head_dim, got {head_dim}")
        self.features, self.heads, self.head_dim, self.context = tuple(features), heads, head_dim, context
        self.row_power = ROW_SCALES[row_scale]
        if "toeplitz" in features:
            self.toeplitz = nn.Parameter(torch.zeros(heads, context))
        self._constants: dict[str, tuple[tuple, Tensor]] = {}

    def slopes(self, like: Tensor | None = None) -> Tensor:
        """m_h, the decay per token of each head: (heads,); zeros without the decay feature."""
        heads = torch.arange(self.heads, dtype=torch.float64)
        slopes = 2.0 ** (-8.0 * heads / self.heads) if "decay" in self.features else torch.zeros_like(heads)
        return slopes if like is None else slopes.to(like)

    def row_sums(self, count: int) -> Tensor:
        """Sum of the causal, decaying mask over row i, for i = 0 .. count - 1: (heads, count), float64."""
        ages = torch.arange(count, dtype=torch.float64)
        return torch.exp(-self.slopes()[:, None] * ages).cumsum(-1)

    def mask(self, count: int, dtype: torch.dtype = torch.float32, device: torch.device | None = None) -> Tensor:
        """The constant c_h[i, j], zero above the diagonal: (heads, count, count). Cached."""
        return self._cached("mask", (count,), dtype, device, self._build_mask)

    def _build_mask(self, count: int) -> Tensor:
        ages = torch.arange(count)[:, None] - torch.arange(count)
        mask = torch.exp(-self.slopes()[:, None, None] * ages.clamp(min=0)) * (ages >= 0)
        return mask / self.row_sums(count).pow(self.row_power)[..., None]

    def _cached(self, kind: str, sizes: tuple, dtype: torch.dtype, device: torch.device | None, build) -> Tensor:
        """The last constant of its kind; built outside inference mode, so that training may use it later."""
        key = (sizes, dtype, device)
        if kind not in self._constants or self._constants[kind][0] != key:
            with torch.inference_mode(False):
                self._constants[kind] = (key, build(*sizes).to(device=device, dtype=dtype))
        return self._constants[kind][1]

    def multiplier(self, count: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """What a polynomial score is multiplied by: c_h[i, j] (1 + t_h[i - j]), (heads, count, count)."""
        mask = self.mask(count, dtype, device)
        if "toeplitz" not in self.features:
            return mask
        return mask * self.toeplitz_matrix(count, 1.0).to(dtype)

    def bias(self, count: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """What a softmax score is shifted by: -m_h (i - j) + t_h[i - j], -inf above the diagonal."""
        bias = self._cached("bias", (count,), dtype, device, self._build_bias)
        return bias + self.toeplitz_matrix(count, 0.0).to(dtype) if "toeplitz" in self.features else bias

    def _build_bias(self, count: int) -> Tensor:
        ages = torch.arange(count)[:, None] - torch.arange(count)
        return (-self.slopes()[:, None, None] * ages.clamp(min=0)).masked_fill(ages < 0, -math.inf)

    def toeplitz_matrix(self, count: int, plus: float) -> Tensor:
        """plus + t_h[i - j] on and below the diagonal (0 above): (heads, count, count).

        Row i of the matrix is the reversed table shifted by i, so the whole is one strided view of a repeated row.
        """
        table = self.toeplitz
        if count > self.context:
            table = F.pad(table, (0, count - self.context))
        row = F.pad(table[:, :count].flip(-1) + plus, (0, count))
        skewed = row.repeat(1, count)[:, count - 1 : count - 1 + count * (2 * count - 1)]
        return skewed.view(self.heads, count, 2 * count - 1)[..., :count]

    def rotate(self, x: Tensor, start: int = 0) -> Tensor:
        """Rotate pairs of features of x (..., time, head_dim) by their position (no-op without rope)."""
        if "rope" not in self.features:
            return x
        cos, sin = self._cached("rotation", (start, x.shape[-2]), x.dtype, x.device, self._build_rotation)
        a, b = x.chunk(2, dim=-1)
        return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)

    def _build_rotation(self, start: int, count: int) -> Tensor:
        half = self.head_dim // 2
        rates = ROPE_BASE ** (-torch.arange(half, dtype=torch.float64) / half)
        angles = (start + torch.arange(count, dtype=torch.float64))[:, None] * rates
        return torch.stack([angles.cos(), angles.sin()])

    def offset(self, keys: Tensor, before: Tensor | None = None) -> Tensor:
        """Take the second half of each key (..., time, head_dim) from the position before (no-op without key_offset).

        `before` is the unshifted key of the position before the first one, (..., 1, head_dim); None means zeros.
        """
        if "key_offset" not in self.features:
            return keys
        half = self.head_dim // 2
        first = torch.zeros_like(keys[..., :1, half:]) if before is None else before[..., half:]
        shifted = torch.cat([first, keys[..., :-1, half:]], dim=-2)
        return torch.cat([keys[..., :half], shifted], dim=-1)
