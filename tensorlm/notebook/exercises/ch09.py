"""Exercises of chapter 09: the cross term from runs, the strength of return, the token table, five runs, a vector that tips."""

from torch import Tensor

from tensorlm.notebook.checks import apply, as_tensor, compare, exercise, random, random_layer

_polar = lambda D, L, R, u, v: ((u @ L.mT) * (v @ R.mT) + (v @ L.mT) * (u @ R.mT)) @ D.mT / 2


@exercise("09.1", "The cross term from three runs",
          lambda fx, fs, both: both - fx, lambda fx, fs, both: (both - fx - fs) / 2, lambda fx, fs, both: fx + fs,
          lambda fx, fs, both: both + fx - fs)
def cross_term(answer):
    for seed in (1, 11, 21):
        factors, x, s = random_layer(seed), random(4, seed=seed + 5), random(4, seed=seed + 6)
        cross, fs = 2 * _polar(*factors, x, s), apply(factors, s)
        mistakes = {"This is B(x, s) itself: the cross term at strength 1 is twice that.": cross / 2,
                    "The self term is still in it: at strength 1 it is f(s), a run of its own.": cross + fs}
        compare(answer(apply(factors, x), fs, apply(factors, x + s)), cross,
                "Not 2B(x, s): write out f(x + s) as three terms. Two of them are runs that you have.", mistakes,
                each="One number for each output")


_return = lambda D, L, R, x, s, u: -2 * (_polar(D, L, R, x, s) @ u) / (apply((D, L, R), s) @ u)


@exercise("09.2", "Where the change returns",
          lambda *given: -_return(*given), lambda *given: _return(*given) / 2, lambda *given: 0.0, lambda *given: 1.0)
def strength_of_return(answer):
    for seed in (31, 41, 51):
        given = [*random_layer(seed), *(random(4, seed=seed + n) for n in (5, 6, 7))]
        got, expected = float(answer(*given)), float(_return(*given))
        assert got != 0, "At strength 0 nothing has changed yet: the other root is wanted."
        assert abs(got + expected) > 1e-9 * abs(expected), "The sign is turned: cross and self term must cancel, not agree."
        assert abs(got - expected / 2) > 1e-9 * abs(expected), (
            "This is where the push is largest, half way to the return, or a factor 2 of the cross term is missing.")
        assert abs(got - expected) <= 1e-9 * abs(expected), (
            f"Got {got:.4f}, expected {expected:.4f}. The change along u is 2a u.B(x, s) + a^2 u.f(s); divide by a and set it to 0.")


_pushes = lambda D, L, R, rows, s, u: 2 * _polar(D, L, R, s, rows) @ u
_one_sided = lambda D, L, R, rows, s, u: 2 * ((s @ L.mT) * (rows @ R.mT)) @ D.mT @ u


@exercise("09.3", "The token table",
          lambda *given: _pushes(*given) / 2, _one_sided,
          lambda D, L, R, rows, s, u: (apply((D, L, R), rows + s) - apply((D, L, R), rows)) @ u,
          lambda D, L, R, rows, s, u: 2 * _polar(D, L, R, s, rows))
def token_table(answer):
    for seed in (61, 71):
        given = [*random_layer(seed), random(7, 4, seed=seed + 5), random(4, seed=seed + 6), random(4, seed=seed + 7)]
        expected = _pushes(*given)
        compare(answer(*given), expected, "Not u . 2B(s, row) for each row. Is the self term in it, which is the same for every token?",
                {"Half of it: the cross term at strength 1 is 2B(s, row).": expected / 2,
                 "Only one half of the polar form: s must be read by L and by R, and the row by the other one.": _one_sided(*given)},
                each="One number for each token")


def _three(run, alpha):
    minus, zero, plus = run(-1.0), run(0.0), run(1.0)
    return zero + alpha * (plus - minus) / 2 + alpha**2 * ((plus + minus) / 2 - zero)


@exercise("09.4", "Five runs predict them all",
          _three, lambda run, alpha: run(alpha), lambda run, alpha: run(0.0) + alpha * (run(1.0) - run(0.0)),
          lambda run, alpha: sum(run(float(n)) for n in range(6)))
def five_runs(answer):
    for seed, alpha in ((81, 3.7), (91, -2.6), (101, 0.35)):
        lower, upper, x, s = random_layer(seed), random_layer(seed + 3), random(4, seed=seed + 8), random(4, seed=seed + 9)
        asked: list[float] = []

        def run(strength: float) -> Tensor:
            asked.append(float(strength))
            z = x + float(strength) * s
            z = z + apply(lower, z)
            return z + apply(upper, z)

        got = as_tensor(answer(run, alpha))
        assert alpha not in asked, f"You ran the network at {alpha}, the strength to predict."
        assert len(set(asked)) <= 5, f"Five strengths are enough, and you ran {len(set(asked))}."
        expected = run(alpha)
        assert got.shape == expected.shape, f"Return the whole output, shape {tuple(expected.shape)}; got {tuple(got.shape)}."
        assert (got - expected).norm() <= 1e-7 * expected.norm(), (
            "Not the output at that strength: two layers are a polynomial of degree 4, with five coefficients, so five different "
            "strengths are needed.")


def _tips_at(D, L, R, x, u, at):
    """The first direction of random ones along which the read-out has a root, scaled so that the root lies at `at`."""
    lead = lambda z: u @ apply((D, L, R), z)
    for seed in range(1000):
        s = random(len(x), seed=seed)
        cross = 2 * _polar(D, L, R, x, s) @ u
        inside = cross**2 - 4 * lead(s) * lead(x)
        if inside > 0:
            return (inside.sqrt() - cross) / (2 * lead(s)) / at * s
    raise ValueError("no direction among 1000 has a root")


def _by_slope(D, L, R, x, u, at):
    """What the slope at strength 0 alone would give."""
    s = x + 1.0
    return -(u @ apply((D, L, R), x)) / (2 * _polar(D, L, R, x, s) @ u) / at * s


@exercise("09.5", "Open: a vector that tips where you say", _by_slope, lambda *given: -_tips_at(*given),
          lambda D, L, R, x, u, at: _tips_at(D, L, R, x, u, 1.0), lambda D, L, R, x, u, at: 0 * x)
def own_vector(answer):
    for seed, at in ((111, 0.5), (121, 2.0), (131, -1.5)):
        D, L, R = random_layer(seed)
        x, u = random(4, seed=seed + 5), random(4, seed=seed + 6)
        s = as_tensor(answer(D, L, R, x, u, at))
        assert s.shape == x.shape, f"The vector is added to x: shape {tuple(x.shape)}, got {tuple(s.shape)}."
        assert s.norm() > 0, "This is the zero vector: nothing changes at any strength."

        def tips(strength: float) -> bool:
            left, right = (u @ apply((D, L, R), x + strength * (1 + step) * s) for step in (-1e-6, 1e-6))
            return bool(left * right < 0)

        assert not tips(-at), f"It tips at {-at:g}, and {at:g} was asked for: turn the vector round."
        assert not tips(1.0), f"It tips at 1, and {at:g} was asked for: a vector that is c times as long tips at 1/c."
        assert tips(at), (f"No change of sign at {at:g}. Is the self term in your equation? The strength is a root of a quadratic: "
                          "u.f(x) + a u.2B(x, s) + a^2 u.f(s).")
