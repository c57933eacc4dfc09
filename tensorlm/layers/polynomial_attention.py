"""Polynomial attention: one function of queries, keys and values, and the algorithms that compute it.

With one branch (q, k) or two (q1, k1), (q2, k2), and the constants c of a `Pattern`, head by head:

    squared   z_i = sum_{j <= i} c_ij (q_i . k_j)^2 v_j,
    bilinear  z_i = sum_{j <= i} c_ij (q1_i . k1_j)(q2_i . k2_j) v_j.

Queries and keys come scaled and rotated; both are linear maps. The score is an inner product of features, so a sum over
all past keys can be carried as a state of d^2 x d numbers (linear attention: Katharopoulos et al. arXiv 2006.16236; in
chunks: Hua et al. arXiv 2202.10447, section 3).
"""

import importlib.util
import os
from collections.abc import Sequence

import torch
from torch import Tensor

from tensorlm.checks import DTYPES, require_counts, require_instance, require_whole
from tensorlm.layers.positions import BLOCK, Pattern

CHUNK = 128  # queries between two states of the recurrent algorithm

ALGORITHMS = ("quadratic", "row_blocks", "recurrent")
# Time of a multiply-add, in units of one of the row blocks, on one thread of a CPU (benchmarks/attention_scaling.py). The
# quadratic one waits for memory; the recurrent one spends some of its time on forming features.
TIME_PER_MULTIPLY_ADD = {"quadratic": 3.0, "row_blocks": 1.0, "recurrent": 1.25}
# The fused kernel on a GPU, beside row blocks there: no tile leaves the chip, and all are taken at once. Not measured yet.
FUSED_TIME = 0.05
MOST = 1 << 40


def feature_count(head_dim: int, branches: int) -> int:
    """Features of a head whose inner product is the score: d^2 for two branches, d (d + 1) / 2 for a square.

    >>> feature_count(16, branches=2), feature_count(16, branches=1)
    (256, 136)
    """
    _require(head_dim=head_dim, branches=(branches, 2))
    return head_dim**2 if branches == 2 else head_dim * (head_dim + 1) // 2


def multiply_adds(algorithm: str, time: int, head_dim: int, branches: int, window: int = 0) -> int:
    """Multiply-adds of one head over `time` tokens, with a table of `window` ages (0: no table).

    A pair of query and key costs (branches + 1) d + 1: its scores, their product with the pattern, the values.
    quadratic: time^2 pairs. row_blocks: blocks of 64 queries, each with the keys up to its end, about half as many.
    recurrent: only the pairs of a chunk of 128 (and of the window before it), and for each token 2 F d for writing into
    and reading from the state and 2 F for its features, F = `feature_count`; a first chunk reads nothing, a last one
    writes nothing. Without a table that is linear in time.

    >>> round(multiply_adds("row_blocks", 8192, 16, 2) / multiply_adds("recurrent", 8192, 16, 2), 1)
    13.6
    """
    _require_algorithm(algorithm)
    _require(time=time, head_dim=head_dim, branches=(branches, 2))
    if not isinstance(window, int) or window < 0:
        raise ValueError(f"window must be at least 0, got {window!r}")
    pairs = _pairs(algorithm, time, window) * ((branches + 1) * head_dim + 1)
    through_state = max(0, time - CHUNK) if algorithm == "recurrent" else 0
    return pairs + through_state * 2 * feature_count(head_dim, branches) * (head_dim + 1)


def choose(time: int, head_dim: int, branches: int, window: int = 0, fused: bool = False) -> str:
    """The algorithm that should take the least time: multiply-adds times the time of one, `TIME_PER_MULTIPLY_ADD`.

    `fused` says that the fused kernel can be had: it multiplies the pairs that row blocks multiply, at `FUSED_TIME` each.

    A sequence of up to 64 tokens is one block, so its whole pattern at once saves the blocks' bookkeeping. A table over
    the whole sequence leaves nothing for the recurrent state to save.

    >>> choose(64, 16, 2), choose(256, 16, 2), choose(8192, 16, 2), choose(8192, 16, 2, window=8192)
    ('quadratic', 'row_blocks', 'recurrent', 'row_blocks')
    """
    costs = {name: multiply_adds(name, time, head_dim, branches, window) * TIME_PER_MULTIPLY_ADD[name] for name in ALGORITHMS}
    if fused:
        costs["fused"] = costs["row_blocks"] * FUSED_TIME
        return min(costs, key=costs.__getitem__)
    return "quadratic" if time <= BLOCK else min(costs, key=costs.__getitem__)


