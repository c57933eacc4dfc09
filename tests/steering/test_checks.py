"""What goes into `tensorlm.steering` is checked by name; every kind of constant norm and every polynomial MLP is prepared alike."""

import pytest
import torch
from steering_models import TIME, VOCAB, model, tokens, vector
from tensor_cases import close, differ

import tensorlm.steering as steering
from tensorlm.model import ModelConfig, TensorTransformer
from tensorlm.steering import (
    Injection,
    Steerable,
    as_polynomial,
    behind_mlp,
    by_carrier,
    by_source,
    by_term,
    compare,
    decompose_effect,
    direct_logit_attribution,
    embedding_difference,
    joint_response,
    mean_difference,
    random_like,
    steered_logits,
    steering_response,
    trace,
    unembedding_difference,
    weights_alone,
)
from tensorlm.steering.attribution import Contributions
from tensorlm.steering.prepare import layer_tensor

MADE, TEXT, S = model("plain"), tokens()[0], vector()


def normed(norm="anneal", seed=0, **options) -> TensorTransformer:
    """Random weights and random constants at every site."""
    sizes = dict(vocab_size=VOCAB, width=4, head_dim=2, context=4)
    made = TensorTransformer(ModelConfig(**sizes | dict(norm=norm, qk_norm="batch") | options)).double().eval()
    generator = torch.Generator().manual_seed(seed)
    for name, value in (*made.named_parameters(), *made.named_buffers()):
        if name.split(".")[-1] not in ("fraction", "steps", "input_scale"):
            value.data = 0.4 * torch.randn(value.shape, dtype=torch.float64, generator=generator)
    made.set_anneal(1.0)
    return made.requires_grad_(False)


def logits_of(made, text):
    logits = made(text[None])[0].detach()
    return logits / logits.abs().max()


# Models

@pytest.mark.parametrize("norm, options", [
    ("anneal", dict(mlp_hidden=3)), ("anneal", dict(mlp="symmetric", head="tied")), ("batch", dict(mlp="symmetric", head="tied")),
    ("channel", dict(mlp="full", head="tied", shortcut="learned")), ("scale", dict(mlp="square", mlp_hidden=3, value_residual="learned"))])
def test_accounts_are_of_the_model_whatever_its_constant_norms(norm, options):
    """Sites that are no anneal were once left out of the accounts, without a word."""
    made = normed(norm, **options)
    pair = compare(made, TEXT, S, layer=1, positions=[1, 3], alpha=0.7)
    injection = Injection.make(made, TIME, S, 1, [1, 3])
    base, steered = steered_logits(made, TEXT, injection, [0.0, 0.7], read=3)
    close(pair.model.unembed(pair.base.x)[0, 3], base)
    change = steered[2] - steered[5] - base[2] + base[5]
    for account in (direct_logit_attribution, by_source):
        close(account(pair, unembedding_difference(made, 5, 2), 3).values.sum(-1), change[None], scale=base.abs().max())
    terms = by_term(pair, 1, S, 3)
    close(terms.values.sum(-1), terms.change, scale=terms.values.abs().sum())
    bare = TensorTransformer(ModelConfig(**{**made.config.to_dict(), "norm": "none", "qk_norm": "none"})).double().eval()
    bare.load_state_dict(made.state_dict(), strict=False)
    differ(logits_of(bare, TEXT), logits_of(made, TEXT))  # the same weights without their sites are another model


def test_a_symmetric_tensor_is_a_layer_like_the_others():
    made = as_polynomial(normed("none", mlp="symmetric", qk_norm="none"))
    x = vector(3)
    close(layer_tensor(made, 1)(x), made.blocks[1].mlp(x))
    assert weights_alone(made, S, 1).self_term.shape == (4,)


