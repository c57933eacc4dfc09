"""Exercises of chapter 06: symmetric parts, interaction matrices, equal functions, truncation, largest outputs, importance."""

import torch
from torch import Tensor

from tensorlm.notebook import checks
from tensorlm.notebook.checks import DTYPE, answered, apply, as_tensor, compare, exercise, near, random, random_form, random_layer

_half = lambda D, L, R, u: L.mT @ torch.diag(u @ D) @ R


@exercise("06.0", "Warm-up: the symmetric half",
          [[1, 6], [-2, 5]], [[1, -2], [6, 5]], [[2, 4], [4, 10]], [[1, 4], [4, 5]], [[1, 6], [6, 5]], [[1, 2], [5, 2]])
def symmetric_half(answer):
    got, T = as_tensor(answered(answer)), as_tensor([[1, 6], [-2, 5]])
    assert got.shape == (2, 2), f"Two rows of two numbers are wanted, got shape {tuple(got.shape)}."
    compare(got, got.mT, "Your table is not symmetric: the two entries off the diagonal must be equal.")
    compare(got, (T + T.mT) / 2, "Symmetric, but another function: x1 x2 has the weight 6 - 2 in the table, and each entry gets half.",
            {"Twice too large: take the mean of the table and its transpose, not their sum.": T + T.mT})


@exercise("06.1", "The interaction matrix from the factors", _half, lambda *given: _half(*given) + _half(*given).mT,
          lambda D, L, R, u: _half(D, L, L, u))
def interaction(answer):
    for seed in (10, 20):
        factors, u = random_layer(seed, out=3), random(3, seed=seed + 3)
        half, got = _half(*factors, u), as_tensor(answer(*factors, u))
        assert got.shape == (4, 4), f"Q is a matrix of inputs by inputs, here (4, 4); got shape {tuple(got.shape)}."
        assert not near(got, half + half.mT), "Twice too large: the symmetric part is the mean of the matrix and its transpose."
        compare(got, got.mT, "Your matrix is not symmetric: take the mean of it and its transpose, which gives the same form.")
        compare(got, (half + half.mT) / 2, "The matrix is symmetric, but another one: u weights the rows of D, and L and R both take part.")


_at_all = lambda first, second, points: all(near(apply(first, x), apply(second, x)) for x in points)


@exercise("06.2", "The same function?",
          lambda first, second: near(checks.third_order(*first), checks.third_order(*second)),
          lambda first, second: all(map(near, first, second)),
          lambda first, second: near(*(apply(each, random(4, seed=1)).abs() for each in (first, second))),
          lambda first, second: _at_all(first, second, torch.ones(1, 4, dtype=DTYPE)),
          lambda first, second: _at_all(first, second, torch.eye(4, dtype=DTYPE)),
          lambda first, second: True)
def same_function(answer):
    D, L, R = random_layer(30, out=3)
    swap, e = (torch.arange(5) % 2 == 0)[:, None], torch.eye(4, dtype=DTYPE)
    both = torch.cat([L + R, L - R])
    more = torch.cat([D, torch.ones(3, 1, dtype=DTYPE)], 1), torch.cat([L, (e[0] - e[1])[None]]), torch.cat([R, e[2][None]])
    for changed, expected, hint in (
            ((D, 2 * L, R / 2), True, "One reading was doubled and the other halved: the function is the same."),
            ((D, torch.where(swap, R, L), torch.where(swap, L, R)), True,
             "Some units have their readings swapped. Swapping changes the table T, but not the function."),
            ((torch.cat([D, -D], 1) / 4, both, both), True,
             "A layer with twice as many units can be the same function: compare tensors, not factors."),
            (random_layer(40, out=3), False, "These are two unrelated layers."),
            ((-D, L, R), False, "This one has the opposite sign everywhere."),
            (more, False, "This one has a unit more, which is silent on single inputs and on equal inputs, but not on others.")):
        got = answer((D, L, R), changed)
        assert bool(got) == expected, f"You said {bool(got)}, and it is {expected}. {hint}"


def _lost(Q: Tensor, k: int) -> float:
    squares = torch.linalg.eigvalsh(Q).square().sort(descending=True).values
    return float(squares[k:].sum() / squares.sum())


@exercise("06.3", "What truncation loses",
          lambda Q, k: float(torch.linalg.eigvalsh(Q).sort(descending=True).values[k:].square().sum() / Q.square().sum()),
          lambda Q, k: _lost(Q, k) ** 0.5,
          lambda Q, k: 1 - _lost(Q, k))
def truncation(answer):
    for k, expected in ((0, 1.0), (1, 5.25 / 14.25), (2, 1.25 / 14.25), (4, 0.0)):
        got = float(answer(random_form(1.0, -3.0, 2.0, 0.5, seed=50), k))
        assert abs(got - expected) < 1e-9, (f"Eigenvalues 1, -3, 2, 0.5 and k = {k}: got {got:.4f}, expected {expected:.4f}. Keep the "
                                            "largest absolute values, negative ones too; the lost part is a ratio of sums of squares.")


@exercise("06.4", "The loudest input",
          lambda Q, length: length * torch.linalg.eigh(Q).eigenvectors[:, -1],
          lambda Q, length: length * torch.linalg.eigh(Q).eigenvectors[:, 0],
          lambda Q, length: torch.linalg.eigh(Q).eigenvectors[:, torch.linalg.eigvalsh(Q).abs().argmax()])
def loudest(answer):
    for spectrum, length in (([2.0, 1.0, -5.0], 3.0), ([4.0, -1.0, 0.0], 0.5)):
        Q = random_form(*spectrum, seed=60)
        x = as_tensor(answer(Q, length))
        assert x.shape == (3,), f"An input has 3 entries here, got shape {tuple(x.shape)}."
        assert abs(x.norm() - length) < 1e-9, f"The input must have length {length}, got {float(x.norm()):.3f}."
        got, expected = float((x @ Q @ x).abs()), length**2 * max(map(abs, spectrum))
        assert abs(got - expected) < 1e-9, (f"Eigenvalues {spectrum}: your input reaches |x'Qx| = {got:.3f}, and {expected:.3f} is "
                                            "possible. A large negative output counts as well.")


@exercise("06.5", "Open: a counter-example of your own",
          ([[1, 0], [0, 1]], [1, 1]), ([[2, 0], [0, -1]], [1, 1]), ([[2, 0], [0, -1.9]], [1, 0]), ([[2, 1], [0, -1.9]], [1, 1]),
          ([[1, 0], [0, -1]], [1, 1]), ([[2, 0], [0, -1.9]], [0, 0]))
def counter_example(answer):
    Q, x = map(as_tensor, answered(answer))
    assert Q.shape == (2, 2) and x.shape == (2,), f"Q is 2 by 2 and x has 2 numbers: got {tuple(Q.shape)} and {tuple(x.shape)}."
    compare(Q, Q.mT, "Your matrix is not symmetric.")
    values, vectors = torch.linalg.eigh(Q)
    small, large = (values * (x @ vectors).square())[values.abs().argsort()].tolist()
    assert not near(*values.abs()), "Both eigenvalues have the same size here: neither is the largest."
    assert large and abs(large) >= 5 * abs(large + small), (
        f"Without the first term the output changes by {abs(large):.2f}, without both by {abs(large + small):.2f}: "
        "the first must be at least five times the second.")
