"""Gradients and curvature against autograd, influence against retraining to the minimum, EK-FAC where it is exact, and the other scores."""

from dataclasses import replace

import pytest
import torch

from tensorlm.data_attribution import Classifiers, Recipe, influence, outcomes, similarity, tracin, train_bank, trak
from tensorlm.data_attribution.classifiers import Examples
from tensorlm.data_attribution.curvature import curvature_matrix, ekfac, solve
from tensorlm.data_attribution.gradients import example_gradients

RECIPE = Recipe(rate=0.05, hidden=3, weight_decay=0.02, epochs=60, batch=12, dtype=torch.float64)
KINDS = ("loss", "margin")


def randn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def flat(models):
    """All parameters of each model, A1, A2, P, each row after row."""
    return torch.cat([weight.flatten(1) for weight in models], dim=1)


def unflat(parameters, like):
    sizes = [weight[0].numel() for weight in like]
    return Classifiers(*(part.view(-1, *weight.shape[1:]) for part, weight in zip(parameters.split(sizes, dim=1), like)))


def relative(found, expected):
    return float((found - expected).norm() / expected.norm())


@pytest.fixture(scope="module")
def data():
    """36 noisy examples of three classes, 7 test examples, the last input constant."""
    rows = torch.cat([randn(43, 3), torch.ones(43, 1, dtype=torch.float64)], dim=1)
    classes = torch.stack([rows[:, 0] * rows[:, 1], rows[:, 2], -rows[:, 0] + rows[:, 2] ** 2], 1) + 0.5 * randn(43, 3, seed=1)
    return Examples(rows[:36], classes[:36].argmax(1), rows[36:], classes[36:].argmax(1))


@pytest.fixture(scope="module")
def models(data):
    return train_bank(data.x, data.y, torch.ones(2, 36), RECIPE, seeds=[0, 1])


def objective(parameters, like, data, weights, recipe):
    losses = outcomes_of(parameters, like, data.x, data.y, "loss")
    total = weights.sum() if recipe.divide == "present" else len(weights)
    return weights @ losses / total + recipe.weight_decay / 2 * parameters.square().sum()


def outcomes_of(parameters, like, x, y, kind):
    logits = unflat(parameters[None], like).logits(x)[0]
    own = logits.gather(1, y[:, None])[:, 0]
    others = logits.masked_fill(torch.nn.functional.one_hot(y, logits.shape[1]).bool(), -torch.inf)
    return torch.logsumexp(logits, 1) - own if kind == "loss" else own - torch.logsumexp(others, 1)


def minimum(start, data, weights, recipe):
    """The minimum of the objective next to a model, by Newton's method with torch.func's derivatives."""
    parameters = flat(start)[0]
    target = lambda values: objective(values, start, data, weights, recipe)
    for _ in range(60):
        slope, hessian = torch.func.grad(target)(parameters), torch.func.hessian(target)(parameters)
        values, vectors = torch.linalg.eigh(hessian)
        move = vectors @ (vectors.mT @ slope / values.abs().clamp_min(1e-3))
        parameters = parameters - move / max(1, float(move.norm()) / 0.5)
        if slope.norm() < 1e-14:
            break
    assert slope.norm() < 1e-12 and values[0] > 0
    return unflat(parameters[None], start)


@pytest.fixture(scope="module")
def converged(data, models):
    return minimum(models.model(0), data, torch.ones(36, dtype=torch.float64), RECIPE)


