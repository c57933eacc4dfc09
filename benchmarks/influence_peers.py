"""The scores of `tensorlm.data_attribution` by other means: torch.func and autograd, and two libraries, dattri and kronfluence.

Each function gives what the library calls influence, in its own sign and scale: `benchmarks.influence` says how ours relates to it.
"""

import contextlib
import io
import tempfile
import warnings
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, DataLoader, TensorDataset

from tensorlm.data_attribution import Classifiers, Recipe
from tensorlm.data_attribution.block import batches, first_values
from tensorlm.data_attribution.classifiers import Examples

CHUNK = 64  # columns of a Hessian at a time: all at once take gigabytes


class Bilinear(nn.Module):
    """One model as torch's own layers, as libraries want it."""

    def __init__(self, model: Classifiers) -> None:
        super().__init__()
        self.left, self.right, self.down = (linear(weight[0]) for weight in model)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.left(x) * self.right(x))


def linear(weight: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=torch.float64)
    layer.weight.data.copy_(weight)
    return layer


def margin(logits: Tensor, y: Tensor) -> Tensor:
    own = torch.arange(logits.shape[-1]) == y[..., None]
    return logits.gather(-1, y[..., None]).squeeze(-1) - logits.masked_fill(own, -torch.inf).logsumexp(-1)


