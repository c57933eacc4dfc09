"""Effects of leaving out: equal to training again, paired by seed; variances and reliability; the ridge head by its hat matrix."""

import pytest
import torch
from sklearn.linear_model import Ridge

from tensorlm.data_attribution import Classifiers, Recipe, RidgeHead, centred_digits, leave_one_out, outcomes, train_bank, two_way, without
from tensorlm.data_attribution.leave_one_out import Variances

RECIPE = Recipe(epochs=4, batch=30, hidden=5, dtype=torch.float64)
LEFT_OUT = range(0, 60, 3)
SEEDS = (0, 1, 2, 3)


@pytest.fixture(scope="module")
def digits():
    return centred_digits(120, torch.float64)


@pytest.fixture(scope="module")
def tables(digits):
    return [leave_one_out(digits, RECIPE, seed, LEFT_OUT) for seed in SEEDS]


def test_without_leaves_out_what_it_is_told():
    assert torch.equal(without(4), torch.cat([torch.ones(1, 4), 1 - torch.eye(4)]))
    assert torch.equal(without(4, [3, (0, 2)]), torch.tensor([[1.0, 1, 1, 1], [1, 1, 1, 0], [0, 1, 0, 1]]))
    for left_out, message in (([4], "an example to leave out must be a whole number from 0 to 3, got 4"),
                              ([[0, -1]], "from 0 to 3, got -1"),
                              ([[]], "at least one"), ([[1, 1]], "each of them once"), ([1.5], "must be a whole number")):
        with pytest.raises(ValueError, match=message):
            without(4, left_out)


def test_effects_are_those_of_training_again(digits, tables):
    kept = torch.ones(120, dtype=torch.float64)
    kept[LEFT_OUT[4]] = 0
    for kind in ("loss", "margin"):
        full, less = (outcomes(train_bank(digits.x, digits.y, weights[None], RECIPE, 2), digits.test_x, digits.test_y, kind)[0]
                      for weights in (torch.ones(120), kept))
        table = tables[2].effects(kind)
        assert table.shape == (20, 355) and (table[4] - (less - full)).abs().max() < 1e-10
        assert (table[5] - (less - full)).abs().max() > 1e-4  # another example
    with pytest.raises(ValueError, match="kind must be one of 'loss', 'margin'"):
        tables[0].effects("accuracy")


def test_an_example_left_out_of_the_data_and_one_of_weight_zero_are_one_thing(digits, tables):
    """Whatever stands in the place of an example that is left out, the model is the same."""
    x = digits.x.clone()
    x[LEFT_OUT[0]] *= -2
    again = leave_one_out(digits._replace(x=x), RECIPE, 0, [LEFT_OUT[0]])
    torch.testing.assert_close(again.margin[1], tables[0].margin[1], rtol=0, atol=1e-10)
    assert not torch.allclose(again.margin[0], tables[0].margin[0], atol=1e-2)


def test_models_that_are_not_paired_by_seed_bury_the_effect(digits, tables):
    unpaired = leave_one_out(digits, RECIPE, 100, LEFT_OUT, pairing="unpaired")
    paired, buried = tables[0].effects(), unpaired.effects()
    assert buried.std() > 5 * paired.std()
    parts = two_way(torch.stack([table.margin[1:] for table in tables])).pooled()
    assert parts.signal_to_noise("paired") > 50 * parts.signal_to_noise("unpaired") > 0
    with pytest.raises(ValueError, match="pairing must be one of 'paired', 'unpaired', got 'half'"):
        leave_one_out(digits, RECIPE, pairing="half")


def test_effects_and_outcomes_have_the_same_points_and_interactions(tables):
    outcome = two_way(torch.stack([table.margin[1:] for table in tables]))
    effect = two_way(torch.stack([table.effects() for table in tables]))
    torch.testing.assert_close(outcome.point, effect.point)
    torch.testing.assert_close(outcome.interaction, effect.interaction)
    assert outcome.seed.mean() > 20 * effect.seed.mean()


# Variances, on tables whose variances are known

POINT, SEED, INTERACTION = 0.6, 4.0, 1.0


