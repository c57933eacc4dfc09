"""Other CP forms: one encoder, the symmetric part, and biases and residuals taken into the tensor by a constant 1.

`lift` puts a constant 1 before the input, x~ = (1, x). On x~ every bias and every residual is a hidden unit, so that a
layer with them is again *one* bilinear layer, whose input slot 0 is the constant. Forms marked "lifted" take such a layer.
Sources: Pearce et al. arXiv 2410.08417, section 2, for input biases; the rest is elementary algebra.
"""

import torch
from torch import Tensor

from tensorlm.tensors.checks import require_finite, require_instance, require_non_negative, require_same_kind
from tensorlm.tensors.cp import CPTensor
from tensorlm.tensors.scaling import exponents, restored, shifted
from tensorlm.tensors.ties import by_value, eigh


def square_form(cp: CPTensor) -> CPTensor:
    """One encoder, squared: f(x) = D' (M x)^2 with M = [L + R; L - R], D' = [D, -D] / 4, so L = R = M, of 2 hidden units each.

    From ab = [(a + b)^2 - (a - b)^2] / 4. Its T is symmetric: the S of `cp`.

    >>> cp = CPTensor(torch.ones(1, 1), torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]))
    >>> square_form(cp).L
    tensor([[ 1.,  1.],
            [ 1., -1.]])
    """
    require_instance("cp", cp, CPTensor)
    encoder = torch.cat([cp.L + cp.R, cp.L - cp.R])
    return CPTensor(torch.cat([cp.D, -cp.D], dim=1) / 4, encoder, encoder)


def symmetrised(cp: CPTensor) -> CPTensor:
    """The symmetric part in CP form: D' = [D, D] / 2, L' = [L; R], R' = [R; L], whose T is the S of `cp`.

    >>> cp = CPTensor(torch.ones(1, 1), torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]))
    >>> torch.equal(symmetrised(cp).dense(), cp.symmetric())
    True
    """
    require_instance("cp", cp, CPTensor)
    return CPTensor(torch.cat([cp.D, cp.D], dim=1) / 2, torch.cat([cp.L, cp.R]), torch.cat([cp.R, cp.L]))


def lift(x: Tensor) -> Tensor:
    """(1, x) on the last axis: (..., width) -> (..., 1 + width). Raises ValueError for a number, TypeError for another dtype.

    >>> lift(torch.tensor([3.0, 2.0]))
    tensor([1., 3., 2.])
    """
    require_same_kind(x=x)
    if x.ndim < 1:
        raise ValueError("x must have at least 1 axis, got shape ()")
    return torch.cat([x.new_ones(*x.shape[:-1], 1), x], dim=-1)


def with_input_bias(cp: CPTensor, left: Tensor, right: Tensor) -> CPTensor:
    """D[(L x + left) * (R x + right)] as a layer on (1, x): L~ = [left L], R~ = [right R], left and right (hidden,).

    Zeros lift a layer that has no biases. Raises ValueError for another shape or device, TypeError for another dtype.

    >>> cp = CPTensor(torch.ones(1, 1), torch.ones(1, 1), torch.ones(1, 1))
    >>> with_input_bias(cp, torch.tensor([2.0]), torch.tensor([3.0]))(lift(torch.tensor([1.0])))  # (1 + 2) (1 + 3)
    tensor([12.])
    """
    require_instance("cp", cp, CPTensor)
    _require_vector(cp, cp.hidden, left=left, right=right)
    return CPTensor(cp.D, torch.cat([left.unsqueeze(1), cp.L], dim=1), torch.cat([right.unsqueeze(1), cp.R], dim=1))


def with_output_bias(cp: CPTensor, bias: Tensor) -> CPTensor:
    """f(1, x) + bias, for a lifted layer: one more hidden unit, 1 times 1, writes bias (out,). Raises as `with_input_bias` does.

    >>> cp = CPTensor(torch.ones(1, 1), torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0, 1.0]]))
    >>> with_output_bias(cp, torch.tensor([5.0]))(lift(torch.tensor([3.0])))  # 3^2 + 5
    tensor([14.])
    """
    require_instance("cp", cp, CPTensor)
    _require_vector(cp, cp.out, bias=bias)
    one = _unit_rows(cp, [0])
    return _append(cp, bias.unsqueeze(1), one, one)


