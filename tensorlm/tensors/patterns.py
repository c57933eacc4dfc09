"""The constants of polynomial attention: who sees whom, how a key fades with its age, and how a row is scaled."""

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from tensorlm.tensors.checks import require_instance

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
