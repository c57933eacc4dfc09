"""Many small models at once, each trained with its own weights on the examples: `train_bank`.

All models of a block share the batches, so that the first layer of all of them is one matrix product, and a block stays in the
cache of the processor. Blocks are independent jobs: kept in a folder each, shared out among the processes of `torchrun`, and
the same to the last bit however a run was interrupted.
"""

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from tensorlm.checks import in_bytes, is_whole, require, require_finite, require_number, require_rows, require_whole
from tensorlm.data_attribution.block import ORDER_SEEDS, train_block
from tensorlm.data_attribution.classifiers import Classifiers, Examples, Recipe, centred_digits, outcomes, require_labels
from tensorlm.files import parse_json, write_atomically, write_json

__all__ = ["Classifiers", "Examples", "Recipe", "centred_digits", "outcomes", "train_bank", "trajectory"]

BLOCK_BYTES, GPU_BLOCK_BYTES = 3 * 2**18, 2**30  # of the weights of a block; with gradients and activations it is a few times as much
BLOCK_COPIES = {"sgd": 4, "adam": 6, "muon": 9}  # of the weights of a block, while it is trained
SETTINGS_NAME, MEMORY_TABLE = "bank.json", "/proc/meminfo"
CONTAINER_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


class Job(NamedTuple):
    """One block: its models, and one seed for all of them or one each."""

    models: tuple[int, ...]
    seeds: tuple[int, ...]


def train_bank(x: Tensor, y: Tensor, weights: Tensor, recipe: Recipe, seeds: int | Sequence[int] = 0, *,
               folder: str | os.PathLike | None = None, progress: bool | None = None, memory: float | None = None,
               allow_nonfinite: bool = False) -> Classifiers:
    """Train one model for each row of `weights` on the examples x (n, inputs) of classes y (n,).

    | argument | meaning |
    | --- | --- |
    | weights | (models, n), at least 0, of any dtype: 0 leaves an example out of that model, 1 has it in, fractions count in part |
    | seeds | one for all models (first values and order of the examples), or one a model; models of one seed share a block |
    | folder | where each finished block is kept: the same call goes on there, bit for bit, another one is refused |
    | progress | a bar of the models that are trained; None shows it on a terminal only |
    | memory | bytes that may be used; None stands for what is free on the machine |
    | allow_nonfinite | return models that diverged (`nonfinite` names them) instead of raising |

    Where torch.distributed is running (under `torchrun`) each process trains its share of the blocks, and all of them
    return all models. Raises ValueError, before anything is trained, for weights of another shape, negative or not finite,
    for a model without any example of a class, and for too little memory; after that for models that diverged.

    >>> x = torch.nn.functional.pad(torch.randn(60, 4, generator=torch.Generator().manual_seed(0)), (0, 1), value=1.0)
    >>> y = (x[:, 0] * x[:, 1] > 0).long()
    >>> weights = torch.ones(3, 60); weights[1, 0] = 0; weights[2, 30:] = 0
    >>> models = train_bank(x, y, weights, Recipe(rate=0.05, hidden=4, epochs=60, batch=20))
    >>> (models.logits(x)[0].argmax(1) == y).float().mean() > 0.9
    tensor(True)
    """
    x, weights, seeds = checked(x, y, weights, recipe, seeds, memory)
    block = block_size(x, y, recipe)
    store = None if folder is None else Store(Path(folder), settings_of(x, y, weights, recipe, seeds, block))
    rank, size = (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)
    result = empty_models(len(weights), x, y, recipe)
    mine = list(enumerate(plan(len(weights), seeds, block)))[rank::size]
    silent = True if rank else None if progress is None else not progress
    with tqdm(total=sum(len(job.models) for _, job in mine), unit="model", disable=silent) as bar:
        for number, (members, own_seeds) in mine:
            trained = store.load(number, x.device) if store else None
            if trained is None:
                trained = train_block(x, y, weights[list(members)], recipe, own_seeds)[-1]
                if store:
                    store.save(number, trained)
            for factor, part in zip(result, trained):
                factor[list(members)] = part
            bar.update(len(members))
    if size > 1:
        for factor in result:
            dist.all_reduce(factor)  # each process has zeros for the models of the others
    if not allow_nonfinite:
        result.require_finite()
    return result


