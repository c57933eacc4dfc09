"""Exercises of chapter 11: runs needed, leave-one-out residuals, pairing, an LDS with its interval, mislabelled digits."""

import torch

from tensorlm.notebook.checks import Exercise, cases, compare, exercise, random

runs_needed = Exercise("11.1", "How many runs?", cases(
    "point = {0}, interaction = {1}, rho = {2}: got {got}, expected {expected}. {hint}", lambda p, w, rho: rho / (1 - rho) * w / p, [
        ((1.0, 1.0, 0.8), "Solve p / (p + w/k) = rho for k."),
        ((0.5, 2.0, 0.8), "More interaction takes more runs, more of the point fewer: is the ratio upside down?"),
        ((1.0, 3.0, 0.5), "At rho = 1/2 the noise of the mean equals the signal: w/k = p."),
    ]),
    (lambda p, w, rho: rho * w / p, lambda p, w, rho: rho / (1 - rho) * p / w, lambda p, w, rho: (1 - rho) / rho * w / p))


@exercise("11.2", "Leave one out without training",
          lambda F, y, penalty: y - F @ torch.linalg.solve(F.T @ F + penalty * torch.eye(F.shape[1]).to(F), F.T @ y),
          lambda F, y, penalty: (y - F @ torch.linalg.solve(F.T @ F, F.T @ y)) / (1 - (F @ torch.linalg.inv(F.T @ F) @ F.T).diagonal()))
def left_out_residuals(answer):
    F, y = random(12, 4, seed=110), random(12, seed=111)
    for penalty in (0.5, 3.0):
        expected = []
        for i in range(len(y)):
            kept = torch.arange(len(y)) != i
            head = torch.linalg.solve(F[kept].T @ F[kept] + penalty * torch.eye(4).to(F), F[kept].T @ y[kept])
            expected.append(y[i] - F[i] @ head)
        ordinary = y - F @ torch.linalg.solve(F.T @ F + penalty * torch.eye(4).to(F), F.T @ y)
        compare(answer(F, y, penalty), torch.stack(expected), f"penalty = {penalty}: these are not the residuals of models trained "
                "without the example. Is the penalty in the hat matrix too?", {
                    "These are the ordinary residuals; each must still be divided by 1 - h_i.": ordinary})


@exercise("11.3", "Pair by seed",
          lambda full, without: (without.mean(0) - full.mean(), (without.var(0) + full.var()).sqrt() / len(full) ** 0.5),
          lambda full, without: (full[:, None] - without).mean(0),
          lambda full, without: ((without - full[:, None]).mean(0), (without - full[:, None]).std(0)))
def paired_effects(answer):
    full, without = random(6, seed=112), random(6, 5, seed=113) * 0.1
    without = without + full[:, None]
    found = answer(full, without)
    assert isinstance(found, tuple) and len(found) == 2, "Return two tensors: the mean effects and their standard errors."
    effects = without - full[:, None]
    compare(found[0], effects.mean(0), "The means are wrong: an effect is *without* minus *full*, of the same seed.")
    compare(found[1], effects.std(0) / 6**0.5, "The errors are not those of paired differences: take the deviation over seeds of "
            "(without - full), divided by the root of the number of seeds.")


def ranked(values):
    return values.argsort().argsort().double()


def spearman(one, other):
    return torch.corrcoef(torch.stack([ranked(one), ranked(other)]))[0, 1]


def ends(predicted, outcome, drawn, low: float = 0.025):
    """Quantiles of the rank correlations of subsets drawn again."""
    again = torch.stack([spearman(predicted[rows], outcome[rows]) for rows in drawn])
    return [again.quantile(share) for share in (low, 1 - low)]


@exercise("11.4", "An LDS with its interval",
          lambda scores, kept, outcome, drawn: (torch.corrcoef(torch.stack([(~kept).double() @ scores, outcome]))[0, 1],
                                                *ends((~kept).double() @ scores, outcome, drawn)),
          lambda scores, kept, outcome, drawn: (spearman(kept.double() @ scores, outcome), *ends(kept.double() @ scores, outcome, drawn)),
          lambda scores, kept, outcome, drawn: (spearman((~kept).double() @ scores, outcome),
                                                *ends((~kept).double() @ scores, outcome, drawn, 0.0)))
def lds_with_interval(answer):
    scores, seeds = random(30, seed=114), [torch.Generator().manual_seed(seed) for seed in (115, 117)]
    kept, drawn = torch.rand(60, 30, generator=seeds[0]) < 0.5, torch.randint(60, (400, 60), generator=seeds[1])
    predicted = (~kept).double() @ scores
    outcome = predicted.exp() + 0.5 * random(60, seed=116)
    expected = spearman(predicted, outcome)
    found = answer(scores, kept, outcome, drawn)
    assert isinstance(found, tuple) and len(found) == 3, "Return three numbers: the LDS and both ends of its interval."
    got, *found = (float(value) for value in found)
    assert abs(got + expected) > 1e-6, "The sign is turned over: scores predict what a removal does, so sum them over what is not kept."
    compare(torch.tensor(got, dtype=torch.float64), expected, f"got {got:.4f}, expected {float(expected):.4f}: "
            "is it the correlation of the ranks, and not of the values?")
    for one, other in zip(found, ends(predicted, outcome, drawn)):
        assert abs(one - other) < 0.02, (f"An end of the interval is {one:.3f}, expected about {float(other):.3f}: the 2.5 and 97.5 % "
                                         "quantiles of the LDS of each row of `drawn`, ranked anew.")


def planted(seed: int = 0):
    """600 digits as rows of 65 inputs, their labels, of which 20 are wrong, and which they are."""
    from sklearn.datasets import load_digits

    images, labels = (torch.as_tensor(part) for part in load_digits(return_X_y=True))
    images, labels = images[:600] - images[:600].mean(0), labels[:600].clone()
    x = torch.nn.functional.pad(images / images.square().sum(1).mean().sqrt(), (0, 1), value=1.0).float()
    wrong = torch.randperm(600, generator=torch.Generator().manual_seed(seed))[:20]
    labels[wrong] = (labels[wrong] + 1 + torch.arange(20) % 9) % 10
    return x, labels, set(wrong.tolist())


@exercise("11.5", "Find the mislabelled digits", lambda x, y: list(range(20)), lambda x, y: [0] * 20)
def suspects(answer):
    x, labels, wrong = planted()
    found = [int(index) for index in answer(x, labels)]
    assert len(found) == len(set(found)) == 20, f"Return 20 different indices, got {len(set(found))} different of {len(found)}."
    hits = len(set(found) & wrong)
    assert hits >= 10, f"{hits} of your 20 are mislabelled, wanted are at least 10. By chance it would be about one."


