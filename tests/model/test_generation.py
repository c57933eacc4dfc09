"""Generation: the recurrent state equals the full forward pass, in bounded memory."""

import pytest
import torch

from tensorlm.layers.state import features
from tensorlm.model import ModelConfig, TensorTransformer
from tensorlm.model.generation import sample

SMALL = dict(vocab_size=11, context=16, width=16, layers=2, head_dim=8, bigram="table")
POSITIONS = [(), ("decay",), ("rope", "decay"), ("toeplitz",), ("rope", "decay", "toeplitz", "key_offset")]


def make(dtype=torch.float64, scale=0.25, **changes):
    torch.manual_seed(0)
    model = TensorTransformer(ModelConfig(**{**SMALL, **changes})).to(dtype)
    for parameter in model.parameters():
        parameter.data.normal_(0, scale)
    return model.eval()


def stepped(model, text):
    state = model.empty_state()
    with torch.no_grad():
        return torch.stack([model.step(text[:, i : i + 1], state) for i in range(text.shape[1])], dim=1), state


@pytest.mark.parametrize("attention", ["bilinear", "squared"])
@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("row_scale", ["sqrt", "mean"])
def test_recurrent_logits_equal_the_full_pass_far_beyond_the_context(attention, positions, row_scale):
    model = make(attention=attention, positions=positions, row_scale=row_scale, value_residual="learned",
                 shortcut="learned")
    text = torch.randint(0, 11, (2, 50))
    torch.testing.assert_close(stepped(model, text)[0], model(text).detach(), rtol=1e-9, atol=1e-10)


def test_float32_stays_within_a_millionth_of_the_largest_logit():
    model, text = make(torch.float32, scale=0.15), torch.randint(0, 11, (2, 50))
    full = model(text).detach()
    assert (stepped(model, text)[0] - full).abs().max() <= 1e-6 * full.abs().max()


def test_softmax_window_is_exact_up_to_the_context_only():
    model, text = make(attention="softmax"), torch.randint(0, 11, (2, 24))
    logits, full = stepped(model, text)[0], model(text).detach()
    torch.testing.assert_close(logits[:, :16], full[:, :16], rtol=1e-9, atol=1e-10)
    assert not torch.allclose(logits[:, 20:], full[:, 20:], rtol=1e-9)


@pytest.mark.parametrize("attention, positions", [("bilinear", ("decay",)), ("bilinear", ("toeplitz",)), ("softmax", ())])
def test_the_state_does_not_grow(attention, positions):
    model = make(attention=attention, positions=positions)

    def numbers(length):
        state = stepped(model, torch.randint(0, 11, (1, length)))[1].layers[0]
        tensors = [state.sums, state.window_values, *state.window_keys, *state.last_keys]
        return sum(tensor.numel() for tensor in tensors if tensor is not None)

    assert numbers(20) == numbers(60)


def test_square_features_are_as_many_as_they_need_to_be():
    a, b = torch.randn(2, 5, dtype=torch.float64)
    assert features(a).shape == (15,)
    assert (features(a) @ features(b)).item() == pytest.approx((a @ b).item() ** 2, rel=1e-12)


def test_greedy_and_seeded_sampling_are_repeatable():
    model, prompt = make(), torch.tensor([[1, 2, 3]])
    greedy = model.generate(prompt, 6, temperature=0.0)
    assert greedy.shape == (1, 9) and torch.equal(greedy[:, :3], prompt)
    assert greedy[0, 3] == model(prompt)[0, -1].argmax()
    draws = [model.generate(prompt, 6, generator=torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


def test_top_k_never_leaves_the_k_most_likely():
    logits = torch.tensor([[0.0, 3.0, 2.0, 1.0]]).repeat(500, 1)
    assert set(sample(logits, top_k=2).flatten().tolist()) == {1, 2}
    assert len(set(sample(logits).flatten().tolist())) == 4


def test_top_k_keeps_exactly_k_of_equal_logits_the_first():
    logits = torch.tensor([[1.0, 2.0, 2.0, 2.0, 3.0]]).repeat(500, 1)
    for k, kept in ((1, {4}), (2, {1, 4}), (3, {1, 2, 4}), (5, {0, 1, 2, 3, 4}), (9, {0, 1, 2, 3, 4})):
        assert set(sample(logits, top_k=k, temperature=5.0).flatten().tolist()) == kept
    assert set(sample(torch.zeros(500, 4096), top_k=1).flatten().tolist()) == {0}


@pytest.mark.parametrize("temperature", [0.0, 1e-3, 1.0])
@pytest.mark.parametrize("broken", [float("nan"), float("inf"), -float("inf")])
def test_logits_that_are_not_finite_are_refused_with_their_position(temperature, broken):
    with pytest.raises(ValueError, match="logits must be finite, got NaN or infinity in row 1 of the batch"):
        sample(torch.tensor([[0.0, 1.0], [broken, 0.0]]), temperature, top_k=1)
    model = make(norm="none")
    model.blocks[0].mlp.D.data.fill_(1e200)  # finite weights, whose products overflow
    with pytest.raises(ValueError, match="logits must be finite at position 3, .* row 0 .*; check its weights, use float64"):
        model.generate(torch.tensor([[1, 2, 3, 4], [1, 2, 3, 7]]), 3, temperature)


@pytest.mark.parametrize("arguments, message", [
    ((torch.zeros(1, 0, dtype=torch.long), 3), "at least one token"),
    ((torch.zeros(1, 2), 3), "whole numbers"),
    ((torch.tensor([[1]]), 1, float("nan")), "finite"),
    ((torch.tensor([[99]]), 3), "prompt must be tokens from 0 to 10"),
    (([[1]], 3), "prompt must be whole numbers .*got list"),
    ((torch.tensor([[1]]), -1), "count must be a whole number of at least 0"),
    ((torch.tensor([[1]]), 1, 1.0, 0), "top_k must be a whole number of at least 1"),
])
def test_bad_requests_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        make().generate(*arguments)


def test_a_tiny_temperature_is_the_greedy_choice():
    logits = torch.tensor([[0.0, 700.0, 1.0]])
    assert sample(logits, temperature=1e-40).item() == sample(logits, temperature=0.0).item() == 1


def test_a_failed_generation_leaves_the_model_in_training_mode(monkeypatch):
    model = make().train()
    monkeypatch.setattr(model, "unembed", lambda x: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model.generate(torch.tensor([[1]]), 1)
    assert model.training
