"""Polynomials in the strength pushed through the model, block by block, and their exact degrees."""

from dataclasses import dataclass

import torch
from torch import Tensor

from tensorlm.steering.attend import attention
from tensorlm.steering.checks import require_number, require_prompt
from tensorlm.steering.injection import Injection, require_injections
from tensorlm.steering.monomials import Monomials
from tensorlm.steering.opened import Steerable
from tensorlm.steering.polynomial import Polynomial
from tensorlm.steering.signal import Signal


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
    stream, rows, first_values = steerable.enter(tokens, first)
    x, x0, values = Signal.constant(stream), Signal.constant(rows), None if first_values is None else Signal.constant(first_values)
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
    return x if site.kind == "none" else x.mapped(site)


def mlp(layer, x: Signal, algebra: Monomials) -> Signal:
    """A polynomial MLP: its encoders multiplied, then D; or a whole tensor on the products of all pairs of features."""
    return x.by_degree(lambda rows: _mlp_rows(layer, rows, algebra), algebra, layer.degree)


def _mlp_rows(layer, rows: Tensor, algebra: Monomials) -> Tensor:
    if layer.kind in ("full", "symmetric"):
        tensor = layer.T if layer.kind == "full" else layer.tensor().flatten(1)
        return algebra.multiply(rows, rows, "ti,tj->tij").flatten(-2) @ tensor.mT
    product, *others = (rows @ encoder.mT for encoder in encoders(layer))
    for factor in others:
        product = algebra.multiply(product, factor)
    return product @ layer.D.mT


def encoders(layer) -> list[Tensor]:
    """The matrices that an MLP multiplies the results of: L and R, E twice, or E_1 to E_k."""
    if layer.kind == "bilinear":
        return [layer.L, layer.R]
    if layer.kind == "square":
        return [layer.E, layer.E]
    if layer.kind == "product":
        return list(layer.E)
    raise ValueError(f"no encoders are known of an MLP of kind {layer.kind!r}; polynomials pass through bilinear, square, product, full "
                     "and symmetric ones")
