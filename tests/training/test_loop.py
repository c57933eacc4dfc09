"""The loop: exact accumulation, the log, resuming bit for bit, stopping when the loss is no number."""

import functools
import json
import multiprocessing as mp
import os
import signal

import numpy as np
import pytest
import torch

from tensorlm.data import TokenData
from tensorlm.model import ModelConfig, TensorTransformer
from tensorlm.training import TrainConfig, evaluate, load_model, train, trainer as trainer_module
from tensorlm.training.checkpoint import CheckpointError, load_checkpoint, save_checkpoint, source_of
from tensorlm.training.evaluation import tails
from tensorlm.training.folder import LOG_COLUMNS, RunFolder, RunSettings, read_log
from tensorlm.training.trainer import Trainer, TrainingError, count_parameters, require_memory

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
    assert without_clocks(read_log(tmp_path / "log.csv")) == without_clocks(whole.history)
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
    assert [row["step"] for row in read_log(tmp_path / "log.csv")] == [4, 8, 12, 14]


def test_resuming_a_finished_run_changes_nothing_and_reports_it(tmp_path):
    data = corpus()
    first = train(MODEL, FAST, data, out=tmp_path)
    again = train(MODEL, FAST, data, out=tmp_path, resume=True)
    assert same_weights(first.model, again.model) and again.loss_valid == first.loss_valid
    assert read_log(tmp_path / "log.csv") == first.history == again.history


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
    others = [tmp_path / ".notes.txt.77.tmp", tmp_path / ".log.csv.tmp", tmp_path / "mine" / ".run.json.77.tmp"]
    others[-1].parent.mkdir()
    for other in others:
        other.write_text("not ours")
    with open(tmp_path / "log.csv", "a") as file:
        file.write("12,768,1.9")
    resumed = train(MODEL, FAST, data, out=tmp_path, resume=True)
    assert same_weights(resumed.model, train(MODEL, FAST, data).model) and not leftover.exists()
    assert all(other.read_text() == "not ours" for other in others)
    assert [row["step"] for row in read_log(tmp_path / "log.csv")] == [4, 8, 12, 14]


def test_resume_deletes_nothing_where_there_is_no_run(tmp_path):
    file = tmp_path / ".log.csv.77.tmp"
    file.write_text("not ours")
    with pytest.raises(ValueError, match="no run to resume"):
        train(MODEL, FAST, corpus(), out=tmp_path, resume=True)
    assert file.read_text() == "not ours" and list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("state, message", [
    (dict(step=9999), "step must be int from 0 to 14, got 9999"),
    (dict(step=5), "step = 5, the name of the file says another one"),
    (dict(step="6"), "step must be int .*, got '6'"), (dict(step=True), "got True"), (dict(step=6.5), "got 6.5"),
    (dict(clock=[1.0, float("nan")]), "clock must be float from 0 to inf, got nan"), (dict(clock=[1.0]), "unpack"),
    (dict(clock=3), "not iterable"), (dict(recent=[None]), "recent must be float .* got None"),
    (dict(guard=[]), "indices must be"), (dict(guard={"mean": 1.0}), "has no 'seen'"),
    (dict(guard={"mean": -1.0, "seen": 1, "skipped": 0, "in_a_row": 0}), "mean must be float from 0 .* got -1.0"),
    (dict(precision=["float32"]), "has precision"), (dict(precision="fp8"), "has precision 'fp8'"),
])
def test_resume_believes_no_state_that_cannot_be(tmp_path, state, message):
    with pytest.raises(Stop):
        train(MODEL, FAST, corpus(), out=tmp_path, progress=stop_at(8))
    c = load_checkpoint(tmp_path)
    save_checkpoint(c.path, c.model, train_config=c.train_config, source=c.source, state={**c.state, **state},
                    optimizer=c.optimizer, rng=c.rng)
    with pytest.raises(CheckpointError, match=f"step_00000006.safetensors: its state .*{message}"):
        train(MODEL, FAST, corpus(), out=tmp_path, resume=True)
    assert not (tmp_path / "model.safetensors").exists()


