"""Who contributed what to the change of a read-out between a plain and a steered run: exact accounts of one layer.

One principle for a bilinear MLP: with x' = x + sum_p u_p and x = sum_c x_c, both sums over what was written into the stream,

    f(x') - f(x) = sum_cp 2B(x_c, u_p) + sum_pq B(u_p, u_q)

The terms, the hidden units and the eigenvectors of the read-out are three ways to cut the same number. For attention,
sum_j P_ij v_j is a product, and its change is P dv (values), dP v (pattern) and dP dv (both), head by head and key by key.
A read-out is a covector (width,) on the stream, for instance a difference of two rows of the unembedding. Eigenvectors of a
read-out: Pearce et al. arXiv 2410.08417, section 3.
"""

import functools
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from tensorlm.checks import require_instance
from tensorlm.model import Stream
from tensorlm.steering.comparison import Comparison, Part, coefficients
from tensorlm.steering.prepare import layer_tensor, require_block, require_position, require_token, require_vector
from tensorlm.tables import Table, largest
from tensorlm.tensors import eigen


@dataclass(frozen=True, eq=False)
class Shares:
    """`values` (batch, terms), one name a term, and the `change` (batch,) that they sum to, computed without them.

    >>> import torch
    >>> shares = Shares(("self", "cross"), torch.tensor([[1.0, -3.0]]), torch.tensor([-2.0]))
    >>> shares.absolute(), shares.error()
    (tensor([[0.2500, 0.7500]]), 0.0)
    >>> print(shares.table())
    term     mean  share of the change
    cross  -3.000                1.500
    self    1.000               -0.500
    """

    names: tuple[str, ...]
    values: Tensor
    change: Tensor

    def __post_init__(self):
        if self.values.shape != (len(self.change), len(self.names)):
            raise ValueError(f"values must have shape {(len(self.change), len(self.names))}, got {tuple(self.values.shape)}")

    def __getitem__(self, name: str) -> Tensor:
        """The contribution of one term, (batch,); KeyError names the terms there are."""
        if name not in self.names:
            raise KeyError(f"no term {name!r}; there are {self.names}")
        return self.values[:, self.names.index(name)]

    def absolute(self) -> Tensor:
        """|c| / sum |c| for every prompt, (batch, terms): shares that scaling all terms alike leaves as they are."""
        return self.values.abs() / self.values.abs().sum(-1, keepdim=True)

    def of_the_change(self) -> Tensor:
        """Mean contribution over the mean change, (terms,): they sum to 1, and single ones may lie below 0 or above 1.

        Raises ValueError where the mean change is 0: there is nothing to share out.
        """
        if self.change.mean() == 0:
            raise ValueError("the mean change is 0: its terms have no shares of it")
        return self.values.mean(0) / self.change.mean()

    def error(self) -> float:
        """Largest |sum of terms - change|, relative to the largest sum of |terms|."""
        return ((self.values.sum(-1) - self.change).abs().max() / self.values.abs().sum(-1).max().clamp_min(1e-300)).item()

    def table(self, count: int = 10) -> Table:
        """The terms with the largest mean over prompts."""
        mean = self.values.mean(0)
        share = mean / self.change.mean()
        return Table(("term", "mean", "share of the change"),
                     tuple((self.names[i], mean[i].item(), share[i].item()) for i in largest(mean, count)))


def by_part(pair: Comparison, readout: Tensor, position: int = -1) -> Shares:
    """readout . (change of the stream before the head), by who wrote it: the vector itself, then every attention and MLP.

    With readout = W_a - W_b, rows of the head, it is the change of logit a - logit b (`logit_readout`).

    >>> from tensorlm.model import ModelConfig, TensorTransformer
    >>> from tensorlm.steering.comparison import compare
    >>> model = TensorTransformer(ModelConfig(norm="none", output_init="normal"))
    >>> pair = compare(model, torch.tensor([[1, 2, 3]]), torch.ones(64), layer=1)
    >>> shares = by_part(pair, logit_readout(pair, 5, 6))
    >>> shares.names, shares.error() < 1e-10
    (('vector', 'attention 1', 'mlp 1'), True)
    """
    readout, position = _question(pair, readout, position)
    parts = pair.changed(len(pair.model.blocks))
    values = [factor * dot(pair.change(part)[:, position], readout) for part, factor in parts.items()]
    change = dot((pair.steered.final - pair.base.final)[:, position], readout)
    return Shares(tuple(map(str, parts)), torch.stack(values, -1), change)


