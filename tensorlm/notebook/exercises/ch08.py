"""Exercises of chapter 08: one head, its recurrent state, where the recurrence pays, a lifted layer, roots, a head by hand."""

from itertools import count, product

import torch
from einops import einsum

from tensorlm.notebook.checks import DTYPE, Exercise, answered, apply, as_factors, as_tensor, cases, compare, exercise, random

# Random q1, k1, q2, k2, v of shape (time, size); constants c_ij = factor^(i - j), zero above the diagonal; and a head.
_head = lambda time, size, seed: [random(time, size, seed=seed + number) for number in range(5)]
_fading = lambda time, factor: (as_tensor(factor) ** (torch.arange(time)[:, None] - torch.arange(time)).clamp(min=0)).tril()
_attend = lambda q1, k1, q2, k2, v, *, c: (c * (q1 @ k1.mT) * (q2 @ k2.mT)) @ v


@exercise("08.1", "One head",
          lambda q1, k1, q2, k2, v, c: ((q1 @ k1.mT) * (q2 @ k2.mT)) @ v,
          lambda q1, k1, q2, k2, v, c: (torch.softmax(q1 @ k1.mT, -1) * (q2 @ k2.mT) * c) @ v,
          lambda q1, k1, q2, k2, v, c: ((q1 @ k1.mT) @ (q2 @ k2.mT) * c) @ v,
          lambda q1, k1, q2, k2, v, c: (c * (q1 @ k1.mT + q2 @ k2.mT)) @ v)
def one_head(answer):
    given, c = _head(5, 3, seed=1), _fading(5, torch.tensor(-0.3, dtype=DTYPE).exp())
    compare(answer(*given, c), _attend(*given, c=c),
            "Not the bilinear head: the two scores are multiplied with each other and with c, entry by entry, and the result multiplies "
            "the values. Nothing is exponentiated or divided.",
            {"Position 0 sees the future: the constants c_ij are missing, and they are zero above the diagonal.":
             _attend(*given, c=torch.ones_like(c))}, each="One output for each position")


def _step(state, q1, k1, q2, k2, v, fade, *, read_first=False, fade_all=False):
    written = einsum(k1, k2, v, "a, b, c -> a b c")
    new = fade * (state + written) if fade_all else fade * state + written
    return new, einsum(q1, q2, state if read_first else new, "a, b, a b c -> c")


@exercise("08.2", "One token at a time", lambda *given: _step(*given, read_first=True), lambda *given: _step(*given, fade_all=True),
          lambda state, q1, k1, q2, k2, v, fade: _step(state, q1, k1, q2, k2, v, 1.0))
def one_token(answer):
    heads = _head(6, 3, seed=11)
    expected, state = _attend(*heads, c=_fading(6, 0.8)), torch.zeros(3, 3, 3, dtype=DTYPE)
    for i in range(6):
        result = answer(state, *(part[i] for part in heads), 0.8)
        assert isinstance(result, tuple | list) and len(result) == 2, "Return two things: the new state and the output."
        state, z = map(as_tensor, result)
        assert state.shape == (3, 3, 3), ("The state has one axis for k1, one for k2 and one for the values; "
                                          f"got shape {tuple(state.shape)}.")
        assert z.shape == (3,), f"The output has the size of a value, got shape {tuple(z.shape)}."
        hint = ("A token reads its own key too, and unfaded: write first, then read." if i == 0
                else "Does the old state fade by the factor at each step, and only the old one?")
        compare(z, expected[i], f"Position {i}: not what attention over all keys so far gives. {hint}")


_pays_from = lambda size: next(n for n in count(1) if n * (2 * size**3 + 2 * size**2) < n**2 / 2 * (3 * size + 1))
pays_from = Exercise("08.3", "From when on does it pay?", cases(
    "Head size {0}: got {got}, expected {expected}. {hint}", _pays_from,
    [((size,), "Set n(2d^3 + 2d^2) equal to n^2 (3d + 1) / 2 and solve for n.") for size in (8, 16, 32, 64)],
    fits=lambda got, expected: abs(got - expected) <= 1),
    (lambda size: size**2, lambda size: 2 * size**2, lambda size: 2 * (2 * size**3 + 2 * size**2)))


def _lifted(D, L, R, b, c, e):
    constant = torch.eye(1, 1 + L.shape[1], dtype=DTYPE)
    left, right = (torch.cat([torch.cat([bias[:, None], encoder], 1), constant]) for bias, encoder in ((b, L), (c, R)))
    return torch.cat([D, e[:, None]], 1), left, right


