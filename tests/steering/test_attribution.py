"""Accounts of a change sum to it, agree with dense tensors and loops, and fail where they should."""

import pytest
import torch
from steering_models import TIME, VARIANTS, model, tokens, toy_model, vector
from tensor_cases import close, differ

from tensorlm.data.toy.language import INDEX
from tensorlm.data.toy.prompts import agreement_prompts
from tensorlm.steering.attribution import behind_mlp, by_carrier, by_source, by_term, direct_logit_attribution
from tensorlm.steering.comparison import Component, arriving, compare, written
from tensorlm.steering.prepare import layer_tensor
from tensorlm.steering.response import steering_response
from tensorlm.steering.vectors import mean_difference, unembedding_difference


def accounts(pair, layer, readout):
    attention = pair.model.blocks[0].attention is not None
    mlp = pair.model.blocks[0].mlp is not None
    if attention:
        carriers = by_carrier(pair, layer, readout, 3)
        yield from (carriers.shares(), carriers.by_source())
    if mlp:
        yield by_term(pair, layer, readout, 3)
    yield from (direct_logit_attribution(pair, readout, 3), by_source(pair, readout, 3))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("layer, positions", [(0, "all"), (0, 1), (1, "all"), (1, [0, 2])])
def test_every_account_sums_to_the_change(variant, layer, positions):
    pair = compare(model(variant), tokens(), vector(), layer, positions, alpha=-0.9)
    for block in range(layer, 2):
        for account in accounts(pair, block, unembedding_difference(pair.model, 5, 3)):
            assert account.error() < 1e-10
            close(account.values.sum(-1), account.change, scale=account.values.abs().sum(-1).max())


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_base_run_is_the_model_and_parts_make_up_every_stream(variant):
    made, text = model(variant), tokens()
    pair = compare(made, text, vector(), layer=1, positions=[0, -1], alpha=0.6)
    close(made.unembed(pair.base.x), made(text))
    for layer, middle in [(0, False), (0, True), (1, False), (1, True), (2, False)]:
        streams = [side.x if layer == 2 else side.blocks[layer].resid_mid if middle else side.blocks[layer].resid_pre
                   for side in (pair.base, pair.steered)]
        close(sum(factor * written(pair.base, part) for part, factor in arriving(made, layer, 1, middle).items()), streams[0])
        changed = sum((factor * pair.change(part) for part, factor in pair.changed(layer, middle).items()), torch.zeros_like(streams[0]))
        close(changed, streams[1] - streams[0], scale=streams[0].abs().max())


def test_the_change_of_a_logit_is_that_of_the_logits_themselves():
    pair = compare(model(), tokens(), vector(), layer=0)
    logits = (pair.model.unembed(pair.steered.x) - pair.model.unembed(pair.base.x))[:, -1]
    close(direct_logit_attribution(pair, pair.model.head_matrix()[3]).values.sum(-1), logits[:, 3])
    close(direct_logit_attribution(pair, unembedding_difference(pair.model, 5, 3)).values.sum(-1), logits[:, 3] - logits[:, 5])


def test_terms_are_those_of_the_dense_tensor():
    pair = compare(model(), tokens(), vector(), layer=1, alpha=1.3)
    S, readout = layer_tensor(pair.model, 1).symmetric(), vector(8)
    Q = torch.einsum("o,oij->ij", readout, S)
    terms, s = by_term(pair, 1, readout, 2), 1.3 * vector()
    close(terms["self: vector"], (s @ Q @ s).expand(2))
    close(terms["cross: vector x embedding"], 2 * pair.base.x0[:, 2] @ Q @ s)
    close(terms["cross: vector x mlp 0"], 2 * pair.base.blocks[0].mlp[:, 2] @ Q @ s)
    u = (pair.steered.blocks[1].attention - pair.base.blocks[1].attention)[:, 2]
    close(terms["self: vector x attention 1"], 2 * u @ Q @ s)
    without = [value for name, value in zip(terms.names, terms.values.unbind(-1)) if name != "self: vector x attention 1"]
    differ(sum(without), terms.change)  # pairs of changes are part of it


@pytest.mark.parametrize("variant", ["plain", "full", "squared"])
def test_carriers_by_a_loop_over_keys(variant):
    pair = compare(model(variant), tokens(), vector(), layer=0, positions=[0, 3])
    attention, (a, b), readout = pair.model.blocks[1].attention, (side.blocks[1] for side in (pair.base, pair.steered)), vector(8)
    carriers = by_carrier(pair, 1, readout, 4)
    for head in range(2):
        rows = slice(2 * head, 2 * head + 2)
        for j in range(TIME):
            said = [side.values[0, head, j] @ attention.o[:, rows].mT @ readout for side in (a, b)]
            weight = [side.weights[0, head, 4, j] for side in (a, b)]
            close(carriers.value[0, head, j], weight[0] * (said[1] - said[0]), scale=1)
            close(carriers.pattern[0, head, j], (weight[1] - weight[0]) * said[0], scale=1)
            close(carriers.both[0, head, j], (weight[1] - weight[0]) * (said[1] - said[0]), scale=1)


def test_a_vector_at_one_position_changes_what_that_position_sends():
    """At the layer of injection: without key_offset nothing else is a source; with it, the position after is one, by its pattern."""
    carriers = by_carrier(compare(model("plain"), tokens(), vector(), layer=1, positions=1), 1, vector(8), 3)
    assert carriers.by_source().values[:, [0, 2, 3]].abs().max() == 0
    carriers = by_carrier(compare(model("full"), tokens(), vector(), layer=1, positions=1), 1, vector(8), 3)
    assert carriers.pattern[:, :, 2].abs().max() > 1e-3 and carriers.value[:, :, 2].abs().max() == 0
    assert (carriers.value + carriers.pattern)[:, :, [0, 3]].abs().max() == 0