def by_term(pair: Comparison, layer: int, readout: Tensor, position: int = -1) -> Shares:
    """readout . (change of the MLP of block `layer`): "self: p", "self: p x q" and "cross: p x c" for changes p, q and parts c.

    >>> from tensorlm.model import ModelConfig, TensorTransformer
    >>> from tensorlm.steering.comparison import compare
    >>> model = TensorTransformer(ModelConfig(norm="none", output_init="normal"))
    >>> pair = compare(model, torch.tensor([[1, 2, 3]]), torch.ones(64), layer=1, positions=0)
    >>> by_term(pair, 1, torch.ones(64)).names[:3]  # read at another position, the vector itself is not there
    ('self: attention 1', 'cross: attention 1 x embedding', 'cross: attention 1 x attention 0')
    """
    (readout, position), cp = _question(pair, readout, position), _tensor(pair, layer)
    changes = _present(pair.change, pair.changed(layer, middle=True), position)
    context = _present(pair.written, coefficients(pair.model, layer, middle=True), position)
    terms: dict[str, Tensor] = {}
    for index, (p, u) in enumerate(changes.items()):
        terms[f"self: {p}"] = dot(cp(u), readout)
        for q, v in list(changes.items())[index + 1 :]:
            terms[f"self: {p} x {q}"] = 2 * dot(cp.polar(u, v), readout)
        for c, x in context.items():
            terms[f"cross: {p} x {c}"] = 2 * dot(cp.polar(u, x), readout)
    return _shares(pair, layer, readout, position, tuple(terms), list(terms.values()))


def by_unit(pair: Comparison, layer: int, readout: Tensor, position: int = -1) -> Shares:
    """The same change, hidden unit by hidden unit: (readout . D_k) [(L_k x')(R_k x') - (L_k x)(R_k x)].

    Another exact CP form of the same layer has other units; eigenvectors of a read-out do not depend on the form.
    """
    (readout, position), cp = _question(pair, readout, position), _tensor(pair, layer)
    weights = readout @ cp.D
    x, steered = _middles(pair, layer, position)
    values = weights * ((steered @ cp.L.mT) * (steered @ cp.R.mT) - (x @ cp.L.mT) * (x @ cp.R.mT))
    return _shares(pair, layer, readout, position, tuple(f"unit {unit}" for unit in range(cp.hidden)), list(values.unbind(-1)))


def by_eigenvector(pair: Comparison, layer: int, readout: Tensor, position: int = -1) -> Shares:
    """The same change by eigenvectors of the read-out's interaction matrix: lambda [(v . x')^2 - (v . x)^2], largest |lambda| first.

    `readout` is one covector (width,) here, since another one has other eigenvectors.
    """
    (readout, position), cp = _question(pair, readout, position), _tensor(pair, layer)
    if readout.ndim != 1:
        raise ValueError(f"readout must be one covector ({cp.out},) for eigenvectors, got shape {tuple(readout.shape)}")
    spectrum = eigen(cp, readout)
    x, steered = _middles(pair, layer, position)
    values = (spectrum.contributions(steered) - spectrum.contributions(x))[:, 0]
    names = tuple(f"eigenvector {index}" for index in range(values.shape[-1]))
    return _shares(pair, layer, readout, position, names, list(values.unbind(-1)))


@dataclass(frozen=True, eq=False)
class Carriers:
    """readout . (change of attention at one position), by head and key: value, pattern and both, each (batch, heads, time).

    `change` (batch,) is their sum, computed from the two runs.
    """

    value: Tensor
    pattern: Tensor
    both: Tensor
    change: Tensor

    def shares(self) -> Shares:
        """Values change with the pattern frozen, the pattern changes with the values frozen, and what needs both."""
        values = [part.sum((-2, -1)) for part in (self.value, self.pattern, self.both)]
        return Shares(("value", "pattern", "both"), torch.stack(values, -1), self.change)

    def by_source(self) -> Shares:
        """Summed over heads and over the three, key position by key position."""
        values = (self.value + self.pattern + self.both).sum(1)
        return Shares(tuple(f"position {j}" for j in range(values.shape[-1])), values, self.change)

    def by_head(self) -> Shares:
        """Summed over keys and over the three, head by head."""
        values = (self.value + self.pattern + self.both).sum(-1)
        return Shares(tuple(f"head {h}" for h in range(values.shape[-1])), values, self.change)


