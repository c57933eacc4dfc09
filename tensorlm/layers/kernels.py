"""Polynomial attention as one fused kernel for a GPU: no array of time x time numbers, forward or backward.

    z_i = sum_{j <= i} w_ij s_ij v_j,    w_ij = u[i - j] r_i,    s_ij = (q1_i . k1_j)(q2_i . k2_j) or (q_i . k_j)^2,

with u[n] = exp(-m n), or any weights of the ages n where a table is learned.

Tiles of scores are formed in fast memory and summed up at once. There is no softmax: rows need no running maximum and no
division by a sum, so that a tile of the sum can be added in any order, and the backward pass needs nothing but the arguments.
With a = q1 . k1, b = q2 . k2 and g the gradient of z, tile by tile:

    p = w a b,   dp_ij = g_i . v_j,   dv_j = sum_i p_ij g_i,   dq1_i = sum_j (w b dp)_ij k1_j,   dk1_j = sum_i (w b dp)_ij q1_i,
    dq2, dk2 with a and b exchanged; one branch: 2 w a dp;   du[n] = sum over pairs of age n of r_i a b dp.

A program holds some rows (queries, or keys) and meets the others tile by tile. Of tiles wholly before or after what it holds, an
edge between the two splits exp(-m (i - j)) into a factor of i and one of j, so that no pair needs an exponential of its own.
Where exp(-m n) is below 4e-18 (m n > 40) tiles are left out, so that a head that fades fast costs little. Sums are float32.
Written in Triton (Tillet, Kung, Cox, MAPL 2019); tiles in fast memory as in FlashAttention (arXiv 2205.14135). On a CPU it runs in
Triton's interpreter (TRITON_INTERPRET=1, set before this module is imported), for tests.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

FADED = 40.0  # exp(-40) is 4e-18, ten orders of magnitude below what float32 resolves beside 1
BEYOND = 128  # ages that the last held rows may ask for beyond the sequence, at most
MIN_DOT = 16  # the smallest side of a tile that the matrix units take
TILE_BYTES = 8192  # of one tile of queries, keys or values, at most: five of them and their gradients fit where a block has 99 KiB
SMALL_TILE_BYTES = 4096  # before compute capability 8.0, where a block has 64 KiB


@torch.library.custom_op("tensorlm::fused_attention", mutates_args=())
def fused_attention(queries: list[Tensor], keys: list[Tensor], values: Tensor, slopes: Tensor, row_scale: Tensor,
                    ages: Tensor | None) -> Tensor:
    """z (batch, heads, time, value_dim), from one or two queries and keys (batch, heads, time, head_dim).

    slopes (heads,), row_scale (heads, time) and ages (heads, time + BEYOND), or None for exp(-m n), are those of a `Pattern`, in
    float32; ages must fade as exp(-m n) does. Gradients reach queries, keys, values and ages, once. An operator of its own, so
    that `torch.compile` takes it as it is.
    """
    call = _Call(queries, keys, values, slopes, row_scale, ages)
    z = torch.empty(values.shape, dtype=values.dtype, device=values.device)
    call.start("forward", _forward, z)
    return z


@torch.library.custom_op("tensorlm::fused_attention_backward", mutates_args=())
def _gradients(gradient: Tensor, queries: list[Tensor], keys: list[Tensor], values: Tensor, slopes: Tensor, row_scale: Tensor,
               ages: Tensor | None) -> list[Tensor]:
    made = _empty_gradients(gradient, queries, keys, values, slopes, row_scale, ages)
    call, gradient, count = _Call(queries, keys, values, slopes, row_scale, ages), gradient.contiguous(), len(queries)
    call.start("queries", _backward, gradient, made[0], made[count - 1], None, OF_KEYS=False)
    call.start("keys", _backward, gradient, made[count], made[2 * count - 1], made[2 * count], OF_KEYS=True)
    if ages is not None:
        call.start("ages", _backward_ages, gradient, made[-1].zero_())
    return made


@fused_attention.register_fake
def _empty(queries, keys, values, slopes, row_scale, ages):
    return torch.empty(values.shape, dtype=values.dtype, device=values.device)


@_gradients.register_fake
def _empty_gradients(gradient, queries, keys, values, slopes, row_scale, ages):
    inputs = [*queries, *keys, values] + ([] if ages is None else [ages])
    return [torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in inputs]


def _save(ctx, inputs, output):
    queries, keys, values, slopes, row_scale, ages = inputs
    ctx.count = len(queries)
    ctx.save_for_backward(values, slopes, row_scale, ages, *queries, *keys)


def _differentiate(ctx, gradient):
    values, slopes, row_scale, ages, *branches = ctx.saved_tensors
    count = ctx.count
    found = _gradients(gradient, branches[:count], branches[count:], values, slopes, row_scale, ages)
    return found[:count], found[count : 2 * count], found[2 * count], None, None, None if ages is None else found[-1]


fused_attention.register_autograd(_differentiate, setup_context=_save)


def _alike(tensors) -> list[Tensor]:
    """The tensors with one set of strides, features next to each other; copied only where they differ."""
    strides = tensors[0].stride()
    alike = strides[-1] == 1 and all(tensor.stride() == strides for tensor in tensors)
    return list(tensors) if alike else [tensor.contiguous() for tensor in tensors]


class Tiles(NamedTuple):
    """Rows that a program holds and rows that it meets at a time, a whole part of the first; its warps, and the tiles loaded ahead."""

    held: int
    met: int
    warps: int = 4
    stages: int = 2


def choose_tiles(kernel: str, size: int, itemsize: int, capability: tuple[int, int] | None) -> Tiles:
    """Tiles of "forward", "queries", "keys" or "ages" for heads of `size` numbers of `itemsize` bytes, on a card of this capability.

    In half precision and from compute capability 8.0 on: of eight, the fastest of each pass for heads of 16, 32 and 64 on an H200; for
    "ages", which came later, nothing was measured.
    """
    if itemsize == 2 and size <= 64 and capability is not None and capability >= (8, 0):
        if kernel == "forward":
            return Tiles(64, 64, 4, 3) if size == 64 else Tiles(128, 64, 4, 3)
        return Tiles(64, 64, 4, 2) if kernel == "ages" else Tiles(64, 32, 4, 3)
    room = SMALL_TILE_BYTES if capability is not None and capability < (8, 0) else TILE_BYTES
    side = max(MIN_DOT, min(64, room // (size * itemsize)))
    return Tiles(side, side)


class _Call:
    def __init__(self, queries, keys, values, slopes, row_scale, ages):
        queries, keys, values = _alike(queries), _alike(keys), _alike([values])[0]
        batch, heads, time, head_dim = queries[0].shape
        self.time, self.places, value_dim, capability = time, batch * heads, values.shape[-1], None
        widest = max(MIN_DOT, triton.next_power_of_2(max(head_dim, value_dim)))
        if values.is_cuda:
            capability = torch.cuda.get_device_capability(values.device)
        self.about = widest, values.element_size(), capability
        constants = (slopes.contiguous(), row_scale.contiguous(), None if ages is None else ages.to(values.dtype).contiguous())
        self.inputs = (queries[0], queries[-1], keys[0], keys[-1], values, *constants)
        self.sizes = (*queries[0].stride()[:3], *keys[0].stride()[:3], *values.stride()[:3], heads, time)
        exact = "tf32" if torch.backends.cuda.matmul.allow_tf32 else "ieee"  # float32 rounded to 19 bits, or as it is
        exact = "interpreted" if triton.knobs.runtime.interpret else exact
        self.constants = dict(HEAD_DIM=head_dim, VALUE_DIM=value_dim, D=max(MIN_DOT, triton.next_power_of_2(head_dim)),
                              V=max(MIN_DOT, triton.next_power_of_2(value_dim)), TWO=len(queries) == 2, LEARNED=ages is not None,
                              EXACT=exact, FADED_AT=FADED, BEYOND=BEYOND)

    def start(self, name, kernel, *outputs, **choice):
        tiles = choose_tiles(name, *self.about)
        kernel[(triton.cdiv(self.time, tiles.held) * self.places,)](  # one axis: the others end at 65,535 programs
            *self.inputs, *outputs, *self.sizes, **self.constants, **choice, HELD=tiles.held, MET=tiles.met, num_warps=tiles.warps,
            num_stages=tiles.stages)


@triton.jit
def _program(heads, time, HELD: tl.constexpr):
    """Which of all heads of all sequences this program works on, head, sequence, number of its tile, and how many tiles there are."""
    count = tl.cdiv(time, HELD)
    place = (tl.program_id(0) // count).to(tl.int64)
    return place, place % heads, place // heads, tl.program_id(0) % count, count


@triton.jit
def _tile(pointer, rows, columns, stride, time, SIZE: tl.constexpr, WIDE: tl.constexpr):
    """Rows of a matrix (time, SIZE), zeros outside; `columns` are 0 .. WIDE - 1."""
    inside = rows[:, None] < time
    if SIZE != WIDE:
        inside = inside & (columns[None, :] < SIZE)
    return tl.load(pointer + rows[:, None] * stride + columns[None, :], mask=inside, other=0.0)


@triton.jit
def _pair(one, other, rows, columns, stride, time, SIZE: tl.constexpr, WIDE: tl.constexpr, TWO: tl.constexpr):
    """The tiles of both branches; of one branch twice the same."""
    first = _tile(one, rows, columns, stride, time, SIZE, WIDE)
    second = first
    if TWO:
        second = _tile(other, rows, columns, stride, time, SIZE, WIDE)
    return first, second


@triton.jit
def _store(pointer, values, rows, columns, time, SIZE: tl.constexpr):
    inside = (rows[:, None] < time) & (columns[None, :] < SIZE)
    tl.store(pointer + rows[:, None] * SIZE + columns[None, :], values.to(pointer.dtype.element_ty), mask=inside)


@triton.jit
def _dot(x, y, EXACT: tl.constexpr):
    if EXACT == "interpreted":  # whose products take bfloat16 for whole numbers
        product = tl.dot(x.to(tl.float32), y.to(tl.float32), input_precision="ieee")
    else:
        product = tl.dot(x, y, input_precision=EXACT)
    return product


@triton.jit
def _scores(held1, held2, met1, met2, TWO: tl.constexpr, EXACT: tl.constexpr):
    """a and b, held by met; for one branch both are q . k."""
    a = _dot(held1, tl.trans(met1), EXACT)
    b = a
    if TWO:
        b = _dot(held2, tl.trans(met2), EXACT)
    return a, b


@triton.jit
def _ages(held, met, OF_KEYS: tl.constexpr):
    """i - j for each pair of a held and a met row; keys are held, or queries."""
    ages = held[:, None] - met[None, :]
    if OF_KEYS:
        ages = -ages
    return ages


@triton.jit
def _fading(held, met, edge, slope, ages_of, LEARNED: tl.constexpr, OF_KEYS: tl.constexpr, APART: tl.constexpr):
    """u[n] for ages n >= 0, else 0; of tiles apart from what is held, if nothing is learned, the factor of the met rows of exp(-m n)."""
    if LEARNED:
        ages = _ages(held, met, OF_KEYS)
        if APART:
            fading = tl.load(ages_of + ages).to(tl.float32)
        else:
            fading = tl.load(ages_of + ages, mask=ages >= 0, other=0.0).to(tl.float32)
    elif APART:
        fading = tl.exp(-slope * tl.abs(met - edge).to(tl.float32))[None, :]
    else:
        ages = _ages(held, met, OF_KEYS)
        fading = tl.where(ages >= 0, tl.exp(-slope * tl.maximum(ages, 0).to(tl.float32)), 0.0)
    return fading


@triton.jit
def _held_fading(held, edge, slope, LEARNED: tl.constexpr):
    """The factor of the held rows of exp(-m n) in tiles apart; 1 where the ages are learned."""
    fading = tl.full(held.shape, 1.0, tl.float32)
    if not LEARNED:
        fading = tl.exp(-slope * tl.abs(held - edge).to(tl.float32))
    return fading


@triton.jit
def _of_head(ages, nothing, head, time, LEARNED: tl.constexpr, BEYOND: tl.constexpr):
    """Where the ages of a head begin."""
    place = nothing
    if LEARNED:
        place = ages + head * (time + BEYOND)
    return place


@triton.jit
def _reach(slope, time, FADED_AT: tl.constexpr):
    """The age from which exp(-m n) counts as 0."""
    return tl.where(slope > 0, tl.minimum(FADED_AT / tl.maximum(slope, 1e-30), 1.0 * time), 1.0 * time).to(tl.int32) + 1


@triton.jit
def _sum_values(total, first, last, rows, q1, q2, edge, slope, ages, K1, K2, VALUES, kt, vt, time,
                HEAD_DIM: tl.constexpr, VALUE_DIM: tl.constexpr, D: tl.constexpr, V: tl.constexpr, TWO: tl.constexpr,
                LEARNED: tl.constexpr, EXACT: tl.constexpr, MET: tl.constexpr, APART: tl.constexpr):
    """Add the keys and values of positions first .. last - 1 to the sums of held queries."""
    d, v = tl.arange(0, D), tl.arange(0, V)
    for begin in range(first, last, MET):
        columns = begin + tl.arange(0, MET)
        k1, k2 = _pair(K1, K2, columns, d, kt, time, HEAD_DIM, D, TWO)
        values = _tile(VALUES, columns, v, vt, time, VALUE_DIM, V)
        a, b = _scores(q1, q2, k1, k2, TWO, EXACT)
        weights = a * b * _fading(rows, columns, edge, slope, ages, LEARNED, False, APART)
        total += _dot(weights.to(values.dtype), values, EXACT)
    return total


@triton.jit
def _forward(Q1, Q2, K1, K2, VALUES, SLOPES, SCALE, AGES, OUT,
             qb, qh, qt, kb, kh, kt, vb, vh, vt, heads, time,
             HEAD_DIM: tl.constexpr, VALUE_DIM: tl.constexpr, D: tl.constexpr, V: tl.constexpr, TWO: tl.constexpr,
             LEARNED: tl.constexpr, EXACT: tl.constexpr, FADED_AT: tl.constexpr, BEYOND: tl.constexpr, HELD: tl.constexpr,
             MET: tl.constexpr):
    place, head, batch, number, count = _program(heads, time, HELD)
    start = (count - 1 - number) * HELD  # the longest rows first
    rows, slope = start + tl.arange(0, HELD), tl.load(SLOPES + head)
    queries, keys, values = batch * qb + head * qh, batch * kb + head * kh, batch * vb + head * vh
    q1, q2 = _pair(Q1 + queries, Q2 + queries, rows, tl.arange(0, D), qt, time, HEAD_DIM, D, TWO)
    ages = _of_head(AGES, SLOPES, head, time, LEARNED, BEYOND)
    first = tl.maximum(start - _reach(slope, time, FADED_AT), 0) // MET * MET
    total = tl.zeros([HELD, V], tl.float32)
    total = _sum_values(total, first, start, rows, q1, q2, start, slope, ages, K1 + keys, K2 + keys, VALUES + values,
                        kt, vt, time, HEAD_DIM, VALUE_DIM, D, V, TWO, LEARNED, EXACT, MET, True)
    total = total * _held_fading(rows, start, slope, LEARNED)[:, None]
    total = _sum_values(total, start, start + HELD, rows, q1, q2, start, slope, ages, K1 + keys, K2 + keys, VALUES + values,
                        kt, vt, time, HEAD_DIM, VALUE_DIM, D, V, TWO, LEARNED, EXACT, MET, False)
    total = total * tl.load(SCALE + head * time + rows, mask=rows < time, other=0.0)[:, None]
    _store(OUT + place * time * VALUE_DIM, total, rows, tl.arange(0, V), time, VALUE_DIM)


@triton.jit
def _sum_gradients(of_1, of_2, of_values, first, last, held, held1, held2, held3, edge, slope, ages, MET1, MET2, MET3, SCALE, mt, m3t,
                   time,
                   HEAD_DIM: tl.constexpr, VALUE_DIM: tl.constexpr, D: tl.constexpr, V: tl.constexpr, TWO: tl.constexpr,
                   LEARNED: tl.constexpr, EXACT: tl.constexpr, MET: tl.constexpr, OF_KEYS: tl.constexpr, APART: tl.constexpr):
    """Add what the rows first .. last - 1 give to the gradients of held rows."""
    d, v = tl.arange(0, D), tl.arange(0, V)
    for begin in range(first, last, MET):
        met = begin + tl.arange(0, MET)
        met1, met2 = _pair(MET1, MET2, met, d, mt, time, HEAD_DIM, D, TWO)
        met3 = _tile(MET3, met, v, m3t, time, VALUE_DIM, V)
        a, b = _scores(held1, held2, met1, met2, TWO, EXACT)
        weights = _fading(held, met, edge, slope, ages, LEARNED, OF_KEYS, APART)
        if OF_KEYS:
            weights = weights * tl.load(SCALE + met, mask=met < time, other=0.0)[None, :]
        changed = _dot(held3, tl.trans(met3), EXACT)
        if OF_KEYS:
            of_values += _dot((weights * a * b).to(met3.dtype), met3, EXACT)
        weights = weights * changed
        if TWO:
            of_1 += _dot((weights * b).to(met1.dtype), met1, EXACT)
            of_2 += _dot((weights * a).to(met1.dtype), met2, EXACT)
        else:
            of_1 += _dot((2.0 * weights * a).to(met1.dtype), met1, EXACT)
    return of_1, of_2, of_values


@triton.jit
def _backward(Q1, Q2, K1, K2, VALUES, SLOPES, SCALE, AGES, GRADIENT, OF_1, OF_2, OF_VALUES,
              qb, qh, qt, kb, kh, kt, vb, vh, vt, heads, time,
              HEAD_DIM: tl.constexpr, VALUE_DIM: tl.constexpr, D: tl.constexpr, V: tl.constexpr, TWO: tl.constexpr,
              LEARNED: tl.constexpr, EXACT: tl.constexpr, FADED_AT: tl.constexpr, BEYOND: tl.constexpr, HELD: tl.constexpr,
              MET: tl.constexpr, OF_KEYS: tl.constexpr):
    """Gradients of held queries, or of held keys and values: the same sums, with the two exchanged."""
    place, head, batch, number, count = _program(heads, time, HELD)
    d, v, slope, scales = tl.arange(0, D), tl.arange(0, V), tl.load(SLOPES + head), SCALE + head * time
    ages = _of_head(AGES, SLOPES, head, time, LEARNED, BEYOND)
    queries, keys, values = batch * qb + head * qh, batch * kb + head * kh, batch * vb + head * vh
    gradients, reach = GRADIENT + place * time * VALUE_DIM, _reach(slope, time, FADED_AT)
    if OF_KEYS:
        start = number * HELD  # the first keys, which most queries see, come first; so do the last queries
        held, edge = start + tl.arange(0, HELD), start + HELD
        held1, held2 = _pair(K1 + keys, K2 + keys, held, d, kt, time, HEAD_DIM, D, TWO)
        held3, full = _tile(VALUES + values, held, v, vt, time, VALUE_DIM, V), tl.full([HELD], 1.0, tl.float32)
        met1, met2, met3, mt, m3t = Q1 + queries, Q2 + queries, gradients, qt, VALUE_DIM
        first, last = edge, tl.minimum(edge + reach, time)
    else:
        start = (count - 1 - number) * HELD
        held, edge = start + tl.arange(0, HELD), start
        held1, held2 = _pair(Q1 + queries, Q2 + queries, held, d, qt, time, HEAD_DIM, D, TWO)
        held3 = _tile(gradients, held, v, VALUE_DIM, time, VALUE_DIM, V)
        full = tl.load(scales + held, mask=held < time, other=0.0)
        met1, met2, met3, mt, m3t = K1 + keys, K2 + keys, VALUES + values, kt, vt
        first, last = tl.maximum(start - reach, 0) // MET * MET, start
    of_1, of_2, of_values = tl.zeros([HELD, D], tl.float32), tl.zeros([HELD, D], tl.float32), tl.zeros([HELD, V], tl.float32)
    fading = _held_fading(held, edge, slope, LEARNED)
    of_1, of_2, of_values = _sum_gradients(
        of_1, of_2, of_values, first, last, held, held1, held2, held3, edge, slope, ages, met1, met2, met3, scales, mt, m3t, time,
        HEAD_DIM, VALUE_DIM, D, V, TWO, LEARNED, EXACT, MET, OF_KEYS, True)
    of_1, of_2, of_values = of_1 * fading[:, None], of_2 * fading[:, None], of_values * fading[:, None]
    of_1, of_2, of_values = _sum_gradients(
        of_1, of_2, of_values, start, start + HELD, held, held1, held2, held3, edge, slope, ages, met1, met2, met3, scales, mt, m3t, time,
        HEAD_DIM, VALUE_DIM, D, V, TWO, LEARNED, EXACT, MET, OF_KEYS, False)
    _store(OF_1 + place * time * HEAD_DIM, of_1 * full[:, None], held, d, time, HEAD_DIM)
    if TWO:
        _store(OF_2 + place * time * HEAD_DIM, of_2 * full[:, None], held, d, time, HEAD_DIM)
    if OF_KEYS:
        _store(OF_VALUES + place * time * VALUE_DIM, of_values, held, v, time, VALUE_DIM)


@triton.jit
def _backward_ages(Q1, Q2, K1, K2, VALUES, SLOPES, SCALE, AGES, GRADIENT, OF_AGES,
                   qb, qh, qt, kb, kh, kt, vb, vh, vt, heads, time,
                   HEAD_DIM: tl.constexpr, VALUE_DIM: tl.constexpr, D: tl.constexpr, V: tl.constexpr, TWO: tl.constexpr,
                   LEARNED: tl.constexpr, EXACT: tl.constexpr, FADED_AT: tl.constexpr, BEYOND: tl.constexpr, HELD: tl.constexpr,
                   MET: tl.constexpr):
    """Gradients of the weights of ages: a program adds up the tiles (HELD, HELD) of one band, keys `apart` before their queries."""
    place, head, batch, number, _ = _program(heads, time, HELD)
    d, v, side, apart = tl.arange(0, D), tl.arange(0, V), tl.arange(0, HELD), number * HELD
    queries, keys, values = batch * qb + head * qh, batch * kb + head * kh, batch * vb + head * vh
    gradients, of_ages = GRADIENT + place * time * VALUE_DIM, OF_AGES + head * (time + BEYOND)
    last = tl.where(apart < _reach(tl.load(SLOPES + head), time, FADED_AT) + HELD, time, 0)
    total = tl.zeros([HELD, HELD], tl.float32)
    for start in range(apart, last, HELD):
        rows, columns = start + side, start - apart + side
        q1, q2 = _pair(Q1 + queries, Q2 + queries, rows, d, qt, time, HEAD_DIM, D, TWO)
        k1, k2 = _pair(K1 + keys, K2 + keys, columns, d, kt, time, HEAD_DIM, D, TWO)
        a, b = _scores(q1, q2, k1, k2, TWO, EXACT)
        gradient = _tile(gradients, rows, v, VALUE_DIM, time, VALUE_DIM, V)
        changed = _dot(gradient, tl.trans(_tile(VALUES + values, columns, v, vt, time, VALUE_DIM, V)), EXACT)
        total += a * b * changed * tl.load(SCALE + head * time + rows, mask=rows < time, other=0.0)[:, None]
    # Entry (r, c) has age apart + r - c. Each row is turned so that column n holds an age apart + n or, before its turn, apart + n - HELD.
    column = (side[:, None] + HELD - side[None, :]) % HELD
    turned, older = tl.gather(total, column, 1), column <= side[:, None]
    tl.atomic_add(of_ages + apart + side, tl.sum(tl.where(older, turned, 0.0), 0), sem="relaxed")
    younger = apart + side - HELD
    tl.atomic_add(of_ages + younger, tl.sum(tl.where(older, 0.0, turned), 0), mask=younger >= 0, sem="relaxed")
