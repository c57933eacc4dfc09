"""Folding the constants of norm sites into the matrices that follow them."""

from dataclasses import replace

import torch

from tensorlm.layers import Norm


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
    unsettled = sorted({site.kind for site in model.norm_sites() if not site.is_constant})
    if unsettled:
        raise ValueError("only constant norm sites can be folded: train with norm='anneal' until the fraction is 1 "
                         f"(now {model.anneal_fraction():.2f}; sites of kinds {unsettled} are none)")
    if model.config.head == "tied":
        raise ValueError("fold_norms needs an untied head: a tied one shares its matrix with the input table")


def _scale(site: Norm) -> torch.Tensor:
    """The site's factor as a number () or one for each feature (features,), to multiply the columns of a matrix with."""
    return site.factor().squeeze()


def _fold_block(old, new) -> None:
    if old.attention is not None:
        _fold_attention(old.attention, new.attention, _scale(old.attention_norm))
    if old.mlp is not None:
        new.mlp.scale_input(_scale(old.mlp_norm))


def _fold_attention(old, new, scale: torch.Tensor) -> None:
    for name, site in zip((*old.query_names, *old.key_names), old.qk_norms):
        weight = getattr(new, name)
        weight.mul_(scale)
        rows = site.factor().reshape(site.factor().shape[0], -1).expand(old.heads, old.head_dim)
        weight.mul_(rows.reshape(-1, 1).to(weight))
    new.v.mul_(scale)