def by_carrier(pair: Comparison, layer: int, readout: Tensor, position: int = -1) -> Carriers:
    """Split readout . (change of the attention of block `layer`) at `position`: readout (width,), or (batch, width).

    P'v' - P v = P (v' - v) + (P' - P) v + (P' - P)(v' - v), for every head and key. For what attention does to the MLP behind
    it, take the linear part of both as the read-out: `behind_mlp`.

    >>> from tensorlm.model import ModelConfig, TensorTransformer
    >>> from tensorlm.steering.comparison import compare
    >>> model = TensorTransformer(ModelConfig(norm="none", output_init="normal"))
    >>> pair = compare(model, torch.tensor([[1, 2, 3]]), torch.ones(64), layer=1, positions=0)
    >>> carriers = by_carrier(pair, 1, torch.ones(64))
    >>> carriers.value.shape, carriers.by_source().values[0, 1:].tolist(), carriers.shares().error() < 1e-10
    (torch.Size([1, 4, 3]), [0.0, 0.0], True)
    """
    readout, position = _question(pair, readout, position)
    _require_changed(pair, layer)
    base, steered = pair.base.blocks[layer], pair.steered.blocks[layer]
    if base.weights is None or steered.weights is None:
        raise ValueError(f"layer {layer} has no attention")
    pulled = pulled_back(pair.model.blocks[layer].attention, readout.expand(len(pair.tokens), -1))
    value, other = (torch.einsum("bhjd,bhd->bhj", side.values, pulled) for side in (base, steered))
    weight, changed = base.weights[:, :, position], steered.weights[:, :, position]
    change = dot((steered.attention - base.attention)[:, position], readout)
    return Carriers(weight * (other - value), (changed - weight) * value, (changed - weight) * (other - value), change)


def behind_mlp(pair: Comparison, layer: int, readout: Tensor, position: int = -1) -> Tensor:
    """The covector of x + f(x) at the base run, linear part only: readout + 2B(x, .)^T readout, (batch, width)."""
    (readout, position), cp = _question(pair, readout, position), _tensor(pair, layer)
    x = pair.base.blocks[layer].resid_mid[:, position]
    return readout + torch.einsum("boi,bo->bi", cp.jacobian(x), readout.expand(len(x), -1))


def logit_readout(pair: Comparison, token: int, against: int | None = None) -> Tensor:
    """The row of the head for `token` (less that of `against`): the read-out of a logit (of a difference of two), (width,)."""
    require_instance("pair", pair, Comparison)
    head = pair.model.head_matrix()
    row = head[require_token(pair.model, "token", token)]
    return row if against is None else row - head[require_token(pair.model, "against", against)]


def pulled_back(attention, readout: Tensor) -> Tensor:
    """A covector on the output of attention as one on each head's values: o_h^T readout, (batch, width) -> (batch, heads, head_dim)."""
    return (readout @ attention.o).unflatten(-1, (attention.heads, attention.head_dim))


def dot(x: Tensor, covector: Tensor) -> Tensor:
    """Sum over the last axis: (batch, width) with (width,) or (batch, width) -> (batch,)."""
    return (x * covector).sum(-1)


def _present(tensors, arriving: dict[Part, float], position: int) -> dict[Part, Tensor]:
    """What arrives at one position, times its factor; parts that are zero in all prompts left out."""
    found = {part: factor * tensors(part)[:, position] for part, factor in arriving.items()}
    return {part: value for part, value in found.items() if bool(value.any())}


def _middles(pair: Comparison, layer: int, position: int) -> tuple[Tensor, Tensor]:
    return pair.base.blocks[layer].resid_mid[:, position], pair.steered.blocks[layer].resid_mid[:, position]


def _shares(pair: Comparison, layer: int, readout: Tensor, position: int, names: tuple[str, ...], values: list[Tensor]) -> Shares:
    change = dot((pair.steered.blocks[layer].mlp - pair.base.blocks[layer].mlp)[:, position], readout)
    return Shares(names, torch.stack(values, -1) if values else change.new_zeros(len(change), 0), change)


def _tensor(pair: Comparison, layer: int):
    _require_changed(pair, layer)
    return layer_tensor(pair.model, layer)


def _require_changed(pair: Comparison, layer: int) -> None:
    require_block(pair.model, layer)
    if layer < pair.layer:
        raise ValueError(f"layer must be from {pair.layer} on, where the vector enters, got {layer}: nothing changes below it")


def _question(pair: Comparison, readout: Tensor, position: int) -> tuple[Tensor, int]:
    """The read-out in float64 and the position from 0; raises unless both fit the pair."""
    require_instance("pair", pair, Comparison)
    readout = require_vector(pair.model, "readout", readout, len(pair.tokens))
    return readout, require_position("position", position, pair.tokens.shape[1])


