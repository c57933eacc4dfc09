"""The tensor-transformer: input table, residual blocks, head."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from tensorlm.checks import require_one_of
from tensorlm.layers import Attention, Norm, build_mlp, init_weights
from tensorlm.layers.mlp import MLP
from tensorlm.layers.norm import EPS
from tensorlm.layers.state import AttentionState, attention_step
from tensorlm.model.config import Degree, ModelConfig, degree_of
from tensorlm.model.generation import ModelState, generate

HEAD_PENALTY = 0.1  # weight of the final site in the norm-constancy penalty, the others have 1


class Stream(NamedTuple):
    """The residual stream where a block reads it, with what later blocks read again; made by `TensorTransformer.run`.

    x and x0 (batch, time, width): the stream and the input rows; `first_values`: those of the first attention; `blocks`:
    what each block computed, if it was recorded.
    """

    x: Tensor
    x0: Tensor
    first_values: Tensor | None = None
    blocks: tuple["BlockRun", ...] = ()


class BlockRun(NamedTuple):
    """The activations of one block: streams and outputs (batch, time, width); without attention the last four are empty.

    queries and keys as they meet (of squared attention the same branch twice) and values mixed: (batch, heads, time, head_dim); weights
    (batch, heads, time, time) sum the values. resid_mid = resid_pre + attention, resid_post = resid_mid + mlp.
    """

    resid_pre: Tensor
    attention: Tensor
    resid_mid: Tensor
    mlp: Tensor
    queries: tuple[Tensor, ...] = ()
    keys: tuple[Tensor, ...] = ()
    values: Tensor | None = None
    weights: Tensor | None = None

    @property
    def resid_post(self) -> Tensor:
        return self.resid_mid + self.mlp


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); either may be None. The first attention reads the normed input."""

    attention: Attention | None
    mlp: MLP | None
    shortcut: nn.Parameter | None

    def __init__(self, config: ModelConfig, first: bool):
        super().__init__()
        self.attention = self.mlp = self.shortcut = None
        if config.attention != "none":
            self.attention_norm = Norm("none" if first else config.norm, features=config.width)
            self.attention = Attention(config.attention, config.width, config.head_dim, config.context, config.positions,
                                       config.row_scale, config.qk_norm, "none" if first else config.value_residual)
        if config.mlp != "none":
            self.mlp_norm = Norm(config.norm, features=config.width)
            self.mlp = build_mlp(config.mlp, config.width, config.hidden or None, encoders=config.encoders)
        if config.shortcut == "learned" and not first:
            self.shortcut = nn.Parameter(torch.empty(2))

    def forward(self, x: Tensor, x0: Tensor, first_values: Tensor | None, state: AttentionState | None = None,
                record: bool = False) -> tuple[Tensor, Tensor | None, BlockRun | None]:
        """The stream that leaves the block, the values of its attention, and with `record` all that was computed."""
        values, seen, kept, z = None, None, (), torch.zeros_like(x) if record else x
        if self.shortcut is not None:
            mix = self.shortcut.to(x.dtype)
            x = mix[0] * x + mix[1] * x0
        mid = x
        if self.attention is not None:
            normed = self.attention_norm(x)
            if record:
                z, values, kept = self.attention.recorded(normed, first_values)
            elif state is None:
                z, values = self.attention(normed, first_values)
            else:
                z, values = attention_step(self.attention, normed, state, first_values)
            mid = x + z
        written = None if self.mlp is None else self.mlp(self.mlp_norm(mid))
        if record:
            seen = BlockRun(x, z, mid, torch.zeros_like(x) if written is None else written, *kept)
        return mid if written is None else mid + written, values, seen


