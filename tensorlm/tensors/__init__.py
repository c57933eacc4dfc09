"""Tensors of bilinear layers: pure functions on their factors, from the CP form of one layer to whole networks.

Everything takes float32 or float64 on any device; a dense tensor is built only where it is asked for and small.
"""

from tensorlm.tensors.als import cp_als
from tensorlm.tensors.attention import head_output, head_tensor, head_weights
from tensorlm.tensors.composition import compose
from tensorlm.tensors.cp import CPTensor, lift
from tensorlm.tensors.hosvd import hosvd
from tensorlm.tensors.odt import odt
from tensorlm.tensors.rational import RationalBlock, RationalStack, cubic_tensor, rational_misfit, rational_scores, remaining_root
from tensorlm.tensors.similarity import function_cosine, function_inner, network_cosine, same_function, symmetrise
from tensorlm.tensors.spectral import eigen, interaction, layer_hosvd

__all__ = [
    "CPTensor", "lift", "same_function", "eigen", "interaction", "layer_hosvd", "head_output", "head_tensor", "head_weights",
    "compose", "cp_als", "hosvd", "odt", "function_cosine", "function_inner", "network_cosine",
    "symmetrise", "RationalBlock", "RationalStack", "cubic_tensor", "rational_misfit", "rational_scores", "remaining_root",
]
