"""Folding the constants of norm sites into the matrices that follow them."""

from dataclasses import replace

import torch

from tensorlm.layers import Norm
from tensorlm.layers.norm import TOKEN_KINDS


@torch.no_grad()
def fold_norms(model):
    """A copy of `model` with norm "none" (and qk_norm "none") whose logits are the same.

    Each site multiplies by a constant (a number, or one for each feature), so the matrices that read it take it over; the
    first site's goes into `input_scale`, a q or k site's into the rows of its head. Raises ValueError unless every site is a
    constant at evaluation.
    """
    _require_constant(model)
    folded = type(model)(replace(model.config, norm="none", qk_norm="none")).to(model.embedding)
    state = {name: tensor for name, tensor in model.state_dict().items() if name in folded.state_dict()}
    folded.load_state_dict(state)
    folded.input_scale = model.input_scale * _scale(model.input_site)
    for old, new in zip(model.blocks, folded.blocks):
        _fold_block(old, new)
    folded.head.mul_(_scale(model.head_site))
    return folded.train(model.training)


def _require_constant(model) -> None:
    per_token = [site for site in model.norm_sites() if site.kind in TOKEN_KINDS]
    if per_token or model.anneal_fraction() < 1.0:
        kinds = sorted({site.kind for site in per_token})
        raise ValueError("only constant norm sites can be folded: train with norm='anneal' until the fraction is 1 "
                         f"(now {model.anneal_fraction():.2f}; {len(per_token)} sites of kinds {kinds})")
    if model.config.head == "tied":
        raise ValueError("fold_norms needs an untied head: a tied one shares its matrix with the input table")


def _scale(site: Norm) -> torch.Tensor:
    """The site's factor as a number () or one for each feature (features,), to multiply the columns of a matrix with."""
    return site.factor().squeeze()


def _fold_block(old, new) -> None:
    if hasattr(old, "attention"):
        _fold_attention(old.attention, new.attention, _scale(old.attention_norm))
    if hasattr(old, "mlp"):
        for name, weight in new.mlp.named_parameters():
            if name.split(".")[0] in ("L", "R", "E"):
                weight.mul_(_scale(old.mlp_norm))
            elif name in ("T", "S"):
                weight.mul_(_pairs(_scale(old.mlp_norm), upper=name == "S"))


def _pairs(scale: torch.Tensor, upper: bool) -> torch.Tensor:
    """What multiplies x_i x_j where `scale` multiplies x: its square (), or all products, with `upper` those of i <= j by diagonals."""
    if not scale.ndim:
        return scale**2
    if not upper:
        return torch.outer(scale, scale).flatten()
    return torch.cat([scale[: len(scale) - offset] * scale[offset:] for offset in range(len(scale))])


def _fold_attention(old, new, scale) -> None:
    names = ("q1", "q2", "k1", "k2") if old.kind == "bilinear" else ("q", "k")
    for name, site in zip(names, old.qk_norms):
        weight = getattr(new, name)
        weight.mul_(scale)
        rows = site.factor().reshape(site.factor().shape[0], -1).expand(old.heads, old.head_dim)
        weight.mul_(rows.reshape(-1, 1).to(weight))
    new.v.mul_(scale)
