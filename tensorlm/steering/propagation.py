"""Polynomials in the strength pushed through the model, block by block, and their exact degrees."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from tensorlm.checks import require_number
from tensorlm.polynomials.powers import Monomials, Polynomial
from tensorlm.steering.prepare import Steerable, require_prompt
from tensorlm.steering.vectors import Injection, require_injections


@dataclass(frozen=True, eq=False)
class Signal:
    """Coefficients `rows` (n, time, ...) or, for heads, (n, heads, time, ...), and the degree of every position.

    A degree is the one that generic weights reach: the sum over factors, the largest over terms. It counts what an order
    has cut off, so that `degree` + 1 rows are the whole polynomial and fewer are a jet. Rows above a position's own
    degree are zero there.
    """

    rows: Tensor
    degrees: tuple[int, ...]

    @classmethod
    def constant(cls, x: Tensor) -> "Signal":
        """Unsteered values, (1, time, width) or (1, heads, time, head_dim)."""
        return cls(x, (0,) * x.shape[-2])

    @property
    def time(self) -> int:
        return len(self.degrees)

    @property
    def degree(self) -> int:
        """The largest of all positions."""
        return max(self.degrees)

    def mapped(self, linear: Callable[[Tensor], Tensor]) -> "Signal":
        """A linear map of every coefficient that leaves positions apart."""
        return Signal(linear(self.rows), self.degrees)

    def at(self, positions: Sequence[int], algebra: Monomials) -> "Signal":
        """Some positions only, without rows that are zero there."""
        degrees = tuple(self.degrees[position] for position in positions)
        return Signal(self.rows[: algebra.rows(max(degrees)), ..., list(positions), :], degrees)

    def plus(self, other: "Signal", algebra: Monomials) -> "Signal":
        return Signal(algebra.add(self.rows, other.rows), tuple(map(max, self.degrees, other.degrees)))

    def by_degree(self, polynomial: Callable[[Tensor], Tensor], algebra: Monomials, factor: int) -> "Signal":
        """A polynomial map of degree `factor` of each position, done for positions of one degree at a time."""
        groups = groups_of(self.degrees)
        degrees = tuple(factor * degree for degree in self.degrees)
        if len(groups) == 1:
            return Signal(polynomial(self.rows), degrees)
        parts = [(index, polynomial(self.rows[: algebra.rows(degree), index])) for (degree,), index in groups.items()]
        result = self.rows.new_zeros(max(len(part) for _, part in parts), self.time, parts[0][1].shape[-1])
        for index, part in parts:
            result[: len(part), index] = part
        return Signal(result, degrees)


def groups_of(*degrees: Sequence[int]) -> dict[tuple[int, ...], list[int]]:
    """Positions with the same degrees: those degrees and the positions' numbers.

    >>> groups_of((0, 3, 0))
    {(0,): [0, 2], (3,): [1]}
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for position, key in enumerate(zip(*degrees)):
        groups.setdefault(key, []).append(position)
    return groups


