"""Corpora with their tokenizers, splits and deterministic batches, and images of digits. Start at `load`."""

from tensorlm.data.digits import load_digits
from tensorlm.data.shakespeare import HELD_OUT
from tensorlm.data.source import TokenData, load

__all__ = ["HELD_OUT", "TokenData", "load", "load_digits"]
