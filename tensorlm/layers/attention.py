"""Attention in three kinds with one interface: softmax, squared and bilinear; and how a head knows where a token stands."""

import itertools
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from tensorlm.checks import DTYPES, require, require_counts, require_one_of, require_rows
from tensorlm.layers.init import init_weights
from tensorlm.layers.norm import TOKEN_KINDS, Norm, joint_norm
from tensorlm.layers.polynomial_attention import Pattern, attend, keep_last, skew

BRANCHES = {"softmax": 1, "squared": 1, "bilinear": 2}
ATTENTION_KINDS = tuple(BRANCHES)
FLASH_FROM = 256  # shortest sequence for which torch's fused softmax wins in float32 on a CPU
POSITIONS = ("rope", "decay", "toeplitz", "key_offset")
ROW_SCALES = {"none": 0.0, "sqrt": 0.5, "mean": 1.0}
ROPE_BASE = 10_000.0


class Heads(NamedTuple):
    """What the heads multiply, (batch, heads, time, head_dim); `last_keys` are those before the key offset, for the next token."""

    queries: list[Tensor]
    keys: list[Tensor]
    values: Tensor
    last_keys: list[Tensor]


class Attention(nn.Module):
    """Multi-head causal attention over x (batch, time, width).

    With c the constant pattern of `Positions` and s = q.k / sqrt(head_dim), head by head:

    | kind | z_i | polynomial degree |
    | --- | --- | --- |
    | bilinear | sum_j c_ij s1_ij s2_ij v_j, two pairs (q1, k1), (q2, k2) | 5: two from x_i, three from x_j |
    | squared | sum_j c_ij s_ij^2 v_j | 5 |
    | softmax | sum_j softmax_j(s_ij + log-constants) v_j | none |

    Scores are scaled before the product, so that half precision does not overflow; the mask multiplies, and keys do not
    compete. `qk_norm` puts a norm site on every q and k of a head; "joint" norms both branches of a query (or key) together,
    which keeps scores rational, and is "rms" where there is one branch. `forward` returns (output, values); `values` (batch,
    heads, time, head_dim) of the first layer may be mixed into later ones (value residual, arXiv 2410.17897).

    >>> layer = Attention("bilinear", width=32, head_dim=16, context=8)
    >>> x = torch.randn(1, 8, 32)
    >>> torch.allclose(layer(2 * x)[0], 2**5 * layer(x)[0], rtol=1e-4, atol=1e-4)
    True
    """

    v: nn.Parameter
    o: nn.Parameter
    value_mix: nn.Parameter | None

    def __init__(self, kind: str, width: int, head_dim: int, context: int, positions: tuple[str, ...] = ("decay",),
                 row_scale: str = "sqrt", qk_norm: str = "none", value_residual: str = "none"):
        super().__init__()
        require_one_of("kind", kind, ATTENTION_KINDS)
        require_counts(width=width, head_dim=head_dim, context=context)
        require(width % head_dim == 0, "width", width, f"a multiple of head_dim={head_dim}")
        self.kind, self.width, self.head_dim, self.heads = kind, width, head_dim, width // head_dim
        self.degree = None if kind == "softmax" or qk_norm in TOKEN_KINDS else 5
        self.query_names: tuple[str, ...] = ("q1", "q2") if kind == "bilinear" else ("q",)
        self.key_names: tuple[str, ...] = ("k1", "k2") if kind == "bilinear" else ("k",)
        for name in (*self.query_names, *self.key_names, "v", "o"):
            setattr(self, name, nn.Parameter(torch.empty(width, width)))
        self.positions = Positions(positions, self.heads, head_dim, context, row_scale)
        self.qk_norms = nn.ModuleList([Norm(qk_norm, self.heads, features=head_dim) for _ in range(2 * BRANCHES[kind])])
        self.qk_norm = qk_norm
        self.value_mix = nn.Parameter(torch.empty(2)) if value_residual == "learned" else None
        init_weights(self)

    def forward(self, x: Tensor, first_values: Tensor | None = None) -> tuple[Tensor, Tensor]:
        queries, keys, values, _ = self.prepare(x)
        mixed = values if first_values is None or self.value_mix is None else self.mix_values(values, first_values)
        if self.kind == "softmax":
            z = self._softmax(queries[0], keys[0], mixed)
        else:
            z = attend(queries, keys, mixed, self.positions.pattern())
        return self.merge_heads(z), values

    def recorded(self, x: Tensor, first_values: Tensor | None = None) -> tuple[Tensor, Tensor, tuple]:
        """`forward` by the whole table of weights: output, values, (queries, keys, mixed values, weights)."""
        queries, keys, values, _ = self.prepare(x)
        if self.kind == "squared":
            queries, keys = queries * 2, keys * 2
        mixed = self.mix_values(values, first_values)
        weights = self.weights(queries, keys)
        return self.merge_heads(weights @ mixed), values, (tuple(queries), tuple(keys), mixed, weights)

    def prepare(self, x: Tensor, start: int = 0, last_keys: list[Tensor] | None = None) -> Heads:
        """Queries, keys and values of x from position `start` on; `last_keys` are those before it, unshifted."""
        if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim != 3 or x.shape[-1] != self.width or x.shape[1] == 0:
            require_rows(x, self.width)
            raise ValueError(f"x must have shape (batch, time, {self.width}) with time at least 1, got {tuple(x.shape)}")
        count, scale = len(self.query_names), self.head_dim**-0.5
        first = 1.0 if self.qk_norm != "none" else scale
        matrices = [getattr(self, name) * first for name in self.query_names] + [getattr(self, name) for name in (*self.key_names, "v")]
        flat = F.linear(x, torch.cat(matrices).to(x.dtype))
        parts = flat.view(*x.shape[:2], -1, self.heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        queries, keys, values = list(parts[:count]), list(parts[count:-1]), parts[-1]
        if self.qk_norm != "none":
            if self.qk_norm == "joint" and count == 2:
                normed = [*joint_norm(*queries), *joint_norm(*keys)]
            else:
                normed = [norm(part) for norm, part in zip(self.qk_norms, (*queries, *keys))]
            queries, keys = [query * scale for query in normed[:count]], normed[count:]
        if "rope" in self.positions.features:
            queries, keys = ([self.positions.rotate(part, start) for part in parts] for parts in (queries, keys))
        unshifted = keys
        if "key_offset" in self.positions.features:
            keys = [self.positions.offset(key, last) for key, last in itertools.zip_longest(keys, last_keys or [])]
        return Heads(queries, keys, values, unshifted)

    def mix_values(self, values: Tensor, first_values: Tensor | None) -> Tensor:
        if first_values is None:
            return values
        require_rows(first_values, self.head_dim, "first_values")
        fits = first_values.ndim == 4 and first_values.shape[1:] == values.shape[1:]
        require(fits, "first_values", first_values, f"of shape (batch, {', '.join(map(str, values.shape[1:]))})")
        if self.value_mix is None:
            return values
        mix = self.value_mix.to(values.dtype)
        return mix[0] * values + mix[1] * first_values

    def merge_heads(self, z: Tensor) -> Tensor:
        return F.linear(z.transpose(1, 2).flatten(-2), self.o.to(z.dtype))

    def weights(self, queries: list[Tensor], keys: list[Tensor]) -> Tensor:
        """What values are summed with: c_ij times the scores, or the softmax: (batch, heads, time, time)."""
        time, like = keys[0].shape[-2], keys[0]
        if self.kind == "softmax":
            return torch.softmax(queries[0] @ keys[0].mT + self.positions.bias(time, like.dtype, like.device), dim=-1)
        weights = self.positions.multiplier(time, like.dtype, like.device)
        for query, key in zip(queries, keys):
            weights = weights * (query @ key.mT)
        return weights

    def _softmax(self, query: Tensor, key: Tensor, values: Tensor) -> Tensor:
        if query.device.type != "cpu" and not {"decay", "toeplitz"} & set(self.positions.features):
            return F.scaled_dot_product_attention(query, key, values, is_causal=True, scale=1.0)  # a bias rules out its fastest kernel
        bias = self.positions.bias(values.shape[-2], query.dtype, query.device)
        # On a CPU the fused kernel wins for long sequences only, and in bfloat16 it is several times slower (measured in benchmarks).
        if query.device.type != "cpu" or (query.dtype in DTYPES and query.shape[-2] >= FLASH_FROM):
            return F.scaled_dot_product_attention(query, key, values, attn_mask=bias, scale=1.0)
        return torch.softmax(query @ key.mT + bias, dim=-1) @ values


def attention_parameters(kind: str, width: int) -> int:
    """Matrix parameters of one attention layer: 4 width^2, or 6 width^2 with two branches."""
    return (2 * BRANCHES[kind] + 2) * width * width


class Positions(nn.Module):
    """The position features of one attention layer: constants and learned constants that keep attention a polynomial.

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

    toeplitz: nn.Parameter | None

    def __init__(self, features: tuple[str, ...], heads: int, head_dim: int, context: int, row_scale: str = "sqrt"):
        super().__init__()
        require_counts(heads=heads, head_dim=head_dim, context=context)
        known = isinstance(features, tuple | list) and set(features) <= set(POSITIONS)
        require(known, "positions", features, f"a tuple of names among {POSITIONS}")
        require_one_of("row_scale", row_scale, ROW_SCALES)
        even = not (head_dim % 2 and {"rope", "key_offset"} & set(features))
        require(even, "head_dim", head_dim, "even for rope and key_offset")
        self.features, self.heads, self.head_dim, self.context = tuple(features), heads, head_dim, context
        self.row_power = ROW_SCALES[row_scale]
        self.toeplitz = nn.Parameter(torch.zeros(heads, context)) if "toeplitz" in features else None
        places = torch.arange(heads, dtype=torch.float64, device="cpu")
        self._slopes = 2.0 ** (-8.0 * places / heads) if "decay" in features else torch.zeros_like(places)
        self._pattern: Pattern | None = None
        self._constants: dict[str, tuple[tuple, Tensor]] = {}

    def slopes(self, like: Tensor | None = None) -> Tensor:
        """m_h, the decay per token of each head: (heads,); zeros without the decay feature."""
        return self._slopes if like is None else self._slopes.to(like)

    def pattern(self) -> Pattern:
        if torch.compiler.is_compiling():  # without a guard on what is kept
            return Pattern(self._slopes, self.row_power, self.toeplitz)
        if self._pattern is None or self._pattern.table is not self.toeplitz:
            self._pattern = Pattern(self._slopes, self.row_power, self.toeplitz, self._constants)
        return self._pattern

    def _apply(self, function, recurse=True):
        """Slopes go where the module goes, and stay in float64."""
        self._slopes, self._pattern = self._slopes.to(function(torch.empty(0)).device), None
        return super()._apply(function, recurse)

    def __getstate__(self):
        """For copies: the constants are made again (made inside `torch.func` they cannot be copied)."""
        return {**self.__dict__, "_constants": {}, "_pattern": None}

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
        if self.toeplitz is None:
            return bias
        return bias + skew(self.pattern().padded_table(count), 0, count).to(dtype)

    def _build_bias(self, count: int) -> Tensor:
        places = torch.arange(count, device=self._slopes.device)
        ages = places[:, None] - places
        return (-self._slopes[:, None, None] * ages.clamp(min=0)).masked_fill(ages < 0, -math.inf)

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
        return rearrange(self.rotate(rows), "column time row -> time row column")

    def _build_rotation(self, start: int, count: int) -> Tensor:
        half = self.head_dim // 2
        rates = ROPE_BASE ** (-torch.arange(half, dtype=torch.float64, device=self._slopes.device) / half)
        angles = (start + torch.arange(count).to(rates))[:, None] * rates
        return torch.stack([angles.cos(), angles.sin()])

    def offset(self, keys: Tensor, before: Tensor | None = None) -> Tensor:
        """The second half of each key (..., time, head_dim) from the position before, `before` for the first."""
        require_rows(keys, self.head_dim, "keys")
        if "key_offset" not in self.features:
            return keys
        half = self.head_dim // 2
        first = torch.zeros_like(keys[..., :1, half:]) if before is None else before[..., half:]
        return torch.cat([keys[..., :half], torch.cat([first, keys[..., :-1, half:]], dim=-2)], dim=-1)