def attention(layer, x: Signal, first_values: Signal | None, algebra: Monomials, kept: list[int]) -> tuple[Signal, Signal]:
    """`Attention.forward` on a normed stream of polynomials: the output at the positions `kept`, and the values.

    z_i = sum_j c_ij s1_ij s2_ij v_j has degree max_j (2 n_i + 2 k_j + v_j) in the strength; n, k, v are the degrees of
    x_i, of key j and of value j. Queries of one degree and keys of one degree meet at a time, so that constants stay
    constants: a steered position costs only what it touches.
    """
    queries, keys, values, _ = layer.prepare(x.rows)
    key_degrees = x.degrees
    if "key_offset" in layer.positions.features:
        key_degrees = tuple(map(max, x.degrees, (0, *x.degrees)))
    values = Signal(values, x.degrees)
    mixed = _mix_values(layer, values, first_values, algebra)
    pattern = layer.positions.pattern().rows(0, x.time, x.rows)
    sources = list(accumulate((2 * key + value for key, value in zip(key_degrees, mixed.degrees)), max))
    degrees = tuple(2 * x.degrees[i] + sources[i] for i in kept)
    z = x.rows.new_zeros(algebra.rows(max(degrees)), layer.heads, len(kept), layer.head_dim)
    for (query_degree,), places in groups_of([x.degrees[i] for i in kept]).items():
        chosen = [kept[place] for place in places]
        some_queries = [query[: algebra.rows(query_degree), :, chosen] for query in queries]
        for (key_degree, value_degree), others in groups_of(key_degrees, mixed.degrees).items():
            others = [other for other in others if other <= max(chosen)]
            if others:
                some_keys = [key[: algebra.rows(key_degree), :, others] for key in keys]
                some_values = mixed.rows[: algebra.rows(value_degree), :, others]
                part = _attend(some_queries, some_keys, some_values, pattern[:, chosen][:, :, others], algebra)
                z[: len(part), :, places] += part
    return Signal(layer.merge_heads(z), degrees), values


def _attend(queries: list[Tensor], keys: list[Tensor], values: Tensor, pattern: Tensor, algebra: Monomials) -> Tensor:
    """(rows, heads, queries, head_dim) from queries, keys and values (rows, heads, positions, head_dim)."""
    scores = [algebra.multiply(query, key, "hqe,hke->hqk") for query, key in zip(queries, keys)]
    product = algebra.multiply(scores[0], scores[-1]) * pattern
    return algebra.multiply(product, values, "hqk,hke->hqe")


def _mix_values(layer, values: Signal, first_values: Signal | None, algebra: Monomials) -> Signal:
    if first_values is None or layer.value_mix is None:
        return values
    mix = layer.value_mix
    return values.mapped(lambda rows: mix[0] * rows).plus(first_values.mapped(lambda rows: mix[1] * rows), algebra)


@dataclass(frozen=True, eq=False)
class Trajectory:
    """The residual stream as polynomials in the strengths, before each block from the first steered one on, and before the head.

    `states[l]` is a `Signal`: coefficients (rows, time, width) in powers of (alpha - centre) / unit, and the exact degree at
    every position. The last one holds the position that is read only.
    """

    steerable: Steerable
    states: dict[int, Signal]
    algebra: Monomials
    unit: float
    centre: float

    @property
    def final(self) -> Signal:
        return self.states[self.steerable.layers]

    def logits(self) -> Tensor:
        """Coefficients of the logits at the position that is read: (rows, vocab_size)."""
        return self.steerable.even(self.steerable.model.unembed(self.final.rows)[:, -1])

    def stream(self, layer: int) -> Polynomial:
        """The stream before block `layer` as a polynomial with values (time, width), for one strength."""
        signal = self.states[layer]
        return Polynomial(signal.rows, self.unit, self.centre, signal.degree == len(signal.rows) - 1)


