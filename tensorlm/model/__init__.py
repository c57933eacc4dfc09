"""The tensor-transformer and its ordinary relatives, from one frozen configuration."""

from tensorlm.model.config import PRESETS, ModelConfig, preset
from tensorlm.model.degree import Degree
from tensorlm.model.transformer import TensorTransformer

__all__ = ["Degree", "ModelConfig", "PRESETS", "TensorTransformer", "preset"]