def trajectory(x: Tensor, y: Tensor, weights: Tensor, recipe: Recipe, seed: int = 0, *, steps: Iterable[int]) -> dict[int, Classifiers]:
    """The models that `train_bank` trains, as they are after each number of steps: 0 is untrained, `recipe.steps(n)` the end.

    For a few models: all of them are one block. Raises as `train_bank` does, and for a step that there is none.

    >>> x, y = torch.eye(4), torch.tensor([0, 1, 0, 1])
    >>> run = trajectory(x, y, torch.ones(1, 4), Recipe(epochs=2, batch=2), steps=(0, 4))
    >>> sorted(run), bool((run[0].down == run[4].down).all())
    ([0, 4], False)
    """
    x, weights, seeds = checked(x, y, weights, recipe, seed)
    wanted = sorted(require_whole("a step", step, 0, recipe.steps(len(x))) for step in set(steps))
    kept = train_block(x, y, weights, recipe, [seed], wanted)
    return dict(zip(wanted, kept))


def checked(x: Tensor, y: Tensor, weights: Any, recipe: Recipe, seeds: Any,
            memory: float | None = None) -> tuple[Tensor, Tensor, tuple[int, ...]]:
    """Examples and weights in the dtype of the recipe, and the seeds as a tuple, of one if all models share it."""
    require_rows(x, None)
    require(x.ndim == 2 and x.numel(), "x", x, "a matrix (examples, inputs)")
    require_finite("x", x)
    require_labels(y, len(x))
    fits = isinstance(weights, Tensor) and weights.ndim == 2 and weights.shape[1] == len(x) and len(weights)
    require(fits, "weights", weights, f"a matrix (models, {len(x)}) with a column for each example")
    numbers = [seeds] if is_whole(seeds) else list(seeds)
    fits = is_whole(seeds) or len(numbers) == len(weights)
    require(fits, "seeds", seeds, f"one whole number, or one for each of the {len(weights)} models")
    numbers = [require_whole("a seed", seed, 0, ORDER_SEEDS - 1) for seed in numbers]
    numbers = numbers[:1] if len(set(numbers)) == 1 else numbers
    require_memory(bytes_needed(len(weights), x, y, recipe, len(numbers)), memory, x.device)
    weights = weights.to(x.device, recipe.dtype)
    require_finite("weights", weights)
    require(weights.min() >= 0, "weights", float(weights.min()), "at least 0")
    require_every_class(y, weights)
    return x.to(recipe.dtype), weights, tuple(numbers)


def require_every_class(y: Tensor, weights: Tensor) -> None:
    """Raise ValueError, which names the first of them, for a model without any example of a class that y has."""
    present = weights @ torch.nn.functional.one_hot(y).to(weights.dtype)
    absent = (present == 0) & (torch.bincount(y) > 0)
    if absent.any():
        model, label = absent.nonzero()[0].tolist()
        raise ValueError(f"weights must leave every model at least one example of every class, got none of class {label} "
                         f"for model {model} ({int(absent.any(1).sum())} of {len(weights)} models lack a class)")


# The plan: blocks of models, and the memory that they take

def model_size(x: Tensor, y: Tensor, recipe: Recipe) -> int:
    """How many weights one model has."""
    return recipe.hidden * (2 * x.shape[1] + int(y.max()) + 1)


def plan(count: int, seeds: tuple[int, ...], block: int) -> list[Job]:
    """The jobs of a bank: at most `block` models each, those of one seed together, and those that are alone with their seed."""
    groups: dict[tuple[int, ...], list[int]] = {}
    if len(seeds) == 1:
        groups[seeds] = list(range(count))
    else:
        by_seed: dict[int, list[int]] = {}
        for model, seed in enumerate(seeds):
            by_seed.setdefault(seed, []).append(model)
        groups |= {(seed,): models for seed, models in by_seed.items() if len(models) > 1}
        groups[()] = [models[0] for models in by_seed.values() if len(models) == 1]
    jobs = []
    for shared, models in groups.items():
        for start in range(0, len(models), block):
            part = tuple(models[start : start + block])
            jobs.append(Job(part, shared or tuple(seeds[model] for model in part)))
    return jobs


