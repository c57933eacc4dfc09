"""Trees of paths: children sum to their parent, nothing is lost by pruning, and each link is what it claims to be."""

import json

import matplotlib.pyplot as plt
import pytest
import torch
from steering_models import TIME, VARIANTS, model, tokens, toy_model, vector
from tensor_cases import close

from tensorlm.data.toy.language import INDEX, WORDS
from tensorlm.data.toy.prompts import agreement_prompts
from tensorlm.notebook.path_figure import draw_trace, trace_lines
from tensorlm.steering.attribution import by_carrier
from tensorlm.steering.comparison import compare
from tensorlm.steering.paths import Node, attention_links, trace
from tensorlm.steering.vectors import mean_difference, unembedding_difference


def pair_of(variant, layer=0, positions="all", alpha=0.8):
    return compare(model(variant), tokens(), vector(), layer, positions, alpha)


def total(links, size=lambda values: values):
    return sum(size(values).sum() for _, values in links.values())


@pytest.mark.parametrize("variant", VARIANTS)
def test_children_sum_to_their_parents_and_leaves_to_the_logit(variant):
    pair = pair_of(variant)
    readout = unembedding_difference(pair.model, 5, 3)
    tree = trace(pair, readout, 3, share=0.1, most=3, prompt=1)
    assert tree.error() < 1e-10
    logits = (pair.model.unembed(pair.steered.x) - pair.model.unembed(pair.base.x))[1, 3]
    leaves = [node for node, _ in tree.walk() if not node.children]
    close(torch.tensor(sum(leaf.value for leaf in leaves), dtype=torch.float64), logits[3] - logits[5],
          scale=max(abs(node.value) for node, _ in tree.walk()))
    assert {leaf.kind for leaf in leaves} <= {"vector", "rest"}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("layer, positions", [(0, "all"), (0, [1, 2]), (1, 1)])
def test_the_chain_rule_is_exact_for_the_whole_change(variant, layer, positions):
    pair, g = pair_of(variant, layer, positions), vector(9)
    for block in range(layer, 2):
        base, steered = pair.base.blocks[block], pair.steered.blocks[block]
        if base.weights is not None:
            links = attention_links(pair, block, g, 3, prompt=1)
            close(total(links), g @ (steered.attention - base.attention)[1, 3], scale=total(links, torch.abs))


@pytest.mark.parametrize("variant", ["plain", "full", "squared"])
def test_links_against_carriers(variant):
    """Both halves of a product get half of what needs both: value + both / 2 and pattern + both / 2."""
    pair, g = pair_of(variant), vector(9)
    links, carriers = attention_links(pair, 1, g, 3), by_carrier(pair, 1, g, 3)
    said = sum(links[role][1] for role in ("value", "first value") if role in links)
    close(said, carriers.value[0] + carriers.both[0] / 2, scale=1)
    weighed = sum(links[role][1] for role in ("key", "key after", "query") if role in links)
    close(weighed.sum(), (carriers.pattern + carriers.both / 2)[0].sum(), scale=1)


def test_roles_are_where_they_can_be():
    """At the layer of injection a vector at position 1 is value and key there, half of the key after, and never a query at 3."""
    pair, g = pair_of("full", 1, positions=1), vector(9)
    links = attention_links(pair, 1, g, 3)
    assert tuple(links) == ("value", "key", "key after", "query")
    assert all((values[:, [0, 2, 3, 4]] == 0).all() for _, values in links.values()) and (links["query"][1] == 0).all()
    assert all((links[role][1][:, 1] != 0).all() for role in ("value", "key", "key after"))
    own = attention_links(pair, 1, g, 1)  # read where the vector stands: no position after it counts
    assert (own["key after"][1] == 0).all() and (own["query"][1][:, 1] != 0).all()
    assert list(attention_links(pair_of("full", 0), 1, g, 3))[-1] == "first value"
    assert tuple(attention_links(pair_of("plain", 1), 1, g, 3)) == ("value", "key", "query")


