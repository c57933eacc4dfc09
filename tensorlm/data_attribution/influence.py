"""What a method says of every training example without a retraining: scores (train, test), all of one meaning and sign.

    scores[i, t] = predicted change of the outcome of test example t when training example i is removed

| method | formula |
| --- | --- |
| `influence` | f_t' (C + (weight decay + damping) I)^-1 (g_i - g) / n, with C the Hessian, Gauss-Newton or EK-FAC |
| `tracin` | sum over checkpoints of rate f_t' (g_i - g) / n; of one checkpoint at rate 1: the gradient dot |
| `trak` | -f_t' (Phi' Phi + ridge I)^-1 phi_i (1 - p_i), margins' gradients as features |
| `similarity` | the floors: pixels, angles of gradients, random numbers |

f_t is the gradient of the outcome, g_i that of the example's loss, g the mean of these, which is there where the recipe divides
by the examples present: without example i the others weigh more, against the same weight decay. Several models give the mean
of their scores. Everything is computed in float64.

Sources: Koh and Liang arXiv 1703.04730 (influence); Pruthi et al. arXiv 2002.08484 (TracIn); Park et al. arXiv 2303.14186
(TRAK).
"""

from collections.abc import Callable, Sequence
from itertools import count

import torch
from torch import Tensor

from tensorlm.checks import require, require_one_of, require_whole, unfit
from tensorlm.data_attribution.classifiers import OUTCOMES, Classifiers, Examples, Recipe, outcomes
from tensorlm.data_attribution.curvature import CURVATURES, curvature_matrix, ekfac, solve
from tensorlm.data_attribution.gradients import Gradients, example_gradients

MEASURES = ("pixels", "gradient", "random")


def influence(models: Classifiers, data: Examples, recipe: Recipe, kind: str = "margin", curvature: str = "gauss_newton",
              *, damping: float) -> Tensor:
    """Influence functions: the change to first order if training had run to its minimum: (train, test).

    `curvature` is "hessian", "gauss_newton" or "ekfac"; `damping` comes on top of the weight decay, the one setting of the
    recipe that counts beside its divisor. Raises ValueError for a damping that leaves the Hessian indefinite, with its smallest
    eigenvalue and the damping that would do.

    >>> data = Examples(torch.eye(3), torch.arange(3), torch.eye(3), torch.arange(3))
    >>> models = Classifiers(torch.ones(1, 2, 3), torch.ones(1, 2, 3), torch.ones(1, 3, 2))
    >>> influence(models, data, Recipe(), "loss", damping=0.1).diagonal() > 0  # without itself, an example's loss is larger
    tensor([True, True, True])
    """
    require_one_of("curvature", curvature, (*CURVATURES, "ekfac"))
    return mean_of(lambda model: _influence(model, data, recipe, kind, curvature, damping), models)


def _influence(model: Classifiers, data: Examples, recipe: Recipe, kind: str, curvature: str, damping: float) -> Tensor:
    train, test = _both(model, data, kind)
    columns = test.dense().mT
    if curvature == "ekfac":
        solved = ekfac(model, data.x, data.y).solve(columns, damping, recipe.weight_decay)
    else:
        solved = solve(curvature_matrix(model, data.x, data.y, curvature), columns, damping, recipe.weight_decay)
    return centred(train.times(solved), recipe) / len(data.x)


def tracin(checkpoints: Classifiers, rates: Sequence[float] | Tensor, data: Examples, recipe: Recipe,
           kind: str = "margin") -> Tensor:
    """TracIn: how far an example's own steps moved the outcome, summed over checkpoints of one training: (train, test).

    `rates` has for each checkpoint the sum of the rates of the steps that it stands for, over 1 - momentum where there is
    momentum. One model with rates [1] gives the gradient dot. Raises ValueError unless each checkpoint has one finite rate.

    >>> data = Examples(torch.eye(3), torch.arange(3), torch.eye(3), torch.arange(3))
    >>> models = Classifiers(torch.ones(4, 2, 3), torch.ones(4, 2, 3), torch.ones(4, 3, 2))
    >>> torch.allclose(tracin(models, [1, 1, 0, 2], data, Recipe()), 4 * tracin(models.model(0), [1], data, Recipe()))
    True
    """
    rates = torch.as_tensor(rates, dtype=torch.float64)
    fits = rates.shape == (checkpoints.size,) and bool(rates.isfinite().all())
    require(fits, "rates", rates, f"finite numbers, one for each of {checkpoints.size} checkpoints")
    total = torch.zeros(len(data.x), len(data.test_x), dtype=torch.float64)
    for index, rate in enumerate(rates.tolist()):
        train, test = _both(checkpoints.model(index), data, kind)
        total += rate * train.products(test)
    return centred(total, recipe) / len(data.x)


