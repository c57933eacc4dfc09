"""Normalisation sites: a per-token RMS norm, one that anneals to a constant, or none."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NORM_KINDS = ("rms", "anneal", "none")
EPS = 1e-6
RATE = 0.05  # of the running constants, per optimiser step


class Norm(nn.Module):
    """One site of normalisation, without gain.

    With r the root mean square of one token's features and c a constant of the site:

    | kind | y | polynomial at evaluation |
    | --- | --- | --- |
    | rms | x / r | no: r depends on the token |
    | anneal | x r^-(1-a) c^-a, a from 0 to 1 during training | yes, once a = 1 |
    | none | x | yes |

    c is the running geometric mean of r over training tokens. It moves once per optimiser step, in `update`, from the
    statistics that all forward passes of that step have gathered; so micro-batches and data-parallel ranks give the
    constant that one large batch gives. It is frozen when a = 1. `penalty` of the last forward pass is
    mean((r^2 / c^2 - 1)^2): it keeps r near c, which is what makes the replacement harmless.

    Shapes: x (..., features). `groups` > 1 (heads): x (batch, groups, time, features), one constant a group.

    >>> site = Norm("rms")
    >>> site(torch.full((1, 4), 3.0))
    tensor([[1.0000, 1.0000, 1.0000, 1.0000]])
    """

    def __init__(self, kind: str, groups: int = 1, penalty_weight: float = 1.0):
        super().__init__()
        if kind not in NORM_KINDS:
            raise ValueError(f"unknown norm {kind!r}; expected one of {NORM_KINDS}")
        self.kind, self.groups, self.penalty_weight = kind, groups, penalty_weight
        self.penalty: Tensor | None = None
        self._gathered: list[Tensor] = []
        self._fraction, self._steps = 0.0, 0
        if kind == "anneal":
            self.register_buffer("log_constant", torch.zeros(groups))
            self.register_buffer("fraction", torch.zeros(()))
            self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "none":
            return x
        if self.kind == "rms":
            return F.rms_norm(x, x.shape[-1:], eps=EPS)
        if self._fraction == 1.0 and not self.training:
            return x * self.constant_scale(x)
        return self._annealed(x)

    def _annealed(self, x: Tensor) -> Tensor:
        log_r = 0.5 * torch.log(x.to(self._statistics_dtype(x)).square().mean(-1, keepdim=True) + EPS**2)
        log_c = self._aligned(self.log_constant.to(log_r.dtype))
        if self.training:
            self._gather(log_r.detach())
            ratio = torch.exp(2 * (log_r - log_c))
            self.penalty = (ratio - 1).square().mean() if self._steps else None
        if self._fraction == 1.0:
            return x * self.constant_scale(x)
        return x * torch.exp(-(1 - self._fraction) * log_r - self._fraction * log_c).to(x.dtype)

    def constant_scale(self, x: Tensor) -> Tensor:
        """1 / c in the dtype of x, shaped to multiply it."""
        return torch.exp(-self._aligned(self.log_constant)).to(x.dtype)

    @property
    def anneal_fraction(self) -> float:
        """a, the share of the constant, as a number: reading the buffer would wait for the device."""
        return self._fraction

    def set_fraction(self, a: float) -> None:
        """Set a, the share of the constant: 0 is a per-token norm, 1 is a constant."""
        if not 0.0 <= a <= 1.0:
            raise ValueError(f"the anneal fraction must lie in [0, 1], got {a}")
        if self.kind == "anneal" and a != self._fraction:
            self._fraction = float(a)
            self.fraction.fill_(a)

    @torch.no_grad()
    def update(self, reduce=None) -> None:
        """Move the constants by what the forward passes since the last call have seen; `reduce` averages over ranks."""
        if not self._gathered:
            return
        mean = torch.stack(self._gathered).mean(0)
        self._gathered = []
        if reduce is not None:
            reduce(mean)
        if self._fraction == 1.0:
            return
        rate = RATE if self._steps else 1.0
        self.log_constant.lerp_(mean.to(self.log_constant.dtype), rate)
        self._steps += 1
        self.steps.fill_(self._steps)

    def __getstate__(self):
        """For copies: without what the last forward pass left, which hangs on its graph."""
        return {**self.__dict__, "penalty": None, "_gathered": []}

    def _gather(self, log_r: Tensor) -> None:
        axes = [axis for axis in range(log_r.ndim) if self.groups == 1 or axis != 1]
        self._gathered.append(log_r.mean(axes).reshape(self.groups))

    def _aligned(self, constant: Tensor) -> Tensor:
        return constant.view(-1, 1, 1) if self.groups > 1 else constant

    @staticmethod
    def _statistics_dtype(x: Tensor) -> torch.dtype:
        return torch.promote_types(x.dtype, torch.float32)

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        if self.kind == "anneal":
            self._fraction, self._steps = float(self.fraction), int(self.steps)
