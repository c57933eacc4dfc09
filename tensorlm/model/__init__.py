"""The tensor-transformer and its ordinary relatives, from one frozen configuration."""

from tensorlm.model.compositionality import Compositionality, compositionality
from tensorlm.model.config import PRESETS, ModelConfig, preset
from tensorlm.model.degree import Degree
from tensorlm.model.transformer import TensorTransformer

__all__ = ["Compositionality", "Degree", "ModelConfig", "PRESETS", "TensorTransformer", "compositionality", "preset"]
