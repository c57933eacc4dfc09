"""Every released model still has the loss on its card, over the whole held-out text."""

import pytest

from tensorlm import released
from tensorlm.training import evaluate
from tensorlm.training.checkpoint import load_checkpoint

MODELS = sorted(path.stem for path in released.checkpoint("micro-tensor").parent.glob("*.safetensors"))


@pytest.mark.parametrize("name", MODELS)
def test_a_released_model_has_the_loss_on_its_card(name):
    card, checkpoint = released.card(name), load_checkpoint(released.checkpoint(name))
    assert released.checkpoint(name).stat().st_size <= 4_000_000
    assert {"corpus", "tokens", "seconds", "loss_valid", "seed", "command"} <= set(card)
    windows = checkpoint.data().valid_windows(checkpoint.model_config.context)
    assert evaluate(checkpoint.model, windows) == pytest.approx(card["loss_valid"], abs=2e-3)
