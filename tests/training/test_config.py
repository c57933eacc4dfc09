"""TrainConfig says what is wrong with a value; recipes exist for every preset."""

import json

import pytest

from tensorlm.data import load
from tensorlm.model.config import PRESETS
from tensorlm.training import TrainConfig, recipe


@pytest.mark.parametrize("field, value", [
    ("steps", 0), ("steps", 2.5), ("steps", True), ("batch_size", "16"), ("micro_batch", 0), ("optimizer", "sgd"),
    ("precision", "fp8"), ("compile", True), ("cooldown", 1.5), ("momentum", 1.0), ("skip_factor", 1.0),
    ("clip", -1.0), ("lr_head", float("nan")), ("anneal", (0.8, 0.1)), ("anneal", (0.5,)), ("seed", -1),
    ("lr_matrix", float("inf")), ("clip", float("inf")), ("norm_penalty", 10**400), ("seed", 99999999999999999999),
    ("constraint", "loose"), ("constraint_size", 0.0), ("sparsity", -0.1),
    ("threads", 10**6), ("anneal", 0.5), ("anneal", ("a", "b")), ("anneal", None), ("anneal", (float("nan"), 1.0)),
])
def test_a_bad_value_is_named_with_its_field(field, value):
    with pytest.raises(ValueError, match=f"TrainConfig.{field} must be "):
        TrainConfig(**{field: value})


def test_json_round_trip_and_unknown_field():
    config = recipe("micro", clip=1.0, anneal=(0.2, 0.5))
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    with pytest.raises(ValueError, match="no field 'learning_rate'"):
        TrainConfig.from_dict({"learning_rate": 1.0})


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_has_a_recipe_and_polynomial_models_are_guarded(name):
    assert recipe(name).micro_batch is None or recipe(name).batch_size % recipe(name).micro_batch == 0
    guarded = recipe(name, norm="anneal")
    assert (guarded.clip, guarded.skip_factor) == (1.0, 5.0)


def test_colab_reads_shakespeare_twice_and_no_more():
    plan = recipe("colab")
    assert plan.steps * plan.batch_size * PRESETS["colab"].context == pytest.approx(2 * len(load("shakespeare").train), rel=0.01)


def test_an_unknown_preset_is_refused():
    with pytest.raises(ValueError, match="preset must be one of .*, got 'huge'"):
        recipe("huge")
