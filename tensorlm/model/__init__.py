"""The tensor-transformer and its ordinary relatives, from one frozen configuration."""

from tensorlm.model.compositionality import Compositionality, compositionality
from tensorlm.model.config import PRESETS, Degree, ModelConfig, preset
from tensorlm.model.transformer import BlockRun, Stream, TensorTransformer

__all__ = ["BlockRun", "Compositionality", "Degree", "ModelConfig", "PRESETS", "Stream", "TensorTransformer", "compositionality", "preset"]
