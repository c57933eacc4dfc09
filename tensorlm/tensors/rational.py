"""Normalisation as a ratio of polynomials: numerators and denominators instead of square roots.

With mean square s(x) = x.x / d, the norm is x -> x / sqrt(s(x) + eps). A bilinear layer f reads the normed vector twice, so
the root is squared away: f(norm(x)) = f(x) / (s(x) + eps), and the block x + f(norm(x)) is a cubic over a quadratic,

    [x (s(x) + eps) + f(x)] / (s(x) + eps).

A stack of L blocks is carried in homogeneous coordinates (N, q), x = N / q: polynomials of degree 3^L over 3^L - 1.
Along a ray x + alpha s both are polynomials in alpha (`tensorlm.tensors.rays`).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tensorlm.tensors.checks import require_affordable, require_instance, require_last_axis, require_rank, require_same_kind
from tensorlm.tensors.cp import CPTensor
from tensorlm.tensors.scaling import exponents, shifted

RESIDUALS = ("identity", "none")
EPS = 1e-6  # of the model's norm sites


@dataclass(frozen=True, eq=False)
class RationalBlock:
    """A bilinear layer behind an RMS norm (Zhang & Sennrich, arXiv 1910.07467), as numerator over denominator.

    residual "identity": x + f(norm(x)), degrees 3 over 2. residual "none": f(norm(x)), degrees 2 over 2.
    `cp` holds the layer's factors and `eps` the norm's constant, exactly. Shapes: x (..., width) -> (..., out).
    Raises TypeError or ValueError naming the argument, its value and what fits.

    >>> block = RationalBlock(CPTensor(torch.eye(2), torch.eye(2), torch.eye(2)), eps=0.0)  # f(x) = x * x
    >>> x = torch.tensor([3.0, 4.0])
    >>> block.numerator(x), block.denominator(x), block(x)
    (tensor([46.5000, 66.0000]), tensor(12.5000), tensor([3.7200, 5.2800]))
    """

    cp: CPTensor
    eps: float = EPS
    residual: str = "identity"

    def __post_init__(self):
        require_instance("cp", self.cp, CPTensor)
        if not isinstance(self.eps, int | float) or not 0 <= self.eps < math.inf:
            raise ValueError(f"eps must be a finite number of at least 0, got {self.eps!r}")
        if self.residual not in RESIDUALS:
            raise ValueError(f"residual must be one of {RESIDUALS}, got {self.residual!r}")
        if self.residual == "identity" and self.cp.out != self.cp.width:
            raise ValueError(f"cp must have out equal to width for residual 'identity', got out={self.cp.out}, width={self.cp.width}")

    @property
    def degrees(self) -> tuple[int, int]:
        """Degrees of numerator and denominator."""
        return self.next_degrees(1, 0)

    def next_degrees(self, numerator: int, denominator: int) -> tuple[int, int]:
        """Degrees of (N, q) after this block, from those before it."""
        return (3 * numerator, 2 * numerator + denominator) if self.residual == "identity" else (2 * numerator, 2 * numerator)

    def numerator(self, x: Tensor) -> Tensor:
        """x (s(x) + eps) + f(x), or f(x) without residual: (..., out)."""
        return self.advance(x, _ones(x))[0]

    def denominator(self, x: Tensor) -> Tensor:
        """s(x) + eps = x.x / width + eps: (...)."""
        return self.advance(x, _ones(x))[1]

    def __call__(self, x: Tensor) -> Tensor:
        """Numerator over denominator, the block's output, from a scaled x: (..., width) -> (..., out)."""
        exponent = exponents(x, -1) if _ones(x).numel() else 0
        unit, eps = shifted(x, -exponent), torch.full_like(x[..., :1], self.eps)
        ratio = self.cp(unit) / (unit.square().mean(-1, keepdim=True) + (shifted(eps, -2 * exponent) if self.eps else 0))
        return ratio if self.residual == "none" else x + ratio

    def advance(self, numerator: Tensor, denominator: Tensor) -> tuple[Tensor, Tensor]:
        """(N, q) with x = N / q before the block to (N', q') after it, without a division: (..., width), (...).

        With s = N.N / d + eps q^2: N' = N s + q f(N) and q' = q s, or f(N) and s without residual.
        """
        require_last_axis("x", numerator, self.cp.width)
        layer = self.cp(numerator)
        square = numerator.square().mean(-1) + self.eps * denominator.square()
        if self.residual == "none":
            return layer, square
        return numerator * square[..., None] + denominator[..., None] * layer, denominator * square


