"""Folding the constants of annealed norm sites into the matrices that follow them."""

from dataclasses import replace

import torch

from tensorlm.layers import Norm


@torch.no_grad()
def fold_norms(model):
    """A copy of `model` with norm "none" (and qk_norm "none") whose logits are the same.

    Each site divides by a constant c, so the matrices that read it take the factor 1/c; the first site's constant goes
    into `input_scale`, a q or k site's into the rows of its head. Raises ValueError unless every site is a constant.
    """
    _require_constant(model)
    config = model.config
    kept = {field: "none" for field in ("norm", "qk_norm") if getattr(config, field) == "anneal"}
    folded = type(model)(replace(config, **kept)).to(model.embedding)
    state = {name: tensor for name, tensor in model.state_dict().items() if name in folded.state_dict()}
    folded.load_state_dict(state)
    folded.input_scale.mul_(_scale(model.input_site))
    for old, new in zip(model.blocks, folded.blocks):
        _fold_block(old, new)
    folded.head.mul_(_scale(model.head_site))
    return folded.train(model.training)


def _require_constant(model) -> None:
    per_token = [site for site in model.norm_sites() if site.kind == "rms"]
    if per_token or model.anneal_fraction() < 1.0:
        raise ValueError("only constant norm sites can be folded: train with norm='anneal' until the fraction is 1 "
                         f"(now {model.anneal_fraction():.2f}; {len(per_token)} sites of kind 'rms')")
    if model.config.head == "tied":
        raise ValueError("fold_norms needs an untied head: a tied one shares its matrix with the input table")


def _scale(site: Norm) -> torch.Tensor | float:
    return torch.exp(-site.log_constant).squeeze() if site.kind == "anneal" else 1.0


def _fold_block(old, new) -> None:
    if hasattr(old, "attention"):
        _fold_attention(old.attention, new.attention, _scale(old.attention_norm))
    if hasattr(old, "mlp"):
        for name, weight in new.mlp.named_parameters():
            if name.split(".")[0] in ("L", "R", "E"):
                weight.mul_(_scale(old.mlp_norm))
            elif name == "T":
                weight.mul_(_scale(old.mlp_norm) ** 2)


def _fold_attention(old, new, scale) -> None:
    names = ("q1", "q2", "k1", "k2") if old.kind == "bilinear" else ("q", "k")
    for name, site in zip(names, old.qk_norms):
        weight = getattr(new, name)
        weight.mul_(scale)
        if site.kind == "anneal":
            weight.mul_(torch.exp(-site.log_constant).repeat_interleave(old.head_dim)[:, None].to(weight))
    new.v.mul_(scale)
