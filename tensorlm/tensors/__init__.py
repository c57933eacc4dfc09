"""Tensors of bilinear layers: pure functions on their factors, from the CP form of one layer to whole networks.

No module here trains anything or knows of text. Everything takes float32 or float64 on any device and works from
the factors; a dense tensor is built only where it is asked for and small.
"""

from tensorlm.tensors.als import CPFit, cp_als
from tensorlm.tensors.attention import head_output, head_tensor, head_weights
from tensorlm.tensors.composition import ComposedTensor, Tree, compose, tree_distance, tree_norm
from tensorlm.tensors.cp import (
    CPTensor,
    from_dense,
    lift,
    square_form,
    symmetrised,
    with_constant,
    with_input_bias,
    with_output_bias,
    with_residual,
)
from tensorlm.tensors.gauges import canonical, permute, rescale, swap
from tensorlm.tensors.hosvd import Tucker, hosvd
from tensorlm.tensors.odt import ODT, odt
from tensorlm.tensors.rational import (
    RationalBlock,
    RationalRay,
    RationalStack,
    along,
    copy_tensor,
    cubic_tensor,
    final_norm,
    rational_misfit,
    rational_scores,
    remaining_root,
)
from tensorlm.tensors.similarity import cosine, distance, gaussian_inner, inner, norm, same_function
from tensorlm.tensors.spectral import LayerHOSVD, Spectrum, eigen, interaction, layer_hosvd
from tensorlm.tensors.symmetry import (
    counterexample,
    function_cosine,
    function_inner,
    function_inner_sampled,
    network_cosine,
    network_inner,
    symmetrise,
    tree_permutations,
)

__all__ = [
    "CPTensor",
    "canonical", "permute", "rescale", "swap",
    "from_dense", "lift", "square_form", "symmetrised", "with_constant", "with_input_bias", "with_output_bias", "with_residual",
    "cosine", "distance", "gaussian_inner", "inner", "norm", "same_function",
    "LayerHOSVD", "Spectrum", "eigen", "interaction", "layer_hosvd",
    "ComposedTensor", "Tree", "compose", "tree_distance", "tree_norm",
    "CPFit", "ODT", "Tucker", "cp_als", "hosvd", "odt",
    "counterexample", "function_cosine", "function_inner", "function_inner_sampled", "network_cosine", "network_inner",
    "symmetrise", "tree_permutations",
    "head_output", "head_tensor", "head_weights",
    "RationalBlock", "RationalRay", "RationalStack", "along", "copy_tensor", "cubic_tensor", "final_norm", "rational_misfit",
    "rational_scores", "remaining_root",
]
