"""The exact chain rule for a finite change: a product changes by midpoint times difference, on both sides.

    a'b' - ab = (a + a')/2 (b' - b) + (a' - a) (b + b')/2

So the change of a bilinear MLP, f(x') - f(x) = 2B((x + x')/2, x' - x), and that of attention are *linear* in the change of what
they read, once the midpoints of the two runs are known. A covector on the output of a layer becomes a covector on its input,
as in backpropagation, but for the whole change and not its first order; nothing is left over. Each product is cut in equal
halves, which for two factors is Shapley's share. Of nested products the outer one is cut first: pattern times value, then the
two scores of the pattern, then query times key. The sums are exact; this order is a convention.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from tensorlm.steering.attribution import pulled_back
from tensorlm.steering.opened import layer_tensor
from tensorlm.steering.runs import BlockRun, Comparison
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
    >>> from tensorlm.steering.runs import compare
    >>> model = TensorTransformer(ModelConfig(norm="none", output_init="normal"))
    >>> pair, g = compare(model, torch.tensor([[1, 2, 3]]), torch.ones(64), layer=1), torch.ones(64, dtype=torch.float64)
    >>> base, steered = pair.base.blocks[1], pair.steered.blocks[1]
    >>> values = mlp_pieces(pair, 1, g, 2) @ (steered.middle - base.middle)[0, 2]
    >>> values.shape, torch.allclose(values.sum(), g @ (steered.mlp - base.mlp)[0, 2])
    (torch.Size([128]), True)
    """
    if mechanism not in MECHANISMS:
        raise ValueError(f"mechanism must be one of {MECHANISMS}, got {mechanism!r}")
    cp = layer_tensor(pair.model, layer)
    middle = (pair.base.blocks[layer].middle[prompt, position] + pair.steered.blocks[layer].middle[prompt, position]) / 2
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
    >>> from tensorlm.steering.runs import compare
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
    if hasattr(attention, "value_mix") and pair.layer == 0:
        found["first value"] = _through_first_values(pair, attention, middle, pulled, read)
        changes["first value"] = _stream_change(pair, 0, prompt)
    values = [torch.einsum("hjw,jw->hj", found[role], changes[role]) for role in found]
    return Links(tuple(found), torch.stack(list(found.values())), torch.stack(values))


@dataclass(frozen=True, eq=False)
class _Middle:
    """Means over the two runs for one prompt: queries and keys a branch (heads, time, head_dim), their scores and the pattern."""

    queries: list[Tensor]
    keys: list[Tensor]
    scores: list[Tensor]
    values: Tensor
    pattern: Tensor

    @classmethod
    def of(cls, base: BlockRun, steered: BlockRun, prompt: int) -> "_Middle":
        queries, keys = ([(a[prompt] + b[prompt]) / 2 for a, b in zip(getattr(base, name), getattr(steered, name))]
                         for name in ("queries", "keys"))
        score = lambda side, branch: side.queries[branch][prompt] @ side.keys[branch][prompt].mT
        scores = [(score(base, branch) + score(steered, branch)) / 2 for branch in (0, 1)]
        values, patterns = ([getattr(side, name)[prompt] for side in (base, steered)] for name in ("values", "pattern"))
        return cls(queries, keys, scores, (values[0] + values[1]) / 2, (patterns[0] + patterns[1]) / 2)


def _through_values(attention, middle: _Middle, pulled: Tensor, read: int) -> Tensor:
    mix = attention.value_mix[0] if hasattr(attention, "value_mix") else 1.0
    return torch.einsum("hj,hd,hdw->hjw", mix * middle.pattern[:, read], pulled, _by_head(attention, attention.v))


def _through_first_values(pair: Comparison, attention, middle: _Middle, pulled: Tensor, read: int) -> Tensor:
    first = _by_head(attention, getattr(pair.model.blocks[0], "attention").v)  # noqa: B009
    return torch.einsum("hj,hd,hdw->hjw", attention.value_mix[1] * middle.pattern[:, read], pulled, first)


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
    return (pair.steered.blocks[layer].stream - pair.base.blocks[layer].stream)[prompt]
