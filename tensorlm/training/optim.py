"""Muon for the hidden matrices, AdamW for everything else, one schedule, and what guards or constrains a step."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tensorlm.checks import require, require_number, require_one_of, require_whole
from tensorlm.model import TensorTransformer
from tensorlm.scaling import newton_schulz
from tensorlm.training.config import TrainConfig

ADAM_BETAS, ADAM_EPS = (0.8, 0.95), 1e-10
OUTPUT_NAMES = ("D", "o")  # matrices that write into the residual stream and start at zero
FACTOR_NAMES = ("D", "L", "R", "E")  # of an MLP: the factors of its CP form
POWER_ITERATIONS = 12
MEAN_STEPS, FREE_STEPS, MAX_SKIPS = 50, 10, 50
GUARD_STATE = {"mean": float, "seen": int, "skipped": int, "in_a_row": int}


class Muon(torch.optim.Optimizer):
    """Muon with all matrices of one shape orthogonalised in one batched product.

    For each matrix W with gradient G, momentum mu, rate eta and decay lambda: M <- mu M + (1 - mu) G, then W <- (1 - eta lambda) W - eta
    sqrt(max(1, rows / cols)) NS((1 - mu) G + mu M). The function of `torch.optim.Muon` with `adjust_lr_fn="original"` and Nesterov
    momentum, in any dtype (bfloat16 is fifty times slower on a CPU that only emulates it). Raises ValueError on a parameter that is not a
    matrix, and for a rate, momentum, decay or number of steps that is none. Source: Jordan et al. (2024), as above.

    >>> w = torch.nn.Parameter(torch.eye(4, 2)); w.grad = torch.ones(4, 2)
    >>> Muon([w], lr=0.1).step(); w.shape
    torch.Size([4, 2])
    """

    def __init__(self, params: Iterable[nn.Parameter] | Iterable[dict[str, Any]], lr: float = 0.02, momentum: float = 0.95,
                 weight_decay: float = 0.1, ns_steps: int = 5, ns_dtype: torch.dtype = torch.float32) -> None:
        super().__init__(params, dict(lr=lr, momentum=momentum, weight_decay=weight_decay, ns_steps=ns_steps))
        self.ns_dtype = ns_dtype

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """One more group of matrices, with settings of its own; a group that is refused is not added."""
        super().add_param_group(param_group)
        group = self.param_groups.pop()
        for p in group["params"]:
            require(p.ndim == 2, "a parameter", p, "a matrix")
        for name in ("lr", "weight_decay"):
            require_number(name, group[name], least=0)
        require(0 <= group["momentum"] < 1, "momentum", group["momentum"], "at least 0 and below 1")
        require_whole("ns_steps", group["ns_steps"], 1)
        self.param_groups.append(group)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every parameter that has a gradient; a closure computes loss and gradients before, its loss is returned."""
        with torch.enable_grad():
            loss = None if closure is None else closure()
        for group in self.param_groups:
            for params in by_shape(p for p in group["params"] if p.grad is not None):
                self._update(params, group)
        return loss

    def _update(self, params: list[Tensor], group: dict[str, Any]) -> None:
        rows, cols = params[0].shape
        grads = [p.grad for p in params if p.grad is not None]
        for p in params:
            if "momentum_buffer" not in self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        buffers = [self.state[p]["momentum_buffer"] for p in params]
        torch._foreach_lerp_(buffers, grads, 1 - group["momentum"])
        stacked = torch.stack(torch._foreach_lerp(grads, buffers, group["momentum"]))
        tall = rows > cols
        updates = newton_schulz(stacked.mT if tall else stacked, group["ns_steps"], self.ns_dtype)
        updates = updates.mT if tall else updates
        scale = group["lr"] * math.sqrt(max(1.0, rows / cols))
        if group["weight_decay"]:
            torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(params, list(updates.to(params[0].dtype).unbind()), alpha=-scale)


def by_shape(tensors: Iterable[Tensor]) -> Iterable[list[Tensor]]:
    found: dict[torch.Size, list[Tensor]] = {}
    for tensor in tensors:
        found.setdefault(tensor.shape, []).append(tensor)
    return found.values()


