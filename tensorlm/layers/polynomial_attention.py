"""Polynomial attention: one function of queries, keys and values, and the algorithms that compute it.

With one branch (q, k) or two (q1, k1), (q2, k2), and the constants c of a `Pattern`, head by head:

    squared   z_i = sum_{j <= i} c_ij (q_i . k_j)^2 v_j,
    bilinear  z_i = sum_{j <= i} c_ij (q1_i . k1_j)(q2_i . k2_j) v_j.

The score is an inner product of features, so a sum over all past keys can be carried as a state of d^2 x d numbers (linear
attention: Katharopoulos et al. arXiv 2006.16236; in chunks: Hua et al. arXiv 2202.10447, section 3).
"""

import importlib.util
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from tensorlm.checks import DTYPES, is_finite, require, require_counts, require_instance, require_one_of
from tensorlm.layers.costs import ALGORITHMS, BLOCK, CHUNK, choose, chunks_back

FUSED_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
FUSED_SIZE = 128  # of a head
HAS_TRITON = importlib.util.find_spec("triton") is not None
Branches = Sequence[Tensor]  # one tensor (squared) or two (bilinear), each (..., heads, time, head_dim)


@dataclass(frozen=True, eq=False)
class Pattern:
    """What the score of query i and key j is multiplied by, head by head:

        c_h[i, j] = exp(-m_h (i - j)) (1 + t_h[i - j]) / r_h[i]^power   for j <= i, and 0 for j > i,
        r_h[i] = sum of exp(-m_h n) over n = 0 .. i.

    `slopes` (heads,) are the m_h >= 0; `row_power` 0, 1/2 or 1 leaves rows as they are, keeps sums of independent values at unit size, or
    takes means; `table` (heads, window) holds t_h, 0 beyond it. Gradients reach `slopes` and `table`. Constants are computed in float64,
    and stay in the dictionary `kept` if there is one. Raises TypeError or ValueError for what does not fit.

    >>> Pattern(torch.tensor([0.0]), row_power=1.0).rows(0, 3, torch.empty(()))
    tensor([[[1.0000, 0.0000, 0.0000],
             [0.5000, 0.5000, 0.0000],
             [0.3333, 0.3333, 0.3333]]])
    """

    slopes: Tensor
    row_power: float = 0.5
    table: Tensor | None = None
    kept: dict | None = field(default=None, repr=False)

    def __post_init__(self):
        require_instance("slopes", self.slopes, Tensor)
        if self.slopes.ndim != 1 or not self.slopes.is_floating_point():
            raise ValueError(f"slopes must be floating-point numbers of shape (heads,), got {self.slopes.dtype} {tuple(self.slopes.shape)}")
        # Reading values would break a compiled graph; the run outside of it has read them.
        if not torch.compiler.is_compiling() and not bool(((self.slopes >= 0) & torch.isfinite(self.slopes)).all()):
            raise ValueError(f"slopes must be finite and at least 0, got {self.slopes.tolist()}")
        require(is_finite(self.row_power) and self.row_power >= 0, "row_power", self.row_power, "a finite number of at least 0")
        if self.kept is not None:
            require_instance("kept", self.kept, dict)
        if self.table is not None:
            require_instance("table", self.table, Tensor)
            fits = self.table.is_floating_point() and self.table.ndim == 2 and len(self.table) == self.heads and self.table.numel() > 0
            require(fits, "table", self.table, f"floating-point numbers (heads, window), {self.heads} heads, a window of at least 1")

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

    def row_scale(self, count: int, like: Tensor) -> Tensor:
        """r_h[i]^-power for i = 0 .. count - 1: (heads, count), in dtype and on device of `like`."""
        return self._kept("row scale", count, like, lambda: self.fading(count).cumsum(-1).pow(-self.row_power))

    def rates(self, like: Tensor) -> Tensor:
        return self._kept("rates", self.heads, like, lambda: self.slopes)

    def rows(self, start: int, end: int, like: Tensor) -> Tensor:
        """c_h[i, j] for start <= i < end and j < end: (heads, end - start, end), in dtype and on device of `like`."""
        if not 0 <= start < end:
            raise ValueError(f"rows need 0 <= start < end, got start={start}, end={end}")
        rows = self._kept("rows", (start, end), like, lambda: self._constant_rows(start, end, like))
        if self.table is None:
            return rows
        one_plus = self._one_plus_table(end, like)
        if end - start <= BLOCK:
            return rows * skew(one_plus, start, end).to(like.dtype)
        return rows * _in_blocks(start, end, lambda first, last: skew(one_plus[:, :last], first, last).to(like.dtype))

    def ages(self, count: int, like: Tensor) -> Tensor:
        """exp(-m_h n) (1 + t_h[n]) for the ages n = 0 .. count - 1: (heads, count), in dtype and on device of `like`."""
        weights = self._kept("fading", count, like, lambda: self.fading(count))
        return weights if self.table is None else weights * self._one_plus_table(count, like).to(like.dtype)

    def band(self, rows: int, reach: int, like: Tensor) -> Tensor:
        """The last rows of c_h over `reach` positions, without row scale; rows above are the same, further to the left."""
        return skew(self.ages(reach, like), reach - rows, reach)

    def near_band(self, rows: int, reach: int, like: Tensor) -> Tensor:
        """`band`, but left of its last `rows` columns only what the table adds, exp(-m n) t[n]."""
        fading = self.fading(reach).to(like)
        own = F.pad(skew(fading[:, :rows], 0, rows), (reach - rows, 0))
        return own if self.table is None else own + skew(fading * self.padded_table(reach).to(like.dtype), reach - rows, reach)

    def _constant_rows(self, start: int, end: int, like: Tensor) -> Tensor:
        fading = self.fading(end)
        scale = fading.cumsum(-1).pow(self.row_power)[..., None]
        return _in_blocks(start, end, lambda first, last: (skew(fading[:, :last], first, last) / scale[:, first:last]).to(like))

    def _kept(self, kind: str, size, like: Tensor, build: Callable[[], Tensor]) -> Tensor:
        """`keep_last` in `kept`, which is emptied where it holds the constants of other slopes or another power."""
        if self.kept is None or self.slopes.requires_grad or torch.compiler.is_compiling():
            return build().to(device=like.device, dtype=like.dtype)
        of = (0 if self.slopes.is_inference() else self.slopes._version, self.row_power)  # the version counts changes in place
        slopes, *others = self.kept.get("of", (None,))
        if slopes is not self.slopes or tuple(others) != of:
            self.kept.clear()
            self.kept["of"] = (self.slopes, *of)
        return keep_last(self.kept, kind, size, like.dtype, like.device, build)

    def _one_plus_table(self, count: int, like: Tensor) -> Tensor:
        """1 + t_h[n], in the wider of the table's own precision and that of `like`."""
        table = self.padded_table(count)
        return table.to(torch.promote_types(table.dtype, like.dtype)) + 1.0

    def padded_table(self, count: int) -> Tensor:
        """t_h[n] for the ages n = 0 .. count - 1: (heads, count)."""
        assert self.table is not None
        return F.pad(self.table, (0, max(0, count - self.window)))[:, :count]


