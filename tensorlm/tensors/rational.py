"""Normalisation as a ratio of polynomials: numerators and denominators instead of square roots.

With mean square s(x) = x.x / d, the norm is x -> x / sqrt(s(x) + eps). A bilinear layer f reads the normed vector twice, so
the root is squared away: f(norm(x)) = f(x) / (s(x) + eps), and the block x + f(norm(x)) is a cubic over a quadratic,

    [x (s(x) + eps) + f(x)] / (s(x) + eps).

A stack of L blocks is carried in homogeneous coordinates (N, q), x = N / q: polynomials of degree 3^L over 3^L - 1.
Along a ray x + alpha s both are polynomials in alpha (`tensorlm.tensors.rational`).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tensorlm.checks import require_affordable, require_finite, require_instance, require_last_axis, require_same_kind, require_whole
from tensorlm.scaling import exponents, shifted
from tensorlm.tensors.cp import CPTensor

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
    require_whole("reads", reads, 1, 1 << 30)
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
    require_whole("width", width, 1, 1 << 20)
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
    require_whole("width", width, 1, 1 << 20)
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


@dataclass(frozen=True, eq=False)
class RationalRay:
    """A vector of rational functions of one number with a common denominator: N(t) / q(t) at t = alpha / unit.

    Coefficients in rising order: `numerator` (degree + 1, out), `denominator` (degree + 1,). Multiplying both by the
    same number changes nothing. A well chosen `unit` keeps coefficients of high degree within the number range.
    Raises TypeError or ValueError where shapes or dtypes do not fit.

    >>> ray = RationalRay(torch.tensor([[0.0], [1.0]]), torch.tensor([1.0, 0.0, 1.0]))  # alpha / (1 + alpha^2)
    >>> ray(torch.tensor([1.0, 2.0]))
    tensor([[0.5000],
            [0.4000]])
    """

    numerator: Tensor
    denominator: Tensor
    unit: float = 1.0

    def __post_init__(self):
        require_same_kind(numerator=self.numerator, denominator=self.denominator)
        if self.numerator.ndim != 2 or self.denominator.ndim != 1 or 0 in self.numerator.shape + self.denominator.shape:
            raise ValueError(f"expected numerator (degree + 1, out) and denominator (degree + 1,), none empty, got "
                             f"{tuple(self.numerator.shape)} and {tuple(self.denominator.shape)}")
        if not 0 < self.unit < math.inf:
            raise ValueError(f"unit must be a finite number above 0, got {self.unit!r}")

    @property
    def degrees(self) -> tuple[int, int]:
        return self.numerator.shape[0] - 1, self.denominator.shape[0] - 1

    def __call__(self, alphas: Tensor) -> Tensor:
        """N / q at every alpha: (...) -> (..., out). Beyond one unit in powers of 1 / alpha, so that none overflows."""
        numerator, denominator = self._values(self.numerator, self.denominator, alphas)
        excess = self.degrees[0] - self.degrees[1]
        return numerator / denominator[..., None] * (alphas / self.unit).abs().clamp(min=1).pow(excess)[..., None]

    def cancellation(self, alphas: Tensor) -> Tensor:
        """How much larger the terms of N and q are than their sums: (...) -> (...), at least 1.

        The relative error of a value is about the dtype's rounding error times this. It grows with the degree, where
        x + alpha s is much shorter than |x| + |alpha| |s|: a steering vector that cancels what it is added to.

        >>> RationalRay(torch.ones(1, 1), torch.tensor([1.0, -0.99])).cancellation(torch.tensor([0.0, 1.0])).round()
        tensor([  1., 199.])
        """
        numerator, denominator = self._values(self.numerator, self.denominator, alphas)
        largest = self._values(self.numerator.abs(), self.denominator.abs(), alphas.abs())
        return torch.maximum(largest[0].amax(-1) / numerator.abs().amax(-1), largest[1] / denominator.abs())

    def _values(self, numerator: Tensor, denominator: Tensor, alphas: Tensor) -> tuple[Tensor, Tensor]:
        """N and q at every t = alpha / unit, each divided by |t|^degree beyond |t| = 1."""
        require_same_kind(numerator=numerator, alphas=alphas)
        points = alphas / self.unit
        far = points.abs() > 1
        inverse, inside = 1 / torch.where(far, points, torch.ones_like(points)), torch.where(far, torch.zeros_like(points), points)
        values = []
        for coefficients in (numerator, denominator[:, None]):
            outer = _horner(coefficients.flip(0), inverse) * inverse.sign().pow(len(coefficients) - 1)[..., None]
            values.append(torch.where(far[..., None], outer, _horner(coefficients, inside)))
        return values[0], values[1][..., 0]


def along(stack: RationalStack | RationalBlock, x: Tensor, s: Tensor) -> RationalRay:
    """The stack on the ray x + alpha s, exactly: coefficient arrays of the stack's degrees. Shapes: x and s (width,).

    A layer's product is a convolution of coefficients, done directly: an FFT's error is relative to the largest
    coefficient and would drown the small ones. Numerator and denominator are divided by one number after each block, and
    the unit of alpha is |x| / |s|, which balances low and high powers.
    How many digits the values keep is what `RationalRay.cancellation` says.
    Raises TypeError or ValueError naming the argument where it does not fit or is not finite.

    >>> from tensorlm.tensors.cp import CPTensor
    >>> block = RationalBlock(CPTensor(torch.eye(2), torch.eye(2), torch.eye(2)))
    >>> x, s = torch.tensor([1.0, 2.0]), torch.tensor([0.5, -1.0])
    >>> ray = along(block, x, s)
    >>> ray.degrees, torch.allclose(ray(torch.tensor(0.7)), block(x + 0.7 * s))
    ((3, 2), True)
    """
    if isinstance(stack, RationalBlock):
        stack = RationalStack((stack,))
    require_instance("stack", stack, RationalStack)
    blocks = stack.blocks
    for name, vector in (("x", x), ("s", s)):
        require_same_kind(**{"stack": blocks[0].cp.D, name: vector})
        if tuple(vector.shape) != (blocks[0].cp.width,):
            raise ValueError(f"{name} must have shape {(blocks[0].cp.width,)}, got {tuple(vector.shape)}")
        require_finite(name, vector)
    unit = (x.norm() / s.norm()).item()
    unit = unit if 0 < unit < math.inf else 1.0
    numerator, denominator = torch.stack([x, unit * s]), x.new_ones(1)
    for block in blocks:
        numerator, denominator = advance_along(block, numerator, denominator)
    return RationalRay(numerator, denominator, unit)


def convolve(a: Tensor, b: Tensor) -> Tensor:
    """Coefficients of the product of two polynomials, along the first axis: (n, ...), (m, ...) -> (n + m - 1, ...).

    >>> convolve(torch.tensor([1.0, 1.0]), torch.tensor([1.0, 2.0, 1.0]))  # (1 + t)(1 + t)^2
    tensor([1., 3., 3., 1.])
    """
    if a.shape[0] > b.shape[0]:
        a, b = b, a
    product = b.new_zeros(a.shape[0] + b.shape[0] - 1, *torch.broadcast_shapes(a.shape[1:], b.shape[1:]))
    for power, coefficient in enumerate(a):
        product[power : power + b.shape[0]] += coefficient * b
    return product


def rational_misfit(function: Callable[[Tensor], Tensor], degrees: tuple[int, int], reach: float = 1.0) -> float:
    """How far a function of one number is from a ratio of polynomials of these degrees, on [-reach, reach].

    Fits N(a) / q(a) to `function` (alphas (n,) -> values (n,)) in twice as many points as it has coefficients, and returns
    the largest error at points between them, relative to the largest value. Rounding error for a function that is such a
    ratio (about 1e-12 in float64); for one with a square root left, far above it.

    >>> ratio, root = (lambda a: a / (1 + a**2)), (lambda a: a / torch.sqrt(1 + a**2))
    >>> rational_misfit(ratio, (1, 2)) < 1e-12, rational_misfit(root, (1, 2)) > 1e-3
    (True, True)
    """
    if not 0 < reach < math.inf:
        raise ValueError(f"reach must be a finite number above 0, got {reach}")
    numerator, denominator = (degree + 1 for degree in degrees)
    for name, count in (("the numerator's degree", numerator), ("the denominator's degree", denominator)):
        require_whole(f"1 + {name}", count, 1, 200)
    points = _nodes(4 * (numerator + denominator) + 1)
    fitted, between = points[::2], points[1::2]
    values, truth = function(reach * fitted), function(reach * between)
    require_same_kind(values=values, alphas=points)
    require_finite("values", values)
    if values.shape != fitted.shape or not values.any():
        raise ValueError(f"function must return a number for each of {len(fitted)} alphas, not all 0, got shape {tuple(values.shape)}")
    coefficients = _null_vector(fitted, values, numerator, denominator)
    ratio = _chebyshev(between, numerator) @ coefficients[:numerator] / (_chebyshev(between, denominator) @ coefficients[numerator:])
    return ((ratio - truth).abs().max() / truth.abs().max()).item()


def advance_along(block: RationalBlock, numerator: Tensor, denominator: Tensor) -> tuple[Tensor, Tensor]:
    """`RationalBlock.advance` on coefficients: (n, width) and (m,) to those after the block, both divided by one number.

    Raises ValueError where coefficients leave the number range or the denominator vanishes.
    """
    numerator, denominator = _advance(block, numerator, denominator)
    size = denominator.abs().max()
    if not 0 < size < math.inf or not torch.isfinite(numerator).all():
        raise ValueError(f"x and s must leave coefficients within the number range and a denominator other than 0, got {size.item()} "
                         "for the largest coefficient of the denominator: vectors of ordinary size, or eps above 0, will do")
    return numerator / size, denominator / size


def _advance(block: RationalBlock, numerator: Tensor, denominator: Tensor) -> tuple[Tensor, Tensor]:
    cp = block.cp
    layer = convolve(numerator @ cp.L.mT, numerator @ cp.R.mT) @ cp.D.mT
    square = convolve(numerator, numerator).mean(-1)
    square = square + block.eps * _to_length(convolve(denominator, denominator), len(square))
    if block.residual == "none":
        return layer, square
    cubic = convolve(numerator, square[:, None])
    return cubic + _to_length(convolve(layer, denominator[:, None]), len(cubic)), convolve(denominator, square)


def _to_length(coefficients: Tensor, length: int) -> Tensor:
    return F.pad(coefficients, (0, 0) * (coefficients.ndim - 1) + (0, length - len(coefficients)))


def _horner(coefficients: Tensor, points: Tensor) -> Tensor:
    """Values at points (...) of polynomials (degree + 1, ...): (..., ...)."""
    points = points.reshape(points.shape + (1,) * (coefficients.ndim - 1))
    value = coefficients[-1] * torch.ones_like(points)
    for coefficient in coefficients.flip(0)[1:]:
        value = value * points + coefficient
    return value


def _nodes(count: int) -> Tensor:
    return -torch.cos(torch.pi * (torch.arange(count, dtype=torch.float64) + 0.5) / count)


def _chebyshev(points: Tensor, count: int) -> Tensor:
    return torch.cos(torch.arange(count, dtype=torch.float64) * torch.arccos(points)[:, None])


def _null_vector(points: Tensor, values: Tensor, numerator: int, denominator: int) -> Tensor:
    """Chebyshev coefficients of N and q with N(a) - f(a) q(a) as small as can be at the points."""
    scale = values.abs().max()
    system = torch.cat([_chebyshev(points, numerator) * scale, -values[:, None] * _chebyshev(points, denominator)], dim=1)
    vector = torch.linalg.svd(system / scale).Vh[-1]
    return torch.cat([vector[:numerator] * scale, vector[numerator:]])
