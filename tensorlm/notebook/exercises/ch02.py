"""Exercises of chapter 02: exponents, factorisations, steered responses, normed blocks, and a detector of degrees."""

import torch

from tensorlm.notebook.checks import TOLERANCE, Exercise, apply, as_factors, as_tensor, cases, compare, exercise, near, random, random_layer

exponent = Exercise("02.1", "The exponent of a stack", cases(
    "layers = {0}, encoders = {1}: got {got}, expected {expected}. {hint}", lambda layers, encoders: encoders**layers, [
        ((1, 3), "One layer with three encoders multiplies three factors a."),
        ((2, 1), "A layer with one encoder is linear: two of them in a row still scale by a."),
        ((3, 2), "Each layer raises everything below it to its own power, so the exponents multiply from layer to layer."),
        ((2, 3), "Two layers with three encoders: the second one cubes what is already cubed."),
    ]),
    (lambda N, k: N * k, lambda N, k: 2**N, lambda N, k: N**k, lambda N, k: N + k, lambda N, k: k))

SQUARES = [[1.0, 0.0], [0.0, 1.0]]
DIAGONALS = [[1.0, 1.0], [1.0, -1.0]]
TURNED = [[0.6, 0.8], [-0.8, 0.6]]


@exercise("02.2", "Same function, other shares",
          ([[1.0, 1.0]], SQUARES, SQUARES),                      # the form given in the question
          ([[0.5, 1.0]], [[2.0, 0.0], [0.0, 1.0]], SQUARES),     # rescaled
          ([[1.0, 1.0]], SQUARES[::-1], SQUARES[::-1]),          # reordered
          ([[1.0, 1.0]], DIAGONALS, DIAGONALS),                  # without the half
          ([[0.5, 0.5]], DIAGONALS, DIAGONALS[::-1]),            # (x1 + x2)(x1 - x2)
          ([[1.0, 1.0]], TURNED, TURNED))                        # but not by 45 degrees
def other_shares(answer):
    D, L, R = as_factors(answer)
    shapes = tuple(tuple(factor.shape) for factor in (D, L, R))
    assert shapes == ((1, 2), (2, 2), (2, 2)), f"Two units, two inputs, one output: D (1, 2), L (2, 2), R (2, 2); got {shapes}."
    rounded = lambda vector: "(" + ", ".join(f"{entry:.2f}" for entry in vector.tolist()) + ")"
    for x in random(5, 2, seed=0):
        got, expected = apply((D, L, R), x), (x @ x)[None]
        compare(got, expected, f"At x = {rounded(x)} your factors give {got.item():.3f}, but x1^2 + x2^2 is {expected.item():.3f}. "
                               "A share is worth comparing only between forms of the same function (is a factor one half missing?).")
    contributions = (D[0] * L[:, 0] * R[:, 0]).abs()
    share = (contributions / contributions.sum()).sort().values
    compare(share, [0.5, 0.5], f"The function is right, but at x = (1, 0) the shares are {rounded(share)}; wanted: one half each.", {
        "The function is right, but at x = (1, 0) one unit still has the whole share. Swapping L and R, rescaling and reordering "
        "units never change the set of shares: take other directions for the units.": [0.0, 1.0]})


@exercise("02.3", "Three runs predict them all",
          lambda minus, zero, plus, a: zero + a * (plus - zero),
          lambda minus, zero, plus, a: zero + a**2 * (plus - zero),
          lambda minus, zero, plus, a: zero + a * (plus - minus) + a**2 * (plus + minus - 2 * zero),
          lambda minus, zero, plus, a: zero + a * (plus - minus) / 2 + a**2 * (plus + minus) / 2,
          lambda minus, zero, plus, a: zero + abs(a) * (plus - minus) / 2 + a**2 * ((plus + minus) / 2 - zero),
          lambda minus, zero, plus, a: zero + a * (plus - minus) / 2 + abs(a) * ((plus + minus) / 2 - zero),
          lambda minus, zero, plus, a: a * (plus - minus) / 2 + a**2 * ((plus + minus) / 2 - zero))
def predict(answer):
    factors, x, s = random_layer(10), random(4, seed=20), random(4, seed=21)
    f = lambda alpha: apply(factors, x + alpha * s)
    hints = {0.0: "At alpha = 0 nothing has been added, so the answer is `zero`: is f(x) counted twice in the self term?",
             1.0: "At alpha = 1 the answer is `plus`: is a factor one half missing, a term counted twice, or `minus - plus` written "
                  "for `plus - minus`?",
             -1.0: "At alpha = -1 the answer is `minus`: the cross term changes its sign with alpha, the self term does not."}
    hints |= {alpha: f"The three given points are met, but alpha = {alpha:g} is not: the cross term grows as alpha, the self term as "
                     "alpha squared." for alpha in (3.0, -2.5, 0.1)}
    for alpha, hint in hints.items():
        compare(answer(f(-1), f(0), f(1), alpha), f(alpha), hint)


