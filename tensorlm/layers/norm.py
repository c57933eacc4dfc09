"""Normalisation sites: per-token norms, norms that are constants at evaluation, learned factors, or none."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tensorlm.checks import require, require_counts, require_number, require_one_of, require_rows

NORM_KINDS = ("rms", "anneal", "batch", "scale", "channel", "none")
QK_NORM_KINDS = ("rms", "joint", "anneal", "batch", "none")
TOKEN_KINDS = ("rms", "joint")  # divide by something that depends on the token, at evaluation too
EPS = 1e-6
RATE = 0.05  # of the running constants, per optimiser step


class Norm(nn.Module):
    """One site of normalisation.

    With r the root mean square of one token's features, c a constant of the site and g learned:

    | kind | y | polynomial at evaluation |
    | --- | --- | --- |
    | rms | x / r | no: r depends on the token |
    | joint | (x1 / r, x2 / r), r of both branches together | no, but a product of both is rational (`joint_norm`) |
    | anneal | x r^-(1-a) c^-a, a from 0 to 1 during training | yes, once a = 1 |
    | batch | x / b in training, b each feature's root mean square over the batch; its running value afterwards | yes |
    | scale, channel | g x, one g; g * x, one g a feature | yes |
    | none | x | yes |

    c is the running geometric mean of r over training tokens, frozen when a = 1. It moves once per optimiser step, in `update`, from what
    all forward passes of that step have gathered, so micro-batches and ranks give the constant of one large batch. `penalty` of the last
    forward pass is mean((r^2 / c^2 - 1)^2): it keeps r near c. The running value of "batch" moves in the same way; its training statistics
    are those of one forward pass (arXiv 1502.03167, without mean, gain and bias).

    Shapes: x (..., features); `groups` > 1 (heads): x (batch, groups, time, features), one constant a group. `features` is
    needed for batch and channel. Raises ValueError for an unknown kind or missing features.

    >>> Norm("rms")(torch.full((1, 4), 3.0))
    tensor([[1.0000, 1.0000, 1.0000, 1.0000]])
    """

    log_constant: Tensor
    steps: Tensor
    fraction: Tensor

    def __init__(self, kind: str, groups: int = 1, penalty_weight: float = 1.0, features: int | None = None):
        super().__init__()
        require_one_of("kind", kind, (*NORM_KINDS, "joint"))
        require(features or kind not in ("batch", "channel"), "features", features, f"given, since norm {kind!r} has a number for each")
        require_counts(groups=groups, features=1 if features is None else features)
        self.kind, self.groups, self.features, self.penalty_weight = kind, groups, features, penalty_weight
        self.penalty: Tensor | None = None
        self._gathered: Tensor | None = None  # the sum of the statistics of each pass, and behind it the number of passes
        # a as a number: reading the buffer would wait for the device
        self.anneal_fraction, self._is_constant, self._has_moved = 0.0, False, False
        if kind in ("scale", "channel"):
            self.gain = nn.Parameter(torch.ones(features or 1 if kind == "channel" else 1))
        if kind in ("anneal", "batch"):
            self.register_buffer("log_constant", torch.zeros(groups) if kind == "anneal" else torch.zeros(groups, features or 1))
            self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        if kind == "anneal":
            self.register_buffer("fraction", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if not isinstance(x, Tensor) or not x.is_floating_point() or x.shape[-1] != (self.features or x.shape[-1]):
            require_rows(x, self.features)
        if self.groups > 1 and (x.ndim != 4 or x.shape[1] != self.groups):
            raise ValueError(f"x must have shape (batch, {self.groups}, time, features), got {tuple(x.shape)}")
        if self.kind in TOKEN_KINDS:
            return F.rms_norm(x, x.shape[-1:], eps=EPS)
        if self.kind == "batch" and self.training:
            axes = [axis for axis in range(x.ndim - 1) if self.groups == 1 or axis != 1]
            log_b = _log_rms(x, axes).view(self.groups, -1)
            self._gather(log_b.detach())
            return x * torch.exp(-self._aligned(log_b)).to(x.dtype)
        if self.kind == "anneal" and (self.training or not self._is_constant):
            return self._annealed(x)
        return x if self.kind == "none" else x * self.constant_scale(x)

    def _annealed(self, x: Tensor) -> Tensor:
        log_r = _log_rms(x, [-1], keepdim=True)
        log_c = self._aligned(self.log_constant.to(log_r.dtype))
        if self.training:
            self._gather(log_r.detach().mean([axis for axis in range(x.ndim) if self.groups == 1 or axis != 1]))
            ratio = torch.exp(2 * (log_r - log_c))
            self.penalty = (ratio - 1).square().mean() if self._has_moved else None
        if self._is_constant:
            return x * self.constant_scale(x)
        a = self.fraction if torch.compiler.is_compiling() else self.anneal_fraction  # a number: a graph each step
        return x * torch.exp(-(1 - a) * log_r - a * log_c).to(x.dtype)

    def constant_scale(self, x: Tensor) -> Tensor:
        if self.kind in ("scale", "channel"):
            return self.gain.to(x.dtype)
        return torch.exp(-self._aligned(self.log_constant)).to(x.dtype)

    def factor(self) -> Tensor:
        """What the site multiplies by at evaluation: (groups,), (groups, features), (1,) or (features,); else ValueError."""
        if not self.is_constant:
            raise ValueError(f"a norm site of kind {self.kind!r} (anneal fraction {self.anneal_fraction:.2f}) multiplies by no constant")
        if self.kind == "none":
            return torch.ones(1)
        return self.gain.detach() if self.kind in ("scale", "channel") else torch.exp(-self.log_constant)

    @property
    def is_constant(self) -> bool:
        """Whether evaluation multiplies by a constant: not for a norm of each token, nor while a < 1."""
        return self.kind not in TOKEN_KINDS and (self.kind != "anneal" or self._is_constant)

    def set_fraction(self, a: float) -> None:
        """Set a, the share of the constant: 0 is a per-token norm, 1 is a constant."""
        a = require_number("anneal fraction", a, 0.0, most=1.0)
        if self.kind == "anneal" and a != self.anneal_fraction:
            self.anneal_fraction, self._is_constant = a, a == 1.0
            self.fraction.fill_(a)

    @torch.no_grad()
    def update(self, reduce=None) -> None:
        """Move the constants by what was seen since the last call; `reduce` averages over ranks."""
        if self._gathered is None:
            return
        mean = (self._gathered[:-1] / self._gathered[-1]).view(self.log_constant.shape)
        self._gathered = None
        if reduce is not None:
            reduce(mean)
        if self._is_constant:
            return
        self.log_constant.lerp_(mean.to(self.log_constant.dtype), RATE if self._has_moved else 1.0)
        self._has_moved = True
        self.steps.add_(1)

    def __getstate__(self):
        """For copies: without what the last forward pass left, which hangs on its graph."""
        return {**self.__dict__, "penalty": None, "_gathered": None}

    def _gather(self, statistics: Tensor) -> None:
        new = F.pad(statistics.flatten(), (0, 1), value=1.0)
        self._gathered = new if self._gathered is None else self._gathered + new

    def _aligned(self, constant: Tensor) -> Tensor:
        if constant.ndim == 1:
            return constant.view(-1, 1, 1) if self.groups > 1 else constant
        return constant[:, None, :] if self.groups > 1 else constant[0]

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        if self.kind in ("anneal", "batch"):
            self._has_moved = bool(self.steps)
        if self.kind == "anneal":
            self.anneal_fraction = float(self.fraction)
            self._is_constant = self.anneal_fraction == 1.0


def _log_rms(x: Tensor, axes: list[int], keepdim: bool = False) -> Tensor:
    """The logarithm of the root mean square over `axes`, in float32 at least."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return 0.5 * torch.log(wide.square().mean(axes, keepdim=keepdim) + EPS**2)


def joint_norm(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Both branches of a query (or key) divided by the root of their mean square together: two tensors (..., features).

    With N = (|q1|^2 + |q2|^2) / 2 the score (q1.k1)(q2.k2) becomes head_dim^2 (q1.k1)(q2.k2) / (N_q N_k), a ratio of
    polynomials of size at most head_dim^2, where two separate norms leave square roots.
    """
    scale = torch.rsqrt(0.5 * (first.square().mean(-1, keepdim=True) + second.square().mean(-1, keepdim=True)) + EPS)
    return first * scale, second * scale
