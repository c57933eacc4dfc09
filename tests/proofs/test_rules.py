"""Rules proven by sets of words: never above the least margin of all texts, equal to it where every set has one word."""

import pytest
import torch
from hypothesis import given, settings, strategies as st

from tensorlm import released
from tensorlm.data.toy import INDEX, ToyData
from tensorlm.data.toy.prompts import next_words
from tensorlm.model import ModelConfig, TensorTransformer
from tensorlm.proofs import rules
from tensorlm.proofs.rules import WordRule, rule_proof, word_rules
from tensorlm.training import load_model

SMALL = dict(vocab_size=9, width=8, head_dim=4, context=8, mlp_hidden=6, norm="none", qk_norm="none", output_init="normal",
             head="untied", mlp="bilinear", attention="bilinear", input_norm="rows", row_scale="sqrt", smear="none", bigram="none")


def model(layers=2, seed=0, positions=("decay", "toeplitz", "key_offset"), scale=0.6, **more):
    """A small model with weights large enough that what stands before matters."""
    found = TensorTransformer(ModelConfig(**{**SMALL, "layers": layers, "positions": positions, **more}), seed=seed)
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.mul_(scale).add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)))
    return found


def rule(seed, sizes=(1, 2, 3, 2)):
    """Random sets of words, a random answer for each last word, against two rivals."""
    generator = torch.Generator().manual_seed(seed)
    words = tuple(tuple(torch.randperm(9, generator=generator)[:size].tolist()) for size in sizes)
    picks = [torch.randperm(9, generator=generator)[:3].tolist() for _ in range(sizes[-1])]
    return WordRule(words, tuple((answer, tuple(rivals)) for answer, *rivals in picks))


def margins(found, one):
    """The least margin of each last word, over all texts in turn by the model itself."""
    texts = torch.cartesian_prod(*map(torch.tensor, one.words))
    logits = found.double()(texts)[:, -1].detach()
    least = []
    for word, (answer, rivals) in zip(one.words[-1], one.answers):
        rows = logits[texts[:, -1] == word]
        least.append((rows[:, [answer]] - rows[:, list(rivals)]).min())
    return torch.stack(least)


CASES = st.tuples(st.integers(0, 500), st.integers(1, 2), st.sampled_from([("decay",), ("decay", "toeplitz", "key_offset"), ()]),
                  st.sampled_from(["bilinear", "none", "square"]), st.sampled_from([0.4, 0.6, 1.0]))


@settings(max_examples=20)
@given(CASES)
def test_sets_never_claim_more_than_the_texts_have(case):
    seed, layers, positions, mlp, scale = case
    found, one = model(layers, seed, positions, scale, mlp=mlp), rule(seed)
    bounds, true = rules.set_margins(rules.checked(found), one), margins(found, one)
    assert bool((bounds <= true + 1e-9 * true.abs()).all())


def test_sets_of_one_word_are_exact_and_larger_ones_are_not_too_loose():
    found, one = model(), rule(3, (1, 1, 1, 1, 1))
    torch.testing.assert_close(rules.set_margins(rules.checked(found), one), margins(found, one), rtol=1e-9, atol=1e-9)
    one = rule(3)
    gentle = model(scale=0.4)
    bounds, true = rules.set_margins(rules.checked(gentle), one).detach(), margins(gentle, one)
    assert 0 <= float(((true - bounds) / true.abs()).min()) and float(((true - bounds) / true.abs()).max()) < 0.05


def test_without_what_may_deviate_the_bound_is_broken(monkeypatch):
    monkeypatch.setattr(rules, "greatest", lambda values, source: torch.zeros_like(values.sum(1)))
    broken = [bool((rules.set_margins(rules.checked(model(seed=seed)), rule(seed)) > margins(model(seed=seed), rule(seed))).any())
              for seed in range(5)]
    assert any(broken)


