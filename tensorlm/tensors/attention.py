"""One head of polynomial attention as a sixth-order tensor: one output, two copies of the query, three of the key token.

    z_i = sum_{j <= i} c_ij H(x_i, x_i, x_j, x_j, x_j),   H_oabcde = (q1' k1)_ac (q2' k2)_bd (o v)_oe

with q' the transpose of q: two bilinear forms and a matrix, multiplied. Mask, decay and row scale are the constants c.
Rotary positions turn queries and keys by constant matrices R_i and R_j: H is constant for each pair of positions then.
"""

import torch
from einops import einsum
from torch import Tensor

from tensorlm.checks import require, require_affordable, require_instance, require_matrix, require_same_kind, require_whole
from tensorlm.layers import Attention
from tensorlm.tensors.cp import require_inputs

NAMES = ("q1", "k1", "q2", "k2", "v", "o")


def head_tensor(q1: Tensor, k1: Tensor, q2: Tensor, k2: Tensor, v: Tensor, o: Tensor) -> Tensor:
    """H_oabcde, (out, width, width, width, width, width): axes a, b for the query's token, c, d, e for the key's.

    Shapes: q1, k1, q2, k2, v (head_dim, width), o (out, head_dim), queries scaled. ValueError where shapes do not fit, or H
    takes more than `checks.DENSE_LIMIT` bytes. Source: the graphical form in Nissen Gonzalez et al. arXiv 2605.15183.
    """
    _check(q1=q1, k1=k1, q2=q2, k2=k2, v=v, o=o)
    require_affordable((o.shape[0],) + (v.shape[1],) * 5, v.dtype, "attend, which never needs the tensor")
    return einsum(q1.mT @ k1, q2.mT @ k2, o @ v, "a c, b d, out e -> out a b c d e")


def head_output(x: Tensor, weights: dict[str, Tensor], coefficients: Tensor, rotations: Tensor | None = None) -> Tensor:
    """z_i = sum_j c_ij H_ij(x_i, x_i, x_j, x_j, x_j) from the dense tensors, pair by pair: to read, not to compute with.

    Shapes: x (time, width), `weights` the arguments of `head_tensor`, `coefficients` c (time, time), `rotations` R (time,
    head_dim, head_dim) or None -> (time, out). H_ij has R_i q1 and R_i q2 for its queries, R_j k1 and R_j k2 for its keys.

    >>> head_output(torch.tensor([[2.0]]), dict.fromkeys(NAMES, torch.ones(1, 1)), torch.ones(1, 1))  # 2^5
    tensor([[32.]])
    """
    require_matrix("x", x)
    _check(**weights)
    require_same_kind(coefficients=coefficients, **weights)
    require_inputs(weights["v"].shape[1], v=weights["v"], x=x)
    time, head_dim = len(x), len(weights["q1"])
    require(coefficients.shape == (time, time), "coefficients", coefficients, f"of shape {(time, time)}, one for each pair of tokens")
    if rotations is None:
        rotations = torch.eye(head_dim, dtype=x.dtype, device=x.device).expand(time, -1, -1)
    require(rotations.shape == (time, head_dim, head_dim), "rotations", rotations, f"of shape {(time, head_dim, head_dim)}")
    z = x.new_zeros(time, len(weights["o"]))
    for i, j in coefficients.nonzero().tolist():
        q1, k1, q2, k2 = (rotations[i if name[0] == "q" else j] @ weights[name] for name in NAMES[:4])
        tensor = head_tensor(q1, k1, q2, k2, weights["v"], weights["o"])
        z[i] += coefficients[i, j] * einsum(tensor, x[i], x[i], x[j], x[j], x[j], "out a b c d e, a, b, c, d, e -> out")  # type: ignore[call-overload]
    return z


def head_weights(layer: Attention, index: int = 0) -> dict[str, Tensor]:
    """Detached weights of one head of an attention layer: the arguments of `head_tensor`, queries divided by sqrt(head_dim).

    TypeError for another layer, ValueError unless it is polynomial, without norm on queries and keys and without key_offset.

    >>> head_weights(Attention("squared", width=4, head_dim=2, context=8), 1)["o"].shape
    torch.Size([4, 2])
    """
    require_instance("layer", layer, Attention)
    if layer.degree is None or layer.qk_norm != "none" or "key_offset" in layer.positions.features:
        raise ValueError("layer must be bilinear or squared attention with qk_norm 'none' and no key_offset, where a head is a tensor of "
                         f"one pair of tokens; got {layer.kind!r}, qk_norm {layer.qk_norm!r}, positions {layer.positions.features}")
    require_whole("index", index, 0, layer.heads - 1)
    rows = slice(index * layer.head_dim, (index + 1) * layer.head_dim)
    names = (*(layer.query_names * 2)[:2], *(layer.key_names * 2)[:2], "v")  # squared attention has one branch, read twice
    q1, q2, k1, k2, v = (getattr(layer, name).detach()[rows] for name in names)
    return {"q1": q1 / layer.head_dim**0.5, "k1": k1, "q2": q2 / layer.head_dim**0.5, "k2": k2, "v": v, "o": layer.o.detach()[:, rows]}


def _check(**weights: Tensor) -> None:
    require(set(weights) == set(NAMES), "names of the weights", tuple(weights), f"those of {NAMES}")
    for name, weight in weights.items():
        require_matrix(name, weight)
    require_same_kind(**weights)
    wanted = weights["q1"].shape
    for name in ("k1", "q2", "k2"):
        require(weights[name].shape == wanted, name, weights[name], f"of shape {tuple(wanted)} like q1")
    require(weights["v"].shape[1] == wanted[1], "v", weights["v"], f"(head_dim, {wanted[1]})")
    require(weights["o"].shape[1] == len(weights["v"]), "o", weights["o"], f"(out, {len(weights['v'])})")
