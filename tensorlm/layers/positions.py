"""How a head knows where a token stands: constants and learned constants that keep attention a polynomial."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tensorlm.layers.linear import require_rows
from tensorlm.tensors.checks import require_counts
from tensorlm.tensors.patterns import Pattern, keep_last, skew

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
        require_counts(heads=heads, head_dim=head_dim, context=context)
        known = isinstance(features, list | tuple) and all(feature in POSITIONS for feature in features)
        if not known or row_scale not in tuple(ROW_SCALES):
            raise ValueError(f"positions must be among {POSITIONS} and row_scale one of {tuple(ROW_SCALES)}, "
                             f"got {features} and {row_scale!r}")
        if head_dim % 2 and {"rope", "key_offset"} & set(features):
            raise ValueError(f"rope and key_offset need an even head_dim, got {head_dim}")
        self.features, self.heads, self.head_dim, self.context = tuple(features), heads, head_dim, context
        self.row_power = ROW_SCALES[row_scale]
        if "toeplitz" in features:
            self.toeplitz = nn.Parameter(torch.zeros(heads, context))
        self._slopes = self._build_slopes()
        self._pattern: Pattern | None = None
        self._constants: dict[str, tuple[tuple, Tensor]] = {}

    def slopes(self, like: Tensor | None = None) -> Tensor:
        """m_h, the decay per token of each head: (heads,); zeros without the decay feature."""
        return self._slopes if like is None else self._slopes.to(like)

    def _build_slopes(self) -> Tensor:
        heads = torch.arange(self.heads, dtype=torch.float64, device="cpu")
        return 2.0 ** (-8.0 * heads / self.heads) if "decay" in self.features else torch.zeros_like(heads)

    def pattern(self) -> Pattern:
        """The constants of polynomial attention, with what has been computed of them so far; checked once, which waits for a GPU."""
        table = getattr(self, "toeplitz", None)
        if torch.compiler.is_compiling() or self._pattern is None or self._pattern.table is not table:
            pattern = Pattern(self._slopes, self.row_power, table, self._constants)
            if torch.compiler.is_compiling():
                return pattern
            self._pattern = pattern
        return self._pattern

    def _apply(self, function, recurse=True):
        """Slopes go where the module goes, and stay in float64."""
        self._slopes, self._pattern = self._slopes.to(function(torch.empty(0)).device), None
        return super()._apply(function, recurse)

    def mask(self, count: int, dtype: torch.dtype = torch.float32, device: torch.device | None = None) -> Tensor:
        """The constant c_h[i, j] without the learned table, zero above the diagonal: (heads, count, count)."""
        require_counts(count=count)
        return Pattern(self._slopes, self.row_power, None, self._constants).rows(0, count, torch.empty((), dtype=dtype, device=device))

    def multiplier(self, count: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """What a polynomial score is multiplied by: c_h[i, j] (1 + t_h[i - j]), (heads, count, count)."""
        return self.pattern().rows(0, count, torch.empty((), dtype=dtype, device=device))

    def bias(self, count: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """What a softmax score is shifted by: -m_h (i - j) + t_h[i - j], -inf above the diagonal."""
        bias = keep_last(self._constants, "bias", count, dtype, device, lambda: self._build_bias(count))
        return bias + self.toeplitz_matrix(count, 0.0).to(dtype) if "toeplitz" in self.features else bias

    def _build_bias(self, count: int) -> Tensor:
        places = torch.arange(count, device=self._slopes.device)
        ages = places[:, None] - places
        return (-self.slopes()[:, None, None] * ages.clamp(min=0)).masked_fill(ages < 0, -math.inf)

    def toeplitz_matrix(self, count: int, plus: float) -> Tensor:
        """plus + t_h[i - j] on and below the diagonal (0 above): (heads, count, count)."""
        table = F.pad(self.toeplitz, (0, max(0, count - self.context)))
        return skew(table[:, :count] + plus, 0, count)

    def __getstate__(self):
        """For copies: without the constants kept, which are made again (and cannot be copied if made inside `torch.func`)."""
        return {**self.__dict__, "_constants": {}, "_pattern": None}

    def rotate(self, x: Tensor, start: int = 0) -> Tensor:
        """Rotate pairs of features of x (..., time, head_dim) by their position (no-op without rope)."""
        require_rows(x, self.head_dim)
        if "rope" not in self.features:
            return x
        where = (start, x.shape[-2])
        cos, sin = keep_last(self._constants, "rotation", where, x.dtype, x.device, lambda: self._build_rotation(*where))
        a, b = x.chunk(2, dim=-1)
        return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)

    def rotation_matrices(self, count: int) -> Tensor:
        """R_i with R_i x = `rotate`(x) at position i: (count, head_dim, head_dim), float64, the identity without rope."""
        rows = torch.eye(self.head_dim, dtype=torch.float64)[:, None].expand(-1, count, -1)
        return self.rotate(rows).permute(1, 2, 0)

    def _build_rotation(self, start: int, count: int) -> Tensor:
        half = self.head_dim // 2
        rates = ROPE_BASE ** (-torch.arange(half, dtype=torch.float64, device=self._slopes.device) / half)
        angles = (start + torch.arange(count).to(rates))[:, None] * rates
        return torch.stack([angles.cos(), angles.sin()])

    def offset(self, keys: Tensor, before: Tensor | None = None) -> Tensor:
        """Take the second half of each key (..., time, head_dim) from the position before (no-op without key_offset).

        `before` is the unshifted key of the position before the first one, (..., 1, head_dim); None means zeros.
        """
        require_rows(keys, self.head_dim, "keys")
        if "key_offset" not in self.features:
            return keys
        half = self.head_dim // 2
        first = torch.zeros_like(keys[..., :1, half:]) if before is None else before[..., half:]
        shifted = torch.cat([first, keys[..., :-1, half:]], dim=-2)
        return torch.cat([keys[..., :half], shifted], dim=-1)
