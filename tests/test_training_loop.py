"""The loop: exact accumulation, the log, resuming bit for bit, stopping when the loss is no number."""

import os
import signal

import numpy as np
import pytest
import torch

from tensorlm.data import TokenData
from tensorlm.model import ModelConfig, TensorTransformer
from tensorlm.training import (
    CheckpointError,
    TrainConfig,
    TrainingError,
    evaluate,
    evaluate_worst,
    load_checkpoint,
    load_model,
    save_checkpoint,
    train,
    trainer as trainer_module,
)
from tensorlm.training.log import COLUMNS, read_csv
from tensorlm.training.trainer import Trainer

MODEL = ModelConfig(vocab_size=11, context=8, width=16, layers=2, head_dim=8, bigram="table")
ANNEAL = ModelConfig(vocab_size=11, context=8, width=16, layers=2, head_dim=8, norm="anneal")
FAST = TrainConfig(steps=14, batch_size=8, precision="float32", log_every=4, checkpoint_every=3)
CLOCKS = ("seconds", "cpu_seconds", "tokens_per_second")


def corpus(seed=0, name="noise"):
    """Tokens that repeat with period seven, one in five replaced."""
    rng = np.random.default_rng(seed)
    text = np.where(rng.random(3000) < 0.2, rng.integers(0, 11, 3000), np.arange(3000) % 7)
    return TokenData(name, "digits", 11, f"{seed:064x}", train=text[:2700], valid=text[2700:])


