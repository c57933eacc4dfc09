"""Runs of the trainer spread over processes: the same results as one after the other, kept one by one."""

import json

import pytest

from tensorlm.data import load
from tensorlm.model import ModelConfig
from tensorlm.studies import spread
from tensorlm.training import TrainConfig, train

JOBS = {f"seed-{seed}": {"seed": seed} for seed in range(3)}


def trainer():
    """A run, made here so that it travels to the workers as it is."""
    def run(seed, rate=0.02):
        import os

        model = ModelConfig(vocab_size=54, width=16, layers=1, context=8, bigram="none")
        recipe = TrainConfig(steps=6, batch_size=4, seed=seed, lr_matrix=rate, precision="float32")
        result = train(model, recipe, load("toy", valid_documents=8))
        return {"loss": result.loss_valid, "process": os.getpid()}

    return run


@pytest.mark.slow
def test_two_workers_give_what_one_gives(tmp_path):
    one, two = (spread(trainer(), JOBS, tmp_path / str(workers), workers) for workers in (1, 2))
    assert list(one) == list(two) == list(JOBS)
    assert [job["loss"] for job in one.values()] == [job["loss"] for job in two.values()]
    assert len({job["loss"] for job in one.values()}) == 3
    assert {job["process"] for job in two.values()}.isdisjoint({job["process"] for job in one.values()})


def test_a_killed_list_goes_on_and_other_arguments_are_refused(tmp_path):
    ran = []

    def run(seed):
        if len(ran) == 2:
            raise KeyboardInterrupt
        ran.append(seed)
        return seed**2

    with pytest.raises(KeyboardInterrupt):
        spread(run, JOBS, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["seed-0.json", "seed-1.json"]
    assert spread(lambda seed: ran.append(seed) or 100, JOBS, tmp_path) == {"seed-0": 0, "seed-1": 1, "seed-2": 100} and ran == [0, 1, 2]
    assert json.loads((tmp_path / "seed-1.json").read_text()) == {"arguments": {"seed": 1}, "result": 1}
    with pytest.raises(ValueError, match="arguments in .*seed-1.json must be {'seed': 5}; name another folder, got {'seed': 1}"):
        spread(run, {"seed-1": {"seed": 5}}, tmp_path)
    with pytest.raises(ValueError, match="a name of a job must be letters, digits"):
        spread(run, {"../seed": {"seed": 5}}, tmp_path)


def test_runs_that_diverge_are_named_and_the_others_kept(tmp_path):
    def run(seed):
        if seed == 1:
            model = ModelConfig(vocab_size=54, width=16, layers=1, context=8, norm="none")
            return train(model, TrainConfig(steps=9, lr_matrix=1e30), load("toy"))
        return seed

    with pytest.raises(RuntimeError, match="1 of 3 jobs failed, what the others found is kept; seed-1: TrainingError: .*loss"):
        spread(run, JOBS, tmp_path)
    assert spread(run, {name: JOBS[name] for name in ("seed-0", "seed-2")}, tmp_path) == {"seed-0": 0, "seed-2": 2}
