"""How a run is trained: one frozen dataclass, and the tuned defaults of every preset."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from typing import Any

OPTIMIZERS = ("muon-batched", "muon", "adamw")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
COMPILE = ("off", "on")
CONSTRAINTS = ("none", "spectral", "orthogonal")
CHOICES = {"optimizer": OPTIMIZERS, "precision": PRECISIONS, "compile": COMPILE, "constraint": CONSTRAINTS}
MOST = {"seed": 2**63 - 1, "threads": 1024}
STABLE_NORMS = ("rms",)

RECIPES: dict[str, dict[str, Any]] = {
    "nano": dict(steps=300, batch_size=16, lr_matrix=0.02, lr_embedding=0.1, lr_bigram=0.2, lr_head=0.025,
                 checkpoint_every=100),
    "micro": dict(steps=500, batch_size=32, lr_matrix=0.016, lr_embedding=0.1, lr_bigram=0.1, lr_head=0.008,
                  checkpoint_every=50),
    # Shakespeare's pieces twice: in trials on a sixteenth of the text, four times gave a worse held-out loss
    "colab": dict(steps=354, batch_size=32, lr_matrix=0.02, lr_embedding=0.1, lr_bigram=0.1, lr_head=0.006, log_every=25,
                  validate_every=100, checkpoint_every=100),
    "small": dict(optimizer="muon", steps=3000, batch_size=64, micro_batch=16, lr_matrix=0.02, lr_embedding=0.3,
                  lr_bigram=0.1, lr_head=0.004, lr_scalar=0.02, validate_every=500, checkpoint_every=250),
    "base": dict(optimizer="muon", steps=4000, batch_size=128, micro_batch=16, lr_matrix=0.02, lr_embedding=0.3,
                 lr_bigram=0.1, lr_head=0.004, lr_scalar=0.02, validate_every=500, checkpoint_every=250),
    "gpt2": dict(optimizer="muon", steps=3250, batch_size=512, micro_batch=8, lr_matrix=0.025, lr_embedding=0.7,
                 lr_bigram=0.1, lr_head=0.004, lr_scalar=0.015, weight_decay=0.05, cooldown=0.7, validate_every=250,
                 checkpoint_every=250),
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
    | constraint, constraint_size, sparsity | what is done to the hidden matrices after a step (`constraints.Constraints`) |
    | precision, threads, compile | dtype of the activations (`device.choose_precision`); CPU threads; torch.compile |
    | log_every, validate_every, checkpoint_every | steps between them; None: only at the end |
    | validate_windows | use only so many held-out windows; None: all |

    Raises ValueError, naming the field, its value and what is allowed.

    >>> TrainConfig(steps=100).cooldown
    0.6
    >>> TrainConfig(steps=0)
    Traceback (most recent call last):
    ...
    ValueError: TrainConfig.steps = 0: must be at least 1
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
        _check_types(self)
        for name, allowed in CHOICES.items():
            _check_choice(self, name, allowed)
        for name in ("steps", "batch_size", "threads", "log_every", "newton_schulz"):
            _check_least(self, name, 1)
        for name in ("micro_batch", "validate_every", "validate_windows", "checkpoint_every"):
            _check_least(self, name, 1)
        for name in ("seed", "warmup", "weight_decay", "norm_penalty", "momentum", "clip", "sparsity", *LEARNING_RATES):
            _check_least(self, name, 0)
        for name, most in MOST.items():
            _check_most(self, name, most)
        _check_fractions(self)

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON-safe values; :meth:`from_dict` reads them back."""
        return {**dataclasses.asdict(self), "anneal": list(self.anneal)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainConfig:
        """A TrainConfig from JSON values; ValueError on an unknown field.

        >>> TrainConfig.from_dict(TrainConfig(steps=7).to_dict()).steps
        7
        """
        unknown = sorted(set(values) - FIELDS)
        if unknown:
            raise ValueError(f"TrainConfig has no field {unknown[0]!r}; fields: {', '.join(sorted(FIELDS))}")
        return cls(**values)

    def replace(self, **changes: Any) -> TrainConfig:
        """A copy with the named fields changed, checked like a new one."""
        return TrainConfig.from_dict({**self.to_dict(), **changes})


FIELDS = frozenset(field.name for field in dataclasses.fields(TrainConfig))
LEARNING_RATES = ("lr_matrix", "lr_embedding", "lr_bigram", "lr_head", "lr_scalar")


def recipe(preset: str, norm: str = "rms", **changes: Any) -> TrainConfig:
    """The tuned training settings of a model preset.

    Models without a per-token norm at the end (``norm`` "anneal" or "none") additionally get gradient
    clipping at 1 and the skip rule at 5: without them some seeds diverge.

    Raises ValueError for an unknown preset or field.

    >>> recipe("nano").steps, recipe("nano").clip, recipe("nano", norm="anneal").clip
    (300, None, 1.0)
    """
    if preset not in RECIPES:
        raise ValueError(f"recipe: unknown preset {preset!r}; presets: {', '.join(RECIPES)}")
    guard = {} if norm in STABLE_NORMS else dict(clip=1.0, skip_factor=5.0)
    return TrainConfig.from_dict({**RECIPES[preset], **guard, **changes})


def _check_types(config: TrainConfig) -> None:
    kinds = {"int": (int,), "float": (int, float), "str": (str,)}
    for field in dataclasses.fields(config):
        value, names = getattr(config, field.name), [part.strip() for part in field.type.split("|")]
        if value is None and "None" in names or names[0].startswith("tuple"):
            continue
        if isinstance(value, bool) or not isinstance(value, kinds[names[0]]):
            raise ValueError(f"TrainConfig.{field.name} = {value!r}: must be {field.type}")
        if not isinstance(value, str) and not _finite(value):
            raise ValueError(f"TrainConfig.{field.name} = {value!r}: must be finite")


def _finite(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, int | float) and abs(value) <= sys.float_info.max


def _check_choice(config: TrainConfig, name: str, allowed: tuple[str, ...]) -> None:
    if getattr(config, name) not in allowed:
        raise ValueError(f"TrainConfig.{name} = {getattr(config, name)!r}: must be one of {', '.join(allowed)}")


def _check_least(config: TrainConfig, name: str, least: int) -> None:
    value = getattr(config, name)
    if value is not None and value < least:
        raise ValueError(f"TrainConfig.{name} = {value!r}: must be at least {least}")


def _check_most(config: TrainConfig, name: str, most: int) -> None:
    if getattr(config, name) > most:
        raise ValueError(f"TrainConfig.{name} = {getattr(config, name)!r}: must be at most {most}")


def _check_fractions(config: TrainConfig) -> None:
    if not 0 <= config.cooldown <= 1:
        raise ValueError(f"TrainConfig.cooldown = {config.cooldown!r}: must be a fraction from 0 to 1")
    if not config.momentum < 1:
        raise ValueError(f"TrainConfig.momentum = {config.momentum!r}: must be below 1")
    if not config.constraint_size > 0:
        raise ValueError(f"TrainConfig.constraint_size = {config.constraint_size!r}: must be above 0")
    if config.skip_factor is not None and not config.skip_factor > 1:
        raise ValueError(f"TrainConfig.skip_factor = {config.skip_factor!r}: must be above 1, or None")
    pair = isinstance(config.anneal, tuple) and len(config.anneal) == 2 and all(map(_finite, config.anneal))
    if not pair or not 0 <= config.anneal[0] <= config.anneal[1] <= 1:
        raise ValueError(f"TrainConfig.anneal = {config.anneal!r}: must be (start, end) with 0 <= start <= end <= 1")
