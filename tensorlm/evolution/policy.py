"""A small polynomial language model as a policy: it finishes texts, a reward judges them, and its weights are changed.

Two ways on the same reward and as many texts: evolution (`evolve` on `Policy.returns`: noise on the weights) and the policy
gradient (noise on the words: REINFORCE, Williams, 1992, with advantages within a group of texts of one prompt, Shao et al., 2024).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vmap

from tensorlm.checks import require, require_last_axis, require_number, require_whole
from tensorlm.layers.norm import EPS
from tensorlm.model import TensorTransformer
from tensorlm.model.transformer import Stream

Reward = Callable[[Tensor], Tensor]  # texts (..., length) of token ids to rewards (...)


class _Walk(nn.Module):
    """The model from token ids on, without the checks that a batch of models cannot pass."""

    def __init__(self, model: TensorTransformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        rows = F.embedding(tokens, self.model.embedding)
        if self.model.config.input_norm == "rows":
            rows = F.rms_norm(rows, rows.shape[-1:], eps=EPS)
        rows = rows * self.model.input_scale
        return self.model.unembed(self.model.run(Stream(rows, rows)).x)


@dataclass(frozen=True)
class Texts:
    """What a policy is asked: to continue each of `prompts` (prompts, time) by `words`, `samples` times for each prompt."""

    prompts: Tensor
    words: int = 10
    samples: int = 1

    def __post_init__(self) -> None:
        require(isinstance(self.prompts, Tensor) and self.prompts.ndim == 2, "prompts", self.prompts, "token ids (prompts, time)")
        require_whole("words", self.words, 1)
        require_whole("samples", self.samples, 1)

    def repeated(self) -> Tensor:
        """Each prompt `samples` times, those of one prompt side by side: (prompts * samples, time)."""
        return self.prompts.repeat_interleave(self.samples, 0)


class Policy:
    """A model whose weights are one vector; a batch of vectors (N, n) is a batch of models.

    `model` is a `TensorTransformer` without bigram table and smear; it is not changed. Raises ValueError for one with such parts.
    """

    def __init__(self, model: TensorTransformer) -> None:
        for part in ("bigram", "smear"):
            found = getattr(model.config, part)
            require(found == "none", f"{part} of the model", found, "'none' (a policy reads token rows alone)")
        self.model, self._walk = model.eval(), _Walk(model)
        self._shapes = {name: value.shape for name, value in self._walk.named_parameters()}
        self.start = torch.cat([value.detach().flatten() for value in self._walk.parameters()])

    def _weights(self, points: Tensor) -> dict[str, Tensor]:
        require_last_axis("points", points, len(self.start))
        parts = points.split([shape.numel() for shape in self._shapes.values()], -1)
        return {name: part.reshape(*points.shape[:-1], *shape) for (name, shape), part in zip(self._shapes.items(), parts)}

    def logits(self, points: Tensor, tokens: Tensor) -> Tensor:
        """Logits (N, texts, time, vocabulary) of models (N, n) on their own texts (N, texts, time)."""
        return vmap(partial(functional_call, self._walk))(self._weights(points), tokens)

    @torch.no_grad()
    def write(self, points: Tensor, texts: Texts, generator: torch.Generator | None = None) -> Tensor:
        """Texts (N, prompts * samples, time + words) of models (N, n): sampled, or without a generator the likeliest words."""
        tokens = texts.repeated().expand(len(points), -1, -1)
        for _ in range(texts.words):
            scores = self.logits(points, tokens)[..., -1, :]
            if generator is not None:  # the largest of log p + Gumbel noise is a sample of p
                scores = scores.log_softmax(-1) - torch.empty_like(scores).exponential_(generator=generator).log()
            tokens = torch.cat([tokens, scores.argmax(-1, keepdim=True)], -1)
        return tokens

    def returns(self, reward: Reward, texts: Texts, generator: torch.Generator) -> Callable[[Tensor], Tensor]:
        """The function that `evolve` climbs: points (N, n) to the mean reward of the texts that each writes, (N,)."""
        return lambda points: reward(self.write(points, texts, generator)).mean(-1).to(points.dtype)

    def log_probabilities(self, point: Tensor, tokens: Tensor, words: int) -> Tensor:
        """log p (texts, words, vocabulary) at the last `words` places of texts (texts, time), for one model (n,)."""
        return functional_call(self._walk, self._weights(point), (tokens[:, :-1],))[:, -words:].log_softmax(-1)

    @torch.no_grad()
    def divergence(self, point: Tensor, tokens: Tensor, words: int, base: Tensor | None = None) -> float:
        """KL(point || base) in nats a word, exact at each of the last `words` places of texts that `point` wrote; base None: the start."""
        mine, other = (self.log_probabilities(each, tokens, words) for each in (point, self.start if base is None else base))
        return (mine.exp() * (mine - other)).sum(-1).mean().item()


class Ascent(NamedTuple):
    """Where the policy gradient went: `path` (steps + 1, n), the texts' `mean` rewards (steps,)."""

    path: Tensor
    mean: Tensor


def policy_gradient(policy: Policy, reward: Reward, texts: Texts, steps: int, rate: float, penalty: float = 0.0, seed: int = 0,
                    start: Tensor | None = None) -> Ascent:
    """Climb the mean reward by Adam of step `rate` on the log probabilities of sampled words, `texts.samples` for each prompt.

    A text's advantage is its reward less the mean of its prompt's texts, by their deviation (0 where all are equal). `penalty` times
    the exact KL to the start (nats a word) is taken off. Raises ValueError for fewer than two samples a prompt.
    """
    require(texts.samples > 1, "samples of texts", texts.samples, "at least 2, to compare the texts of one prompt")
    require_whole("steps", steps, 0)
    require_number("rate", rate, above=0)
    require_number("penalty", penalty, least=0)
    generator = torch.Generator().manual_seed(seed)
    point = (policy.start if start is None else start).clone().requires_grad_()
    optimiser, path, mean = torch.optim.Adam([point], rate), [point.detach().clone()], []
    for _ in range(steps):
        tokens = policy.write(point.detach()[None], texts, generator)[0]
        rewards = reward(tokens).to(point.dtype)
        log_p = policy.log_probabilities(point, tokens, texts.words)
        chosen = log_p.gather(-1, tokens[:, -texts.words:, None])[..., 0].sum(-1)
        with torch.no_grad():
            base = policy.log_probabilities(policy.start, tokens, texts.words) if penalty else log_p
        drift = (log_p.exp() * (log_p - base)).sum(-1).mean()
        optimiser.zero_grad()
        (penalty * drift - (advantages(rewards, texts.samples) * chosen).mean()).backward()
        optimiser.step()
        path.append(point.detach().clone())
        mean.append(rewards.mean())
    return Ascent(torch.stack(path), torch.stack(mean) if mean else policy.start.new_empty(0))


def advantages(rewards: Tensor, samples: int) -> Tensor:
    """Rewards (prompts * samples,) less their prompt's mean, by its deviation; 0 where all of a prompt are equal."""
    groups = rewards.reshape(-1, samples)
    centred = groups - groups.mean(1, keepdim=True)
    deviation = centred.pow(2).mean(1, keepdim=True).sqrt()
    return torch.where(deviation > 0, centred / deviation.clamp(min=torch.finfo(rewards.dtype).tiny), 0.0).flatten()
