"""Batches: without replacement, the same for ever, the same for any number of ranks."""

import hashlib

import numpy as np
import pytest
import torch

from tensorlm.data import batches


def starts_of_epoch(parts, context, seed, epoch, batch_size=3):
    """First tokens of all windows of one epoch, drawn batch by batch."""
    per_epoch = sum(batches.window_count(len(p), context) for p in parts)
    first, last = epoch * per_epoch, (epoch + 1) * per_epoch
    rows = [batches.train_batch(parts, step, batch_size, context, seed) for step in range(last // batch_size + 1)]
    return torch.cat(rows)[first:last, 0].tolist()


def is_each_window_once(starts, context):
    starts = sorted(starts)
    return len(set(starts)) == len(starts) and all(b - a == context for a, b in zip(starts, starts[1:]))


@pytest.mark.parametrize("epoch", [0, 1, 5])
@pytest.mark.parametrize("context", [1, 7, 16])
def test_an_epoch_has_each_window_once(context, epoch):
    text = np.arange(301, dtype=np.uint16)
    starts = starts_of_epoch([text], context, seed=4, epoch=epoch)
    assert len(starts) == (301 - context) // context
    assert is_each_window_once(starts, context)
    assert 301 - len(starts) * context < 2 * context + 1           # at most two windows' worth of targets is left over


def test_drawing_with_replacement_would_be_noticed():
    drawn = np.random.default_rng(0).integers(0, 18, 18) * 16
    assert not is_each_window_once(drawn.tolist(), 16)


def test_epochs_and_seeds_differ_in_order_and_offset():
    text = np.arange(3000, dtype=np.uint16)
    runs = [starts_of_epoch([text], 16, seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(run) for run in runs}) == 4
    assert len({min(run) for run in runs}) > 1
    assert all(run != sorted(run) for run in runs)


def test_inputs_and_targets_are_shifted_by_one():
    batch = batches.train_batch([np.arange(500, dtype=np.uint16)], 2, 8, 32, seed=0)
    assert batch.shape == (8, 33) and batch.dtype == torch.int64
    assert torch.equal(batch[:, 1:], batch[:, :-1] + 1)


def test_a_batch_depends_on_its_arguments_alone():
    text = [np.arange(900, dtype=np.uint16)]
    wanted = batches.train_batch(text, 11, 4, 16, seed=3)
    for step in (40, 0, 11):
        again = batches.train_batch(text, step, 4, 16, seed=3)
    batches.epoch_order.cache_clear()
    assert torch.equal(again, wanted)
    assert torch.equal(batches.train_batch(text, 11, 4, 16, seed=3), wanted)
    assert not torch.equal(batches.train_batch(text, 12, 4, 16, seed=3), wanted)


def test_the_stream_does_not_depend_on_the_batch_size():
    text = [np.arange(400, dtype=np.uint16)]                        # 24 windows: the batches of 10 straddle epochs
    small = torch.cat([batches.train_batch(text, step, 2, 16, seed=1) for step in range(30)])
    large = torch.cat([batches.train_batch(text, step, 10, 16, seed=1) for step in range(6)])
    whole = batches.train_batch(text, 0, 60, 16, seed=1)            # more than two epochs at once
    assert torch.equal(small, large) and torch.equal(small, whole)


def test_ranks_together_see_the_batch_of_one_process():
    text = [np.arange(900, dtype=np.uint16)]
    whole = batches.train_batch(text, 5, 8, 16, seed=0)
    strided = [batches.train_batch(text, 5, 8, 16, seed=0, rows=slice(rank, None, 2)) for rank in range(2)]
    halves = [batches.train_batch(text, 5, 8, 16, seed=0, rows=slice(4 * rank, 4 * rank + 4)) for rank in range(2)]
    assert torch.equal(torch.stack(strided, 1).flatten(0, 1), whole)
    assert torch.equal(torch.cat(halves), whole)


def test_no_window_crosses_a_part_and_all_parts_are_used():
    parts = [np.arange(100), np.arange(1000, 1077), np.arange(5000, 5003)]      # the last is too short for a window
    starts = starts_of_epoch(parts, 16, seed=0, epoch=0)
    batch = batches.train_batch(parts, 0, len(starts), 16, seed=0)
    assert (batch[:, 1:] - batch[:, :-1] == 1).all()
    assert {int(row[0]) // 1000 for row in batch} == {0, 1}
    assert len(starts) == (100 - 16) // 16 + (77 - 16) // 16


def test_the_order_is_frozen():
    """Resumed runs and stored results rely on this order: it must not change with NumPy or with the code."""
    part, start = batches.epoch_order((1000, 700), 16, seed=7, epoch=2)
    digest = hashlib.sha256(np.concatenate([part, start]).astype("<i8").tobytes()).hexdigest()
    assert digest[:16] == "ea6e37b0cedfd89c"


def test_validation_windows_cover_the_text_once():
    windows = batches.all_windows([np.arange(100, dtype=np.uint16)], 8)
    assert windows.shape == ((100 - 1) // 8, 9) and windows.dtype == torch.int64
    assert windows[:, 1:].flatten().tolist() == list(range(1, 97))
    assert batches.all_windows([np.arange(9)], 8).shape == (1, 9)


def test_validation_windows_of_several_parts():
    windows = batches.all_windows([np.arange(20), np.arange(5), np.arange(100, 117)], 8)
    assert windows[:, 0].tolist() == [0, 8, 100, 108]


@pytest.mark.parametrize("arguments, name", [
    (dict(step=-1), "step must .* got -1"), (dict(batch_size=0), "batch_size must .* got 0"), (dict(context=0), "context must .* got 0"),
    (dict(seed=-5), "seed must .* got -5"), (dict(step=1.5), "step must .* got 1.5"), (dict(context=60), "context=60"),
])
def test_errors_name_the_argument(arguments, name):
    good = dict(step=0, batch_size=2, context=8, seed=0)
    with pytest.raises(ValueError, match=name):
        batches.train_batch([np.arange(100)], **{**good, **arguments})


def test_a_text_too_short_to_validate_on():
    with pytest.raises(ValueError, match="context=8"):
        batches.all_windows([np.arange(8)], 8)