def losses(logits: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(logits, y, reduction="none")


# torch.func

def flat_problem(model: Classifiers) -> tuple[Tensor, Callable]:
    """All parameters as one vector, and the logits as a function of it."""
    shapes = [weight[0].shape for weight in model]
    start = torch.cat([weight[0].double().flatten() for weight in model])

    def logits(parameters: Tensor, x: Tensor) -> Tensor:
        left, right, down = (part.view(shape) for part, shape in zip(parameters.split([shape.numel() for shape in shapes]), shapes))
        return (x @ left.mT) * (x @ right.mT) @ down.mT

    return start, logits


def rows_by_vmap(model: Classifiers, x: Tensor, y: Tensor, outcome: Callable) -> Tensor:
    start, logits = flat_problem(model)
    single = lambda parameters, row, label: outcome(logits(parameters, row[None]), label[None])[0]
    return torch.func.vmap(torch.func.grad(single), in_dims=(None, 0, 0))(start, x, y)


def hessian_by_functorch(model: Classifiers, data: Examples) -> Tensor:
    start, logits = flat_problem(model)
    slope = torch.func.grad(lambda parameters: losses(logits(parameters, data.x), data.y).mean())
    column = lambda direction: torch.func.jvp(slope, (start,), (direction,))[1]
    return torch.func.vmap(column, chunk_size=CHUNK)(torch.eye(len(start), dtype=torch.float64))


def gauss_newton_by_jacobians(model: Classifiers, data: Examples) -> Tensor:
    """Jacobians of the logits of every example, times a root of each spread diag p - p p', multiplied out."""
    start, logits = flat_problem(model)
    total = torch.zeros(len(start), len(start), dtype=torch.float64)
    single = torch.func.jacrev(lambda parameters, row: logits(parameters, row[None])[0])
    for rows in data.x.split(250):
        slopes = torch.func.vmap(single, in_dims=(None, 0))(start, rows)
        roots = logits(start, rows).softmax(1).sqrt()
        root = torch.diag_embed(roots) - roots[:, :, None] * roots.square()[:, None]
        weighted = (root @ slopes).flatten(0, 1)
        total += weighted.mT @ weighted
    return total / len(data.x)


def influence_by_functorch(matrix: Callable, model: Classifiers, data: Examples, shift: float) -> Tensor:
    train, test = rows_by_vmap(model, data.x, data.y, losses), rows_by_vmap(model, data.test_x, data.test_y, margin)
    shifted = matrix(model, data) + shift * torch.eye(train.shape[1], dtype=torch.float64)
    return train @ torch.cholesky_solve(test.mT, torch.linalg.cholesky(shifted))


def dot_by_functorch(checkpoints: Classifiers, rates: list[float], data: Examples) -> Tensor:
    total = torch.zeros(len(data.x), len(data.test_x), dtype=torch.float64)
    for index, rate in enumerate(rates):
        model = checkpoints.model(index)
        total += rate * rows_by_vmap(model, data.x, data.y, losses) @ rows_by_vmap(model, data.test_x, data.test_y, margin).mT
    return total


def trak_by_functorch(model: Classifiers, data: Examples, ridge: float) -> Tensor:
    rows, test_rows = rows_by_vmap(model, data.x, data.y, margin), rows_by_vmap(model, data.test_x, data.test_y, margin)
    inner = rows.mT @ rows + ridge * torch.eye(rows.shape[1], dtype=torch.float64)
    start, logits = flat_problem(model)
    doubt = -torch.expm1(-losses(logits(start, data.x), data.y))
    return doubt[:, None] * (rows @ torch.linalg.solve(inner, test_rows.mT))


def unrolled_by_autograd(data: Examples, recipe: Recipe, seed: int) -> Tensor:
    """Minus the derivative by every example's weight: one graph of the whole training, one backward pass for each outcome."""
    weights = torch.ones(len(data.x), dtype=torch.float64, requires_grad=True)
    place = [factor[0].double().requires_grad_() for factor in first_values(seed, data.x.shape[1], int(data.y.max()) + 1, recipe)]
    speed = [torch.zeros_like(factor) for factor in place]
    for rows, rate in zip(batches(seed, len(data.x), recipe), recipe.rates(len(data.x)).tolist()):
        left, right, down = place
        each = losses((data.x[rows] @ left.mT) * (data.x[rows] @ right.mT) @ down.mT, data.y[rows])
        loss = (weights[rows] * each).sum() / weights[rows].sum()
        slopes = torch.autograd.grad(loss, place, create_graph=True)
        speed = [recipe.momentum * old + slope + recipe.weight_decay * factor for old, slope, factor in zip(speed, slopes, place)]
        place = [factor - rate * moved for factor, moved in zip(place, speed)]
    left, right, down = place
    ends = margin((data.test_x @ left.mT) * (data.test_x @ right.mT) @ down.mT, data.test_y)
    return -torch.stack([torch.autograd.grad(end, weights, retain_graph=True)[0] for end in ends], dim=1)


# Libraries

def datasets(data: Examples) -> tuple[TensorDataset, TensorDataset]:
    return TensorDataset(data.x, data.y), TensorDataset(data.test_x, data.test_y)


def dattri_task(checkpoints: Classifiers):
    from dattri.task import AttributionTask

    model = Bilinear(checkpoints.model(0))

    def of(outcome: Callable) -> Callable:
        return lambda parameters, pair: outcome(torch.func.functional_call(model, parameters, (pair[0],)), pair[1]).mean()

    states = [Bilinear(checkpoints.model(index)).state_dict() for index in range(checkpoints.size)]
    return AttributionTask(of(losses), model, states, target_func=of(margin))


def by_dattri(kind: str, checkpoints: Classifiers, data: Examples, damping: float = 0.0, rates: Tensor | None = None) -> Tensor:
    from dattri.algorithm.influence_function import IFAttributorEKFAC, IFAttributorExplicit
    from dattri.algorithm.tracin import TracInAttributor

    task, (train, test) = dattri_task(checkpoints), (DataLoader(part, batch_size=len(part)) for part in datasets(data))
    with quiet():
        if kind == "tracin":
            attributor = TracInAttributor(task, weight_list=rates, normalized_grad=False)
            attributor.projector_kwargs = None  # it would project to 512 dimensions
            return attributor.attribute(train, test)
        made = IFAttributorExplicit(task, regularization=damping) if kind == "hessian" else IFAttributorEKFAC(task, damping=damping)
        made.cache(train)
        return made.attribute(train, test).detach()


def by_kronfluence(model: Classifiers, data: Examples, damping: float, labels: int = 1) -> Tensor:
    """EK-FAC in float64, with labels sampled from the model, as it recommends: so many for each training image."""
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.arguments import FactorArguments, ScoreArguments
    from kronfluence.task import Task

    class Margins(Task):
        def compute_train_loss(self, batch, model, sample=False):
            logits = model(batch[0])
            with torch.no_grad():
                labels = torch.multinomial(logits.softmax(1), 1)[:, 0] if sample else batch[1]
            return F.cross_entropy(logits, labels, reduction="sum")

        def compute_measurement(self, batch, model):
            return margin(model(batch[0]), batch[1]).sum()

    parts = ("activation_covariance", "gradient_covariance", "per_sample_gradient", "lambda")
    double = dict.fromkeys((f"{part}_dtype" for part in parts), torch.float64)
    train, test = datasets(data)
    fitted: ConcatDataset = ConcatDataset([train] * labels)
    torch.manual_seed(0)
    with quiet(), tempfile.TemporaryDirectory() as folder:
        prepared, task = prepare_model(Bilinear(model), Margins()), Margins()
        analyzer = Analyzer("peer", prepared, task, cpu=True, disable_tqdm=True, output_dir=folder)
        analyzer.fit_all_factors("all", fitted, per_device_batch_size=len(train), factor_args=FactorArguments("ekfac", **double))
        analyzer.compute_pairwise_scores(
            "scores", "all", test, train, per_device_query_batch_size=len(test), per_device_train_batch_size=len(train),
            score_args=ScoreArguments(damping_factor=damping, per_sample_gradient_dtype=torch.float64, score_dtype=torch.float64))
        return analyzer.load_pairwise_scores("scores")["all_modules"].mT.clone()


@contextlib.contextmanager
def quiet():
    """Without the progress bars and warnings of libraries."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


hessian_scores = partial(influence_by_functorch, hessian_by_functorch)
gauss_newton_scores = partial(influence_by_functorch, gauss_newton_by_jacobians)