def test_prefixes_run_once_give_the_margins_of_all_texts_for_less():
    found, one = model(), rule(1, (1, 3, 2, 4, 2))
    proofs = {method: rule_proof(found, [one], method) for method in rules.METHODS}
    assert proofs["shared"].margin == pytest.approx(proofs["every text"].margin, rel=1e-9)
    assert proofs["every text"].margin == pytest.approx(float(margins(found, one).min()), rel=1e-9)
    assert proofs["shared"].failing == proofs["every text"].failing
    assert proofs["shared"].multiply_adds < proofs["every text"].multiply_adds
    twice = rule_proof(found, [one, one], "shared")
    assert twice.multiply_adds == 2 * proofs["shared"].multiply_adds and twice.inputs == 2 * one.inputs


@pytest.fixture(scope="module")
def toy():
    return load_model(released.checkpoint("toy-polynomial")).fold_norms()


def test_the_toy_model_chooses_the_verb_of_every_title_whatever_stands_before(toy):
    bigram = word_rules("bigram", 1)
    proof = rule_proof(toy, bigram)
    assert proof.share == 1.0 and proof.inputs == 4608 and proof.multiply_adds < 30_000_000
    true = rule_proof(toy, word_rules("bigram", 0), "shared").margin
    assert 0 < proof.margin < rule_proof(toy, word_rules("bigram", 0)).margin < true < 1.2
    wrong = WordRule(bigram[0].words, tuple((rivals[0], (answer,)) for answer, rivals in bigram[0].answers))
    assert rule_proof(toy, [wrong]).share == 0.0


def test_word_rules_are_texts_of_the_language():
    data = ToyData()
    for kind, length, count in (("bigram", 1, 4608), ("bigram", 0, 96), ("agreement", 0, 48), ("agreement", 1, 576)):
        found = word_rules(kind, length)
        assert sum(one.inputs for one in found) == count
        for one in found:
            text = torch.tensor([[choices[-1] for choices in one.words]])
            target = next_words(text)[0]
            answer, rivals = one.answers[-1]
            assert all(float(target[answer]) > float(target[rival]) for rival in rivals), data.decode(text[0])
    assert word_rules("agreement", 1)[1].answers[0] == (INDEX["are"], (INDEX["is"],))


@pytest.mark.parametrize("more, message", [
    (dict(norm="rms"), "a polynomial, but norm='rms' divides by each token's root mean square"),
    (dict(attention="softmax"), "softmax attention takes exponentials"),
    (dict(mlp="relu"), "the relu MLP is no polynomial"),
    (dict(attention="squared"), "attention must be 'bilinear', or sets of words cannot be carried through it"),
    (dict(smear="learned"), "smear must be 'none'"),
    (dict(positions=("rope",)), "positions must be without rope"),
    (dict(layers=3), "layers must be at most 2"),
    (dict(mlp="product"), "mlp must be of degree 2 or 'none'"),
])
def test_parts_that_are_no_such_polynomial_are_named(more, message):
    config = ModelConfig(**{**SMALL, "layers": 2, "positions": ("decay",), **more})
    with pytest.raises(ValueError, match=message):
        rule_proof(TensorTransformer(config), [rule(0)])


def test_other_arguments_are_refused(toy):
    with pytest.raises(ValueError, match="fold_norms"):
        rule_proof(load_model(released.checkpoint("toy-polynomial")), word_rules("bigram", 0))
    with pytest.raises(TypeError, match="model must be a TensorTransformer"):
        rule_proof(torch.nn.Linear(2, 2), [rule(0)])
    with pytest.raises(ValueError, match="method must be one of"):
        rule_proof(toy, [rule(0)], "some")
    with pytest.raises(ValueError, match="words must be a set of words at each position"):
        WordRule(((1,), ()), ())
    with pytest.raises(ValueError, match="answers must be 2 pairs"):
        WordRule(((1,), (2, 3)), ((1, (1,)),))
    with pytest.raises(ValueError, match="kind must be one of"):
        word_rules("skip", 1)
    with pytest.raises(ValueError, match="length must be"):
        word_rules("bigram", -1)