def test_small_steps_are_derivatives():
    """At strength -> 0 the links are the gradient of attention by its keys, queries and values."""
    pair, g, eps = pair_of("full", 1, alpha=1e-6), vector(9), 1e-6
    attention, x = pair.model.blocks[1].attention, pair.base.blocks[1].resid_pre[:1].clone().requires_grad_()
    out = attention(x, pair.base.first_values[:1])[0][0, 3] @ g
    slope = (torch.autograd.grad(out, x)[0] * (pair.steered.blocks[1].resid_pre - pair.base.blocks[1].resid_pre)[:1] / eps).sum((0, 2))
    links = attention_links(pair, 1, g, 3)
    torch.testing.assert_close(sum(values.sum(0) for _, values in links.values()) / eps, slope, rtol=1e-4, atol=1e-5)


def test_pruning_merges_and_says_so():
    pair = pair_of("plain", 0, positions=[0, 2])
    readout = unembedding_difference(pair.model, 5, 3)
    whole, pruned = (trace(pair, readout, share=share, most=64) for share in (0.0, 0.3))
    assert whole.explained() == pytest.approx(1, abs=1e-10) and not any(node.kind == "rest" for node, _ in whole.walk())
    assert any(node.kind == "rest" for node, _ in pruned.walk())
    assert len(list(pruned.walk())) < len(list(whole.walk())) and abs(pruned.explained() - 1) > 1e-3
    assert all(abs(node.value) >= 0.3 * abs(pruned.value) for node, _ in pruned.walk() if node.kind != "rest")
    paths = pruned.paths()
    assert sum(share for _, _, share in paths) == pytest.approx(1) and paths[-1][0] == "(pruned)"
    assert sum(value for _, value, _ in trace(pair, readout, share=0.0, most=1).paths()) == pytest.approx(pruned.value)


def test_a_tree_that_does_not_add_up_is_noticed():
    assert Node("readout", "readout", 2.0, (Node("vector", "vector", 1.5), Node("rest (1)", "rest", 0.5))).error() == 0
    assert Node("readout", "readout", 2.0, (Node("vector", "vector", 1.5),)).error() == 0.25


def test_the_trace_of_the_toy_model_reads_like_a_sentence():
    made, prompts = toy_model(), agreement_prompts(8, distractors=1, seed=3)
    pair = compare(made, prompts.tokens, mean_difference(made, prompts.tokens, prompts.twins, 1, prompts.position), 1, prompts.position)
    words = [WORDS[token] for token in prompts.tokens[0]]
    tree = trace(pair, unembedding_difference(made, INDEX["is"], INDEX["are"]), words=words, label="are - is")
    assert tree.error() < 1e-10 and tree.explained() > 0.7
    best = tree.paths()[0][0]
    assert best.startswith(f"vector at 8 {words[8]} → head ") and f"{words[8]} as key of 9 near → attention 1 at 11" in best
    assert json.loads(json.dumps(tree.as_dict()))["children"][0]["label"].startswith("mlp 1 at 11")
    assert tree.label.startswith("are - is at 11")


def test_the_drawing_shows_every_line_and_refuses_what_it_cannot_draw():
    tree = trace(pair_of("plain"), vector(9), share=0.1).as_dict()
    lines, fig = trace_lines(tree), draw_trace(tree)
    assert len(fig.axes[0].patches) == len(lines) and len(fig.axes[0].texts) == sum(len(line.wrapped) + 1 for line in lines) + 1
    assert {" ".join(line.wrapped) for line in lines} == {line.label for line in lines}
    assert all(lines[line.parent].depth == line.depth - 1 for line in lines[1:])
    assert {patch.get_hatch() for patch, line in zip(fig.axes[0].patches, lines) if line.value * tree["value"] < 0} <= {"////"}
    plt.close(fig)
    for change, message in [({"kind": "cake"}, "kind .*got 'cake'"), ({"value": float("nan")}, "finite"), ({"value": 0.0}, "got 0.0")]:
        with pytest.raises(ValueError, match=message):
            draw_trace({**tree, **change})
    with pytest.raises(ValueError, match="with label, kind, value and children"):
        draw_trace({"label": "a", "kind": "vector", "value": 1.0})


def test_bad_input_is_refused():
    pair = pair_of("plain", 1, positions=4)
    good = vector(9)
    for change, message in [(dict(share=1.0), "share must be below 1"),
                            (dict(most=0), "most must"), (dict(prompt=2), "prompt must be a whole number from 0 to 1"),
                            (dict(position=TIME), "position must be a whole number from -5 to 4"),
                            (dict(words=["a"]), "words must be a list of 5"), (dict(position=2), "does not change at position 2")]:
        with pytest.raises(ValueError, match=message):
            trace(pair, good, **change)
