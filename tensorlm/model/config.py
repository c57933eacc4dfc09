"""What a model is: a frozen configuration, checked when it is made, and named presets."""

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from tensorlm.layers.attention import ATTENTION_KINDS, attention_parameters
from tensorlm.layers.init import OUTPUT_INITS
from tensorlm.layers.mlp import MLP_KINDS, TENSOR_KINDS, matched_hidden
from tensorlm.layers.norm import NORM_KINDS, QK_NORM_KINDS
from tensorlm.layers.positions import POSITIONS, ROW_SCALES

BLOCK_PARAMETERS = 12  # of every block, in units of width^2, whatever its kinds
BIGRAM_LIMIT = 1 << 26  # numbers in a full bigram table
MOST_PIECES = 1000  # layers or encoders, which are built one by one

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


def _as_tuple(positions) -> tuple[str, ...]:
    if isinstance(positions, str) or not hasattr(positions, "__iter__"):
        raise ValueError(f"positions must be a tuple of names among {POSITIONS}, got {positions!r}")
    return tuple(positions)


def _require_positive(name: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")


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
        object.__setattr__(self, "positions", _as_tuple(self.positions))
        for name in ("vocab_size", "context", "width", "layers", "head_dim", "encoders"):
            _require_positive(name, getattr(self, name))
        if self.mlp_hidden is not None:
            _require_positive("mlp_hidden", self.mlp_hidden)
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, got {getattr(self, name)!r}")
        self._check_positions()
        self._check_sizes()

    def _check_positions(self) -> None:
        unknown = [feature for feature in self.positions if feature not in POSITIONS]
        if unknown or len(set(self.positions)) < len(self.positions):
            raise ValueError(f"positions must be distinct names among {POSITIONS}, got {self.positions!r}")

    def _check_sizes(self) -> None:
        for name in ("layers", "encoders"):
            if getattr(self, name) > MOST_PIECES:
                raise ValueError(f"{name} must be at most {MOST_PIECES:,}, got {getattr(self, name)}")
        if self.width % self.head_dim:
            raise ValueError(f"head_dim must divide width, got head_dim={self.head_dim}, width={self.width}")
        if self.head_dim % 2 and {"rope", "key_offset"} & set(self.positions):
            raise ValueError(f"head_dim must be even for rope and key_offset, got {self.head_dim}")
        if self.bigram == "table" and self.vocab_size**2 * self.width > BIGRAM_LIMIT:
            raise ValueError(
                f"bigram='table' would need vocab_size^2 * width = {self.vocab_size**2 * self.width:,} numbers, more "
                f"than {BIGRAM_LIMIT:,}; use bigram='none' for vocabularies of this size"
            )

    @property
    def heads(self) -> int:
        return self.width // self.head_dim

    @property
    def hidden(self) -> int:
        """The MLP's hidden width: as given, or matched so that attention and MLP share 12 width^2 parameters."""
        if self.mlp_hidden is not None or self.mlp in (*TENSOR_KINDS, "none"):
            return self.mlp_hidden or 0
        spent = 0 if self.attention == "none" else attention_parameters(self.attention, self.width)
        return matched_hidden(self.mlp, self.width, BLOCK_PARAMETERS * self.width**2 - spent, self.encoders)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-safe dictionary."""
        return {**asdict(self), "positions": list(self.positions)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ModelConfig":
        """The inverse of `to_dict`; unknown keys raise ValueError."""
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(f"unknown ModelConfig fields {unknown}; known: {sorted(known)}")
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
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}; expected one of {tuple(PRESETS)}")
    unknown = sorted(set(changes) - {field.name for field in fields(ModelConfig)})
    if unknown:
        raise ValueError(f"unknown ModelConfig fields {unknown}")
    return replace(PRESETS[name], **changes)