_squared = lambda x: x @ x / len(x)
BLOCKS = {
    "the layer is divided by x.x but the factor d is missing": lambda x, fx: x + fx / (x @ x),
    "the divisor is the norm; the layer has two factors x, and each is divided": lambda x, fx: x + fx / _squared(x).sqrt(),
    "the residual x is not normed: only what the layer reads is": lambda x, fx: x / _squared(x).sqrt() + fx / _squared(x),
    "the whole numerator stands over x.x, so the residual must be x (x.x) in it": lambda x, fx: (x + len(x) * fx) / (x @ x),
    "d and x.x have changed places": lambda x, fx: x + fx * _squared(x),
    "the residual is missing": lambda x, fx: fx / _squared(x),
    "there is no norm in it": lambda x, fx: x + fx,
}


@exercise("02.4", "A normed block without a square root", *BLOCKS.values())
def normed_block(answer):
    x = random(4, seed=40)
    fx = apply(random_layer(30), x)
    compare(answer(x, fx), x + fx / _squared(x), "Not x + f(x / rms(x)). Start from rms(x)^2 = x.x / d and f(cx) = c^2 f(x).",
            {f"Likely mistake: {mistake}.": block(x, fx) for mistake, block in BLOCKS.items()})


def _detector(fits):
    def detect(f, x):
        n = round(float((f(2 * x).norm() / f(x).norm()).log2()))
        return n if fits(f, x, n) else "none"

    return detect


_at_2_and_3 = lambda f, x, n: all(near(f(a * x), a**n * f(x)) for a in (2.0, 3.0))


@exercise("02.5", "A detector of degrees", _detector(lambda f, x, n: True), _detector(_at_2_and_3),
          _detector(lambda f, x, n: near(f(3 * x) / f(3 * x).norm(), f(x) / f(x).norm())),
          _detector(lambda f, x, n: _at_2_and_3(f, x, n) and near(f(-x), f(x))))
def degree(answer):
    first, second, W, x, b = random_layer(50), random_layer(60), random(4, 4, seed=70), random(4, seed=80), random(4, seed=90)
    f, g = lambda z: apply(first, z), lambda z: apply(second, z)
    for name, function, expected, hint in (
            ("a linear map", lambda z: W @ z, 1, "For an odd degree f(-x) is -f(x), not f(x)."),
            ("a bilinear layer", f, 2, ""),
            ("three encoders", lambda z: f(z) * (W @ z), 3, "For an odd degree f(-x) is -f(x), not f(x)."),
            ("two layers", lambda z: g(f(z)), 4, ""),
            ("a bilinear layer after RMSNorm", lambda z: f(z / z.norm()), 0, "Nothing changes at all there, and that is the exponent 0."),
            ("a residual block", lambda z: z + f(z), "none",
             "The size alone does not decide: compare the whole vectors f(ax) and a^n f(x)."),
            ("a layer with a bias", lambda z: f(z + b), "none", "Compare the whole vectors f(ax) and a^n f(x), at more than one a."),
            ("a ReLU layer", lambda z: W.T @ torch.relu(W @ z), "none", "It scales by a for positive a only: try a negative a too."),
            ("the absolute value", lambda z: z.abs(), "none", "It scales by |a|, not by a: try a negative a too.")):
        got = answer(function, x)
        assert got == expected, f"For {name}: got {got}, expected {expected}. {hint}".rstrip()


_sum = lambda x, fx: x + fx
TURNING = {
    "the terms have degrees 1 and 2, as in an ordinary block": _sum,
    "f(x) over x.x has degree 0, and x has degree 1": lambda x, fx: x + fx / _squared(x),
    "x over its length has degree 0, and f(x) has degree 2": lambda x, fx: x / _squared(x).sqrt() + fx,
    "x times x.x has degree 3, and f(x) has degree 2": lambda x, fx: x * (x @ x) + fx,
}


@exercise("02.6", "Open: a block that does not turn", *TURNING.values(), lambda x, fx: x, lambda x, fx: fx,
          lambda x, fx: (x + fx / x.norm()).abs(), lambda x, fx: x.sum())
def own_block(answer):
    layer, x = random_layer(55), random(4, seed=56)
    fx = apply(layer, x)
    y = as_tensor(answer(x, fx))
    assert y.shape == x.shape, f"Return a vector as long as x; yours has shape {tuple(y.shape)}."
    plane = torch.stack([x, fx], dim=1)
    weights = torch.linalg.lstsq(plane, y).solution
    compare(plane @ weights, y, "Your output leaves the plane of x and f(x): add a multiple of x and a multiple of f(x).")
    for weight, name in zip(weights, ("x", "f(x)")):
        assert abs(weight) > TOLERANCE, f"Both terms are wanted, but your output has no part along {name}."
    for a in (3.0, 0.2, 7.0):
        got = as_tensor(answer(a * x, a**2 * fx))
        mistakes = [mistake for mistake, wrong in TURNING.items() if near(y, wrong(x, fx))]
        hint = f"Likely mistake: {mistakes[0]}." if mistakes else "Give both terms the same degree."
        compare(got / got.norm(), y / y.norm(), f"At a = {a:g} your output has turned. {hint}")
