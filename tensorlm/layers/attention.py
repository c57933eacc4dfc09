"""Attention in three kinds with one interface: softmax, squared and bilinear."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tensorlm.checks import require_counts
from tensorlm.layers.init import init_weights
from tensorlm.layers.linear import project, require_rows
from tensorlm.layers.norm import TOKEN_KINDS, Norm, joint_norm
from tensorlm.layers.polynomial_attention import attend
from tensorlm.layers.positions import Positions

ATTENTION_KINDS = ("softmax", "squared", "bilinear")
BRANCHES = {"softmax": 1, "squared": 1, "bilinear": 2}
SDPA_FROM = 256  # shortest sequence for which the fused kernel wins in float32 on a CPU


class Attention(nn.Module):
    """Multi-head causal attention over x (batch, time, width).

    With c the constant pattern of `Positions` and s = q.k / sqrt(head_dim), head by head:

    | kind | z_i | polynomial degree |
    | --- | --- | --- |
    | bilinear | sum_j c_ij s1_ij s2_ij v_j, two pairs (q1, k1), (q2, k2) | 5: two from x_i, three from x_j |
    | squared | sum_j c_ij s_ij^2 v_j | 5 |
    | softmax | sum_j softmax_j(s_ij + log-constants) v_j | none |

    Each score is scaled before the product, so that half precision does not overflow. The mask multiplies: nothing is
    set to minus infinity, and keys do not compete. `tensorlm.tensors.attend` computes it, by the algorithm that should take
    the least time. `qk_norm` puts a norm site on every q and k of a head; "joint" norms both branches of a query (or of a
    key) together, which keeps the scores rational, and is "rms" where there is one branch.
    Parameters: 4 width^2, or 6 width^2 for bilinear. `forward` returns (output, values); `values` (batch, heads,
    time, head_dim) of the first layer may be mixed into later ones (value residual, arXiv 2410.17897).

    >>> layer = Attention("bilinear", width=32, head_dim=16, context=8)
    >>> x = torch.randn(1, 8, 32)
    >>> torch.allclose(layer(2 * x)[0], 2**5 * layer(x)[0], rtol=1e-4, atol=1e-4)
    True
    """

    v: nn.Parameter
    o: nn.Parameter

    def __init__(self, kind: str, width: int, head_dim: int, context: int, positions: tuple[str, ...] = ("decay",),
                 row_scale: str = "sqrt", qk_norm: str = "none", value_residual: str = "none"):
        super().__init__()
        if kind not in ATTENTION_KINDS:
            raise ValueError(f"unknown attention {kind!r}; expected one of {ATTENTION_KINDS}")
        require_counts(width=width, head_dim=head_dim, context=context)
        if width % head_dim:
            raise ValueError(f"width must be a multiple of head_dim, got width={width}, head_dim={head_dim}")
        self.kind, self.width, self.head_dim, self.heads = kind, width, head_dim, width // head_dim
        self.degree = None if kind == "softmax" or qk_norm in TOKEN_KINDS else 5
        names = ("q1", "q2", "k1", "k2", "v", "o") if kind == "bilinear" else ("q", "k", "v", "o")
        for name in names:
            setattr(self, name, nn.Parameter(torch.empty(width, width)))
        self.positions = Positions(positions, self.heads, head_dim, context, row_scale)
        self.qk_norms = nn.ModuleList([Norm(qk_norm, self.heads, features=head_dim) for _ in range(2 * BRANCHES[kind])])
        if value_residual == "learned":
            self.value_mix = nn.Parameter(torch.empty(2))
        init_weights(self)

    def forward(self, x: Tensor, first_values: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.check_input(x, first_values)
        queries, keys, values = self.project_heads(x)
        queries = [self.positions.rotate(query) for query in queries]
        keys = [self.positions.offset(self.positions.rotate(key)) for key in keys]
        mixed = self.mix_values(values, first_values)
        if self.kind == "softmax":
            z = self._softmax(queries[0], keys[0], mixed)
        else:
            z = attend(queries, keys, mixed, self.positions.pattern())
        return self.merge_heads(z), values

    def check_input(self, x: Tensor, first_values: Tensor | None) -> None:
        """Raise TypeError or ValueError unless x is (batch, time, width) and the values of the first layer fit it."""
        require_rows(x, self.width)
        if x.ndim != 3 or x.shape[1] == 0:
            raise ValueError(f"x must have shape (batch, time, {self.width}) with time at least 1, got {tuple(x.shape)}")
        expected = (self.heads, x.shape[1], self.head_dim)
        if first_values is not None:
            require_rows(first_values, self.head_dim, "first_values")
            if first_values.ndim != 4 or first_values.shape[1:] != expected:
                raise ValueError(f"first_values must have shape (batch, {', '.join(map(str, expected))}), got {tuple(first_values.shape)}")

    def project_heads(self, x: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Scaled and normed queries, normed keys (one or two branches) and values, each (batch, heads, time, head_dim)."""
        branches = ("1", "2") if self.kind == "bilinear" else ("",)
        scale = self.head_dim**-0.5
        before, after = (scale, None) if self.qk_norms[0].kind == "none" else (1.0, scale)
        weights = [getattr(self, "q" + b) * before for b in branches] + [getattr(self, "k" + b) for b in branches]
        flat = project(x, *weights, self.v)
        parts = flat.view(*x.shape[:2], -1, self.heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        count = len(branches)
        if after is None:
            return list(parts[:count]), list(parts[count:-1]), parts[-1]
        normed = self._normed(parts[:-1])
        return [query * after for query in normed[:count]], normed[count:], parts[-1]

    def _normed(self, parts: tuple[Tensor, ...]) -> list[Tensor]:
        if self.qk_norms[0].kind == "joint" and self.kind == "bilinear":
            return [*joint_norm(*parts[:2]), *joint_norm(*parts[2:])]
        return [norm(part) for norm, part in zip(self.qk_norms, parts)]

    def mix_values(self, values: Tensor, first_values: Tensor | None) -> Tensor:
        """The value residual: a learned mix with the values of the first layer."""
        if first_values is None or not hasattr(self, "value_mix"):
            return values
        mix = self.value_mix.to(values.dtype)
        return mix[0] * values + mix[1] * first_values

    def merge_heads(self, z: Tensor) -> Tensor:
        return project(z.transpose(1, 2).flatten(-2), self.o)

    def _softmax(self, query: Tensor, key: Tensor, values: Tensor) -> Tensor:
        if query.device.type != "cpu" and not {"decay", "toeplitz"} & set(self.positions.features):
            return F.scaled_dot_product_attention(query, key, values, is_causal=True, scale=1.0)  # a bias rules out its fastest kernel
        bias = self.positions.bias(values.shape[-2], query.dtype, query.device)
        if use_fused_softmax(query):
            return F.scaled_dot_product_attention(query, key, values, attn_mask=bias, scale=1.0)
        return torch.softmax(query @ key.mT + bias, dim=-1) @ values

    @property
    def parameter_count(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())


def use_fused_softmax(query: Tensor) -> bool:
    """Whether torch's fused kernel is the faster one: always on a GPU; on a CPU only for long float32 sequences.

    In bfloat16 on a CPU the fused kernel is several times slower than two matrix products (measured in benchmarks).
    """
    if query.device.type != "cpu":
        return True
    return query.dtype in (torch.float32, torch.float64) and query.shape[-2] >= SDPA_FROM


def attention_parameters(kind: str, width: int) -> int:
    """Matrix parameters of one attention layer: 4 width^2, or 6 width^2 with two branches.

    >>> attention_parameters("bilinear", 64) / 64**2
    6.0
    """
    return (2 * BRANCHES[kind] + 2) * width * width
