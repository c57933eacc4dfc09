"""What a vector does to the scores of attention, from the weights alone: what it adds to each branch for every query token.

A head weighs a key by (q1 . k1)(q2 . k2). A vector s in the key's stream changes each branch by q_b(query) . k_b(s): linear in the
row of the query's token, so a table over the vocabulary. Values are not the only road: a vector may act through this sign alone.
"""

import torch
from torch import Tensor

from tensorlm.model import TensorTransformer
from tensorlm.steering.checks import require_block, require_vector, require_whole
from tensorlm.steering.opened import opened
from tensorlm.steering.runs import Part, coefficients

HALVES = {True: ("key", "key after"), False: ("key",)}


def score_table(model: TensorTransformer, vector: Tensor, layer: int, distance: int = 0, position: int = 0) -> dict[str, Tensor]:
    """q_b(row of t) . k_b(s) for every token t as the query: {"key": (branches, heads, vocab)}, with key_offset "key after" too.

    `vector` joins the stream that enters block `layer` at a position; "key" is its effect on the scores of that position, "key
    after" on those of the position after it, whose key holds half of it. Rows are those of the tokens alone, without what
    lower layers add. `distance`, from the vector's position to the query, matters with rotary positions only; `position`, that
    of the vector itself, only where key_offset has split the rotated pairs too. Squared attention has one branch, its scores are
    squared. Raises ValueError for a layer without attention, and for a distance or position below 0.

    >>> from tensorlm.model import ModelConfig
    >>> table = score_table(TensorTransformer(ModelConfig(norm="none", positions=("decay", "key_offset"))), torch.ones(64), layer=1)
    >>> {name: tuple(values.shape) for name, values in table.items()}
    {'key': (2, 4, 65), 'key after': (2, 4, 65)}
    """
    model = opened(model)
    require_block(model, layer)
    attention = getattr(model.blocks[layer], "attention", None)
    if attention is None:
        raise ValueError(f"layer {layer} must have attention, this model has none")
    query_position = require_whole("distance", distance) + require_whole("position", position)
    arriving = coefficients(model, layer, layer)
    rows = arriving[Part("embedding")] * model.embed(torch.arange(model.config.vocab_size)[:, None])
    streams = torch.stack([rows, (arriving[Part("vector")] * require_vector(model, "vector", vector)).expand_as(rows)])
    queries, keys, _ = attention.project_heads(streams.flatten(0, 1))
    turns = attention.positions.rotation_matrices(query_position + 1)
    size = len(rows)
    asking = torch.stack([query[:size, :, 0] @ turns[query_position].mT for query in queries])  # branches, vocab, heads, head_dim
    asked = torch.stack([key[size, :, 0] @ turns[position].mT for key in keys])
    offset = "key_offset" in attention.positions.features
    names, parts = HALVES[offset], asked.chunk(2, -1) if offset else (asked,)
    return {name: torch.einsum("bvhd,bhd->bhv", query, part) for name, query, part in
            zip(names, asking.chunk(len(parts), -1), parts)}
