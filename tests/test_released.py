"""What the package ships: models that load, tables that still parse."""

import json

import pytest
import torch

from tensorlm import released
from tensorlm.data import load
from tensorlm.data.toy.corpus import kl_by_rule
from tensorlm.training import evaluate
from tensorlm.training.checkpoint import load_checkpoint

FOLDER = released.checkpoint("micro-tensor").parent
TABLES = sorted(path.stem for path in (FOLDER.parent / "results").glob("*.csv"))


def test_a_damaged_weight_would_be_noticed():
    checkpoint = load_checkpoint(released.checkpoint("micro-tensor"))
    windows = load("shakespeare").valid_windows(checkpoint.model_config.context)[:64]
    before = evaluate(checkpoint.model, windows)
    with torch.no_grad():
        checkpoint.model.blocks[0].mlp.D.mul_(-1)
    assert abs(evaluate(checkpoint.model, windows) - before) > 0.01


@pytest.mark.parametrize("name", TABLES)
def test_a_released_table_has_rows_and_provenance(name):
    rows = released.results(name)
    assert len(rows) and not rows.isna().all(axis=1).any()
    provenance = FOLDER.parent / "results" / f"{name.removesuffix('_probes')}.json"
    assert json.loads(provenance.read_text())["command"].startswith("python -m ")


def test_unknown_names_are_answered_with_the_known_ones():
    with pytest.raises(FileNotFoundError, match="micro-tensor"):
        released.checkpoint("gpt-5")
    with pytest.raises(FileNotFoundError, match="speedrun_ablation"):
        released.results("nothing")


def test_the_toy_model_is_one_polynomial_and_knows_every_rule():
    checkpoint = load_checkpoint(released.checkpoint("toy-polynomial"))
    model = checkpoint.model.eval()
    assert int(model.polynomial_degree()) == 100
    batch = checkpoint.data().valid_batch(checkpoint.model_config.context)
    with torch.no_grad():
        excess = kl_by_rule(model(batch.tokens[:, :-1]), batch)
    assert len(excess) == 15 and max(excess.values()) < 0.01