def keep_last(store: dict, kind: str, size, dtype: torch.dtype, device: torch.device | None, build: Callable[[], Tensor]) -> Tensor:
    """`build()` in `dtype` on `device`, kept in `store` until another size, dtype or device of that kind is asked for."""
    if torch.compiler.is_compiling():  # a compiled graph has no guards on what is kept: it builds its own
        return build().to(device=device, dtype=dtype)
    key = (size, dtype, device)
    if kind not in store or store[kind][0] != key:
        with torch.inference_mode(False):  # so that training may use it later
            store[kind] = (key, build().to(device=device, dtype=dtype))
    return store[kind][1]


def skew(vector: Tensor, start: int, end: int) -> Tensor:
    """Rows start .. end - 1 of the Toeplitz matrix M[i, j] = vector[i - j]: (heads, end) -> (heads, end - start, end).

    >>> skew(torch.tensor([[1.0, 2.0, 3.0]]), 1, 3)
    tensor([[[2., 1., 0.],
             [3., 2., 1.]]])
    """
    rows, heads = end - start, vector.shape[0]
    length = end + rows - 1
    repeated = F.pad(vector.flip(-1), (0, rows)).repeat(1, rows)
    return repeated[:, rows - 1 : rows - 1 + rows * length].view(heads, rows, length)[..., :end]


