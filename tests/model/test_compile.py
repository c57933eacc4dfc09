"""torch.compile: one graph for a forward pass of every kind of model, and no new one as training goes on."""

import copy

import pytest
import torch
import torch.nn.functional as F

from tensorlm.model import ModelConfig, TensorTransformer

pytestmark = pytest.mark.slow

TOKENS = torch.arange(2 * 32).view(2, 32) % 17


class Graphs:
    """A backend that runs each graph as it is traced, and counts them."""

    def __init__(self):
        torch._dynamo.reset()
        self.count = 0

    def __call__(self, graph, inputs):
        self.count += 1
        return graph.forward

    def of(self, model):
        return torch.compile(model, backend=self, fullgraph=True, dynamic=False)  # fullgraph: a break is an error


def model_of(**choices) -> TensorTransformer:
    return TensorTransformer(ModelConfig(**{"vocab_size": 17, "context": 32, "width": 16, "layers": 1, "head_dim": 8, **choices}))


CHOICES = [
    *({"attention": kind} for kind in ("softmax", "squared", "bilinear", "none")),
    *({"mlp": kind} for kind in ("relu2", "swiglu", "product", "full", "symmetric", "none")),
    *({"norm": kind, "qk_norm": other} for kind, other in (("rms", "joint"), ("anneal", "anneal"), ("batch", "batch"), ("none", "none"))),
    {"norm": "scale"}, {"norm": "channel"},
    {"bigram": "table", "smear": "learned", "value_residual": "learned", "shortcut": "learned", "layers": 2},
    {"positions": ("rope", "decay", "toeplitz", "key_offset")}, {"positions": ("decay", "toeplitz"), "row_scale": "mean", "head": "tied"},
]


@pytest.mark.parametrize("choices", CHOICES, ids=str)
def test_a_forward_pass_is_one_graph_and_the_same_function(choices):
    model, graphs = model_of(output_init="normal", **choices).eval(), Graphs()
    compiled = graphs.of(model)
    for tokens in (TOKENS, TOKENS.flip(0)):
        torch.testing.assert_close(compiled(tokens), model(tokens), rtol=1e-4, atol=1e-5)
    assert graphs.count == 1


@pytest.mark.parametrize("kind", ["anneal", "batch", "rms"])
def test_training_asks_for_no_graph_after_the_first_steps(kind):
    choices = {"norm": kind, "qk_norm": kind}
    eager, graphs, counts = model_of(**choices), Graphs(), []
    model = copy.deepcopy(eager)
    runs = [(eager, eager), (model, graphs.of(model))]
    for step in range(8):
        losses = []
        for plain, forward in runs:
            plain.set_anneal(min(1.0, step / 5))
            for piece in TOKENS.split(1):  # two micro-batches
                loss = F.cross_entropy(forward(piece).flatten(0, 1), piece.flatten()) + 0.1 * plain.norm_penalty()
                loss.backward()
            with torch.no_grad():
                for parameter in plain.parameters():
                    parameter.sub_(0.1 * parameter.grad)
                    parameter.grad = None
            plain.update_norms()
            losses.append(loss.item())
        assert losses[1] == pytest.approx(losses[0], rel=1e-4)
        counts.append(graphs.count)
    assert counts[1] == counts[4] <= 4  # first and second piece, before and after the constants have moved once
    assert counts[5] == counts[7] <= 6  # at a = 1 the norm is another function
