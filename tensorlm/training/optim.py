"""Muon for the hidden matrices, AdamW for everything else, and one schedule for all of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import Tensor, nn

from tensorlm.tensors.scaling import exponents, shifted
from tensorlm.training.config import TrainConfig

if TYPE_CHECKING:
    from tensorlm.model import TensorTransformer

NS_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ADAM_BETAS = (0.8, 0.95)
ADAM_EPS = 1e-10


def newton_schulz(matrices: Tensor, steps: int = 5, dtype: torch.dtype = torch.float32) -> Tensor:
    """Push every singular value of each matrix to about one (about 0.7 to 1.2 after five steps), whatever its scale; zero stays zero.

    From X = G / ||G||_F iterate X <- a X + (b A + c A A) X with A = X X^T, (a, b, c) = (3.4445, -4.7750,
    2.0315), whose slope at zero is as steep as convergence allows. Shapes: (n, rows, cols), rows <= cols.
    Source: Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024).

    >>> x = torch.randn(3, 8, 16, generator=torch.Generator().manual_seed(0))
    >>> values = torch.linalg.svdvals(newton_schulz(x))
    >>> bool((values > 0.5).all() and (values < 1.3).all())
    True
    """
    a, b, c = NS_COEFFICIENTS
    x = matrices if matrices.dtype == torch.float64 else matrices.float()
    x = shifted(x, -exponents(x, (1, 2))).to(dtype)
    norms = x.flatten(1).norm(dim=1).view(-1, 1, 1)
    x = x / torch.where(norms > 0, norms, 1)
    for _ in range(steps):
        gram = torch.bmm(x, x.mT)
        gram = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, gram, x, beta=a)
    return x


class Muon(torch.optim.Optimizer):
    """Muon with all matrices of one shape orthogonalised in one batched product.

    For each matrix W with gradient G, momentum mu, rate eta and decay lambda:
    M <- mu M + (1 - mu) G, then W <- (1 - eta lambda) W - eta sqrt(max(1, rows / cols)) NS((1 - mu) G + mu M).
    The same function as ``torch.optim.Muon`` with ``adjust_lr_fn="original"`` and Nesterov momentum (a test
    compares them in bfloat16). It differs in two ways: matrices of equal shape share their products, and the
    dtype of the iteration is chosen, since bfloat16 is fifty times slower than float32 on a CPU that only
    emulates it. Raises ValueError on a parameter that is not a matrix, and for a rate, momentum, decay or number of steps
    that is none.
    Source: Jordan et al. (2024), as above.

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
        try:
            _require_muon_group(self.param_groups[-1])
        except ValueError:
            del self.param_groups[-1]
            raise

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update of every parameter that has a gradient; a closure computes loss and gradients before, and its loss is returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            by_shape: dict[tuple[int, int], list[Tensor]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    by_shape.setdefault(tuple(p.shape), []).append(p)
            for shape, params in by_shape.items():
                self._update(params, shape, group)
        return loss

    def _update(self, params: Sequence[Tensor], shape: tuple[int, int], group: dict[str, Any]) -> None:
        rows, cols = shape
        params = list(params)
        grads = [p.grad for p in params if p.grad is not None]
        buffers = [self._buffer(p) for p in params]
        torch._foreach_lerp_(buffers, grads, 1 - group["momentum"])
        stacked = torch.stack(torch._foreach_lerp(grads, buffers, group["momentum"]))
        tall = rows > cols
        updates = newton_schulz(stacked.mT if tall else stacked, group["ns_steps"], self.ns_dtype)
        updates = updates.mT if tall else updates
        scale = group["lr"] * math.sqrt(max(1.0, rows / cols))
        if group["weight_decay"]:
            torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(params, list(updates.to(params[0].dtype).unbind()), alpha=-scale)

    def _buffer(self, p: Tensor) -> Tensor:
        state = self.state[p]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(p)
        return state["momentum_buffer"]


def _require_muon_group(group: dict[str, Any]) -> None:
    for p in group["params"]:
        if p.ndim != 2:
            raise ValueError(f"Muon takes matrices only; got a parameter of shape {tuple(p.shape)}")
    for name in ("lr", "weight_decay"):
        if not 0 <= group[name] < math.inf:
            raise ValueError(f"{name} must be a finite number of at least 0, got {group[name]!r}")
    if not 0 <= group["momentum"] < 1:
        raise ValueError(f"momentum must be at least 0 and below 1, got {group['momentum']!r}")
    if not isinstance(group["ns_steps"], int) or group["ns_steps"] < 1:
        raise ValueError(f"ns_steps must be a whole number of at least 1, got {group['ns_steps']!r}")


def lr_scale(step: int, config: TrainConfig) -> float:
    """Share of the peak learning rate at ``step``: warm-up, constant, then linear to zero.

    The last ``cooldown`` fraction of the steps falls linearly; the step after the last would have rate zero.

    >>> config = TrainConfig(steps=10, cooldown=0.5)
    >>> [round(lr_scale(step, config), 2) for step in (0, 5, 7, 9, 10)]
    [1.0, 1.0, 0.6, 0.2, 0.0]
    """
    rise = (step + 1) / config.warmup if step < config.warmup else 1.0
    length = config.cooldown * config.steps
    fall = (config.steps - step) / length if length else 1.0
    return max(0.0, min(1.0, rise, fall))


def anneal_at(step: int, config: TrainConfig) -> float:
    """Annealing fraction of the norms at ``step``: 0 before ``anneal[0]``, 1 from ``anneal[1]`` of the steps on.

    It rises linearly between the two; where they are equal it jumps.

    >>> config = TrainConfig(steps=10, anneal=(0.2, 0.6))
    >>> [round(anneal_at(step, config), 2) for step in (0, 2, 4, 6, 10)]
    [0.0, 0.0, 0.5, 1.0, 1.0]
    """
    start, end = config.anneal
    fraction = step / config.steps
    if fraction >= end:
        return 1.0
    return (fraction - start) / (end - start) if fraction > start else 0.0


def optimizers(model: TensorTransformer, config: TrainConfig, ns_dtype: torch.dtype = torch.float32) -> Optimizers:
    """The optimisers of a run; every parameter of ``model`` belongs to exactly one of them (asserted).

    ``optimizer="muon-batched"``: :class:`Muon`, with Newton-Schulz in ``ns_dtype``; ``"muon"``:
    ``torch.optim.Muon`` where this torch has it (2.9 on), else :class:`Muon` in bfloat16, the same function;
    ``"adamw"``: AdamW for the matrices too, at ``lr_matrix``. The groups "embedding", "bigram", "head" and
    "scalar" always get AdamW (betas 0.8 and 0.95, eps 1e-10, no decay).
    """
    groups = {name: [p for _, p in pairs] for name, pairs in model.parameter_groups().items() if pairs}
    assert_covered(model, groups)
    matrices = groups.pop("matrix", [])
    adam = [dict(params=params, lr=getattr(config, f"lr_{name}"), weight_decay=0.0) for name, params in groups.items()]
    if matrices and config.optimizer == "adamw":
        adam.append(dict(params=matrices, lr=config.lr_matrix, weight_decay=config.weight_decay))
        matrices = []
    built = [_muon(matrices, config, ns_dtype)] if matrices else []
    return Optimizers(built + ([_adamw(adam)] if adam else []))


class Optimizers:
    """Several optimisers driven as one, their learning rates scaled together."""

    def __init__(self, members: list[torch.optim.Optimizer]) -> None:
        self.members = members
        self._peaks = [(group, group["lr"]) for member in members for group in member.param_groups]

    def set_scale(self, scale: float) -> None:
        """Every group's rate becomes ``scale`` times its peak."""
        for group, peak in self._peaks:
            group["lr"] = scale * peak

    def step(self) -> None:
        """One update of every parameter."""
        for member in self.members:
            member.step()


def assert_covered(model: nn.Module, groups: dict[str, list[nn.Parameter]]) -> None:
    """Raise ValueError unless the groups hold every parameter of ``model`` exactly once."""
    known = {"matrix", "embedding", "bigram", "head", "scalar"}
    if set(groups) - known:
        raise ValueError(f"parameter group {sorted(set(groups) - known)[0]!r} has no optimiser; known: {sorted(known)}")
    seen = [id(p) for params in groups.values() for p in params]
    for name, p in model.named_parameters():
        if seen.count(id(p)) != 1:
            raise ValueError(f"parameter {name} is in {seen.count(id(p))} optimiser groups; it must be in exactly one")


def _muon(matrices: list[nn.Parameter], config: TrainConfig, ns_dtype: torch.dtype) -> torch.optim.Optimizer:
    common: dict[str, Any] = dict(lr=config.lr_matrix, momentum=config.momentum, weight_decay=config.weight_decay,
                                  ns_steps=config.newton_schulz)
    if config.optimizer == "muon" and hasattr(torch.optim, "Muon"):
        return torch.optim.Muon(matrices, nesterov=True, adjust_lr_fn="original", **common)
    return Muon(matrices, ns_dtype=torch.bfloat16 if config.optimizer == "muon" else ns_dtype, **common)


def _adamw(groups: list[dict]) -> torch.optim.Optimizer:
    device = groups[0]["params"][0].device.type
    fused = device in ("cpu", "cuda")
    return torch.optim.AdamW(groups, betas=ADAM_BETAS, eps=ADAM_EPS, fused=fused)
