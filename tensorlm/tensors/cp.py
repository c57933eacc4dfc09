"""The bilinear layer as a third-order tensor in CP form: evaluate, polarise, differentiate, densify.

T_oij = sum_k D_ok L_ki R_kj is a sum of `hidden` outer products, so the three matrices of the layer *are* a CP
decomposition of its tensor. The function f(x)_o = sum_ij T_oij x_i x_j sees only the symmetric part S_oij = (T_oij +
T_oji) / 2: two layers are one function exactly when their S are equal.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from tensorlm.checks import (
    DENSE_LIMIT,
    require_affordable,
    require_broadcast,
    require_finite,
    require_instance,
    require_last_axis,
    require_matrix,
    require_number,
    require_same_kind,
)
from tensorlm.scaling import exponents, restored, shifted
from tensorlm.ties import by_value, eigh


@dataclass(frozen=True, eq=False)
class CPTensor:
    """Factors of f(x) = D[(L x) * (R x)]: D (out, hidden), L and R (hidden, width), float32 or float64.

    Raises TypeError where a factor is no tensor or of another dtype, ValueError where shapes or devices do not fit.
    Evaluation lets NaN and infinity pass; decompositions and similarities refuse them.
    Source: Kolda & Bader, Tensor Decompositions and Applications (2009), section 3; Pearce et al. arXiv 2410.08417, section 2.

    >>> cp = CPTensor(D=torch.tensor([[1.0, -1.0]]), L=torch.eye(2), R=torch.eye(2))
    >>> cp
    CPTensor(out=1, hidden=2, width=2, torch.float32, cpu)
    >>> cp(torch.tensor([3.0, 2.0]))  # x1^2 - x2^2
    tensor([5.])
    """

    D: Tensor
    L: Tensor
    R: Tensor

    def __post_init__(self):
        for name in "DLR":
            require_matrix(name, getattr(self, name))
        require_same_kind(D=self.D, L=self.L, R=self.R)
        if self.L.shape != self.R.shape or self.D.shape[1] != self.L.shape[0]:
            shapes = ", ".join(f"{name} {tuple(getattr(self, name).shape)}" for name in "DLR")
            raise ValueError(f"expected D (out, hidden), L (hidden, width) and R (hidden, width), got {shapes}")

    def __repr__(self) -> str:
        return f"CPTensor(out={self.out}, hidden={self.hidden}, width={self.width}, {self.dtype}, {self.device})"

    @property
    def out(self) -> int:
        return self.D.shape[0]

    @property
    def hidden(self) -> int:
        return self.D.shape[1]

    @property
    def width(self) -> int:
        return self.L.shape[1]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the dense tensor, (out, width, width)."""
        return self.out, self.width, self.width

    @property
    def dtype(self) -> torch.dtype:
        return self.D.dtype

    @property
    def device(self) -> torch.device:
        return self.D.device

    @property
    def parameter_count(self) -> int:
        """Entries of the factors, hidden * (out + 2 width)."""
        return self.hidden * (self.out + 2 * self.width)

    @property
    def dense_count(self) -> int:
        """Entries of T, out * width^2."""
        return self.out * self.width**2

    @property
    def symmetric_count(self) -> int:
        """Free entries of S, out * width (width + 1) / 2."""
        return self.out * self.width * (self.width + 1) // 2

    @property
    def dense_bytes(self) -> int:
        return self.dense_count * self.dtype.itemsize

    def __call__(self, x: Tensor) -> Tensor:
        """f(x) = D[(L x) * (R x)]: x (..., width) -> (..., out)."""
        self._require_input(x=x)
        return ((x @ self.L.mT) * (x @ self.R.mT)) @ self.D.mT

    def polar(self, u: Tensor, v: Tensor) -> Tensor:
        """B(u, v) = S(., u, v) = D[(L u) * (R v) + (L v) * (R u)] / 2: u, v (..., width), broadcast -> (..., out).

        B is symmetric, B(x, x) = f(x), B(u, v) = [f(u + v) - f(u - v)] / 4 and f(x + a s) = f(x) + 2a B(x, s) + a^2 f(s).

        >>> cp = CPTensor(torch.tensor([[1.0]]), torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]))  # f = x1 x2
        >>> cp.polar(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))
        tensor([0.5000])
        """
        self._require_input(u=u, v=v)
        require_broadcast(u=u, v=v)
        crossed = (u @ self.L.mT) * (v @ self.R.mT) + (v @ self.L.mT) * (u @ self.R.mT)
        return crossed @ self.D.mT / 2

    def contributions(self, x: Tensor) -> Tensor:
        """c_k(x) = D_ok (L_k x)(R_k x), what hidden unit k adds to output o: x (..., width) -> (..., out, hidden); they sum to f(x).

        Scaling x leaves the shares |c_k| / sum |c| as they are. Another exact CP form of the same function has other shares.

        >>> CPTensor(torch.tensor([[1.0, -2.0]]), torch.eye(2), torch.eye(2)).contributions(torch.tensor([3.0, 1.0]))
        tensor([[ 9., -2.]])
        """
        self._require_input(x=x)
        return self.D * ((x @ self.L.mT) * (x @ self.R.mT)).unsqueeze(-2)

    def jacobian(self, x: Tensor) -> Tensor:
        """J(x) = 2 S(., ., x), J_oi = df_o / dx_i: x (..., width) -> (..., out, width). Euler: J(x) x = 2 f(x).

        >>> cp = CPTensor(torch.ones(1, 2), torch.eye(2), torch.eye(2))  # f = x1^2 + x2^2
        >>> cp.jacobian(torch.tensor([3.0, 2.0]))
        tensor([[6., 4.]])
        """
        self._require_input(x=x)
        left, right = (x @ self.L.mT).unsqueeze(-2), (x @ self.R.mT).unsqueeze(-2)
        return (self.D * right) @ self.L + (self.D * left) @ self.R

    def dense(self, limit: float = DENSE_LIMIT) -> Tensor:
        """T_oij = sum_k D_ok L_ki R_kj, shape (out, width, width), as one Khatri-Rao product and one matrix product.

        Raises ValueError where T takes more than `limit` bytes; the workspace is at most hidden / width times that.

        >>> CPTensor(torch.ones(1, 1), torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])).dense()
        tensor([[[0., 1.],
                 [0., 0.]]])
        """
        require_affordable(self.shape, self.dtype, "the factors: evaluation, similarity, eigen and hosvd never need T", limit)
        if self.out < self.width:  # the smaller of the two Khatri-Rao products
            return ((self.D.unsqueeze(1) * self.L.mT.contiguous()).flatten(0, 1) @ self.R).view(self.shape)
        return (self.D @ (self.L.unsqueeze(2) * self.R.unsqueeze(1)).flatten(1)).view(self.shape)

    def symmetric(self, limit: float = DENSE_LIMIT) -> Tensor:
        """S_oij = (T_oij + T_oji) / 2, all that the function is; raises as `dense` does.

        >>> CPTensor(torch.ones(1, 1), torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])).symmetric()
        tensor([[[0.0000, 0.5000],
                 [0.5000, 0.0000]]])
        """
        half = self.dense(limit) / 2
        return half + half.mT

    def factors(self) -> dict[str, Tensor]:
        """Detached contiguous copies by name, as safetensors stores them: CPTensor(**cp.factors()) is the inverse."""
        return {name: getattr(self, name).detach().clone(memory_format=torch.contiguous_format) for name in "DLR"}

    def to(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> "CPTensor":
        """The same tensor in another dtype or on another device."""
        return CPTensor(*(factor.to(dtype=dtype, device=device) for factor in (self.D, self.L, self.R)))

    def double(self) -> "CPTensor":
        """The same tensor in float64, in which identities hold to 1e-10."""
        return self.to(dtype=torch.float64)

    @classmethod
    def from_layer(cls, layer) -> "CPTensor":
        """Detached copies of a layer's matrices, in its dtype.

        `layer` is an MLP of kind `bilinear` (L, R, D), `square` (E, D; then L = R = E) or `product` with two encoders.
        Raises ValueError for every other kind, TypeError where there is no kind.

        >>> from tensorlm.layers import build_mlp
        >>> CPTensor.from_layer(build_mlp("bilinear", width=4, hidden=6))
        CPTensor(out=4, hidden=6, width=4, torch.float32, cpu)
        """
        return cls(*(matrix.detach().clone() for matrix in _matrices(layer)))

    def write_to(self, layer) -> None:
        """Copy the factors into a layer of kind `bilinear`, or `product` with two encoders, of the same sizes.

        The layer keeps its dtype and device. Raises ValueError where kind or sizes do not fit.

        >>> from tensorlm.layers import build_mlp
        >>> layer = build_mlp("bilinear", width=2, hidden=1, out=1)
        >>> CPTensor(torch.ones(1, 1), torch.ones(1, 2), torch.ones(1, 2)).write_to(layer)
        >>> layer(torch.tensor([3.0, 2.0])).item()
        25.0
        """
        D, L, R = _matrices(layer)
        if L is R:
            raise ValueError("layer must have two encoders, got kind 'square', which has one")
        if (D.shape, L.shape) != (self.D.shape, self.L.shape):
            raise ValueError(f"layer must have D {tuple(self.D.shape)} and L, R {tuple(self.L.shape)}, "
                             f"got D {tuple(D.shape)} and L, R {tuple(L.shape)}")
        with torch.no_grad():
            D.copy_(self.D), L.copy_(self.L), R.copy_(self.R)

    def _require_input(self, **vectors) -> None:
        require_same_kind(D=self.D, **vectors)
        for name, value in vectors.items():
            require_last_axis(name, value, self.width)


def require_finite_cp(name: str, value) -> None:
    """Raise TypeError unless `value` is a CPTensor, ValueError if a factor holds NaN or infinity.

    >>> require_finite_cp("a", CPTensor(torch.ones(1, 1), torch.ones(1, 1), torch.full((1, 1), float("inf"))))
    Traceback (most recent call last):
    ValueError: R of a must be finite, got 1 of 1 entries NaN or infinite
    """
    require_instance(name, value, CPTensor)
    for factor in "DLR":
        require_finite(f"{factor} of {name}", getattr(value, factor))


def _matrices(layer) -> tuple[Tensor, Tensor, Tensor]:
    """D, L, R of a degree-2 MLP; of a `square` one, L is R."""
    kind = getattr(layer, "kind", None)
    if kind is None:
        raise TypeError(f"layer must be an MLP with a `kind`, got {type(layer).__name__}")
    if kind == "bilinear" and hasattr(layer, "L"):
        return layer.D, layer.L, layer.R
    if kind == "square":
        return layer.D, layer.E, layer.E
    if kind == "product" and layer.degree == 2:
        return layer.D, *layer.E
    encoders = f" with {layer.degree} encoders" if kind == "product" else ""
    hint = "; of a full tensor, from_dense makes a CP form" if kind in ("full", "symmetric") else ""
    raise ValueError(f"layer must be an MLP of kind 'bilinear', 'square' or 'product' with two encoders, "
                     f"got {type(layer).__name__} of kind {kind!r}{encoders}{hint}")


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
    require_number("tolerance", tolerance, least=0)
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
