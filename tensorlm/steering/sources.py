"""The change of a read-out by source of every factor: inclusion and exclusion over what enters a layer.

From block l on the model is a polynomial F without constant term of what enters: the vector s, the input rows E, and what the
layers below have written, Z. Evaluated on every subset of the three, the alternating sums

    m(S) = sum over T in S of (-1)^(|S| - |T|) F(T)

are the terms of F in which exactly the sources of S occur, and those with s in them sum to F(all) - F(all but s), the change.
This is exact algebra, on inputs that the model never sees (rows without the outputs of lower layers); that products of many
factors are mostly mixed terms is also why the mixed terms come out largest. The alternating sums are Harsanyi's dividends;
shared out in equal parts they give the value of Shapley (1953).
"""

import functools
import operator
from collections.abc import Callable, Sequence
from itertools import combinations

import torch
from torch import Tensor

from tensorlm.steering.attribution import dot
from tensorlm.steering.checks import require_position, require_vector
from tensorlm.steering.runs import Comparison, Part, coefficients, run_blocks
from tensorlm.steering.shares import Shares
from tensorlm.tensors.checks import require_instance


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
        return run_blocks(pair.model, x, x, None, 0)[1]
    first = pair.base.first_values
    return run_blocks(pair.model, x, x0, first if first is None or "E" in names else torch.zeros_like(first), pair.layer)[1]


def _entering(pair: Comparison) -> dict[str, Tensor]:
    """What enters block `pair.layer`, before its shortcut."""
    s = pair.change(Part("vector"))
    if pair.layer == 0:
        return {"s": s, "E": pair.base.x0}
    rows = coefficients(pair.model, pair.layer - 1)[Part("embedding")] * pair.base.x0
    return {"s": s, "E": rows, "Z": pair.base.entering(pair.layer) - rows}
