"""What the weights cannot say: how much of a steering vector's effect on one MLP hangs on the text before it.

At the MLP of block i the stream of a real text is x = row of the last token + c, where c is all that the layers below have
written. The effect of a vector is f(x + a s) - f(x) = a^2 f(s) + 2a B(s, row) + 2a B(s, c): the first two are read off the
weights (the second once the token is known), the third needs the text. Two texts with the same last token have the same
report from the weights, and different effects: `witness` finds such a pair.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from tensorlm.model import TensorTransformer
from tensorlm.steering.checks import require_block, require_number, require_position, require_tokens, require_vector
from tensorlm.steering.opened import layer_tensor, opened
from tensorlm.steering.runs import Part, coefficients, run
from tensorlm.tensors.ties import by_value


@dataclass(frozen=True, eq=False)
class ContextAccount:
    """Effects on a read-out of one MLP, text by text: effect = self_term + token + context, each (batch,).

    `rows` (batch, width) are the rows of the tokens at the position. `effect` comes from two evaluations of the MLP.
    """

    self_term: Tensor
    token: Tensor
    context: Tensor
    effect: Tensor
    rows: Tensor

    def explained(self) -> float:
        """Share of the variance of the effect over texts that the weights explain, the token known: 1 - var(context) / var(effect).

        Up to one constant for all texts, `offset`. Below 0 where the context's term works against the token's.
        """
        return 1 - (self._centred(self.context).square().sum() / self._spread()).item()

    def offset(self) -> float:
        """Mean of the context's term, which the weights miss even where they explain the variance."""
        return self.context.mean().item()

    def variance_shares(self) -> tuple[float, float]:
        """Covariance of the token's and of the context's term with the effect, over its variance: they sum to 1."""
        centred = self._centred(self.effect)
        token, context = ((self._centred(part) @ centred / self._spread()).item() for part in (self.token, self.context))
        return token, context

    def _centred(self, part: Tensor) -> Tensor:
        """Less its mean, in units of the largest departure of the effect: squares of such numbers keep within the number range."""
        largest = (self.effect - self.effect.mean()).abs().max()
        if largest == 0:
            raise ValueError("the effect is the same in all texts: there is no variance to explain")
        return (part - part.mean()) / largest

    def _spread(self) -> Tensor:
        return self._centred(self.effect).square().sum()

    def witness(self) -> tuple[int, int]:
        """Two texts of the batch with the same row, hence the same report, whose effects differ most.

        Raises ValueError where no row occurs twice.
        """
        _, group = torch.unique(self.rows, dim=0, return_inverse=True)
        gaps = (self.effect[:, None] - self.effect).abs().masked_fill(group[:, None] != group, -1.0).fill_diagonal_(-1.0)
        if gaps.max() < 0:
            raise ValueError("no two texts of the batch have the same token at the position: give more texts")
        first, second = divmod(int(by_value(gaps.flatten())[0]), len(gaps))
        return min(first, second), max(first, second)


@torch.no_grad()
def what_context_adds(model: TensorTransformer, tokens: Tensor, vector: Tensor, layer: int, readout: Tensor, position: int = -1,
                      alpha: float = 1.0) -> ContextAccount:
    """The account of readout . [f(x + alpha s) - f(x)] at the MLP of block `layer` and one position, over tokens (batch, time).

    `vector` joins the stream that enters the block, at that position only; `readout` (width,), for instance a difference of
    unembeddings. With a smear the row of the token before counts as context. Raises as `weights_alone` does.

    >>> from tensorlm.model import ModelConfig
    >>> model = TensorTransformer(ModelConfig(norm="none", output_init="normal"))
    >>> account = what_context_adds(model, torch.tensor([[1, 5, 7], [2, 9, 7]]), torch.ones(64), 0, torch.ones(64))
    >>> account.witness(), torch.equal(account.token[0], account.token[1]), torch.equal(account.effect[0], account.effect[1])
    ((0, 1), True, False)
    """
    model = opened(model)
    tokens = require_tokens(model, tokens)
    position = require_position("position", position, tokens.shape[1])
    require_block(model, layer)
    readout = require_vector(model, "readout", readout)
    arriving = coefficients(model, layer, layer, middle=True)
    s = require_number("alpha", alpha) * arriving[Part("vector")] * require_vector(model, "vector", vector)
    rows = arriving[Part("embedding")] * model.embed(tokens)[:, position]
    x, cp = run(model, tokens).blocks[layer].middle[:, position], layer_tensor(model, layer)
    token, context = (2 * cp.polar(s, part) @ readout for part in (rows, x - rows))
    mlp = getattr(model.blocks[layer], "mlp")  # noqa: B009
    effect = (mlp(x + s) - mlp(x)) @ readout
    if not torch.isfinite(effect).all():
        raise ValueError(f"alpha={alpha:g} is too large: effects leave the number range")
    return ContextAccount((cp(s) @ readout).expand_as(effect), token, context, effect, rows)
