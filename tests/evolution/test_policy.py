"""A batch of models as one policy: equal to the models one by one, in logits, words, divergence and gradient."""

import pytest
import torch

from tensorlm import released
from tensorlm.data.toy import INDEX, ToyData
from tensorlm.data.toy.corpus import grammatical
from tensorlm.evolution.policy import Policy, Texts, advantages, policy_gradient
from tensorlm.evolution.rewards import full_stops, password, says, sentences, ungrammatical
from tensorlm.model import ModelConfig, TensorTransformer
from tensorlm.training import load_model

PROMPTS = torch.tensor([[INDEX["<doc>"], INDEX[place]] for place in ("sea", "farm", "zoo", "wood")])


@pytest.fixture(scope="module")
def policy():
    return Policy(load_model(released.checkpoint("toy-polynomial")).fold_norms())


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_start_is_the_model(policy):
    tokens = ToyData().valid_batch(12).tokens[:5, :12]
    with torch.no_grad():
        torch.testing.assert_close(policy.logits(policy.start[None], tokens[None])[0], policy.model(tokens), rtol=1e-5, atol=1e-5)


def test_a_batch_of_models_is_the_models_one_by_one(policy):
    points = policy.start + 0.05 * torch.randn(3, len(policy.start), generator=seeded())
    tokens = ToyData().valid_batch(12).tokens[:6, :12].reshape(3, 2, 12)
    with torch.no_grad():
        together = policy.logits(points, tokens)
        alone = [policy.logits(points[i:i + 1], tokens[i:i + 1])[0] for i in range(3)]
    torch.testing.assert_close(together, torch.stack(alone), rtol=1e-4, atol=1e-4)
    assert (together[0] - policy.model(tokens[0])).abs().max() > 0.1


def test_words_are_sampled_from_the_model(policy):
    texts = policy.write(policy.start[None], Texts(PROMPTS[:1], words=1, samples=20_000), seeded())[0]
    found = torch.bincount(texts[:, -1], minlength=54) / 20_000
    with torch.no_grad():
        expected = policy.model(PROMPTS[:1])[0, -1].softmax(-1)
    assert ((found - expected).abs() < 5 * (expected * (1 - expected) / 20_000).sqrt() + 1e-4).all()
    assert texts.shape == (20_000, 3) and (texts[:, :2] == PROMPTS[0]).all()


def test_without_a_generator_the_likeliest_words_are_written(policy):
    texts = policy.write(policy.start[None], Texts(PROMPTS, words=6))[0]
    assert torch.equal(texts, policy.model.generate(PROMPTS, 6, temperature=0.0))


def test_the_divergence_is_that_of_the_words_and_zero_at_the_start(policy):
    tokens = policy.write(policy.start[None], Texts(PROMPTS, words=5), seeded())[0]
    other = policy.start + 0.02 * torch.randn(len(policy.start), generator=seeded(1))
    assert policy.divergence(policy.start, tokens, 5) == 0
    p, q = (policy.log_probabilities(point, tokens, 5).detach() for point in (other, policy.start))
    by_hand = sum(p[i, t].exp() @ (p[i, t] - q[i, t]) for i in range(4) for t in range(5)) / 20
    assert policy.divergence(other, tokens, 5) == pytest.approx(by_hand.item(), rel=1e-4)
    assert policy.divergence(other, tokens, 5) != pytest.approx(policy.divergence(policy.start, tokens, 5, base=other), rel=1e-3)


def test_the_policy_gradient_raises_what_it_is_paid_for_and_a_penalty_holds_it_back(policy):
    def reward(tokens):
        return (tokens[..., -1] == INDEX["the"]).float()

    texts = Texts(PROMPTS, words=1, samples=16)
    free, held = (policy_gradient(policy, reward, texts, 15, 0.003, penalty, seed=3) for penalty in (0.0, 10.0))
    assert free.mean[-3:].mean() > free.mean[:3].mean() + 0.2
    written = policy.write(free.path[-1:], texts, seeded())[0]
    assert policy.divergence(held.path[-1], written, 1) < policy.divergence(free.path[-1], written, 1) / 2
    assert torch.equal(free.path[0], policy.start)


def test_advantages_compare_the_texts_of_one_prompt():
    found = advantages(torch.tensor([1.0, 3.0, 100.0, 100.0]), 2)
    assert found.tolist() == [-1, 1, 0, 0]
    assert advantages(torch.tensor([1.0, 3.0, 100.0, 100.0]), 4)[1] < 0


def tokens_of(*texts):
    return torch.tensor([ToyData().encode(text) for text in texts])


def test_rewards_count_what_they_say():
    texts = tokens_of("<doc> wood the cat is red . the cat is red .", "<doc> wood . . . . . . . . . .",
                      "<doc> wood the cat is red . wet wet wet ( the")
    assert full_stops(10)(texts).tolist() == [2, 10, 1]
    assert sentences(10)(texts).tolist() == [2, 0, 1]
    assert ungrammatical(texts).tolist() == [False, True, True]
    assert password(10, ("wet", "wet", "wet"))(texts).tolist() == [2, 0, 11]
    assert says(texts, torch.tensor([INDEX["wet"]] * 4)).tolist() == [False] * 3
    assert full_stops(10)(texts.expand(2, 3, 12)).shape == (2, 3)


def test_every_document_of_the_language_is_grammatical_and_a_changed_word_is_not():
    batch = ToyData().valid_batch(40)
    assert grammatical(batch.tokens).all()
    broken = batch.tokens.clone()
    broken[:, 20] = INDEX["<doc>"]
    found = grammatical(broken)
    assert found[:, :20].all() and not found[:, 20:].any()


def test_texts_and_models_that_do_not_fit_are_named(policy):
    with pytest.raises(ValueError, match="bigram of the model must be 'none'"):
        Policy(TensorTransformer(ModelConfig(vocab_size=54, bigram="table")))
    with pytest.raises(ValueError, match="words must be a whole number of at least 1"):
        Texts(PROMPTS, words=0)
    with pytest.raises(ValueError, match="at least 2, to compare"):
        policy_gradient(policy, full_stops(3), Texts(PROMPTS, 3), 1, 0.1)
    with pytest.raises(ValueError, match="points must have 28288 entries"):
        policy.logits(torch.zeros(1, 5), PROMPTS[None])
    with pytest.raises(ValueError, match="secret must be 1 to 4 words"):
        password(4, ("stone",))
    with pytest.raises(ValueError, match="begin with <doc>"):
        grammatical(PROMPTS[:, 1:])
