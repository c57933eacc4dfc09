"""What the weights alone say of a vector, against dense tensors and against the running model; and what they cannot say."""

import copy

import pytest
import torch
from steering_models import TIME, VOCAB, model, tokens, toy_model, vector
from tensor_cases import close, differ

from tensorlm.data.toy.language import INDEX, PLURAL, SINGULAR, WORDS
from tensorlm.model import ModelConfig, TensorTransformer
from tensorlm.steering.comparison import Component, arriving, compare
from tensorlm.steering.prepare import as_polynomial, layer_tensor, position_mask
from tensorlm.steering.vectors import embedding_difference, unembedding_difference
from tensorlm.steering.weights import decompose_effect, weights_alone
from tensorlm.tables import largest, promoted


@pytest.mark.parametrize("variant", ["plain", "full tensor", "square mlp"])
def test_self_and_cross_terms_are_those_of_the_dense_symmetric_tensor(variant):
    report, s = weights_alone(model(variant), vector(), layer=1), vector()
    S = layer_tensor(model(variant), 1).symmetric()
    close(report.self_term, torch.einsum("oij,i,j->o", S, s, s))
    close(report.map, 2 * torch.einsum("oij,i->oj", S, s))
    close(report.token_cross, 2 * torch.einsum("oij,i,tj->to", S, s, report.rows))
    differ(report.token_cross, 2 * torch.einsum("oij,i,tj->to", layer_tensor(model(variant), 1).dense(), s, report.rows)) \
        if variant == "plain" else None


def test_the_table_of_tokens_predicts_the_running_model_for_every_token():
    """In block 0 without attention the stream is the row itself, so nothing is left to know but the token."""
    made, s, a = model("no attention"), vector(), -1.7
    report = weights_alone(made, s, layer=0)
    pair = compare(made, torch.arange(VOCAB)[:, None], s, layer=0, alpha=a)
    predicted = a * report.token_cross + a**2 * report.self_term
    close(predicted, (pair.steered.blocks[0].mlp - pair.base.blocks[0].mlp)[:, 0])
    above = compare(made, torch.arange(VOCAB)[:, None], s, layer=1, alpha=a)  # there a layer has written, which no table of rows knows
    report = weights_alone(made, s, layer=1)
    differ(a * report.token_cross + a**2 * report.self_term, (above.steered.blocks[1].mlp - above.base.blocks[1].mlp)[:, 0])


def test_directions_that_layers_write_complete_the_cross_term():
    """A single token, two blocks without attention: stream = row + D c, so the cross term is that of the row and c times that of D."""
    made, s = model("no attention"), vector()
    report = weights_alone(made, s, layer=1)
    (writer,) = report.writers
    x = report.rows[2]
    cp = layer_tensor(made, 0)
    sizes = torch.linalg.vector_norm(cp.L, dim=1) * torch.linalg.vector_norm(cp.R, dim=1)
    c = (cp.L @ x) * (cp.R @ x) / sizes
    assert str(writer.component) == "mlp 0" and writer.names[4] == "unit 4"
    close(report.token_cross[2] + c @ writer.directions @ report.map.mT, 2 * layer_tensor(made, 1).polar(s, x + cp(x)))


def test_directions_do_not_depend_on_the_gauge():
    sizes = dict(vocab_size=5, width=4, head_dim=2, layers=1, mlp_hidden=3)
    made = TensorTransformer(ModelConfig(**sizes, norm="none", output_init="normal")).double()
    before = weights_alone(_with_second_block(made), vector(), 1).writers
    changed = _with_second_block(made)
    with torch.no_grad():
        mlp, attention = changed.blocks[0].mlp, changed.blocks[0].attention
        mlp.L[1] *= 4.0
        mlp.D[:, 1] /= 4.0
        mix = torch.tensor([[2.0, 1.0], [0.5, 1.0]], dtype=torch.float64)
        attention.v[:2] = mix @ attention.v[:2]
        attention.o[:, :2] = attention.o[:, :2] @ torch.linalg.inv(mix)
    after = weights_alone(changed, vector(), 1).writers
    for one, other in zip(before, after):
        close(one.directions, other.directions)
    differ(made.blocks[0].mlp.D.detach(), changed.blocks[0].mlp.D.detach())