def lr_scale(step: int, config: TrainConfig) -> float:
    """Share of the peak learning rate at `step`: warm-up, constant, then linear to zero (`cooldown` of the steps).

    >>> config = TrainConfig(steps=10, cooldown=0.5)
    >>> [round(lr_scale(step, config), 2) for step in (0, 5, 7, 9, 10)]
    [1.0, 1.0, 0.6, 0.2, 0.0]
    """
    rise = (step + 1) / config.warmup if step < config.warmup else 1.0
    length = config.cooldown * config.steps
    fall = (config.steps - step) / length if length else 1.0
    return max(0.0, min(1.0, rise, fall))


def anneal_at(step: int, config: TrainConfig) -> float:
    """Annealing fraction of the norms: 0 before `anneal[0]` of the steps, 1 from `anneal[1]` on, linear between."""
    start, end = config.anneal
    fraction = step / config.steps
    if fraction >= end:
        return 1.0
    return (fraction - start) / (end - start) if fraction > start else 0.0


class Optimizers:
    """The optimisers of a run driven as one, their rates scaled together; each parameter belongs to exactly one (asserted).

    Matrices: "muon-batched" is `Muon` in `ns_dtype`, "muon" torch's own where it has one (2.9 on), else `Muon` in bfloat16,
    the same function; "adamw" AdamW. All other groups always get AdamW, without decay.
    """

    def __init__(self, model: TensorTransformer, config: TrainConfig, ns_dtype: torch.dtype = torch.float32) -> None:
        groups = {name: [p for _, p in pairs] for name, pairs in model.parameter_groups().items() if pairs}
        assert_covered(model, groups)
        matrices = groups.pop("matrix", [])
        self.members: list[torch.optim.Optimizer] = []
        adam = [dict(params=params, lr=getattr(config, f"lr_{name}"), weight_decay=0.0) for name, params in groups.items()]
        if matrices and config.optimizer == "adamw":
            adam.append(dict(params=matrices, lr=config.lr_matrix, weight_decay=config.weight_decay))
        elif matrices:
            common: dict[str, Any] = dict(lr=config.lr_matrix, momentum=config.momentum, weight_decay=config.weight_decay,
                                          ns_steps=config.newton_schulz)
            if config.optimizer == "muon" and hasattr(torch.optim, "Muon"):
                self.members.append(torch.optim.Muon(matrices, nesterov=True, adjust_lr_fn="original", **common))
            else:
                dtype = torch.bfloat16 if config.optimizer == "muon" else ns_dtype
                self.members.append(Muon(matrices, ns_dtype=dtype, **common))
        if adam:
            fused = adam[0]["params"][0].device.type in ("cpu", "cuda")
            self.members.append(torch.optim.AdamW(adam, betas=ADAM_BETAS, eps=ADAM_EPS, fused=fused))
        self._peaks = [(group, group["lr"]) for member in self.members for group in member.param_groups]
        names: dict[Tensor, str] = {p: name for name, p in model.named_parameters()}
        self.owners = {names[p]: (member, p) for member in self.members for g in member.param_groups for p in g["params"]}

    def set_scale(self, scale: float) -> None:
        for group, peak in self._peaks:
            group["lr"] = scale * peak

    def step(self) -> None:
        """One update of every parameter."""
        for member in self.members:
            member.step()


def assert_covered(model: nn.Module, groups: dict[str, list[nn.Parameter]]) -> None:
    """Raise ValueError unless the groups hold every parameter of `model` exactly once."""
    for name in groups:
        require_one_of("parameter group", name, ("matrix", "embedding", "bigram", "head", "scalar"))
    seen = [id(p) for params in groups.values() for p in params]
    for name, p in model.named_parameters():
        require(seen.count(id(p)) == 1, f"parameter {name}", seen.count(id(p)), "in exactly 1 optimiser group")