def by_retraining(model, data, recipe, examples, step=1e-4):
    """Minus the derivative of both outcomes by the weights of some examples, the objective minimised anew on both sides."""
    slopes = {kind: [] for kind in KINDS}
    for index in examples:
        ends = []
        for sign in (1, -1):
            weights = torch.ones(len(data.x), dtype=torch.float64)
            weights[index] += sign * step
            ends.append(minimum(model, data, weights, recipe))
        for kind in KINDS:
            plus, minus = (outcomes(end, data.test_x, data.test_y, kind)[0] for end in ends)
            slopes[kind].append((minus - plus) / (2 * step))
    return {kind: torch.stack(rows) for kind, rows in slopes.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_autograd(kind, data, models):
    model = models.model(1)
    expected = torch.func.jacrev(lambda values: outcomes_of(values, model, data.x, data.y, kind))(flat(model)[0])
    found = example_gradients(model, data.x, data.y, kind)
    directions = randn(expected.shape[1], 5)
    assert torch.allclose(found.dense(), expected, atol=1e-13)
    assert torch.allclose(found.mean(), expected.mean(0), atol=1e-13)
    assert torch.allclose(found.products(found), expected @ expected.mT, atol=1e-12)
    assert torch.allclose(found.norms(), expected.norm(dim=1), atol=1e-12)
    assert torch.allclose(found.times(directions), expected @ directions, atol=1e-12)
    assert torch.allclose(outcomes_of(flat(model)[0], model, data.x, data.y, kind), outcomes(model, data.x, data.y, kind)[0])


def by_functorch(model, data):
    """The Hessian of the mean loss, and its Gauss-Newton part."""
    start = flat(model)[0]
    hessian = torch.func.hessian(lambda values: outcomes_of(values, model, data.x, data.y, "loss").mean())(start)
    slopes = torch.func.jacrev(lambda values: unflat(values[None], model).logits(data.x)[0])(start)
    chances = model.logits(data.x)[0].softmax(1)
    spread = torch.diag_embed(chances) - chances[:, :, None] * chances[:, None]
    return hessian, torch.einsum("nca,ncd,ndb->ab", slopes, spread, slopes) / len(data.x)


def block_of(model):
    """Which of the three matrices every parameter belongs to."""
    return torch.cat([torch.full((weight[0].numel(),), index) for index, weight in enumerate(model)])


def test_curvature_is_that_of_functorch_and_blocks_agree(data, models):
    model = models.model(1)
    hessian, gauss_newton = by_functorch(model, data)
    assert torch.allclose(curvature_matrix(model, data.x, data.y, "hessian"), hessian, atol=1e-13)
    assert torch.allclose(curvature_matrix(model, data.x, data.y, "gauss_newton"), gauss_newton, atol=1e-13)
    within = block_of(model)[:, None] == block_of(model)
    assert torch.allclose(hessian[within], gauss_newton[within], atol=1e-13)
    assert (hessian - gauss_newton)[~within].abs().max() > 0.01


def test_curvature_is_the_same_in_blocks_of_examples(data, models, monkeypatch):
    model = models.model(0)
    whole = [curvature_matrix(model, data.x, data.y, kind) for kind in ("hessian", "gauss_newton")]
    factors = ekfac(model, data.x, data.y).factors
    monkeypatch.setattr("tensorlm.data_attribution.curvature.BLOCK_ROWS", 10)
    monkeypatch.setattr("tensorlm.data_attribution.gradients.BLOCK_ENTRIES", 100)
    for kind, expected in zip(("hessian", "gauss_newton"), whole):
        assert torch.allclose(curvature_matrix(model, data.x, data.y, kind), expected, atol=1e-14)
    assert torch.allclose(ekfac(model, data.x, data.y).factors[0][2], factors[0][2], atol=1e-12)
    gradients = example_gradients(model, data.x, data.y, "loss")
    assert torch.allclose(gradients.times(randn(33, 2)), gradients.dense() @ randn(33, 2))


@pytest.mark.parametrize("divide", ["present", "batch"])
def test_influence_is_retraining_to_first_order(divide, data, converged):
    recipe = replace(RECIPE, divide=divide)
    examples = influence(converged, data, recipe, "loss", "hessian", damping=0.0).abs().sum(1).topk(3).indices.tolist()
    other = replace(recipe, divide="batch" if divide == "present" else "present")
    for kind, expected in by_retraining(converged, data, recipe, examples).items():
        found = influence(converged, data, recipe, kind, "hessian", damping=0.0)[examples]
        assert relative(found, expected) < 1e-6
        for wrong in (influence(converged, data, recipe, kind, "hessian", damping=0.02),
                      influence(converged, data, replace(recipe, weight_decay=0.03), kind, "hessian", damping=0.0),
                      influence(converged, data, other, kind, "hessian", damping=0.0),
                      influence(converged, data, recipe, kind, "gauss_newton", damping=0.0)):
            assert relative(wrong[examples], expected) > 0.01


def test_damping_counts_as_weight_decay_and_large_damping_leaves_the_gradient_dot(data, models):
    model, recipe = models.model(0), replace(RECIPE, weight_decay=0.0)
    for curvature in ("gauss_newton", "ekfac"):
        first = influence(model, data, RECIPE, "margin", curvature, damping=0.1)
        assert torch.allclose(first, influence(model, data, recipe, "margin", curvature, damping=0.1 + RECIPE.weight_decay))
        far = influence(model, data, recipe, "margin", curvature, damping=1e6) * 1e6
        assert torch.allclose(far, tracin(model, [1.0], data, recipe, "margin"), rtol=1e-3, atol=1e-7)


def test_a_damping_that_leaves_the_hessian_indefinite_names_one_that_does(data, models):
    model, recipe = models.model(0), replace(RECIPE, weight_decay=0.0)
    smallest = torch.linalg.eigvalsh(curvature_matrix(model, data.x, data.y, "hessian"))[0].item()
    assert smallest < -0.003
    with pytest.raises(ValueError, match=f"damping must be above {-smallest:.4g}, as the smallest eigenvalue is {smallest:.4g}"):
        influence(model, data, recipe, "loss", "hessian", damping=0.001)
    with pytest.raises(ValueError, match="weight decay 0.002 added"):
        influence(model, data, replace(recipe, weight_decay=0.002), "loss", "hessian", damping=0)
    assert influence(model, data, recipe, "loss", "hessian", damping=-1.01 * smallest).isfinite().all()
    with pytest.raises(ValueError, match="damping must be above 0 where"):
        influence(model, data, recipe, "loss", "ekfac", damping=0)
    with pytest.raises(ValueError, match="damping must be a finite number of at least 0"):
        influence(model, data, recipe, "loss", damping=-0.1)


def within_blocks(model, matrix):
    return matrix * (block_of(model)[:, None] == block_of(model))


def test_ekfac_is_exact_where_the_examples_have_one_input(data, models):
    model, right = models.model(0), randn(33, 4)
    same = data.x[:1].expand(20, -1)
    exact = within_blocks(model, curvature_matrix(model, same, data.y[:20]))
    assert torch.allclose(ekfac(model, same, data.y[:20]).solve(right, 0.1), solve(exact, right, 0.1), atol=1e-10)
    exact = within_blocks(model, curvature_matrix(model, data.x, data.y))
    assert (ekfac(model, data.x, data.y).solve(right, 0.1) - solve(exact, right, 0.1)).abs().max() > 0.01


def test_ekfac_has_the_diagonal_of_gauss_newton_in_its_basis(data, models):
    model = models.model(0)
    matrix, start = curvature_matrix(model, data.x, data.y), 0
    for out, into, values in ekfac(model, data.x, data.y).factors:
        part = slice(start, start + values.numel())
        basis = torch.kron(out, into)
        assert torch.allclose((basis.mT @ matrix[part, part] @ basis).diagonal(), values.flatten(), atol=1e-12)
        assert torch.allclose(basis.mT @ basis, torch.eye(len(basis), dtype=basis.dtype), atol=1e-12)
        start = part.stop


@pytest.mark.parametrize("kind", KINDS)
def test_one_small_step_without_an_example_is_the_gradient_dot(kind, data, models):
    """TracIn of one checkpoint: the outcome after one step of plain gradient descent, with and without the example."""
    model, rate = models.model(0), 1e-5
    for divide in ("present", "batch"):
        recipe, ends = replace(RECIPE, divide=divide), []
        for index in (None, 4):
            weights = torch.ones(36, dtype=torch.float64)
            if index is not None:
                weights[index] = 0
            target = lambda values: objective(values, model, data, weights, recipe)
            moved = flat(model)[0] - rate * torch.func.grad(target)(flat(model)[0])
            ends.append(outcomes_of(moved, model, data.test_x, data.test_y, kind))
        found = tracin(model, [rate], data, recipe, kind)[4]
        scale = 36 / 35 if divide == "present" else 1  # without it the others weigh 1/35, not 1/36
        assert relative(found * scale, ends[1] - ends[0]) < 5e-4
        other = replace(RECIPE, divide="present" if divide == "batch" else "batch")
        assert relative(tracin(model, [rate], data, other, kind)[4], ends[1] - ends[0]) > 5e-3


def test_scores_of_several_models_are_their_mean(data, models):
    for method in (lambda m: influence(m, data, RECIPE, damping=0.1), lambda m: similarity(data, measure="gradient", models=m)):
        assert torch.allclose(method(models), (method(models.model(0)) + method(models.model(1))) / 2)
    assert torch.allclose(tracin(models, [2.0, 3.0], data, RECIPE),
                          2 * tracin(models.model(0), [1], data, RECIPE) + 3 * tracin(models.model(1), [1], data, RECIPE))


def test_trak_is_a_newton_step_of_its_linear_model(data, models):
    model = models.model(0)
    features, tests = (example_gradients(model, x, y, "margin").dense() for x, y in ((data.x, data.y), (data.test_x, data.test_y)))
    doubt, test_doubt = (1 - torch.exp(-outcomes(model, x, y, "loss")[0]) for x, y in ((data.x, data.y), (data.test_x, data.test_y)))
    inner = torch.linalg.inv(features.mT @ features + 0.3 * torch.eye(33, dtype=torch.float64))
    expected = -(doubt[:, None] * (features @ inner @ tests.mT))
    assert torch.allclose(trak(model, data, "margin", ridge=0.3), expected, atol=1e-10)
    assert torch.allclose(trak(model, data, "loss", ridge=0.3), -expected * test_doubt, atol=1e-10)


def test_trak_averages_kernels_and_doubts_apart(data, models):
    parts = [models.model(index) for index in range(2)]
    doubts = [1 - torch.exp(-outcomes(part, data.x, data.y, "loss"))[0][:, None] for part in parts]
    kernels = [trak(part, data, ridge=0.3) / doubt for part, doubt in zip(parts, doubts)]
    found = trak(models, data, ridge=0.3)
    assert torch.allclose(found, sum(kernels) * sum(doubts) / 4, atol=1e-10)
    assert relative(found, sum(trak(part, data, ridge=0.3) for part in parts) / 2) > 0.01


def test_projections_approach_the_kernel_and_few_of_them_do_not(data, models):
    model = models.model(0)
    whole = trak(model, data, ridge=1.0)
    near, far = ((trak(model, data, ridge=1.0, dimensions=count) - whole).norm() / whole.norm() for count in (50_000, 8))
    assert near < 0.05 < 0.3 < far
    wide = trak(model, data, ridge=1.0, dimensions=40)
    assert torch.equal(wide, trak(model, data, ridge=1.0, dimensions=40))
    assert not torch.equal(wide, trak(model, data, ridge=1.0, dimensions=40, seed=1))
    with pytest.raises(ValueError, match="ridge must be above"):
        trak(model, data, ridge=0.0)


def test_floors(data, models):
    pixels = similarity(data, "margin", "pixels")
    varying = data.x[:, :3]
    assert torch.allclose(pixels[3, 2], -torch.cosine_similarity(varying[3], data.test_x[2, :3], dim=0) * (data.y[3] == data.test_y[2]))
    assert torch.equal(similarity(data, "loss", "pixels"), -pixels) and not pixels[data.y[:, None] != data.test_y].any()
    train, test = (example_gradients(models.model(0), x, y, kind).dense()
                   for x, y, kind in ((data.x, data.y, "loss"), (data.test_x, data.test_y, "margin")))
    train, test = (rows / rows.norm(dim=1, keepdim=True) for rows in (train, test))
    assert torch.allclose(similarity(data, "margin", "gradient", models.model(0)), train @ test.mT)
    first = similarity(data, measure="random")
    assert torch.equal(first, similarity(data, measure="random")) and not torch.equal(first, similarity(data, measure="random", seed=1))


def test_an_examples_own_twin_is_the_worst_to_lose(data, models):
    """Every method says that a training example, asked as a test example, has a larger loss and a smaller margin without itself."""
    twins = data._replace(test_x=data.x, test_y=data.y)
    batch = replace(RECIPE, divide="batch")
    for kind, sign in (("loss", 1), ("margin", -1)):
        for scores in (influence(models, twins, batch, kind, damping=0.1), influence(models, twins, batch, kind, "ekfac", damping=0.1),
                       tracin(models, [1.0, 1.0], twins, batch, kind), trak(models, twins, kind, ridge=0.1),
                       similarity(twins, kind), similarity(twins, kind, "gradient", models)):
            assert (sign * scores.diagonal() > 0).all()


def test_what_does_not_fit_is_named(data, models):
    with pytest.raises(ValueError, match="model must be one model"):
        curvature_matrix(models, data.x, data.y)
    with pytest.raises(ValueError, match="x must have 4 features"):
        influence(models, data._replace(x=data.x[:, 1:]), RECIPE, damping=0.1)
    with pytest.raises(ValueError, match="y must be 36 classes 0 .. 2"):
        influence(models, data._replace(y=data.y + 1), RECIPE, damping=0.1)
    with pytest.raises(ValueError, match="kind must be one of 'loss', 'margin'"):
        influence(models, data, RECIPE, "accuracy", damping=0.1)
    with pytest.raises(ValueError, match="curvature must be one of 'hessian', 'gauss_newton', 'ekfac'"):
        influence(models, data, RECIPE, curvature="fisher", damping=0.1)
    with pytest.raises(ValueError, match="rates must be finite numbers, one for each of 2 checkpoints"):
        tracin(models, [1.0], data, RECIPE)
    with pytest.raises(ValueError, match="models must be given where the measure is 'gradient'"):
        similarity(data, measure="gradient")
    with pytest.raises(ValueError, match="models must be at least one model"):
        influence(models.model(slice(0, 0)), data, RECIPE, damping=0.1)
    with pytest.raises(ValueError, match="models must be finite"):
        influence(Classifiers(*(weight * torch.nan for weight in models)), data, RECIPE, damping=0.1)
    wide = Classifiers(torch.ones(1, 60, 100), torch.ones(1, 60, 100), torch.ones(1, 10, 60))
    with pytest.raises(ValueError, match="dense tensor of shape .12600, 12600. would need 1.2 GiB.*ekfac"):
        curvature_matrix(wide, torch.ones(3, 100), torch.tensor([0, 1, 2]))
