"""One run's model, optimisers and state: the step that moves them, and how a checkpoint takes them up again."""

import contextlib
import copy
import functools
import hashlib
import math
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel as DDP

from tensorlm.checks import is_finite, is_whole, require, require_whole
from tensorlm.model import ModelConfig, TensorTransformer
from tensorlm.training.checkpoint import Checkpoint, CheckpointError
from tensorlm.training.config import TrainConfig
from tensorlm.training.device import choose_precision, current_world, memory_of, resolve_device
from tensorlm.training.evaluation import window_losses
from tensorlm.training.folder import Row
from tensorlm.training.optim import GUARD_STATE, MAX_SKIPS, Constraints, GradientGuard, Optimizers, anneal_at, lr_scale

STATE_SHAPED = ("momentum_buffer", "exp_avg", "exp_avg_sq")


class TrainingError(RuntimeError):
    """Training had to stop before `step`: the loss is no number, or no step can be taken."""

    def __init__(self, message: str, step: int) -> None:
        super().__init__(message)
        self.step = step


class Clock:
    """Seconds and CPU-seconds of training proper, without what happens inside `paused`."""

    def __init__(self) -> None:
        self.before = (0.0, 0.0)
        self._start = (time.perf_counter(), time.process_time())

    def read(self) -> tuple[float, float]:
        return self.before[0] + time.perf_counter() - self._start[0], self.before[1] + time.process_time() - self._start[1]

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        self.before = self.read()
        try:
            yield
        finally:
            self._start = (time.perf_counter(), time.process_time())


def require_memory(model: ModelConfig, share: int, rows: int, device: torch.device, limit: int | None = None) -> None:
    """Raise ValueError where training surely needs more bytes than `device` has (`limit`), before anything is built.

    `share` sequences a step and `rows` a forward pass. Counted: weights, gradients, one number of optimiser state (12 bytes
    a parameter); a batch and its indices (16 bytes a token); the logits in float32 twice, and in each layer the stream
    twice and the hidden units in 16 bits.
    """
    limit = memory_of(device) if limit is None else limit
    tokens = rows * model.context
    parts = {"weights, gradients and optimiser": 12 * count_parameters(model),
             "a batch": 16 * share * (model.context + 1),
             "a forward pass": tokens * (8 * model.vocab_size + 2 * model.layers * (2 * model.width + model.hidden))}
    if limit is not None and (need := sum(parts.values())) > limit:
        listed = ", ".join(f"{part} {size / 1e9:.3g}" for part, size in parts.items())
        raise ValueError(f"memory: this run needs at least {need / 1e9:.3g} GB ({listed}), {device} has {limit / 1e9:.3g}; "
                         f"choose a smaller model, context, batch_size or micro_batch")


def count_parameters(model: ModelConfig) -> int:
    """The parameters of a model without building it: all layers but the first have the size of the second."""
    try:
        with torch.device("meta"):
            one, two = (TensorTransformer(replace(model, layers=layers)).parameter_count() for layers in (1, 2))
    except (RuntimeError, TypeError, OverflowError) as error:
        raise ValueError(f"memory: no such model can be built: {str(error).splitlines()[0]}") from None
    return one + (model.layers - 1) * (two - one)