def test_resume_misses_the_rows_of_a_log_that_is_gone_or_shortened(tmp_path):
    with pytest.raises(Stop):
        train(MODEL, FAST.replace(log_every=2), corpus(), out=tmp_path, progress=stop_at(8))
    log = tmp_path / "log.csv"
    lines = log.read_text().splitlines(keepends=True)
    for text, message in ((None, "has no row of step 2, though the run has taken 6 steps"),
                          ("".join(lines[:2] + lines[3:]), "has no row of step 4"),
                          (lines[0] + lines[1].replace("2,", "two,", 1), "is not the log of a run")):
        log.unlink(missing_ok=True)
        if text is not None:
            log.write_text(text)
        with pytest.raises(ValueError, match=f"log.csv: {message}"):
            train(MODEL, FAST.replace(log_every=2), corpus(), out=tmp_path, resume=True)
    log.write_text("".join(lines))
    train(MODEL, FAST.replace(log_every=2), corpus(), out=tmp_path, resume=True)


@pytest.mark.parametrize("change, message", [
    (lambda run: [], "indices must be integers"), (lambda run: "x", "indices must be"), (lambda run: {}, "'model_config'"),
    (lambda run: {**run, "source": []}, "source must be a JSON object"),
    (lambda run: {**run, "card": "x"}, "card must be a JSON object, got 'x'"),
    (lambda run: {**run, "model_config": "x"}, "model_config must be .* got 'x'"),
    (lambda run: {**run, "train_config": None}, "train_config must be .* got None"),
    (lambda run: {**run, "model_config": {**run["model_config"], "width": "16"}}, "width must be a whole number"),
    (lambda run: {**run, "model_config": {**run["model_config"], "mlp": ["relu"]}}, "mlp must be one of"),
    (lambda run: {**run, "train_config": {**run["train_config"], "anneal": {"a": 1}}}, "TrainConfig.anneal must be"),
])
def test_a_damaged_run_file_is_one_sentence(tmp_path, change, message):
    with pytest.raises(Stop):
        train(MODEL, FAST, corpus(), out=tmp_path, progress=stop_at(8))
    run = json.loads((tmp_path / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps(change(run)))
    with pytest.raises(CheckpointError, match=f"run.json: is damaged: .*{message}"):
        train(MODEL, FAST, corpus(), out=tmp_path, resume=True)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "9" * 6000, "\xff"])
