"""What a model is: a frozen configuration, checked when it is made, named presets, and the polynomial degree."""

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from tensorlm.checks import require, require_counts, require_one_of
from tensorlm.layers.attention import ATTENTION_KINDS, POSITIONS, ROW_SCALES, attention_parameters
from tensorlm.layers.init import OUTPUT_INITS
from tensorlm.layers.mlp import MLP_KINDS, TENSOR_KINDS, build_mlp, matched_hidden
from tensorlm.layers.norm import NORM_KINDS, QK_NORM_KINDS, TOKEN_KINDS

BLOCK_PARAMETERS = 12  # of every block, in units of width^2, whatever its kinds
BIGRAM_LIMIT = 1 << 26  # numbers in a full bigram table
MAX_PIECES = 1000  # layers or encoders, which are built one by one

CHOICES = {
    "mlp": (*MLP_KINDS, "none"),
    "attention": (*ATTENTION_KINDS, "none"),
    "qk_norm": QK_NORM_KINDS,
    "row_scale": tuple(ROW_SCALES),
    "smear": ("none", "learned"),
    "norm": NORM_KINDS,
    "head_norm": ("same", "none"),
    "input_norm": ("rows", "none"),
    "bigram": ("none", "table"),
    "value_residual": ("none", "learned"),
    "shortcut": ("none", "learned"),
    "head": ("untied", "tied"),
    "output_init": OUTPUT_INITS,
}


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and named choices of a `TensorTransformer`.

    Sizes: `vocab_size`, `context` (tokens a sequence in training), `width` (of the residual stream), `layers`,
    `head_dim`, `mlp_hidden` (None: so that each block has 12 width^2 parameters), `encoders` (of mlp="product").
    Choices, each a string (the allowed values are in `CHOICES`):

    | field | meaning |
    | --- | --- |
    | mlp, attention | kind of layer; "none" leaves it out |
    | norm | normalisation sites (`tensorlm.layers.Norm`): rms, anneal (rms drifting to a constant), batch, scale, channel, none |
    | qk_norm | sites on queries and keys: rms, joint (both branches together), anneal, batch, none |
    | head_norm | "same" as norm, or none before the head |
    | input_norm | "rows": each input row (token row plus bigram row) has unit RMS; a property of the table |
    | positions, row_scale | see `tensorlm.layers.Positions` |
    | smear | "learned": x_t + s x_(t-1) at the input, one learned s |
    | bigram | "table": a learned row for each (previous or none, current) pair, added to the token's row |
    | value_residual, shortcut | "learned": mix in the first layer's values, the block's first input |
    | head | untied (own matrix) or tied (the embedding, scaled by 1/sqrt(width)) |
    | output_init | "zero": D, o and an untied head start at zero |

    Raises ValueError naming field, value and what is allowed.

    >>> ModelConfig(attention="bilinear").hidden, ModelConfig(attention="softmax").hidden
    (128, 168)
    """

    vocab_size: int = 65
    context: int = 64
    width: int = 64
    layers: int = 2
    head_dim: int = 16
    mlp: str = "bilinear"
    mlp_hidden: int | None = None
    encoders: int = 3
    attention: str = "bilinear"
    qk_norm: str = "none"
    positions: tuple[str, ...] = ("decay", "toeplitz")
    row_scale: str = "sqrt"
    smear: str = "learned"
    norm: str = "rms"
    head_norm: str = "same"
    input_norm: str = "rows"
    bigram: str = "none"
    value_residual: str = "none"
    shortcut: str = "none"
    head: str = "untied"
    output_init: str = "zero"

    def __post_init__(self):
        if isinstance(self.positions, list):
            object.__setattr__(self, "positions", tuple(self.positions))
        counts = ("vocab_size", "context", "width", "layers", "head_dim", "encoders")
        require_counts(**{name: getattr(self, name) for name in counts}, mlp_hidden=1 if self.mlp_hidden is None else self.mlp_hidden)
        for name, allowed in CHOICES.items():
            require_one_of(name, getattr(self, name), allowed)
        for name in ("layers", "encoders"):
            require(getattr(self, name) <= MAX_PIECES, name, getattr(self, name), f"at most {MAX_PIECES:,}")
        fits = isinstance(self.positions, tuple) and len(set(self.positions) & set(POSITIONS)) == len(self.positions)
        require(fits, "positions", self.positions, f"a tuple of distinct names among {POSITIONS}")
        require(self.width % self.head_dim == 0, "head_dim", self.head_dim, f"a divisor of width={self.width}")
        even = not (self.head_dim % 2 and {"rope", "key_offset"} & set(self.positions))
        require(even, "head_dim", self.head_dim, "even for rope and key_offset")
        if self.bigram == "table" and self.vocab_size**2 * self.width > BIGRAM_LIMIT:
            raise ValueError(f"bigram='table' would need vocab_size^2 * width = {self.vocab_size**2 * self.width:,} numbers, more "
                             f"than {BIGRAM_LIMIT:,}; use bigram='none' for vocabularies of this size")

    @property
    def heads(self) -> int:
        return self.width // self.head_dim

    @property
    def hidden(self) -> int:
        """The MLP's hidden width: as given, or so that attention and MLP share 12 width^2 parameters."""
        if self.mlp_hidden is not None or self.mlp in (*TENSOR_KINDS, "none"):
            return self.mlp_hidden or 0
        spent = 0 if self.attention == "none" else attention_parameters(self.attention, self.width)
        return matched_hidden(self.mlp, self.width, BLOCK_PARAMETERS * self.width**2 - spent, self.encoders)

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "positions": list(self.positions)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ModelConfig":
        """The inverse of `to_dict`; unknown keys raise ValueError."""
        _require_known(values)
        return cls(**values)


PRESETS = {
    "nano": ModelConfig(bigram="table"),
    "micro": ModelConfig(vocab_size=4096, context=128, width=128, layers=4),
    "colab": ModelConfig(vocab_size=4096, context=256, width=512, layers=8, head_dim=32),
    "small": ModelConfig(vocab_size=50_304, context=512, width=384, layers=6, head_dim=32, value_residual="learned"),
    "base": ModelConfig(vocab_size=50_304, context=1024, width=512, layers=8, head_dim=32, value_residual="learned"),
    "gpt2": ModelConfig(vocab_size=50_304, context=1024, width=768, layers=12, head_dim=64, value_residual="learned"),
}


def preset(name: str, **changes: Any) -> ModelConfig:
    """A named configuration, with changes.

    >>> preset("nano", attention="softmax", mlp="relu2").hidden
    256
    """
    require_one_of("preset", name, PRESETS)
    _require_known(changes)
    return replace(PRESETS[name], **changes)


def _require_known(values: dict[str, Any]) -> None:
    known = sorted(field.name for field in fields(ModelConfig))
    if unknown := sorted(set(values) - set(known)):
        raise ValueError(f"unknown ModelConfig fields {unknown}; known: {known}")


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
    """The degree at evaluation; `anneal_fraction` is a of the annealed sites, constants at 1 only."""
    if obstacle := _obstacle(config, anneal_fraction):
        return Degree(None, obstacle)
    attention = 1 if config.attention == "none" else 5
    mlp = 1 if config.mlp == "none" else build_mlp(config.mlp, 1, 1, encoders=config.encoders).degree or 1
    parts = f"attention (degree {attention}) and {config.mlp} MLP (degree {mlp})"
    return Degree((attention * mlp) ** config.layers, f"{config.layers} layers, each of {parts}: {attention * mlp}^{config.layers}")


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
