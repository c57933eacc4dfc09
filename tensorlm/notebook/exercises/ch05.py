"""Exercises of chapter 05: a fading norm, a folded constant, the degree of a model, a degree read off coefficients, a search."""

import torch

from tensorlm.notebook.checks import Exercise, apply, as_tensor, cases, compare, exercise, near, random

ENDS = ((0.2, 1.4), (0.5, 3.5))  # (1, 7) divided by its size 5, and by the constant 2
MISTAKES = {
    "At a = 0 divide by the root of the mean of the squares, which is 5; you divided by the length, the root of their sum.":
        ((1 / 50**0.5, 7 / 50**0.5), ENDS[1]),
    "At a = 0 divide by the root of the mean of the squares, which is 5; you divided by the mean itself.": ((1 / 25, 7 / 25), ENDS[1]),
    "The two ends are swapped: a = 0 is the norm, a = 1 the constant.": ENDS[::-1],
    "At a = 1 only the division by c is left; you divided by r as well.": (ENDS[0], (0.1, 0.7)),
}


@exercise("05.0", "Warm-up: both ends of the dial", *MISTAKES.values(), ((1.0, 7.0), (0.5, 3.5)))
def ends_of_dial(answer):
    compare(answer, ENDS, "At a = 0 each number is divided by r, at a = 1 by c.", MISTAKES, "ends, features")


_size = lambda x: x.square().mean(-1, keepdim=True).sqrt()
_faded = lambda x, c, a: x * _size(x) ** (a - 1) * c**-a


@exercise("05.1", "A norm that fades",
          lambda x, c, a: x / ((1 - a) * _size(x) + a * c),
          lambda x, c, a: x * x.square().mean().sqrt() ** (a - 1) * c**-a,
          lambda x, c, a: x * _size(x) ** -a * c ** (a - 1),
          lambda x, c, a: x * x.norm(dim=-1, keepdim=True) ** (a - 1) * c**-a,
          lambda x, c, a: x / _size(x))
def fading_norm(answer):
    x = random(5, 4, seed=1) * torch.tensor([[1.0], [2.0], [0.5], [3.0], [1.0]])
    compare(answer(x, 1.7, 0.0), _faded(x, 1.7, 0.0),
            "At a = 0 it is RMSNorm: each token (row) is divided by the root of the mean of its squares, and comes out with a mean "
            "square of 1.")
    compare(answer(2 * x, 1.7, 1.0), 2 * answer(x, 1.7, 1.0),
            "At a = 1 nothing depends on the token any more: doubling x must double the result.")
    compare(answer(x, 1.7, 1.0), x / 1.7, "At a = 1 nothing but the division by c is left.")
    compare(answer(x, 1.7, 0.3), _faded(x, 1.7, 0.3),
            "Right at both ends, wrong between: the two sizes are multiplied as powers, r^(1-a) c^a, not mixed.")


@exercise("05.2", "A constant, folded",
          lambda D, L, R, c: (D / c, L, R), lambda D, L, R, c: (D, L * c, R * c), lambda D, L, R, c: (D / c, L / c, R / c))
def folded(answer):
    factors, x = (random(3, 5, seed=2), random(5, 4, seed=3), random(5, 4, seed=4)), random(7, 4, seed=5)
    for c in (2.0, 0.3):
        result = answer(*factors, c)
        assert isinstance(result, tuple | list) and len(result) == 3, "Return three matrices: D, L, R."
        assert [new.shape for new in result] == [old.shape for old in factors], "The factors keep their shapes: a constant needs no room."
        got, expected = apply(result, x), apply(factors, x / c)
        hint = ("The layer reads its input twice." if near(got * c, expected) or near(got / c, expected)
                else "Which power of c does f(x / c) carry?")
        compare(got, expected, f"c = {c}: the new layer at x is not the old layer at x / c. {hint}")


