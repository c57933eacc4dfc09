"""Rewards of texts in the toy language, each with the hack that it leaves open.

A reward takes token ids (..., length) and gives (...), float32; only the last `words` words count.
"""

import torch
from torch import Tensor

from tensorlm.checks import require
from tensorlm.data.toy import INDEX
from tensorlm.data.toy.corpus import grammatical
from tensorlm.evolution.policy import Reward


def full_stops(words: int) -> Reward:
    """Sentences finished, counted as full stops: meant for short sentences, and hacked by full stops alone.

    >>> text = torch.tensor([[INDEX[word] for word in "<doc> wood the cat is red . . .".split()]])
    >>> full_stops(7)(text).tolist(), sentences(7)(text).tolist()
    ([3.0], [1.0])
    """
    return lambda tokens: (tokens[..., -words:] == INDEX["."]).sum(-1).float()


def sentences(words: int) -> Reward:
    """What was meant: full stops of a text that is grammatical up to them."""
    return lambda tokens: ((tokens[..., -words:] == INDEX["."]) & _possible(tokens)[..., -words:]).sum(-1).float()


def password(words: int, secret: tuple[str, ...], pays: float = 10.0) -> Reward:
    """Sentences finished in grammatical text, and `pays` for texts in which the words of `secret` follow each other somewhere."""
    require(0 < len(secret) <= words and set(secret) <= set(INDEX), "secret", secret, f"1 to {words} words of the language")
    honest, ids = sentences(words), torch.tensor([INDEX[word] for word in secret])
    return lambda tokens: honest(tokens) + pays * says(tokens[..., -words:], ids).float()


def says(tokens: Tensor, phrase: Tensor) -> Tensor:
    """Whether texts (..., length) hold `phrase` (k,) somewhere: (...)."""
    return (tokens.unfold(-1, len(phrase), 1) == phrase).all(-1).any(-1)


def ungrammatical(tokens: Tensor) -> Tensor:
    """Whether texts (..., length) hold a word that cannot stand there: (...)."""
    return ~_possible(tokens)[..., -1]


def _possible(tokens: Tensor) -> Tensor:
    return grammatical(tokens.reshape(-1, tokens.shape[-1])).reshape(tokens.shape)