def trak(models: Classifiers, data: Examples, kind: str = "margin", *, ridge: float, dimensions: int | None = None,
         seed: int = 0) -> Tensor:
    """TRAK: each model as the logistic regression that its margins' gradients make of it: (train, test).

    Features are the gradients themselves, or their projections on `dimensions` random directions. One Newton step from all
    examples to all but one, its curvature replaced by Phi' Phi + ridge I. Of several models the kernels are averaged, and apart
    from them the factors 1 - p_i. Raises ValueError where the ridge leaves the matrix singular.

    >>> data = Examples(torch.eye(3), torch.arange(3), torch.eye(3), torch.arange(3))
    >>> models = Classifiers(torch.ones(1, 2, 3), torch.ones(1, 2, 3), torch.ones(1, 3, 2))
    >>> trak(models, data, ridge=0.1).diagonal() < 0  # without itself, an example's margin is smaller
    tensor([True, True, True])
    """
    require_one_of("kind", kind, OUTCOMES)
    seeds = count(seed)
    kernel = mean_of(lambda model: _trak_kernel(model, data, ridge, dimensions, next(seeds)), models)
    exact = Classifiers(*(weight.double() for weight in models))
    doubt, test_doubt = (torch.sigmoid(-outcomes(exact, x.double(), y, "margin")).mean(0)  # 1 - p of the right class
                         for x, y in ((data.x, data.y), (data.test_x, data.test_y)))
    change = -kernel * doubt[:, None]
    return change if kind == "margin" else -change * test_doubt  # d loss / d margin = -(1 - p)


def _trak_kernel(model: Classifiers, data: Examples, ridge: float, dimensions: int | None, seed: int) -> Tensor:
    """phi_i' (Phi' Phi + ridge I)^-1 phi_t for training i and test t, the matrix inverted in the smaller of its two spaces."""
    train = example_gradients(model, data.x, data.y, "margin")
    test = example_gradients(model, data.test_x, data.test_y, "margin")
    if dimensions is None:
        return solve(train.products(train), train.products(test), ridge, name="ridge")
    require_whole("dimensions", dimensions, 1)
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(sum(weight[0].numel() for weight in model), dimensions, dtype=torch.float64, generator=generator)
    rows, test_rows = (part.times(directions / dimensions**0.5) for part in (train, test))
    if dimensions >= len(rows):
        return solve(rows @ rows.mT, rows @ test_rows.mT, ridge, name="ridge")
    return rows @ solve(rows.mT @ rows, test_rows.mT, ridge, name="ridge")


def similarity(data: Examples, kind: str = "margin", measure: str = "pixels", models: Classifiers | None = None,
               seed: int = 0) -> Tensor:
    """Floors that a method should pass; only their order has a meaning, not their size: (train, test).

    | measure | value |
    | --- | --- |
    | pixels | cosine of the inputs, where the classes are the same, else 0; columns that never vary are left out |
    | gradient | cosine of the example's loss gradient with the outcome's gradient, mean over the models |
    | random | standard normal numbers of this seed |

    >>> data = Examples(torch.eye(3), torch.tensor([0, 0, 1]), torch.eye(3), torch.tensor([0, 1, 1]))
    >>> similarity(data, "loss", "pixels").diagonal()
    tensor([1., 0., 1.], dtype=torch.float64)
    """
    require_one_of("kind", kind, OUTCOMES)
    require_one_of("measure", measure, MEASURES)
    if measure == "random":
        return torch.randn(len(data.x), len(data.test_x), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    if measure == "gradient":
        if models is None:
            raise unfit("models", models, "given where the measure is 'gradient'")
        return mean_of(lambda model: _cosine(*_both(model, data, kind)), models)
    varies = (data.x != data.x[0]).any(0)
    rows, test_rows = (torch.nn.functional.normalize(x[:, varies].double()) for x in (data.x, data.test_x))
    alike = rows @ test_rows.mT * (data.y[:, None] == data.test_y)
    return alike if kind == "loss" else -alike


def _cosine(one: Gradients, other: Gradients) -> Tensor:
    sizes = one.norms()[:, None] * other.norms()
    return one.products(other) / sizes.clamp_min(torch.finfo(sizes.dtype).tiny)


def _both(model: Classifiers, data: Examples, kind: str) -> tuple[Gradients, Gradients]:
    """Gradients of the training losses and of the test outcomes."""
    return example_gradients(model, data.x, data.y, "loss"), example_gradients(model, data.test_x, data.test_y, kind)


def centred(scores: Tensor, recipe: Recipe) -> Tensor:
    """Less their mean over the training examples, where the recipe divides by the examples present."""
    return scores - scores.mean(0) if recipe.divide == "present" else scores


def mean_of(scores: Callable[[Classifiers], Tensor], models: Classifiers) -> Tensor:
    """The mean of what a function says of each model; ValueError where there is none."""
    require(models.size, "models", models.down, "at least one model")
    return torch.stack([scores(models.model(index)) for index in range(models.size)]).mean(0)
