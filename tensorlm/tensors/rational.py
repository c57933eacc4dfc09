"""Normalisation as a ratio of polynomials: numerators and denominators instead of square roots.

With mean square s(x) = x.x / d, the norm is x -> x / sqrt(s(x) + eps). A bilinear layer f reads the normed vector twice, so
the root is squared away: f(norm(x)) = f(x) / (s(x) + eps), and the block x + f(norm(x)) is a cubic over a quadratic,
[x (s(x) + eps) + f(x)] / (s(x) + eps). A stack of L blocks is carried in homogeneous coordinates (N, q), x = N / q:
polynomials of degree 3^L over 3^L - 1. Along a ray x + alpha s both are polynomials in alpha.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from einops import einsum
from numpy.polynomial.chebyshev import chebvander
from torch import Tensor

from tensorlm import checks
from tensorlm.checks import require, require_affordable, require_finite, require_instance, require_same_kind, require_whole
from tensorlm.layers.norm import EPS
from tensorlm.polynomials.chebyshev import nodes
from tensorlm.polynomials.powers import POWERS, Polynomial, Ratio
from tensorlm.scaling import exponents, shifted
from tensorlm.tensors.cp import CPTensor, require_chain, require_inputs


@dataclass(frozen=True, eq=False)
class RationalBlock:
    """A bilinear layer behind an RMS norm (Zhang & Sennrich, arXiv 1910.07467), as numerator over denominator.

    residual "identity": x + f(norm(x)), degrees 3 over 2. residual "none": f(norm(x)), degrees 2 over 2.
    `cp` holds the layer's factors and `eps` the norm's constant. Shapes: x (..., width) -> (..., out).

    >>> block = RationalBlock(CPTensor(torch.eye(2), torch.eye(2), torch.eye(2)), eps=0.0)  # f(x) = x * x
    >>> block.advance(torch.tensor([[3.0, 4.0]]), torch.ones(1)), block(torch.tensor([3.0, 4.0]))
    ((tensor([[46.5000, 66.0000]]), tensor([12.5000])), tensor([3.7200, 5.2800]))
    """

    cp: CPTensor
    eps: float = EPS
    residual: str = "identity"

    def __post_init__(self):
        require_instance("cp", self.cp, CPTensor)
        checks.require_number("eps", self.eps, least=0)
        checks.require_one_of("residual", self.residual, ("identity", "none"))
        require(self.residual == "none" or self.cp.out == self.cp.width, "cp", self.cp, "of equal out and width for residual 'identity'")

    @property
    def degrees(self) -> tuple[int, int]:
        return (3, 2) if self.residual == "identity" else (2, 2)

    def __call__(self, x: Tensor) -> Tensor:
        """The block's output, from a scaled x: (..., width) -> (..., out)."""
        require_inputs(self.cp.width, D=self.cp.D, x=x)
        exponent = exponents(x, -1) if x.numel() else 0
        unit, eps = shifted(x, -exponent), torch.full_like(x[..., :1], self.eps)
        ratio = self.cp(unit) / (unit.square().mean(-1, keepdim=True) + (shifted(eps, -2 * exponent) if self.eps else 0))
        return ratio if self.residual == "none" else x + ratio

    def advance(self, numerator: Tensor, denominator: Tensor) -> tuple[Tensor, Tensor]:
        """(N, q) with x = N / q before the block to (N', q') after it, without a division: (n, ..., width), (m, ...).
        The first axis holds coefficients of polynomials in one number; a point has one. With s = N.N / d + eps q^2:
        N' = N s + q f(N) and q' = q s, or f(N) and s without residual.
        """
        cp = self.cp
        layer = POWERS.multiply(numerator @ cp.L.mT, numerator @ cp.R.mT) @ cp.D.mT
        squares = POWERS.multiply(numerator, numerator).mean(-1)
        square = POWERS.add(squares, self.eps * POWERS.multiply(denominator, denominator))
        if self.residual == "none":
            return layer, square
        moved = POWERS.multiply(denominator[..., None], layer)
        return POWERS.add(POWERS.multiply(numerator, square[..., None]), moved), POWERS.multiply(denominator, square)


