"""A thousandth of a language model: one layer on the toy language, trained many times, each time without one document.

All models see the same batches and start from the same weights; each has its own weights on the documents.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cross_entropy

from tensorlm.checks import require, require_counts, require_number, require_one_of
from tensorlm.data.toy.corpus import ToyBatch, kl_by_rule
from tensorlm.model import ModelConfig, TensorTransformer

BLOCK_MODELS = 16


@dataclass(frozen=True)
class Reader:
    """How the models are made: one block of `width`, Adam with L2 `decay`, `epochs` over the documents in batches.

    `rate` stays as it is (`schedule` "constant") or falls to zero along half a cosine ("cosine").
    """

    width: int = 16
    hidden: int = 32
    rate: float = 0.02
    schedule: str = "cosine"
    decay: float = 3e-3
    epochs: int = 40
    batch: int = 25

    def __post_init__(self) -> None:
        require_counts(width=self.width, hidden=self.hidden, epochs=self.epochs, batch=self.batch)
        require_number("rate", self.rate, above=0)
        require_one_of("schedule", self.schedule, ("constant", "cosine"))
        require_number("decay", self.decay, least=0)

    def model(self, context: int, seed: int) -> TensorTransformer:
        return TensorTransformer(ModelConfig(vocab_size=54, context=context, width=self.width, layers=1, head_dim=8, mlp="bilinear",
                                             mlp_hidden=self.hidden, attention="bilinear", bigram="none", smear="none"), seed)


def read(reader: Reader, documents: ToyBatch, weights: Tensor, judged: ToyBatch, seed: int = 0) -> list[dict[str, float]]:
    """Train a model for each row of `weights` (models, documents) and judge it by rule: `kl_by_rule` on `judged`, one dict a model.

    A batch's gradient is divided by the documents that it would have, so that one that is left out leaves its place empty.
    Raises ValueError for weights of another shape.
    """
    tokens = documents.tokens
    fits = isinstance(weights, Tensor) and weights.ndim == 2 and weights.shape[1] == len(tokens)
    require(fits, "weights", weights, f"a matrix (models, {len(tokens)})")
    model, found = reader.model(tokens.shape[1] - 1, seed), []
    for block in weights.float().split(BLOCK_MODELS):
        stacked = train(reader, model, tokens, block, seed)
        for index in range(len(block)):
            own = {name: value[index] for name, value in stacked.items()}
            with torch.no_grad():
                scores = functional_call(model, own, (judged.tokens[:, :-1],))
            found.append(kl_by_rule(scores, judged))
    return found


def train(reader: Reader, model: TensorTransformer, tokens: Tensor, weights: Tensor, seed: int) -> dict[str, Tensor]:
    """The parameters of a block of models after training, (models, ...) each."""
    def loss(parameters, batch, own):
        scores = functional_call(model, parameters, (batch[:, :-1],))
        losses = cross_entropy(scores.mT, batch[:, 1:], reduction="none").mean(1)
        return (own * losses).mean() + reader.decay / 2 * sum(value.pow(2).sum() for value in parameters.values())

    slopes = vmap(grad(loss), in_dims=(0, None, 0))
    stacked = {name: value.detach().expand(len(weights), *value.shape).clone() for name, value in model.named_parameters()}
    optimiser = torch.optim.Adam(list(stacked.values()), reader.rate)
    generator = torch.Generator().manual_seed(seed)
    batches = [rows for _ in range(reader.epochs) for rows in torch.randperm(len(tokens), generator=generator).split(reader.batch)]
    for step, rows in enumerate(batches):
        found = slopes(stacked, tokens[rows], weights[:, rows])
        for name, value in stacked.items():
            value.grad = found[name]
        if reader.schedule == "cosine":
            optimiser.param_groups[0]["lr"] = reader.rate * (1 + math.cos(math.pi * step / len(batches))) / 2
        optimiser.step()
    return stacked
