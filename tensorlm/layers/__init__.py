"""The layers of the book. Each states its polynomial degree, or that it has none."""

from tensorlm.layers.attention import ATTENTION_KINDS, Attention
from tensorlm.layers.full_tensor import FullTensorMLP, SymmetricMLP
from tensorlm.layers.init import init_weights
from tensorlm.layers.mlp import MLP_KINDS, EncoderMLP, GatedMLP, ProductMLP, build_mlp, matched_hidden, mlp_parameters
from tensorlm.layers.norm import NORM_KINDS, Norm
from tensorlm.layers.polynomial_attention import (
    ALGORITHMS,
    attend,
    choose,
    features,
    fused_obstacle,
    multiply_adds,
    quadratic,
    recurrent,
    row_blocks,
    working_memory,
)
from tensorlm.layers.positions import POSITIONS, ROW_SCALES, Pattern, Positions

__all__ = [
    "ATTENTION_KINDS", "Attention", "EncoderMLP", "FullTensorMLP", "GatedMLP", "MLP_KINDS", "NORM_KINDS", "Norm",
    "POSITIONS", "Positions", "ProductMLP", "ROW_SCALES", "SymmetricMLP", "build_mlp", "init_weights",
    "matched_hidden", "mlp_parameters",
    "ALGORITHMS", "Pattern", "attend", "choose", "features", "fused_obstacle", "multiply_adds", "quadratic", "recurrent", "row_blocks",
    "working_memory",
]