@dataclass(frozen=True, eq=False)
class RationalStack:
    """Blocks one after the other, the first applied first; ValueError where one does not fit the next.

    >>> block = RationalBlock(CPTensor(torch.eye(2), torch.eye(2), torch.eye(2)))
    >>> RationalStack((block, block, block)).degrees
    (27, 26)
    """

    blocks: tuple[RationalBlock, ...]

    def __post_init__(self):
        require_chain("blocks", self.blocks, RationalBlock)

    @property
    def degrees(self) -> tuple[int, int]:
        top, bottom = 1, 0
        for block in self.blocks:
            top, bottom = (3 * top, 2 * top + bottom) if block.residual == "identity" else (2 * top, 2 * top)
        return top, bottom

    def homogeneous(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The polynomials (N, q) themselves, which soon leave the number range: (..., width) -> (..., out), (...)."""
        numerator, denominator = x[None], torch.ones_like(x[None, ..., 0])
        for block in self.blocks:
            numerator, denominator = block.advance(numerator, denominator)
        return numerator[0], denominator[0]

    def __call__(self, x: Tensor) -> Tensor:
        """N(x) / q(x), block by block, so that nothing overflows: (..., width) -> (..., out)."""
        for block in self.blocks:
            x = block(x)
        return x

    def along(self, x: Tensor, s: Tensor) -> Ratio:
        """The stack on the ray x + alpha s, exactly: a ratio of polynomials in alpha, of its degrees. Shapes: x and s (width,).

        Numerator and denominator are divided by one number after each block, and the unit of alpha is |x| / |s|, which
        balances low and high powers. Raises TypeError or ValueError where x or s does not fit or is not finite.

        >>> stack = RationalStack((RationalBlock(CPTensor(torch.eye(2), torch.eye(2), torch.eye(2))),))
        >>> stack.along(torch.tensor([1.0, 2.0]), torch.tensor([0.5, -1.0])).degrees
        (3, 2)
        """
        for name, vector in (("x", x), ("s", s)):
            require_same_kind(**{"stack": self.blocks[0].cp.D, name: vector})
            require(vector.shape == (self.blocks[0].cp.width,), name, vector, f"a vector of shape ({self.blocks[0].cp.width},)")
            require_finite(name, vector)
        unit = (x.norm() / s.norm()).item()
        unit = unit if 0 < unit < math.inf else 1.0
        numerator, denominator = torch.stack([x, unit * s]), x.new_ones(1)
        for block in self.blocks:
            numerator, denominator = block.advance(numerator, denominator)
            size = denominator.abs().max()
            if not 0 < size < math.inf or not torch.isfinite(numerator).all():
                raise ValueError("x and s must leave coefficients within the number range and a denominator other than 0, got "
                                 f"{size.item()} for its largest coefficient: vectors of ordinary size, or eps above 0, will do")
            numerator, denominator = numerator / size, denominator / size
        return Ratio(Polynomial(numerator, unit), Polynomial(denominator, unit))


def remaining_root(reads: int) -> bool:
    """Whether a square root remains of a norm whose output enters every term of a polynomial `reads` times.

    An even number of reads turns 1 / sqrt(s) into a power of 1 / s; an odd one leaves a root. Reads: 2 of x by a bilinear
    layer, k by k encoders multiplied, 2 by the queries and 3 by the keys and values of polynomial attention, 1 by the head;
    under QK-norm 2 of q and k by a squared score, 1 of each of q1, q2, k1, k2 by two branches.

    >>> remaining_root(2), remaining_root(3)
    (False, True)
    """
    return require_whole("reads", reads, 1) % 2 == 1


def rational_scores(q1: Tensor, k1: Tensor, q2: Tensor, k2: Tensor) -> Tensor:
    """Two-branch scores bounded as by QK-norm, and rational: (q1.k1)(q2.k2) / (N_q N_k), N_q = (|q1|^2 + |q2|^2) / 2.

    Unlike |q1||q2||k1||k2|, N_q N_k is a polynomial. The score lies in [-1, 1]; it is 0 where N_q or N_k is.
    Shapes: q1, q2 (..., queries, head_dim), k1, k2 (..., keys, head_dim) -> (..., queries, keys).

    >>> q = torch.tensor([[3.0, 4.0]])
    >>> rational_scores(q, 2 * q, q, 2 * q)
    tensor([[1.]])
    """
    require_same_kind(q1=q1, k1=k1, q2=q2, k2=k2)
    require(min(q1.ndim, k1.ndim) > 1, "q1 and k1", q1, "(..., tokens, head_dim)")
    require(k1.shape[-1] == q1.shape[-1], "k1", k1, f"(..., keys, {q1.shape[-1]}) like q1")
    for name, one, other in (("q2", q2, q1), ("k2", k2, k1)):
        require(one.shape == other.shape, name, one, f"of shape {tuple(other.shape)} like the first branch")
    (q1, q2, query_norms), (k1, k2, key_norms) = _unit_mean(q1, q2), _unit_mean(k1, k2)
    return (q1 @ k1.mT) * (q2 @ k2.mT) / (query_norms * key_norms.mT)


def _unit_mean(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Both vectors of every token divided by one power of two, and the mean of their squared lengths (..., tokens, 1), 1 for 0."""
    power = -torch.maximum(exponents(one, -1), exponents(other, -1))
    one, other = shifted(one, power), shifted(other, power)
    mean = (one.square() + other.square()).sum(-1, keepdim=True) / 2
    return one, other, torch.where(mean > 0, mean, 1)


def cubic_tensor(width: int) -> Tensor:
    """C_iabc = (d_ia d_bc + d_ib d_ac + d_ic d_ab) / 3, the fourth-order tensor of the cubic x (x.x): (width,) * 4, float64.

    It is what a residual becomes over the common denominator of a norm; factors (I, I, I) make another one, that of x * x.

    >>> cubic_tensor(2)[:, 0, 0, 0]  # of x1^3 in x (x.x)
    tensor([1., 0.], dtype=torch.float64)
    """
    require_whole("width", width, 1)
    require_affordable((width,) * 4, torch.float64, "x * x.square().sum(-1, keepdim=True)")
    delta = torch.eye(width, dtype=torch.float64)
    return torch.stack([einsum(delta, delta, f"{pair} -> i a b c") for pair in ("i a, b c", "i b, a c", "i c, a b")]).sum(0) / 3


def rational_misfit(function: Callable[[Tensor], Tensor], degrees: tuple[int, int]) -> float:
    """How far a function of one number is from a ratio of polynomials of these degrees, on [-1, 1].

    Fits N(a) / q(a) to `function` (alphas (n,) -> values (n,)) in twice as many points as it has coefficients, and returns
    the largest error at points between them, relative to the largest value: about 1e-12 for a function that is such a ratio.

    >>> ratio, root = (lambda a: a / (1 + a**2)), (lambda a: a / torch.sqrt(1 + a**2))
    >>> rational_misfit(ratio, (1, 2)) < 1e-12, rational_misfit(root, (1, 2)) > 1e-3
    (True, True)
    """
    for name, degree in zip(("numerator", "denominator"), degrees):
        require_whole(f"degree of the {name}", degree, 0, 200)
    points = nodes(4 * (sum(degrees) + 2) + 1, -1.0, 1.0)
    values, truth = function(points[::2]), function(points[1::2])
    require_same_kind(values=values, alphas=points)
    require_finite("values", values)
    fits = values.shape == points[::2].shape and values.any()
    require(fits, "values", values, f"a number for each of {len(points[::2])} alphas, not all 0")
    scale = values.abs().max()
    top, bottom = (torch.from_numpy(chebvander(points.numpy(), degree)) for degree in degrees)
    system = torch.cat([top[::2], -values[:, None] / scale * bottom[::2]], dim=1)  # N(a) - f(a) q(a) as small as can be
    numerator, denominator = torch.linalg.svd(system).Vh[-1].split([degrees[0] + 1, degrees[1] + 1])
    ratio = scale * (top[1::2] @ numerator) / (bottom[1::2] @ denominator)
    return ((ratio - truth).abs().max() / truth.abs().max()).item()
