"""Exercises of chapter 01: a gate, factors, counting monomials, the symmetric table, test sets, a constant input, the law, bits."""

import math

import torch
from torch import Tensor

from tensorlm.notebook.checks import DTYPE, answered, apply, as_factors, as_tensor, compare, exercise, near, random, third_order


def _factors(answer, inputs: int, outputs: int, most_units: int) -> list[Tensor]:
    """The three factors as tensors. Raises AssertionError unless they fit together with these sizes."""
    factors = as_factors(answer)
    h = factors[1].shape[0]
    wanted, got = ((outputs, h), (h, inputs), (h, inputs)), tuple(tuple(factor.shape) for factor in factors)
    assert got == wanted, (f"The shapes (D, L, R) are {got}; with {h} units they must be {wanted}: one row of D an output, "
                           "one row of L and R a unit.")
    assert h <= most_units, (f"You use {h} hidden units, {most_units} are allowed: can one product of two different readings "
                             "do the work of two?")
    return factors


def _likely(wrong, fits) -> str:
    return next((f" Likely mistake: {mistake}." for mistake, formula in wrong.items() if fits(formula)), "")


@exercise("01.0", "Warm-up: one row",
          [0, 0, 1], [1, 0, 0], [0, 1, -1], [1, -1, 0], [1, 0, 1], [-1, 0, 1], [1, 0])
def one_row(answer):
    row = as_tensor(answered(answer)).reshape(-1)
    assert row.shape == (3,), f"Give three weights, one for each hidden unit; you gave {len(row)}."
    for a, b in ((0, 0), (1, 0), (0, 1), (1, 1)):
        got = float(row @ as_tensor([a, b, a * b]))
        assert near(got, a * (1 - b)), (f"For x1 = {a}, x2 = {b} your row gives {got:g}, and {a * (1 - b)} is wanted. "
                                        f"The three units are {a}, {b} and {a * b} there.")


@exercise("01.1", "Two units, two outputs",
          ([[1, 0], [0, 1]], [[1, 0], [1, -1]], [[0, 1], [1, -1]]),                           # (x1 - x2)^2
          ([[1, 0], [0, 1]], [[1, 0], [1, 1]], [[0, 1], [-1, 1]]),                            # the other sign
          ([[0, 1], [1, 0]], [[1, 0], [1, 1]], [[0, 1], [1, -1]]),                            # rows of D swapped
          ([[1, 0, 0], [0, 1, -1]], [[1, 0], [1, 0], [0, 1]], [[0, 1], [1, 0], [0, 1]]),      # one unit too many
          ([[1, 0], [0, 1]], [[1, 1], [1, 1]], [[1, 1], [1, -1]]),                            # (x1 + x2)^2 for x1 x2
          ([[1, 0], [0, 1]], [[1, 1], [0, 1]], [[0, 1], [1, -1]]),                            # L and R swapped in one entry
          ([[1, 0], [0, 1], [0, 0]], [[1, 0], [1, 1]], [[0, 1], [1, -1]]))                    # D does not fit
def two_units(answer):
    factors, x = _factors(answer, inputs=2, outputs=2, most_units=2), random(20, 2, seed=0)
    (first, second), (a, b) = apply(factors, x).T, x.T
    product, squares = a * b, a**2 - b**2
    assert not (near(first, squares) and near(second, product)), "Both functions are there, in the wrong order: swap the rows of D."
    compare(first, product, "The first output is not x1 x2: one unit must read x1 on one side and x2 on the other.")
    assert not near(second, -squares), "The second output is x2^2 - x1^2: change the sign of one reading, or of one entry of D."
    assert not near(second, (a - b) ** 2) and not near(second, (a + b) ** 2), (
        "The second output is a square: L and R read the same thing in that unit, and a difference of squares needs two "
        "different readings.")
    compare(second, squares, "The second output is not x1^2 - x2^2: multiply it out, and mind the signs of the cross terms.")


MISCOUNTS = {
    "x1 x2 and x2 x1 are counted twice": lambda d, k: d**k,
    "squares and other repeated factors are left out": math.comb,
    "the formula is right for k = 2 only": lambda d, k: d * (d + 1) // 2,
    "lower degrees are counted as well": lambda d, k: math.comb(d + k, k),
}


