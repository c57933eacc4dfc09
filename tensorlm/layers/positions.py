"""How a head knows where a token stands: constants and learned constants that keep attention a polynomial."""

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tensorlm.checks import require_counts, require_instance
from tensorlm.layers.linear import require_rows

BLOCK = 64  # queries that an algorithm takes at a time


@dataclass(frozen=True, eq=False)
class Pattern:
    """What the score of query i and key j is multiplied by, head by head:

        c_h[i, j] = exp(-m_h (i - j)) (1 + t_h[i - j]) / r_h[i]^power   for j <= i, and 0 for j > i,
        r_h[i] = sum of exp(-m_h n) over n = 0 .. i.

    `slopes` (heads,) are the m_h >= 0: 0 is the plain causal mask. `row_power` 0, 1/2 or 1 leaves rows as they are, keeps
    sums of independent values at unit size, or takes means. `table` (heads, window), if there is one, holds t_h; beyond
    the window t is 0. Gradients reach `slopes` and `table`. Constants are computed in float64 on the device of `slopes`.
    With a dictionary as `kept`, constants stay in it from call to call; a pattern without one keeps nothing.

    Raises TypeError or ValueError naming the argument, its value and what fits.

    >>> pattern = Pattern(torch.tensor([0.0]), row_power=1.0)
    >>> pattern.rows(0, 3, torch.empty(()))
    tensor([[[1.0000, 0.0000, 0.0000],
             [0.5000, 0.5000, 0.0000],
             [0.3333, 0.3333, 0.3333]]])
    """

    slopes: Tensor
    row_power: float = 0.5
    table: Tensor | None = None
    kept: dict | None = field(default=None, repr=False)

    def __post_init__(self):
        _require_slopes(self.slopes)
        if self.kept is not None:
            require_instance("kept", self.kept, dict)
        if not isinstance(self.row_power, int | float) or isinstance(self.row_power, bool) or not 0 <= self.row_power < math.inf:
            raise ValueError(f"row_power must be a finite number of at least 0, got {self.row_power!r}")
        if self.table is not None:
            _require_table(self.table, self.heads)

    @property
    def heads(self) -> int:
        return self.slopes.shape[0]

    @property
    def window(self) -> int:
        """Ages that the table covers; 0 without a table."""
        return 0 if self.table is None else self.table.shape[1]

    def fading(self, count: int) -> Tensor:
        """exp(-m_h n) for the ages n = 0 .. count - 1: (heads, count), float64."""
        return torch.exp(-self.slopes.double()[:, None] * torch.arange(count, dtype=torch.float64, device=self.slopes.device))

    def row_sums(self, count: int) -> Tensor:
        """r_h[i], the sums of the fading causal mask over its rows: (heads, count), float64."""
        return self.fading(count).cumsum(-1)

    def row_scale(self, count: int, like: Tensor) -> Tensor:
        """r_h[i]^-power for i = 0 .. count - 1: (heads, count), in dtype and on device of `like`."""
        return self._kept("row scale", count, like, lambda: self.row_sums(count).pow(-self.row_power))

    def rates(self, like: Tensor) -> Tensor:
        """The slopes in dtype and on device of `like`: (heads,)."""
        return self._kept("rates", self.heads, like, lambda: self.slopes)

    def rows(self, start: int, end: int, like: Tensor) -> Tensor:
        """c_h[i, j] for start <= i < end and j < end: (heads, end - start, end), in dtype and on device of `like`.

        >>> Pattern(torch.tensor([0.0]), 0.0, table=torch.tensor([[0.5, 0.25]])).rows(1, 3, torch.empty(()))
        tensor([[[1.2500, 1.5000, 0.0000],
                 [1.0000, 1.2500, 1.5000]]])
        """
        if not 0 <= start < end:
            raise ValueError(f"rows need 0 <= start < end, got start={start}, end={end}")
        rows = self._kept("rows", (start, end), like, lambda: self._constant_rows(start, end, like))
        if self.table is None:
            return rows
        one_plus = self._one_plus_table(end, like)
        return rows * _in_blocks(start, end, lambda first, last: skew(one_plus[:, :last], first, last).to(like.dtype))

    def band(self, rows: int, reach: int, like: Tensor) -> Tensor:
        """The last rows of c_h over `reach` positions, without row scale: (heads, rows, reach), that is exp(-m n)(1 + t[n]).

        Rows further up are the same, further to the left: without row scale c_h is a Toeplitz matrix.
        """
        weights = self._kept("fading", reach, like, lambda: self.fading(reach))
        if self.table is not None:
            weights = weights * self._one_plus_table(reach, like).to(like.dtype)
        return skew(weights, reach - rows, reach)

    def near_band(self, rows: int, reach: int, like: Tensor) -> Tensor:
        """`band`, but left of its last `rows` columns only what the table adds, exp(-m n) t[n]."""
        fading = self.fading(reach).to(like)
        own = F.pad(skew(fading[:, :rows], 0, rows), (reach - rows, 0))
        if self.table is None:
            return own
        return own + skew(fading * self._padded_table(reach).to(like.dtype), reach - rows, reach)

    def _constant_rows(self, start: int, end: int, like: Tensor) -> Tensor:
        fading, scale = self.fading(end), self.row_sums(end).pow(self.row_power)[..., None]
        return _in_blocks(start, end, lambda first, last: (skew(fading[:, :last], first, last) / scale[:, first:last]).to(like))

    def _kept(self, kind: str, size, like: Tensor, build) -> Tensor:
        """`keep_last` in `kept`, which is emptied where it holds the constants of other slopes or another power."""
        if self.kept is None or self.slopes.requires_grad or torch.compiler.is_compiling():
            return keep_last(None, kind, size, like.dtype, like.device, build)
        version = 0 if self.slopes.is_inference() else self.slopes._version  # of changes in place
        slopes, *others = self.kept.get("of", (None,))
        if slopes is not self.slopes or others != [version, self.row_power]:
            self.kept.clear()
            self.kept["of"] = (self.slopes, version, self.row_power)
        return keep_last(self.kept, kind, size, like.dtype, like.device, build)

    def _one_plus_table(self, count: int, like: Tensor) -> Tensor:
        """1 + t_h[n], in the wider of the table's own precision and that of `like`."""
        table = self._padded_table(count)
        return table.to(torch.promote_types(table.dtype, like.dtype)) + 1.0

    def _padded_table(self, count: int) -> Tensor:
        assert self.table is not None
        return F.pad(self.table, (0, max(0, count - self.window)))[:, :count]


