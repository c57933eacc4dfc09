"""A toy language with an exact distribution: its grammar, the corpus drawn from it, and prompts with known answers."""

from tensorlm.data.toy.corpus import ToyData
from tensorlm.data.toy.language import INDEX, PLURAL, SINGULAR, WORDS
from tensorlm.data.toy.prompts import agreement_prompts, bigram_prompts, skip_prompts

__all__ = ["INDEX", "PLURAL", "SINGULAR", "ToyData", "WORDS", "agreement_prompts", "bigram_prompts", "skip_prompts"]