@exercise("01.2", "How many monomials?", *MISCOUNTS.values(), lambda d, k: d**k // math.factorial(k))
def monomials(answer):
    sizes = ((2, 2), (4, 2), (3, 3), (64, 2), (5, 4))
    given = {(d, k): answer(d, k) for d, k in sizes}
    hint = _likely(MISCOUNTS, lambda wrong: all(given[size] == wrong(*size) for size in sizes)) or " Write them all out for d = 2, k = 2."
    for (d, k), got in given.items():
        expected = math.comb(d + k - 1, k)
        assert got == expected, f"d = {d}, k = {k}: got {got}, expected {expected}.{hint}"


_mirrored = lambda D, L, R: third_order(D, R, L)
TABLES = {
    "that is T as it stands, and T[o, i, j] differs from T[o, j, i]": third_order,
    "the sum of T and its mirror image is symmetric, but gives 2 f(x)": lambda *layer: third_order(*layer) + _mirrored(*layer),
    "the difference of T and its mirror image is the part that does nothing at all":
        lambda *layer: (third_order(*layer) - _mirrored(*layer)) / 2,
    "the entries below the diagonal were dropped, so the function changed": lambda *layer: third_order(*layer).triu(),
    "the entries below the diagonal were folded upwards: the function is right, but the table is not symmetric":
        lambda *layer: third_order(*layer).triu() + _mirrored(*layer).triu(1),
}


@exercise("01.3", "One table for one function", *TABLES.values(),
          lambda D, L, R: third_order(D, L + R, L + R) / 2, lambda *layer: third_order(*layer).permute(1, 2, 0))
def symmetric(answer):
    layer = random(3, 6, seed=1), random(6, 4, seed=2), random(6, 4, seed=3)
    got = as_tensor(answer(*layer))
    assert got.shape == (3, 4, 4), f"The table has shape {tuple(got.shape)}; for 3 outputs and 4 inputs it must be (3, 4, 4): output first."
    compare(got, got.mT, "The table is not symmetric in its last two indices: compare S[o, i, j] with S[o, j, i].",
            {f"Likely mistake: {mistake}.": table(*layer) for mistake, table in TABLES.items()})
    compare(got, (third_order(*layer) + _mirrored(*layer)) / 2,
            "The table is symmetric, but it is not the table of this layer: contract it with x twice and compare with f(x).")


MISTAKES = {
    "the formula has a square root, so the error must be squared": lambda p, e: p * (1 - p) / e,
    "the factor 1 - p is missing": lambda p, e: p / e**2,
    "the factor p is missing": lambda p, e: (1 - p) / e**2,
    "the square root was taken of p (1 - p) and not undone": lambda p, e: math.sqrt(p * (1 - p)) / e**2,
    "this ratio must be squared, since the error falls only with the square root of n": lambda p, e: math.sqrt(p * (1 - p)) / e,
    "the factor 2 belongs to a difference of two layers; here one accuracy is asked for": lambda p, e: 2 * p * (1 - p) / e**2,
}


@exercise("01.4", "How many images would it take?",
          *((lambda p, e, formula=formula: math.ceil(formula(p, e))) for formula in MISTAKES.values()))
def images(answer):
    for p, e in ((0.96, 0.005), (0.5, 0.01), (0.9, 0.03)):
        got, expected = answer(p, e), p * (1 - p) / e**2
        hint = _likely(MISTAKES, lambda wrong: abs(got - wrong(p, e)) <= 1) or " Is the result a whole number, rounded up?"
        right = abs(got - math.ceil(expected)) <= 1e-9 * expected or abs(got - expected) <= 1 and got == int(got)
        assert right, f"accuracy = {p}, error = {e}: got {got}, expected {math.ceil(expected - 1e-6)}.{hint}"


_D, _L, _R = ([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, -1]],
              [[1, 0, 0], [1, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 1, 0], [0, 0, 1], [1, 0, 0], [0, 0, 1]])


@exercise("01.5", "A constant repairs it",
          (_D, [[0, 1, 0], [0, 0, 1], [1, 0, 0], [0, 1, 0]], _R),                              # x1 x1 and x2 x2: bits only
          ([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]], _L, _R),                                # AND
          ([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, -1]], _L, _R),                               # no 1
          ([[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, -1]], _L, _R),                               # swapped
          ([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, -2]], _L, _R),                               # 1 - 2 x1 x2
          (_D, [row[1:] for row in _L], [row[1:] for row in _R]),                              # without the constant
          ([[1, 0, 0, 0], [0, 1, 0, 0], [1, 1, 1, -1]], _L, _R))                               # 1 + x1 + x2 - x1 x2