def with_residual(cp: CPTensor) -> CPTensor:
    """x + f(1, x), for a lifted layer with out = width - 1: unit i of `out` more hidden units writes x_i times 1.

    Raises ValueError where the output is not of the size of x.

    >>> cp = CPTensor(torch.ones(1, 1), torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0, 1.0]]))
    >>> with_residual(cp)(lift(torch.tensor([3.0])))  # 3 + 3^2
    tensor([12.])
    """
    require_instance("cp", cp, CPTensor)
    if cp.out != cp.width - 1:
        raise ValueError(f"cp must be lifted with out = width - 1, so that x and f(1, x) can be added, got out={cp.out}, width={cp.width}")
    identity = torch.eye(cp.out, dtype=cp.dtype, device=cp.device)
    return _append(cp, identity, _unit_rows(cp, range(1, cp.width)), _unit_rows(cp, [0] * cp.out))


def with_constant(cp: CPTensor) -> CPTensor:
    """(1, f(1, x)), for a lifted layer: one more hidden unit, 1 times 1, writes the new output slot 0.

    So lifted layers stack: the next one finds its constant where it reads it. Add a residual before, not after.

    >>> cp = CPTensor(torch.ones(1, 1), torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0, 1.0]]))
    >>> with_constant(cp)(lift(torch.tensor([3.0])))
    tensor([1., 9.])
    """
    require_instance("cp", cp, CPTensor)
    below = CPTensor(torch.cat([torch.zeros_like(cp.D[:1]), cp.D]), cp.L, cp.R)
    one = _unit_rows(cp, [0])
    slot = torch.zeros_like(below.D[:, :1])
    slot[0] = 1
    return _append(below, slot, one, one)


def from_dense(tensor: Tensor, tolerance: float = 1e-12) -> CPTensor:
    """An exact CP form of the symmetric part of a dense tensor (out, width, width): S_o = sum_r lambda v v^T, output by output.

    Hidden units: the eigenvalues larger in magnitude than `tolerance` times the largest, at most out * width and at least one;
    L = R = v, D = lambda in row o. Seldom the fewest units possible: finding the CP rank is NP-hard (Kolda & Bader 2009, 3.1).
    Raises ValueError for another shape, NaN or infinity, or a negative tolerance; TypeError for another dtype.

    >>> cp = from_dense(torch.tensor([[[0.0, 2.0], [0.0, 0.0]]]))  # 2 x1 x2
    >>> cp, round(cp(torch.tensor([3.0, 2.0])).item(), 4)
    (CPTensor(out=1, hidden=2, width=2, torch.float32, cpu), 12.0)
    """
    require_same_kind(tensor=tensor)
    if tensor.ndim != 3 or tensor.shape[1] != tensor.shape[2] or tensor.numel() == 0:
        raise ValueError(f"tensor must have shape (out, width, width), all at least 1, got {tuple(tensor.shape)}")
    require_non_negative("tolerance", tolerance)
    require_finite("tensor", tensor)
    exponent = exponents(tensor, (0, 1, 2))
    scaled = shifted(tensor, -exponent)
    values, vectors = eigh((scaled + scaled.mT) / 2, lambda values: by_value(-values))
    sizes = values.abs()
    kept = sizes > tolerance * sizes.max()
    if not kept.any():
        kept.view(-1)[sizes.argmax()] = True
    outputs, _ = kept.nonzero(as_tuple=True)
    D = torch.zeros(tensor.shape[0], outputs.numel(), dtype=tensor.dtype, device=tensor.device)
    D[outputs, torch.arange(outputs.numel(), device=tensor.device)] = restored(values[kept], exponent.flatten(), "tensor", "eigenvalues")
    rows = vectors[kept]
    return CPTensor(D, rows, rows)


def _append(cp: CPTensor, columns: Tensor, left: Tensor, right: Tensor) -> CPTensor:
    """`cp` with more hidden units: columns (out, n) of D, rows left and right (n, width) of L and R."""
    return CPTensor(torch.cat([cp.D, columns], dim=1), torch.cat([cp.L, left]), torch.cat([cp.R, right]))


def _unit_rows(cp: CPTensor, slots) -> Tensor:
    """Rows of the identity of the input, one for each slot."""
    return torch.eye(cp.width, dtype=cp.dtype, device=cp.device)[list(slots)]


def _require_vector(cp: CPTensor, size: int, **vectors) -> None:
    require_same_kind(D=cp.D, **vectors)
    for name, value in vectors.items():
        if value.shape != (size,):
            raise ValueError(f"{name} must have shape ({size},), got {tuple(value.shape)}")
