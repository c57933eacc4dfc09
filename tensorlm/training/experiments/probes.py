"""What else is measured on a run's finished model, besides its loss: tails, other lengths, rules, sizes of the weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tensorlm.data.toy import kl_by_rule
from tensorlm.model import TensorTransformer
from tensorlm.tensors import CPTensor
from tensorlm.training.evaluation import evaluate, evaluate_worst

RANDOM_WINDOWS = 32
Probe = Callable[[TensorTransformer, Any], dict[str, float]]


def tails(model: TensorTransformer, data: Any) -> dict[str, float]:
    """`worst batch`: the largest mean loss of 16 held-out windows in random order, minus the mean of all, in nats."""
    windows = data.valid_windows(model.config.context)
    return {"worst batch": evaluate_worst(model, windows) - evaluate(model, windows)}


def lengths(model: TensorTransformer, data: Any) -> dict[str, float]:
    """`loss at 2x`, `loss at 4x`: change of the loss when the same text is cut into windows of so many contexts."""
    context = model.config.context
    base = evaluate(model, data.valid_windows(context))
    return {f"loss at {times}x": evaluate(model, data.valid_windows(times * context)) - base for times in (2, 4)}


def random_tokens(model: TensorTransformer, data: Any) -> dict[str, float]:
    """`random logit`: the largest absolute logit on uniformly random tokens, at the trained context and at four times it."""
    generator = torch.Generator().manual_seed(0)
    sizes = [_largest_logit(model, torch.randint(data.vocab_size, (RANDOM_WINDOWS, times * model.config.context),
                                                 generator=generator)) for times in (1, 4)]
    return {"random logit": sizes[0], "random logit at 4x": sizes[1]}


def rules(model: TensorTransformer, data: Any) -> dict[str, float]:
    """`rule NAME`: mean exact divergence from the toy language's distribution where that rule applies, in nats."""
    batch = data.annotated_batch(step=10**6, batch_size=512, context=model.config.context, seed=123)
    with torch.no_grad():
        return {f"rule {name}": float(value) for name, value in kl_by_rule(model(batch.tokens[:, :-1]), batch).items()}


def weights(model: TensorTransformer, data: Any) -> dict[str, float]:
    """Of the bilinear MLPs, the mean over layers: share of zeros in the factors, their Hoyer sparsity, effective ranks.

    Hoyer's measure of a vector of n entries is (sqrt(n) - |w|_1 / |w|_2) / (sqrt(n) - 1): 0 for equal entries, 1 for a single one
    (Hoyer 2004). An effective rank is exp(entropy) of normalised shares: of |D_k| |L_k| |R_k| over the hidden units, and
    of the squared singular values of the symmetric tensor unfolded along its output ("tensor rank").
    """
    layers = [CPTensor.from_layer(block.mlp).double() for block in model.blocks]
    found = [{"zeros": _mean((w == 0).double().mean() for w in cp.factors().values()),
              "hoyer": _mean(hoyer(w) for w in cp.factors().values()),
              "units": effective_rank(cp.D.norm(dim=0) * cp.L.norm(dim=1) * cp.R.norm(dim=1)),
              "tensor rank": effective_rank(torch.linalg.svdvals(cp.symmetric().flatten(1)).square())} for cp in layers]
    return {name: sum(one[name] for one in found) / len(found) for name in found[0]}


def hoyer(weight: Tensor) -> float:
    """Hoyer sparsity of all entries; 1 for a single entry that is not zero.

    >>> round(hoyer(torch.tensor([0.0, 3.0, 0.0, 0.0])), 3), round(hoyer(torch.ones(4)), 3)
    (1.0, 0.0)
    """
    root = weight.numel() ** 0.5
    return ((root - weight.abs().sum() / weight.norm().clamp(min=1e-300)) / (root - 1)).item()


def effective_rank(sizes: Tensor) -> float:
    """exp of the entropy of sizes / sum: n for n equal ones, 1 for a single one (Roy & Vetterli 2007).

    >>> round(effective_rank(torch.tensor([1.0, 1.0, 0.0])), 3)
    2.0
    """
    shares = sizes / sizes.sum()
    return torch.special.entr(shares).sum().exp().item()


def _largest_logit(model: TensorTransformer, tokens: Tensor) -> float:
    with torch.no_grad():
        return max(model(part).abs().max().item() for part in tokens.split(4))


def _mean(values: Any) -> float:
    found = [float(value) for value in values]
    return sum(found) / len(found)


PROBES: dict[str, Probe] = {"tails": tails, "lengths": lengths, "random": random_tokens, "rules": rules, "weights": weights}