@dataclass(frozen=True, eq=False)
class RationalStack:
    """Blocks one after the other, the first applied first; the whole is a ratio of polynomials too.

    L blocks with residual have degrees 3^L over 3^L - 1: the cubic x (x.x) triples the degree, where a bilinear layer
    without a norm doubles it. Raises ValueError where a block's output does not fit the next one's input.

    >>> block = RationalBlock(CPTensor(torch.eye(2), torch.eye(2), torch.eye(2)))
    >>> RationalStack((block, block, block)).degrees
    (27, 26)
    """

    blocks: tuple[RationalBlock, ...]

    def __post_init__(self):
        if not isinstance(self.blocks, tuple | list):
            raise TypeError(f"blocks must be a tuple of RationalBlock, got {type(self.blocks).__name__}")
        object.__setattr__(self, "blocks", tuple(self.blocks))
        if not self.blocks:
            raise ValueError("blocks must hold at least one block, got none")
        for index, block in enumerate(self.blocks):
            require_instance(f"blocks[{index}]", block, RationalBlock)
        for index, (below, above) in enumerate(zip(self.blocks, self.blocks[1:])):
            require_same_kind(**{f"blocks[{index}].cp.D": below.cp.D, f"blocks[{index + 1}].cp.D": above.cp.D})
            if below.cp.out != above.cp.width:
                raise ValueError(f"blocks[{index + 1}] must have width {below.cp.out}, the out of the block before it, "
                                 f"got {above.cp.width}")

    @property
    def degrees(self) -> tuple[int, int]:
        """Degrees of numerator and denominator of the whole."""
        degrees = (1, 0)
        for block in self.blocks:
            degrees = block.next_degrees(*degrees)
        return degrees

    def homogeneous(self, x: Tensor, q: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The polynomials (N, q) themselves, from (x, q), by default (x, 1): (..., out), (...).

        With residuals both are homogeneous of degree 3^L in (x, q) together, so that their ratio depends on x / q only.
        They soon leave the number range.
        """
        numerator, denominator = x, _ones(x) if q is None else q
        for block in self.blocks:
            numerator, denominator = block.advance(numerator, denominator)
        return numerator, denominator

    def __call__(self, x: Tensor) -> Tensor:
        """N(x) / q(x), block by block, so that nothing overflows: (..., width) -> (..., out)."""
        for block in self.blocks:
            x = block(x)
        return x


def final_norm(numerator: Tensor, denominator: Tensor, eps: float = EPS) -> tuple[Tensor, Tensor]:
    """The norm before the head, on x = N / q: (N, radicand) with norm(x) = N / sqrt(radicand), radicand N.N / d + eps q^2.

    Here the root stays: the head reads the normed vector once. It is one positive number a token, so it changes how
    sharp the prediction is and never the order of the logits.

    >>> final_norm(torch.tensor([3.0, 4.0]), torch.tensor(2.0), eps=0.0)
    (tensor([3., 4.]), tensor(12.5000))
    """
    require_same_kind(numerator=numerator, denominator=denominator)
    if numerator.shape[:-1] != denominator.shape:
        raise ValueError(f"denominator must have shape {tuple(numerator.shape[:-1])}, one number a vector, got {tuple(denominator.shape)}")
    return numerator, numerator.square().mean(-1) + eps * denominator.square()


def remaining_root(reads: int) -> bool:
    """Whether a square root remains of a norm whose output enters every term of a polynomial `reads` times.

    An even number of reads turns 1 / sqrt(s) into a power of 1 / s; an odd one leaves a root.

    | normed vector | read by | reads | root remains |
    | --- | --- | --- | --- |
    | x before a bilinear layer | L, R | 2 | no |
    | x before k encoders multiplied | each encoder | k | if k is odd |
    | x before polynomial attention | keys and values of a token (its queries: 2) | 3 | yes |
    | q and k of squared attention (QK-norm) | the squared score | 2 | no |
    | q1, q2, k1, k2 of bilinear attention (QK-norm) | one score each | 1 | yes |
    | x before the head | the head | 1 | yes |

    >>> remaining_root(2), remaining_root(3)
    (False, True)
    """
    require_rank(reads, 1 << 30, "reads")
    return reads % 2 == 1


def rational_scores(q1: Tensor, k1: Tensor, q2: Tensor, k2: Tensor) -> Tensor:
    """Two-branch scores bounded as by QK-norm, and rational: (q1.k1)(q2.k2) / (N_q N_k), N_q = (|q1|^2 + |q2|^2) / 2.

    Norming each of the four vectors divides by |q1||q2||k1||k2|, a product of roots; the mean of both squared norms is
    a polynomial. By Cauchy-Schwarz and the inequality of means the score lies in [-1, 1]; it is 0 where N_q or N_k is.
    Shapes: q1, q2 (..., queries, head_dim), k1, k2 (..., keys, head_dim) -> (..., queries, keys).

    >>> q = torch.tensor([[3.0, 4.0]])
    >>> rational_scores(q, 2 * q, q, 2 * q)
    tensor([[1.]])
    """
    require_same_kind(q1=q1, k1=k1, q2=q2, k2=k2)
    if min(q1.ndim, k1.ndim) < 2:
        raise ValueError(f"q1 and k1 must have shapes (..., tokens, head_dim), got {tuple(q1.shape)} and {tuple(k1.shape)}")
    for name, one, other in (("q2", q2, q1), ("k2", k2, k1)):
        if one.shape != other.shape:
            raise ValueError(f"{name} must have shape {tuple(other.shape)} like the first branch, got {tuple(one.shape)}")
    require_last_axis("k1", k1, q1.shape[-1])
    (q1, q2, query_norms), (k1, k2, key_norms) = _unit_mean(q1, q2), _unit_mean(k1, k2)
    return (q1 @ k1.mT) * (q2 @ k2.mT) / (query_norms * key_norms.mT)


def cubic_tensor(width: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """C_iabc = (d_ia d_bc + d_ib d_ac + d_ic d_ab) / 3, the fourth-order tensor of the cubic x (x.x): (width,) * 4.

    It is what a residual becomes over the common denominator of a norm. `copy_tensor` is what it is easily taken for.

    >>> x = torch.tensor([3.0, 4.0])
    >>> torch.einsum("iabc,a,b,c->i", cubic_tensor(2, torch.float32), x, x, x)  # x (x.x)
    tensor([ 75., 100.])
    """
    require_rank(width, 1 << 20, "width")
    require_affordable((width,) * 4, dtype, "x * x.square().sum(-1, keepdim=True)")
    delta = torch.eye(width, dtype=dtype)
    pairs = [torch.einsum(f"{pair}->iabc", delta, delta) for pair in ("ia,bc", "ib,ac", "ic,ab")]
    return (pairs[0] + pairs[1] + pairs[2]) / 3


def copy_tensor(width: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """The third-order tensor with factors (I, I, I), 1 where all three indices agree: x -> x * x, (width,) * 3.

    >>> x = torch.tensor([3.0, 4.0])
    >>> torch.einsum("iab,a,b->i", copy_tensor(2, torch.float32), x, x)  # not x (x.x)
    tensor([ 9., 16.])
    """
    require_rank(width, 1 << 20, "width")
    require_affordable((width,) * 3, dtype, "x * x")
    return torch.diag_embed(torch.eye(width, dtype=dtype))


def _unit_mean(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Both vectors of every token divided by one power of two, and the mean of their squared lengths (..., tokens, 1), 1 for 0."""
    power = -torch.maximum(exponents(one, -1), exponents(other, -1))
    one, other = shifted(one, power), shifted(other, power)
    mean = (one.square() + other.square()).sum(-1, keepdim=True) / 2
    return one, other, torch.where(mean > 0, mean, 1)


def _ones(x: Tensor) -> Tensor:
    """The denominator that x starts with."""
    require_same_kind(x=x)
    if x.ndim == 0:
        raise ValueError("x must have shape (..., width), got a single number")
    return torch.ones_like(x[..., 0])
