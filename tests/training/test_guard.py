"""Clipping, and the rule that skips a step."""

import math

import pytest
import torch

from tensorlm.training import TrainConfig
from tensorlm.training.optim import FREE_STEPS, GUARD_STATE, GradientGuard


def guard_of(**settings):
    parameters = [torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(2, 2))]
    return GradientGuard(TrainConfig(**settings), parameters)


def offer(guard, norm):
    """Give the guard gradients whose global norm is `norm`; return its verdict and the norm it leaves."""
    for p in guard.parameters:
        p.grad = torch.full_like(p, norm / math.sqrt(7))
    verdict = guard.admits()
    return verdict, math.sqrt(sum(float(p.grad.square().sum()) for p in guard.parameters))


def test_clip_bounds_the_global_norm_and_leaves_small_ones():
    guard = guard_of(clip=1.0)
    assert offer(guard, 4.0) == (True, pytest.approx(1.0)) and guard.norm == pytest.approx(4.0)
    assert offer(guard, 0.5) == (True, pytest.approx(0.5))


def test_without_either_setting_nothing_is_touched():
    guard = guard_of()
    assert offer(guard, 1e9) == (True, pytest.approx(1e9)) and guard.norm is None


@pytest.mark.parametrize("norm", [float("nan"), float("inf"), 51.0])
def test_an_outlier_is_skipped_and_counted(norm):
    guard = guard_of(skip_factor=5.0)
    for _ in range(FREE_STEPS):
        assert offer(guard, 10.0)[0]
    assert not offer(guard, norm)[0] and guard.skipped == 1
    assert offer(guard, 49.0)[0] and guard.skipped == 1


def test_the_first_steps_may_grow_but_not_be_infinite():
    guard = guard_of(skip_factor=5.0)
    assert offer(guard, 0.1)[0] and offer(guard, 10.0)[0]
    assert not offer(guard, float("inf"))[0]


def test_a_lasting_change_of_scale_is_followed():
    guard = guard_of(skip_factor=5.0)
    for _ in range(FREE_STEPS):
        offer(guard, 1.0)
    verdicts = [offer(guard, 20.0)[0] for _ in range(60)]
    assert not verdicts[0] and all(verdicts[50:])


def test_state_goes_on_where_it_stopped():
    first, second = guard_of(skip_factor=5.0), guard_of(skip_factor=5.0)
    for _ in range(FREE_STEPS):
        offer(first, 1.0)
    assert offer(second, 6.0)[0]  # a fresh guard has no mean to compare with
    vars(second).update({name: getattr(first, name) for name in GUARD_STATE})
    assert not offer(second, 6.0)[0]
