"""Exercises of chapter 06: interaction matrices, equality of functions, truncation, the largest output, Kruskal's bound."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tensorlm.notebook.checks import Exercise
from tensorlm.notebook.exercises.tools import DTYPE, near as _near, random as _random


def _factors(seed: int, out: int = 3, hidden: int = 5, width: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Random D (out, hidden), L and R (hidden, width)."""
    return _random(out, hidden, seed=seed), _random(hidden, width, seed=seed + 1), _random(hidden, width, seed=seed + 2)


def _table(D: Tensor, L: Tensor, R: Tensor) -> Tensor:
    return torch.einsum("ok,ki,kj->oij", D, L, R)


def _symmetric(D: Tensor, L: Tensor, R: Tensor) -> Tensor:
    T = _table(D, L, R)
    return (T + T.mT) / 2


# 06.1 -----------------------------------------------------------------------------------------------------------------


def _interaction(D: Tensor, L: Tensor, R: Tensor, u: Tensor) -> Tensor:
    half = L.mT @ torch.diag(u @ D) @ R
    return (half + half.mT) / 2


def _check_interaction(answer: Any) -> None:
    for seed in (10, 20):
        D, L, R = _factors(seed)
        u = _random(3, seed=seed + 3)
        expected = torch.einsum("o,oij->ij", u, _symmetric(D, L, R))
        got = torch.as_tensor(answer(D, L, R, u), dtype=DTYPE)
        assert got.shape == (4, 4), f"Q is a matrix of inputs by inputs, here (4, 4); got shape {tuple(got.shape)}."
        assert not _near(got, 2 * expected), "Twice too large: the symmetric part is the mean of the matrix and its transpose."
        assert _near(got, got.mT), "Your matrix is not symmetric: take the mean of it and its transpose, which gives the same form."
        assert _near(got, expected), "The matrix is symmetric, but another one: u weights the rows of D, and L and R both take part."


# 06.2 -----------------------------------------------------------------------------------------------------------------


def _same(first: tuple, second: tuple) -> bool:
    return _near(_symmetric(*first), _symmetric(*second))


def _check_same(answer: Any) -> None:
    D, L, R = _factors(30)
    swap = torch.arange(5) % 2 == 0
    L2, R2 = torch.where(swap[:, None], R, L), torch.where(swap[:, None], L, R)
    squares = (torch.cat([D, -D], 1) / 4, torch.cat([L + R, L - R]), torch.cat([L + R, L - R]))
    other = _factors(40)
    e = torch.eye(4, dtype=DTYPE)
    hidden_unit = (torch.cat([D, torch.ones(3, 1, dtype=DTYPE)], 1), torch.cat([L, (e[0] - e[1])[None]]), torch.cat([R, e[2][None]]))
    pairs = [
        ((D, 2 * L, R / 2), True, "One reading was doubled and the other halved: the function is the same."),
        ((D, L2, R2), True, "Some units have their readings swapped. Swapping changes the table T, but not the function."),
        (squares, True, "A layer with twice as many units can be the same function: compare tensors, not factors."),
        (other, False, "These are two unrelated layers."),
        ((-D, L, R), False, "This one has the opposite sign everywhere."),
        (hidden_unit, False, "This one has a unit more, which is silent on single inputs and on equal inputs, but not on others."),
    ]
    for changed, expected, hint in pairs:
        got = answer((D, L, R), changed)
        assert bool(got) == expected, f"You said {bool(got)}, and it is {expected}. {hint}"


def _same_tables(first: tuple, second: tuple) -> bool:
    return _near(_table(*first), _table(*second))


def _same_factors(first: tuple, second: tuple) -> bool:
    return all(a.shape == b.shape and _near(a, b) for a, b in zip(first, second))


def _same_sizes_of_outputs(first: tuple, second: tuple) -> bool:
    x = _random(4, seed=1)
    return _near(_at(first, x).abs(), _at(second, x).abs())


def _same_at_ones(first: tuple, second: tuple) -> bool:
    ones = torch.ones(4, dtype=DTYPE)
    return _near(_at(first, ones), _at(second, ones))


def _same_on_coordinates(first: tuple, second: tuple) -> bool:
    return all(_near(_at(first, row), _at(second, row)) for row in torch.eye(4, dtype=DTYPE))


def _at(factors: tuple, x: Tensor) -> Tensor:
    D, L, R = factors
    return D @ ((L @ x) * (R @ x))


# 06.3 -----------------------------------------------------------------------------------------------------------------


