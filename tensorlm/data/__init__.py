"""Corpora with their tokenizers, splits and deterministic batches, and images of digits. Start at `load`."""

from tensorlm.data.digits import DigitData, load_digits, load_mnist
from tensorlm.data.source import TokenData, load, tuning_split
from tensorlm.data.toy.corpus import ToyBatch, ToyData, ToyLanguage, kl_by_rule, sample_documents

__all__ = [
    "DigitData", "TokenData", "ToyBatch", "ToyData", "ToyLanguage",
    "kl_by_rule", "load", "load_digits", "load_mnist", "sample_documents", "tuning_split",
]
