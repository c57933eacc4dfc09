"""Path attribution, from the vector to the logit: a tree of paths with exact contributions, pruned without losing a number.

The root is the change of a read-out of the stream before the head. A stream's change is the sum of what the vector, attention and MLPs
wrote more; an MLP's change is linear in that of its input, and attention's is the sum over head, source position and role (value, key,
query). Children sum to their parent everywhere: a product changes by each factor's change times the other's mean over both runs. What is
smaller than a share of the root is added up in a "rest" node, so that the leaves always sum to the root.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from einops import einsum
from torch import Tensor

from tensorlm.checks import require, require_instance, require_number, require_whole
from tensorlm.steering.attribution import pulled_back
from tensorlm.steering.comparison import Comparison, Component
from tensorlm.steering.prepare import attention_of, layer_tensor, require_position, require_vector
from tensorlm.tables import TIE, Table, largest


def attention_links(pair: Comparison, layer: int, covector: Tensor, position: int, prompt: int = 0) -> dict[str, tuple[Tensor, Tensor]]:
    """Cut covector . (change of attention of block `layer` at `position`) into value, key and query, by head and source position.

    "value": what a source says, at the mean of both patterns; "key": how its own key changes the weight of its position;
    "key after" (with key_offset): how it changes that of the position after it, whose key holds half of it; "query": how the
    reading position changes its weights, all with it as the source; "first value" (value residual): what the input rows say.
    Each role has covectors (heads, time, width) on the stream of its sources (of "first value": of block 0), and their products
    (heads, time) with the changes there, which sum to the whole.
    """
    attention, middle = attention_of(pair.model, layer), _Middle(pair, layer, prompt)
    pulled = pulled_back(attention, covector[None])[0]
    on_values = middle.weights[:, position, :, None] * pulled[:, None]
    on_queries, on_keys = _on_scores(attention, middle, pulled, position)
    mix = (1.0, 0.0) if attention.value_mix is None else attention.value_mix
    found = {"value": _on_stream(attention, "values", [mix[0] * on_values])}
    if "key_offset" in attention.positions.features:
        first_half = torch.arange(attention.head_dim) < attention.head_dim // 2
        found["key"] = _on_stream(attention, "keys", [first_half * part for part in on_keys])
        found["key after"] = _on_stream(attention, "keys", [~first_half * part for part in on_keys])
    else:
        found["key"] = _on_stream(attention, "keys", on_keys)
    found["query"] = _on_stream(attention, "queries", on_queries)
    changes = dict.fromkeys(found, _stream_change(pair, layer, prompt))
    if attention.value_mix is not None and pair.layer == 0:
        found["first value"] = _on_stream(attention_of(pair.model, 0), "values", [mix[1] * on_values])
        changes["first value"] = _stream_change(pair, 0, prompt)
    return {role: (one, einsum(one, changes[role], "head time width, time width -> head time")) for role, one in found.items()}


class _Middle:
    """Means over the two runs for one prompt: queries and keys a branch (heads, time, head_dim), their scores, values and weights."""

    def __init__(self, pair: Comparison, layer: int, prompt: int):
        sides = [pair.base.blocks[layer], pair.steered.blocks[layer]]
        mean: Callable[[Callable[[Any], Tensor]], Tensor] = lambda read: (read(sides[0]) + read(sides[1])) / 2
        self.queries, self.keys = ([mean(lambda side: getattr(side, name)[branch][prompt]) for branch in (0, 1)]
                                   for name in ("queries", "keys"))
        self.scores = [mean(lambda side: side.queries[branch][prompt] @ side.keys[branch][prompt].mT) for branch in (0, 1)]
        self.values, self.weights = mean(lambda side: side.values[prompt]), mean(lambda side: side.weights[prompt])


def _on_scores(attention, middle: _Middle, pulled: Tensor, position: int) -> tuple[list[Tensor], list[Tensor]]:
    """Covectors on queries (at `position`) and keys, (heads, time, head_dim) a branch: each score matters by the other score."""
    time = middle.values.shape[1]
    said = einsum(pulled, middle.values, "head dim, head time dim -> head time")
    weights = attention.positions.multiplier(time, pulled.dtype, pulled.device)[:, position] * said
    on_queries, on_keys = [], []
    for branch in (0, 1):
        weight = (weights * middle.scores[1 - branch][:, position])[..., None]
        on_query = torch.zeros_like(middle.queries[branch])
        on_query[:, position] = (weight * middle.keys[branch]).sum(1)
        on_queries.append(on_query)
        on_keys.append(weight * middle.queries[branch][:, position, None])
    return on_queries, on_keys


def _on_stream(attention, name: str, covectors: list[Tensor]) -> Tensor:
    """Covectors on queries, keys or values, (heads, time, head_dim) a branch, as ones on what `prepare` reads: (heads, time, width)."""
    heads, time = covectors[0].shape[:2]
    alone = torch.eye(heads, dtype=torch.float64)[:, None, :, None, None]  # one head at a time
    with torch.enable_grad():
        x = torch.zeros(1, time, attention.width, dtype=torch.float64, requires_grad=True)
        prepared = getattr(attention.prepare(x), name)
        parts = [prepared] if name == "values" else prepared * (2 // len(prepared))  # of squared attention the same branch twice
        return torch.autograd.grad(parts, x, [alone * part for part in covectors], is_grads_batched=True)[0][:, 0]


def _stream_change(pair: Comparison, layer: int, prompt: int) -> Tensor:
    return (pair.steered.blocks[layer].resid_pre - pair.base.blocks[layer].resid_pre)[prompt]


@dataclass(frozen=True)
class Node:
    """One step of a path: a label, a kind, its contribution to the root, and its children, which sum to it (a leaf has none).

    Kinds: "readout", "vector", "attention", "mlp", "head", "rest".
    """

    label: str
    kind: str
    value: float
    children: tuple["Node", ...] = ()

    def walk(self, above: tuple[str, ...] = ()) -> Iterator[tuple["Node", tuple[str, ...]]]:
        """The node and everything below it, each with the labels from it up to the root."""
        here = (self.label, *above)
        yield self, here
        for child in self.children:
            yield from child.walk(here)

    def error(self) -> float:
        """Largest |sum of children - parent| in the tree, over the largest |value| in it."""
        nodes = [node for node, _ in self.walk()]
        gaps = [abs(sum(child.value for child in node.children) - node.value) for node in nodes if node.children]
        return max(gaps, default=0.0) / max(max(abs(node.value) for node in nodes), 1e-300)

    def explained(self) -> float:
        """Share of the root that reaches a vector leaf: 1 less what ended in rest nodes."""
        return sum(node.value for node, _ in self.walk() if node.kind == "vector") / self.value

    def paths(self) -> Table:
        """From each vector leaf to the root in one line, largest first; below, all that ended in rest nodes. They sum to the root."""
        found = [(node.value, path) for node, path in self.walk() if node.kind == "vector"]
        found = [found[index] for index in ranked([value for value, _ in found])]
        lost = self.value - sum(value for value, _ in found)
        rows = [(" → ".join(path), value, value / self.value) for value, path in found]
        return Table(("path", "contribution", "share"), (*rows, ("(pruned)", lost, lost / self.value)))

    def as_dict(self) -> dict:
        """Plain data, for `tensorlm.notebook.path_figure` and for JSON."""
        return {"label": self.label, "kind": self.kind, "value": self.value, "children": [child.as_dict() for child in self.children]}


def trace(pair: Comparison, readout: Tensor, position: int = -1, share: float = 0.05, most: int = 8, prompt: int = 0,
          words: Sequence[str] | None = None, label: str = "readout") -> Node:
    """The tree of readout . (change of the stream before the head) at `position`, for one prompt of the comparison.

    Steps below `share` of the root are merged into rest nodes, and so are those beyond the `most` largest children of a node. `words`
    (time,) name the positions. Raises ValueError for a share outside [0, 1), a prompt or position that is none, and a change of exactly 0.

    >>> from tensorlm.model import ModelConfig, TensorTransformer
    >>> from tensorlm.steering import compare, unembedding_difference
    >>> model = TensorTransformer(ModelConfig(norm="none", output_init="normal"))
    >>> pair = compare(model, torch.tensor([[1, 2, 3]]), torch.ones(64), layer=1, positions=0)
    >>> tree = trace(pair, unembedding_difference(model, 6, 5))
    >>> tree.error() < 1e-10, {node.kind for node, _ in tree.walk() if not node.children} <= {"vector", "rest"}
    (True, True)
    """
    require_instance("pair", pair, Comparison)
    readout, (batch, time) = require_vector(pair.model.config.width, "readout", readout), pair.tokens.shape
    position = require_position("position", position, time)
    require(require_number("share", share, 0) < 1, "share", share, "below 1")
    require_whole("most", most, 1)
    require_whole("prompt", prompt, 0, batch - 1)
    fits = words is None or isinstance(words, list | tuple) and len(words) == time
    require(fits, "words", words, f"a list of {time}, one for each position")
    value = readout @ (pair.steered.x - pair.base.x)[prompt, position]
    if value == 0:
        raise ValueError(f"the read-out does not change at position {position}: there is nothing to trace")
    tracer = _Tracer(pair, share * abs(value.item()), most, prompt, tuple(words or ("",) * time))
    children = tracer.stream(readout, pair.changed(len(pair.model.blocks)), position)
    return Node(f"{label} at {tracer.place(position)}", "readout", value.item(), children)


class _Step(NamedTuple):
    """A node before it is known whether it is large enough to be opened."""

    label: str
    kind: str
    value: float
    children: Callable[[], tuple[Node, ...]]


@dataclass(frozen=True, eq=False)
class _Tracer:
    """Opens nodes: every method takes a covector and gives the children of a node, the small ones merged."""

    pair: Comparison
    least: float
    most: int
    prompt: int
    words: tuple[str, ...]

    def place(self, position: int) -> str:
        return f"{position} {self.words[position]}".strip()

    def stream(self, covector: Tensor, factors: dict[Component, float], position: int) -> tuple[Node, ...]:
        """A covector on a stream at one position: what the components have written more there."""
        steps = []
        for one, factor in factors.items():
            value = (factor * covector @ self.pair.change(one)[self.prompt, position]).item()
            steps.append(_Step(f"{one} at {self.place(position)}", one.kind, value, partial(self._open, one, factor * covector, position)))
        return self._prune([step for step in steps if step.value != 0.0])

    def _open(self, one: Component, covector: Tensor, position: int) -> tuple[Node, ...]:
        if one.layer is None:
            return ()
        return (self._attention if one.kind == "attention" else self._mlp)(one.layer, covector, position)

    def _mlp(self, layer: int, covector: Tensor, position: int) -> tuple[Node, ...]:
        sides = (self.pair.base.blocks[layer], self.pair.steered.blocks[layer])
        middle = (sides[0].resid_mid + sides[1].resid_mid)[self.prompt, position] / 2
        pulled = covector @ layer_tensor(self.pair.model, layer).jacobian(middle)
        return self.stream(pulled, self.pair.changed(layer, middle=True), position)

    def _attention(self, layer: int, covector: Tensor, position: int) -> tuple[Node, ...]:
        steps = []
        for role, (covectors, values) in attention_links(self.pair, layer, covector, position, self.prompt).items():
            factors = self.pair.changed(0 if role == "first value" else layer)
            for head, source in values.nonzero().tolist():
                name = f"key of {self.place(source + 1)}" if role == "key after" else role
                steps.append(_Step(f"head {head}: {self.place(source)} as {name}", "head", values[head, source].item(),
                                   partial(self.stream, covectors[head, source], factors, source)))
        return self._prune(steps)

    def _prune(self, steps: list[_Step]) -> tuple[Node, ...]:
        """Nodes for the steps that are large enough, and one for the rest."""
        steps = [steps[index] for index in ranked([step.value for step in steps])]
        kept = [step for step in steps[: self.most] if abs(step.value) >= self.least * (1 - TIE)]
        nodes = [Node(step.label, step.kind, step.value, step.children()) for step in kept]
        rest = [step.value for step in steps[len(kept) :]]
        if rest:
            nodes.append(Node(f"rest ({len(rest)})", "rest", sum(rest)))
        return tuple(nodes)


def ranked(values: list[float]) -> list[int]:
    """All indices by falling size, as `largest` has them."""
    return largest(torch.tensor(values, dtype=torch.float64), max(1, len(values)))
