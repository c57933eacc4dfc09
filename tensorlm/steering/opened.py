"""A polynomial model opened for exact accounts: in float64, its constant norms folded in; and the checks of what goes in."""

import copy

import torch
from torch import Tensor

from tensorlm.model import TensorTransformer
from tensorlm.tensors import CPTensor, from_dense
from tensorlm.tensors.checks import DTYPES, require_finite, require_instance

Positions = str | int | list[int] | tuple[int, ...] | Tensor


def opened(model: TensorTransformer) -> TensorTransformer:
    """A copy in float64 on the CPU for evaluation, every constant norm folded into the matrices; `model` itself if it is one already.

    Raises ValueError where a part is no polynomial (naming it) and where a weight is not finite, TypeError for half precision
    and for other classes.

    >>> from tensorlm.model import ModelConfig
    >>> opened(TensorTransformer(ModelConfig()))
    Traceback (most recent call last):
    ValueError: model must be a polynomial, but norm='rms' divides by each token's root mean square; choose norm='anneal' or 'none'
    (of a model like this only sweeps over strengths can be measured)
    """
    require_instance("model", model, TensorTransformer)
    degree = model.polynomial_degree()
    if degree.value is None:
        raise ValueError(f"model must be a polynomial, but {degree.reason} (of a model like this only sweeps over strengths can "
                         "be measured)")
    for name, weight in model.named_parameters():
        if weight.dtype not in DTYPES:
            raise TypeError(f"weights of model must be torch.float32 or torch.float64, got {weight.dtype} in {name}; exact accounts "
                            "need the digits that half precision lacks")
        require_finite(f"{name} of model", weight)
    annealed = any(site.kind == "anneal" for site in model.norm_sites())
    if not annealed and not model.training and all(_is_ready(weight) for weight in model.parameters()):
        return model
    wide = copy.deepcopy(model).double().cpu()
    return (wide.fold_norms() if annealed else wide).double().eval().requires_grad_(False)


def _is_ready(weight: Tensor) -> bool:
    return weight.dtype == torch.float64 and not weight.requires_grad and weight.device.type == "cpu"


def require_tokens(tokens: Tensor) -> Tensor:
    """Token ids (batch, time); one prompt (time,) gets its batch axis. Raises for anything else."""
    require_instance("tokens", tokens, Tensor)
    if tokens.ndim not in (1, 2) or tokens.dtype not in (torch.int64, torch.int32) or tokens.numel() == 0:
        raise ValueError(f"tokens must be whole numbers of shape (batch, time) or (time,), got {tokens.dtype} {tuple(tokens.shape)}")
    return tokens.unsqueeze(0) if tokens.ndim == 1 else tokens


def position_mask(positions: Positions, time: int) -> Tensor:
    """Positions as numbers 0 and 1, (time,) in float64. Raises ValueError for a position outside, TypeError for another kind.

    >>> position_mask([0, -1], 4)
    tensor([1., 0., 0., 1.], dtype=torch.float64)
    """
    if isinstance(positions, Tensor) and positions.dtype == torch.bool:
        if tuple(positions.shape) != (time,):
            raise ValueError(f"positions must be a mask of shape ({time},), got {tuple(positions.shape)}")
        return positions.double()
    if isinstance(positions, str) and positions == "all":
        return torch.ones(time, dtype=torch.float64)
    wanted = [positions] if isinstance(positions, int) and not isinstance(positions, bool) else positions
    if not isinstance(wanted, list | tuple) or any(not isinstance(p, int) or isinstance(p, bool) for p in wanted):
        raise TypeError(f"positions must be 'all', a whole number, a list of them or a mask of booleans, got {positions!r}")
    if not wanted or any(not -time <= p < time for p in wanted):
        raise ValueError(f"positions must lie in -{time} .. {time - 1} for {time} tokens, got {positions!r}")
    mask = torch.zeros(time, dtype=torch.float64)
    mask[wanted] = 1.0
    return mask


def require_layer(model: TensorTransformer, layer: int, most: int | None = None) -> None:
    """Raise unless `layer` is a whole number from 0 to `most` (the number of blocks: the stream before the head)."""
    most = len(model.blocks) if most is None else most
    if not isinstance(layer, int) or isinstance(layer, bool):
        raise TypeError(f"layer must be a whole number, got {layer!r}")
    if not 0 <= layer <= most:
        raise ValueError(f"layer must be from 0 to {most} in a model of {len(model.blocks)} blocks, got {layer}")


def require_vector(model: TensorTransformer, name: str, value: Tensor) -> Tensor:
    """The vector in float64; raises unless it is a finite tensor (width,)."""
    require_instance(name, value, Tensor)
    if tuple(value.shape) != (model.config.width,):
        raise ValueError(f"{name} must have shape ({model.config.width},), the width of the residual stream, got {tuple(value.shape)}")
    require_finite(name, value)
    return value.detach().double().cpu()


def layer_tensor(model: TensorTransformer, layer: int) -> CPTensor:
    """The MLP of block `layer` of an opened model in CP form; raises ValueError where there is none, or none of degree 2."""
    require_layer(model, layer, len(model.blocks) - 1)
    mlp = getattr(model.blocks[layer], "mlp", None)
    if mlp is None or mlp.degree != 2:
        found = "none" if mlp is None else f"kind {mlp.kind!r} of degree {mlp.degree}"
        raise ValueError(f"layer {layer} must have an MLP of degree 2, whose change is a self term and a cross term; it has {found}; "
                         "take the response to the strength instead")
    if mlp.kind == "full":
        return from_dense(mlp.T.detach().view(mlp.out, mlp.width, mlp.width))
    return CPTensor.from_layer(mlp)


def head_matrix(model: TensorTransformer) -> Tensor:
    """W of logits = W (stream before the head) of an opened model: (vocab, width)."""
    return model.unembed(torch.eye(model.config.width, dtype=torch.float64)).mT