def lifted(answer):
    factors = _factors(answer, inputs=3, outputs=3, most_units=6)
    f = lambda x: apply(factors, torch.cat([torch.ones(len(x), 1, dtype=DTYPE), x], dim=1))
    wanted = lambda x: torch.stack([x[:, 0], x[:, 1], 1 - x[:, 0] * x[:, 1]], dim=1)
    bits, x = as_tensor([[0, 0], [0, 1], [1, 0], [1, 1]]), random(20, 2, seed=4)
    got, expected = f(x), wanted(x)
    assert not near(f(bits), wanted(bits)) or near(got, expected), (
        "Right on bits, wrong on other numbers: x1 x1 equals x1 for 0 and 1 only. Multiply x1 by the constant instead.")
    assert not near(got[:, 2], x.prod(1)), "The third output is AND, not NAND: it lacks 1 and a minus sign."
    assert not near(got[:, 2], -x.prod(1)), "The third output is -x1 x2, so the 1 is missing: the unit 1 times 1 makes it."
    compare(got[:, :2], x, "The first two outputs are not x1 and x2: each needs a unit that reads the constant on one side.",
            {"The first two outputs are swapped: swap two rows of D.": x.flip(1)})
    compare(got, expected, "The third output is not 1 - x1 x2: which unit gives 1, and which one x1 x2?")


_LAYER = random(3, 5, seed=5), random(5, 4, seed=6), random(5, 4, seed=7)
LAWFUL = {  # functions of x (n, 4), whether they are a table, and what a wrong verdict has overlooked
    "a bilinear layer": (lambda x: apply(_LAYER, x), True, "Rounding makes the two sides differ in the last digits: allow for that."),
    "a large bilinear layer": (lambda x: 1e6 * apply(_LAYER, x), True, "Compare the difference with the size of the values."),
    "a bilinear layer, 1 added": (lambda x: apply(_LAYER, x) + 1, False, "It is even, but it is not 0 at 0."),
    "the identity": (lambda x: x, False, "Its degree is 1. Are both sides of the law as in the text, with both factors 2?"),
    "squared ReLU": (lambda x: x.relu() ** 2, False, "It does obey f(2x) = 4 f(x), but that alone is not the law."),
    "|x1 x2|": (lambda x: x[:, :2].prod(1, keepdim=True).abs(), False,
                "It obeys f(-x) = f(x) and f(2x) = 4 f(x), but these do not make a table."),
}
_close = lambda got, expected: bool((got - expected).norm() <= 1e-9 * expected.norm())
_u, _v = random(50, 4, seed=8), random(50, 4, seed=9)


@exercise("01.6", "Is it a table?",
          lambda f: True, lambda f: False,
          lambda f: _close(f(-_u), f(_u)),                                                      # even
          lambda f: _close(f(2 * _u), 4 * f(_u)),                                               # homogeneous
          lambda f: _close(f(2 * _u), 4 * f(_u)) and _close(f(-_u), f(_u)),                     # both
          lambda f: torch.equal(f(_u + _v) + f(_u - _v), 2 * f(_u) + 2 * f(_v)),                # no rounding allowed for
          lambda f: bool((f(_u + _v) + f(_u - _v) - 2 * f(_u) - 2 * f(_v)).norm() < 1e-9),      # absolute
          lambda f: _close(f(_u + _v) + f(_u - _v), f(_u) + f(_v)))                             # the factors 2 forgotten
def lawful(answer):
    for name, (f, expected, hint) in LAWFUL.items():
        got = answer(f)
        assert isinstance(got, bool), f"Give True or False; for {name} you gave {got!r}. `bool(...)` makes one of a tensor."
        assert got == expected, f"For {name} you say {got}. {hint}"


@exercise("01.7", "Open: a gate of your own",
          ([[1]], [[1, -1, 0]], [[1, -1, 0]]),                                                  # XOR: ignores x3
          ([[1, 1]], [[1, 0, 0], [0, 0, 1]], [[0, 1, 0], [0, 0, 1]]),                           # x1 x2 + x3: 2 at (1, 1, 1)
          ([[1, 1, -1]], [[1, 0, 0], [0, 1, 0], [0, 0, 1]], [[1, 0, 0], [0, 1, 0], [0, 0, 1]]),
          ([[0, 0]], [[0, 1, 0], [0, 0, 1]], [[0, 1, 0], [1, -1, 0]]),                          # 0 everywhere
          ([[1, 1]], [[0, 1], [1, 0]], [[0, 1], [1, -1]]))                                      # two inputs
def own_gate(answer):
    factors = _factors(answer, inputs=3, outputs=1, most_units=2)
    bits = torch.cartesian_prod(*[as_tensor([0, 1])] * 3)
    got = apply(factors, bits)[:, 0]
    for x, value in zip(bits.int().tolist(), got.tolist()):
        assert min(abs(value), abs(value - 1)) < 1e-9, f"At {tuple(x)} your gate gives {value:g}, which is neither 0 nor 1."
    for i in range(3):
        flipped = bits.clone()
        flipped[:, i] = 1 - flipped[:, i]
        assert not near(apply(factors, flipped)[:, 0], got), f"Your gate does not depend on x{i + 1}: flipping it never changes the output."
