"""Checkpoints: one safetensors file with weights, optimiser state and all a run needs to go on.

Layout of the file: tensors `model.<name>`, `optimizer.<parameter>.<key>`, `rng.<device>`; metadata (strings): `format`, `version`, and JSON
under `model_config`, `train_config`, `source` (corpus, tokenizer, sha256), `state` (step, clocks, guard, loss scaler) and `card` (released
models); `sha256` is that of all the rest (`content_hash`). Nothing is ever unpickled.
"""

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tensorlm.checks import require, require_finite, require_one_of
from tensorlm.data import load
from tensorlm.files import parse_json, write_atomically, write_json
from tensorlm.model import ModelConfig, TensorTransformer
from tensorlm.training.config import TrainConfig

FORMAT, VERSION = "tensorlm-checkpoint", "1"
SUFFIX, FINAL_NAME, FOLDER_NAME = ".safetensors", "model.safetensors", "checkpoints"
SECTIONS, HASH_KEY = ("model_config", "train_config", "source", "state", "card"), "sha256"


class CheckpointError(ValueError):
    """A checkpoint that cannot be used: which file, and what is wrong."""


@dataclass(frozen=True)
class Checkpoint:
    """A checked checkpoint. `train_config`, `optimizer` and `state` are empty in a released file."""

    path: Path
    model: TensorTransformer
    model_config: ModelConfig
    train_config: TrainConfig | None
    source: dict[str, Any]
    state: dict[str, Any]
    card: dict[str, Any]
    optimizer: dict[str, Tensor] = field(repr=False)
    rng: dict[str, Tensor] = field(repr=False)

    def data(self) -> Any:
        """The corpus ("shakespeare" or "toy"); CheckpointError where its text or tokenizer is another one by now."""
        tokenizer = self.source["tokenizer"].partition("-")[0]
        data = load(self.source["corpus"], **({} if self.source["corpus"] == "toy" else {"tokenizer": tokenizer}))
        require_source(self.path, self.source, source_of(data))
        return data


def source_of(data: Any) -> dict[str, str]:
    """What identifies the text behind a model: corpus name, tokenizer id, hash of the corpus."""
    return {"corpus": data.name, "tokenizer": data.tokenizer, "sha256": data.sha256}


def require_source(path: Path, stored: dict[str, str], given: dict[str, str]) -> None:
    """Raise CheckpointError unless tokenizer and hash of the corpus are those `stored` in `path`."""
    for key in ("tokenizer", "sha256"):
        if stored.get(key) != given[key]:
            raise CheckpointError(f"{path}: was trained with {key} {stored.get(key)!r}, the data given has {given[key]!r}")


def save_checkpoint(path: str | os.PathLike, model: TensorTransformer, *, train_config: TrainConfig | None = None,
                    source: dict | None = None, state: dict | None = None, card: dict | None = None,
                    optimizer: dict[str, Tensor] | None = None, rng: dict[str, Tensor] | None = None) -> Path:
    """Write a checkpoint atomically; CheckpointError for weights that are neither float32 nor float16."""
    for name, value in model.state_dict().items():
        _require_fit(name, value, value)
    parts = {"model": model.state_dict(), "optimizer": optimizer or {}, "rng": rng or {}}
    tensors = {f"{part}.{name}": value.detach().cpu().contiguous() for part in parts for name, value in parts[part].items()}
    sections = dict(model_config=model.config.to_dict(), source=source, state=state, card=card,
                    train_config=train_config and train_config.to_dict())
    stored = {name: json.dumps(value) for name, value in sections.items() if value is not None}
    metadata = {"format": FORMAT, "version": VERSION, **stored}
    metadata[HASH_KEY] = content_hash(metadata, tensors)
    return write_atomically(Path(path), lambda draft: save_file(tensors, draft, metadata))


def content_hash(metadata: dict[str, str], tensors: dict[str, Tensor]) -> str:
    """SHA-256 of a checkpoint's metadata (but for the hash), and of names, dtypes, shapes and bytes of its tensors."""
    found = hashlib.sha256(json.dumps(sorted((k, v) for k, v in metadata.items() if k != HASH_KEY)).encode())
    for name, value in sorted(tensors.items()):
        found.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        found.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def load_checkpoint(path: str | os.PathLike, allow_nonfinite: bool = False) -> Checkpoint:
    """Read a checkpoint file, or the newest one of a run's folder, and check all of it before use.

    Raises CheckpointError, which names file and defect, where there is none, or it is cut off, damaged, of another kind or version, or
    disagrees with its own configuration, or a weight is NaN or infinite (unless `allow_nonfinite`). No code in a file is ever run.
    """
    path = Path(path)
    if not path.is_file():  # in a run's folder the newest checkpoint, else the final model
        folder, path = path, [path / FINAL_NAME, *checkpoints_in(path)][-1]
        if not path.is_file():
            what = "has no checkpoint" if folder.is_dir() else "does not exist"
            raise CheckpointError(f"{folder}: {what}; expected a {SUFFIX} file or the folder of a training run")
    try:
        return _checked(path, allow_nonfinite)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: is not a complete safetensors file (damaged, or of another kind): {error}") from None
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None


