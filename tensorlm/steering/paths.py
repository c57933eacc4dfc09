"""From the vector to the logit: a tree of paths with exact contributions, pruned without losing a number.

The root is the change of a read-out of the stream before the head. A stream's change is the sum of what the vector, attention
and MLPs wrote more; an MLP's change the sum over its units or eigenvectors; attention's change the sum over head, source
position and role (value, key, query): `tensorlm.steering.paths`. Children sum to their parent everywhere. What is smaller than
a share of the root is added up in a "rest" node, so that the leaves always sum to the root.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tensorlm.checks import is_finite, require_instance, require_whole
from tensorlm.steering.attribution import pulled_back
from tensorlm.steering.comparison import BlockRun, Comparison, Part
from tensorlm.steering.prepare import layer_tensor, require_position, require_vector
from tensorlm.tables import TIE, Table, largest
from tensorlm.tensors import eigen

MECHANISMS = ("unit", "eigenvector", "whole")


@dataclass(frozen=True, eq=False)
class Links:
    """What attention at one reading position takes from the streams of its sources, one prompt, role by role.

    `covectors` (roles, heads, time, width) belong to the stream of the block at each source position (role "first value": to
    that of block 0), and `values` (roles, heads, time) are their products with the changes there. They sum to covector . change.
    """

    roles: tuple[str, ...]
    covectors: Tensor
    values: Tensor


def mlp_pieces(pair: Comparison, layer: int, covector: Tensor, position: int, mechanism: str = "unit", prompt: int = 0) -> Tensor:
    """Covectors on the input of the MLP of block `layer`, one for each hidden unit, eigenvector, or one in all: (n, width).

    Each times the change of the MLP's input at `position` is what that unit or eigenvector adds to covector . (change of the
    output). Unit k: (covector . D_k)(l R_k + r L_k) with l, r its encoders at the midpoint; eigenvector: 2 lambda (v . x) v.

    >>> from tensorlm.model import ModelConfig, TensorTransformer
    >>> from tensorlm.steering.comparison import compare
    >>> model = TensorTransformer(ModelConfig(norm="none", output_init="normal"))
    >>> pair, g = compare(model, torch.tensor([[1, 2, 3]]), torch.ones(64), layer=1), torch.ones(64, dtype=torch.float64)
    >>> base, steered = pair.base.blocks[1], pair.steered.blocks[1]
    >>> values = mlp_pieces(pair, 1, g, 2) @ (steered.resid_mid - base.resid_mid)[0, 2]
    >>> values.shape, torch.allclose(values.sum(), g @ (steered.mlp - base.mlp)[0, 2])
    (torch.Size([128]), True)
    """
    if mechanism not in MECHANISMS:
        raise ValueError(f"mechanism must be one of {MECHANISMS}, got {mechanism!r}")
    cp = layer_tensor(pair.model, layer)
    middle = (pair.base.blocks[layer].resid_mid[prompt, position] + pair.steered.blocks[layer].resid_mid[prompt, position]) / 2
    if mechanism == "eigenvector":
        spectrum = eigen(cp, covector)
        values, vectors = spectrum.values[0], spectrum.vectors[0]
        return 2 * (values * (vectors @ middle))[:, None] * vectors
    pieces = (covector @ cp.D)[:, None] * ((cp.L @ middle)[:, None] * cp.R + (cp.R @ middle)[:, None] * cp.L)
    return pieces if mechanism == "unit" else pieces.sum(0, keepdim=True)


def attention_links(pair: Comparison, layer: int, covector: Tensor, position: int, prompt: int = 0) -> Links:
    """Cut covector . (change of attention of block `layer` at `position`) into value, key and query, by head and source position.

    "value": what a source says, at the mean of both patterns; "key": how its own key changes the weight of its position;
    "key after" (with key_offset): how it changes that of the position after it, whose key holds half of it; "query": how the
    reading position changes its weights, all with it as the source; "first value" (value residual): what the input rows say.

    >>> from tensorlm.model import ModelConfig, TensorTransformer
    >>> from tensorlm.steering.comparison import compare
    >>> model = TensorTransformer(ModelConfig(norm="none", output_init="normal"))
    >>> pair, g = compare(model, torch.tensor([[1, 2, 3]]), torch.ones(64), layer=1), torch.ones(64, dtype=torch.float64)
    >>> links, change = attention_links(pair, 1, g, 2), pair.steered.blocks[1].attention - pair.base.blocks[1].attention
    >>> links.roles, torch.allclose(links.values.sum(), g @ change[0, 2])
    (('value', 'key', 'query'), True)
    """
    attention, read = pair.model.blocks[layer].attention, position % pair.tokens.shape[1]
    middle = _Middle.of(pair.base.blocks[layer], pair.steered.blocks[layer], prompt)
    pulled = pulled_back(attention, covector[None])[0]
    found = {"value": _through_values(attention, middle, pulled, read)}
    found |= _through_scores(attention, middle, pulled, read)
    changes = {role: _stream_change(pair, layer, prompt) for role in found}
    if attention is not None and attention.value_mix is not None and pair.layer == 0:
        found["first value"] = _through_first_values(pair, attention, middle, pulled, read)
        changes["first value"] = _stream_change(pair, 0, prompt)
    values = [torch.einsum("hjw,jw->hj", found[role], changes[role]) for role in found]
    return Links(tuple(found), torch.stack(list(found.values())), torch.stack(values))


@dataclass(frozen=True, eq=False)
class _Middle:
    """Means over the two runs for one prompt: queries and keys a branch (heads, time, head_dim), their scores and the weights of values."""

    queries: list[Tensor]
    keys: list[Tensor]
    scores: list[Tensor]
    values: Tensor
    weights: Tensor

    @classmethod
    def of(cls, base: BlockRun, steered: BlockRun, prompt: int) -> "_Middle":
        queries, keys = ([(a[prompt] + b[prompt]) / 2 for a, b in zip(getattr(base, name), getattr(steered, name))]
                         for name in ("queries", "keys"))
        score = lambda side, branch: side.queries[branch][prompt] @ side.keys[branch][prompt].mT
        scores = [(score(base, branch) + score(steered, branch)) / 2 for branch in (0, 1)]
        values, weights = ([getattr(side, name)[prompt] for side in (base, steered)] for name in ("values", "weights"))
        return cls(queries, keys, scores, (values[0] + values[1]) / 2, (weights[0] + weights[1]) / 2)


def _through_values(attention, middle: _Middle, pulled: Tensor, read: int) -> Tensor:
    mix = attention.value_mix[0] if attention.value_mix is not None else 1.0
    return torch.einsum("hj,hd,hdw->hjw", mix * middle.weights[:, read], pulled, _by_head(attention, attention.v))


def _through_first_values(pair: Comparison, attention, middle: _Middle, pulled: Tensor, read: int) -> Tensor:
    first = _by_head(attention, getattr(pair.model.blocks[0], "attention").v)  # noqa: B009
    return torch.einsum("hj,hd,hdw->hjw", attention.value_mix[1] * middle.weights[:, read], pulled, first)


def _through_scores(attention, middle: _Middle, pulled: Tensor, read: int) -> dict[str, Tensor]:
    """Covectors through the pattern: its weights matter by covector . o v, each score by the other score."""
    time = middle.values.shape[1]
    weights = attention.positions.multiplier(time, pulled.dtype, pulled.device)[:, read] * torch.einsum("hd,hjd->hj", pulled, middle.values)
    turns = attention.positions.rotation_matrices(time)
    key = after = pulled.new_zeros(attention.heads, time, attention.width)
    query = key[:, 0]
    for branch, name in enumerate(("1", "2") if attention.kind == "bilinear" else ("", "")):
        weight = (weights * middle.scores[1 - branch][:, read])[..., None]
        on_keys = weight * middle.queries[branch][:, read, None]
        own, shifted = _unoffset(attention, on_keys)
        by_head = _by_head(attention, getattr(attention, "k" + name))
        key = key + torch.einsum("hjd,jde,hew->hjw", own, turns, by_head)
        after = after + torch.einsum("hjd,jde,hew->hjw", shifted, turns, by_head)
        scaled = _by_head(attention, getattr(attention, "q" + name)) * attention.head_dim**-0.5
        total = (weight * middle.keys[branch]).sum(1)
        query = query + torch.einsum("hd,de,hew->hw", total, turns[read], scaled)
    at_read = torch.zeros_like(key)
    at_read[:, read] = query
    return {"key": key} | ({"key after": after} if "key_offset" in attention.positions.features else {}) | {"query": at_read}


def _unoffset(attention, on_keys: Tensor) -> tuple[Tensor, Tensor]:
    """A covector on keys as one on the keys before `offset`: on those of the own position, and on those one position back."""
    if "key_offset" not in attention.positions.features:
        return on_keys, torch.zeros_like(on_keys)
    half = attention.head_dim // 2
    own, shifted = on_keys.clone(), torch.zeros_like(on_keys)
    own[..., half:] = 0
    shifted[:, :-1, half:] = on_keys[:, 1:, half:]
    return own, shifted


def _by_head(attention, matrix: Tensor) -> Tensor:
    return matrix.view(attention.heads, attention.head_dim, attention.width)


def _stream_change(pair: Comparison, layer: int, prompt: int) -> Tensor:
    return (pair.steered.blocks[layer].resid_pre - pair.base.blocks[layer].resid_pre)[prompt]


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
        """Plain data, for `tensorlm.notebook.path_figure` and for JSON."""
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
        change = torch.sub(*(block.resid_mid[self.prompt, position] for block in blocks))
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
