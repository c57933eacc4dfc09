"""Gradients of single examples in a bilinear classifier, kept as the outer products that they are.

    logits = P h,  h = u * v,  u = A1 x,  v = A2 x;    a number f(logits) whose gradient by the logits is g has
    df / d[A1; A2] = [P'g * v; P'g * u] x',    df / dP = g h'

So the inner product of two examples' gradients is made of four inner products of short vectors, and the long rows
(n, parameters) are written out only where a method needs them. Parameters are counted as A1, A2, P, each row after row.
"""

import math
from typing import NamedTuple

import torch
from einops import einsum
from torch import Tensor
from torch.nn.functional import one_hot

from tensorlm.checks import require, require_one_of, require_rows
from tensorlm.data_attribution.classifiers import OUTCOMES, Classifiers, require_labels

BLOCK_ENTRIES = 2**22  # of the rows that are written out at a time


class Gradients(NamedTuple):
    """Gradients of n numbers: lower (n, 2 hidden) times inputs for A1 over A2, upper (n, classes) times hidden for P."""

    lower: Tensor
    inputs: Tensor
    upper: Tensor
    hidden: Tensor

    def dense(self) -> Tensor:
        """The gradients as rows: (n, parameters)."""
        pairs = ((self.lower, self.inputs), (self.upper, self.hidden))
        products = [einsum(rows, columns, "n row, n column -> n row column") for rows, columns in pairs]
        return torch.cat([product.flatten(1) for product in products], dim=1)

    def mean(self) -> Tensor:
        """Their mean: (parameters,)."""
        pairs = ((self.lower, self.inputs), (self.upper, self.hidden))
        return torch.cat([(rows.mT @ columns).flatten() for rows, columns in pairs]) / len(self.inputs)

    def products(self, other: "Gradients") -> Tensor:
        """Inner products with each of m other gradients: (n, m)."""
        lower, inputs, upper, hidden = (mine @ theirs.mT for mine, theirs in zip(self, other))
        return lower.mul_(inputs).addcmul_(upper, hidden)

    def norms(self) -> Tensor:
        """Their lengths: (n,)."""
        lower, inputs, upper, hidden = (part.square().sum(1) for part in self)
        return (lower * inputs + upper * hidden).sqrt()

    def times(self, columns: Tensor) -> Tensor:
        """Inner products with columns (parameters, m): (n, m). Blocks of rows keep the memory bounded."""
        rows = max(1, BLOCK_ENTRIES // len(columns))
        return torch.cat([Gradients(*parts).dense() @ columns for parts in zip(*(part.split(rows) for part in self))])


def example_gradients(model: Classifiers, x: Tensor, y: Tensor, kind: str) -> Gradients:
    """Gradients of the outcomes of the examples x (n, inputs), y (n,) at one model, in float64.

    Raises ValueError for more than one model, another outcome than "loss" or "margin", examples that do not fit the model.

    >>> model = Classifiers(torch.ones(1, 2, 3), torch.ones(1, 2, 3), torch.ones(1, 4, 2))
    >>> example_gradients(model, torch.ones(5, 3), torch.zeros(5, dtype=torch.long), "loss").dense().shape
    torch.Size([5, 20])
    """
    left, right, down = single(model)
    require_rows(x, left.shape[1])
    require_labels(y, len(x), len(down))
    x = x.double()
    u, v = x @ left.mT, x @ right.mT
    upper = logit_gradients(u * v @ down.mT, y, kind)
    pull = upper @ down
    return Gradients(torch.cat([pull * v, pull * u], dim=1), x, upper, u * v)


def logit_gradients(logits: Tensor, y: Tensor, kind: str) -> Tensor:
    """Derivative of each outcome by its logits (n, classes): p - e for the loss, e - (p among the others) for the margin."""
    require_one_of("kind", kind, OUTCOMES)
    own = one_hot(y, logits.shape[-1])
    if kind == "loss":
        return logits.softmax(-1) - own
    return own - logits.masked_fill(own.bool(), -math.inf).softmax(-1)


def single(model: Classifiers) -> Classifiers:
    """The weights of one model in float64, without the axis of models; ValueError where there are several."""
    require(model.size == 1, "model", model.down, "one model, so that its weights have a first axis of length 1")
    model.require_finite()
    return Classifiers(*(weight[0].double() for weight in model))