def same_weights(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def without_clocks(rows):
    return [{name: value for name, value in row.items() if name not in CLOCKS} for row in rows]


class Stop(Exception):
    """Stands for a process that dies between two steps."""


def stop_at(step):
    def progress(row):
        if row["step"] >= step:
            raise Stop
    return progress


@pytest.mark.parametrize("model, settings", [
    (MODEL, {}), (ANNEAL, dict(clip=1.0, skip_factor=5.0)), (MODEL, dict(optimizer="adamw", micro_batch=3)),
    (MODEL, dict(optimizer="muon")), (MODEL, dict(precision="bfloat16")), (MODEL, dict(precision="float16")),
])
def test_a_resumed_run_ends_bit_for_bit_where_an_undisturbed_one_does(tmp_path, model, settings):
    config, data = FAST.replace(**settings), corpus()
    whole = train(model, config, data)
    with pytest.raises(Stop):
        train(model, config, data, out=tmp_path, progress=stop_at(8))
    assert [p.name[5:13] for p in sorted((tmp_path / "checkpoints").iterdir())] == ["00000003", "00000006"]
    resumed = train(model, config, data, out=tmp_path, resume=True)
    assert same_weights(resumed.model, whole.model) and resumed.loss_valid == whole.loss_valid
    assert without_clocks(resumed.history) == without_clocks(whole.history)
    assert without_clocks(read_csv(tmp_path / "log.csv")) == without_clocks(whole.history)
    assert [row["step"] for row in whole.history] == [4, 8, 12, 14]


@pytest.mark.parametrize("lost", ["exp_avg_sq", "momentum_buffer", "step"])
def test_the_comparison_would_notice_lost_optimiser_state(tmp_path, lost):
    data = corpus()
    whole = train(MODEL, FAST, data)
    with pytest.raises(Stop):
        train(MODEL, FAST, data, out=tmp_path, progress=stop_at(8))
    c = load_checkpoint(tmp_path)
    state = {name: value * (0.5 if name.endswith(lost) else 1) for name, value in c.optimizer.items()}
    save_checkpoint(c.path, c.model, train_config=c.train_config, source=c.source, state=c.state, optimizer=state,
                    rng=c.rng)
    assert not same_weights(train(MODEL, FAST, data, out=tmp_path, resume=True).model, whole.model)


def test_resuming_before_the_first_checkpoint_begins_anew(tmp_path):
    config, data = FAST.replace(checkpoint_every=None), corpus()
    with pytest.raises(Stop):
        train(MODEL, config, data, out=tmp_path, progress=stop_at(4))
    resumed = train(MODEL, config, data, out=tmp_path, resume=True)
    assert same_weights(resumed.model, train(MODEL, config, data).model)
    assert [row["step"] for row in read_csv(tmp_path / "log.csv")] == [4, 8, 12, 14]


def test_resuming_a_finished_run_changes_nothing_and_reports_it(tmp_path):
    data = corpus()
    first = train(MODEL, FAST, data, out=tmp_path)
    again = train(MODEL, FAST, data, out=tmp_path, resume=True)
    assert same_weights(first.model, again.model) and again.loss_valid == first.loss_valid
    assert read_csv(tmp_path / "log.csv") == first.history == again.history


def test_a_folder_with_a_run_is_never_overwritten(tmp_path):
    data = corpus()
    train(MODEL, FAST, data, out=tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match="holds a run already"):
        train(MODEL, FAST.replace(seed=1), data, out=tmp_path)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_resume_refuses_another_run(tmp_path):
    with pytest.raises(ValueError, match="no run to resume"):
        train(MODEL, FAST, corpus(), out=tmp_path / "empty", resume=True)
    train(MODEL, FAST, corpus(), out=tmp_path)
    with pytest.raises(ValueError, match="seed = 0, not 1"):
        train(MODEL, FAST.replace(seed=1), corpus(), out=tmp_path, resume=True)
    with pytest.raises(ValueError, match="model setting norm = 'rms', not 'none'"):
        train(ModelConfig.from_dict({**MODEL.to_dict(), "norm": "none"}), FAST, corpus(), out=tmp_path, resume=True)
    with pytest.raises(ValueError, match="trained with sha256"):
        train(MODEL, FAST, corpus(seed=1), out=tmp_path, resume=True)


def test_a_half_written_checkpoint_and_row_are_no_obstacle(tmp_path):
    data = corpus()
    with pytest.raises(Stop):
        train(MODEL, FAST, data, out=tmp_path, progress=stop_at(8))
    leftover = tmp_path / "checkpoints" / ".step_00000009.safetensors.77.tmp"
    leftover.write_bytes(b"half")
    with open(tmp_path / "log.csv", "a") as file:
        file.write("12,768,1.9")
    resumed = train(MODEL, FAST, data, out=tmp_path, resume=True)
    assert same_weights(resumed.model, train(MODEL, FAST, data).model) and not leftover.exists()
    assert [row["step"] for row in read_csv(tmp_path / "log.csv")] == [4, 8, 12, 14]


def test_micro_batches_give_the_gradient_of_the_whole_batch():
    trainer = Trainer(ANNEAL, FAST, corpus())
    trainer.step(), trainer.step()
    batch = trainer.batch(2)

    def gradients(micro_batch):
        trainer.config = FAST.replace(micro_batch=micro_batch)
        for p in trainer.parameters:
            p.grad = None
        loss = trainer._backward(batch)
        return loss, torch.cat([p.grad.flatten() for p in trainer.parameters])

    whole, uneven = gradients(None), gradients(3)
    torch.testing.assert_close(uneven, whole, rtol=1e-4, atol=1e-6)
    unweighted = sum(trainer._backward_piece(piece, 1 / 3) for piece in batch.split(3))
    assert abs(unweighted - whole[0]) > 1e-4  # 3 + 3 + 2 rows do not weigh the same


def test_a_loss_that_is_no_number_stops_the_run_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer_module, "lr_scale", lambda step, config: float("inf") if step == 7 else 1.0)
    with pytest.raises(TrainingError, match=r"step 8: the loss is (nan|inf) \(batch sha256 [0-9a-f]{16}") as caught:
        train(MODEL, FAST.replace(checkpoint_every=2), corpus(), out=tmp_path)
    good, spoilt = sorted((tmp_path / "checkpoints").iterdir())
    assert (good.name[5:13], spoilt.name[5:13]) == ("00000006", "00000008")
    assert f"last good checkpoint: {good}" in str(caught.value)
    windows = corpus().valid_windows(8)
    assert evaluate(load_model(good), windows) < 3 and not evaluate(load_model(spoilt), windows) < 3
    assert not (tmp_path / "model.safetensors").exists()