def simulated(seeds, points, generator, paired=True):
    def noise(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    shift = SEED**0.5 * (noise(seeds, 1) if paired else noise(seeds, points))
    return shift, INTERACTION**0.5 * noise(seeds, points)


def test_the_variances_of_a_simulated_table_come_out():
    generator = torch.Generator().manual_seed(0)
    point = POINT**0.5 * torch.randn(400, generator=generator, dtype=torch.float64)
    table = torch.stack([point + sum(simulated(8, 400, generator)) for _ in range(100)], 2)  # (seeds, points, test examples)
    parts = two_way(table).pooled()
    assert abs(parts.point - POINT) < 0.1 and abs(parts.interaction - INTERACTION) < 0.02 and abs(parts.seed - SEED) < 0.6
    without_seeds = two_way(table.transpose(0, 1)).pooled()
    torch.testing.assert_close(without_seeds.point, parts.seed)  # the two ways of the table changed


@pytest.mark.parametrize("seeds", [1, 6])
def test_reliability_is_the_correlation_of_two_tables(seeds):
    generator = torch.Generator().manual_seed(1)
    point = POINT**0.5 * torch.randn(20_000, generator=generator, dtype=torch.float64)
    parts = Variances(*(torch.tensor(value) for value in (POINT, SEED, INTERACTION)))
    found = {}
    for pairing in ("paired", "unpaired"):
        pair = torch.stack([point + sum(simulated(seeds, 20_000, generator, pairing == "paired")).mean(0) for _ in range(2)])
        found[pairing] = torch.corrcoef(pair)[0, 1]
        assert abs(found[pairing] - parts.reliability(seeds, pairing)) < 0.02
    assert found["paired"] > parts.reliability(seeds, "unpaired") + 0.2  # the seeds of unpaired models are noise


def test_the_seeds_that_are_needed_give_the_reliability():
    parts = Variances(torch.tensor([0.6, 0.0]), torch.tensor([810.0, 1.0]), torch.tensor([1.0, 1.0]))
    needed = parts.seeds_needed(0.8)
    assert abs(needed[0] - 4 / 0.6) < 1e-5 and needed[1] == torch.inf
    assert abs(parts.seeds_needed(0.8, "unpaired")[0] - 4 * 811 / 0.6) < 1e-2
    assert abs(Variances(*(torch.tensor(2.0),) * 3).reliability(4) - Variances(*(torch.tensor(2.0),) * 3).reliability(8, "unpaired")) < 1e-6
    for call, message in ((lambda: parts.seeds_needed(1.0), "reliability must be below 1"), (lambda: parts.reliability(0), "seeds must be"),
                          (lambda: two_way(torch.ones(1, 5)), "of at least two seeds"), (lambda: parts.noise("all"), "pairing must be"),
                          (lambda: two_way(torch.full((2, 2), torch.nan)), "table must be finite")):
        with pytest.raises(ValueError, match=message):
            call()


# The ridge head

@pytest.fixture(scope="module")
def ridge(digits):
    """Products of an untrained bilinear layer, with the classes as +1 and -1."""
    generator = torch.Generator().manual_seed(0)
    left, right, down = (torch.randn(1, *size, generator=generator, dtype=torch.float64) for size in ((40, 65), (40, 65), (10, 40)))
    models = Classifiers(left, right, down)
    features, test_features = models.features(digits.x)[0], models.features(digits.test_x)[0]
    targets = 2 * torch.nn.functional.one_hot(digits.y, 10).double() - 1
    return features, targets, test_features, RidgeHead(features, targets, 0.5)


def trained_again(features, targets, test_features, kept, penalty=0.5):
    """The predictions of scikit-learn's ridge on the kept examples."""
    model = Ridge(penalty, fit_intercept=False, solver="cholesky").fit(features[kept].numpy(), targets[kept].numpy())
    return torch.from_numpy(model.predict(test_features.numpy()))


def test_leaving_one_out_of_the_ridge_head_equals_training_again(ridge):
    features, targets, test_features, head = ridge
    everyone = torch.arange(len(features))
    full = trained_again(features, targets, test_features, everyone)
    assert (head.predict(test_features) - full).abs().max() < 1e-8
    effects = head.leave_one_out(test_features)
    assert effects.shape == (120, 355, 10)
    truth = torch.stack([trained_again(features, targets, test_features, everyone != i) - full for i in everyone])
    assert (effects - truth).abs().max() < 1e-8
    assert (head.influence(test_features) - truth).abs().max() > 1e-2  # without its leverage


def test_influence_is_leaving_out_times_one_minus_the_leverage(ridge):
    _, _, test_features, head = ridge
    share = (1 - head.leverages).view(-1, 1, 1)
    assert 0.3 < share.min() < share.max() < 0.95  # so the factor says something
    torch.testing.assert_close(head.influence(test_features), share * head.leave_one_out(test_features), rtol=1e-12, atol=1e-12)


def test_leaving_a_set_out_of_the_ridge_head_equals_training_again(ridge):
    features, targets, test_features, head = ridge
    everyone = torch.arange(len(features))
    full = trained_again(features, targets, test_features, everyone)
    for rows in ([3], [0, 7, 11], list(range(60))):
        kept = torch.ones(120, dtype=torch.bool)
        kept[rows] = False
        truth = trained_again(features, targets, test_features, kept) - full
        assert (head.leave_out(rows, test_features) - truth).abs().max() < 1e-8
        alone = (head.leave_one_out(test_features)[rows].sum(0) - truth).abs().max()
        assert alone < 1e-8 if len(rows) == 1 else alone > 1e-2  # effects of single examples do not add up


def test_a_ridge_head_that_nothing_determines_is_refused(ridge):
    features, targets, test_features, head = ridge
    assert RidgeHead(features, targets, 0).leave_one_out(test_features).isfinite().all()
    with pytest.raises(ValueError, match="penalty must be large enough to leave the matrix of the features positive definite, got 0"):
        RidgeHead(torch.cat([features, features], 1), targets, 0)
    with pytest.raises(ValueError, match="penalty must be large enough for what is left to determine the head"):
        RidgeHead(features, targets, 0).leave_out(range(90), test_features)
    with pytest.raises(ValueError, match="a leverage is 1"):
        RidgeHead(torch.eye(3), torch.eye(3), 0).leave_one_out(torch.eye(3))
    for arguments, message in (((features, targets[:5], 1), "targets must be a matrix of 120 rows"),
                               ((features[0], targets, 1), "features must be"), ((features, targets, -1), "penalty must be")):
        with pytest.raises(ValueError, match=message):
            RidgeHead(*arguments)
    with pytest.raises(ValueError, match="from 0 to 119, got 120"):
        head.leave_out([120], test_features)
