"""How a run is trained: one frozen dataclass, and the tuned defaults of every preset."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Self

from tensorlm.checks import is_finite, require, require_number, require_one_of, require_whole

CHOICES = {"optimizer": ("muon-batched", "muon", "adamw"), "precision": ("auto", "float32", "bfloat16", "float16"),
           "compile": ("off", "on"), "constraint": ("none", "spectral", "orthogonal")}
WHOLE_RANGES: dict[str, tuple[int, ...]] = {  # smallest and, where there is one, largest value
    **dict.fromkeys(("steps", "batch_size", "micro_batch", "newton_schulz", "log_every", "validate_every", "validate_windows",
                     "checkpoint_every"), (1,)), "seed": (0, 2**63 - 1), "warmup": (0,), "threads": (1, 1024)}
NUMBER_RANGES: dict[str, dict[str, float]] = {
    **dict.fromkeys(("lr_matrix", "lr_embedding", "lr_bigram", "lr_head", "lr_scalar", "momentum", "weight_decay", "clip",
                     "norm_penalty", "sparsity"), dict(least=0)),
    "cooldown": dict(least=0, most=1), "skip_factor": dict(above=1), "constraint_size": dict(above=0)}

LARGE: dict[str, Any] = dict(optimizer="muon", micro_batch=16, lr_matrix=0.02, lr_embedding=0.3, lr_bigram=0.1,
                             lr_head=0.004, lr_scalar=0.02, validate_every=500, checkpoint_every=250)
RECIPES: dict[str, dict[str, Any]] = {
    "nano": dict(steps=300, batch_size=16, lr_matrix=0.02, lr_bigram=0.2, lr_head=0.025, checkpoint_every=100),
    "micro": dict(steps=500, batch_size=32, lr_matrix=0.016, lr_bigram=0.1, lr_head=0.008, checkpoint_every=50),
    # Shakespeare's pieces twice: in trials on a sixteenth of the text, four times gave a worse held-out loss
    "colab": dict(steps=354, batch_size=32, lr_matrix=0.02, lr_bigram=0.1, lr_head=0.006, log_every=25, validate_every=100,
                  checkpoint_every=100),
    "small": dict(LARGE, steps=3000, batch_size=64),
    "base": dict(LARGE, steps=4000, batch_size=128),
    "gpt2": dict(LARGE, steps=3250, batch_size=512, micro_batch=8, lr_matrix=0.025, lr_embedding=0.7, lr_scalar=0.015,
                 weight_decay=0.05, cooldown=0.7, validate_every=250),
}


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a training run besides the model and the corpus.

    | field | meaning |
    | --- | --- |
    | steps, batch_size, micro_batch | optimiser steps; sequences a step over all processes; sequences a forward pass |
    | optimizer | "muon-batched" (ours: the choice on a CPU), "muon" (torch's own), "adamw"; see `optim.optimizers` |
    | lr_matrix ... lr_scalar | peak rate of each parameter group; one schedule (`optim.lr_scale`) scales them all |
    | momentum, newton_schulz, weight_decay | of the hidden matrices; decay is decoupled, times the rate |
    | cooldown, warmup | fraction of the steps that falls linearly to zero at the end; steps of rising at the start |
    | clip, skip_factor | largest global gradient norm; skip a step beyond this many running means of it |
    | anneal, norm_penalty | when annealed norms turn into constants (fractions of the steps); weight of the penalty |
    | constraint, constraint_size, sparsity | what is done to the hidden matrices after a step (`optim.Constraints`) |
    | precision, threads, compile | dtype of the activations (`device.choose_precision`); CPU threads; torch.compile, block by block |
    | log_every, validate_every, checkpoint_every | steps between them; None: only at the end |
    | validate_windows | use only so many held-out windows; None: all |

    Raises ValueError, naming the field, what is allowed and its value.

    >>> TrainConfig(steps=0)
    Traceback (most recent call last):
    ValueError: TrainConfig.steps must be a whole number of at least 1, got 0
    """

    steps: int = 300
    batch_size: int = 16
    micro_batch: int | None = None
    seed: int = 0
    optimizer: str = "muon-batched"
    lr_matrix: float = 0.02
    lr_embedding: float = 0.1
    lr_bigram: float = 0.2
    lr_head: float = 0.025
    lr_scalar: float = 0.05
    momentum: float = 0.95
    newton_schulz: int = 5
    weight_decay: float = 0.1
    cooldown: float = 0.6
    warmup: int = 0
    clip: float | None = None
    skip_factor: float | None = None
    anneal: tuple[float, float] = (0.1, 0.8)
    norm_penalty: float = 0.1
    constraint: str = "none"
    constraint_size: float = 1.0
    sparsity: float = 0.0
    precision: str = "auto"
    threads: int = 1
    compile: str = "off"
    log_every: int = 10
    validate_every: int | None = None
    validate_windows: int | None = None
    checkpoint_every: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.anneal, list):
            object.__setattr__(self, "anneal", tuple(self.anneal))
        for field in dataclasses.fields(self):
            value, name = getattr(self, field.name), f"TrainConfig.{field.name}"
            if field.name in CHOICES:
                require_one_of(name, value, CHOICES[field.name])
            elif value is None and "None" in str(field.type):
                continue
            elif field.name in WHOLE_RANGES:
                object.__setattr__(self, field.name, require_whole(name, value, *WHOLE_RANGES[field.name]))
            elif field.name in NUMBER_RANGES:
                require_number(name, value, **NUMBER_RANGES[field.name])
        require(self.momentum < 1, "TrainConfig.momentum", self.momentum, "below 1")
        pair = isinstance(self.anneal, tuple) and len(self.anneal) == 2 and all(map(is_finite, self.anneal))
        fits = pair and 0 <= self.anneal[0] <= self.anneal[1] <= 1
        require(fits, "TrainConfig.anneal", self.anneal, "(start, end) with 0 <= start <= end <= 1")

    def to_dict(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "anneal": list(self.anneal)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """A TrainConfig from JSON values; ValueError on an unknown field."""
        fields = {field.name for field in dataclasses.fields(cls)}
        for name in set(values) - fields:
            raise ValueError(f"TrainConfig has no field {name!r}; fields: {', '.join(sorted(fields))}")
        return cls(**values)

    def replace(self, **changes: Any) -> Self:
        """A copy with the named fields changed, checked like a new one."""
        return self.from_dict({**self.to_dict(), **changes})


def recipe(preset: str, norm: str = "rms", **changes: Any) -> TrainConfig:
    """The tuned training settings of a model preset; ValueError for an unknown preset or field.

    Models without a per-token norm at the end (`norm` "anneal" or "none") also get clipping at 1 and the skip rule at 5.

    >>> recipe("nano").steps, recipe("nano").clip, recipe("nano", norm="anneal").clip
    (300, None, 1.0)
    """
    require_one_of("preset", preset, RECIPES)
    guard = {} if norm == "rms" else dict(clip=1.0, skip_factor=5.0)
    return TrainConfig.from_dict({**RECIPES[preset], **guard, **changes})
