"""The peer of `time_to_loss` and `gpu`: a GPT-2 style model and nanoGPT's two documented recipes, written afresh.

karpathy/nanoGPT, README: `CPU` is "I only have a macbook" (no dropout, float32, not compiled; validation every 250 iterations on 20
random batches of each split), `GPU` is "I have a GPU", `config/train_shakespeare_char.py` (dropout 0.2, bfloat16, compiled; every 250
iterations 200 batches). Both: AdamW at 1e-3 falling on a cosine to 1e-4, 100 steps of warm-up, betas (0.9, 0.99), weight decay 0.1 on
matrices, gradient clip 1.0; weights N(0, 0.02), residual projections N(0, 0.02 / sqrt(2 layers)), no biases, tied head.
"""

import math
import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tensorlm.training import evaluate

PEAK, FLOOR, WARMUP, DECAY, CLIP = 1e-3, 1e-4, 100, 0.1, 1.0
EVALUATE_EVERY = 250


@dataclass(frozen=True)
class Recipe:
    layers: int
    heads: int
    width: int
    context: int
    batch: int
    iterations: int
    dropout: float
    evaluate_batches: int
    documented: float  # nats per character, the best validation loss that its README states


CPU = Recipe(layers=4, heads=4, width=128, context=64, batch=12, iterations=2000, dropout=0.0, evaluate_batches=20, documented=1.88)
GPU = Recipe(layers=6, heads=6, width=384, context=256, batch=64, iterations=5000, dropout=0.2, evaluate_batches=200, documented=1.4697)


class Layer(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)), with LayerNorm gains and GELU."""

    def __init__(self, recipe: Recipe):
        super().__init__()
        width, self.heads, self.dropout = recipe.width, recipe.heads, recipe.dropout
        self.norm1, self.norm2 = nn.LayerNorm(width, bias=False), nn.LayerNorm(width, bias=False)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(self.norm1(x)).chunk(3, -1))
        z = F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout if self.training else 0.0, is_causal=True)
        x = x + self._drop(self.out(z.transpose(1, 2).flatten(-2)))
        return x + self._drop(self.down(F.gelu(self.up(self.norm2(x)))))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training) if self.dropout else x


class GPT2(nn.Module):
    """Learned positions, tied head."""

    def __init__(self, vocab_size: int, recipe: Recipe = CPU):
        super().__init__()
        self.dropout = recipe.dropout
        self.tokens, self.places = nn.Embedding(vocab_size, recipe.width), nn.Embedding(recipe.context, recipe.width)
        self.layers = nn.ModuleList([Layer(recipe) for _ in range(recipe.layers)])
        self.norm = nn.LayerNorm(recipe.width, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                last = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(parameter, 0.0, 0.02 / math.sqrt(2 * recipe.layers) if last else 0.02)

    def forward(self, tokens: Tensor, dtype=None) -> Tensor:
        x = self.tokens(tokens) + self.places.weight[: tokens.shape[1]]
        x = F.dropout(x, self.dropout, self.training) if self.dropout else x
        for layer in self.layers:
            x = layer(x)
        return F.linear(self.norm(x), self.tokens.weight)


class Run:
    """Training by a recipe; `losses` has (iteration, seconds, validation loss) for each of its own evaluations.

    `tokens`, `valid`: 1-D token sequences. Seconds are CPU-seconds on a CPU and wall seconds on a GPU, of the loop without evaluations.
    Those are the recipe's own, on random batches, or with `windows` (n, context + 1) the float32 mean over all of them.
    """

    def __init__(self, recipe: Recipe, tokens: Tensor, valid: Tensor, vocab_size: int, seed: int, device: str = "cpu",
                 compiled: bool = False, windows: Tensor | None = None):
        torch.manual_seed(seed)
        self.recipe, self.device = recipe, torch.device(device)
        self.splits = tokens.to(self.device), valid.to(self.device)
        self.model = GPT2(vocab_size, recipe).to(self.device)
        self.forward = torch.compile(self.model, dynamic=False) if compiled else self.model
        self.optimizer = _optimizer(self.model)
        self.half = torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda")
        self.windows = windows
        self.seconds = 0.0
        self.losses: list[tuple[int, float, float]] = []

    def train(self, iterations: int | None = None) -> "Run":
        total = iterations or self.recipe.iterations
        for first in range(0, total, EVALUATE_EVERY):
            self._evaluate(first)
            started = self._clock()
            for iteration in range(first, min(first + EVALUATE_EVERY, total)):
                for group in self.optimizer.param_groups:
                    group["lr"] = _rate(iteration, self.recipe)
                self.step()
            self.seconds += self._clock() - started
        self._evaluate(total)
        return self

    def step(self) -> None:
        loss = self._loss(0)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()

    def _loss(self, split: int) -> Tensor:
        batch = _batch(self.splits[split], self.recipe)
        with self.half:
            return F.cross_entropy(self.forward(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())

    def _evaluate(self, iteration: int) -> None:
        loss = self._estimate() if self.windows is None else evaluate(self.model, self.windows, batch_size=self.recipe.batch)
        self.losses.append((iteration, self.seconds, loss))

    @torch.no_grad()
    def _estimate(self) -> float:
        self.model.eval()
        count = self.recipe.evaluate_batches
        losses = [torch.stack([self._loss(split) for _ in range(count)]).mean().item() for split in (0, 1)]
        self.model.train()
        return losses[1]

    def _clock(self) -> float:
        if self.device.type == "cpu":
            return time.process_time()
        torch.cuda.synchronize(self.device)
        return time.perf_counter()


def _optimizer(model: nn.Module) -> torch.optim.Optimizer:
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    gains = [p for p in model.parameters() if p.ndim < 2]
    groups = [dict(params=matrices, weight_decay=DECAY), dict(params=gains, weight_decay=0.0)]
    return torch.optim.AdamW(groups, lr=PEAK, betas=(0.9, 0.99), fused=matrices[0].device.type == "cuda")


def _rate(iteration: int, recipe: Recipe) -> float:
    if iteration < WARMUP:
        return PEAK * (iteration + 1) / (WARMUP + 1)
    share = (iteration - WARMUP) / (recipe.iterations - WARMUP)
    return FLOOR + 0.5 * (1 + math.cos(math.pi * share)) * (PEAK - FLOOR)


def _batch(tokens: Tensor, recipe: Recipe) -> Tensor:
    starts = torch.randint(len(tokens) - recipe.context, (recipe.batch, 1)).to(tokens.device, non_blocking=True)
    return tokens[starts + torch.arange(recipe.context + 1, device=tokens.device)]