def by_source(pair: Comparison, readout: Tensor, position: int = -1) -> Shares:
    """readout . (change of the stream before the head), split into the terms with s: "s", "s and E", "s and Z", "s, E and Z".

    The rows also feed shortcuts and value residuals, so those belong to E. At layer 0 there is no Z. The term "s" is what the
    weights alone say: it needs no text, and it is 0 where no path from the vector to the position is free of the text.

    >>> from tensorlm.model import ModelConfig, TensorTransformer
    >>> from tensorlm.steering import compare, logit_readout
    >>> model = TensorTransformer(ModelConfig(norm="none", output_init="normal"))
    >>> pair = compare(model, torch.tensor([[1, 2, 3]]), torch.ones(64), layer=1, positions=0)
    >>> shares = by_source(pair, logit_readout(pair, 5, 6))
    >>> shares.names, shares["s"].item(), shares.error() < 1e-10
    (('s', 's and E', 's and Z', 's, E and Z'), 0.0, True)
    """
    require_instance("pair", pair, Comparison)
    readout = require_vector(pair.model, "readout", readout)
    position = require_position("position", position, pair.tokens.shape[1])
    terms = inclusion_exclusion(lambda names: dot(_final(pair, names)[:, position], readout), _sources(pair))
    kept = {subset: term for subset, term in terms.items() if "s" in subset}
    change = dot((pair.steered.final - pair.base.final)[:, position], readout)
    return Shares(tuple(_label(subset) for subset in kept), torch.stack(list(kept.values()), -1), change)


def inclusion_exclusion(function: Callable[[tuple[str, ...]], Tensor], names: Sequence[str]) -> dict[tuple[str, ...], Tensor]:
    """m(S) for every non-empty subset S of `names`; m sums over all subsets of a set to the function of that set.

    `function(subset)` is called once for each subset but the empty one, where it counts as 0.

    >>> x = {"a": 2.0, "b": 3.0}
    >>> inclusion_exclusion(lambda subset: sum(x[name] for name in subset) ** 2, ["a", "b"])  # a^2, b^2, 2ab
    {('a',): 4.0, ('b',): 9.0, ('a', 'b'): 12.0}
    """
    if len(set(names)) < len(names):
        raise ValueError(f"names must be distinct, got {list(names)}")
    subsets = [subset for size in range(1, len(names) + 1) for subset in combinations(names, size)]
    terms: dict[tuple[str, ...], Tensor] = {}
    for subset in subsets:  # smaller ones first: what they hold is taken off
        terms[subset] = function(subset) - sum(terms[inner] for inner in terms if set(inner) < set(subset))
    return terms


def shapley(terms: dict[tuple[str, ...], Tensor]) -> dict[str, Tensor]:
    """Each source's Shapley value: every m(S) in equal parts to the members of S.

    >>> shapley({("a",): 4.0, ("b",): 9.0, ("a", "b"): 12.0})
    {'a': 10.0, 'b': 15.0}
    """
    names = sorted({name for subset in terms for name in subset})
    equal = {subset: term / len(subset) for subset, term in terms.items()}
    return {name: functools.reduce(operator.add, [part for subset, part in equal.items() if name in subset]) for name in names}


def _sources(pair: Comparison) -> list[str]:
    return ["s", "E"] if pair.layer == 0 else ["s", "E", "Z"]


def _label(subset: tuple[str, ...]) -> str:
    return subset[0] if len(subset) == 1 else ", ".join(subset[:-1]) + " and " + subset[-1]


def _final(pair: Comparison, names: tuple[str, ...]) -> Tensor:
    """The stream before the head when only the named sources enter block `pair.layer`."""
    below, zero = _entering(pair), torch.zeros_like(pair.base.x0)
    x = sum((below[name] for name in names), zero)
    x0 = pair.base.x0 if "E" in names else zero
    if pair.layer == 0:
        return pair.model.run(Stream(x, x)).x
    first = pair.base.stream.first_values
    first = first if first is None or "E" in names else torch.zeros_like(first)
    return pair.model.run(Stream(x, x0, first), start=pair.layer).x


def _entering(pair: Comparison) -> dict[str, Tensor]:
    """What enters block `pair.layer`, before its shortcut."""
    s = pair.change(Part("vector"))
    if pair.layer == 0:
        return {"s": s, "E": pair.base.x0}
    rows = coefficients(pair.model, pair.layer - 1)[Part("embedding")] * pair.base.x0
    return {"s": s, "E": rows, "Z": pair.base.entering(pair.layer) - rows}