def working_memory(algorithm: str, time: int, head_dim: int, branches: int, window: int = 0, heads: int = 1, batch: int = 1,
                   itemsize: int = 4) -> int:
    """Bytes that a forward pass needs at its peak beside its arguments and its result, gradients not kept.

    quadratic and row_blocks: branches + 1 arrays of scores of all heads and sequences and the pattern of all heads, of
    time^2 and of 64 time numbers each. recurrent: the pattern of one chunk for all of them, and whatever is largest of
    the scores of a chunk, its features beside two states of F d numbers, and the chunks' outputs before they are joined.

    >>> working_memory("quadratic", 8192, 16, 2, heads=4) / 2**20, working_memory("recurrent", 8192, 16, 2, heads=4) / 2**20
    (4096.0, 2.3125)
    """
    _require_algorithm(algorithm)
    _require(time=time, head_dim=head_dim, branches=(branches, 2), heads=heads, batch=batch, itemsize=(itemsize, 8))
    rows = min(time, {"quadratic": time, "row_blocks": BLOCK, "recurrent": CHUNK}[algorithm])
    if algorithm != "recurrent":
        return ((branches + 1) * batch + 1) * heads * rows * time * itemsize
    columns, features = min(time, (chunks_back(window) + 1) * CHUNK), feature_count(head_dim, branches)
    state = features * head_dim
    largest = max((branches + 1) * rows * columns + state, rows * features + 2 * state, state + time * head_dim)
    return (rows * columns + largest) * batch * heads * itemsize


def _pairs(algorithm: str, time: int, window: int) -> int:
    """Pairs of queries and keys that are multiplied, those above the diagonal of a block included."""
    if algorithm == "quadratic":
        return time * time
    block, back = (BLOCK, time) if algorithm == "row_blocks" else (CHUNK, chunks_back(window) * CHUNK)
    blocks = [(start, min(start + block, time)) for start in range(0, time, block)]
    return sum((end - start) * (end - max(0, start - back)) for start, end in blocks)