def mean_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean nats per token, in float32: logits (batch, time, vocab_size), targets (batch, time)."""
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


def compiled(model: TensorTransformer) -> TensorTransformer:
    """The same parameters and modules, but each block compiled: blocks that are alike share one graph, which depth does not lengthen."""
    shadow = copy.copy(model)
    blocks = nn.ModuleList([cast(nn.Module, torch.compile(block, dynamic=False)) for block in model.blocks])
    shadow._modules = {**model._modules, "blocks": blocks}
    return shadow


class Trainer:
    """Model, optimisers and all state of one run."""

    def __init__(self, model_config: ModelConfig, config: TrainConfig, data: Any, device: str = "auto",
                 precision: str | None = None) -> None:
        """`precision` overrules the configured one: a resumed run keeps what "auto" once meant."""
        require_whole("ModelConfig.vocab_size", model_config.vocab_size, data.vocab_size)
        self.config, self.data, self.world = config, data, current_world()
        self.batch_rows = self.world.rows(config.batch_size)
        share = config.batch_size // self.world.size
        self.rows = min(config.micro_batch or share, share)  # of a forward pass
        self.device = resolve_device(device, self.world.local_rank)
        require_memory(model_config, share, self.rows, self.device)
        self.windows = data.valid_windows(model_config.context)[: config.validate_windows]
        self.clock = Clock()
        data.train_batch(0, 1, model_config.context, config.seed)  # a text too short is found here, not at step 0
        self.model = TensorTransformer(model_config, seed=config.seed).to(self.device)
        self.dtype = choose_precision(precision or config.precision, self.device)
        self.precision = str(self.dtype).removeprefix("torch.")
        compiles = config.compile == "on"
        self.forward = self.world.wrap(compiled(self.model) if compiles else self.model, self.device)
        self.mean_loss = torch.compile(mean_loss, dynamic=False) if compiles else mean_loss
        self.parameters = list(self.model.parameters())
        self.optimizers = Optimizers(self.model, config, torch.bfloat16 if self.dtype == torch.bfloat16 else torch.float32)
        self.scaler = torch.amp.GradScaler(self.device.type) if self.dtype == torch.float16 else None
        self.guard = GradientGuard(config, self.parameters, always=self.scaler is not None)
        norms = {model_config.norm, model_config.qk_norm}
        self.anneals, self.tracks = "anneal" in norms, bool({"anneal", "batch"} & norms)
        self.constraints = Constraints(self.model, config)
        self.checks_every_step = self.device.type == "cpu" and self.world.size == 1
        self.done, self.recent, self.unsettled = 0, list[float](), list[Tensor]()
        self.ahead: Tensor | None = None

    def step(self) -> None:
        """One optimiser step on the batch of step `self.done`."""
        step, config = self.done, self.config
        batch, self.ahead = self.ahead if self.ahead is not None else self.batch(step), None
        self.optimizers.set_scale(lr_scale(step, config))
        if self.anneals:
            self.model.set_anneal(anneal_at(step, config))
        loss = self._backward(batch)
        if self.device.type == "cuda" and step + 1 < config.steps:
            self.ahead = self.batch(step + 1)  # while the GPU works on this one
        self.unsettled.append(loss)
        if self.checks_every_step:
            self.settle()
        if self.guard.admits():
            self.optimizers.step()
            self.constraints.apply(config.lr_matrix * lr_scale(step, config))
        elif self.guard.in_a_row >= MAX_SKIPS:
            raise TrainingError(f"step {step}: the last {self.guard.in_a_row} steps were skipped for their gradient", step)
        if self.tracks:
            self.model.update_norms(self.world.average_ if self.world.size > 1 else None)
        self.model.zero_grad()
        if self.scaler is not None:
            self.scaler.update()
        self.done += 1

    def batch(self, step: int) -> Tensor:
        """This process's rows of the batch of `step`, on the device: (rows, context + 1)."""
        config, context = self.config, self.model.config.context
        batch = self.data.train_batch(step, config.batch_size, context, config.seed, self.batch_rows)
        return (batch.pin_memory() if self.device.type == "cuda" else batch).to(self.device, non_blocking=True)

    def _backward(self, batch: Tensor) -> Tensor:
        """Gradients of the mean loss over `batch`, in micro-batches; the mean cross-entropy comes back."""
        pieces, losses = batch.split(self.config.micro_batch or len(batch)), []
        for piece in pieces:
            last = piece is pieces[-1] or self.world.size == 1
            with contextlib.nullcontext() if last else cast(DDP, self.forward).no_sync():
                losses.append(self._backward_piece(piece, len(piece) / len(batch)))
        if self.scaler is not None:
            for member in self.optimizers.members:
                self.scaler.unscale_(member)
        return functools.reduce(torch.add, losses)

    def _backward_piece(self, piece: Tensor, share: float) -> Tensor:
        logits = self.forward(piece[:, :-1], dtype=self.dtype)
        loss = self.mean_loss(logits, piece[:, 1:])
        objective = loss + self.config.norm_penalty * self.model.norm_penalty() if self.anneals else loss
        if share < 1:
            objective, loss = objective * share, loss * share
        (objective if self.scaler is None else self.scaler.scale(objective)).backward()
        return loss.detach()

    def settle(self) -> None:
        """Fetch the losses of the steps since the last call; TrainingError at the first that is not finite."""
        if not self.unsettled:
            return
        values, config = self.world.average_(torch.stack(self.unsettled)).tolist(), self.config
        self.unsettled = []
        for step, value in enumerate(values, self.done - len(values) + self.checks_every_step):
            if not math.isfinite(value):
                batch = self.data.train_batch(step, config.batch_size, self.model.config.context, config.seed)
                sha256 = hashlib.sha256(batch.numpy().tobytes()).hexdigest()[:16]
                raise TrainingError(f"step {step}: the loss is {value} (batch sha256 {sha256}, seed {config.seed})", step)
        self.recent += values

    def row(self, validates: bool) -> Row:
        """What the log says of the steps since the last row."""
        self.settle()
        seconds, cpu_seconds = self.clock.read()
        step, tokens, norm = self.done - 1, self.done * self.config.batch_size * self.model.config.context, self.guard.norm
        row = dict(step=self.done, tokens=tokens, loss=math.fsum(self.recent) / len(self.recent), loss_valid=None,
                   grad_norm=None if norm is None else float(norm), lr_scale=lr_scale(step, self.config),
                   anneal=anneal_at(step, self.config) if self.anneals else None, skipped=self.guard.skipped,
                   seconds=seconds, cpu_seconds=cpu_seconds, tokens_per_second=tokens / seconds)
        self.recent = []
        if validates:
            with self.clock.paused():
                row["loss_valid"] = self.validate()
        return row

    def validate(self) -> float:
        """Mean nats per token on the held-out windows; TrainingError where it is not finite."""
        mine = self.windows[self.world.rank :: self.world.size]
        total = window_losses(self.model, mine).sum() if len(mine) else torch.zeros((), dtype=torch.float64)
        loss = self.world.sum_(total.to(self.device)).item() / len(self.windows)
        if not math.isfinite(loss):
            raise TrainingError(f"step {self.done}: the loss on held-out text is {loss}", self.done)
        return loss

    def state(self) -> dict[str, Any]:
        """The arguments of `save_checkpoint` that hold this moment."""
        state = dict(step=self.done, clock=list(self.clock.read()), recent=self.recent, precision=self.precision,
                     guard={name: getattr(self.guard, name) for name in GUARD_STATE},
                     scaler=self.scaler.state_dict() if self.scaler else None, rows=self.rows)
        optimizer = {f"{name}.{key}": value for name, (member, p) in self.optimizers.owners.items()
                     for key, value in member.state.get(p, {}).items()}
        rng = {"cpu": torch.get_rng_state()} | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_initialized() else {})
        return dict(state=state, optimizer=optimizer, rng=rng)


