"""Exercises of chapter 12: a distance, a mean and a variance without samples, the nearest zero, a short proof, a deceptive slope."""

from collections.abc import Sequence

import torch
from torch import Tensor

from tensorlm.notebook.checks import as_tensor, compare, exercise, random, random_form, random_layer, third_order


@exercise("12.0", "Warm-up: how far to zero?", 2.1, 2, 7, 21)
def distance(answer):
    got = float(answer)
    assert got != 2, "This is the zero itself. How far is it from 5?"
    assert got != 7, "There is a zero of g nearer to 5 than -2."
    assert abs(got - 2.1) > 1e-9, "This is 21/10, where the straight line through g(5) with its slope ends. g bends."
    assert got == 3, f"Got {got:g}. Solve x^2 - 4 = 0 and take the zero nearest to 5."


def _covariance(seed: int, size: int = 4) -> Tensor:
    root = random(size, size, seed=seed)
    return root @ root.mT


def _mean(D, L, R, mu, C):
    return D @ torch.diag(L @ (C + torch.outer(mu, mu)) @ R.mT)


@exercise("12.1", "The mean without samples",
          lambda D, L, R, mu, C: D @ ((L @ mu) * (R @ mu)), lambda D, L, R, mu, C: D @ torch.diag(L @ C @ R.mT),
          lambda D, L, R, mu, C: _mean(D, L, L, mu, C), lambda D, L, R, mu, C: (L @ (C + torch.outer(mu, mu)) @ R.mT).diagonal())
def mean_output(answer):
    for seed in (1, 11, 21):
        D, L, R = random_layer(seed, out=3)
        mu, C = random(4, seed=seed + 5), _covariance(seed + 6)
        compare(answer(D, L, R, mu, C), _mean(D, L, R, mu, C), "Not the mean: both L and R read x, so S stands between them.",
                {"This is f at the mean input. The mean of a product is not the product of the means.": D @ ((L @ mu) * (R @ mu)),
                 "The mean of x is missing: the second moment is C + mu mu'.": D @ torch.diag(L @ C @ R.mT)},
                each="One number for each output")


def _step(Q, w, c, halvings: int = 200):
    low, high = 0.0, -1 / float(torch.linalg.eigvalsh(Q)[0])
    step = torch.zeros_like(w)
    for _ in range(halvings):
        t = (low + high) / 2
        step = -t * torch.linalg.solve(torch.eye(len(w), dtype=w.dtype) + t * Q, w)
        low, high = (t, high) if c + 2 * w @ step + step @ Q @ step > 0 else (low, t)
    return step


def _downhill(Q, w, c):
    """To the zero along the gradient."""
    direction = -w / w.norm()
    bend, slope = direction @ Q @ direction, 2 * w @ direction
    root = (slope**2 - 4 * bend * c).clamp_min(0).sqrt()
    return (-slope - root) / (2 * bend) * direction


@exercise("12.2", "The nearest zero",
          lambda Q, w, c: -c / (2 * w @ w) * w, _downhill, lambda Q, w, c: -_step(Q, w, c), lambda Q, w, c: _step(Q, w, c).norm(),
          lambda Q, w, c: _step(Q, w, c, halvings=4))
def nearest_zero(answer):
    for seed, values in ((31, (-2.0, -0.5, 1.0, 3.0)), (41, (-1.0, 0.5, 0.7, 2.0)), (51, (-3.0, -2.0, -1.0, -0.2))):
        Q, w, c = random_form(*values, seed=seed), random(4, seed=seed + 5), 3.0
        step, expected = as_tensor(answer(Q, w, c)), _step(Q, w, c)
        assert step.shape == w.shape, f"Return the step itself, shape {tuple(w.shape)}; got {tuple(step.shape)}."
        left = float(c + 2 * w @ step + step @ Q @ step)
        straight = -c / (2 * w @ w) * w
        assert not torch.allclose(step, straight), "This is the zero of the straight line: the term delta'Q delta is missing."
        assert abs(left) < 1e-6, f"At your step g is {left:.2g} and not 0. Is the sign right, and are there enough halvings?"
        assert step.norm() <= expected.norm() * (1 + 1e-6), (
            f"g is 0 there, but a step of {float(expected.norm()):.3f} is enough, and yours has {float(step.norm()):.3f}: the shortest "
            "one does not go straight down the gradient, since that turns on the way.")


_variance = lambda Q, b, mu, C: 2 * torch.trace(Q @ C @ Q @ C) + 4 * (Q @ mu + b) @ C @ (Q @ mu + b)


