"""The bilinear layer as a third-order tensor in CP form: evaluate, polarise, differentiate, densify, write in other factors.

T_oij = sum_k D_ok L_ki R_kj: the three matrices of the layer *are* a CP decomposition of its tensor. The function f(x)_o =
sum_ij T_oij x_i x_j sees only the symmetric part S_oij = (T_oij + T_oji) / 2: layers with equal S are one function.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tensorlm import checks
from tensorlm.checks import require, require_affordable, require_finite, require_instance, require_matrix, require_same_kind
from tensorlm.layers.mlp import MLP
from tensorlm.scaling import balanced, exponents, length, restored, shifted
from tensorlm.ties import TIE, eigh, peak, ranks

ZERO_EIGENVALUE = 1e-12  # share of the largest one below which `from_dense` drops an eigenvalue


@dataclass(frozen=True, eq=False)
class CPTensor:
    """Factors of f(x) = D[(L x) * (R x)]: D (out, hidden), L and R (hidden, width), float32 or float64.

    Raises TypeError where a factor is no tensor or of another dtype, ValueError where shapes or devices do not fit. NaN and
    infinity pass, but decompositions and similarities refuse them. Source: Kolda & Bader, Tensor Decompositions and
    Applications (2009), section 3; Pearce et al. arXiv 2410.08417, section 2.

    >>> cp = CPTensor(D=torch.tensor([[1.0, -1.0]]), L=torch.eye(2), R=torch.eye(2))  # x1^2 - x2^2
    >>> cp, cp(torch.tensor([3.0, 2.0]))
    (CPTensor(out=1, hidden=2, width=2, torch.float32, cpu), tensor([5.]))
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
            raise ValueError(f"D, L and R must be (out, hidden), (hidden, width) and (hidden, width), got {shapes}")

    def __repr__(self) -> str:
        return f"CPTensor(out={self.out}, hidden={self.hidden}, width={self.width}, {self.dtype}, {self.D.device})"

    @classmethod
    def from_layer(cls, layer: MLP) -> "CPTensor":
        """Detached copies of the `cp()` of an MLP; ValueError unless it is a polynomial of degree 2, TypeError for another layer."""
        require_instance("layer", layer, MLP)
        return cls(*(matrix.detach().clone() for matrix in layer.cp()))

    @classmethod
    def from_dense(cls, tensor: Tensor) -> "CPTensor":
        """An exact CP form of the symmetric part of a dense tensor (out, width, width): S_o = sum_r lambda v v^T, output by output.

        A hidden unit for every eigenvalue that is not zero to rounding, and at least one: L = R = v, D = lambda in row o.
        Seldom the fewest possible: finding the CP rank is NP-hard (Kolda & Bader 2009, 3.1).
        Raises ValueError for another shape, NaN or infinity; TypeError for another dtype.

        >>> CPTensor.from_dense(torch.tensor([[[0.0, 2.0], [0.0, 0.0]]]))  # 2 x1 x2
        CPTensor(out=1, hidden=2, width=2, torch.float32, cpu)
        """
        require_same_kind(tensor=tensor)
        fits = tensor.ndim == 3 and tensor.shape[1] == tensor.shape[2] and tensor.numel()
        require(fits, "tensor", tensor, "a tensor of shape (out, width, width), all at least 1")
        require_finite("tensor", tensor)
        exponent = exponents(tensor, (0, 1, 2))
        scaled = shifted(tensor, -exponent)
        values, vectors = (part.flip(1) for part in eigh((scaled + scaled.mT) / 2))  # rising
        sizes = values.abs()
        kept = sizes > ZERO_EIGENVALUE * sizes.max()
        kept.view(-1)[sizes.argmax()] = True
        outputs, _ = kept.nonzero(as_tuple=True)
        D = tensor.new_zeros(len(tensor), len(outputs))
        D[outputs, torch.arange(len(outputs), device=tensor.device)] = restored(values[kept], exponent.flatten(), "tensor", "eigenvalues")
        return cls(D, vectors[kept], vectors[kept])

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
        return self.out, self.width, self.width

    @property
    def dtype(self) -> torch.dtype:
        return self.D.dtype

    @property
    def parameter_count(self) -> int:
        return self.hidden * (self.out + 2 * self.width)

    @property
    def dense_count(self) -> int:
        return self.out * self.width**2

    @property
    def symmetric_count(self) -> int:
        """Free entries of S."""
        return self.out * self.width * (self.width + 1) // 2

    def __call__(self, x: Tensor) -> Tensor:
        """f(x) = D[(L x) * (R x)]: x (..., width) -> (..., out)."""
        require_inputs(self.width, D=self.D, x=x)
        return ((x @ self.L.mT) * (x @ self.R.mT)) @ self.D.mT

    def polar(self, u: Tensor, v: Tensor) -> Tensor:
        """B(u, v) = S(., u, v) = D[(L u) * (R v) + (L v) * (R u)] / 2: u, v (..., width), broadcast -> (..., out).

        B is symmetric, B(x, x) = f(x), B(u, v) = [f(u + v) - f(u - v)] / 4 and f(x + a s) = f(x) + 2a B(x, s) + a^2 f(s).
        """
        require_inputs(self.width, D=self.D, u=u, v=v)
        checks.require_broadcast(u=u, v=v)
        crossed = (u @ self.L.mT) * (v @ self.R.mT) + (v @ self.L.mT) * (u @ self.R.mT)
        return crossed @ self.D.mT / 2

    def contributions(self, x: Tensor) -> Tensor:
        """c_ok(x) = D_ok (L_k x)(R_k x), what hidden unit k adds to output o: x (..., width) -> (..., out, hidden)."""
        require_inputs(self.width, D=self.D, x=x)
        return self.D * ((x @ self.L.mT) * (x @ self.R.mT)).unsqueeze(-2)

    def jacobian(self, x: Tensor) -> Tensor:
        """J(x) = 2 S(., ., x), J_oi = df_o / dx_i: x (..., width) -> (..., out, width). Euler: J(x) x = 2 f(x)."""
        require_inputs(self.width, D=self.D, x=x)
        left, right = (x @ self.L.mT).unsqueeze(-2), (x @ self.R.mT).unsqueeze(-2)
        return (self.D * right) @ self.L + (self.D * left) @ self.R

    def dense(self) -> Tensor:
        """T_oij = sum_k D_ok L_ki R_kj (out, width, width); ValueError beyond `checks.DENSE_LIMIT` bytes."""
        require_affordable(self.shape, self.dtype, "the factors: evaluation, similarity, eigen and hosvd never need T")
        return cp_unfolding(self.D, self.L, self.R).view(self.shape)

    def symmetric(self) -> Tensor:
        """S_oij = (T_oij + T_oji) / 2, all that the function is; raises as `dense` does."""
        half = self.dense() / 2
        return half + half.mT

    def factors(self) -> dict[str, Tensor]:
        """Detached contiguous copies by name, as safetensors stores them: CPTensor(**cp.factors()) is the inverse."""
        return {name: getattr(self, name).detach().clone(memory_format=torch.contiguous_format) for name in "DLR"}

    def double(self) -> "CPTensor":
        """The same tensor in float64, in which identities hold to 1e-10."""
        return CPTensor(self.D.double(), self.L.double(), self.R.double())

    def swap(self) -> "CPTensor":
        """(D, R, L): the encoders exchanged. T_oij becomes T_oji; S and f stay."""
        return CPTensor(self.D, self.R, self.L)

    def permute(self, order: Tensor | Sequence[int]) -> "CPTensor":
        """The hidden units in another order: unit k of the result is unit order[k]. T, S and f stay."""
        units = order.tolist() if isinstance(order, Tensor) else order
        fits = isinstance(units, Sequence) and all(map(checks.is_whole, units)) and sorted(units) == list(range(self.hidden))
        require(fits, "order", units, f"a permutation of 0 .. {self.hidden - 1}")
        return CPTensor(self.D[:, list(units)], self.L[list(units)], self.R[list(units)])

    def rescale(self, left: Tensor, right: Tensor) -> "CPTensor":
        """L_k times left_k, R_k times right_k, D_k divided by both; left, right (hidden,). T, S and f stay.

        Raises ValueError unless left and right are finite and not zero, and where a factor leaves the number range by them.
        """
        self._require_vectors(self.hidden, left=left, right=right)
        for name, scale in (("left", left), ("right", right)):
            require_finite(name, scale)
            require(scale.all(), name, scale.tolist(), "other than 0 for every unit")
        scaled = CPTensor(self.D / left / right, left.unsqueeze(1) * self.L, right.unsqueeze(1) * self.R)
        for name in "DLR":
            before, after = getattr(self, name), getattr(scaled, name)
            if not torch.equal(before.isfinite() & (before != 0), after.isfinite() & (after != 0)):
                sizes = " and ".join(f"{float(scale.abs().min()):.3g} to {float(scale.abs().max()):.3g}" for scale in (left, right))
                raise ValueError(f"left and right must leave {name} within the range of {self.dtype}, got sizes of {sizes}")
        return scaled

    def canonical(self) -> "CPTensor":
        """The one set of factors that stands for all that `swap`, unit by unit too, `permute` and `rescale` reach.

        L_k and R_k have norm 1 and a positive largest entry (the first of equals), D_k carries size and sign; of L_k and R_k
        the lexicographically greater one is L_k; units are sorted by falling norm of D_k, equal ones lexicographically, all
        to rounding. A unit that adds nothing becomes zero and comes last. CP forms that no gauge connects stay different:
        compare functions by `same_function`. Raises ValueError for NaN or infinity, and where D leaves the number range.

        >>> CPTensor(torch.tensor([[1.0, 6.0]]), torch.eye(2), -2 * torch.eye(2)).canonical().D
        tensor([[-12.,  -2.]])
        """
        require_finite_cp("cp", self)
        D, L, R, exponent = balanced(self.D, self.L, self.R)
        (L, left), (R, right) = _directions(L), _directions(R)
        D = D * left * right
        first = ((L - R).abs() > TIE * torch.finfo(L.dtype).eps).int().argmax(dim=1, keepdim=True)
        behind = L.gather(1, first) < R.gather(1, first)
        L, R = torch.where(behind, R, L), torch.where(behind, L, R)
        alive = D.any(dim=0)
        D, L, R = D * alive, L * alive.unsqueeze(1), R * alive.unsqueeze(1)
        sizes = length(D, 0).unsqueeze(1)
        keys = torch.cat([sizes, L, R, D.mT / sizes.max().clamp_min(torch.finfo(D.dtype).tiny)], dim=1)
        keys = torch.where(keys.abs() > TIE * torch.finfo(D.dtype).eps, keys, 0)
        order = torch.unique(ranks(keys.mT).mT, dim=0, return_inverse=True)[1].argsort(stable=True)
        return CPTensor(restored(D, exponent, "cp", "factors of norm 1 beside D"), L, R).permute(order)

    def square_form(self) -> "CPTensor":
        """One encoder, squared: f(x) = D' (M x)^2, M = [L + R; L - R], D' = [D, -D] / 4, whose T is the S of this layer."""
        encoder = torch.cat([self.L + self.R, self.L - self.R])
        return CPTensor(torch.cat([self.D, -self.D], dim=1) / 4, encoder, encoder)

    def symmetrised(self) -> "CPTensor":
        """The symmetric part in CP form: D' = [D, D] / 2, L' = [L; R], R' = [R; L], whose T is the S of this layer."""
        return CPTensor(torch.cat([self.D, self.D], dim=1) / 2, torch.cat([self.L, self.R]), torch.cat([self.R, self.L]))

    def with_input_bias(self, left: Tensor, right: Tensor) -> "CPTensor":
        """D[(L x + left) * (R x + right)] as a layer on (1, x): L~ = [left L], R~ = [right R]; left, right (hidden,), zeros for no bias."""
        self._require_vectors(self.hidden, left=left, right=right)
        return CPTensor(self.D, torch.cat([left.unsqueeze(1), self.L], dim=1), torch.cat([right.unsqueeze(1), self.R], dim=1))

    def with_output_bias(self, bias: Tensor) -> "CPTensor":
        """f(1, x) + bias, for a lifted layer: one more hidden unit, 1 times 1, writes bias (out,)."""
        self._require_vectors(self.out, bias=bias)
        return self._with_units(bias.unsqueeze(1), [0], [0])

    def with_residual(self) -> "CPTensor":
        """x + f(1, x), for a lifted layer: unit i of `out` more hidden units writes x_i times 1. ValueError unless out = width - 1."""
        require(self.out == self.width - 1, "cp", self, "lifted with out = width - 1, so that x and f(1, x) can be added")
        return self._with_units(torch.eye(self.out).to(self.D), list(range(1, self.width)), [0] * self.out)

    def with_constant(self) -> "CPTensor":
        """(1, f(1, x)), for a lifted layer: one more hidden unit, 1 times 1, writes the new output slot 0, where the next
        lifted layer reads its constant. Add a residual before, not after."""
        below = CPTensor(torch.cat([torch.zeros_like(self.D[:1]), self.D]), self.L, self.R)
        return below._with_units(torch.eye(below.out, 1).to(self.D), [0], [0])

    def _with_units(self, columns: Tensor, left: list[int], right: list[int]) -> "CPTensor":
        """More hidden units: unit n multiplies the inputs left[n] and right[n] and writes column n (out,) of D."""
        rows = torch.eye(self.width).to(self.D)
        return CPTensor(torch.cat([self.D, columns], 1), torch.cat([self.L, rows[left]]), torch.cat([self.R, rows[right]]))

    def _require_vectors(self, size: int, **vectors) -> None:
        require_same_kind(D=self.D, **vectors)
        for name, value in vectors.items():
            require(value.shape == (size,), name, value, f"a vector of shape ({size},)")