def test_losses_fetched_late_are_the_same_and_name_the_same_step():
    """On a GPU, and with several processes, losses are fetched once a row instead of once a step."""
    at_once, late = (Trainer(MODEL, FAST, corpus()) for _ in range(2))
    late.checks_every_step = False
    for _ in range(4):
        at_once.step(), late.step()
    assert late.recent == [] and len(late.unsettled) == 4
    late.settle()
    assert late.recent == at_once.recent
    late.unsettled, late.done = [torch.tensor(x) for x in (1.0, float("nan"), 2.0)], 9
    with pytest.raises(TrainingError, match="step 7: the loss is nan") as caught:
        late.settle()
    assert caught.value.step == 7


def test_without_a_checkpoint_it_says_so():
    with pytest.raises(TrainingError, match="step 1: .*last good checkpoint: none was written"):
        train(MODEL, FAST.replace(optimizer="adamw", lr_matrix=1e30), corpus())


def test_annealed_norms_are_constants_at_the_end():
    config = FAST.replace(steps=30, clip=1.0, skip_factor=5.0)
    result = train(ANNEAL, config, corpus())
    assert result.model.anneal_fraction() == 1.0 and result.model.polynomial_degree().value is not None
    assert result.history[-1]["anneal"] == 1.0 and result.history[0]["anneal"] < 1.0


def test_training_learns_and_the_rows_tell():
    seen = []
    result = train(MODEL, FAST.replace(steps=60, validate_every=30), corpus(), progress=seen.append)
    assert result.loss_valid < 1.6 < result.history[0]["loss"]  # chance: log 11 = 2.40; the noise alone leaves 1.1
    assert seen == result.history and set(seen[0]) == set(COLUMNS)
    assert [row["step"] for row in seen if row["loss_valid"] is not None] == [30, 60]
    assert result.tokens == 60 * 8 * 8 == seen[-1]["tokens"]


def test_a_seed_fixes_the_run_and_another_changes_it():
    one, same, other = (train(MODEL, FAST.replace(seed=seed), corpus()) for seed in (0, 0, 1))
    assert same_weights(one.model, same.model) and not same_weights(one.model, other.model)


def test_the_model_must_know_every_token():
    with pytest.raises(ValueError, match="vocab_size = 10: the data needs 11"):
        train(ModelConfig(vocab_size=10, context=8, width=16), FAST, corpus())


def test_evaluate_is_the_mean_over_every_position():
    model = TensorTransformer(MODEL, seed=3)
    torch.nn.init.normal_(model.head)
    windows = corpus().valid_windows(8)
    logits = model(windows[:, :-1])
    by_hand = -logits.log_softmax(-1).gather(-1, windows[:, 1:, None]).mean().item()
    assert evaluate(model, windows) == pytest.approx(by_hand, rel=1e-6)
    assert evaluate(model, windows, batch_size=5) == pytest.approx(by_hand, rel=1e-6)
    assert evaluate_worst(model, windows, batch_size=4) > by_hand > evaluate_worst(model, windows, 4) * 0.5
    assert evaluate_worst(model, windows, batch_size=10**6) == pytest.approx(by_hand, rel=1e-6)
    assert model.training
    with pytest.raises(ValueError, match="windows must have shape"):
        evaluate(model, windows[0])


def test_the_released_model_has_the_stated_loss(tmp_path):
    result = train(MODEL, FAST, corpus(), out=tmp_path, card={"command": "make it"})
    assert evaluate(load_model(tmp_path / "model.safetensors"), corpus().valid_windows(8)) == result.loss_valid
    card = load_checkpoint(result.path).card
    assert (card["loss_valid"], card["seed"], card["tokens"]) == (result.loss_valid, 0, 14 * 8 * 8)
    assert card["command"] == "make it"