def test_a_run_file_that_is_no_json_is_named(tmp_path, text):
    (tmp_path / "run.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointError, match="run.json: is damaged"):
        train(MODEL, FAST, corpus(), out=tmp_path, resume=True)


def test_batch_norms_keep_the_size_of_a_forward_pass(tmp_path):
    def config(**changes):
        return ModelConfig.from_dict({**MODEL.to_dict(), **changes})
    for number, (model, kept) in enumerate([(MODEL, True), (config(norm="batch"), False), (config(qk_norm="batch"), False)]):
        out = tmp_path / str(number)
        with pytest.raises(Stop):
            train(model, FAST, corpus(), out=out, progress=stop_at(8))
        if kept:
            train(model, FAST.replace(micro_batch=2), corpus(), out=out, resume=True)
            continue
        with pytest.raises(ValueError, match="had 8 sequences a forward pass, now it would have 2 .micro_batch, processes."):
            train(model, FAST.replace(micro_batch=2), corpus(), out=out, resume=True)
        resumed = train(model, FAST.replace(micro_batch=8), corpus(), out=out, resume=True)
        assert same_weights(resumed.model, train(model, FAST, corpus()).model)


def test_a_folder_has_one_owner_at_a_time(tmp_path):
    def second(row):
        for resume, message in ((True, "another process trains in this folder"), (False, "holds a run already")):
            with pytest.raises(ValueError, match=message):
                train(MODEL, FAST, corpus(), out=tmp_path / "run", resume=resume)
        tried.append(row["step"])

    tried = []
    result = train(MODEL, FAST, corpus(), out=tmp_path / "run", progress=second)
    assert tried == [4, 8, 12, 14] and same_weights(result.model, train(MODEL, FAST, corpus()).model)
    train(MODEL, FAST, corpus(), out=tmp_path / "run", resume=True)  # given back at the end


def test_of_two_starts_at_once_exactly_one_succeeds(tmp_path):
    """Processes that wait for one another and then begin in the same folder, many times."""
    fork = mp.get_context("fork")
    folders, barrier, outcomes = [tmp_path / str(n) for n in range(25)], fork.Barrier(2), fork.Queue()

    def work():
        for folder in folders:
            barrier.wait(60)
            try:
                with RunFolder(folder).started(RunSettings(MODEL, FAST, source_of(corpus()), {})):
                    barrier.wait(60)  # held until the other one has been refused
                    outcomes.put((folder.name, "begun"))
            except ValueError as error:
                barrier.wait(60)
                outcomes.put((folder.name, str(error).partition(": ")[2][:12]))

    workers = [fork.Process(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    found = [outcomes.get(timeout=60) for _ in range(2 * len(folders))]
    for worker in workers:
        worker.join()
    for folder in folders:
        said = sorted(what for name, what in found if name == folder.name)
        assert said in (["another proc", "begun"], ["begun", "holds a run "]), said
        assert json.loads((folder / "run.json").read_text())["train_config"]["steps"] == 14


def test_memory_is_counted_before_anything_is_built():
    cpu, token = torch.device("cpu"), 8 * 11 + 2 * 2 * (2 * 16 + MODEL.hidden)
    needed = 12 * TensorTransformer(MODEL).parameter_count() + 16 * 8 * 9 + 4 * 8 * token
    require_memory(MODEL, 8, 4, cpu, limit=needed)
    with pytest.raises(ValueError, match="memory: this run needs at least .* GB .weights, .*, cpu has .*choose a smaller"):
        require_memory(MODEL, 8, 4, cpu, limit=needed - 1)
    for kinds in (dict(layers=3, value_residual="learned", shortcut="learned"), dict(mlp="full"), dict(mlp="product", encoders=5)):
        model = ModelConfig.from_dict({**MODEL.to_dict(), **kinds})
        assert count_parameters(model) == TensorTransformer(model).parameter_count()
    huge = [dict(mlp="full", width=10**5, head_dim=8), dict(layers=1000, width=10**6), dict(width=16 * 10**9), dict(context=10**12)]
    for changes in huge:
        with pytest.raises(ValueError, match="memory: "):
            Trainer(ModelConfig.from_dict({**MODEL.to_dict(), "bigram": "none", **changes}), FAST, corpus())
    with pytest.raises(ValueError, match="memory: .*a batch 1.44e.05"):
        Trainer(MODEL, FAST.replace(batch_size=10**12), corpus())


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
    assert evaluate(load_model(good), windows) < 3
    with pytest.raises(CheckpointError, match=f"{spoilt.name}: tensor 'model.bigram' must be finite, got 2112 of 2112 entries NaN"):
        load_model(spoilt)
    assert not evaluate(load_model(spoilt, allow_nonfinite=True), windows) < 3
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
    assert seen == result.history and set(seen[0]) == set(LOG_COLUMNS)
    assert [row["step"] for row in seen if row["loss_valid"] is not None] == [30, 60]
    assert result.tokens == 60 * 8 * 8 == seen[-1]["tokens"]


def test_threads_are_set_and_given_back():
    before, seen = torch.get_num_threads(), []
    train(MODEL, FAST.replace(steps=1, threads=2), corpus(), progress=lambda row: seen.append(torch.get_num_threads()))
    assert seen == [2] and torch.get_num_threads() == before


def test_a_seed_fixes_the_run_and_another_changes_it():
    one, same, other = (train(MODEL, FAST.replace(seed=seed), corpus()) for seed in (0, 0, 1))
    assert same_weights(one.model, same.model) and not same_weights(one.model, other.model)


def test_the_model_must_know_every_token():
    with pytest.raises(ValueError, match="vocab_size must be a whole number of at least 11, got 10"):
        train(ModelConfig(vocab_size=10, context=8, width=16), FAST, corpus())


def test_evaluate_is_the_mean_over_every_position():
    model = TensorTransformer(MODEL, seed=3)
    torch.nn.init.normal_(model.head)
    windows = corpus().valid_windows(8)
    logits = model(windows[:, :-1])
    by_hand = -logits.log_softmax(-1).gather(-1, windows[:, 1:, None]).mean().item()
    assert evaluate(model, windows) == pytest.approx(by_hand, rel=1e-6)
    assert evaluate(model, windows, batch_size=5) == pytest.approx(by_hand, rel=1e-6)
    losses = torch.tensor([evaluate(model, window[None]) for window in windows])
    shuffled = losses[torch.randperm(len(losses), generator=torch.Generator().manual_seed(0))]
    worst = max(shuffled[:16].mean(), shuffled[16:32].mean()).item()
    assert 32 <= len(windows) < 48 and tails(model, corpus())["worst batch"] == pytest.approx(worst - by_hand, abs=1e-5)
    short = TokenData("short", "digits", 11, "", train=corpus().train, valid=corpus().valid[:90])
    assert tails(model, short) == {"worst batch": 0.0}
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
    with pytest.raises(ValueError, match="progress must be .*, got 'loud'"):
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
    """Stop a run by `progress`, go on, and compare with an undisturbed run; the step that was saved."""
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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("step, saved", [(5, "00000006"), (13, "00000014")])
def test_control_c_or_sigterm_within_a_step_saves_at_its_end(tmp_path, monkeypatch, step, saved, number):
    backward = Trainer._backward

    def press(self, batch):
        if self.done == step and not pressed:
            pressed.append(os.kill(os.getpid(), number))
        return backward(self, batch)

    pressed = []
    monkeypatch.setattr(Trainer, "_backward", press)
    assert interrupted(tmp_path, None, FAST.replace(checkpoint_every=None)) == [saved]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_second_control_c_stops_at_once(tmp_path, monkeypatch):
    def press(self, batch):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("still running")

    monkeypatch.setattr(Trainer, "_backward", press)
    with pytest.raises(KeyboardInterrupt):
        train(MODEL, FAST, corpus(), out=tmp_path)


def test_an_evaluation_that_fails_gives_the_mode_back(monkeypatch):
    model = TensorTransformer(MODEL)
    monkeypatch.setattr(model, "unembed", lambda x: (_ for _ in ()).throw(Stop()))
    with pytest.raises(Stop):
        evaluate(model, torch.full((2, 9), 1))
    assert model.training


@pytest.mark.parametrize("windows, message", [
    (torch.full((2, 9), 11), "token ids from 0 to 10; got 11 to 11"), (torch.full((2, 9), -1), "token ids from 0 to 10; got -1"),
    (torch.ones(2, 9), "whole numbers; got torch.float32"), (torch.ones(9, dtype=torch.long), "got torch.int64 .9,."),
    ([[1, 2]], "got list"), (torch.ones(2, 9, dtype=torch.bool), "got torch.bool"),
])
def test_windows_that_are_no_tokens_of_the_model_are_refused(windows, message):
    with pytest.raises(ValueError, match=f"windows must .*{message}"):
        evaluate(TensorTransformer(MODEL), windows)
    for size in (0, -1, 2.0):
        with pytest.raises(ValueError, match=f"batch_size must be a whole number of at least 1, got {size}"):
            evaluate(TensorTransformer(MODEL), torch.ones(2, 9, dtype=torch.long), batch_size=size)


@pytest.mark.parametrize("choices", [{}, {"attention": "softmax", "mlp": "relu2", "value_residual": "learned"}], ids=str)
def test_a_deeper_model_compiles_no_more_graphs(choices, monkeypatch):
    """The first block, those like the second, and the loss; the graphs are traced and run as they are."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    counts, plan = [], TrainConfig(steps=2, batch_size=2, precision="float32", compile="on")
    for layers in (2, 5):
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        config = ModelConfig(vocab_size=11, context=8, width=16, head_dim=8, layers=layers, **choices)
        compiled = train(config, plan, corpus(), device="cpu")
        counts.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
        plain = train(config, plan.replace(compile="off"), corpus(), device="cpu")
        torch.testing.assert_close(compiled.model.state_dict(), plain.model.state_dict())
    assert counts == [3, 3]