class TensorTransformer(nn.Module):
    """A causal language model built from a `ModelConfig`; the same configuration and seed give the same weights.

    `model(tokens)` maps tokens (batch, time) to logits (batch, time, vocab_size). Parameters are float32 masters; `dtype` is
    the precision of the activations (None: that of the parameters). `time` may exceed config.context. Raises ValueError for
    tokens that are no whole numbers (batch, time) or lie on another device, and, on a CPU, for ids outside 0 .. vocab_size -
    1. The logits may be one polynomial in the input rows: `polynomial_degree()`.

    >>> model = TensorTransformer(ModelConfig(norm="none"), seed=0)
    >>> model(torch.zeros(1, 10, dtype=torch.long)).shape, int(model.polynomial_degree())
    (torch.Size([1, 10, 65]), 100)
    """

    input_scale: Tensor
    blocks: Sequence[Block]

    def __init__(self, config: ModelConfig, seed: int = 0):
        super().__init__()
        self.config = config
        self.embedding = nn.Parameter(torch.empty(config.vocab_size, config.width))
        if config.bigram == "table":
            self.bigram = nn.Parameter(torch.empty((config.vocab_size + 1) * config.vocab_size, config.width))
        if config.smear == "learned":
            self.smear = nn.Parameter(torch.empty(1))
        self.input_site = Norm(config.norm, features=config.width)
        self.blocks = nn.ModuleList([Block(config, index == 0) for index in range(config.layers)])  # type: ignore[assignment]
        self.head_site = Norm(config.norm if config.head_norm == "same" else "none", 1, HEAD_PENALTY, config.width)
        if config.head == "untied":
            self.head = nn.Parameter(torch.empty(config.vocab_size, config.width))
        self.register_buffer("input_scale", torch.ones(()))
        init_weights(self, torch.Generator().manual_seed(seed), config.output_init)

    def forward(self, tokens: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        return self.unembed(self.run(tokens, dtype=dtype).x)

    def run(self, tokens: Tensor | Stream, start: int = 0, stop: int | None = None, add: dict[int, Tensor] | None = None,
            record: bool = False, state: ModelState | None = None, dtype: torch.dtype | None = None) -> Stream:
        """The blocks from `start` to before `stop` (None: all), on token ids (batch, time) or the stream that enters them.

        The only walk through the model: forward pass, generation and steered runs call it. `add` maps the number of a block
        to rows (..., time, width) added to the stream as it enters that block (at `stop`: as it leaves); at block 0 the
        input rows that shortcuts read again change with it. `record` keeps what each block computed in `blocks`. `state`
        carries the past of a text that comes token by token and is changed.

        >>> model = TensorTransformer(ModelConfig(norm="none"), seed=0)
        >>> stream = model.run(torch.zeros(1, 10, dtype=torch.long), record=True)
        >>> stream.x.shape, [block.weights.shape for block in stream.blocks]
        (torch.Size([1, 10, 64]), [torch.Size([1, 4, 10, 10]), torch.Size([1, 4, 10, 10])])
        """
        x, x0, first_values, seen = tokens if isinstance(tokens, Stream) else self.enter(tokens, dtype, state)
        stop, blocks = len(self.blocks) if stop is None else stop, list(seen)
        for layer in range(start, stop):
            if add is not None and layer in add:
                x = x + add[layer]
                x0 = x if layer == 0 else x0
            x, values, found = self.blocks[layer](x, x0, first_values, None if state is None else state.layers[layer], record)
            first_values = values if first_values is None else first_values
            if record:
                blocks.append(found)
        if add is not None and stop in add:
            x = x + add[stop]
            x0 = x if stop == 0 else x0
        return Stream(x, x0, first_values, tuple(blocks))

    def enter(self, tokens: Tensor, dtype: torch.dtype | None = None, state: ModelState | None = None) -> Stream:
        """The stream that enters the first block: input rows, mixed with the one before (smear), normed."""
        rows = self.embed(tokens, dtype, None if state is None else state.last_token)
        x = self.input_site(self.shift_in(rows, None if state is None else state.last_row))
        if state is not None:
            state.last_token, state.last_row = tokens[:, -1:], rows[:, -1:]
        return Stream(x, x)

    def shift_in(self, x: Tensor, before: Tensor | None = None) -> Tensor:
        """The smear: x_t + s x_(t-1), one learned s; `before` (batch, 1, width) stands before the first position."""
        if self.config.smear == "none":
            return x
        first = torch.zeros_like(x[:, :1]) if before is None else before
        return x + self.smear.to(x.dtype) * torch.cat([first, x[:, :-1]], 1)

    def embed(self, tokens: Tensor, dtype: torch.dtype | None = None, previous: Tensor | None = None) -> Tensor:
        """Input rows (batch, time, width): token row (+ bigram row), at unit RMS if input_norm is "rows"."""
        self._check_tokens(tokens, dtype)
        x = F.embedding(tokens, self.embedding)
        if self.config.bigram == "table":
            first = torch.full_like(tokens[:, :1], self.config.vocab_size) if previous is None else previous
            pairs = torch.cat([first, tokens[:, :-1]], 1) * self.config.vocab_size + tokens
            x = x + F.embedding(pairs, self.bigram)
        if self.config.input_norm == "rows":
            x = F.rms_norm(x, x.shape[-1:], eps=EPS)
        return (x * self.input_scale).to(dtype or x.dtype)

    def unembed(self, x: Tensor) -> Tensor:
        x = self.head_site(x)
        if self.config.head == "tied":
            return F.linear(x / math.sqrt(self.config.width), self.embedding.to(x.dtype))
        return F.linear(x, self.head.to(x.dtype))

    def head_matrix(self) -> Tensor:
        """W of logits = W (stream before the head): (vocab_size, width), a constant norm before it included."""
        bare = self.embedding / math.sqrt(self.config.width) if self.config.head == "tied" else self.head
        return (bare * self.head_site.factor() if self.head_site.is_constant else bare).detach()

    def norm_sites(self) -> list[Norm]:
        return [module for module in self.modules() if isinstance(module, Norm)]

    def norm_penalty(self) -> Tensor:
        """Sum over annealed sites of weight * mean((r^2 / c^2 - 1)^2) in the last forward pass."""
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
        """The smallest share of the constant in an annealed site; 1 without such sites."""
        return min((site.anneal_fraction for site in self.norm_sites() if site.kind == "anneal"), default=1.0)

    @torch.no_grad()
    def with_fading_norms(self, tokens: Tensor) -> "TensorTransformer":
        """A copy, at evaluation, whose norms can fade (`set_anneal`): the constant of each is the mean of its r over `tokens`.

        The mean is geometric, as in training with norm="anneal"; at a = 0 the copy gives the logits of this model. Raises
        ValueError unless norm is "rms" and qk_norm "rms" or "none".

        >>> model = TensorTransformer(ModelConfig(), seed=0).eval()
        >>> tokens = torch.arange(24).reshape(2, 12)
        >>> copy = model.with_fading_norms(tokens)
        >>> torch.allclose(copy(tokens), model(tokens), rtol=1e-3, atol=1e-5)
        True
        """
        require_one_of("norm", self.config.norm, ("rms",))
        require_one_of("qk_norm", self.config.qk_norm, ("rms", "none"))
        qk_norm = "anneal" if self.config.qk_norm == "rms" else "none"
        copy = type(self)(replace(self.config, norm="anneal", qk_norm=qk_norm)).to(self.embedding)
        copy.load_state_dict({**copy.state_dict(), **self.state_dict()})
        copy.train()(tokens)
        copy.update_norms()
        return copy.eval()

    @torch.no_grad()
    def fold_norms(self) -> "TensorTransformer":
        """A copy with norm and qk_norm "none" and the same logits: the matrices that read a site take its constant over.

        Raises ValueError unless every site is a constant at evaluation, and for a tied head.
        """
        if unsettled := sorted({site.kind for site in self.norm_sites() if not site.is_constant}):
            raise ValueError("only constant norm sites can be folded: train with norm='anneal' until the fraction is 1 "
                             f"(now {self.anneal_fraction():.2f}; sites of kinds {unsettled} are none)")
        if self.config.head == "tied":
            raise ValueError("fold_norms needs an untied head: a tied one shares its matrix with the input table")
        folded = type(self)(replace(self.config, norm="none", qk_norm="none")).to(self.embedding)
        folded.load_state_dict({name: tensor for name, tensor in self.state_dict().items() if name in folded.state_dict()})
        folded.input_scale = self.input_scale * self.input_site.factor().squeeze()
        for old, new in zip(self.blocks, folded.blocks):
            if old.attention is not None:
                _fold_attention(old.attention, new.attention, old.attention_norm.factor().squeeze())
            if new.mlp is not None:
                new.mlp.scale_input(old.mlp_norm.factor().squeeze())
        folded.head.mul_(self.head_site.factor().squeeze())
        return folded.train(self.training)

    def polynomial_degree(self) -> Degree:
        """The degree of the logits in the input rows at evaluation, or why there is none."""
        return degree_of(self.config, self.anneal_fraction())

    def parameter_groups(self) -> dict[str, list[tuple[str, nn.Parameter]]]:
        """Named parameters by kind of optimiser: matrix (hidden, 2-D), embedding, bigram, head, scalar."""
        groups: dict[str, list[tuple[str, nn.Parameter]]] = {group: [] for group in ("matrix", "embedding", "bigram", "head", "scalar")}
        for name, parameter in self.named_parameters():
            if name in ("embedding", "bigram", "head"):
                group = name
            elif name.split(".")[-1] in ("toeplitz", "smear", "shortcut", "value_mix", "gain"):
                group = "scalar"
            elif parameter.ndim == 2:
                group = "matrix"
            else:
                raise ValueError(f"no optimiser group for parameter {name!r} of shape {tuple(parameter.shape)}")
            groups[group].append((name, parameter))
        return groups

    def parameter_count(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())

    def empty_state(self) -> ModelState:
        return ModelState([AttentionState() for _ in self.blocks])

    def step(self, token: Tensor, state: ModelState) -> Tensor:
        """Logits (batch, vocab_size) after one more token (batch, 1); changes `state`."""
        return self.unembed(self.run(token, state=state).x)[:, -1]

    generate = generate

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
            low, high = map(int, tokens.aminmax())
            if low < 0 or high >= self.config.vocab_size:
                raise ValueError(f"tokens must lie in 0 .. {self.config.vocab_size - 1}, the rows of the embedding; got {low} to {high}")


def _fold_attention(old, new, scale: Tensor) -> None:
    """`scale` is a number or one for each column; the constants of q and k go into the rows."""
    for name, site in zip((*old.query_names, *old.key_names), old.qk_norms):
        weight = getattr(new, name).mul_(scale)
        factor = site.factor() if site.factor().ndim == 2 else site.factor()[:, None]
        weight.mul_(rearrange(factor.expand(old.heads, old.head_dim), "head dim -> (head dim) 1").to(weight))
    new.v.mul_(scale)
