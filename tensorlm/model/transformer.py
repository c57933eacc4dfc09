"""The tensor-transformer: input table, residual blocks, head."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tensorlm.layers import Attention, Norm, build_mlp, init_weights
from tensorlm.layers.linear import project
from tensorlm.layers.norm import EPS
from tensorlm.model.config import ModelConfig
from tensorlm.model.degree import Degree, degree_of
from tensorlm.model.folding import fold_norms
from tensorlm.model.generation import generate

HEAD_PENALTY = 0.1  # weight of the final site in the norm-constancy penalty, the others have 1
GROUPS = ("matrix", "embedding", "bigram", "head", "scalar")


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); either may be absent.

    The first block reads the normed input directly, so its attention has no site of its own.
    """

    def __init__(self, config: ModelConfig, first: bool):
        super().__init__()
        if config.attention != "none":
            self.attention_norm = Norm("none" if first else config.norm, features=config.width)
            self.attention = Attention(config.attention, config.width, config.head_dim, config.context,
                                       config.positions, config.row_scale, config.qk_norm,
                                       "none" if first else config.value_residual)
        if config.mlp != "none":
            self.mlp_norm = Norm(config.norm, features=config.width)
            self.mlp = build_mlp(config.mlp, config.width, config.hidden or None, encoders=config.encoders)
        if config.shortcut == "learned" and not first:
            self.shortcut = nn.Parameter(torch.empty(2))

    def forward(self, x: Tensor, x0: Tensor, first_values: Tensor | None) -> tuple[Tensor, Tensor | None]:
        x, values = self.mix_shortcut(x, x0), None
        if hasattr(self, "attention"):
            z, values = self.attention(self.attention_norm(x), first_values)
            x = x + z
        return self.apply_mlp(x), values

    def mix_shortcut(self, x: Tensor, x0: Tensor) -> Tensor:
        if not hasattr(self, "shortcut"):
            return x
        mix = self.shortcut.to(x.dtype)
        return mix[0] * x + mix[1] * x0

    def apply_mlp(self, x: Tensor) -> Tensor:
        return x + self.mlp(self.mlp_norm(x)) if hasattr(self, "mlp") else x