def test_a_polynomial_is_made_once_and_a_steerable_one_is_taken():
    made = normed()
    once = as_polynomial(made.requires_grad_(True))
    assert as_polynomial(once) is once is not made and as_polynomial(MADE) is MADE
    close(as_polynomial(Steerable.of(made))(TEXT[None]), made(TEXT[None]).detach())
    assert not any(weight.requires_grad for weight in once.parameters())
    close(mean_difference(Steerable.of(made), TEXT, tokens(seed=1)[0], 1), mean_difference(made, TEXT, tokens(seed=1)[0], 1))


def test_a_norm_of_each_token_is_never_folded_into_the_head():
    half = normed("anneal")
    half.set_anneal(0.5)
    bare = (half.head[1] - half.head[0]).detach()
    close(unembedding_difference(half, 0, 1), bare)
    differ(unembedding_difference(normed("anneal"), 0, 1), bare)
    with pytest.raises(ValueError, match="still 50% a per-token norm"):
        compare(half, TEXT, S, 0)


# Results that were wrong once

def test_strengths_that_move_nothing_still_give_a_row_each():
    for injection in (Injection.make(MADE, TIME, 0 * S, 1), Injection.make(MADE, TIME, S, 1, -1)):
        logits = steered_logits(MADE, TEXT, injection, [0.0, 1.0, 2.0], read=2)
        close(logits, MADE(TEXT[None])[:, 2].expand(3, -1))
    softmax = normed("rms", attention="softmax", mlp_hidden=3, qk_norm="none")
    still = steering_response(softmax, TEXT, S, 1, -1, read=2)
    assert still.error < 1e-12 and still.tipping_points() == ()


def test_the_remainder_of_a_joint_jet_is_measured_at_the_corners():
    jet = joint_response(MADE, TEXT, torch.stack([S, vector(2)]), 1, order=3, reach=0.5)
    corners = jet.error_at([[0.5, 0.5], [0.5, -0.5], [-0.5, 0.5], [-0.5, -0.5]])
    assert jet.error >= corners.max().item() * (1 - 1e-9) > 1e-6


def test_a_series_holds_on_its_interval_alone():
    away = steering_response(MADE, TEXT, S, 0, interval=(1, 2), method="chebyshev")
    close(away.logits(1.5), steering_response(MADE, TEXT, S, 0).logits(1.5))
    with pytest.raises(ValueError, match="strengths must lie in the interval"):
        away.logits(0.0)


# What does not fit

WRONG_VECTORS = [(torch.ones(3), ValueError), (torch.ones(2, 4), ValueError), (torch.ones(4, dtype=torch.long), TypeError),
                 (torch.ones(4).half(), TypeError), (torch.ones(4).bfloat16(), TypeError),
                 (torch.tensor([1.0, torch.nan, 0, 0]), ValueError), (torch.tensor([1.0, torch.inf, 0, 0]), ValueError),
                 ([1.0] * 4, TypeError), (None, TypeError)]


@pytest.mark.parametrize("bad, kind", WRONG_VECTORS)
def test_vectors_are_checked_everywhere(bad, kind):
    pair, report = compare(MADE, TEXT, S, 1), weights_alone(MADE, S, 1)
    for name, call in [("vector", lambda: steering_response(MADE, TEXT, bad, 1)), ("vector", lambda: compare(MADE, TEXT, bad, 1)),
                       ("vector", lambda: weights_alone(MADE, bad, 1)),
                       ("vector", lambda: decompose_effect(MADE, TEXT, bad, 1, S)),
                       ("readout", lambda: direct_logit_attribution(pair, bad)),
                       ("readout", lambda: by_source(pair, bad)), ("readout", lambda: by_carrier(pair, 1, bad)),
                       ("readout", lambda: trace(pair, bad)), ("readout", lambda: report.writers_table(None, 3, bad))]:
        with pytest.raises(kind, match=f"^{name} must"):
            call()


@pytest.mark.parametrize("bad", [torch.tensor([1, VOCAB]), torch.tensor([-1, 1]), torch.tensor([], dtype=torch.long), torch.ones(2),
                                 torch.tensor(1)])
