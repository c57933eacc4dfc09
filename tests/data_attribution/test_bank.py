"""A bank of models equals models trained one by one by autograd; it resumes bit for bit and names what is wrong."""


import ctypes
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from tensorlm.data_attribution import Classifiers, Recipe, centred_digits, outcomes, train_bank, trajectory
from tensorlm.data_attribution.bank import bytes_needed, free_memory, plan
from tensorlm.data_attribution.block import batches, first_values, train_block
from tensorlm.training import Muon

RATES = {"sgd": 0.5, "adam": 0.02, "muon": 0.05}
SMALL = dict(epochs=2, batch=32, hidden=5, dtype=torch.float64)
BANK = train_bank.__globals__  # what is patched for a test


@pytest.fixture(scope="module")
def digits():
    return centred_digits(150, torch.float64)


@pytest.fixture(scope="module")
def weights():
    """All examples, one left out, half of them, and fractions."""
    generator = torch.Generator().manual_seed(3)
    rows = torch.ones(4, 150, dtype=torch.float64)
    rows[1, 7] = 0
    rows[2, torch.randperm(150, generator=generator)[:75]] = 0
    rows[3] = torch.rand(150, generator=generator, dtype=torch.float64)
    return rows


def by_autograd(x, y, weights, recipe, seed, divide=None):
    """One model, with torch's own optimisers, losses and gradients; only first values and batches are those of the bank."""
    first = first_values(seed, x.shape[1], int(y.max()) + 1, recipe)
    left, right, down = (torch.nn.Parameter(factor[0].clone()) for factor in first)
    settings = dict(lr=recipe.rate, weight_decay=recipe.weight_decay)
    if recipe.optimiser == "sgd":
        optimiser = torch.optim.SGD([left, right, down], momentum=recipe.momentum, **settings)
    elif recipe.optimiser == "adam":
        optimiser = torch.optim.Adam([left, right, down], betas=(recipe.momentum, 0.999), **settings)
    else:
        optimiser = Muon([left, right, down], lr=recipe.rate, momentum=recipe.momentum, weight_decay=0, ns_dtype=recipe.dtype)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, recipe.steps(len(x)))
    for rows in batches(seed, len(x), recipe):
        losses = F.cross_entropy(((x[rows] @ left.T) * (x[rows] @ right.T)) @ down.T, y[rows], reduction="none")
        loss = (weights[rows] * losses).sum() / (weights[rows].sum() if (divide or recipe.divide) == "present" else len(rows))
        if recipe.optimiser == "muon":
            loss = loss + recipe.weight_decay / 2 * sum(factor.square().sum() for factor in (left, right, down))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return Classifiers(*(factor.detach()[None] for factor in (left, right, down)))


def distance(one, other):
    return max(float((a - b).abs().max()) for a, b in zip(one, other))


@pytest.mark.parametrize("divide", ["present", "batch"])
@pytest.mark.parametrize("optimiser", RATES)
def test_a_bank_equals_models_trained_one_by_one_by_autograd(digits, weights, optimiser, divide):
    x, y = digits.x, digits.y
    recipe = Recipe(optimiser, RATES[optimiser], divide=divide, **SMALL)
    other = "batch" if divide == "present" else "present"
    bank = train_bank(x, y, weights, recipe, 1)
    for number, row in enumerate(weights):
        assert distance(bank.model(number), by_autograd(x, y, row, recipe, 1)) < 1e-10
    assert distance(bank.model(0), by_autograd(x, y, weights[0], recipe, 1, other)) < 1e-10  # nothing is left out
    assert distance(bank.model(1), by_autograd(x, y, weights[1], recipe, 1, other)) > 1e-6  # another normalisation of the batch
    assert distance(bank.model(0), by_autograd(x, y, weights[0], recipe, 2)) > 1e-2  # another seed


def test_models_with_seeds_of_their_own_are_those_of_that_seed(digits, weights):
    recipe = Recipe(**SMALL)
    seeds = [5, 1, 5, 9]
    bank = train_bank(digits.x, digits.y, weights, recipe, seeds)
    for number, seed in enumerate(seeds):
        assert distance(bank.model(number), by_autograd(digits.x, digits.y, weights[number], recipe, seed)) < 1e-10
    assert distance(bank.model(1), train_bank(digits.x, digits.y, weights, recipe, 5).model(1)) > 1e-2