_lifted_then = lambda change: lambda *given: change(*_lifted(*given))


@exercise("08.4", "Biases, lifted", _lifted_then(lambda D, L, R: (D[:, :-1], L[:-1], R[:-1])),
          _lifted_then(lambda D, L, R: (D, L.roll(-1, 1), R.roll(-1, 1))), lambda D, L, R, b, c, e: _lifted(D, L, R, b, b, e))
def lifted(answer):
    D, L, R = random(2, 4, seed=20), random(4, 3, seed=21), random(4, 3, seed=22)
    b, c, e = random(4, seed=23), random(4, seed=24), random(2, seed=25)
    D2, L2, R2 = as_factors(answer(D, L, R, b, c, e))
    assert L2.shape == R2.shape and L2.shape[1] == 4, (
        f"The encoders read (1, x), 4 numbers here; got {tuple(L2.shape)} and {tuple(R2.shape)}.")
    assert D2.shape == (2, L2.shape[0]), f"D needs a column for each of your {L2.shape[0]} units, got shape {tuple(D2.shape)}."
    for x in random(4, 3, seed=26):
        got, expected = apply((D2, L2, R2), torch.cat([torch.ones(1, dtype=DTYPE), x])), D @ ((L @ x + b) * (R @ x + c)) + e
        compare(got, expected, "The lifted layer gives other outputs: b and c are the weights of the constant, in its column.",
                {"The output bias e is missing: one more unit reads the constant on both sides.": expected - e})


is_ratio = Exercise("08.5", "Does a root stay?", cases(
    "reads = {0}: you said {got}, and it is {expected}. {hint}", lambda reads: all(number % 2 == 0 for number in reads), [
        (([2],), "A bilinear layer."), (([2, 0],), "A bilinear layer and a constant."), (([4, 2],), "Even counts only."),
        (([2, 1, 1, 0],), "A bilinear layer with input biases has terms that read once."), (([2, 3],), "One of the terms is odd."),
        (([5],), "Five is odd."),
    ], kind=bool),
    (lambda reads: sum(reads) % 2 == 0, lambda reads: any(number % 2 == 0 for number in reads), lambda reads: max(reads) % 2 == 0))

KINDS_OF_TOKENS = as_tensor([[1, *bits] for bits in product((0, 1), repeat=3)])  # constant, verb, noun, plural
_VERB, _NOUN, _PLURAL = ([[0, 1, 0, 0]], [[0, 0, 1, 0]], [[0, 0, 0, 1]])
_ONE = [[1, 0, 0, 0]]


def _scores(q1, k1, q2, k2):
    tokens = KINDS_OF_TOKENS
    return ((tokens @ q1.mT) @ (tokens @ k1.mT).mT) * ((tokens @ q2.mT) @ (tokens @ k2.mT).mT)


_right = _scores(*map(as_tensor, (_VERB, _NOUN, _ONE, _PLURAL)))


@exercise("08.6", "Open: a head that reads plural nouns",
          (_NOUN, _VERB, _ONE, _PLURAL), (_VERB, _NOUN, _PLURAL, _ONE), (_VERB, _NOUN, _ONE, _ONE), (_VERB, _PLURAL, _ONE, _PLURAL))
def own_head(answer):
    assert isinstance(answer, tuple | list) and len(answer) == 4, "Give four matrices as a tuple (q1, k1, q2, k2)."
    matrices = [as_tensor(answered(matrix)) for matrix in answer]
    for name, matrix in zip(("q1", "k1", "q2", "k2"), matrices):
        assert matrix.ndim == 2 and matrix.shape[1] == 4, (
            f"{name} reads rows (1, verb, noun, plural): it needs four columns, got shape {tuple(matrix.shape)}.")
    for query, key in (matrices[:2], matrices[2:]):
        assert len(query) == len(key), f"A query and its key have one size, got {len(query)} and {len(key)}."
    q1, k1, q2, k2 = matrices
    compare(_scores(q1, k1, q2, k2), _right,
            "Not that rule: the product must be 1 if the reader is a verb and the word read is a noun and a plural, and 0 else.",
            {"Queries and keys have changed places: here plural nouns read verbs, or nouns read verbs.": _right.mT,
             "Here the reader has to be plural. Is the plural asked of a query, in place of a key?":
             _scores(*map(as_tensor, (_VERB, _NOUN, _PLURAL, _ONE)))})