def _in_blocks(start: int, end: int, build: Callable[[int, int], Tensor]) -> Tensor:
    """Rows start .. end - 1 of `end` columns from build(first, last), which gives a block of rows up to column `last`."""
    blocks = [(first, min(first + BLOCK, end)) for first in range(start, end, BLOCK)]
    return torch.cat([F.pad(build(first, last), (0, end - last)) for first, last in blocks], dim=1)


def attend(queries: Branches, keys: Branches, values: Tensor, pattern: Pattern, algorithm: str = "auto") -> Tensor:
    """Polynomial attention by the algorithm "quadratic", "row_blocks", "recurrent", "fused", or "auto" for the cheapest.

    Shapes: queries and keys one or two tensors (..., heads, time, head_dim), values (..., heads, time, value_dim) -> like
    values. All are one function, gradients included; they differ in rounding, time and memory (`choose`). In half precision
    "auto" leaves the recurrent one out. Raises TypeError or ValueError naming the argument.

    >>> x = torch.eye(2).view(1, 2, 2)
    >>> attend([x], [x], x, Pattern(torch.tensor([0.0]), row_power=0.0))
    tensor([[[1., 0.],
             [0., 1.]]])
    """
    _check(queries, keys, values, pattern)
    if algorithm == "auto":
        can_fuse = values.is_cuda and not fused_obstacle(queries[0], values, pattern)
        cheapest = choose.__wrapped__ if torch.compiler.is_compiling() else choose  # a graph cannot ask a cache
        algorithm = cheapest(*queries[0].shape[-2:], len(queries), pattern.window, can_fuse)
        if algorithm == "recurrent" and values.dtype not in DTYPES:
            algorithm = "fused" if can_fuse else "row_blocks"
    if algorithm == "quadratic":
        return quadratic(queries, keys, values, pattern)
    require_one_of("algorithm", algorithm, ("auto", *ALGORITHMS, "fused"))
    return {"row_blocks": row_blocks, "recurrent": recurrent, "fused": fused}[algorithm](queries, keys, values, pattern)


def quadratic(queries: Branches, keys: Branches, values: Tensor, pattern: Pattern) -> Tensor:
    """The whole pattern of scores at once, half of which the mask sets to zero; arguments as in `attend`, unchecked."""
    return _product(queries, keys, pattern.rows(0, values.shape[-2], values)) @ values