def test_tokens_are_checked_everywhere(bad):
    injection = Injection.make(MADE, 2, S, 1)
    for call in (lambda: steering_response(MADE, bad, S, 1), lambda: compare(MADE, bad, S, 1), lambda: mean_difference(MADE, bad, bad, 1),
                 lambda: decompose_effect(MADE, bad, S, 1, S), lambda: steered_logits(MADE, bad, injection, [1.0])):
        with pytest.raises(ValueError, match="^tokens must be"):
            call()
    with pytest.raises(ValueError, match="^others: each must be a whole number from 0 to 6"):
        embedding_difference(MADE, [1], [VOCAB])


@pytest.mark.parametrize("bad", [TIME, -TIME - 1, 1.0, True, None, [1]])
def test_positions_that_are_read_are_checked_everywhere(bad):
    pair = compare(MADE, TEXT, S, 1)
    for account in (direct_logit_attribution, by_source, trace):
        with pytest.raises(ValueError, match="^position must be a whole number from -5 to 4"):
            account(pair, S, position=bad)
    for account in (by_term, by_carrier, behind_mlp):
        with pytest.raises(ValueError, match="^position must be a whole number"):
            account(pair, 1, S, position=bad)
        with pytest.raises(ValueError, match="^layer must be from 1 on"):
            account(pair, 0, S)


@pytest.mark.parametrize("call, message", [
    (lambda: Injection.make(MADE, 0, S, 1), "time must be a whole number of at least 1"),
    (lambda: Injection.make(MADE, TIME, S, 1, torch.zeros(TIME, dtype=torch.bool)), "somewhere true"),
    (lambda: steered_logits(MADE, TEXT, Injection.make(MADE, 3, S, 1), [1.0]), r"made for the 5 tokens of the prompt, got \[3\]"),
    (lambda: steered_logits(MADE, TEXT, (), [[1.0]]), "injection must be at least one"),
    (lambda: steering_response(MADE, TEXT, S, 1, order=2, centre=float("nan")), "centre must be a finite number"),
    (lambda: steering_response(MADE, TEXT, S, 1).logits(1e200), "strengths are too large"),
    (lambda: steered_logits(MADE, TEXT, Injection.make(MADE, TIME, S, 1), [1e200]), "not finite for some strengths"),
    (lambda: compare(MADE, TEXT, S, 1, alpha=1e200), r"alpha=1e\+200 is too large"),
    (lambda: steering_response(MADE, TEXT, S, 1, method="sweep").as_json(), "response must be a polynomial about the strength 0"),
    (lambda: steering_response(MADE, TEXT, S, 1, order=2, centre=1.0).as_json(), "response must be a polynomial about the strength 0"),
    (lambda: steering_response(MADE, TEXT, S, 1).polynomial_fit_error(-1), "degree must be a whole number"),
    (lambda: joint_response(MADE, TEXT, torch.stack([S, S]), 1, reach=-1.0), "reach must be a finite number above 0"),
    (lambda: random_like(S, 0), "count must be a whole number of at least 1"),
    (lambda: weights_alone(MADE, S, 1).self_table(["a"]), "names must be names for every token"),
    (lambda: Contributions(("a",), torch.ones(1, 1), torch.zeros(1)).of_the_change(), "the mean change is 0")])
def test_what_does_not_fit_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_package_offers_the_names_that_it_lists():
    assert len(steering.__all__) == len(set(steering.__all__)) and all(hasattr(steering, name) for name in steering.__all__)
    assert steering.Steerable.of(MADE).layers == 2
    with pytest.raises(TypeError, match="injection must be an Injection"):
        steered_logits(MADE, TEXT, None, [1.0])
    with pytest.raises(TypeError, match="strengths must be numbers"):
        steering_response(MADE, TEXT, S, 1).logits("much")
