"""The studies behind the chapter on data attribution: `python -m tensorlm.data_attribution NAME --out FOLDER --release`."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from tensorlm.data.toy import ToyData
from tensorlm.data.toy.language import RULES
from tensorlm.data_attribution import documents, modular
from tensorlm.data_attribution.bank import Classifiers, Examples, Recipe, centred_digits, outcomes, train_bank, trajectory
from tensorlm.data_attribution.bayesian import Langevin, bayesian_influence
from tensorlm.data_attribution.influence import influence, similarity, tracin, trak
from tensorlm.data_attribution.lds import draw_subsets, lds, lds_ceiling
from tensorlm.data_attribution.leave_one_out import RidgeHead, leave_one_out, two_way, without
from tensorlm.data_attribution.unrolled import unrolled
from tensorlm.studies import Row, Study

TEST_POINTS, SUBSETS, TRUTH_SEEDS, SUBSET_SEED = 300, 300, (4, 5, 6, 7), 11
RECIPE = Recipe(divide="batch")
METHOD_SEEDS, REFERENCE_SEEDS = tuple(range(8, 16)), tuple(range(16, 24))  # of leave-one-out: as a method, and what all are compared with
ALL_BUT_ONE = 0.999  # of 1,000: leave-one-out itself, compared by Pearson
JUDGES = {"LDS, 100 subsets": 100, "LDS, 1,000 subsets": 1000, "leave-one-out": 1000}
KEPT = (0.1, 0.25, 0.5, 0.75, 0.9, 0.98, ALL_BUT_ONE)


@cache
def digits() -> Examples:
    data = centred_digits()
    return Examples(data.x, data.y, data.test_x[:TEST_POINTS], data.test_y[:TEST_POINTS])


@cache
def full_model(seed: int) -> Classifiers:
    return train_bank(digits().x, digits().y, without(len(digits().x), [])[:1], RECIPE, seed)


@cache
def left_out(seed: int) -> Tensor:
    """Leave-one-out effects on the margins of the run of a seed, (train, test)."""
    return leave_one_out(digits(), RECIPE, seed).effects("margin").double()


def left_out_mean(seeds: tuple[int, ...]) -> Tensor:
    return torch.stack([left_out(seed) for seed in seeds]).mean(0)


@cache
def truth(kept: float, seeds: tuple[int, ...] = TRUTH_SEEDS, count: int = SUBSETS, drawn: int = SUBSET_SEED) -> tuple[Tensor, Tensor]:
    """(subsets, margins of the models trained on them (seeds, subsets, test))."""
    data = digits()
    subsets = draw_subsets(data.y, kept, count, "stratified", drawn)
    banks = [train_bank(data.x, data.y, subsets.float(), RECIPE, seed) for seed in seeds]
    return subsets, torch.stack([outcomes(bank, data.test_x, data.test_y, "margin") for bank in banks]).double()


# How many seeds one effect needs

def seeds_needed(seed: int, runs: int, points: int | None = None, **settings: Any) -> list[Row]:
    """Components of variance of the leave-one-out table of one recipe from `runs` paired runs, for each kind of outcome."""
    data, recipe = digits(), Recipe(**{"divide": "batch", **settings})
    chosen = None if points is None else range(points)
    tables = [leave_one_out(data, recipe, seed + run, chosen) for run in range(runs)]
    full = train_bank(data.x, data.y, torch.ones(1, len(data.x)), recipe, seed)
    accuracy = (full.logits(data.test_x)[0].argmax(1) == data.test_y).double().mean().item()
    rows = []
    for kind in ("margin", "loss"):
        parts = two_way(torch.stack([getattr(table, kind)[1:] for table in tables]).double())
        pooled, ratios = parts.pooled(), parts.signal_to_noise()
        rows.append(dict(outcome=kind, runs=runs, accuracy=accuracy, signal_to_noise=pooled.signal_to_noise().item(),
                         median=ratios.median().item(), low=ratios.quantile(0.1).item(), high=ratios.quantile(0.9).item(),
                         reliability=pooled.reliability().item(), paired=pooled.seeds_needed().item(),
                         unpaired=pooled.seeds_needed(pairing="unpaired").item()))
    return rows


# Methods against subsets of several sizes

def scores_of(method: str, models: int, damping: float = 0.0, seed: int = 0) -> Tensor:
    """Scores (train, test) of the margin by a method, from the models of `models` seeds from `seed` on."""
    data, seeds = digits(), range(seed, seed + models)
    trained = Classifiers(*(torch.cat(parts) for parts in zip(*(full_model(number) for number in seeds))))
    makers: dict[str, Callable[[], Tensor]] = {
        "hessian": lambda: influence(trained, data, RECIPE, curvature="hessian", damping=damping),
        "gauss_newton": lambda: influence(trained, data, RECIPE, damping=damping),
        "ekfac": lambda: influence(trained, data, RECIPE, curvature="ekfac", damping=damping),
        "trak": lambda: trak(trained, data, ridge=damping),
        "trak 512": lambda: trak(trained, data, ridge=damping, dimensions=512),
        "tracin": lambda: sum((tracin_of(number) for number in seeds), torch.zeros(())) / models,
        "gradient dot": lambda: sum((tracin(full_model(number), [1.0], data, RECIPE) for number in seeds), torch.zeros(())) / models,
        "unrolled": lambda: torch.stack([unrolled(data, RECIPE, number) for number in seeds]).mean(0),
        "bayesian": lambda: bayesian_influence(trained, data, RECIPE, sampler=langevin_of(damping)),
        "leave one out": lambda: left_out_mean(METHOD_SEEDS[:models]),
        "pixels": lambda: similarity(data, "margin", "pixels"),
        "gradient cosine": lambda: similarity(data, "margin", "gradient", trained),
        "random": lambda: similarity(data, "margin", "random", seed=seed)}
    return makers[method]()


def langevin_of(damping: float) -> Langevin:
    """A sampler of that damping: beta = 1,000, a step well below 1 / (beta times the largest curvature)."""
    return Langevin(beta=1000.0, gamma=1000.0 * damping, step=5e-4, draws=150, thin=10, burn_in=500, chains=16)


def tracin_of(seed: int, checkpoints: int = 20) -> Tensor:
    """TracIn over evenly spaced checkpoints of one run, each with the rates of the steps up to the next."""
    data, steps = digits(), RECIPE.steps(len(digits().x))
    ends = [round(steps * number / checkpoints) for number in range(checkpoints + 1)]
    run = trajectory(data.x, data.y, torch.ones(1, len(data.x)), RECIPE, seed, steps=ends)
    rates = RECIPE.rates(len(data.x))
    sums = [float(rates[start:end].sum()) / (1 - RECIPE.momentum) for start, end in zip(ends, ends[1:])]
    kept = Classifiers(*(torch.cat(parts) for parts in zip(*(run[end] for end in ends[1:]))))
    return tracin(kept, sums, data, RECIPE)


def compare(seed: int, method: str, models: int = 4, damping: float = 0.0, own: int | None = None,
            kept: tuple[float, ...] = KEPT) -> list[Row]:
    """LDS at each kept fraction with its interval; at 0.999 the correlation with leave-one-out tables of runs that no method saw.

    `own` names the one run on which both the scores and the truth rest. The method "ceiling" is what perfect scores would reach.
    """
    rows, seeds = [], TRUTH_SEEDS if own is None else (own,)
    scores = None if method == "ceiling" else scores_of(method, models, damping, seed if own is None else own)
    for share in kept:
        if scores is None:
            value = low = high = lds_ceiling(truth(share)[1]).mean().item()
        elif share == ALL_BUT_ONE:
            value = low = high = correlation(scores, left_out_mean(REFERENCE_SEEDS) if own is None else left_out(own))
        else:
            found = lds(scores, *truth(share, seeds))
            value, (low, high) = found.mean, found.interval("both")
        rows.append(dict(kept=share, value=value, low=low, high=high))
    return rows


def correlation(one: Tensor, other: Tensor) -> float:
    """Pearson over the training points, mean over the test points, of two tables (train, test)."""
    return correlations(one, other).mean().item()


def correlations(one: Tensor, other: Tensor) -> Tensor:
    """Pearson over the training points of two tables (train, test), for each test point (test,)."""
    standard = [(table - table.mean(0)) / (table - table.mean(0)).norm(dim=0) for table in (one.double(), other.double())]
    return (standard[0] * standard[1]).sum(0)


# A leave-one-out table and an LDS as judges of two methods

def judged_by(judge: str, run: int, scores: Tensor) -> Tensor:
    """The value of scores by one judge, with trainings of one seed and subsets of its own, for each test point (test,)."""
    if judge == "leave-one-out":
        return correlations(scores, left_out(run))
    return lds(scores, *truth(0.5, (run,), JUDGES[judge], SUBSET_SEED + run)).values


def judges(seed: int, first: tuple[str, float], second: tuple[str, float], named: tuple[str, ...] = tuple(JUDGES),
           runs: tuple[int, ...] = REFERENCE_SEEDS) -> list[Row]:
    """By how much each judge prefers the first method (name, damping) to the second one: mean and spread over the test points."""
    scores, rows = [scores_of(method, 4, damping, seed) for method, damping in (first, second)], []
    for judge in named:
        for run in runs:
            better, worse = (judged_by(judge, run, each) for each in scores)
            gap = better - worse
            rows.append(dict(judge=judge, trainings=JUDGES[judge] + (judge == "leave-one-out"), run=run, gap=gap.mean().item(),
                             spread=gap.std().item()))
    return rows


# The noise of an LDS

def subset_noise(seed: int, count: int = 4000, sizes: tuple[int, ...] = (10, 30, 100, 300, 1000)) -> list[Row]:
    """Spread and bias of an LDS from fewer subsets: an influence function, and its difference from EK-FAC."""
    subsets, found = truth(0.5, TRUTH_SEEDS[:1], count)
    first, second = (lds(scores_of(method, 1, 0.001, seed), subsets, found) for method in ("gauss_newton", "ekfac"))
    rows = []
    for name, value in (("influence", first), ("influence - EK-FAC", first - second)):
        for points in (TEST_POINTS, 30, 1):
            for size, blocks, mean, bias, sd in value.noise(sizes, points).rows:
                rows.append(dict(value=name, points=points, subsets=size, blocks=blocks, mean=mean, bias=bias, sd=sd))
    return rows


# Does leave-one-out predict leaving out many

def additivity(seed: int, scored: tuple[int, ...], measured: tuple[int, ...],
               removed: tuple[int, ...] = (2, 10, 20, 50, 100, 250, 500), count: int = 200) -> list[Row]:
    """Over random groups: the sum of effects in runs `scored` against the effect of leaving the group out in runs `measured`.

    Correlation, mean over the test points, and the slope of the effect on the sum, both of means over the runs.
    """
    data, rows = digits(), []
    for size in removed:
        subsets = draw_subsets(data.y, 1 - size / len(data.x), count, "uniform", SUBSET_SEED)
        weights = torch.cat([torch.ones(1, len(data.x)), subsets.float()])
        banks = [train_bank(data.x, data.y, weights, RECIPE, run) for run in measured]
        table = torch.stack([outcomes(bank, data.test_x, data.test_y, "margin").double() for bank in banks]).mean(0)
        effect, summed = table[1:] - table[0], (~subsets).double() @ left_out_mean(tuple(scored))
        slope = (summed * effect).sum() / summed.square().sum()
        rows.append(dict(removed=size, pearson=correlation(summed, effect), slope=slope.item()))
    return rows


def ridge(seed: int, features: int, penalty: float, kept: tuple[float, ...] = KEPT[:-1], count: int = SUBSETS) -> list[Row]:
    """The case without a seed: a ridge head on random bilinear features, exact leave-one-out beside its influence function."""
    data, generator = digits(), torch.Generator().manual_seed(seed)
    maps = [torch.randn(features, data.x.shape[1], generator=generator, dtype=torch.float64) for _ in range(2)]
    train, test = ((x.double() @ maps[0].T) * (x.double() @ maps[1].T) for x in (data.x, data.test_x))
    targets = torch.nn.functional.one_hot(data.y).double()
    head = RidgeHead(train, targets, penalty)
    own = data.test_y.expand(len(data.x), -1)[..., None]
    exact, first_order = (table.gather(2, own)[..., 0] for table in (head.leave_one_out(test), head.influence(test)))
    rows = []
    for share in kept:
        subsets = draw_subsets(data.y, share, count, "stratified", SUBSET_SEED)
        found = torch.stack([RidgeHead(train[rows_], targets[rows_], penalty).predict(test).gather(1, data.test_y[:, None])[:, 0]
                             for rows_ in subsets])
        before = head.predict(test).gather(1, data.test_y[:, None])[:, 0]
        summed, effect = (~subsets).double() @ exact, found - before
        rows.append(dict(kept=share, exact=lds(exact, subsets, found).mean, influence=lds(first_order, subsets, found).mean,
                         slope=((summed * effect).sum() / summed.square().sum()).item(), leverage=head.leverages.median().item()))
    return rows


def mislabelled(seed: int, count: int = 20, total: int = 600) -> list[Row]:
    """Of `count` wrong labels among `total` digits: how many are among the first `count` by each way of looking at a digit itself.

    By the largest loss, or by what leaving a digit out takes from its own margin: measured, or by influence function or gradient dot.
    """
    data = centred_digits(total)
    wrong = torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:count]
    labels = data.y.clone()
    labels[wrong] = (labels[wrong] + 1 + torch.arange(count) % 9) % 10
    own = Examples(data.x, labels, data.x, labels)
    model = train_bank(own.x, own.y, torch.ones(1, total), RECIPE, seed)
    suspicion = {"largest loss": outcomes(model, own.x, own.y, "loss")[0],
                 "leave-one-out": -leave_one_out(own, RECIPE, seed).effects("margin").diagonal(),
                 "influence function": -influence(model, own, RECIPE, damping=0.001).diagonal(),
                 "gradient dot": -tracin(model, [1.0], own, RECIPE).diagonal(),
                 "chance": torch.rand(total, generator=torch.Generator().manual_seed(seed + 1000))}
    return [dict(method=name, trainings=total + 1 if name == "leave-one-out" else int(name != "chance"),
                 found=int(torch.isin(values.argsort(descending=True)[:count], wrong).sum())) for name, values in suspicion.items()]


# Two models of more than one moment: modular addition that groks, and a language model on few documents

def grokking(seed: int, wrong: int = 0, pairs_left_out: int = 240) -> list[Row]:
    """For the wrong pairs and then the first others: what a model without it does.

    `step` is the first one with half of the test pairs right, `error` the mean test error over training, `end` the last accuracy.
    """
    adder, pairs = modular.Adder(), modular.split_pairs(31)
    corrupted = torch.randperm(len(pairs.train), generator=torch.Generator().manual_seed(100 + seed))[:wrong]
    sums = pairs.train_sum.clone()
    sums[corrupted] = (sums[corrupted] + 1 + torch.arange(wrong) % (adder.p - 1)) % adder.p
    pairs = pairs._replace(train_sum=sums)
    chosen = [*corrupted.tolist(), *(place for place in range(len(pairs.train)) if place not in set(corrupted.tolist()))][:pairs_left_out]
    run = modular.grok(adder, pairs, without(len(pairs.train), chosen), seed)
    steps, errors, helped = run.step_at(0.5, adder.every), 1 - run.accuracy.mean(1), modular.trace(run.path, pairs)
    is_wrong = torch.zeros(len(pairs.train), dtype=torch.int64)
    is_wrong[corrupted] = 1
    found = zip((-1, *chosen), steps.tolist(), errors.tolist(), run.accuracy[:, -1].tolist())
    return [dict(left_out=place, step=step, error=error, end=end, tracin=helped[place].item() if place >= 0 else 0.0,
                 wrong=is_wrong[place].item() if place >= 0 else 0) for place, step, error, end in found]


JUDGED_RULES = ("bracket", "stop", "agree", "bigram", "induction", "skip")


def documents_left_out(seed: int, schedule: str = "cosine", count: int = 200, chosen: int | None = None) -> list[Row]:
    """For every document: how a model without it does on each rule (KL in nats), and how often the document uses the rule."""
    data = ToyData(valid_documents=256)
    texts, judged = data.annotated_batch(0, count, 25, 0), data.valid_batch(25)
    places = range(count if chosen is None else chosen)
    found = documents.read(documents.Reader(schedule=schedule), texts, without(count, places), judged, seed)
    used = {rule: (texts.rules == RULES.index(rule)).sum(1) for rule in JUDGED_RULES}
    return [dict(left_out=place, **{f"kl_{rule}": excess[rule] for rule in JUDGED_RULES},
                 **{f"used_{rule}": 0 if place < 0 else int(used[rule][place]) for rule in JUDGED_RULES})
            for place, excess in zip((-1, *places), found)]


CHANGES: dict[str, dict[str, Any]] = {
    "sgd": {}, "adam": dict(optimiser="adam", rate=0.02), "muon": dict(optimiser="muon", rate=0.05), "no decay": dict(weight_decay=0.0),
    "early": dict(epochs=3), "long": dict(epochs=80, weight_decay=3e-3)}
RECIPES = {name: dict(runs=8, **changed) for name, changed in CHANGES.items()}
METHODS: dict[str, dict[str, Any]] = {
    "Gauss-Newton .001, 4 models": dict(method="gauss_newton", damping=0.001),
    "Gauss-Newton .001": dict(method="gauss_newton", damping=0.001, models=1),
    "Gauss-Newton .01": dict(method="gauss_newton", damping=0.01, models=1),
    "Gauss-Newton .1": dict(method="gauss_newton", damping=0.1, models=1),
    "Hessian .003": dict(method="hessian", damping=0.003, models=1),
    "EK-FAC .001, 4 models": dict(method="ekfac", damping=0.001), "EK-FAC .001": dict(method="ekfac", damping=0.001, models=1),
    "TRAK, ridge 100, 4 models": dict(method="trak", damping=100.0), "TRAK, 512 directions, 4 models": dict(method="trak 512", damping=1.0),
    "TracIn, 4 models": dict(method="tracin"), "gradient dot, 4 models": dict(method="gradient dot"),
    "unrolled, 4 models": dict(method="unrolled"), "unrolled": dict(method="unrolled", models=1),
    "Bayesian .1": dict(method="bayesian", damping=0.1, models=1),
    "leave-one-out, one run": dict(method="leave one out", models=1), "leave-one-out, 8 runs": dict(method="leave one out", models=8),
    "pixels": dict(method="pixels", models=1), "gradient cosine, 4 models": dict(method="gradient cosine"),
    "random": dict(method="random", models=1), "ceiling": dict(method="ceiling"),
    "own run: unrolled": dict(method="unrolled", models=1, own=4),
    "own run: Gauss-Newton .001": dict(method="gauss_newton", damping=0.001, models=1, own=4)}
EIGHT, OTHERS = list(METHOD_SEEDS), list(REFERENCE_SEEDS)
ADDED = {"one run, itself": dict(scored=EIGHT[:1], measured=EIGHT[:1]), "one run, another": dict(scored=OTHERS[:1], measured=EIGHT[:1]),
         "eight runs, themselves": dict(scored=EIGHT, measured=EIGHT), "eight runs, eight others": dict(scored=OTHERS, measured=EIGHT)}
PAIRS = {"influence - EK-FAC": dict(first=("gauss_newton", 0.001), second=("ekfac", 0.001)),
         "influence - TRAK": dict(first=("gauss_newton", 0.001), second=("trak", 100.0)),
         "TRAK - EK-FAC": dict(first=("trak", 100.0), second=("ekfac", 0.001)),
         "TracIn - gradient dot": dict(first=("tracin", 0.0), second=("gradient dot", 0.0))}
STUDIES = {study.name: study for study in (
    Study("loo_seeds", "How many seeds does one leave-one-out effect need?",
          ("outcome", "runs", "accuracy", "signal_to_noise", "median", "low", "high", "reliability", "paired", "unpaired"),
          seeds_needed, RECIPES, (0,), check=("early", 0, {}), keys=("outcome",), tolerance=0.02),
    Study("lds_methods", "Which method ranks retrainings best, at which size of the subsets?", ("kept", "value", "low", "high"),
          compare, METHODS, (0,), check=("pixels", 0, dict(kept=(0.9,))), keys=("kept",), tolerance=0.02),
    Study("loo_judges", "Which judge tells two methods apart, a leave-one-out table or an LDS of as many trainings?",
          ("judge", "trainings", "run", "gap", "spread"), judges, PAIRS, (0,),
          check=("influence - TRAK", 0, dict(named=("LDS, 100 subsets",), runs=(16,))), keys=("judge", "run"), tolerance=0.02),
    Study("lds_noise", "How far is an LDS from itself with more subsets?", ("value", "points", "subsets", "blocks", "mean", "bias", "sd"),
          subset_noise, {"4,000 subsets": {}, "100 subsets": dict(count=100, sizes=[10, 30])}, (0,), check=("100 subsets", 0, {}),
          keys=("value", "points", "subsets"), tolerance=0.02),
    Study("loo_additivity", "Does leave-one-out predict leaving many out?", ("removed", "pearson", "slope"), additivity, ADDED, (0,),
          check=("one run, itself", 0, dict(removed=(100,))), keys=("removed",), tolerance=0.02),
    Study("loo_ridge", "Exact effects without a seed: when do they lose?", ("kept", "exact", "influence", "slope", "leverage"),
          ridge, {"256 features": dict(features=256, penalty=1.0), "512 features": dict(features=512, penalty=1.0)}, (0,),
          check=("256 features", 0, dict(kept=(0.5,))), keys=("kept",), tolerance=1e-3),
    Study("loo_grokking", "Which pair decides when a model groks?", ("left_out", "step", "error", "end", "tracin", "wrong"),
          grokking, {"clean": {}, "12 wrong sums": dict(wrong=12, pairs_left_out=160)}, (0, 1, 2),
          check=("clean", 0, dict(pairs_left_out=3)), keys=("left_out",), tolerance=0.1),
    Study("loo_mislabelled", "Who finds wrong labels?", ("method", "trainings", "found"), mislabelled, {"20 of 600": {}}, (0, 1, 2),
          check=("20 of 600", 0, {}), keys=("method",)),
    Study("loo_documents", "Which document taught which rule?",
          ("left_out", *(f"{what}_{rule}" for what in ("kl", "used") for rule in JUDGED_RULES)),
          documents_left_out, {"rate falls to zero": {}, "constant rate": dict(schedule="constant")}, (0, 1, 2),
          check=("rate falls to zero", 0, dict(chosen=3)),
          keys=("left_out",), tolerance=0.05),
)}