def _with_second_block(first: TensorTransformer) -> TensorTransformer:
    config = ModelConfig(**{**first.config.to_dict(), "layers": 2})
    made = TensorTransformer(config, seed=5).double()
    made.load_state_dict(first.state_dict(), strict=False)
    return made


def test_rows_are_what_arrives_at_the_mlp():
    made = model("full")
    pair = compare(made, torch.arange(VOCAB)[:, None], vector(), layer=1)
    embedding = arriving(made, 1, middle=True)[Component("embedding")]
    assert embedding != 1.0  # shortcuts change the factor
    close(weights_alone(made, vector(), 1).rows, embedding * pair.base.x0[:, 0])
    two = compare(made, torch.tensor([[3, 1]]), vector(), layer=1)
    close(two.base.x0[0, 1] - pair.base.x0[1, 0], made.smear * pair.base.x0[3, 0])
    bigrams = model("squared")
    after, first = (weights_alone(bigrams, vector(), 0, previous=previous).rows[1] for previous in (3, None))
    close(after, bigrams.embed(torch.tensor([[3, 1]]))[0, 1])
    differ(first, after)


def test_the_vector_arrives_through_the_shortcut():
    made, s = model("full"), vector()
    keep = made.blocks[1].shortcut[0]
    close(weights_alone(made, s, 1).vector, keep * s)


def test_a_head_writes_within_its_directions():
    """One token that looks at itself only: what attention adds is a sum of the directions of its heads."""
    made = model("plain")
    block = compare(made, torch.tensor([[4]]), vector(), layer=0).base.blocks[1]
    directions = weights_alone(made, vector(), 1).writers[-1].directions
    for head in range(2):
        v, o = made.blocks[1].attention.v[2 * head : 2 * head + 2], made.blocks[1].attention.o[:, 2 * head : 2 * head + 2]
        mine = directions[2 * head : 2 * head + 2]
        close(mine @ mine.mT, torch.diag((o @ v).svd().S[:2].square()))
        written = o @ v @ block.resid_pre[0, 0]
        close(mine.mT @ torch.linalg.pinv(mine.mT) @ written, written)


def test_expectation():
    report = weights_alone(model("plain"), vector(), layer=1)
    probabilities, readout = torch.softmax(vector(5, VOCAB), 0), vector(6)
    mean, spread = report.expected(probabilities, readout)
    row = probabilities @ report.rows
    centred = report.rows - row
    covariance = report.map @ (centred.mT * probabilities) @ centred @ report.map.mT
    close(report.map @ row @ readout, mean)
    close(readout @ covariance @ readout, spread**2)


def test_tables_rank_and_name():
    report, readout = weights_alone(model("plain"), vector(), layer=1), vector(6)
    table, all_ = report.writers_table("abcdefg", 3, readout), torch.cat([writer.directions for writer in report.writers])
    pushes = all_ @ report.map.mT @ readout
    assert [abs(push) for _, push, *_ in table] == pytest.approx(sorted(pushes.abs().tolist(), reverse=True)[:3])
    best = (report.head @ report.map @ all_[int(pushes.abs().argmax())]).argmax()
    assert table[0][2].startswith("abcdefg"[int(best)]) and str(table).count("\n") == 3
    assert len(report.writers_table(None, 4, readout)) == 4 and "token" in str(report.self_table())


def test_what_the_weights_cannot_say():
    made, text = model("plain"), tokens(6, seed=1)
    text[0, -1] = text[3, -1] = 2
    account = decompose_effect(made, text, vector(), 1, vector(7), alpha=0.8)
    close(account.self_term + account.token + account.context, account.effect)
    first, second = account.witness()
    close(account.token[first], account.token[second])
    differ(account.effect[first], account.effect[second])
    alone = decompose_effect(model("no attention"), text, vector(), 0, vector(7))
    assert alone.context.abs().max() < 1e-12 * alone.effect.abs().max()
    with pytest.raises(ValueError, match="no two texts"):
        decompose_effect(made, torch.tensor([[1, 2], [2, 1]]), vector(), 1, vector(7)).witness()