@exercise("12.3", "The variance of a margin",
          lambda Q, b, mu, C: 2 * torch.trace(Q @ C @ Q @ C) + 4 * b @ C @ b,
          lambda Q, b, mu, C: torch.trace(Q @ C @ Q @ C) + (Q @ mu + b) @ C @ (Q @ mu + b),
          lambda Q, b, mu, C: 4 * (Q @ mu + b) @ C @ (Q @ mu + b), lambda *given: _variance(*given).sqrt())
def variance(answer):
    for seed in (61, 71):
        Q, b, mu, C = random_form(-1.0, 0.5, 1.0, 2.0, seed=seed), random(4, seed=seed + 5), random(4, seed=seed + 6), _covariance(seed + 7)
        w, expected = Q @ mu + b, _variance(Q, b, mu, C)
        without = expected - 4 * w @ C @ w + 4 * b @ C @ b
        compare(answer(Q, b, mu, C), expected, "Not the variance: 2 tr(QCQC) from the part of degree 2, and 4 w'Cw from the linear part.",
                {"The mean of x is missing in the linear part: its half gradient is Q mu + b.": without,
                 "Only the linear part: y'Qy varies as well.": 4 * w @ C @ w,
                 "This is the standard deviation, its square root.": expected.sqrt()})


def _parts(T: Tensor) -> tuple[Tensor, Tensor]:
    """g (p,) and the rest (p, p, p)."""
    n = torch.arange(len(T))
    shift = (n[:, None, None] - n[:, None] - n) % len(T)
    g = torch.stack([T[shift == r].mean() for r in range(len(T))])
    return g, T - g[shift]


def _wrong(T: Tensor, factor: float = 2.0) -> int:
    g, rest = _parts(T)
    gap = float(g[0] - g[1:].max())
    return len(T) ** 2 if gap <= 0 else int(factor * float(rest.square().sum()) / gap**2)


def _adder(p: int, noise: float, seed: int) -> Tensor:
    """Logits that add modulo p, with noise; with `noise` below 0 the right answers are the lowest."""
    n = torch.arange(p)
    right = (n[:, None, None] - n[:, None] - n) % p == 0
    T = as_tensor(right) * (1.0 if noise >= 0 else -1.0) + abs(noise) * third_order(*random_layer(seed, out=p, hidden=6, width=p))
    return T - T.mean(0)


@exercise("12.4", "A short proof", lambda T: _wrong(T, 1.0), lambda T: _wrong(T) + 1, lambda T: len(T) ** 2,
          lambda T: int(2 * float(_parts(T)[1].square().sum()) / float(_parts(T)[0][0] - _parts(T)[0][1:].max()) ** 2))
def short_proof(answer):
    for p, noise, seed in ((5, 0.05, 81), (7, 0.08, 91), (11, 0.04, 101)):
        T = _adder(p, noise, seed)
        got, expected = int(answer(T)), _wrong(T)
        assert got != _wrong(T, 1.0), f"p = {p}: half of the bound, which is too little: a wrong pair needs gap^2 / 2 of the rest."
        assert got == expected, f"p = {p}: got {got}, expected {expected}: 2 |T - g|^2 / gap^2, rounded down."
    got = int(answer(_adder(5, -0.05, 111)))
    assert got >= 25, f"Here g(0) is not the largest, so that nothing is proven: all 25 pairs may be wrong. Got {got}."


@exercise("12.5", "Open: near by the slope, out of reach in truth", ([[26, 0], [0, 26]], [1, 0]), ([[24, 0], [0, 24]], [5, 0]),
          ([[-1, 0], [0, 26]], [5, 0]), ([[26, 0], [0, -1]], [5, 0]), ([[1, 2], [0, 1]], [5, 0]))
def out_of_reach(answer):
    assert isinstance(answer, Sequence) and len(answer) == 2, "Give the pair (Q, b)."
    Q, b = map(as_tensor, answer)
    assert Q.shape == (2, 2) and b.shape == (2,), f"Q has shape (2, 2) and b (2,); got {tuple(Q.shape)} and {tuple(b.shape)}."
    assert torch.equal(Q, Q.mT), "Q is symmetric: replace it by the mean of itself and its transpose."
    slope = float(1 / (2 * b.norm())) if b.norm() > 0 else float("inf")
    assert slope <= 0.1 + 1e-12, f"By its slope g is zero at a distance of {slope:.3f}, which is more than 0.1: take a longer b."
    assert torch.linalg.eigvalsh(Q)[0] > 0, "Q has an eigenvalue that is not positive: far out along its eigenvector g reaches zero."
    least = float(1 - b @ torch.linalg.solve(Q, b))
    assert least > 0, f"The least value of g is 1 - b'Q^-1 b = {least:.3f}, so g does have a zero: bend it more."