def keep_last(store: dict | None, kind: str, size, dtype: torch.dtype, device: torch.device | None, build) -> Tensor:
    """`build()` in `dtype` on `device`, kept in `store` until another size, dtype or device of that kind is asked for.

    >>> store = {}
    >>> keep_last(store, "zeros", 2, torch.float32, None, lambda: torch.zeros(2)) is store["zeros"][1]
    True
    """
    if store is None or torch.compiler.is_compiling():  # a compiled graph has no guards on what is kept: it builds its own
        return build().to(device=device, dtype=dtype)
    key = (size, dtype, device)
    if kind not in store or store[kind][0] != key:
        with torch.inference_mode(False):  # so that training may use it later
            store[kind] = (key, build().to(device=device, dtype=dtype))
    return store[kind][1]


def skew(vector: Tensor, start: int, end: int) -> Tensor:
    """Rows start .. end - 1 of the lower triangular Toeplitz matrix M[i, j] = vector[i - j].

    Shapes: vector (heads, end) -> (heads, end - start, end). Each row is the reversed vector, one step further on, so
    that all rows are one strided view of a repeated row.

    >>> skew(torch.tensor([[1.0, 2.0, 3.0]]), 1, 3)
    tensor([[[2., 1., 0.],
             [3., 2., 1.]]])
    """
    rows, heads = end - start, vector.shape[0]
    length = end + rows - 1
    repeated = F.pad(vector.flip(-1), (0, rows)).repeat(1, rows)
    return repeated[:, rows - 1 : rows - 1 + rows * length].view(heads, rows, length)[..., :end]


def _in_blocks(start: int, end: int, build) -> Tensor:
    """Rows start .. end - 1 of `end` columns from build(first, last), which gives a block of rows up to column `last`."""
    blocks = [(first, min(first + BLOCK, end)) for first in range(start, end, BLOCK)]
    return torch.cat([F.pad(build(first, last), (0, end - last)) for first, last in blocks], dim=1)


def _require_slopes(slopes) -> None:
    require_instance("slopes", slopes, Tensor)
    if slopes.ndim != 1 or not slopes.is_floating_point():
        raise ValueError(f"slopes must be floating-point numbers of shape (heads,), got {slopes.dtype} {tuple(slopes.shape)}")
    if torch.compiler.is_compiling():  # reading values would break the graph; the run outside of it has read them
        return
    if not bool(((slopes >= 0) & torch.isfinite(slopes)).all()):
        raise ValueError(f"slopes must be finite and at least 0, got {slopes.tolist()}")


def _require_table(table, heads: int) -> None:
    require_instance("table", table, Tensor)
    if not table.is_floating_point() or table.ndim != 2 or table.shape[0] != heads or table.shape[1] == 0:
        raise ValueError(f"table must be floating-point numbers of shape (heads, window) with {heads} heads and a window of "
                         f"at least 1, got {table.dtype} {tuple(table.shape)}")


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
