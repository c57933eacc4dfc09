"""From the vector to the logit: a tree of paths with exact contributions, pruned without losing a number.

The root is the change of a read-out of the stream before the head. A stream's change is the sum of what the vector, attention
and MLPs wrote more; an MLP's change the sum over its units or eigenvectors; attention's change the sum over head, source
position and role (value, key, query): `tensorlm.steering.secant`. Children sum to their parent everywhere. What is smaller than
a share of the root is added up in a "rest" node, so that the leaves always sum to the root.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tensorlm.steering.checks import is_finite, require_position, require_vector, require_whole
from tensorlm.steering.runs import Comparison, Part
from tensorlm.steering.secant import MECHANISMS, attention_links, mlp_pieces
from tensorlm.steering.tables import TIE, Table, largest
from tensorlm.tensors.checks import require_instance


@dataclass(frozen=True)
class Node:
    """One step of a path: a label, a kind, its contribution to the root, and its children, which sum to it (a leaf has none).

    Kinds: "readout", "vector", "attention", "mlp", "unit", "eigenvector", "head", "rest". A rest node stands for `merged`
    steps, and `size` is the sum of their absolute values: a small value may hide large terms that cancel.
    """

    label: str
    kind: str
    value: float
    children: tuple["Node", ...] = ()
    merged: int = 1
    size: float = 0.0

    def walk(self, depth: int = 0) -> Iterator[tuple[int, "Node"]]:
        """(depth, node) for the node and everything below it, in the order of printing."""
        yield depth, self
        for child in self.children:
            yield from child.walk(depth + 1)

    def leaves(self) -> list["Node"]:
        return [node for _, node in self.walk() if not node.children]

    def error(self) -> float:
        """Largest |sum of children - parent| in the tree, over the largest |value| in it."""
        nodes = [node for _, node in self.walk()]
        gaps = [abs(sum(child.value for child in node.children) - node.value) for node in nodes if node.children]
        return max(gaps, default=0.0) / max(max(abs(node.value) for node in nodes), 1e-300)

    def explained(self) -> float:
        """Share of the root that reaches a vector leaf: 1 less what ended in rest nodes."""
        return sum(leaf.value for leaf in self.leaves() if leaf.kind == "vector") / self.value

    def table(self) -> Table:
        """The tree, indented, with contributions and shares of the root."""
        rows = tuple(("· " * depth + node.label, node.value, node.value / self.value) for depth, node in self.walk())
        return Table(("path", "contribution", "share"), rows)

    def paths(self) -> Table:
        """From each vector leaf to the root in one line, largest first; below, all that ended in rest nodes. They sum to the root."""
        found = [(leaf.value, path) for leaf, path in self._ways(()) if leaf.kind == "vector"]
        found = [found[index] for index in ranked([value for value, _ in found])]
        lost = self.value - sum(value for value, _ in found)
        rows = [(" → ".join(path), value, value / self.value) for value, path in found]
        return Table(("path", "contribution", "share"), (*rows, ("(pruned)", lost, lost / self.value)))

    def as_dict(self) -> dict:
        """Plain data, for `tensorlm.notebook.trace_drawing` and for JSON."""
        return {"label": self.label, "kind": self.kind, "value": self.value, "children": [child.as_dict() for child in self.children]}

    def _ways(self, above: tuple[str, ...]) -> Iterator[tuple["Node", tuple[str, ...]]]:
        here = (self.label, *above)
        if not self.children:
            yield self, here
        for child in self.children:
            yield from child._ways(here)


def trace(pair: Comparison, readout: Tensor, position: int = -1, share: float = 0.05, mechanism: str = "unit", most: int = 8,
          prompt: int = 0, words: Sequence[str] | None = None, label: str = "readout") -> Node:
    """The tree of readout . (change of the stream before the head) at `position`, for one prompt of the comparison.

    Steps below `share` of the root are merged into rest nodes, and so are those beyond the `most` largest children of a node.
    `mechanism` opens an MLP by "unit", by "eigenvector", or goes through it as a "whole". `words` (time,) name the positions.
    Raises ValueError for a share outside [0, 1), another mechanism, a prompt or position that is none, and a change of exactly 0.

    >>> from tensorlm.model import ModelConfig, TensorTransformer
    >>> from tensorlm.steering import compare, logit_readout
    >>> model = TensorTransformer(ModelConfig(norm="none", output_init="normal"))
    >>> pair = compare(model, torch.tensor([[1, 2, 3]]), torch.ones(64), layer=1, positions=0)
    >>> tree = trace(pair, logit_readout(pair, 5, 6), mechanism="whole")
    >>> tree.error() < 1e-10, {leaf.kind for leaf in tree.leaves()} <= {"vector", "rest"}
    (True, True)
    """
    require_instance("pair", pair, Comparison)
    readout = require_vector(pair.model, "readout", readout)
    time = pair.tokens.shape[1]
    position = require_position("position", position, time)
    _check(pair, share, mechanism, most, prompt, words)
    value = readout @ (pair.steered.final - pair.base.final)[prompt, position]
    if value == 0:
        raise ValueError(f"the read-out does not change at position {position}: there is nothing to trace")
    tracer = _Tracer(pair, share * abs(value.item()), mechanism, most, prompt, tuple(words or ("",) * time))
    children = tracer.stream(readout, pair.changed(len(pair.model.blocks)), position)
    return Node(f"{label} at {tracer.place(position)}", "readout", value.item(), children)


@dataclass(frozen=True, eq=False)
class _Tracer:
    """Opens nodes: every method takes a covector and gives the children of a node, the small ones merged."""

    pair: Comparison
    least: float
    mechanism: str
    most: int
    prompt: int
    words: tuple[str, ...]

    def place(self, position: int) -> str:
        return f"{position} {self.words[position]}".strip()

    def stream(self, covector: Tensor, parts: dict[Part, float], position: int) -> tuple[Node, ...]:
        """A covector on a stream at one position: what the parts have written more there."""
        items = []
        for part, factor in parts.items():
            value = (factor * covector @ self.pair.change(part)[self.prompt, position]).item()
            items.append((f"{part} at {self.place(position)}", part.kind, value,
                          lambda part=part, factor=factor: self._open(part, factor * covector, position)))
        return self._prune([item for item in items if item[2] != 0.0])

    def _open(self, part: Part, covector: Tensor, position: int) -> tuple[Node, ...]:
        if part.kind == "vector":
            return ()
        return (self._attention if part.kind == "attention" else self._mlp)(part.layer or 0, covector, position)

    def _mlp(self, layer: int, covector: Tensor, position: int) -> tuple[Node, ...]:
        parts = self.pair.changed(layer, middle=True)
        pieces = mlp_pieces(self.pair, layer, covector, position, self.mechanism, self.prompt)
        if self.mechanism == "whole":
            return self.stream(pieces[0], parts, position)
        blocks = (self.pair.steered.blocks[layer], self.pair.base.blocks[layer])
        change = torch.sub(*(block.middle[self.prompt, position] for block in blocks))
        return self._prune([(f"{self.mechanism} {index}", self.mechanism, value, lambda piece=piece: self.stream(piece, parts, position))
                            for index, (piece, value) in enumerate(zip(pieces, (pieces @ change).tolist()))])

    def _attention(self, layer: int, covector: Tensor, position: int) -> tuple[Node, ...]:
        links, items = attention_links(self.pair, layer, covector, position, self.prompt), []
        for role, head, source in links.values.nonzero().tolist():
            parts = self.pair.changed(0 if links.roles[role] == "first value" else layer)
            items.append((self._link(head, links.roles[role], source), "head", links.values[role, head, source].item(),
                          lambda g=links.covectors[role, head, source], parts=parts, j=source: self.stream(g, parts, j)))
        return self._prune(items)

    def _link(self, head: int, role: str, source: int) -> str:
        role = f"key of {self.place(source + 1)}" if role == "key after" else role
        return f"head {head}: {self.place(source)} as {role}"

    def _prune(self, items: list[tuple]) -> tuple[Node, ...]:
        """Nodes for the items (label, kind, value, children on demand) that are large enough, and one for the rest."""
        items = [items[index] for index in ranked([item[2] for item in items])]
        kept = [item for item in items[: self.most] if abs(item[2]) >= self.least * (1 - TIE)]
        nodes = [Node(label, kind, value, children()) for label, kind, value, children in kept]
        rest = [item[2] for item in items[len(kept) :]]
        if rest:
            nodes.append(Node(f"rest ({len(rest)})", "rest", sum(rest), (), len(rest), sum(map(abs, rest))))
        return tuple(nodes)


def ranked(values: list[float]) -> list[int]:
    """All indices by falling size, as `largest` has them."""
    return largest(torch.tensor(values, dtype=torch.float64), max(1, len(values)))


def _check(pair: Comparison, share: float, mechanism: str, most: int, prompt: int, words) -> None:
    batch, time = pair.tokens.shape
    if not is_finite(share) or not 0 <= share < 1:
        raise ValueError(f"share must lie in [0, 1), got {share!r}")
    if mechanism not in MECHANISMS:
        raise ValueError(f"mechanism must be one of {MECHANISMS}, got {mechanism!r}")
    require_whole("most", most, 1)
    if require_whole("prompt", prompt) >= batch:
        raise ValueError(f"prompt must be from 0 to {batch - 1}, got {prompt}")
    if words is not None and (not isinstance(words, list | tuple) or len(words) != time):
        raise ValueError(f"words must be a list of {time}, one for each position, got {words!r}")
