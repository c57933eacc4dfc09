"""Models made ready for exact accounts: in float64 on the CPU, of any kind (`Steerable`) or as a folded polynomial (`opened`)."""

import copy
import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from tensorlm.model import Degree, TensorTransformer
from tensorlm.steering.checks import require_block
from tensorlm.tensors import CPTensor, from_dense
from tensorlm.tensors.checks import DTYPES, require_finite, require_instance


@dataclass(frozen=True, eq=False)
class Steerable:
    """A copy of a model in float64 on the CPU, in evaluation mode and without gradients: made once, steered often.

    Unlike `opened` it takes every kind of model. Raises TypeError for half precision (its rounding would be all that the
    differences show) and for other classes, ValueError where a weight is not finite.

    >>> from tensorlm.model import ModelConfig
    >>> Steerable.of(TensorTransformer(ModelConfig()).bfloat16())
    Traceback (most recent call last):
    TypeError: weights of model must be torch.float32 or torch.float64, got torch.bfloat16 in embedding; load or convert it in float32
    """

    model: TensorTransformer

    @classmethod
    def of(cls, model: "TensorTransformer | Steerable") -> "Steerable":
        if isinstance(model, Steerable):
            return model
        require_instance("model", model, TensorTransformer)
        _require_weights(model)
        return cls(copy.deepcopy(model).to("cpu", torch.float64).eval().requires_grad_(False))

    @cached_property
    def blocks(self) -> list:
        return list(self.model.blocks)

    @property
    def layers(self) -> int:
        return len(self.blocks)

    @cached_property
    def degree(self) -> Degree:
        """Of the whole model in its input rows, or why there is none."""
        return self.model.polynomial_degree()

    @cached_property
    def anneal_fraction(self) -> float:
        return self.model.anneal_fraction()

    @cached_property
    def first_alike(self) -> Tensor:
        """For every token the first one with the same row of the head, bit for bit: (vocab,)."""
        rows = np.ascontiguousarray((head_matrix(self.model) + 0.0).numpy())  # -0.0 becomes 0.0
        _, first, which = np.unique(rows.view(f"V{rows.itemsize * rows.shape[1]}").ravel(), return_index=True, return_inverse=True)
        return torch.from_numpy(first[which])

    def even(self, logits: Tensor) -> Tensor:
        """Logits (..., vocab), equal to the last bit where rows of the head are: products of matrices round columns in their own ways."""
        first = self.first_alike
        return logits if len(first.unique()) == len(first) else logits[..., first]

    def obstacle(self, layer: int) -> str:
        """Why the logits are no polynomial in the stream before block `layer`; "" if they are one."""
        if layer < self.layers:
            return self.degree.reason if self.degree.value is None else ""
        kind = self.model.head_site.kind
        if kind == "anneal" and self.anneal_fraction < 1.0:
            return "norm='anneal' is still in part a per-token norm before the head"
        return "norm='rms' before the head divides by the root mean square" if kind == "rms" else ""

    @property
    def has_attention(self) -> bool:
        return self.model.config.attention != "none"

    def enter(self, tokens: Tensor, layer: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """The unsteered stream (batch, time, width) before block `layer`, the input rows, and the first layer's values (None before it)."""
        x = self.model.input_site(self.model.shift_in(self.model.embed(tokens)))
        x0, first_values = x, None
        for block in self.blocks[:layer]:
            x, values = block(x, x0, first_values)
            first_values = values if first_values is None else first_values
        return x, x0, first_values


def opened(model: TensorTransformer | Steerable) -> TensorTransformer:
    """A copy in float64 on the CPU for evaluation, every constant norm folded into the matrices; `model` itself if it is one already.

    A tied head gets a matrix of its own where the norm before it has to be folded in. Raises ValueError where a part is no
    polynomial (naming it) and where a weight is not finite, TypeError for half precision and for other classes.

    >>> from tensorlm.model import ModelConfig
    >>> opened(TensorTransformer(ModelConfig()))
    Traceback (most recent call last):
    ValueError: model must be a polynomial, but norm='rms' divides by each token's root mean square; choose norm='anneal' or 'none'
    (of a model like this, steering_response measures sweeps over strengths)
    """
    model = model.model if isinstance(model, Steerable) else model
    require_instance("model", model, TensorTransformer)
    degree = model.polynomial_degree()
    if degree.value is None:
        raise ValueError(f"model must be a polynomial, but {degree.reason} (of a model like this, steering_response "
                         "measures sweeps over strengths)")
    _require_weights(model)
    has_norms = any(site.kind != "none" for site in model.norm_sites())
    if not has_norms and not model.training and all(_is_ready(weight) for weight in model.parameters()):
        return model
    wide = Steerable.of(model).model
    return _untied(wide).fold_norms().double().eval().requires_grad_(False) if has_norms else wide


def _untied(model: TensorTransformer) -> TensorTransformer:
    """The same function with a head of its own, which `fold_norms` needs."""
    if model.config.head == "untied":
        return model
    untied = TensorTransformer(replace(model.config, head="untied")).double().eval()
    untied.load_state_dict(model.state_dict() | {"head": model.embedding / math.sqrt(model.config.width)})
    return untied


def _require_weights(model: TensorTransformer) -> None:
    for name, weight in (*model.named_parameters(), *model.named_buffers()):
        if not weight.is_floating_point():
            continue
        if weight.dtype not in DTYPES:
            raise TypeError(f"weights of model must be torch.float32 or torch.float64, got {weight.dtype} in {name}; load or convert "
                            "it in float32")
        require_finite(f"{name} of model", weight)


def _is_ready(weight: Tensor) -> bool:
    return weight.dtype == torch.float64 and not weight.requires_grad and weight.device.type == "cpu"


def layer_tensor(model: TensorTransformer, layer: int) -> CPTensor:
    """The MLP of block `layer` of an opened model in CP form; raises ValueError where there is none, or none of degree 2."""
    require_block(model, layer)
    mlp = getattr(model.blocks[layer], "mlp", None)
    if mlp is None or mlp.degree != 2:
        found = "none" if mlp is None else f"kind {mlp.kind!r} of degree {mlp.degree}"
        raise ValueError(f"layer {layer} must have an MLP of degree 2, whose change is a self term and a cross term; it has {found}; "
                         "take the response to the strength instead")
    if mlp.kind == "full":
        return from_dense(mlp.T.detach().view(mlp.out, mlp.width, mlp.width))
    if mlp.kind == "symmetric":
        return from_dense(mlp.tensor().detach())
    return CPTensor.from_layer(mlp)


def head_matrix(model: TensorTransformer) -> Tensor:
    """W of logits = W (stream before the head): (vocab, width). A constant norm before the head is in it, one of each token is not."""
    bare = model.embedding / math.sqrt(model.config.width) if model.config.head == "tied" else model.head
    site = model.head_site
    per_token = site.kind == "rms" or (site.kind == "anneal" and site.anneal_fraction < 1.0)
    return (bare if per_token else bare * site.factor()).detach()
