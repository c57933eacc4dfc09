"""The peer of `time_to_loss`: a GPT-2 style model and the recipe of nanoGPT's documented CPU run, written afresh.

Recipe (karpathy/nanoGPT, README, "I only have a macbook"): 4 layers, 4 heads, width 128, context 64, batch 12,
2,000 iterations, no dropout, no biases, float32, no compilation, validation every 250 iterations on 20 random batches
of each split. AdamW at 1e-3 falling on a cosine to 1e-4, 100 steps of warm-up, betas (0.9, 0.99), weight decay 0.1 on
matrices, gradient clip 1.0; weights N(0, 0.02), residual projections N(0, 0.02 / sqrt(2 layers)), tied head.
"""

import math
import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ITERATIONS, BATCH, CONTEXT, WIDTH, LAYERS, HEADS = 2000, 12, 64, 128, 4, 4
PEAK, FLOOR, WARMUP, DECAY, CLIP = 1e-3, 1e-4, 100, 0.1, 1.0
EVALUATE_EVERY, EVALUATE_BATCHES = 250, 20


class Layer(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)), with LayerNorm gains and GELU."""

    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH, bias=False), nn.LayerNorm(WIDTH, bias=False)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH, bias=False), nn.Linear(4 * WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in self.qkv(self.norm1(x)).chunk(3, -1))
        z = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(z.transpose(1, 2).flatten(-2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class GPT2(nn.Module):
    """Learned positions, tied head."""

    def __init__(self, vocab_size: int):
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocab_size, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.layers = nn.ModuleList([Layer() for _ in range(LAYERS)])
        self.norm = nn.LayerNorm(WIDTH, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                last = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(parameter, 0.0, 0.02 / math.sqrt(2 * LAYERS) if last else 0.02)

    def forward(self, tokens: Tensor, dtype=None) -> Tensor:
        x = self.tokens(tokens) + self.places.weight[: tokens.shape[1]]
        for layer in self.layers:
            x = layer(x)
        return F.linear(self.norm(x), self.tokens.weight)


def train_baseline(tokens: Tensor, valid: Tensor, vocab_size: int, seed: int, iterations: int = ITERATIONS):
    """Train; returns (model, CPU-seconds in the loop without evaluations). `tokens`, `valid`: 1-D token sequences."""
    torch.manual_seed(seed)
    model = GPT2(vocab_size)
    optimizer = _optimizer(model)
    loop = 0.0
    for iteration in range(iterations):
        if iteration % EVALUATE_EVERY == 0:
            _estimate(model, (tokens, valid))
        started = time.process_time()
        for group in optimizer.param_groups:
            group["lr"] = _rate(iteration)
        loss = _loss(model, _batch(tokens))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        loop += time.process_time() - started
    _estimate(model, (tokens, valid))
    return model, loop


def _optimizer(model: nn.Module) -> torch.optim.Optimizer:
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    gains = [p for p in model.parameters() if p.ndim < 2]
    groups = [dict(params=matrices, weight_decay=DECAY), dict(params=gains, weight_decay=0.0)]
    return torch.optim.AdamW(groups, lr=PEAK, betas=(0.9, 0.99))


def _rate(iteration: int) -> float:
    if iteration < WARMUP:
        return PEAK * (iteration + 1) / (WARMUP + 1)
    share = (iteration - WARMUP) / (ITERATIONS - WARMUP)
    return FLOOR + 0.5 * (1 + math.cos(math.pi * share)) * (PEAK - FLOOR)


def _batch(tokens: Tensor) -> Tensor:
    starts = torch.randint(len(tokens) - CONTEXT, (BATCH,)).tolist()
    return torch.stack([tokens[start : start + CONTEXT + 1] for start in starts])


def _loss(model: nn.Module, batch: Tensor) -> Tensor:
    return F.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())


@torch.no_grad()
def _estimate(model: nn.Module, splits: tuple[Tensor, ...]) -> list[float]:
    model.eval()
    losses = [sum(_loss(model, _batch(split)).item() for _ in range(EVALUATE_BATCHES)) for split in splits]
    model.train()
    return [loss / EVALUATE_BATCHES for loss in losses]