@torch.no_grad()
def propagate(model, tokens: Tensor, injection: Injection | tuple[Injection, ...], read: int = -1, order: int | None = None,
              unit: float = 1.0, centre: float = 0.0) -> Trajectory:
    """Coefficients of the residual stream along x + alpha s, through every block above the first steered one.

    A linear map acts on every coefficient; a product is a convolution of coefficients. With `order`, terms above it are
    dropped (a jet); without, degrees grow to their end: five times for attention, twice for a bilinear MLP. Positions
    before the first steered one stay constants, and of the last block only position `read` is computed.
    Several injections have a strength each: then `order` is needed, and rows are monomials (`Monomials`).
    Raises ValueError where the model is no polynomial from the first steered block on, naming the part.

    >>> from tensorlm.model import ModelConfig, TensorTransformer
    >>> steerable = Steerable.of(TensorTransformer(ModelConfig(norm="none"), seed=0))
    >>> tokens = torch.arange(6)
    >>> steered = Injection.make(steerable, 6, torch.ones(64), layer=1, positions=2)
    >>> propagate(steerable, tokens, steered).final.degree  # queries hold no vector there: (2 + 1) * 2
    6
    """
    steerable = Steerable.of(model)
    tokens, read = require_prompt(steerable.model, tokens, read)
    injections = require_injections(injection, tokens.shape[1])
    if require_number("unit", unit) <= 0:
        raise ValueError(f"unit must be above 0, got {unit!r}")
    require_number("centre", centre)
    algebra, first = Monomials(len(injections), order), min(one.first for one in injections)
    if obstacle := steerable.obstacle(first):
        raise ValueError(f"model must be a polynomial from layer {first} on, but {obstacle}")
    tokens = tokens[:, : read + 1]
    stream = steerable.model.run(tokens, stop=first)
    x, x0 = Signal.constant(stream.x), Signal.constant(stream.x0)
    values = None if stream.first_values is None else Signal.constant(stream.first_values)
    added = [one.until(read) for one in injections]
    alone, states = not steerable.has_attention, {}
    for layer in range(first, steerable.layers + 1):
        x = _inject(x, added, layer, algebra, unit, centre)
        x0 = x if layer == 0 else x0
        if x.time > 1 and (alone or layer == steerable.layers):
            x, x0 = x.at([read], algebra), x0.at([read], algebra)
        states[layer] = x
        if layer < steerable.layers:
            kept = [x.time - 1] if layer == steerable.layers - 1 else list(range(x.time))
            x, new_values = _through_block(steerable, layer, x, x0, values, algebra, kept)
            values = new_values if layer == 0 else values
    return Trajectory(steerable, states, algebra, unit, centre)


def _inject(x: Signal, injections: list[Injection], layer: int, algebra: Monomials, unit: float, centre: float) -> Signal:
    """x + (centre + unit t) s at the masked positions, for every strength t."""
    for index, one in enumerate(injections):
        added = one.rows(layer)
        if added is None:
            continue
        degrees = tuple(one.mask.int().tolist())[-x.time :]
        if not any(degrees):
            continue
        added, missing = added[-x.time :], algebra.rows(1) - len(x.rows)
        rows = torch.cat([x.rows, x.rows.new_zeros(missing, *added.shape)]) if missing > 0 else x.rows.clone()
        if centre:
            rows[0] += centre * added
        if algebra.order != 0:
            rows[1 + index].add_(added, alpha=unit)
        x = Signal(rows, tuple(map(max, x.degrees, degrees)))
    return x


def _through_block(steerable: Steerable, layer: int, x: Signal, x0: Signal, first_values: Signal | None, algebra: Monomials,
                   kept: list[int]) -> tuple[Signal, Signal | None]:
    """`Block.forward` on polynomials, at the positions `kept`."""
    block = steerable.blocks[layer]
    config = steerable.model.config
    if config.shortcut != "none" and layer > 0:
        mix = block.shortcut
        x = x.mapped(lambda rows: mix[0] * rows).plus(x0.mapped(lambda rows: mix[1] * rows), algebra)
    stays, values = (x if len(kept) == x.time else x.at(kept, algebra)), None
    if config.attention != "none":
        z, values = attention(block.attention, _normed(block.attention_norm, x), first_values, algebra, kept)
        stays = stays.plus(z, algebra)
    if config.mlp != "none":
        stays = stays.plus(mlp(block.mlp, _normed(block.mlp_norm, stays), algebra), algebra)
    return stays, values


def _normed(site, x: Signal) -> Signal:
    return x.mapped(site)


def mlp(layer, x: Signal, algebra: Monomials) -> Signal:
    """A polynomial MLP: its encoders multiplied, then D."""
    return x.by_degree(lambda rows: _mlp_rows(layer, rows, algebra), algebra, layer.degree)


def _mlp_rows(layer, rows: Tensor, algebra: Monomials) -> Tensor:
    product, *others = (rows @ encoder.mT for encoder in layer.encoders())
    for factor in others:
        product = algebra.multiply(product, factor)
    return product @ layer.decoder().mT
