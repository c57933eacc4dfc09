"""Models whose norms stay per-token, where the response is still exact: ratios of polynomials in the strength."""

import torch
from torch import Tensor

from tensorlm.steering.curves import RatioCurve
from tensorlm.steering.injection import Injection
from tensorlm.steering.opened import Steerable, head_matrix, layer_tensor
from tensorlm.steering.polynomial import POWERS, Polynomial
from tensorlm.tensors import RationalBlock
from tensorlm.tensors.rational import EPS
from tensorlm.tensors.rays import advance_along
from tensorlm.tensors.scaling import length

Pair = tuple[Tensor, Tensor]


def ratio_obstacle(steerable: Steerable, injection: Injection) -> str:
    """Why the response is no ratio of polynomials that this module has, "" where it is one.

    A per-token norm stays rational where it is read an even number of times (`tensorlm.tensors.remaining_root`): before an
    MLP of degree 2. Attention reads keys and values three times. The norm before the head leaves one root for all tokens.
    """
    config = steerable.model.config
    per_token = config.attention != "none" and config.qk_norm in ("rms", "joint") and injection.first < steerable.layers
    if config.norm != "rms" and per_token:
        return (f"qk_norm={config.qk_norm!r} is a ratio whose degree grows with the heads and with the positions that are steered, "
                "which is not built")
    if config.norm != "rms":
        return f"norm={config.norm!r} needs no ratio"
    if injection.first == steerable.layers:
        return ""
    if config.attention != "none":
        return (f"{config.attention} attention is no ratio of polynomials behind norm='rms' (its keys and values are read three times "
                "in all, which leaves a square root)")
    if config.mlp != "none" and steerable.blocks[0].mlp.degree != 2:
        return f"ratios are built for MLPs of degree 2, not for mlp={config.mlp!r}"
    return ""


@torch.no_grad()
def ratio_curve(steerable: Steerable, tokens: Tensor, injection: Injection, read: int) -> RatioCurve:
    """Logits at position `read` as one ratio, carried as a pair (N, q) from the first steered block to the head.

    Only for models without a `ratio_obstacle`. A vector or a shortcut adds q times itself to N, a block is `advance_along`.
    L blocks have degrees 3^L over 3^L - 1; behind a norm before the head the denominator is the root of a polynomial of
    twice the degree.
    """
    first = injection.first
    stream, rows, _ = steerable.enter(tokens, first)
    s, unit = injection.mask[read] * injection.vectors[0], 1.0
    if s.any() and stream[0, read].any():
        unit = float(length(stream[0, read]) / length(s))
    pair, start = (stream[:, read], stream.new_ones(1)), rows[:, read]
    for layer in range(first, steerable.layers + 1):
        added = injection.rows(layer)
        if added is not None:
            pair = _plus(pair, torch.stack([torch.zeros_like(s), unit * added[read]]))
        start = pair[0] if layer == 0 else start
        if layer < steerable.layers:
            pair = _through_block(steerable, layer, pair, start)
    numerator, denominator, power = *pair, 1.0
    if steerable.model.head_site.kind == "rms":
        squares = POWERS.multiply(numerator, numerator).mean(-1)
        denominator = POWERS.add(squares, EPS * POWERS.multiply(denominator, denominator))
        power = 0.5
    return RatioCurve(Polynomial(steerable.even(numerator @ head_matrix(steerable.model).mT), unit), Polynomial(denominator, unit), power)


def _plus(pair: Pair, polynomial: Tensor) -> Pair:
    """N / q + p = (N + q p) / q, for a polynomial p (degree + 1, width)."""
    numerator, denominator = pair
    return POWERS.add(numerator, POWERS.multiply(denominator[:, None], polynomial)), denominator


def _through_block(steerable: Steerable, layer: int, pair: Pair, start: Tensor) -> Pair:
    """A block without attention; `start` are the coefficients of the input row, which a shortcut mixes in."""
    block, config = steerable.blocks[layer], steerable.model.config
    if config.shortcut != "none" and layer > 0:
        pair = _plus((block.shortcut[0] * pair[0], pair[1]), block.shortcut[1] * start)
    return pair if config.mlp == "none" else advance_along(RationalBlock(layer_tensor(steerable.model, layer), EPS), *pair)