def test_the_toy_model_gates_the_number_by_a_noun():
    """Released model: the nouns are the tokens at which "plural" pushes the verb hardest towards "are"."""
    made = toy_model()
    nouns = [[INDEX[word] for word in words] for words in (SINGULAR, PLURAL)]
    report = weights_alone(made, embedding_difference(made, *nouns), layer=1)
    towards_are = unembedding_difference(made, INDEX["is"], INDEX["are"])
    ranked = sorted(zip((report.token_cross @ towards_are).tolist(), WORDS), reverse=True)
    assert {word for _, word in ranked[:12]} == set(SINGULAR + PLURAL)
    assert ranked[11][0] > 8 > 7 > ranked[12][0]


@pytest.mark.parametrize("change, message", [
    (dict(norm="rms"), "norm='rms'"), (dict(attention="softmax"), "softmax attention"), (dict(mlp="relu2"), "relu2 MLP is no polynomial"),
    (dict(norm="anneal"), "still 100% a per-token norm")])
def test_models_that_are_no_polynomial_are_refused_by_part(change, message):
    made = TensorTransformer(ModelConfig(**{"norm": "none", "width": 4, "head_dim": 2, **change}))
    with pytest.raises(ValueError, match=message) as error:
        weights_alone(made, vector(), 0)
    assert "sweeps over strengths" in str(error.value)


def test_bad_input_is_refused():
    made = model("plain")
    for bad, kind, message in [((torch.ones(3), 0), ValueError, r"vector must have shape \(4,\)"),
                               ((vector(), 2), ValueError, "from 0 to 1"),
                               ((torch.full((4,), float("nan")), 0), ValueError, "must be finite"),
                               ((vector(), 0.5), ValueError, "whole"),
                               (([1.0] * 4, 0), TypeError, "vector must be a Tensor")]:
        with pytest.raises(kind, match=message):
            weights_alone(made, *bad)
    with pytest.raises(ValueError, match="degree 2"):
        weights_alone(model("no mlp"), vector(), 0)
    with pytest.raises(TypeError, match="bfloat16"):
        as_polynomial(TensorTransformer(ModelConfig(norm="none")).bfloat16())
    with pytest.raises(TypeError, match="TensorTransformer"):
        as_polynomial(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="sum 1"):
        weights_alone(made, vector(), 0).expected(torch.ones(VOCAB), vector())
    with pytest.raises(ValueError, match="previous must be"):
        weights_alone(made, vector(), 0, previous=VOCAB)
    for positions, kind in [(TIME, ValueError), ([], ValueError), ("first", TypeError), (torch.ones(2, dtype=torch.bool), ValueError)]:
        with pytest.raises(kind, match="positions must"):
            position_mask(positions, TIME)


# Ties: rounding decides no order, no sign and no basis

@pytest.mark.parametrize("left, right", [(3.0, 1 / 3), (-0.7, -1 / 0.7), (1e-5, 1e5)])
def test_gauges_of_one_function_give_the_same_map_and_directions(left, right):
    other = copy.deepcopy(model("plain"))
    for block in other.blocks:
        with torch.no_grad():
            block.mlp.L.mul_(left), block.mlp.R.mul_(right)
            block.mlp.L.data, block.mlp.R.data = block.mlp.R.data.clone(), block.mlp.L.data.clone()
            block.attention.o.mul_(left), block.attention.v.mul_(1 / left)
    one, two = (weights_alone(each, vector(), 1) for each in (model("plain"), other))
    for first, second in zip(one.writers, two.writers):
        if first.component.kind == "attention":
            close(second.directions, first.directions)
    close(two.map, one.map)


def test_equal_sizes_are_ranked_positive_first_then_in_their_order():
    values = torch.tensor([-3.0, 1.0, 3.0 - 1e-13, 3.0, -1.0 - 1e-13], dtype=torch.float64)
    assert largest(values, 5) == [2, 3, 0, 1, 4] and promoted(values + 3.0, None, 2).split()[0::2] == ["2", "3"]