def cp_unfolding(D: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """sum_k D_ok left_ka right_kb as a matrix (out, a b): a matrix product behind the smaller of two Khatri-Rao products."""
    out, columns = D.shape[0], right.shape[1]
    if columns < out:
        return D @ (left.unsqueeze(2) * right.unsqueeze(1)).flatten(1)
    return ((D.unsqueeze(1) * left.mT).flatten(0, 1) @ right).view(out, -1)


def lift(x: Tensor) -> Tensor:
    """(1, x) on the last axis: (..., width) -> (..., 1 + width).

    >>> lift(torch.tensor([3.0, 2.0]))
    tensor([1., 3., 2.])
    """
    require_same_kind(x=x)
    require(x.ndim, "x", x, "a tensor with at least 1 axis")
    return torch.nn.functional.pad(x, (1, 0), value=1.0)


def require_finite_cp(name: str, value) -> None:
    """Raise TypeError unless `value` is a CPTensor, ValueError if a factor holds NaN or infinity."""
    require_instance(name, value, CPTensor)
    for factor in "DLR":
        require_finite(f"{factor} of {name}", getattr(value, factor))


def require_inputs(width: int, **tensors) -> None:
    """Raise unless all are of one dtype and device, and all but the first have `width` entries in their last axis."""
    require_same_kind(**tensors)
    for name, value in list(tensors.items())[1:]:
        checks.require_last_axis(name, value, width)


def require_chain(name: str, parts: Sequence, kind: type) -> None:
    """Raise unless each part is a `kind` (CPTensor, or with one as `cp`), of one dtype and as wide as the out before it."""
    require(isinstance(parts, Sequence) and parts, name, parts, f"a tuple of at least one {kind.__name__}")
    for number, part in enumerate(parts):
        require_instance(f"{name}[{number}]", part, kind)
    layers = [getattr(part, "cp", part) for part in parts]
    require_same_kind(**{f"{name}[{number}]": layer.D for number, layer in enumerate(layers)})
    for number, (lower, upper) in enumerate(zip(layers, layers[1:]), start=1):
        require(lower.out == upper.width, f"{name}[{number}]", upper, f"of width {lower.out}, the out of the one before it")


def _directions(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of norm 1 with a positive largest entry, and the signed norms they had; zero rows stay zero."""
    norms = rows.gather(1, peak(rows)).sign() * length(rows, 1).unsqueeze(1)
    return rows / torch.where(norms == 0, 1, norms), norms.squeeze(1)
