"""The second walk: coefficients in the strengths pushed through the model, block by block, and their exact degrees.

`walk` has the order shortcut, attention, MLP once, for every kind of coefficients that can be added, scaled and sent through a
layer: `Signal` (polynomials) here, `Ratio` (numerators over denominators) in `tensorlm.steering.forms`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tensorlm.model import Stream
from tensorlm.polynomials.powers import Monomials
from tensorlm.steering.prepare import Part
from tensorlm.steering.vectors import SteeredPrompt


def walk(prompt: SteeredPrompt, constant: Callable[[Tensor], Any], steps: dict[int, Any], start: Stream | None = None) -> Any:
    """What leaves the last block at the position that is read.

    `constant` makes coefficients of plain values, `steps` are what the strengths add before each block, `start` the plain stream
    (`prompt.entering`, unless another one is given). Of the last block only the last position is computed.
    """
    blocks, stream = prompt.steerable.parts, prompt.entering if start is None else start
    end = len(blocks)
    x, x0 = constant(stream.x), constant(stream.x0)
    first_values = None if stream.first_values is None else constant(stream.first_values)
    for layer in range(prompt.first, end + 1):
        if layer in steps:
            x = x.plus(steps[layer].last() if layer == end else steps[layer])
        x0 = x if layer == 0 else x0
        if layer == end:
            return x
        block, last = blocks[layer], layer == end - 1
        if block.shortcut is not None:
            x = x.scaled(block.shortcut[0]).plus(x0.scaled(block.shortcut[1]))
        stays = x.last() if last else x
        if block.attention is not None:
            z, values = x.attended(block, first_values, last)
            stays, first_values = stays.plus(z), values if layer == 0 else first_values
        x = stays if block.mlp is None else stays.plus(stays.transformed(block))


@dataclass(frozen=True, eq=False)
class Signal:
    """Coefficients `rows` (n, time, ...) or, for heads, (n, heads, time, ...), and the degree of every position.

    A degree is the one that generic weights reach: the sum over factors, the largest over terms. It counts what an order has cut off, so
    that `degree` + 1 rows are the whole polynomial and fewer are a jet. Rows above a position's own degree are zero there.
    """

    rows: Tensor
    degrees: tuple[int, ...]
    algebra: Monomials

    def plus(self, other: "Signal") -> "Signal":
        """The sum; `other` is used up."""
        rows, count = other.rows, self.rows.shape[0]
        if count > rows.shape[0]:
            rows = self.algebra.add(self.rows, rows)
        else:
            rows[:count].add_(self.rows)
        return Signal(rows, tuple(map(max, self.degrees, other.degrees)), self.algebra)

    def scaled(self, number: Tensor) -> "Signal":
        return Signal(number * self.rows, self.degrees, self.algebra)

    def last(self) -> "Signal":
        """The last position only, without rows that are zero there."""
        if len(self.degrees) == 1:
            return self
        return Signal(self.rows[: self.algebra.rows(self.degrees[-1]), ..., -1:, :], self.degrees[-1:], self.algebra)

    def transformed(self, block) -> "Signal":
        """The MLP of a block behind its constant norm, done for positions of one degree at a time."""
        degrees = tuple(block.mlp.degree * degree for degree in self.degrees)
        if len(set(degrees)) == 1:
            return Signal(self._products(block, self.rows), degrees, self.algebra)
        parts = [(index, self._products(block, self.rows[: self.algebra.rows(degree), index]))
                 for (degree,), index in groups_of(self.degrees).items()]
        result = self.rows.new_zeros(max(len(part) for _, part in parts), len(degrees), parts[0][1].shape[-1])
        for index, part in parts:
            result[: len(part), index] = part
        return Signal(result, degrees, self.algebra)

    def _products(self, block: Part, rows: Tensor) -> Tensor:
        """The encoders multiplied, then D."""
        rows = rows if block.mlp_norm is None else block.mlp_norm(rows)
        product, *others = [rows @ encoder for encoder in block.encoders]
        for factor in others:
            product = self.algebra.multiply(product, factor)
        return product @ block.decoder

    def attended(self, block, first_values: "Signal | None", last: bool) -> tuple["Signal", "Signal"]:
        """`Attention.forward` behind its constant norm: the output, with `last` at the last position only, and the values.

        z_i = sum_j c_ij s1_ij s2_ij v_j has degree max_j (2 n_i + 2 k_j + v_j) in the strength; n, k, v are the degrees of
        x_i, of key j and of value j. Queries of one degree and keys of one degree meet at a time, so that constants stay
        constants: a steered position costs only what it touches.
        """
        layer, rows = block.attention, self.algebra.rows
        queries, keys, own_values, _ = layer.prepare(block.attention_norm(self.rows))
        key_degrees = self.degrees
        if "key_offset" in layer.positions.features:
            key_degrees = tuple(map(max, self.degrees, (0, *self.degrees)))
        values = mixed = Signal(own_values, self.degrees, self.algebra)
        if layer.value_mix is not None and first_values is not None:
            mixed = values.scaled(layer.value_mix[0]).plus(first_values.scaled(layer.value_mix[1]))
        pattern = layer.positions.pattern().rows(0, len(self.degrees), self.rows)
        kept = list(range(len(self.degrees)))[-1 if last else 0 :]
        sources = list(accumulate((2 * key + value for key, value in zip(key_degrees, mixed.degrees)), max))
        degrees = tuple(2 * self.degrees[i] + sources[i] for i in kept)
        z = self.rows.new_zeros(rows(max(degrees)), layer.heads, len(kept), layer.head_dim)
        for (query_degree,), places in groups_of([self.degrees[i] for i in kept]).items():
            chosen = [kept[place] for place in places]
            some_queries = [query[: rows(query_degree), :, chosen] for query in queries]
            for (key_degree, value_degree), others in groups_of(key_degrees[: chosen[-1] + 1], mixed.degrees).items():
                some_keys = [key[: rows(key_degree), :, others] for key in keys]
                some_values = mixed.rows[: rows(value_degree), :, others]
                part = self._attend(some_queries, some_keys, some_values, pattern[:, chosen][:, :, others])
                z[: len(part), :, places] += part
        return Signal(layer.merge_heads(z), degrees, self.algebra), values

    def _attend(self, queries: list[Tensor], keys: list[Tensor], values: Tensor, pattern: Tensor) -> Tensor:
        """(rows, heads, queries, head_dim) from queries, keys and values (rows, heads, positions, head_dim)."""
        multiply = self.algebra.multiply
        scores = [multiply(query, key, "hqe,hke->hqk") for query, key in zip(queries, keys)]
        return multiply(multiply(scores[0], scores[-1]) * pattern, values, "hqk,hke->hqe")


def groups_of(*degrees: Sequence[int]) -> dict[tuple[int, ...], list[int]]:
    """Positions with the same degrees: those degrees and the positions' numbers, {(0,): [0, 2], (3,): [1]} for (0, 3, 0)."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for position, key in enumerate(zip(*degrees)):
        groups.setdefault(key, []).append(position)
    return groups


