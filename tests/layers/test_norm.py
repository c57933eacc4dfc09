"""Norm sites: what each kind computes, and how an annealed site becomes a constant."""

import copy

import pytest
import torch

from tensorlm.layers.norm import NORM_KINDS, Norm, joint_norm


def annealed(fraction=0.0, groups=1, batches=3):
    torch.manual_seed(0)
    site = Norm("anneal", groups).double().train()
    shape = (4, groups, 5, 8) if groups > 1 else (4, 5, 8)
    for _ in range(batches):
        site(3 * torch.randn(shape, dtype=torch.float64))
        site.update()
    site.set_fraction(fraction)
    return site


def test_rms_forgets_the_scale_and_none_keeps_it():
    x = torch.randn(3, 8, dtype=torch.float64)
    torch.testing.assert_close(Norm("rms")(7 * x), Norm("rms")(x), rtol=1e-5, atol=1e-6)
    assert torch.equal(Norm("none")(7 * x), 7 * x)


def test_anneal_goes_from_the_token_norm_to_a_constant():
    x = torch.randn(3, 5, 8, dtype=torch.float64)
    torch.testing.assert_close(annealed(0.0).eval()(x), Norm("rms")(x), rtol=1e-5, atol=1e-6)
    constant = annealed(1.0).eval()
    scale = torch.exp(-constant.log_constant)
    torch.testing.assert_close(constant(x), x * scale, rtol=1e-12, atol=0)
    half = annealed(0.5).eval()
    r = x.square().mean(-1, keepdim=True).sqrt()
    torch.testing.assert_close(half(x), x * r**-0.5 * scale**0.5, rtol=1e-6, atol=1e-9)


def test_the_constant_is_the_geometric_mean_of_the_norms():
    site = annealed(batches=200)
    assert torch.exp(site.log_constant).item() == pytest.approx(3 * 0.94, rel=0.05)


def test_micro_batches_give_the_constant_of_the_whole_batch():
    x = torch.randn(4, 5, 8, dtype=torch.float64)
    whole, parts = Norm("anneal").double().train(), Norm("anneal").double().train()
    whole(x), whole.update()
    parts(x[:2]), parts(x[2:]), parts.update()
    torch.testing.assert_close(whole.log_constant, parts.log_constant, rtol=1e-12, atol=0)


def test_the_constant_is_frozen_at_one_and_untouched_in_evaluation():
    for site in (annealed(1.0), annealed(0.3).eval()):
        before = site.log_constant.clone()
        site(100 * torch.randn(4, 5, 8, dtype=torch.float64))
        site.update()
        assert torch.equal(site.log_constant, before)


def test_penalty_is_zero_for_constant_norms_only():
    site = annealed()
    x = torch.randn(4, 5, 8, dtype=torch.float64)
    level = x / x.square().mean(-1, keepdim=True).sqrt() * torch.exp(site.log_constant)
    site(level)
    assert site.penalty.item() == pytest.approx(0.0, abs=1e-12)
    site(2 * level)
    assert site.penalty.item() == pytest.approx(9.0, rel=1e-9)


def test_groups_have_their_own_constants():
    site = Norm("anneal", groups=2).double().train()
    x = torch.ones(3, 2, 4, 8, dtype=torch.float64)
    x[:, 1] *= 5
    site(x), site.update()
    torch.testing.assert_close(site.log_constant.exp(), torch.tensor([1.0, 5.0], dtype=torch.float64))


def test_state_survives_saving():
    site = annealed(0.4)
    copy = Norm("anneal").double()
    copy.load_state_dict(site.state_dict())
    x = torch.randn(3, 5, 8, dtype=torch.float64)
    assert torch.equal(copy.eval()(x), site.eval()(x))


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="kind must be one of .* got 'layer'"):
        Norm("layer")
    with pytest.raises(ValueError, match=r"of at most 1, got 1.5"):
        Norm("anneal").set_fraction(1.5)


def test_a_site_can_be_copied_in_the_middle_of_training():
    site = annealed()
    site(torch.randn(3, 5, 8, dtype=torch.float64, requires_grad=True))
    twin = copy.deepcopy(site)
    assert twin.penalty is None and torch.equal(twin.log_constant, site.log_constant)


def test_batch_statistics_become_constants():
    site = Norm("batch", groups=2, features=4).double().train()
    generator = torch.Generator().manual_seed(0)
    sizes = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64) * torch.tensor([[1.0], [10.0]], dtype=torch.float64)
    for _ in range(200):
        x = sizes[:, None] * torch.randn(16, 2, 8, 4, generator=generator, dtype=torch.float64)
        y = site(x)
        torch.testing.assert_close(y.square().mean((0, 2)), torch.ones(2, 4, dtype=torch.float64))
        site.update()
    torch.testing.assert_close(1 / site.factor(), sizes, rtol=0.03, atol=0)
    site.eval()
    assert torch.equal(site(2 * x), 2 * site(x))
    assert not torch.allclose(site.train()(2 * x), 2 * y)


def test_learned_factors_and_what_has_none():
    site = Norm("channel", features=3)
    site.gain.data = torch.tensor([1.0, -2.0, 0.5])
    assert torch.equal(site(torch.ones(2, 3)), torch.tensor([[1.0, -2.0, 0.5]] * 2)) and torch.equal(site.factor(), site.gain)
    for kind in ("rms", "joint", "anneal"):
        with pytest.raises(ValueError, match="multiplies by no constant"):
            Norm(kind).factor()
    with pytest.raises(ValueError, match="features must be given"):
        Norm("channel")


def test_the_joint_norm_bounds_scores_and_keeps_them_rational():
    generator = torch.Generator().manual_seed(0)
    q1, q2, k1, k2 = torch.randn(4, 50, 6, generator=generator, dtype=torch.float64)

    def score(q1, q2, k1, k2):
        (q1, q2), (k1, k2) = joint_norm(q1, q2), joint_norm(k1, k2)
        return (q1 * k1).sum(-1) * (q2 * k2).sum(-1)

    size = lambda a, b: (a.square().sum(-1) + b.square().sum(-1)) / 2  # noqa: E731
    expected = 36 * (q1 * k1).sum(-1) * (q2 * k2).sum(-1) / (size(q1, q2) * size(k1, k2))
    torch.testing.assert_close(score(q1, q2, k1, k2), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(score(5 * q1, 5 * q2, k1, k2), expected, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(score(5 * q1, q2, k1, k2), expected, rtol=0.1)
    torch.testing.assert_close(score(q1, q1, q1, q1), torch.full((50,), 36.0, dtype=torch.float64), rtol=1e-3, atol=0)


@pytest.mark.parametrize("kind", NORM_KINDS)
def test_whole_numbers_are_refused(kind):
    with pytest.raises(TypeError, match="x must be a tensor of floating-point numbers, got torch.int64"):
        Norm(kind, features=4)(torch.ones(2, 4, dtype=torch.long))


@pytest.mark.parametrize("kind", ["anneal", "batch"])
def test_a_loop_that_never_updates_keeps_nothing_but_a_sum(kind):
    site, x = Norm(kind, features=4).train(), torch.randn(3, 4)
    for _ in range(5):
        site(x)
    assert sum(value.numel() for value in vars(site).values() if isinstance(value, torch.Tensor)) <= 4 + 1 + 1
    once = Norm(kind, features=4).train()
    once(x)
    site.update(), once.update()
    torch.testing.assert_close(site.log_constant, once.log_constant)