def _checked(path: Path, allow_nonfinite: bool) -> Checkpoint:
    with safe_open(path, framework="pt") as file:
        metadata, tensors = file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}
    require_one_of("format", metadata.get("format"), [FORMAT])
    require_one_of("version", metadata.get("version"), [VERSION])
    for name in metadata:
        require_one_of("its metadata", name, ("format", "version", HASH_KEY, *SECTIONS))
    stated, card = metadata.get(HASH_KEY), path.with_suffix(".json")
    if stated is None and card.is_file():  # a model that was released before headers had a hash
        stated = _object(card.read_text(encoding="utf-8", errors="replace"), f"its card {card.name}").get(HASH_KEY)
    if stated is not None and stated != content_hash(metadata, tensors):
        raise ValueError("is damaged: its content does not have the sha256 that was noted when it was written")
    sections = {name: _object(metadata[name], f"its metadata {name!r}") for name in SECTIONS if name in metadata}
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}, "rng": {}}
    for name, value in tensors.items():
        part, _, rest = name.partition(".")
        require_one_of(f"the first part of tensor {name!r}", part, parts)
        parts[part][rest] = value
        if part == "model" and not allow_nonfinite:
            require_finite(f"tensor {name!r}", value)
    try:
        model_config = ModelConfig.from_dict(sections["model_config"])
        train_config = TrainConfig.from_dict(sections["train_config"]) if "train_config" in sections else None
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"its configuration is not valid here: {error}") from None
    return Checkpoint(path, _build(model_config, parts["model"]), model_config, train_config, sections.get("source", {}),
                      sections.get("state", {}), sections.get("card", {}), parts["optimizer"], parts["rng"])


def load_model(path: str | os.PathLike, allow_nonfinite: bool = False) -> TensorTransformer:
    """The model of a checkpoint (a file, or a run's folder), in evaluation mode, float32 whatever the file stores."""
    return load_checkpoint(path, allow_nonfinite).model.eval()


def export_model(model: TensorTransformer, path: str | os.PathLike, card: dict[str, Any], source: dict | None = None,
                 dtype: torch.dtype = torch.float32) -> Path:
    """Write a weights-only checkpoint and, beside it, its card as JSON: corpus, tokens, seconds, loss, seed, command.

    Raises ValueError for weights that `dtype` (float32, float16) cannot hold, and a `path` without .safetensors at its end.
    """
    require(Path(path).suffix == SUFFIX, "path", str(path), f"a name that ends in {SUFFIX} (its card ends in .json)")
    require_one_of("dtype", str(dtype), ("torch.float32", "torch.float16"))
    stored = TensorTransformer(model.config)
    stored.load_state_dict(model.state_dict())
    for name, parameter in stored.named_parameters():
        parameter.data = parameter.data.to(dtype)
        require_finite(f"{name} as {dtype}", parameter)
    card = {**card, "stored_as": str(dtype).split(".")[-1]}
    path = save_checkpoint(path, stored, source=source, card=card)
    write_json(path.with_suffix(".json"), card)
    return path


def checkpoints_in(folder: Path) -> list[Path]:
    """The resumable checkpoints of a run's folder, oldest first."""
    return sorted((folder / FOLDER_NAME).glob(f"step_*{SUFFIX}"))


def _object(text: str, where: str) -> dict[str, Any]:
    value = parse_json(text, where)
    require(isinstance(value, dict), where, value, "a JSON object")
    return value


def _build(config: ModelConfig, weights: dict[str, Tensor]) -> TensorTransformer:
    try:
        with torch.device("meta"):  # shapes only: no memory, however large the configuration claims to be
            expected = TensorTransformer(config).state_dict()
    except (RuntimeError, TypeError, OverflowError) as error:
        raise ValueError(f"no model can be built from its model_config: {str(error).splitlines()[0]}") from None
    for name in sorted(set(expected) ^ set(weights)):
        raise ValueError(f"tensor 'model.{name}' is {'missing' if name in expected else 'not expected'}")
    for name, value in weights.items():
        _require_fit(name, value, expected[name])
    model = TensorTransformer(config)
    model.load_state_dict(weights)
    return model


def _require_fit(name: str, value: Tensor, expected: Tensor) -> None:
    if value.shape != expected.shape:
        raise CheckpointError(f"tensor 'model.{name}' has shape {tuple(value.shape)}, expected {tuple(expected.shape)}")
    allowed = (torch.float32, torch.float16) if expected.is_floating_point() else (expected.dtype,)
    if value.dtype not in allowed:
        raise CheckpointError(f"tensor 'model.{name}' is {value.dtype}; allowed: {', '.join(map(str, allowed))}")