def test_a_checkpoint_that_lacks_optimiser_state_is_refused(tmp_path):
    with pytest.raises(Stop):
        train(MODEL, FAST, corpus(), out=tmp_path, progress=stop_at(8))
    c = load_checkpoint(tmp_path)
    for name in ("head.exp_avg_sq", next(name for name in c.optimizer if name.endswith("momentum_buffer"))):
        rest = {key: value for key, value in c.optimizer.items() if key != name}
        save_checkpoint(c.path, c.model, train_config=c.train_config, source=c.source, state=c.state, optimizer=rest,
                        rng=c.rng)
        with pytest.raises(CheckpointError, match=f"'optimizer.{name}' is missing"):
            train(MODEL, FAST, corpus(), out=tmp_path, resume=True)


def test_a_text_without_a_window_and_other_refusals_leave_no_folder(tmp_path):
    out, text = tmp_path / "run", np.arange(100) % 11
    for train_text, valid in ((text, text[:5]), (text[:9], text)):
        with pytest.raises(ValueError, match="context=8"):
            train(MODEL, FAST, TokenData("short", "digits", 11, "0" * 64, train=train_text, valid=valid), out=out)
    with pytest.raises(ValueError, match="progress 'loud'"):
        train(MODEL, FAST, corpus(), out=out, progress="loud")
    assert not out.exists()


def test_the_last_checkpoint_comes_before_the_last_validation(tmp_path, monkeypatch):
    config = FAST.replace(checkpoint_every=None)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "validate", lambda self: (_ for _ in ()).throw(Stop()))
        with pytest.raises(Stop):
            train(MODEL, config, corpus(), out=tmp_path)
    assert [p.name[5:13] for p in (tmp_path / "checkpoints").iterdir()] == ["00000014"]
    resumed, whole = train(MODEL, config, corpus(), out=tmp_path, resume=True), train(MODEL, config, corpus())
    assert same_weights(resumed.model, whole.model)
    assert without_clocks(resumed.history) == without_clocks(whole.history)


def test_a_held_out_loss_that_is_no_number_is_not_released(tmp_path):
    config = FAST.replace(steps=1, lr_matrix=1e30, optimizer="adamw")
    with pytest.raises(TrainingError, match="step 1: the loss on held-out text is .*none was written"):
        train(MODEL, config, corpus(), out=tmp_path)
    assert not (tmp_path / "model.safetensors").exists()


def interrupted(tmp_path, progress, config):
    """Stop a run by ``progress``, go on, and compare with an undisturbed run; the step that was saved."""
    with pytest.raises(KeyboardInterrupt):
        train(MODEL, config, corpus(), out=tmp_path, progress=progress)
    found = [p.name[5:13] for p in sorted((tmp_path / "checkpoints").glob("*"))]
    resumed, whole = train(MODEL, config, corpus(), out=tmp_path, resume=True), train(MODEL, config, corpus())
    assert same_weights(resumed.model, whole.model)
    assert without_clocks(resumed.history) == without_clocks(whole.history)
    return found


def test_an_interrupt_from_progress_saves_the_row_s_step(tmp_path):
    def progress(row):
        if row["step"] == 8:
            raise KeyboardInterrupt
    assert interrupted(tmp_path, progress, FAST.replace(checkpoint_every=None)) == ["00000008"]


@pytest.mark.parametrize("step, saved", [(5, "00000006"), (13, "00000014")])
def test_control_c_within_a_step_saves_at_its_end(tmp_path, monkeypatch, step, saved):
    backward = Trainer._backward

    def press(self, batch):
        if self.done == step and not pressed:
            pressed.append(os.kill(os.getpid(), signal.SIGINT))
        return backward(self, batch)

    pressed = []
    monkeypatch.setattr(Trainer, "_backward", press)
    assert interrupted(tmp_path, None, FAST.replace(checkpoint_every=None)) == [saved]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_control_c_stops_at_once(tmp_path, monkeypatch):
    def press(self, batch):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("still running")

    monkeypatch.setattr(Trainer, "_backward", press)
    with pytest.raises(KeyboardInterrupt):
        train(MODEL, FAST, corpus(), out=tmp_path)


def test_an_evaluation_that_fails_gives_the_mode_back():
    model = TensorTransformer(MODEL)
    with pytest.raises((IndexError, ValueError)):
        evaluate(model, torch.full((2, 9), 99))
    assert model.training