def block_size(x: Tensor, y: Tensor, recipe: Recipe) -> int:
    """Models of a block: as many as have `BLOCK_BYTES` of weights."""
    limit = BLOCK_BYTES if x.device.type == "cpu" else GPU_BLOCK_BYTES
    return max(1, limit // (model_size(x, y, recipe) * recipe.dtype.itemsize))


def bytes_needed(count: int, x: Tensor, y: Tensor, recipe: Recipe, seeds: int = 1) -> int:
    """An estimate of the memory of a bank beside its examples: all models and their weights on the examples, and one block at work."""
    size, classes, batch = model_size(x, y, recipe), int(y.max()) + 1, min(recipe.batch, len(x))
    block = min(count, block_size(x, y, recipe))
    shuffled = len(x) * (min(block, seeds) * (x.shape[1] + classes) + 2 * block)
    at_work = block * (BLOCK_COPIES[recipe.optimiser] * size + batch * (7 * recipe.hidden + 3 * classes))
    return recipe.dtype.itemsize * (count * (size + len(x)) + shuffled + at_work)


def free_memory(device: torch.device) -> float:
    """Bytes that a process may still take on a device; infinity where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    found = [math.inf]
    with contextlib.suppress(OSError, ValueError, StopIteration):
        line = next(line for line in Path(MEMORY_TABLE).read_text().splitlines() if line.startswith("MemAvailable"))
        found.append(1024 * int(line.split()[1]))
    for path in CONTAINER_LIMITS:
        with contextlib.suppress(OSError, ValueError):
            found.append(int(Path(path).read_text()))
    return min(found)


def require_memory(needed: int, memory: float | None, device: torch.device) -> None:
    """Raise ValueError if a bank needs more bytes than `memory`, or than are free."""
    available = free_memory(device) if memory is None else require_number("memory", memory, least=0)
    if needed > available:
        raise ValueError(f"the bank needs {needed:,} bytes ({in_bytes(needed)}), available are {available:,.0f} ({in_bytes(available)}); "
                         "train fewer models at a time, or smaller ones")


def empty_models(count: int, x: Tensor, y: Tensor, recipe: Recipe) -> Classifiers:
    classes, inputs, hidden = int(y.max()) + 1, x.shape[1], recipe.hidden
    sizes = ((hidden, inputs), (hidden, inputs), (classes, hidden))
    return Classifiers(*(torch.zeros(count, *size, dtype=recipe.dtype, device=x.device) for size in sizes))


# The folder: a file for each finished block

def settings_of(x: Tensor, y: Tensor, weights: Tensor, recipe: Recipe, seeds: tuple[int, ...], block: int) -> dict[str, Any]:
    """All that the models of a bank depend on, in JSON: the recipe, and what identifies examples, weights and seeds."""
    tensors = {name: digest(value) for name, value in (("x", x), ("y", y), ("weights", weights), ("seeds", torch.tensor(seeds)))}
    return {**asdict(recipe), "dtype": str(recipe.dtype), "models": len(weights), "block": block, "device": x.device.type, **tensors}


def digest(tensor: Tensor) -> str:
    """The SHA-256 of dtype, shape and bytes of a tensor, its first 16 digits."""
    found = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()[:16]


class Store:
    """The folder of a bank: `bank.json` with its settings, and `block_00000.safetensors` and so on, whole files or none.

    Raises ValueError for a folder of a bank with other settings.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.folder, path = folder, folder / SETTINGS_NAME
        self.settings_id = hashlib.sha256(json.dumps(settings).encode()).hexdigest()
        if not path.exists():
            write_json(path, settings)
            return
        stored = parse_json(path.read_text(encoding="utf-8"), str(path))
        for name, value in settings.items():
            if not isinstance(stored, dict) or stored.get(name) != value:
                before = stored.get(name) if isinstance(stored, dict) else None
                raise ValueError(f"folder {str(folder)!r}: holds a bank with {name} = {before!r}, not {value!r}; "
                                 "name another folder (nothing was changed)")

    def path(self, number: int) -> Path:
        return self.folder / f"block_{number:05d}.safetensors"

    def save(self, number: int, models: Classifiers) -> None:
        tensors = {name: factor.cpu() for name, factor in models._asdict().items()}
        write_atomically(self.path(number), lambda draft: save_file(tensors, draft, {"settings": self.settings_id}))

    def load(self, number: int, device: torch.device) -> Classifiers | None:
        """The models of a finished block; None where it is not finished. ValueError for a file that is no block of this bank."""
        path = self.path(number)
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                if (file.metadata() or {}).get("settings") == self.settings_id:
                    return Classifiers(*(file.get_tensor(name).to(device) for name in Classifiers._fields))
        except SafetensorError as error:
            raise ValueError(f"{path}: is damaged ({error}); remove it, and the block is trained again") from None
        raise ValueError(f"{path}: is a block of another bank; remove it, and the block is trained again")
