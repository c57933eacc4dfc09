"""Corpora with their tokenizers, splits and deterministic batches. Start at `load`."""

from .source import TokenData, load

__all__ = ["TokenData", "load"]