def _lost(Q: Tensor, k: int) -> float:
    squares = torch.linalg.eigvalsh(Q).square().sort(descending=True).values
    return float(squares[k:].sum() / squares.sum())


def _check_lost(answer: Any) -> None:
    basis = torch.linalg.qr(_random(4, 4, seed=50)).Q
    Q = basis @ torch.diag(torch.tensor([1.0, -3.0, 2.0, 0.5], dtype=DTYPE)) @ basis.mT
    for k, expected in ((0, 1.0), (1, 5.25 / 14.25), (2, 1.25 / 14.25), (4, 0.0)):
        got = float(answer(Q, k))
        assert abs(got - expected) < 1e-9, (f"Eigenvalues 1, -3, 2, 0.5 and k = {k}: got {got:.4f}, expected {expected:.4f}. Keep the "
                                            "largest absolute values, negative ones too; the lost part is a ratio of sums of squares.")


# 06.4 -----------------------------------------------------------------------------------------------------------------


def _loudest(Q: Tensor, length: float) -> Tensor:
    values, vectors = torch.linalg.eigh(Q)
    return length * vectors[:, values.abs().argmax()]


def _check_loudest(answer: Any) -> None:
    basis = torch.linalg.qr(_random(3, 3, seed=60)).Q
    for spectrum, length in (([2.0, 1.0, -5.0], 3.0), ([4.0, -1.0, 0.0], 0.5)):
        Q = basis @ torch.diag(torch.tensor(spectrum, dtype=DTYPE)) @ basis.mT
        x = torch.as_tensor(answer(Q, length), dtype=DTYPE)
        assert x.shape == (3,), f"An input has 3 entries here, got shape {tuple(x.shape)}."
        assert abs(x.norm() - length) < 1e-9, f"The input must have length {length}, got {float(x.norm()):.3f}."
        got, expected = float((x @ Q @ x).abs()), length**2 * max(map(abs, spectrum))
        assert abs(got - expected) < 1e-9, (f"Eigenvalues {spectrum}: your input reaches |x'Qx| = {got:.3f}, and {expected:.3f} is "
                                            "possible. A large negative output counts as well.")


# 06.5 -----------------------------------------------------------------------------------------------------------------


def _most_units(out: int, width: int) -> int:
    holds = [h for h in range(1, out + 2 * width) if min(h, out) + 2 * min(h, width) >= 2 * h + 2]
    return max(holds, default=0)


def _check_most_units(answer: Any) -> None:
    hints = {
        (10, 64): "As many inputs and outputs as this chapter's layer: at the answer all three ranks are capped by the sizes.",
        (128, 128): "A square layer.",
        (1000, 4): "With 1000 outputs and few units, k_D is the number of units: a k-rank is never larger than h.",
        (2, 2): "Try h = 1, 2, 3 by hand.",
        (1, 8): "With one output no number of units meets the condition.",
    }
    for (out, width), hint in hints.items():
        got, expected = answer(out, width), _most_units(out, width)
        assert got == expected, f"out = {out}, width = {width}: got {got}, expected {expected}. {hint}"


EXERCISES = (
    Exercise("06.1", "The interaction matrix from the factors", _check_interaction,
             mutants=(lambda D, L, R, u: L.mT @ torch.diag(u @ D) @ R,
                      lambda D, L, R, u: 2 * _interaction(D, L, R, u),
                      lambda D, L, R, u: L.mT @ torch.diag(u @ D) @ L)),
    Exercise("06.2", "The same function?", _check_same,
             mutants=(_same_tables, _same_factors, _same_sizes_of_outputs, _same_at_ones, _same_on_coordinates,
                      lambda first, second: True)),
    Exercise("06.3", "What truncation loses", _check_lost,
             mutants=(lambda Q, k: float(torch.linalg.eigvalsh(Q).sort(descending=True).values[k:].square().sum() / Q.square().sum()),
                      lambda Q, k: _lost(Q, k) ** 0.5,
                      lambda Q, k: 1 - _lost(Q, k))),
    Exercise("06.4", "The loudest input", _check_loudest,
             mutants=(lambda Q, length: length * torch.linalg.eigh(Q).eigenvectors[:, -1],
                      lambda Q, length: length * torch.linalg.eigh(Q).eigenvectors[:, 0],
                      lambda Q, length: _loudest(Q, 1.0))),
    Exercise("06.5", "How many units can Kruskal vouch for?", _check_most_units,
             mutants=(lambda out, width: (out + 2 * width - 2) // 2,
                      lambda out, width: min(out, width),
                      lambda out, width: (out + 2 * width) // 2)),
)
