"""Second derivatives of a bilinear classifier's mean loss: the exact Hessian, Gauss-Newton, and the EK-FAC form of it.

    G = mean_i J_i' (diag p_i - p_i p_i') J_i          H = G + mean_i sum_c (p_ic - y_ic) d^2 logit_c

An example's Jacobian is made of outer products, so a block of G is sum_i M_i (x) x_i x_i' with a small M_i: one matrix product
of all M_i with all x_i x_i', where Jacobians multiplied out cost the number of parameters squared for every class of every
example. H differs from G only in the blocks between two of the three matrices: the logits are linear in each of them.

Sources: Martens arXiv 1412.1193 (Gauss-Newton); George et al. arXiv 1806.03884 (EK-FAC); Grosse et al. arXiv 2308.03296.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from einops import einsum, rearrange
from torch import Tensor
from torch.nn.functional import one_hot

from tensorlm.checks import require, require_affordable, require_number, require_one_of, require_rows
from tensorlm.data_attribution.classifiers import Classifiers, require_labels
from tensorlm.data_attribution.gradients import single

CURVATURES = ("hessian", "gauss_newton")
BLOCK_ROWS = 512  # examples at a time


class _Local(NamedTuple):
    """What curvature needs of some examples: inputs x, hidden h = u * v, partners [v; u] of the rows of [A1; A2], logit
    gradients p - y, their pull P'(p - y) on the hidden units, spread diag p - p p', slopes d logit / d [u; v]."""

    inputs: Tensor
    hidden: Tensor
    partners: Tensor
    errors: Tensor
    pull: Tensor
    spread: Tensor
    slopes: Tensor


def _local(model: Classifiers, x: Tensor, y: Tensor) -> Iterator[_Local]:
    left, right, down = single(model)
    require_rows(x, left.shape[1])
    require_labels(y, len(x), len(down))
    for inputs, classes in zip(x.double().split(BLOCK_ROWS), y.split(BLOCK_ROWS)):
        u, v = inputs @ left.mT, inputs @ right.mT
        chances = (u * v @ down.mT).softmax(-1)
        errors, partners = chances - one_hot(classes, len(down)), torch.cat([v, u], dim=1)
        spread = torch.diag_embed(chances) - chances[:, :, None] * chances[:, None]
        yield _Local(inputs, u * v, partners, errors, errors @ down, spread, down.repeat(1, 2) * partners[:, None])


def curvature_matrix(model: Classifiers, x: Tensor, y: Tensor, kind: str = "gauss_newton") -> Tensor:
    """Second derivatives of the mean loss over the examples, without weight decay: (parameters, parameters), float64.

    `kind` is "hessian" (exact; indefinite away from a minimum) or "gauss_newton" (positive semidefinite). Parameters are
    counted as A1, A2, P, each row after row. Raises ValueError for more than one model, examples that do not fit it, and a
    matrix that takes more than `checks.DENSE_LIMIT` bytes.

    >>> model = Classifiers(torch.ones(1, 2, 3), torch.ones(1, 2, 3), torch.ones(1, 4, 2))
    >>> matrix = curvature_matrix(model, torch.ones(5, 3), torch.arange(5) % 4)
    >>> matrix.shape, torch.linalg.eigvalsh(matrix).min().item() > -1e-12
    (torch.Size([20, 20]), True)
    """
    require_one_of("kind", kind, CURVATURES)
    size = sum(weight[0].numel() for weight in model)
    require_affordable((size, size), torch.float64, "curvature='ekfac', which needs no such matrix")
    blocks = [_blocks(local, exact=kind == "hessian") for local in _local(model, x, y)]
    packed, crossed, upper = (torch.stack(parts).sum(0) / len(x) for parts in zip(*blocks))
    lower = _unpacked(packed, model.left.shape[1] * 2, x.shape[1])
    return torch.cat([torch.cat([lower, crossed], dim=1), torch.cat([crossed.mT, upper], dim=1)])


def _blocks(local: _Local, exact: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Sums over some examples of three blocks: [A1; A2] with itself (packed, equal entries once), with P, and P with itself.

    Beyond Gauss-Newton, u_k v_k has a second derivative by its two factors, P_ck u_k v_k one by P_ck and each of them.
    """
    rows, units = local.partners.shape[1], local.hidden.shape[1]
    pulled = local.slopes.mT @ local.spread
    among = pulled @ local.slopes
    across = einsum(pulled, local.hidden, "n row label, n unit -> n row label unit")
    if exact:
        row = torch.arange(rows)
        among[:, row[:units], row[units:]] += local.pull
        across[:, row, :, row % units] += einsum(local.partners, local.errors, "n row, n label -> row n label")
    row, other = torch.triu_indices(rows, rows)
    column, another = torch.triu_indices(*[local.inputs.shape[1]] * 2)
    packed = among[:, row, other].mT @ (local.inputs[:, column] * local.inputs[:, another])
    crossed = rearrange(local.inputs.mT @ across.flatten(1), "column (row upper) -> (row column) upper", row=rows)
    hidden_pairs = einsum(local.hidden, local.hidden, "n unit, n other -> n unit other").flatten(1)
    upper = rearrange(local.spread.flatten(1).mT @ hidden_pairs, "(a b) (unit other) -> (a unit) (b other)",
                      a=local.errors.shape[1], unit=units)
    return packed, crossed, upper


