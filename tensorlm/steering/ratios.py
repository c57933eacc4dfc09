"""Models whose norms stay per-token, where the response is still exact: ratios of polynomials in the strength."""

import torch
from torch import Tensor

from tensorlm.steering.curves import RatioCurve
from tensorlm.steering.injection import Injection
from tensorlm.steering.opened import Steerable, head_matrix, layer_tensor
from tensorlm.steering.polynomial import POWERS, Polynomial
from tensorlm.tensors import RationalBlock, RationalRay, RationalStack, along
from tensorlm.tensors.rational import EPS


def ratio_obstacle(steerable: Steerable, injection: Injection) -> str:
    """Why the response is no ratio of polynomials that this module has, "" where it is one.

    A per-token norm stays rational where it is read an even number of times (`tensorlm.tensors.remaining_root`): before a
    bilinear MLP. Attention reads keys and values three times. The norm before the head leaves one root for all tokens.
    """
    config = steerable.model.config
    if config.norm != "rms":
        return f"norm={config.norm!r} needs no ratio"
    if injection.first == steerable.layers:
        return ""
    if config.attention != "none":
        return (f"{config.attention} attention is no ratio of polynomials behind norm='rms' (its keys and values are read three times "
                "in all, which leaves a square root)")
    if config.mlp not in ("bilinear", "square", "none"):
        return f"ratios are built for mlp='bilinear' and 'square', not {config.mlp!r}"
    if config.shortcut != "none" or len(injection.layers) > 1:
        return "ratios are built for one steered layer and shortcut='none'"
    return ""


@torch.no_grad()
def ratio_curve(steerable: Steerable, tokens: Tensor, injection: Injection, read: int) -> RatioCurve:
    """Logits at position `read` as one ratio: `tensors.along` from the steered layer on, then the norm before the head.

    Only for models without a `ratio_obstacle`. L blocks have degrees 3^L over 3^L - 1; behind a norm before the head the
    denominator is the root of a polynomial of twice the degree.
    """
    first = injection.first
    x = steerable.enter(tokens, first)[0][0, read]
    s = injection.rows(first)[read]
    steered = range(first, steerable.layers) if steerable.model.config.mlp != "none" else ()
    blocks = [layer_tensor(steerable.model, layer) for layer in steered]
    if blocks:
        ray = along(RationalStack(tuple(RationalBlock(cp, EPS) for cp in blocks)), x, s)
    else:
        unit = float(x.norm() / s.norm()) if s.any() and x.any() else 1.0
        ray = RationalRay(torch.stack([x, unit * s]), x.new_ones(1), unit)
    numerator, denominator, power = ray.numerator, ray.denominator, 1.0
    if steerable.model.head_site.kind == "rms":
        squares = POWERS.multiply(numerator, numerator).mean(-1)
        denominator = POWERS.add(squares, EPS * POWERS.multiply(denominator, denominator))
        power = 0.5
    return RatioCurve(Polynomial(numerator @ head_matrix(steerable.model).mT, ray.unit), Polynomial(denominator, ray.unit), power)
