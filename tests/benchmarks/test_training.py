"""The benchmarks: their floor is right, their arms are of equal size, and each of them runs for a few steps."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch

from benchmarks import ablation, gpt2_baseline, recipes, time_to_loss, training_step
from benchmarks.ngrams import DISCOUNT, ngram_loss
from tensorlm.data import TokenData
from tensorlm.model import TensorTransformer
from tensorlm.training import evaluate, train

SMALL_GPU = dataclasses.replace(gpt2_baseline.GPU, layers=2, width=48, context=16, batch=8)


def corpus(count=4000, vocab=5):
    tokens = np.random.default_rng(0).integers(0, vocab, count).astype(np.uint16)
    tokens[1::2] = tokens[::2]  # pairs, so that a history of one token helps
    return TokenData("pairs", "numbers", vocab, "", train=tokens[:3000], valid=tokens[3000:])


def by_the_formula(train_tokens, history, token, vocab):
    """p_n of absolute discounting for one token, straight from its definition."""
    lower = by_the_formula(train_tokens, history[1:], token, vocab) if history else 1 / vocab
    n = len(history)
    follow = [int(train_tokens[i + n]) for i in range(len(train_tokens) - n) if tuple(train_tokens[i : i + n]) == history]
    if not follow:
        return lower
    return (max(follow.count(token) - DISCOUNT, 0) + DISCOUNT * len(set(follow)) * lower) / len(follow)


@pytest.mark.parametrize("order", [0, 1, 2])
def test_ngram_counts_match_the_formula(order):
    data = corpus()
    windows = data.valid_windows(8)[:2].numpy()
    losses = []
    for row, place in itertools.product(windows, range(1, 9)):
        history = tuple(int(token) for token in row[max(0, place - order) : place])
        losses.append(-math.log(by_the_formula(data.train, history, int(row[place]), 5)))
    assert ngram_loss(data.train, windows, 5, order)[0] == pytest.approx(np.mean(losses), rel=1e-9)


@pytest.mark.parametrize("target", recipes.TARGETS)
def test_the_arms_of_a_target_have_equal_blocks(target):
    counts = []
    for arm in recipes.TARGETS[target][3]:
        model = TensorTransformer(recipes.settings(target, arm, seed=0)[0])
        counts.append(sum(parameter.numel() for _, parameter in model.parameter_groups()["matrix"]))
    assert max(counts) <= 1.02 * min(counts)


def test_unknown_targets_and_arms_are_named():
    with pytest.raises(ValueError, match="unknown target '1.5'"):
        recipes.settings("1.5", "tensor", 0)
    with pytest.raises(ValueError, match="unknown arm 'lstm'"):
        recipes.settings("1.60", "lstm", 0)


@pytest.mark.parametrize("arm", ablation.ABLATION.arms, ids=lambda arm: arm.name)
def test_every_ablation_changes_something_and_trains(arm):
    model, training = ablation.CHANGES[arm.name]
    declared = ablation.ABLATION.settings(arm, seed=0, budget=1.0, vocab_size=65)
    config, plan = recipes.settings("1.8857", "tensor", 0, model, {"precision": "float32", **training})
    assert declared == (config, plan.replace(validate_every=plan.steps))
    assert (declared == ablation.ABLATION.settings(ablation.ABLATION.arm("none"), 0, 1.0, 65)) == (arm.name == "none")
    small = dataclasses.replace(config, vocab_size=5, context=8)
    assert math.isfinite(train(small, plan.replace(steps=2, batch_size=2), corpus()).loss_valid)


def test_the_ablation_writes_its_table(tmp_path, monkeypatch):
    small = dict(model={**ablation.ABLATION.model, "context": 8}, steps_scale=0.02)
    monkeypatch.setattr(ablation, "ABLATION", dataclasses.replace(ablation.ABLATION, **small))
    monkeypatch.setattr(ablation, "read_corpus", lambda path, split: (None, None, corpus()))
    out = tmp_path / "table.csv"
    ablation.main(["--corpus", "x", "--out", str(out), "--runs", str(tmp_path / "runs"), "--seeds", "0", "--changes", "none", "no MLP"])
    lines = out.read_text().splitlines()
    assert lines[0] == "change,seed,loss,cpu_seconds,parameters"
    assert [line.split(",")[:2] for line in lines[1:]] == [["none", "0"], ["no MLP", "0"]]
    assert '"command": "python -m benchmarks.ablation"' in out.with_suffix(".json").read_text()


@pytest.mark.parametrize("recipe, iterations", [(gpt2_baseline.CPU, 30), (SMALL_GPU, 60)], ids=["CPU", "GPU"])
def test_the_peer_learns_and_reads_its_losses(recipe, iterations):
    tokens = torch.from_numpy(corpus().train.astype(np.int64))
    windows = tokens[:650].view(10, 65)[:, : recipe.context + 1]
    run = gpt2_baseline.Run(recipe, tokens, tokens, 5, seed=0, windows=windows).train(iterations)
    assert [place for place, _, _ in run.losses] == [0, iterations] and run.losses[0][1] == 0 < run.losses[1][1] == run.seconds
    assert run.losses[1][2] < run.losses[0][2] - 0.03
    assert run.losses[1][2] == pytest.approx(evaluate(run.model, windows))  # without dropout
    own = gpt2_baseline.Run(dataclasses.replace(recipe, evaluate_batches=2), tokens, tokens, 5, seed=0).train(1)
    assert [place for place, _, _ in own.losses] == [0, 1] and all(1 < loss < 2 for _, _, loss in own.losses)


def test_jobs_are_interleaved_by_seed():
    options = time_to_loss.parse(["--corpus", "x.txt", "--targets", "1.60", "--seeds", "0", "1"])
    assert [job["seed"] for job in time_to_loss.jobs(options)][1:] == [0] * 4 + [1] * 4


def test_a_step_of_every_arm_can_be_timed():
    assert len(training_step.measure("d=64, T=64, batch 32", "float32", repeats=1)) == len(training_step.ARMS)
