"""The polynomial degree of a whole model, or the reason why there is none."""

from dataclasses import dataclass

from tensorlm.layers.mlp import build_mlp
from tensorlm.layers.norm import TOKEN_KINDS
from tensorlm.model.config import ModelConfig


@dataclass(frozen=True)
class Degree:
    """The degree of the logits in the input rows (None: no polynomial), and how it comes about or what stands against it."""

    value: int | None
    reason: str

    def __int__(self) -> int:
        if self.value is None:
            raise ValueError(f"this model has no polynomial degree: {self.reason}")
        return self.value

    def __str__(self) -> str:
        return f"no polynomial: {self.reason}" if self.value is None else f"degree {self.value:,}: {self.reason}"


def degree_of(config: ModelConfig, anneal_fraction: float = 0.0) -> Degree:
    """The degree at evaluation; `anneal_fraction` is a of the annealed sites, constants at 1 only.

    >>> print(degree_of(ModelConfig(norm="none")))
    degree 100: 2 layers, each of attention (degree 5) and bilinear MLP (degree 2): 10^2
    """
    obstacle = _obstacle(config, anneal_fraction)
    if obstacle:
        return Degree(None, obstacle)
    attention = 1 if config.attention == "none" else 5
    mlp = 1 if config.mlp == "none" else build_mlp(config.mlp, 1, 1, encoders=config.encoders).degree or 1
    value = (attention * mlp) ** config.layers
    reason = (f"{config.layers} layers, each of attention (degree {attention}) and {config.mlp} MLP (degree {mlp}): "
              f"{attention * mlp}^{config.layers}")
    return Degree(value, reason)


def _obstacle(config: ModelConfig, fraction: float) -> str:
    if config.attention == "softmax":
        return "softmax attention takes exponentials and divides; choose attention='bilinear' or 'squared'"
    if config.mlp != "none" and build_mlp(config.mlp, 1, 1).degree is None:
        return f"the {config.mlp} MLP is no polynomial; choose mlp='bilinear', 'square', 'product', 'full' or 'symmetric'"
    for field in ("norm",) if config.attention == "none" else ("norm", "qk_norm"):
        kind = getattr(config, field)
        if kind in TOKEN_KINDS:
            return f"{field}={kind!r} divides by each token's root mean square; choose {field}='anneal' or 'none'"
        if kind == "anneal" and fraction < 1.0:
            return f"{field}='anneal' is still {1 - fraction:.0%} a per-token norm; it is a constant once training ends"
    return ""
