"""Polynomial attention as one fused kernel for a GPU: no array of time x time numbers, forward or backward.

    z_i = sum_{j <= i} w_ij s_ij v_j,    w_ij = exp(-m (i - j)) (1 + t[i - j]) r_i,    s_ij = (q1_i . k1_j)(q2_i . k2_j) or (q_i . k_j)^2

Tiles of scores are formed in fast memory and summed up at once. There is no softmax: rows need no running maximum and no
division by a sum, so that a tile of the sum can be added in any order, and the backward pass needs nothing but the arguments.
With a = q1 . k1, b = q2 . k2 and g the gradient of z, tile by tile:

    p = w a b,   dp_ij = g_i . v_j,   dv_j = sum_i p_ij g_i,   dq1_i = sum_j (w b dp)_ij k1_j,   dk1_j = sum_i (w b dp)_ij q1_i,
    dq2, dk2 with a and b exchanged; one branch: 2 w a dp;   dt[n] = sum over pairs of age n of exp(-m n) r_i a b dp.

Where exp(-m n) is 0 in float32 (m n > 104) tiles are left out, so that a head that fades fast costs little. Sums are float32.
Written in Triton (Tillet, Kung, Cox, MAPL 2019); tiles in fast memory as in FlashAttention (arXiv 2205.14135). On a CPU it runs in
Triton's interpreter (TRITON_INTERPRET=1, set before this module is imported), for tests.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

FADED = 104.0  # exp(-104) is 0 in float32
MIN_DOT = 16  # the smallest side of a tile that the matrix units take
TILE_BYTES = 8192  # of one tile of queries, keys or values, at most: five of them and their gradients fit where a block has 99 KiB
SMALL_TILE_BYTES = 4096  # before compute capability 8.0, where a block has 64 KiB


@torch.library.custom_op("tensorlm::fused_attention", mutates_args=())
def fused_attention(queries: list[Tensor], keys: list[Tensor], values: Tensor, slopes: Tensor, row_scale: Tensor,
                    table: Tensor | None) -> Tensor:
    """z (batch, heads, time, value_dim), from one or two queries and keys (batch, heads, time, head_dim).

    slopes (heads,), row_scale (heads, time) and table (heads, window) or None are those of a `Pattern`, in float32.
    Gradients reach queries, keys, values and table, once. An operator of its own, so that `torch.compile` takes it as it is.
    """
    call = _Call(queries, keys, values, slopes, row_scale, table)
    z = torch.empty(values.shape, dtype=values.dtype, device=values.device)
    _forward[call.grid](*call.inputs, z, *call.sizes, **call.constants)
    return z


@torch.library.custom_op("tensorlm::fused_attention_backward", mutates_args=())
def _gradients(gradient: Tensor, queries: list[Tensor], keys: list[Tensor], values: Tensor, slopes: Tensor, row_scale: Tensor,
               table: Tensor | None) -> list[Tensor]:
    made = _empty_gradients(gradient, queries, keys, values, slopes, row_scale, table)
    call, gradient = _Call(queries, keys, values, slopes, row_scale, table), gradient.contiguous()
    count, side = len(queries), call.constants["ROWS"]
    of_queries, of_keys, of_values = made[:count], made[count : 2 * count], made[2 * count]
    of_table = None if table is None else made[-1].zero_()
    scratch = None if table is None else table.new_empty(call.grid[0] * call.grid[1], side, side)
    _backward_queries[call.grid](*call.inputs, gradient, of_queries[0], of_queries[-1], of_table, scratch, *call.sizes, **call.constants)
    _backward_keys[call.grid](*call.inputs, gradient, of_keys[0], of_keys[-1], of_values, *call.sizes, **call.constants)
    return made


@fused_attention.register_fake
def _empty(queries, keys, values, slopes, row_scale, table):
    return torch.empty(values.shape, dtype=values.dtype, device=values.device)


@_gradients.register_fake
def _empty_gradients(gradient, queries, keys, values, slopes, row_scale, table):
    inputs = [*queries, *keys, values] + ([] if table is None else [table])
    return [torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in inputs]


def _save(ctx, inputs, output):
    queries, keys, values, slopes, row_scale, table = inputs
    ctx.count = len(queries)
    ctx.save_for_backward(values, slopes, row_scale, table, *queries, *keys)


def _differentiate(ctx, gradient):
    values, slopes, row_scale, table, *branches = ctx.saved_tensors
    count = ctx.count
    found = _gradients(gradient, branches[:count], branches[count:], values, slopes, row_scale, table)
    return found[:count], found[count : 2 * count], found[2 * count], None, None, None if table is None else found[-1]


fused_attention.register_autograd(_differentiate, setup_context=_save)


def _alike(tensors) -> list[Tensor]:
    """The tensors with one set of strides, features next to each other; copied only where they differ."""
    strides = tensors[0].stride()
    alike = strides[-1] == 1 and all(tensor.stride() == strides for tensor in tensors)
    return list(tensors) if alike else [tensor.contiguous() for tensor in tensors]


class _Call:
    def __init__(self, queries, keys, values, slopes, row_scale, table):
        queries, keys, values = _alike(queries), _alike(keys), _alike([values])[0]
        batch, heads, time, head_dim = queries[0].shape
        value_dim, widest = values.shape[-1], max(MIN_DOT, triton.next_power_of_2(max(head_dim, values.shape[-1])))
        side = tile_rows(widest, values.element_size(), torch.cuda.get_device_capability(values.device) if values.is_cuda else None)
        constants = (None if x is None else x.contiguous() for x in (slopes, row_scale, table))
        self.inputs = (queries[0], queries[-1], keys[0], keys[-1], values, *constants)
        self.sizes = (*queries[0].stride()[:3], *keys[0].stride()[:3], *values.stride()[:3], heads, time,
                      0 if table is None else table.shape[1])
        exact = "tf32" if torch.backends.cuda.matmul.allow_tf32 else "ieee"  # float32 rounded to 19 bits, or as it is
        exact = "interpreted" if triton.knobs.runtime.interpret else exact
        self.constants = dict(HEAD_DIM=head_dim, VALUE_DIM=value_dim, D=max(MIN_DOT, triton.next_power_of_2(head_dim)),
                              V=max(MIN_DOT, triton.next_power_of_2(value_dim)), ROWS=side, TWO=len(queries) == 2,
                              TABLE=table is not None, EXACT=exact, FADED_AT=FADED, num_warps=4, num_stages=2)
        self.grid = (triton.cdiv(time, side), batch * heads)


def tile_rows(size: int, itemsize: int, capability: tuple[int, int] | None) -> int:
    """Rows of a tile, for heads of `size` numbers of `itemsize` bytes, on a card of this compute capability."""
    room = SMALL_TILE_BYTES if capability is not None and capability < (8, 0) else TILE_BYTES
    return max(MIN_DOT, min(64, room // (size * itemsize)))


@triton.jit
def _tile(pointer, rows, columns, stride, time, SIZE: tl.constexpr):
    """Rows of a matrix (time, SIZE), zeros outside."""
    inside = (rows[:, None] < time) & (columns[None, :] < SIZE)
    return tl.load(pointer + rows[:, None] * stride + columns[None, :], mask=inside, other=0.0)


@triton.jit
def _store(pointer, values, rows, columns, time, SIZE: tl.constexpr):
    inside = (rows[:, None] < time) & (columns[None, :] < SIZE)
    tl.store(pointer + rows[:, None] * SIZE + columns[None, :], values.to(pointer.dtype.element_ty), mask=inside)


@triton.jit
def _fading(ages, scale, slope):
    """exp(-m n) r_i for ages n >= 0, else 0."""
    return tl.where(ages >= 0, tl.exp(-slope * tl.maximum(ages, 0).to(tl.float32)) * scale[:, None], 0.0)


@triton.jit
def _one_plus(table, ages, window):
    return 1.0 + tl.load(table + ages, mask=(ages >= 0) & (ages < window), other=0.0).to(tl.float32)


@triton.jit
def _dot(x, y, EXACT: tl.constexpr):
    if EXACT == "interpreted":  # whose products take bfloat16 for whole numbers
        product = tl.dot(x.to(tl.float32), y.to(tl.float32), input_precision="ieee")
    else:
        product = tl.dot(x, y, input_precision=EXACT)
    return product


@triton.jit
def _scores(q1, q2, k1, k2, TWO: tl.constexpr, EXACT: tl.constexpr):
    """a and b; for one branch both are q . k."""
    a = _dot(q1, tl.trans(k1), EXACT)
    b = a
    if TWO:
        b = _dot(q2, tl.trans(k2), EXACT)
    return a, b


@triton.jit
def _reach(slope, time, FADED_AT: tl.constexpr):
    """The age from which exp(-m n) is 0."""
    return tl.where(slope > 0, tl.minimum(FADED_AT / tl.maximum(slope, 1e-30), 1.0 * time), 1.0 * time).to(tl.int32) + 1


@triton.jit
def _forward(Q1, Q2, K1, K2, VALUES, SLOPES, SCALE, LEARNED, OUT,
             qb, qh, qt, kb, kh, kt, vb, vh, vt, heads, time, window,
             HEAD_DIM: tl.constexpr, VALUE_DIM: tl.constexpr, D: tl.constexpr, V: tl.constexpr, ROWS: tl.constexpr,
             TWO: tl.constexpr, TABLE: tl.constexpr, EXACT: tl.constexpr, FADED_AT: tl.constexpr):
    place = tl.program_id(1).to(tl.int64)
    head = place % heads
    batch = place // heads
    start = tl.program_id(0) * ROWS
    rows, d, v = start + tl.arange(0, ROWS), tl.arange(0, D), tl.arange(0, V)
    slope, scale = tl.load(SLOPES + head), tl.load(SCALE + head * time + rows, mask=rows < time, other=0.0)
    q1 = _tile(Q1 + batch * qb + head * qh, rows, d, qt, time, HEAD_DIM)
    q2 = q1
    if TWO:
        q2 = _tile(Q2 + batch * qb + head * qh, rows, d, qt, time, HEAD_DIM)
    total = tl.zeros([ROWS, V], tl.float32)
    first = tl.maximum(start - _reach(slope, time, FADED_AT), 0) // ROWS * ROWS
    for begin in range(first, start + ROWS, ROWS):
        columns = begin + tl.arange(0, ROWS)
        k1 = _tile(K1 + batch * kb + head * kh, columns, d, kt, time, HEAD_DIM)
        k2 = k1
        if TWO:
            k2 = _tile(K2 + batch * kb + head * kh, columns, d, kt, time, HEAD_DIM)
        values = _tile(VALUES + batch * vb + head * vh, columns, v, vt, time, VALUE_DIM)
        a, b = _scores(q1, q2, k1, k2, TWO, EXACT)
        ages = rows[:, None] - columns[None, :]
        weights = _fading(ages, scale, slope)
        if TABLE:
            weights = weights * _one_plus(LEARNED + head * window, ages, window)
        total += _dot((weights * a * b).to(values.dtype), values, EXACT)
    _store(OUT + place * time * VALUE_DIM, total, rows, v, time, VALUE_DIM)


@triton.jit
def _backward_queries(Q1, Q2, K1, K2, VALUES, SLOPES, SCALE, LEARNED, GRADIENT, OF_Q1, OF_Q2, OF_TABLE, SCRATCH,
                      qb, qh, qt, kb, kh, kt, vb, vh, vt, heads, time, window,
                      HEAD_DIM: tl.constexpr, VALUE_DIM: tl.constexpr, D: tl.constexpr, V: tl.constexpr, ROWS: tl.constexpr,
                      TWO: tl.constexpr, TABLE: tl.constexpr, EXACT: tl.constexpr, FADED_AT: tl.constexpr):
    place = tl.program_id(1).to(tl.int64)
    head = place % heads
    batch = place // heads
    start = tl.program_id(0) * ROWS
    side = tl.arange(0, ROWS)
    rows, d, v = start + side, tl.arange(0, D), tl.arange(0, V)
    slope, scale = tl.load(SLOPES + head), tl.load(SCALE + head * time + rows, mask=rows < time, other=0.0)
    q1 = _tile(Q1 + batch * qb + head * qh, rows, d, qt, time, HEAD_DIM)
    q2 = q1
    if TWO:
        q2 = _tile(Q2 + batch * qb + head * qh, rows, d, qt, time, HEAD_DIM)
    gradient = _tile(GRADIENT + place * time * VALUE_DIM, rows, v, VALUE_DIM, time, VALUE_DIM)
    of_q1, of_q2 = tl.zeros([ROWS, D], tl.float32), tl.zeros([ROWS, D], tl.float32)
    first = tl.maximum(start - _reach(slope, time, FADED_AT), 0) // ROWS * ROWS
    for begin in range(first, start + ROWS, ROWS):
        columns = begin + tl.arange(0, ROWS)
        k1 = _tile(K1 + batch * kb + head * kh, columns, d, kt, time, HEAD_DIM)
        k2 = k1
        if TWO:
            k2 = _tile(K2 + batch * kb + head * kh, columns, d, kt, time, HEAD_DIM)
        values = _tile(VALUES + batch * vb + head * vh, columns, v, vt, time, VALUE_DIM)
        a, b = _scores(q1, q2, k1, k2, TWO, EXACT)
        ages = rows[:, None] - columns[None, :]
        weights = _fading(ages, scale, slope) * _dot(gradient, tl.trans(values), EXACT)
        if TABLE:
            _add_ages(OF_TABLE + head * window, SCRATCH + (place * tl.num_programs(0) + tl.program_id(0)) * ROWS * ROWS,
                      weights * a * b, start - begin, window, ROWS)
            weights = weights * _one_plus(LEARNED + head * window, ages, window)
        if TWO:
            of_q1 += _dot((weights * b).to(k1.dtype), k1, EXACT)
            of_q2 += _dot((weights * a).to(k1.dtype), k2, EXACT)
        else:
            of_q1 += _dot((2.0 * weights * a).to(k1.dtype), k1, EXACT)
    _store(OF_Q1 + place * time * HEAD_DIM, of_q1, rows, d, time, HEAD_DIM)
    if TWO:
        _store(OF_Q2 + place * time * HEAD_DIM, of_q2, rows, d, time, HEAD_DIM)


@triton.jit
def _add_ages(of_table, scratch, tile, offset, window, ROWS: tl.constexpr):
    """Add the sums along the diagonals of a tile: entry (r, c) has age offset + r - c. The tile is read again skewed."""
    side = tl.arange(0, ROWS)
    tl.store(scratch + side[:, None] * ROWS + side[None, :], tile)
    tl.debug_barrier()
    diagonal = tl.arange(0, 2 * ROWS)  # age offset + diagonal - (ROWS - 1)
    column = side[:, None] - diagonal[None, :] + (ROWS - 1)
    skewed = tl.load(scratch + side[:, None] * ROWS + column, mask=(column >= 0) & (column < ROWS), other=0.0)
    ages = offset + diagonal - (ROWS - 1)
    tl.atomic_add(of_table + ages, tl.sum(skewed, 0), mask=(ages >= 0) & (ages < window), sem="relaxed")
    tl.debug_barrier()


@triton.jit
def _backward_keys(Q1, Q2, K1, K2, VALUES, SLOPES, SCALE, LEARNED, GRADIENT, OF_K1, OF_K2, OF_VALUES,
                   qb, qh, qt, kb, kh, kt, vb, vh, vt, heads, time, window,
                   HEAD_DIM: tl.constexpr, VALUE_DIM: tl.constexpr, D: tl.constexpr, V: tl.constexpr, ROWS: tl.constexpr,
                   TWO: tl.constexpr, TABLE: tl.constexpr, EXACT: tl.constexpr, FADED_AT: tl.constexpr):
    place = tl.program_id(1).to(tl.int64)
    head = place % heads
    batch = place // heads
    start = tl.program_id(0) * ROWS
    columns, d, v = start + tl.arange(0, ROWS), tl.arange(0, D), tl.arange(0, V)
    slope = tl.load(SLOPES + head)
    k1 = _tile(K1 + batch * kb + head * kh, columns, d, kt, time, HEAD_DIM)
    k2 = k1
    if TWO:
        k2 = _tile(K2 + batch * kb + head * kh, columns, d, kt, time, HEAD_DIM)
    values = _tile(VALUES + batch * vb + head * vh, columns, v, vt, time, VALUE_DIM)
    of_k1, of_k2 = tl.zeros([ROWS, D], tl.float32), tl.zeros([ROWS, D], tl.float32)
    of_values = tl.zeros([ROWS, V], tl.float32)
    last = tl.minimum(start + ROWS + _reach(slope, time, FADED_AT), time)
    for begin in range(start, last, ROWS):
        rows = begin + tl.arange(0, ROWS)
        scale = tl.load(SCALE + head * time + rows, mask=rows < time, other=0.0)
        q1 = _tile(Q1 + batch * qb + head * qh, rows, d, qt, time, HEAD_DIM)
        q2 = q1
        if TWO:
            q2 = _tile(Q2 + batch * qb + head * qh, rows, d, qt, time, HEAD_DIM)
        gradient = _tile(GRADIENT + place * time * VALUE_DIM, rows, v, VALUE_DIM, time, VALUE_DIM)
        a, b = _scores(q1, q2, k1, k2, TWO, EXACT)
        ages = rows[:, None] - columns[None, :]
        weights = _fading(ages, scale, slope)
        if TABLE:
            weights = weights * _one_plus(LEARNED + head * window, ages, window)
        of_values += _dot(tl.trans((weights * a * b).to(gradient.dtype)), gradient, EXACT)
        weights = weights * _dot(gradient, tl.trans(values), EXACT)
        if TWO:
            of_k1 += _dot(tl.trans((weights * b).to(q1.dtype)), q1, EXACT)
            of_k2 += _dot(tl.trans((weights * a).to(q1.dtype)), q2, EXACT)
        else:
            of_k1 += _dot(tl.trans((2.0 * weights * a).to(q1.dtype)), q1, EXACT)
    _store(OF_K1 + place * time * HEAD_DIM, of_k1, columns, d, time, HEAD_DIM)
    if TWO:
        _store(OF_K2 + place * time * HEAD_DIM, of_k2, columns, d, time, HEAD_DIM)
    _store(OF_VALUES + place * time * VALUE_DIM, of_values, columns, v, time, VALUE_DIM)
