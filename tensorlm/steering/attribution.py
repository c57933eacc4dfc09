"""Who contributed what to the change of a read-out between a plain and a steered run: exact accounts of one layer.

One principle for a bilinear MLP: with x' = x + sum_p u_p and x = sum_c x_c, both sums over what was written into the stream,

    f(x') - f(x) = sum_cp 2B(x_c, u_p) + sum_pq B(u_p, u_q)

The change of attention is P dv (values), dP v (pattern) and dP dv (both), head by head and key by key. A read-out is a covector
(width,) on the stream, for instance a difference of two rows of the unembedding.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from einops import einsum, rearrange, reduce
from torch import Tensor

from tensorlm.checks import require, require_instance
from tensorlm.model import Stream, TensorTransformer
from tensorlm.steering.comparison import Comparison, Component, arriving, entering, written
from tensorlm.steering.prepare import attention_of, layer_tensor, require_block, require_position, require_vector
from tensorlm.steering.propagation import polynomial_stream
from tensorlm.steering.vectors import SteeredPrompt


@dataclass(frozen=True, eq=False)
class Contributions:
    """`values` (batch, terms), one name a term, and the `change` (batch,) that they sum to, computed without them."""

    names: tuple[str, ...]
    values: Tensor
    change: Tensor

    def __getitem__(self, name: str) -> Tensor:
        """The contribution of one term, (batch,); KeyError names the terms there are."""
        if name not in self.names:
            raise KeyError(f"no term {name!r}; there are {self.names}")
        return self.values[:, self.names.index(name)]

    def of_the_change(self) -> Tensor:
        """Mean contribution over the mean change, (terms,), of sum 1; ValueError where the mean change is 0."""
        if self.change.mean() == 0:
            raise ValueError("the mean change is 0: its terms have no shares of it")
        return self.values.mean(0) / self.change.mean()

    def error(self) -> float:
        """Largest |sum of terms - change|, relative to the largest sum of |terms|."""
        return ((self.values.sum(-1) - self.change).abs().max() / self.values.abs().sum(-1).max().clamp_min(1e-300)).item()


def direct_logit_attribution(pair: Comparison, readout: Tensor, position: int = -1) -> Contributions:
    """readout . (change of the stream before the head), by who wrote it: the vector itself, then every attention and MLP.

    With readout = W_a - W_b, rows of the head, it is the change of logit a - logit b (`unembedding_difference`).

    >>> from tensorlm.model import ModelConfig
    >>> from tensorlm.steering import compare, unembedding_difference
    >>> model = TensorTransformer(ModelConfig(norm="none", output_init="normal"))
    >>> pair = compare(model, torch.tensor([[1, 2, 3]]), torch.ones(64), layer=1)
    >>> terms = direct_logit_attribution(pair, unembedding_difference(model, 6, 5))
    >>> terms.names, terms.error() < 1e-10
    (('vector', 'attention 1', 'mlp 1'), True)
    """
    readout, position = _question(pair, readout, position)
    found = pair.changed(len(pair.model.blocks))
    values = [factor * dot(pair.change(one)[:, position], readout) for one, factor in found.items()]
    return Contributions(tuple(map(str, found)), torch.stack(values, -1), dot((pair.steered.x - pair.base.x)[:, position], readout))


def by_term(pair: Comparison, layer: int, readout: Tensor, position: int = -1) -> Contributions:
    """readout . (change of the MLP of block `layer`): "self: p", "self: p x q" and "cross: p x c" for changes p, q and components c."""
    readout, position = _question(pair, readout, position, layer)
    cp = layer_tensor(pair.model, layer)
    changes = _present(pair.change, pair.changed(layer, middle=True), position)
    context = _present(lambda one: written(pair.base, one), arriving(pair.model, layer, middle=True), position)
    terms: dict[str, Tensor] = {}
    for index, (p, u) in enumerate(changes.items()):
        terms[f"self: {p}"] = dot(cp(u), readout)
        for q, v in list(changes.items())[index + 1 :]:
            terms[f"self: {p} x {q}"] = 2 * dot(cp.polar(u, v), readout)
        for c, x in context.items():
            terms[f"cross: {p} x {c}"] = 2 * dot(cp.polar(u, x), readout)
    change = dot((pair.steered.blocks[layer].mlp - pair.base.blocks[layer].mlp)[:, position], readout)
    return Contributions(tuple(terms), torch.stack(list(terms.values()), -1) if terms else change.new_zeros(len(change), 0), change)


@dataclass(frozen=True, eq=False)
class Carriers:
    """readout . (change of attention at one position), by head and key, each (batch, heads, time), and their sum `change` (batch,)."""

    value: Tensor
    pattern: Tensor
    both: Tensor
    change: Tensor

    def shares(self) -> Contributions:
        """Values change with the pattern frozen, the pattern changes with the values frozen, and what needs both."""
        values = [reduce(part, "batch head key -> batch", "sum") for part in (self.value, self.pattern, self.both)]
        return Contributions(("value", "pattern", "both"), torch.stack(values, -1), self.change)

    def by_source(self) -> Contributions:
        """Summed over heads and over the three, key position by key position."""
        values = reduce(self.value + self.pattern + self.both, "batch head key -> batch key", "sum")
        return Contributions(tuple(f"position {j}" for j in range(values.shape[-1])), values, self.change)


def by_carrier(pair: Comparison, layer: int, readout: Tensor, position: int = -1) -> Carriers:
    """Split readout . (change of the attention of block `layer`) at `position`: readout (width,), or (batch, width).

    P'v' - P v = P (v' - v) + (P' - P) v + (P' - P)(v' - v), for every head and key. For what attention does to the MLP behind
    it, take the linear part of both as the read-out: `behind_mlp`.
    """
    readout, position = _question(pair, readout, position, layer)
    pulled = pulled_back(attention_of(pair.model, layer), readout.expand(len(pair.tokens), -1))
    sides: tuple[Any, Any] = pair.base.blocks[layer], pair.steered.blocks[layer]
    value, other = (einsum(side.values, pulled, "batch head key dim, batch head dim -> batch head key") for side in sides)
    weight, changed = (side.weights[:, :, position] for side in sides)
    change = dot((sides[1].attention - sides[0].attention)[:, position], readout)
    return Carriers(weight * (other - value), (changed - weight) * value, (changed - weight) * (other - value), change)


def behind_mlp(pair: Comparison, layer: int, readout: Tensor, position: int = -1) -> Tensor:
    """The covector of x + f(x) at the base run, linear part only: readout + 2B(x, .)^T readout, (batch, width)."""
    readout, position = _question(pair, readout, position, layer)
    cp = layer_tensor(pair.model, layer)
    x = pair.base.blocks[layer].resid_mid[:, position]
    return readout + einsum(cp.jacobian(x), readout.expand(len(x), -1), "batch out width, batch out -> batch width")


def by_source(pair: Comparison, readout: Tensor, position: int = -1) -> Contributions:
    """readout . (change of the stream before the head), split into the terms with s: "s", "s and E", "s and Z", "s, E and Z".

    E: the input rows, also where shortcuts and value residuals read them again; Z: what the layers below the vector have written
    (none at layer 0). The term "s" needs no text: it is what the weights alone say, 0 where no path is free of the text.

    >>> from tensorlm.model import ModelConfig
    >>> from tensorlm.steering import compare, unembedding_difference
    >>> model = TensorTransformer(ModelConfig(norm="none", output_init="normal"))
    >>> pair = compare(model, torch.tensor([[1, 2, 3]]), torch.ones(64), layer=1, positions=0)
    >>> terms = by_source(pair, unembedding_difference(model, 6, 5))
    >>> terms.names, terms["s"].item(), terms.error() < 1e-10
    (('s', 's and E', 's and Z', 's, E and Z'), 0.0, True)
    """
    require_instance("pair", pair, Comparison)
    readout = require_vector(pair.model.config.width, "readout", readout)
    position = require_position("position", position, pair.tokens.shape[1])
    plain, added = entering(pair.base, pair.layer), {pair.layer: pair.change(Component("vector"))}

    def change(names: tuple[str, ...]) -> Tensor:
        start = _only(pair.model, plain, pair.layer, names)
        runs = [pair.model.run(start, start=pair.layer, add=add).x[:, position] for add in (added, None)]
        return dot(runs[0] - runs[1], readout)

    terms = _terms_with_s(change, pair.layer)
    return Contributions(tuple(terms), torch.stack(list(terms.values()), -1), dot((pair.steered.x - pair.base.x)[:, position], readout))


@torch.no_grad()
def source_polynomials(prompt: SteeredPrompt, readout: Tensor) -> dict[str, Tensor]:
    """The terms of `by_source` at every strength: coefficients (powers,) in rising powers of alpha, the constant one 0."""

    def change(names: tuple[str, ...]) -> Tensor:
        start = _only(prompt.steerable.model, prompt.entering, prompt.first, names)
        powers = polynomial_stream(prompt, start=start).rows[:, -1] @ readout
        return torch.cat([torch.zeros_like(powers[:1]), powers[1:]])

    return _terms_with_s(change, prompt.first)


def _only(model: TensorTransformer, stream: Stream, layer: int, names: tuple[str, ...]) -> Stream:
    """The stream that enters block `layer` with the rows and what reads them (E), with what was written since (Z), both or neither."""
    rows = stream.x0 if layer == 0 else arriving(model, layer - 1)[Component("embedding")] * stream.x0
    x = ("E" in names) * rows + ("Z" in names) * (stream.x - rows)
    values = stream.first_values
    return Stream(x, ("E" in names) * stream.x0, values if values is None else ("E" in names) * values)


def _terms_with_s(change: Callable[[tuple[str, ...]], Tensor], layer: int) -> dict[str, Tensor]:
    """Inclusion and exclusion: what each set of sources adds to the change beyond its subsets."""
    subsets: list[tuple[str, ...]] = [(), ("E",)] if layer == 0 else [(), ("E",), ("Z",), ("E", "Z")]
    terms: dict[tuple[str, ...], Tensor] = {}
    for names in subsets:  # smaller ones first: what they hold is taken off
        terms[names] = change(names) - sum(terms[inner] for inner in terms if set(inner) < set(names))
    labels = ("s", "s and E", "s and Z", "s, E and Z")
    return dict(zip(labels, terms.values()))


def pulled_back(attention, readout: Tensor) -> Tensor:
    """A covector on the output of attention as one on each head's values: o_h^T readout, (batch, width) -> (batch, heads, head_dim)."""
    return rearrange(readout @ attention.o, "batch (head dim) -> batch head dim", head=attention.heads)


def dot(x: Tensor, covector: Tensor) -> Tensor:
    """Sum over the last axis: (batch, width) with (width,) or (batch, width) -> (batch,)."""
    return (x * covector).sum(-1)


def _present(tensors: Callable[[Component], Tensor], factors: dict[Component, float], position: int) -> dict[Component, Tensor]:
    """What arrives at one position, times its factor; components that are zero in all prompts left out."""
    found = {one: factor * tensors(one)[:, position] for one, factor in factors.items()}
    return {one: value for one, value in found.items() if bool(value.any())}


def _question(pair: Comparison, readout: Tensor, position: int, layer: int | None = None) -> tuple[Tensor, int]:
    """The read-out in float64 and the position from 0; raises unless both fit the pair, and the layer if there is one."""
    require_instance("pair", pair, Comparison)
    if layer is not None:
        require_block(pair.model, layer)
        require(layer >= pair.layer, "layer", layer, f"from {pair.layer} on, where the vector enters: nothing changes below it")
    readout = require_vector(pair.model.config.width, "readout", readout, len(pair.tokens))
    return readout, require_position("position", position, pair.tokens.shape[1])