def restore(trainer: Trainer, checkpoint: Checkpoint) -> None:
    """Bring a fresh trainer to the moment of `checkpoint`; CheckpointError where its state does not fit."""
    state, settings = checkpoint.state, trainer.model.config
    try:
        trainer.done = _number("step", state["step"], int, trainer.config.steps)
        if checkpoint.path.stem != f"step_{trainer.done:08d}":
            raise ValueError(f"step = {trainer.done}, the name of the file says another one")
        seconds, cpu_seconds = (_number("clock", value, float) for value in state["clock"])
        trainer.clock.before = seconds, cpu_seconds
        trainer.recent = [_number("recent", loss, float) for loss in state["recent"]]
        for name, kind in GUARD_STATE.items():
            setattr(trainer.guard, name, _number(name, state["guard"][name], kind))
        if trainer.scaler is not None:
            trainer.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(checkpoint.rng["cpu"])
        if "cuda" in checkpoint.rng and trainer.device.type == "cuda":
            torch.cuda.set_rng_state(checkpoint.rng["cuda"])
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else error
        raise CheckpointError(f"{checkpoint.path}: its state cannot be resumed: {reason}") from None
    before = state.get("rows", checkpoint.train_config and (checkpoint.train_config.micro_batch or trainer.rows))
    if "batch" in (settings.norm, settings.qk_norm) and before != trainer.rows:
        raise ValueError(f"resume: the run had {before} sequences a forward pass, now it would have {trainer.rows} "
                         f"(micro_batch, processes); norms of kind 'batch' depend on them")
    trainer.model.load_state_dict(checkpoint.model.state_dict())
    _restore_optimizers(trainer, checkpoint)


def _number(name: str, value: Any, kind: type, most: float = math.inf) -> Any:
    fits = (is_whole if kind is int else is_finite)(value) and 0 <= value <= most
    require(fits, name, value, f"{kind.__name__} from 0 to {most}")
    return kind(value)


def _restore_optimizers(trainer: Trainer, checkpoint: Checkpoint) -> None:
    owners = trainer.optimizers.owners
    if trainer.done > trainer.guard.skipped:  # a step was taken, and every step gives each parameter its state
        for name, (owner, _) in owners.items():
            for key in ("exp_avg", "exp_avg_sq", "step") if isinstance(owner, torch.optim.AdamW) else ("momentum_buffer",):
                if f"{name}.{key}" not in checkpoint.optimizer:
                    raise CheckpointError(f"{checkpoint.path}: tensor 'optimizer.{name}.{key}' is missing")
    for full_name, value in checkpoint.optimizer.items():
        name, _, key = full_name.rpartition(".")
        known = name in owners and key in (*STATE_SHAPED, "step")
        shape = torch.Size(()) if key == "step" or not known else owners[name][1].shape
        if not known or value.shape != shape or value.dtype != torch.float32:
            raise CheckpointError(f"{checkpoint.path}: tensor 'optimizer.{full_name}' ({value.dtype}, {tuple(value.shape)}) "
                                  f"does not belong to this model")
        owner, p = owners[name]
        owner.state[p][key] = value.to(p.device if owner.defaults.get("fused") or key != "step" else "cpu")