def _unpacked(packed: Tensor, rows: int, columns: int) -> Tensor:
    """(rows columns, rows columns) from (pairs of rows, pairs of columns)."""
    row, column = _pair_numbers(rows), _pair_numbers(columns)
    return packed[row[:, None, :, None], column[None, :, None, :]].view(rows * columns, rows * columns)


def _pair_numbers(size: int) -> Tensor:
    """The place of every unordered pair in the order of `torch.triu_indices`: (size, size)."""
    first, second = torch.triu_indices(size, size)
    numbers = torch.empty(size, size, dtype=torch.long)
    numbers[first, second] = numbers[second, first] = torch.arange(len(first))
    return numbers


def solve(matrix: Tensor, columns: Tensor, damping: float, weight_decay: float = 0.0, name: str = "damping") -> Tensor:
    """(matrix + (weight_decay + damping) I)^-1 columns, by Cholesky: (parameters, m).

    Raises ValueError, with the smallest eigenvalue and what would do, where that sum is not positive definite: a Hessian away
    from a minimum has negative eigenvalues, and scores through the inverse of an indefinite matrix are worthless.

    >>> solve(torch.diag(torch.tensor([1.0, -0.25])).double(), torch.ones(2, 1).double(), damping=0.125)
    Traceback (most recent call last):
    ValueError: damping must be above 0.25, as the smallest eigenvalue is -0.25 (weight decay 0 added), got 0.125
    """
    require_number(name, damping, 0)
    shifted = matrix.clone()
    shifted.diagonal().add_(weight_decay + damping)
    factor, failed = torch.linalg.cholesky_ex(shifted)
    if failed:
        smallest = float(torch.linalg.eigvalsh(matrix)[0]) + weight_decay
        raise ValueError(f"{name} must be above {max(-smallest, 0):.4g}, as the smallest eigenvalue is {smallest:.4g} "
                         f"(weight decay {weight_decay:g} added), got {damping:g}")
    return torch.cholesky_solve(columns, factor)


@dataclass(frozen=True, eq=False)
class EKFAC:
    """The Gauss-Newton matrix of each of the three weights as (U (x) V) diag(values) (U (x) V)', blocks between them left out.

    U (out, out) and V (in, in) are the eigenvectors of E[g g'] and E[a a'], for outputs' gradients g under the model's own
    labels and inputs a; values (out, in) are the exact diagonal in that basis. Made by `ekfac`.
    """

    factors: tuple[tuple[Tensor, Tensor, Tensor], ...]

    def solve(self, columns: Tensor, damping: float, weight_decay: float = 0.0) -> Tensor:
        """(this + (weight_decay + damping) I)^-1 columns: (parameters, m). ValueError where the sum of both is 0."""
        shift = require_number("damping", damping, 0) + weight_decay
        require(shift > 0, "damping", damping, "above 0 where there is no weight decay: EK-FAC has zero eigenvalues")
        solved = []
        for part, (out, into, values) in zip(columns.split([values.numel() for _, _, values in self.factors]), self.factors):
            turned = rearrange(part, "(out into) m -> m out into", out=len(out))
            turned = out @ (out.mT @ turned @ into / (values + shift)) @ into.mT
            solved.append(rearrange(turned, "m out into -> (out into) m"))
        return torch.cat(solved)


def ekfac(model: Classifiers, x: Tensor, y: Tensor) -> EKFAC:
    """EK-FAC of the mean loss, expectations over the model's own labels taken exactly, not by samples.

    >>> model = Classifiers(torch.ones(1, 2, 3), torch.ones(1, 2, 3), torch.ones(1, 4, 2))
    >>> [tuple(values.shape) for _, _, values in ekfac(model, torch.ones(5, 3), torch.arange(5) % 4).factors]
    [(2, 3), (2, 3), (4, 2)]
    """
    blocks = list(_local(model, x, y))
    inputs, hidden = (torch.cat([getattr(block, name) for block in blocks]) for name in ("inputs", "hidden"))
    among = torch.cat([block.slopes.mT @ block.spread @ block.slopes for block in blocks])
    spread, units = torch.cat([block.spread for block in blocks]), hidden.shape[1]
    layers = ((among[:, :units, :units], inputs), (among[:, units:, units:], inputs), (spread, hidden))
    return EKFAC(tuple(_factored(outer, into) for outer, into in layers))


def _factored(outer: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Bases and diagonal of mean_i outer_i (x) inputs_i inputs_i', for outer (n, out, out), inputs (n, in)."""
    out = torch.linalg.eigh(outer.mean(0))[1]
    into = torch.linalg.eigh(inputs.mT @ inputs / len(inputs))[1]
    sizes = einsum(outer @ out, out, "n row unit, row unit -> n unit")
    return out, into, sizes.mT @ (inputs @ into).square() / len(inputs)
