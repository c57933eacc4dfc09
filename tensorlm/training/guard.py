"""Gradient clipping, and the rule that skips a step with an outlying gradient."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from tensorlm.training.config import TrainConfig

WINDOW = 50
GRACE = 10
MAX_SKIPS_IN_A_ROW = 50


class GradientGuard:
    """Decides from the global gradient norm whether a step is taken, and clips the gradient if it is.

    With g the norm over all parameters and m its running mean, a step is skipped where g is not finite, or
    (``skip_factor``) g > skip_factor * m; otherwise the gradient is multiplied by min(1, clip / g). The mean covers
    about the last 50 steps; none is called an outlier in the first 10. A skipped norm enters the mean as
    skip_factor * m, so a lasting change of scale is followed instead of being skipped for ever.

    Without ``clip`` and ``skip_factor`` nothing is computed. The skip rule makes the host wait for the device once
    a step; clipping alone does not.
    """

    def __init__(self, config: TrainConfig, parameters: list[nn.Parameter], always: bool = False) -> None:
        self.clip, self.factor = config.clip, config.skip_factor
        self.active = always or self.clip is not None or self.factor is not None
        self.waits = always or self.factor is not None or parameters[0].device.type == "cpu"
        self.parameters = parameters
        self.norm: float | Tensor | None = None
        self.mean, self.seen, self.skipped, self.in_a_row = 0.0, 0, 0, 0

    def admits(self) -> bool:
        """Look at the gradients, clip them, and say whether the step may be taken."""
        if not self.active:
            return True
        grads = [p.grad for p in self.parameters if p.grad is not None]
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
        if not self.waits:
            self.norm = norm
            torch._foreach_mul_(grads, (self.clip / (norm + 1e-6)).clamp(max=1.0))
            return True
        size = self.norm = norm.item()
        if self._outlier(size):
            self._skip(size)
            return False
        self._accept(size)
        if self.clip is not None and size > self.clip:
            torch._foreach_mul_(grads, self.clip / size)
        return True

    def state(self) -> dict[str, Any]:
        """What a checkpoint has to keep, JSON-safe."""
        return {name: getattr(self, name) for name in ("mean", "seen", "skipped", "in_a_row")}

    def load(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state`; KeyError or ValueError where it is not one."""
        self.mean = float(state["mean"])
        self.seen, self.skipped, self.in_a_row = (int(state[name]) for name in ("seen", "skipped", "in_a_row"))

    def _outlier(self, norm: float) -> bool:
        if not math.isfinite(norm):
            return True
        return self.factor is not None and self.seen >= GRACE and norm > self.factor * self.mean

    def _skip(self, norm: float) -> None:
        self.skipped += 1
        self.in_a_row += 1
        if self.factor is not None and self.seen and math.isfinite(norm):
            self._move(self.factor * self.mean)

    def _accept(self, norm: float) -> None:
        self.in_a_row = 0
        self._move(norm)

    def _move(self, norm: float) -> None:
        self.seen += 1
        self.mean += (norm - self.mean) / min(self.seen, WINDOW)
