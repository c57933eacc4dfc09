"""Vectors: each is what its name says, for every kind of model; and the planted rules of the toy language steer."""

import pytest
import torch
from steering_models import TIME, VOCAB, model, tokens, toy_model, vector
from tensor_cases import close, differ

from tensorlm.data.toy.language import ANIMALS, INDEX, VERBS, WORDS
from tensorlm.data.toy.prompts import agreement_prompts, bigram_prompts, next_words, skip_prompts
from tensorlm.model import ModelConfig, TensorTransformer
from tensorlm.steering.comparison import compare, entering
from tensorlm.steering.vectors import embedding_difference, mean_difference, random_like, unembedding_difference


@pytest.mark.parametrize("variant", ["plain", "full", "squared"])
def test_streams_are_those_of_the_runs(variant):
    pair = compare(model(variant), tokens(), vector(), layer=1)
    close(model(variant).run(tokens(), stop=1).x, entering(pair.base, 1).x)
    close(model(variant).run(tokens()).x, entering(pair.base, 2).x)


def test_streams_of_ordinary_models_too():
    made = TensorTransformer(ModelConfig(vocab_size=VOCAB, width=4, head_dim=2, attention="softmax", mlp="relu2", output_init="normal"))
    assert torch.isfinite(mean_difference(made, tokens(), tokens(seed=1), 1)).all()


def test_mean_difference_over_positions():
    a, b = tokens(3), tokens(4, seed=5)
    one, all_ = mean_difference(model(), a, b, 1, positions=-2), mean_difference(model(), a, b, 1)
    close(one, model().run(b, stop=1).x[:, -2].mean(0) - model().run(a, stop=1).x[:, -2].mean(0))
    close(all_, model().run(b, stop=1).x.mean((0, 1)) - model().run(a, stop=1).x.mean((0, 1)))
    b_mean, a_mean = (model().run(part, stop=1).x[:, [1, 3]].mean((0, 1)) for part in (b, a))
    close(mean_difference(model(), a, b, 1, [1, 3]), b_mean - a_mean)
    differ(one, all_)


@pytest.mark.parametrize("variant", ["plain", "full tensor"])
def test_the_unembedding_direction_reads_the_difference_of_two_logits(variant):
    made, text = model(variant), tokens()
    w = unembedding_difference(made, 2, 6)
    logits = made(text)
    close(made.run(text, stop=2).x @ w, logits[..., 6] - logits[..., 2])


def test_a_constant_norm_before_the_head_is_folded_in():
    made = TensorTransformer(ModelConfig(vocab_size=VOCAB, width=4, head_dim=2, norm="anneal", output_init="normal")).double().eval()
    made.set_anneal(1.0)
    made.head_site.log_constant.fill_(0.7)
    w, logits = unembedding_difference(made, 2, 6), made(tokens()).detach()
    close(made.run(tokens(), stop=2).x @ w, logits[..., 6] - logits[..., 2])
    differ(w, (made.head[6] - made.head[2]).detach())


def test_embedding_difference_is_of_normed_scaled_rows():
    made = model()
    rows = made.embed(torch.arange(VOCAB)[:, None])[:, 0]
    close(embedding_difference(made, [0, 1], [5]), rows[5] - rows[:2].mean(0))
    differ(embedding_difference(made, [0, 1], [5]), made.embedding[5] - made.embedding[:2].mean(0))


def test_random_controls():
    controls = random_like(vector(), 200, seed=1)
    assert torch.equal(random_like(vector() * 2.0**-700, 200, seed=1), controls * 2.0**-700)  # whose squares are no numbers
    close(torch.linalg.vector_norm(controls, dim=-1), torch.linalg.vector_norm(vector()).expand(200))
    assert torch.equal(controls, random_like(vector(), 200, seed=1)) and controls.mean(0).norm() < 0.3 * vector().norm()


def prompts_by_rule():
    return {"agreement": agreement_prompts(40, 1, seed=2), "bigram": bigram_prompts(40), "skip": skip_prompts(40)}


@pytest.mark.parametrize("rule", ["agreement", "bigram", "skip"])
def test_prompts_differ_in_one_word_and_in_what_follows(rule):
    pairs = prompts_by_rule()[rule]
    where = (pairs.tokens != pairs.twins).nonzero()
    assert len(where) == 40 and set(where[:, 1].tolist()) == {pairs.position}
    close(pairs.targets.sum(-1), torch.ones(40, dtype=torch.float64))
    assert ((pairs.targets - pairs.twin_targets).abs().sum(-1) > 0.69).all()


def test_what_follows_is_what_the_rule_says():
    rules = prompts_by_rule()
    assert (rules["agreement"].targets[:, INDEX["is"]] == 0.5).all() and (rules["agreement"].twin_targets[:, INDEX["are"]] == 0.5).all()
    assert {WORDS[i] for i in rules["skip"].targets[0].nonzero()[:, 0]} == {"whale", "crab", "cow"} <= set(ANIMALS)
    assert rules["bigram"].targets[0, INDEX["sees"]] == pytest.approx(0.35) and set(VERBS)


def test_prompts_that_the_language_cannot_say_are_refused():
    with pytest.raises(ValueError, match="cannot go on with 'are' at position 4"):
        next_words(torch.tensor([[INDEX[word] for word in "<doc> sea the cat are".split()]]))
    with pytest.raises(ValueError, match="must differ"):
        bigram_prompts(3, "king", "king")
    with pytest.raises(ValueError, match="must be one of 'sea'"):
        skip_prompts(3, "sea", "king")
    with pytest.raises(ValueError, match="count"):
        agreement_prompts(0)


def test_the_plural_vector_turns_the_verb_of_the_toy_model_and_random_ones_do_not():
    made, tuned, fresh = toy_model(), agreement_prompts(64, 1, seed=2), agreement_prompts(60, 1, seed=3)
    s = mean_difference(made, tuned.tokens, tuned.twins, 1, tuned.position)
    towards_are = unembedding_difference(made, INDEX["is"], INDEX["are"])

    def flipped(vector):
        pair = compare(made, fresh.tokens, vector, 1, fresh.position)
        assert (pair.base.x[:, -1] @ towards_are < 0).all()
        return (pair.steered.x[:, -1] @ towards_are > 0).double().mean().item()

    assert flipped(s) >= 0.95 and sum(map(flipped, random_like(s, 5))) / 5 <= 0.15


def test_bad_input_is_refused():
    made = model()
    cases = [(lambda: mean_difference(made, tokens(), tokens(seed=1), 3), "from 0 to 2"),
             (lambda: mean_difference(made, tokens(), tokens(), 1), "same mean stream"),
             (lambda: mean_difference(made, tokens(), tokens(seed=1), 1, TIME), "positions must be in"),
             (lambda: embedding_difference(made, [], [1]), "words must be a list"),
             (lambda: random_like(torch.ones(2, 2), 3), "along one axis"),
             (lambda: unembedding_difference(made, 1, VOCAB), "other must be a whole number from 0 to 6"),
             (lambda: unembedding_difference(made, 1, 1), "same row")]
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()