def test_sources_are_the_terms_of_the_polynomial():
    """The pure term is the model run on the vector alone; a prompt that does nothing but carry positions leaves only that."""
    made, s, a = model(), vector(), 0.7
    pair, readout = compare(made, tokens(), s, layer=1, alpha=a), vector(8)
    shares = by_source(pair, readout, 2)
    x = a * s.expand(2, TIME, -1)
    block = made.blocks[1](x, x, None)[0]
    close(shares["s"], block[:, 2] @ readout)
    far = by_source(compare(made, tokens(), s, layer=1, positions=0, alpha=a), readout, 2)
    assert far["s"].abs().max() == 0 and far["s and E"].abs().min() > 0  # read elsewhere, every path goes through a query without s
    assert by_source(compare(made, tokens(), s, layer=0), readout).names == ("s", "s and E")


@pytest.mark.parametrize("variant", ["plain", "full", "squared", "no attention"])
@pytest.mark.parametrize("layer", [0, 1])
def test_sources_as_polynomials_are_those_of_every_strength(variant, layer):
    made, text, readout = model(variant), tokens()[:1], vector(8)
    found = steering_response(made, text, vector(), layer, [1, 3], read=3, method="monomials").as_json(readout)
    for alpha in (-0.7, 0.4):
        terms = by_source(compare(made, text, vector(), layer, [1, 3], alpha), readout, 3)
        paths = torch.tensor(found["paths"], dtype=torch.float64)
        powers = alpha ** torch.arange(paths.shape[1], dtype=torch.float64)
        close(paths @ powers, terms.values[0], scale=terms.values.abs().max().clamp(min=1))
    assert tuple(found["sources"]) == terms.names


def test_shares_of_one_kind_do_not_move_with_the_strength_and_all_together_do():
    made, text, readout = model("no attention"), tokens(), vector(8)
    one, three = (by_term(compare(made, text, vector(), 1, alpha=a), 1, readout) for a in (1.0, 3.0))
    close(three["self: vector"], 9 * one["self: vector"])
    crossed = [i for i, name in enumerate(one.names) if name.startswith("cross")]
    close(three.values[:, crossed], 3 * one.values[:, crossed])
    share = lambda values: values.abs() / values.abs().sum(-1, keepdim=True)
    differ(share(one.values), share(three.values))
    cp = layer_tensor(made, 1)
    units = [torch.einsum("o,oh->h", readout, cp.contributions(a * vector())) for a in (1.0, -3.0)]  # the self term, unit by unit
    close(*(unit.abs() / unit.abs().sum() for unit in units))
    parts = [share(direct_logit_attribution(compare(made, text, vector(), 0, alpha=a), readout).values) for a in (1.0, 3.0)]
    differ(*parts)  # across layers of another degree, and with the residual, shares move


def test_the_sign_turns_the_cross_term_only():
    plus, minus = (by_term(compare(model("no attention"), tokens(), vector(), 1, alpha=a), 1, vector(8)) for a in (1.0, -1.0))
    for name in plus.names:
        close(minus[name], plus[name] if name.startswith("self") else -plus[name])


def test_the_number_of_the_toy_model_travels_in_the_pattern():
    """Released model, "the cat near the boys": one bilinear cross term decides, and what moved is a weight, not a value."""
    made, prompts = toy_model(), agreement_prompts(40, distractors=1, seed=3)
    pair = compare(made, prompts.tokens, mean_difference(made, prompts.tokens, prompts.twins, 1, prompts.position), 1, prompts.position)
    readout = unembedding_difference(made, INDEX["is"], INDEX["are"])
    change = direct_logit_attribution(pair, readout)
    assert change.error() < 1e-10 and change.of_the_change()[-1] > 0.85  # through the MLP
    terms = by_term(pair, 1, readout)
    assert terms.of_the_change()[terms.names.index("cross: attention 1 x embedding")] > 0.7
    carriers = by_carrier(pair, 1, behind_mlp(pair, 1, readout))
    value, pattern, both = carriers.shares().of_the_change().tolist()
    assert abs(value) < 0.1 and pattern > 0.75 and carriers.shares().error() < 1e-10 and value + pattern + both == pytest.approx(1)
    assert carriers.by_source().of_the_change()[prompts.position + 1] > 0.8  # the word after the subject, which holds half of its key
    sources = by_source(pair, readout)
    assert sources["s"].abs().max() == 0 and sources.of_the_change()[-1] > 0.5


def test_bad_input_is_refused():
    pair = compare(model(), tokens(), vector(), layer=1)
    cases = [(lambda: by_term(pair, 0, vector()), "layer must be from 1 on"), (lambda: by_term(pair, 2, vector()), "from 0 to 1"),
             (lambda: direct_logit_attribution(pair, torch.ones(5)), r"readout must have shape \(4,\)"),
             (lambda: direct_logit_attribution(pair, vector() * float("inf")), "finite"),
             (lambda: compare(model(), tokens(), vector(), 3), "layer must be a whole number from 0 to 2"),
             (lambda: compare(model(), tokens(), vector(), 1, alpha=float("nan")), "alpha must be a finite number"),
             (lambda: compare(model(), tokens().double(), vector(), 1), "tokens must be whole numbers"),
             (lambda: by_carrier(compare(model("no attention"), tokens(), vector(), 0), 0, vector()), "must have attention")]
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(KeyError, match="there are"):
        direct_logit_attribution(pair, vector())["mlp 7"]
    with pytest.raises(TypeError, match="pair must be a Comparison"):
        direct_logit_attribution(model().run(tokens()), vector())
    assert str(Component("mlp", 0)) == "mlp 0"