class TensorTransformer(nn.Module):
    """A causal language model built from a `ModelConfig`; the same configuration and seed give the same weights.

    `model(tokens)` maps tokens (batch, time) to logits (batch, time, vocab_size). Parameters are float32 masters;
    `dtype` is the precision of the activations (None: that of the parameters). `time` may exceed config.context.
    Raises ValueError for tokens that are no whole numbers (batch, time) or lie on another device, and, on a CPU, for ids
    outside 0 .. vocab_size - 1 (looking at them on a GPU would make the host wait).
    With norm "anneal" (or "none"), no qk_norm "rms", attention bilinear or squared and a polynomial MLP, the logits at
    evaluation are one polynomial in the input rows: `polynomial_degree()`.

    >>> model = TensorTransformer(ModelConfig(norm="none"), seed=0)
    >>> model(torch.zeros(1, 10, dtype=torch.long)).shape, int(model.polynomial_degree())
    (torch.Size([1, 10, 65]), 100)
    """

    input_scale: Tensor

    def __init__(self, config: ModelConfig, seed: int = 0):
        super().__init__()
        self.config = config
        self.embedding = nn.Parameter(torch.empty(config.vocab_size, config.width))
        if config.bigram == "table":
            self.bigram = nn.Parameter(torch.empty((config.vocab_size + 1) * config.vocab_size, config.width))
        if config.smear == "learned":
            self.smear = nn.Parameter(torch.empty(1))
        self.input_site = Norm(config.norm, features=config.width)
        self.blocks = nn.ModuleList([Block(config, first=index == 0) for index in range(config.layers)])
        self.head_site = Norm(config.norm if config.head_norm == "same" else "none", 1, HEAD_PENALTY, config.width)
        if config.head == "untied":
            self.head = nn.Parameter(torch.empty(config.vocab_size, config.width))
        self.register_buffer("input_scale", torch.ones(()))
        init_weights(self, torch.Generator().manual_seed(seed), config.output_init)

    def forward(self, tokens: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        x = self.embed(tokens, dtype)
        x = self.input_site(self.shift_in(x))
        x0, first_values = x, None
        for block in self.blocks:
            x, values = block(x, x0, first_values)
            first_values = values if first_values is None else first_values
        return self.unembed(x)

    def embed(self, tokens: Tensor, dtype: torch.dtype | None = None, previous: Tensor | None = None) -> Tensor:
        """Input rows (batch, time, width): token row (+ bigram row), at unit RMS if input_norm is "rows".

        `previous` (batch, 1) is the token before the first one. Without it the first position takes the bigram row
        of "no token before", which has the number vocab_size.
        """
        self._check_tokens(tokens, dtype)
        x = F.embedding(tokens, self.embedding)
        if self.config.bigram == "table":
            first = torch.full_like(tokens[:, :1], self.config.vocab_size) if previous is None else previous
            pairs = torch.cat([first, tokens[:, :-1]], 1) * self.config.vocab_size + tokens
            x = x + F.embedding(pairs, self.bigram)
        if self.config.input_norm == "rows":
            x = F.rms_norm(x, x.shape[-1:], eps=EPS)
        return (x * self.input_scale).to(dtype or x.dtype)

    def shift_in(self, x: Tensor, before: Tensor | None = None) -> Tensor:
        """The smear: x_t + s x_(t-1), one learned s; `before` (batch, 1, width) stands before the first position."""
        if self.config.smear == "none":
            return x
        first = torch.zeros_like(x[:, :1]) if before is None else before
        return x + self.smear.to(x.dtype) * torch.cat([first, x[:, :-1]], 1)

    def unembed(self, x: Tensor) -> Tensor:
        """Logits from the residual stream."""
        x = self.head_site(x)
        if self.config.head == "tied":
            return project(x / math.sqrt(self.config.width), self.embedding)
        return project(x, self.head)

    def norm_sites(self) -> list[Norm]:
        return [module for module in self.modules() if isinstance(module, Norm)]

    def norm_penalty(self) -> Tensor:
        """Sum over annealed sites of weight * mean((r^2 / c^2 - 1)^2) in the last forward pass; 0 without such sites."""
        terms = [site.penalty_weight * site.penalty for site in self.norm_sites() if site.penalty is not None]
        return torch.stack(terms).sum() if terms else self.embedding.new_zeros(())

    def set_anneal(self, a: float) -> None:
        """Set the share of the constant in every annealed site: 0 a per-token norm, 1 a constant."""
        for site in self.norm_sites():
            site.set_fraction(a)

    def update_norms(self, reduce=None) -> None:
        """Once per optimiser step: move the running constants; `reduce(tensor)` averages in place over ranks."""
        for site in self.norm_sites():
            site.update(reduce)

    def anneal_fraction(self) -> float:
        return min((site.anneal_fraction for site in self.norm_sites() if site.kind == "anneal"), default=1.0)

    def fold_norms(self) -> "TensorTransformer":
        """A model with norm "none" and the same logits: the constants are folded into the matrices that follow."""
        return fold_norms(self)

    def polynomial_degree(self) -> Degree:
        """The degree of the logits in the input rows at evaluation, or why there is none."""
        return degree_of(self.config, self.anneal_fraction())

    def parameter_groups(self) -> dict[str, list[tuple[str, nn.Parameter]]]:
        """Named parameters by kind of optimiser: matrix (hidden, 2-D), embedding, bigram, head, scalar."""
        groups: dict[str, list[tuple[str, nn.Parameter]]] = {group: [] for group in GROUPS}
        for name, parameter in self.named_parameters():
            groups[_group_of(name, parameter)].append((name, parameter))
        return groups

    def parameter_count(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())

    def generate(self, prompt: Tensor, count: int, temperature: float = 1.0, top_k: int | None = None,
                 generator: torch.Generator | None = None) -> Tensor:
        """Continue `prompt` (batch, time) by `count` tokens; see `tensorlm.model.generation.generate`."""
        return generate(self, prompt, count, temperature, top_k, generator)

    def _load_from_state_dict(self, state_dict, prefix, *args):
        """A folded model's `input_scale` may be a number or one for each feature."""
        scale = state_dict.get(prefix + "input_scale")
        if scale is not None and tuple(scale.shape) in ((), (self.config.width,)):
            self.input_scale = self.input_scale.new_ones(scale.shape)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _check_tokens(self, tokens: Tensor, dtype: torch.dtype | None) -> None:
        kind = tokens.dtype if isinstance(tokens, Tensor) else type(tokens).__name__
        if kind not in (torch.int64, torch.int32) or tokens.ndim != 2 or tokens.shape[1] == 0:
            shape = tuple(getattr(tokens, "shape", ()))
            raise ValueError(f"tokens must be whole numbers of shape (batch, time), time > 0; got {kind} {shape}")
        if tokens.device != self.embedding.device:
            raise ValueError(f"tokens must be on the model's device, {self.embedding.device}; got them on {tokens.device}")
        if dtype is not None and not dtype.is_floating_point:
            raise ValueError(f"dtype must be a floating-point dtype or None, got {dtype}")
        if tokens.device.type == "cpu" and tokens.numel() and not torch.compiler.is_compiling():
            low, high = (int(end) for end in tokens.aminmax())
            if low < 0 or high >= self.config.vocab_size:
                raise ValueError(f"tokens must lie in 0 .. {self.config.vocab_size - 1}, the rows of the embedding; got {low} to {high}")


def _group_of(name: str, parameter: nn.Parameter) -> str:
    if name in ("embedding", "bigram", "head"):
        return name
    last = name.split(".")[-1]
    if last in ("toeplitz", "smear", "shortcut", "value_mix", "gain"):
        return "scalar"
    if parameter.ndim == 2:
        return "matrix"
    raise ValueError(f"no optimiser group for parameter {name!r} of shape {tuple(parameter.shape)}")