@pytest.mark.parametrize("seeds", [1, [1, 2, 3, 4]])
def test_blocks_of_any_size_give_the_same_models(digits, weights, seeds, monkeypatch):
    recipe = Recipe(**SMALL)
    whole = train_bank(digits.x, digits.y, weights, recipe, seeds)
    monkeypatch.setitem(BANK, "BLOCK_BYTES", 1)
    assert distance(whole, train_bank(digits.x, digits.y, weights, recipe, seeds)) < 1e-12


def test_float32_follows_float64(digits, weights):
    exact, single = Recipe(**SMALL), Recipe(**{**SMALL, "dtype": torch.float32})
    models = [train_bank(digits.x, digits.y, weights, recipe) for recipe in (exact, single)]
    margins = [outcomes(each, digits.test_x.to(each.left.dtype), digits.test_y) for each in models]
    assert models[1].left.dtype == torch.float32 and (margins[0] - margins[1]).abs().max() < 1e-4


def test_a_trajectory_ends_in_the_models_of_the_bank(digits, weights):
    recipe = Recipe("adam", 0.02, **SMALL)
    steps = recipe.steps(150)
    assert steps == 10
    run = trajectory(digits.x, digits.y, weights, recipe, 1, steps=[steps, 0, 3])
    assert list(run) == [0, 3, 10]
    assert distance(run[10], train_bank(digits.x, digits.y, weights, recipe, 1)) < 1e-12
    assert distance(run[0].model(2), first_values(1, 65, 10, recipe)) == 0 < distance(run[3], run[10])
    with pytest.raises(ValueError, match="a step must be a whole number from 0 to 10, got 11"):
        trajectory(digits.x, digits.y, weights, recipe, steps=[11])


def test_outcomes_are_those_of_torch_and_of_the_tensor_of_the_model(digits, weights):
    bank = train_bank(digits.x, digits.y, weights, Recipe(**SMALL))
    x, y = digits.test_x, digits.test_y
    for number in (0, -1):
        logits = bank.cp(number)(x)
        torch.testing.assert_close(bank.logits(x)[number], logits)
        torch.testing.assert_close(outcomes(bank, x, y, "loss")[number], F.cross_entropy(logits, y, reduction="none"))
        chances = logits.softmax(1)[torch.arange(len(y)), y]
        torch.testing.assert_close(outcomes(bank, x, y, "margin")[number], torch.log(chances / (1 - chances)))
    with pytest.raises(ValueError, match="kind must be one of 'loss', 'margin', got 'accuracy'"):
        outcomes(bank, x, y, "accuracy")
    with pytest.raises(ValueError, match="y must be 355 classes 0 .. 9"):
        outcomes(bank, x, y + 1)


# Interrupted, shared out

@pytest.fixture
def small_blocks(monkeypatch):
    """One model a block."""
    monkeypatch.setitem(BANK, "BLOCK_BYTES", 1)


def same_bits(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other))