class Constraints:
    """The constraint and the sparsity of a run, applied to the weights between two steps.

    | constraint | what holds afterwards |
    | --- | --- |
    | spectral | no hidden matrix stretches a vector by more than `constraint_size` (Miyato et al., arXiv 1802.05957) |
    | orthogonal | q, k, v, L, R, E have singular values `constraint_size` (orthonormal rows or columns, times that) |

    `sparsity` s moves every entry of an MLP's factors by s times the learning rate towards zero, and no further: the
    proximal step of an L1 penalty (Tibshirani 1996).
    """

    def __init__(self, model: TensorTransformer, config: TrainConfig) -> None:
        self.kind, self.size, self.sparsity = config.constraint, config.constraint_size, config.sparsity
        named = [(name.split("."), p) for name, p in model.parameter_groups()["matrix"]]
        self.matrices = [p for parts, p in named if self.kind == "spectral" or parts[-1] not in OUTPUT_NAMES]
        self.factors = [p for parts, p in named if "mlp" in parts and set(parts) & set(FACTOR_NAMES)]
        if self.kind == "orthogonal":
            self._replace(exactly_orthogonal)

    @torch.no_grad()
    def apply(self, rate: float) -> None:
        if self.kind != "none":
            self._replace(bounded if self.kind == "spectral" else retracted)
        if self.sparsity:
            for p in self.factors:
                p.copy_(F.softshrink(p, rate * self.sparsity))

    @torch.no_grad()
    def _replace(self, function: Callable[[Tensor, float], Tensor]) -> None:
        for params in by_shape(self.matrices):
            for old, new in zip(params, function(torch.stack(params), self.size)):
                old.copy_(new)


def bounded(matrices: Tensor, size: float) -> Tensor:
    """Each of (n, rows, cols) divided so that its largest singular value is at most `size` (by power iteration)."""
    gram = matrices @ matrices.mT if matrices.shape[1] <= matrices.shape[2] else matrices.mT @ matrices
    vector = gram.abs().sum(-1, keepdim=True)
    for _ in range(POWER_ITERATIONS):
        vector = F.normalize(gram @ vector, dim=1)
    largest = (gram @ vector).norm(dim=1, keepdim=True).sqrt()
    return matrices / (largest / size).clamp(min=1.0)


def retracted(matrices: Tensor, size: float) -> Tensor:
    """Matrices that were orthogonal before a small step, brought back: two steps of X <- (3 X - X X^T X) / 2."""
    x = matrices / size
    for _ in range(2):
        cube = (x @ x.mT) @ x if x.shape[1] <= x.shape[2] else x @ (x.mT @ x)
        x = 1.5 * x - 0.5 * cube
    return x * size


def exactly_orthogonal(matrices: Tensor, size: float) -> Tensor:
    """The nearest matrices with all singular values `size` (polar factor)."""
    u, _, vh = torch.linalg.svd(matrices, full_matrices=False)
    return size * u @ vh


class GradientGuard:
    """Decides from the global gradient norm whether a step is taken, and clips the gradient if it is.

    With g the norm over all parameters and m its running mean over about 50 steps, a step is skipped where g is not finite,
    or (`skip_factor`, from step 10 on) g > skip_factor * m; else the gradient is multiplied by min(1, clip / g). A skipped
    norm enters the mean as skip_factor * m, so that a lasting change of scale is followed.
    """

    def __init__(self, config: TrainConfig, parameters: list[nn.Parameter], always: bool = False) -> None:
        self.clip, self.factor = config.clip, config.skip_factor
        self.active = always or self.clip is not None or self.factor is not None
        self.waits = always or self.factor is not None or parameters[0].device.type == "cpu"
        self.parameters = parameters
        self.norm: float | Tensor | None = None
        self.mean, self.seen, self.skipped, self.in_a_row = 0.0, 0, 0, 0

    def admits(self) -> bool:
        """Clip the gradients, and say whether the step may be taken."""
        if not self.active:
            return True
        grads = [p.grad for p in self.parameters if p.grad is not None]
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
        if not self.waits:
            self.norm = norm
            torch._foreach_mul_(grads, (self.clip / (norm + 1e-6)).clamp(max=1.0))
            return True
        size = self.norm = norm.item()
        outlier = self.factor is not None and self.seen >= FREE_STEPS and size > self.factor * self.mean
        if outlier or not math.isfinite(size):
            self.skipped, self.in_a_row = self.skipped + 1, self.in_a_row + 1
            if self.factor is not None and self.seen and math.isfinite(size):
                self._move_mean(self.factor * self.mean)
            return False
        self.in_a_row = 0
        self._move_mean(size)
        if self.clip is not None and size > self.clip:
            torch._foreach_mul_(grads, self.clip / size)
        return True

    def _move_mean(self, norm: float) -> None:
        self.seen += 1
        self.mean += (norm - self.mean) / min(self.seen, MEAN_STEPS)