def chunks_back(window: int, chunk: int = CHUNK) -> int:
    """Chunks before its own that a query reaches into through a table of `window` ages.

    >>> chunks_back(0), chunks_back(1), chunks_back(64), chunks_back(130)
    (0, 0, 1, 2)
    """
    return max(0, -(-(window - 1) // chunk))


def _require_algorithm(algorithm: str) -> None:
    if algorithm not in ALGORITHMS:
        raise ValueError(f"algorithm must be one of {ALGORITHMS}, got {algorithm!r}")


def _require(**sizes) -> None:
    """Whole numbers of at least 1; a pair (number, most) has a largest value too."""
    for name, size in sizes.items():
        number, most = size if isinstance(size, tuple) else (size, MOST)
        require_whole(name, number, 1, most)


FUSED_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
FUSED_SIZE = 128  # of a head
HAS_TRITON = importlib.util.find_spec("triton") is not None
Branches = Sequence[Tensor]  # one tensor (squared) or two (bilinear), each (..., heads, time, head_dim)


def attend(queries: Branches, keys: Branches, values: Tensor, pattern: Pattern, algorithm: str = "auto") -> Tensor:
    """Polynomial attention by the named algorithm: "quadratic", "row_blocks", "recurrent", "fused", or "auto" for the cheapest.

    Shapes: queries and keys one or two tensors (..., heads, time, head_dim), values (..., heads, time, value_dim) ->
    (..., heads, time, value_dim). All are one function, gradients included: they differ in rounding, in time and
    in memory (`choose`, `multiply_adds`, `working_memory`). In half precision "auto" leaves the recurrent one out, since
    it adds up a state over all tokens. Raises TypeError or ValueError naming the argument, its value and what fits.

    >>> x = torch.eye(2).view(1, 2, 2)
    >>> attend([x], [x], x, Pattern(torch.tensor([0.0]), row_power=0.0))
    tensor([[[1., 0.],
             [0., 1.]]])
    """
    if algorithm not in ("auto", *ALGORITHMS, "fused"):
        raise ValueError(f"algorithm must be one of {('auto', *ALGORITHMS, 'fused')}, got {algorithm!r}")
    _check(queries, keys, values, pattern)
    if algorithm == "auto":
        algorithm = _cheapest(queries, values, pattern)
    named = {"quadratic": quadratic, "row_blocks": row_blocks, "recurrent": recurrent, "fused": fused}
    return named[algorithm](queries, keys, values, pattern)


def quadratic(queries: Branches, keys: Branches, values: Tensor, pattern: Pattern) -> Tensor:
    """The whole pattern of scores at once: time^2 of them, half of which the mask sets to zero. Shapes as in `attend`.

    >>> q, k, v = torch.tensor([[[2.0]]]), torch.tensor([[[3.0]]]), torch.tensor([[[1.0]]])
    >>> quadratic([q, q], [k, k], v, Pattern(torch.tensor([1.0])))
    tensor([[[36.]]])
    """
    _check(queries, keys, values, pattern)
    return _product(queries, keys, pattern.rows(0, values.shape[-2], values)) @ values


def row_blocks(queries: Branches, keys: Branches, values: Tensor, pattern: Pattern, block: int = BLOCK) -> Tensor:
    """Block by block of queries, each with the keys up to its end: half the work, and memory for one block of scores.

    Shapes as in `attend`.

    >>> q, k, v = torch.randn(3, 1, 100, 4, dtype=torch.float64)
    >>> fading = Pattern(torch.tensor([0.1]))
    >>> torch.allclose(row_blocks([q], [k], v, fading), quadratic([q], [k], v, fading), rtol=1e-12)
    True
    """
    _check(queries, keys, values, pattern)
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

    S has `feature_count` x value_dim numbers a head, whatever the time. The share of a table reaches back over its
    window only, so there pairs are taken one by one. Every exponent is at most 0, so no decay is too strong.
    Shapes as in `attend`; float32 or float64.

    >>> q, k, v = torch.randn(3, 1, 100, 4, dtype=torch.float64)
    >>> fading = Pattern(torch.tensor([0.1]), table=torch.randn(1, 8))
    >>> torch.allclose(recurrent([q], [k], v, fading), quadratic([q], [k], v, fading), rtol=1e-9)
    True
    """
    _check(queries, keys, values, pattern)
    require_counts(chunk=chunk)
    if values.dtype not in DTYPES:
        raise TypeError(f"values must be torch.float32 or torch.float64 for a sum carried over all tokens, got {values.dtype}; "
                        "use row_blocks")
    chunk = min(chunk, values.shape[-2])
    flat_queries, flat_keys = [query.flatten(0, -3) for query in queries], [key.flatten(0, -3) for key in keys]
    return _rows_scaled(_chunks(flat_queries, flat_keys, values.flatten(0, -3), pattern, chunk).view(values.shape), pattern)


def fused(queries: Branches, keys: Branches, values: Tensor, pattern: Pattern) -> Tensor:
    """One kernel on a GPU: nothing of time x time numbers is stored, forward or backward (`tensorlm.layers.kernels`).

    Shapes as in `attend`; float32, bfloat16 or float16, sizes of a head up to 128, slopes without gradient. Needs the package `triton`,
    which comes with torch's CUDA builds. Raises ValueError that names what is missing.
    """
    _check(queries, keys, values, pattern)
    if obstacle := fused_obstacle(queries[0], values, pattern):
        raise ValueError(f"algorithm 'fused' needs {obstacle}")
    from tensorlm.layers.kernels import fused_attention

    queries, keys = ([_as_batch(branch) for branch in branches] for branches in (queries, keys))
    like = values.new_empty((), dtype=torch.float32)
    z = fused_attention(queries, keys, _as_batch(values), pattern.rates(like), pattern.row_scale(values.shape[-2], like),
                        None if pattern.table is None else pattern.table.float())
    return z.view(values.shape)


def fused_obstacle(query: Tensor, values: Tensor, pattern: Pattern) -> str:
    """What the fused kernel lacks for these arguments, in words; empty if it can be had.

    >>> q = torch.ones(1, 2, 16, dtype=torch.float64)
    >>> fused_obstacle(q, q, Pattern(torch.zeros(1)))
    'float32, bfloat16 or float16, got torch.float64'
    """
    if values.dtype not in FUSED_DTYPES:
        return f"float32, bfloat16 or float16, got {values.dtype}"
    if max(query.shape[-1], values.shape[-1]) > FUSED_SIZE:
        return f"head_dim and value_dim of at most {FUSED_SIZE}, got {query.shape[-1]} and {values.shape[-1]}"
    if pattern.slopes.requires_grad:
        return "slopes without gradient"
    if not (values.is_cuda or interprets_kernels()):
        return f"a GPU, got tensors on {values.device}"
    return "" if HAS_TRITON else "the package triton, which is not installed"


def interprets_kernels() -> bool:
    """Whether kernels run in Triton's interpreter, on a CPU, as TRITON_INTERPRET=1 asks for: slow, for tests."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def _as_batch(x: Tensor) -> Tensor:
    """(..., heads, time, size) as (batch, heads, time, size)."""
    return x[None] if x.ndim == 3 else x.flatten(0, -4)


def features(*branches: Tensor) -> Tensor:
    """phi, with phi(q) . phi(k) = (q1 . k1)(q2 . k2) for two branches, (q . k)^2 for one.

    Shapes: one or two tensors (..., d) -> (..., d^2) for two branches, all products of their entries; (..., d (d + 1) / 2)
    for one, each unordered pair once, times sqrt(2) where the two differ.

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
    scores = [times(query, key.mT) for query, key in zip(queries, keys)]
    product = scores[0] * scores[1] if len(scores) == 2 else scores[0].square()
    del scores  # their memory is free for the next product
    return product * weights


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


def _cheapest(queries: Branches, values: Tensor, pattern: Pattern) -> str:
    time, head_dim = queries[0].shape[-2:]
    fused_too = values.is_cuda and not fused_obstacle(queries[0], values, pattern)
    chosen = choose(time, head_dim, len(queries), pattern.window, fused_too)
    return "row_blocks" if chosen == "recurrent" and values.dtype not in DTYPES else chosen


def _check(queries: Branches, keys: Branches, values: Tensor, pattern: Pattern) -> None:
    if not isinstance(pattern, Pattern):
        raise TypeError(f"pattern must be a Pattern, got {type(pattern).__name__}")
    for name, branches in (("queries", queries), ("keys", keys)):
        if not isinstance(branches, list | tuple) or not all(isinstance(branch, Tensor) for branch in branches):
            raise TypeError(f"{name} must be a list or tuple of tensors, got {type(branches).__name__}")
    if not isinstance(values, Tensor) or not values.is_floating_point():
        raise TypeError(f"values must be a floating-point tensor, got {getattr(values, 'dtype', type(values).__name__)}")
    if len(queries) not in (1, 2) or len(keys) != len(queries):
        raise ValueError(f"queries and keys must both have one branch or both two, got {len(queries)} and {len(keys)}")
    for name, branch in [("queries", query) for query in queries] + [("keys", key) for key in keys]:
        _check_branch(name, branch, queries[0], values)
    if values.ndim < 3 or values.shape[-3] != pattern.heads or 0 in values.shape[-2:]:
        raise ValueError(f"values must have shape (..., heads, time, value_dim) with {pattern.heads} heads like the pattern, time "
                         f"and value_dim at least 1, got {tuple(values.shape)}")


def _check_branch(name: str, branch: Tensor, query: Tensor, values: Tensor) -> None:
    if (branch.dtype, branch.device) != (values.dtype, values.device):
        raise TypeError(f"{name} must be {values.dtype} on {values.device} like values, got {branch.dtype} on {branch.device}")
    if branch.shape != query.shape or branch.shape[:-1] != values.shape[:-1] or branch.shape[-1] == 0:
        raise ValueError(f"{name} must have shape {(*values.shape[:-1], 'head_dim')} like values, the same for every branch, "
                         f"got {tuple(branch.shape)}")