def test_a_killed_run_goes_on_bit_for_bit(digits, weights, tmp_path, small_blocks, monkeypatch):
    recipe = Recipe(**SMALL)
    whole = train_bank(digits.x, digits.y, weights, recipe)
    calls = []

    def killed(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return train_block(*arguments)

    monkeypatch.setitem(BANK, "train_block", killed)
    with pytest.raises(KeyboardInterrupt):
        train_bank(digits.x, digits.y, weights, recipe, folder=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bank.json", "block_00000.safetensors", "block_00001.safetensors"]
    assert same_bits(train_bank(digits.x, digits.y, weights, recipe, folder=tmp_path), whole)
    assert len(calls) == 5  # three, and the two that were missing
    assert same_bits(train_bank(digits.x, digits.y, weights, recipe, folder=tmp_path), whole) and len(calls) == 5


@pytest.mark.parametrize("change, named", [
    (dict(rate=0.4), "rate = 0.5, not 0.4"), (dict(optimiser="adam"), "optimiser = 'sgd', not 'adam'"),
    (dict(dtype=torch.float32), "dtype = 'torch.float64', not 'torch.float32'"),
])
def test_a_folder_with_another_recipe_is_refused(digits, weights, tmp_path, change, named):
    train_bank(digits.x, digits.y, weights, Recipe(**SMALL), folder=tmp_path)
    with pytest.raises(ValueError, match=f"holds a bank with {named}; name another folder"):
        train_bank(digits.x, digits.y, weights, Recipe(**{**SMALL, **change}), folder=tmp_path)


def test_a_folder_with_other_examples_weights_or_seeds_is_refused(digits, weights, tmp_path):
    recipe = Recipe(**SMALL)
    before = train_bank(digits.x, digits.y, weights, recipe, folder=tmp_path)
    for name, x, y, rows, seeds in (("x", -digits.x, digits.y, weights, 0), ("y", digits.x, digits.y.flip(0), weights, 0),
                                    ("weights", digits.x, digits.y, weights.flip(0), 0), ("seeds", digits.x, digits.y, weights, 1)):
        with pytest.raises(ValueError, match=f"holds a bank with {name} = '"):
            train_bank(x, y, rows, recipe, seeds, folder=tmp_path)
    file = tmp_path / "block_00000.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match="block_00000.safetensors: is damaged"):
        train_bank(digits.x, digits.y, weights, recipe, folder=tmp_path)
    file.unlink()
    assert same_bits(train_bank(digits.x, digits.y, weights, recipe, folder=tmp_path), before)


SHARED = """
import sys
import torch, torch.distributed as dist
from tensorlm.data_attribution import Recipe, centred_digits, train_bank, bank
bank.BLOCK_BYTES = 1
digits = centred_digits(150, torch.float64)
dist.init_process_group("gloo")
models = train_bank(digits.x, digits.y, torch.ones(5, 150) - torch.eye(5, 150), Recipe(epochs=2, hidden=5, dtype=torch.float64))
torch.save(tuple(models), f"{sys.argv[1]}/{dist.get_rank()}.pt")
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_of_torchrun_gather_the_models_of_one(digits, tmp_path, small_blocks):
    script = tmp_path / "bank.py"
    script.write_text(SHARED)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--rdzv-backend", "c10d",
               "--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1", str(script), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    one = train_bank(digits.x, digits.y, torch.ones(5, 150) - torch.eye(5, 150), Recipe(epochs=2, hidden=5, dtype=torch.float64))
    for rank in range(2):
        assert same_bits(one, torch.load(tmp_path / f"{rank}.pt"))


def test_the_jobs_are_shared_out_whole():
    assert plan(5, (7,), 2) == [((0, 1), (7,)), ((2, 3), (7,)), ((4,), (7,))]
    assert plan(6, (1, 2, 1, 3, 1, 4), 2) == [((0, 2), (1,)), ((4,), (1,)), ((1, 3), (2, 3)), ((5,), (4,))]


# What is refused

def test_models_that_diverge_are_named_and_never_ranked(digits, weights):
    recipe = Recipe(rate=60.0, **SMALL)
    with pytest.raises(ValueError, match="models must be finite, got NaN or infinity in 4 of 4: 0, 1, 2, 3; train them with a lower rate"):
        train_bank(digits.x, digits.y, weights, recipe)
    bank = train_bank(digits.x, digits.y, weights, recipe, allow_nonfinite=True)
    assert bank.nonfinite() == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="got NaN or infinity in 4 of 4"):
        outcomes(bank, digits.test_x, digits.test_y)
    good = train_bank(digits.x, digits.y, weights, Recipe(**SMALL))
    mixed = Classifiers(*(torch.cat([a[:2], b[:1]]) for a, b in zip(good, bank)))
    assert mixed.nonfinite() == [2] and not good.nonfinite()


def test_too_little_memory_is_named_in_bytes_before_anything_is_trained(digits, weights, monkeypatch):
    recipe = Recipe(**SMALL)
    monkeypatch.setitem(BANK, "train_block", None)  # would fail if it were called
    needed = bytes_needed(4, digits.x, digits.y, recipe)
    with pytest.raises(ValueError, match=rf"the bank needs {needed:,} bytes \(.* KiB\), available are 1,000 \(1000 B\)"):
        train_bank(digits.x, digits.y, weights, recipe, memory=1000)
    monkeypatch.setitem(free_memory.__globals__, "MEMORY_TABLE", "no such file")
    monkeypatch.setitem(free_memory.__globals__, "CONTAINER_LIMITS", ())
    assert free_memory(torch.device("cpu")) == float("inf")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak of a process is read from /proc")
@pytest.mark.parametrize("optimiser", RATES)
def test_no_more_memory_is_taken_than_estimated(digits, optimiser):
    def kilobytes(name):
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith(name))

    recipe = Recipe(optimiser, 0.01, hidden=64, epochs=1, batch=75)
    weights = torch.ones(1000, 150)
    ctypes.CDLL(None).malloc_trim(0)  # what earlier tests have freed is no room for this one
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # forget the peak up to now
    before = kilobytes("VmRSS")
    models = train_bank(digits.x, digits.y, weights, recipe)
    grown, estimate = 1024 * (kilobytes("VmHWM") - before), bytes_needed(1000, digits.x, digits.y, recipe)
    result = sum(factor.numel() * factor.element_size() for factor in models)
    assert result + 4 * weights.numel() < estimate < 3 * result and grown < 3 * estimate  # allocators keep what is freed


@pytest.mark.parametrize("weights, message", [
    (torch.ones(150), "weights must be a matrix"), (torch.ones(2, 149), "with a column for each example"),
    (torch.ones(0, 150), "weights must be"), ("all", "weights must be"), (-torch.eye(150), "weights must be at least 0, got -1"),
    (torch.full((1, 150), float("nan")), "weights must be finite, got 150 of 150"),
])
def test_weights_that_do_not_fit_are_refused(digits, weights, message):
    with pytest.raises(ValueError, match=message):
        train_bank(digits.x, digits.y, weights, Recipe(**SMALL))


def test_a_subset_without_a_class_is_refused(digits):
    weights = torch.ones(3, 150)
    weights[1, digits.y == 4] = 0
    with pytest.raises(ValueError, match=r"got none of class 4 for model 1 \(1 of 3 models lack a class\)"):
        train_bank(digits.x, digits.y, weights, Recipe(**SMALL))
    weights[1, (digits.y == 4).nonzero()[0]] = 0.5
    assert train_bank(digits.x, digits.y, weights, Recipe(**SMALL)).size == 3


def test_other_arguments_that_do_not_fit_are_refused(digits):
    ones = torch.ones(2, 150)
    for change, message in ((dict(seeds=[1]), "seeds must be one whole number, or one for each of"), (dict(seeds=-1), "a seed must be"),
                            (dict(y=digits.y.float()), "y must be 150 classes"), (dict(x=digits.x[0]), "x must be a matrix"),
                            (dict(x=digits.x / 0), "x must be finite"), (dict(memory=-1), "memory must be")):
        arguments = dict(x=digits.x, y=digits.y, weights=ones, recipe=Recipe(**SMALL)) | change
        with pytest.raises(ValueError, match=message):
            train_bank(**arguments)
    for settings, message in ((dict(optimiser="lion"), "optimiser must be one of"), (dict(momentum=1.0), "momentum must be below 1"),
                              (dict(divide="all"), "divide must be one of"), (dict(dtype=torch.float16), "dtype must be torch.float32 or"),
                              (dict(rate=-1.0), "rate must be"), (dict(epochs=0), "epochs must be")):
        with pytest.raises(ValueError, match=message):
            Recipe(**settings)
    with pytest.raises(ValueError, match="count must be a whole number from 1 to 1442"):
        centred_digits(2000)


def test_a_bar_is_shown_on_a_terminal_or_when_asked(digits, capsys):
    train_bank(digits.x, digits.y, torch.ones(2, 150), Recipe(**SMALL))
    assert capsys.readouterr().err == ""
    train_bank(digits.x, digits.y, torch.ones(2, 150), Recipe(**SMALL), progress=True)
    assert "2/2" in capsys.readouterr().err