def row_blocks(queries: Branches, keys: Branches, values: Tensor, pattern: Pattern, block: int = BLOCK) -> Tensor:
    """Block by block of queries, each with the keys up to its end: half the work, and memory for one block of scores."""
    require_counts(block=block)
    time, blocks = values.shape[-2], []
    block = min(block, time)
    reach = -(-time // block) * block
    band = pattern.band(block, reach, values)
    for start in range(0, time, block):
        end, column = min(start + block, time), reach - block - start
        weights = band[:, : end - start, column : column + end]
        scores = _product([query[..., start:end, :] for query in queries], [key[..., :end, :] for key in keys], weights)
        blocks.append(scores @ values[..., :end, :])
    return _rows_scaled(torch.cat(blocks, dim=-2), pattern)


def recurrent(queries: Branches, keys: Branches, values: Tensor, pattern: Pattern, chunk: int = CHUNK) -> Tensor:
    """Chunk by chunk: all pairs within a chunk, and a state S = sum_j exp(-m (s - j)) phi(k_j) v_j for the keys before it.

    The share of a table reaches back over its window only, so there pairs are taken one by one. TypeError in half precision.
    """
    require_counts(chunk=chunk)
    if values.dtype not in DTYPES:
        raise TypeError(f"values must be torch.float32 or torch.float64 for a sum carried over all tokens, got {values.dtype}; "
                        "use row_blocks")
    chunk = min(chunk, values.shape[-2])
    flat_queries, flat_keys = [query.flatten(0, -3) for query in queries], [key.flatten(0, -3) for key in keys]
    return _rows_scaled(_chunks(flat_queries, flat_keys, values.flatten(0, -3), pattern, chunk).view(values.shape), pattern)


def fused(queries: Branches, keys: Branches, values: Tensor, pattern: Pattern) -> Tensor:
    """One kernel on a GPU, nothing of time x time numbers is stored; ValueError names what is missing for it."""
    if obstacle := fused_obstacle(queries[0], values, pattern):
        raise ValueError(f"algorithm 'fused' needs {obstacle}")
    from tensorlm.layers.kernels import BEYOND, fused_attention

    queries, keys, (batch,) = ([x.reshape(-1, *x.shape[-3:]) for x in given] for given in (queries, keys, [values]))
    like = values.new_empty((), dtype=torch.float32)
    time = values.shape[-2]
    ages = None if pattern.table is None else pattern.ages(time + BEYOND, like)
    z = fused_attention(queries, keys, batch, pattern.rates(like), pattern.row_scale(time, like), ages)
    return z.view(values.shape)


def fused_obstacle(query: Tensor, values: Tensor, pattern: Pattern) -> str:
    """What the fused kernel lacks for these arguments, in words; empty if it can be had."""
    if values.dtype not in FUSED_DTYPES:
        return f"float32, bfloat16 or float16, got {values.dtype}"
    if max(query.shape[-1], values.shape[-1]) > FUSED_SIZE:
        return f"head_dim and value_dim of at most {FUSED_SIZE}, got {query.shape[-1]} and {values.shape[-1]}"
    if pattern.slopes.requires_grad:
        return "slopes without gradient"
    if not values.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":  # the interpreter runs kernels on a CPU, slowly, for tests
        return f"a GPU, got tensors on {values.device}"
    return "" if HAS_TRITON else "the package triton, which is not installed"


def features(*branches: Tensor) -> Tensor:
    """phi, with phi(q) . phi(k) = (q1 . k1)(q2 . k2) for two branches, (q . k)^2 for one.

    Two tensors (..., d) -> (..., d^2), all products of their entries; one -> (..., d (d + 1) / 2), each unordered pair once,
    times sqrt(2) where the two differ.

    >>> q, k = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])
    >>> features(q) @ features(k), features(q, q) @ features(k, k)
    (tensor(121.), tensor(121.))
    """
    for branch in branches:
        require_instance("branches", branch, Tensor)
    if len(branches) not in (1, 2) or any(branch.shape != branches[0].shape or branch.ndim == 0 for branch in branches):
        raise ValueError(f"features need one or two tensors of one shape (..., d), got shapes {[tuple(b.shape) for b in branches]}")
    if len(branches) == 2:
        return _outer(*branches)
    rows, columns, count = _unordered_pairs(branches[0], branches[0].shape[-1])
    return branches[0][..., rows] * branches[0][..., columns] * count.sqrt()


def _product(queries: Branches, keys: Branches, weights: Tensor) -> Tensor:
    times = torch.bmm if queries[0].ndim == 3 else torch.matmul  # the same product; it spares the small ones some time
    scores = times(queries[0], keys[0].mT)
    scores = scores * times(queries[1], keys[1].mT) if len(queries) == 2 else scores.square()
    return scores * weights


def _rows_scaled(z: Tensor, pattern: Pattern) -> Tensor:
    return z if pattern.row_power == 0 else z * pattern.row_scale(z.shape[-2], z)[..., None]


def _chunks(queries: Branches, keys: Branches, values: Tensor, pattern: Pattern, chunk: int) -> Tensor:
    """The recurrent algorithm without row scale, on tensors (sequences * heads, time, size)."""
    sequences = values.shape[0] // pattern.heads
    pairs = _unordered_pairs(values, queries[0].shape[-1]) if len(queries) == 1 else None
    query_chunks, key_chunks = (list(zip(*(part.split(chunk, dim=1) for part in parts))) for parts in (queries, keys))
    value_chunks = values.split(chunk, dim=1)
    back = min(chunks_back(pattern.window, chunk), len(value_chunks) - 1)
    band = pattern.near_band(chunk, (back + 1) * chunk, values).repeat(sequences, 1, 1)
    fading = pattern.fading(chunk + 1).to(values).repeat(sequences, 1)[..., None]
    to_end, from_start, whole = fading[:, :chunk].flip(1), fading[:, 1:], fading[:, chunk:]
    outputs: list[Tensor] = []
    state: Tensor | None = None
    for index, (query, key, value) in enumerate(zip(query_chunks, key_chunks, value_chunks)):
        near, rows = slice(max(0, index - back), index + 1), value.shape[1]
        weights = band[:, :rows, (back - index + near.start) * chunk : back * chunk + rows]
        z = torch.bmm(_product(query, [_joined(branch) for branch in zip(*key_chunks[near])], weights), _joined(value_chunks[near]))
        if state is not None:
            z = torch.addcmul(z, torch.bmm(_products(query, pairs), state), from_start[:, :rows])
        outputs.append(z)
        if index + 1 < len(value_chunks):
            new = _written(key, value * to_end, pairs)
            state = new if state is None else torch.addcmul(new, state, whole)
    return torch.cat(outputs, dim=1)


def _joined(pieces: Sequence[Tensor]) -> Tensor:
    return pieces[0] if len(pieces) == 1 else torch.cat(list(pieces), dim=1)


def _written(keys: Branches, values: Tensor, pairs) -> Tensor:
    """What a chunk adds to the state: sum_j phi(k_j) v_j, (heads, features, value_dim)."""
    if pairs is None:
        return torch.bmm(keys[0].mT, _outer(keys[1], values)).view(len(values), keys[0].shape[-1] ** 2, values.shape[-1])
    return torch.bmm(_products(keys, pairs).mT, values) * pairs[2][:, None]


def _products(branches: Branches, pairs) -> Tensor:
    """Features without their weights sqrt(2), which `_written` counts twice instead; selected as rows, which is fast."""
    if pairs is None:
        return _outer(*branches)
    rows = branches[0].mT.contiguous()
    return (rows.index_select(1, pairs[0]) * rows.index_select(1, pairs[1])).mT


def _outer(a: Tensor, b: Tensor) -> Tensor:
    return (a.unsqueeze(-1) * b.unsqueeze(-2)).flatten(-2)


def _unordered_pairs(like: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Indices of all pairs i <= j below `size`, and how often each stands for an ordered pair: 1 or 2."""
    rows, columns = torch.triu_indices(size, size, device=like.device)
    return rows, columns, 1.0 + (rows != columns).to(like.dtype)


def _check(queries: Branches, keys: Branches, values: Tensor, pattern: Pattern) -> None:
    if not isinstance(pattern, Pattern):
        raise TypeError(f"pattern must be a Pattern, got {type(pattern).__name__}")
    if not isinstance(values, Tensor) or not values.is_floating_point():
        raise TypeError(f"values must be a floating-point tensor, got {getattr(values, 'dtype', type(values).__name__)}")
    for name, branches in (("queries", queries), ("keys", keys)):
        if not isinstance(branches, list | tuple) or len(branches) not in (1, 2) or len(branches) != len(queries):
            raise ValueError(f"queries and keys must both be lists of one tensor or of two, got {name} {type(branches).__name__}"
                             + (f" of {len(branches)}" if isinstance(branches, list | tuple) else ""))
        for branch in branches:
            if not isinstance(branch, Tensor):
                raise TypeError(f"{name} must be tensors, got {type(branch).__name__}")
            if branch.dtype != values.dtype or branch.device != values.device:
                raise TypeError(f"{name} must be {values.dtype} on {values.device} like values, got {branch.dtype} on {branch.device}")
            if branch.shape != queries[0].shape or branch.shape[:-1] != values.shape[:-1] or branch.shape[-1] == 0:
                raise ValueError(f"{name} must have shape {(*values.shape[:-1], 'head_dim')} like values, the same for every branch, "
                                 f"got {tuple(branch.shape)}")
    if values.ndim < 3 or values.shape[-3] != len(pattern.slopes) or 0 in values.shape[-2:]:
        raise ValueError(f"values must have shape (..., heads, time, value_dim) with {pattern.heads} heads like the pattern, time "
                         f"and value_dim at least 1, got {tuple(values.shape)}")
