"""The tensor-transformer and its ordinary relatives, from one frozen configuration."""

from tensorlm.model.compositionality import compositionality
from tensorlm.model.config import ModelConfig, preset
from tensorlm.model.transformer import Stream, TensorTransformer

__all__ = ["ModelConfig", "Stream", "TensorTransformer", "compositionality", "preset"]
