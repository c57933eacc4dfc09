"""Powers of two, taken out of factors before products are formed and put back in the end: exact, and no square leaves the number range.

Norms and Gram matrices multiply six factors and more: in float32 factors of 1e-8 make |S|^2 zero, in float64 of 1e-60.
"""

import math

import torch
from torch import Tensor

EVEN_SIZE = 2.0**10  # factors whose rows are all between 1 / EVEN_SIZE and EVEN_SIZE need no scaling
ZERO_UNIT_POWERS = 40  # powers of two by which a unit that is zero may exceed the largest one


def exponents(values: Tensor, dims: int | tuple[int, ...]) -> Tensor:
    """The whole e with 2^(e-1) <= largest size < 2^e over the axes `dims`, which are kept; 0 for 0, NaN and infinity."""
    sizes = values.detach().abs().amax(dims, keepdim=True)
    return torch.where(torch.isfinite(sizes), torch.frexp(sizes).exponent, 0)


def shifted(values: Tensor, exponent: int | Tensor) -> Tensor:
    """values * 2^exponent, exactly, but for what leaves the number range."""
    whole, bias, mantissa_bits = (torch.int32, 127, 23) if values.dtype == torch.float32 else (torch.int64, 1023, 52)
    exponent = torch.as_tensor(exponent, device=values.device).clamp(-2 * bias + 2, 2 * bias)
    half = exponent.div(2, rounding_mode="floor")
    for part in (half, exponent - half):
        values = values * (part.to(whole) + bias << mantissa_bits).view(values.dtype)  # times 2^part, made of its bits
    return values


def restored(values: Tensor, exponent: int | Tensor, name: str, what: str, reference: float = 0.0) -> Tensor:
    """values * 2^exponent; ValueError, naming the argument, if the largest, or `reference`, leaves the number range."""
    result = shifted(values, exponent)
    if not values.numel():
        return result
    before, after = values.detach().abs().amax().item(), result.detach().abs().amax().item()
    largest = int(torch.as_tensor(exponent).max())
    least = torch.finfo(values.dtype).tiny
    below = 0 < before and after < least and reference * 2.0 ** max(-1074, min(1023, largest)) < least
    if math.isfinite(before) and (not math.isfinite(after) or below):
        power = round((math.log2(before) + largest) * math.log10(2))
        remedy = "use .double(), or divide" if values.dtype == torch.float32 else "divide"
        raise ValueError(f"{name} must have {what} within the range of {values.dtype}, got about 1e{power}; {remedy} a factor by its size")
    return result


def balanced(D: Tensor, L: Tensor, R: Tensor) -> tuple[Tensor, Tensor, Tensor, int]:
    """Factors of one function with D[(L x) * (R y)] = 2^e D'[(L' x) * (R' y)], and e: rows of L', R' and the largest unit near 1.

    Factors of even size, all rows and columns within `EVEN_SIZE` of 1, are returned as they are, e being 0.
    """
    low, high = torch.cat([D.detach().abs().amax(0), L.detach().abs().amax(1), R.detach().abs().amax(1)]).aminmax()
    if low * EVEN_SIZE >= 1 and high <= EVEN_SIZE:
        return D, L, R, 0
    columns, left, right = exponents(D, 0), exponents(L, 1), exponents(R, 1)
    others = (left + right).mT
    alive = D.detach().any(0) & L.detach().any(1) & R.detach().any(1)
    units = (columns + others).squeeze(0)[alive]
    top = int(units.max()) if len(units) else 0
    return shifted(D, torch.minimum(others - top, ZERO_UNIT_POWERS - columns)), shifted(L, -left), shifted(R, -right), top


def length(values: Tensor, dim: int = -1) -> Tensor:
    """Euclidean norm along an axis, right as long as it is itself within the number range."""
    if not values.shape[dim]:
        return values.sum(dim)
    exponent = exponents(values, dim)
    return shifted(torch.linalg.vector_norm(shifted(values, -exponent), dim=dim, keepdim=True), exponent).squeeze(dim)


def newton_schulz(matrices: Tensor, steps: int = 5, dtype: torch.dtype = torch.float32) -> Tensor:
    """Push every singular value of each matrix to about one (0.7 to 1.2 after five steps), whatever its scale; zero stays zero.

    From X = G / ||G||_F iterate X <- a X + (b A + c A A) X with A = X X^T, (a, b, c) = (3.4445, -4.7750,
    2.0315), whose slope at zero is as steep as convergence allows. Shapes: (n, rows, cols), rows <= cols.
    Source: Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024).

    >>> values = torch.linalg.svdvals(newton_schulz(torch.randn(3, 8, 16, generator=torch.Generator().manual_seed(0))))
    >>> bool((values > 0.5).all() and (values < 1.3).all())
    True
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrices if matrices.dtype == torch.float64 else matrices.float()
    x = shifted(x, -exponents(x, (1, 2))).to(dtype)
    norms = x.flatten(1).norm(dim=1).view(-1, 1, 1)
    x = x / torch.where(norms > 0, norms, 1)
    for _ in range(steps):
        gram = torch.bmm(x, x.mT)
        gram = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, gram, x, beta=a)
    return x