class Coefficients(NamedTuple):
    """Of the logits in powers of (alpha - centre) / unit, (rows, vocab_size), and the degree of the whole polynomial."""

    logits: Tensor
    degree: int


def propagate(prompt: SteeredPrompt, order: int | None = None, unit: float = 1.0, centre: float = 0.0) -> Coefficients:
    """Coefficients of the logits along x + alpha s, through every block above the first steered one.

    A linear map acts on every coefficient; a product is a convolution of coefficients. With `order`, terms above it are
    dropped (a jet); without, degrees grow to their end: five times for attention, twice for a bilinear MLP. Positions
    before the first steered one stay constants. Several injections have a strength each: then `order` is needed, and rows are
    monomials (`Monomials`). Raises ValueError where the model is no polynomial from the first steered block on, naming the part.
    """
    if obstacle := prompt.steerable.obstacle(prompt.first):
        raise ValueError(f"model must be a polynomial from layer {prompt.first} on, but {obstacle}")
    with torch.inference_mode():
        x = polynomial_stream(prompt, order, unit, centre)
        logits = prompt.steerable.model.unembed(x.rows)[:, -1]
    return Coefficients(prompt.steerable.even(logits.clone()), x.degrees[-1])  # a clone is no tensor of inference mode


def polynomial_stream(prompt: SteeredPrompt, order: int | None = None, unit: float = 1.0, centre: float = 0.0,
                      start: Stream | None = None) -> Signal:
    """The stream before the head at the position that is read, as polynomials; `start`: another plain stream than `prompt.entering`."""
    algebra = Monomials(len(prompt.injections), order)
    steps = {}
    for layer, added in prompt.added.items():
        rows = torch.cat([centre * added.sum(0, keepdim=True), unit * added])[: algebra.rows(1)]
        degrees = (1,) if added.shape[1] == 1 else tuple(map(int, added.any(-1).any(0).tolist()))
        steps[layer] = Signal(rows, degrees, algebra)
    return walk(prompt, lambda x: Signal(x, (0,) * x.shape[-2], algebra), steps, start)