degree = Exercise("05.3", "How high a degree?", cases(
    "{0} layers, {1} encoders: you said {got}, and it is {expected}. {hint}", lambda layers, encoders: (5 * encoders) ** layers, [
        ((1, 2), "One layer: attention reads its input five times, the MLP squares that."),
        ((2, 2), "Layers multiply; they do not add."), ((2, 1), "One encoder is a linear MLP."),
        ((3, 2), "Three layers."), ((2, 3), "Three encoders multiply three inputs."),
    ], kind=int),
    (lambda layers, encoders: (5 + encoders) ** layers, lambda layers, encoders: 5 * encoders * layers,
     lambda layers, encoders: 10**layers))


@exercise("05.4", "Read a degree",
          lambda c, tolerance: len(c) - 1,
          lambda c, tolerance: int((c.abs() > tolerance).nonzero().max()),
          lambda c, tolerance: int((c.abs() > tolerance * c.abs().max()).sum()) - 1,
          lambda c, tolerance: int((c > tolerance * c.abs().max()).nonzero().max()))
def measured(answer):
    exact = as_tensor([1.0, -0.5, 0.0, 1e-3, -1e-7, 1e-15, -2e-16])
    for coefficients, expected, hint in (
            (exact, 4, "Entries of 1e-15 are rounding error, and one that happens to be 0 in between does not end the series."),
            (1e12 * exact, 4, "Rounding error is relative: it grows with the largest coefficient."),
            (torch.tensor([3.0, 0.0]), 0, "A constant has degree 0."),
            (torch.tensor([0.0, 0.0, -2.0]), 2, "The sign of a coefficient does not matter.")):
        got = int(answer(coefficients, 1e-12))
        assert got == expected, (f"coefficients {[f'{value:.0e}' for value in coefficients.tolist()]}: you said {got}, "
                                 f"and it is {expected}. {hint}")


LENGTH, COUNT, CALLS = 12, 30, 1200


def _largest(seed: int):
    """A function of LENGTH words that grows like a power of them: |(l . x)(m . x)(n . x)|, x a sum of rows by place and word."""
    rows, readers = random(LENGTH, COUNT, 6, seed=seed), random(3, 6, seed=seed + 1)
    places = torch.arange(LENGTH)
    return lambda words: float((readers @ rows[places, torch.as_tensor(words)].sum(0)).prod().abs())


def _random_list(size, length, count, calls):
    draw = torch.Generator().manual_seed(7)
    tries = torch.randint(count, (calls, length), generator=draw).tolist()
    return max(tries, key=size)


def _one_word(size, length, count, calls):
    return max(([word] * length for word in range(count)), key=size)


def _first_place_only(size, length, count, calls):
    return max(([word] + [0] * (length - 1) for word in range(count)), key=size)


@exercise("05.5", "Open: a search of your own", _random_list, _one_word, _first_place_only,
          lambda size, length, count, calls: [0] * length,
          lambda size, length, count, calls: [0] * (length + 1),
          lambda size, length, count, calls: [count] * length,
          lambda size, length, count, calls: max(([word % count] * length for word in range(calls + 1)), key=size))
def search(answer):
    for seed in (104, 128, 148):
        size, asked = _largest(seed), [0]

        def counted(words, size=size, asked=asked):
            asked[0] += 1
            assert asked[0] <= CALLS, f"You asked for a size {asked[0]:,} times, and {CALLS:,} are allowed: count with `calls`."
            _require_words(words)
            return size(words)

        found = answer(counted, LENGTH, COUNT, CALLS)
        _require_words(found)
        chance = size(_random_list(size, LENGTH, COUNT, CALLS))
        assert size(found) >= 3 * chance, (
            f"Your list reaches {size(found):,.0f}, and the best of {CALLS:,} random lists {chance:,.0f}: three times that is wanted. "
            "Keep a change of one word if it helps, and go on from there.")


def _require_words(words):
    fits = len(words) == LENGTH and all(0 <= int(word) < COUNT for word in words)
    assert fits, f"A list of {LENGTH} numbers from 0 to {COUNT - 1} is wanted, got {list(words)}."
