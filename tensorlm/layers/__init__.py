"""The layers of the book. Each states its polynomial degree, or that it has none."""

from tensorlm.layers.attention import Attention, Positions
from tensorlm.layers.costs import choose, multiply_adds, working_memory
from tensorlm.layers.init import init_weights
from tensorlm.layers.mlp import EncoderMLP, FullTensorMLP, GatedMLP, ProductMLP, SymmetricMLP, build_mlp, matched_hidden, mlp_parameters
from tensorlm.layers.norm import Norm
from tensorlm.layers.polynomial_attention import Pattern, attend, features

__all__ = [
    "Attention", "EncoderMLP", "FullTensorMLP", "GatedMLP", "Norm", "Pattern", "Positions", "ProductMLP", "SymmetricMLP",
    "attend", "build_mlp", "choose", "features", "init_weights", "matched_hidden", "mlp_parameters", "multiply_adds", "working_memory",
]
