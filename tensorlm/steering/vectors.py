"""Steering vectors: from texts, from the unembedding, from the embedding, from an eigenvector, and random ones to compare with.

All are vectors of the residual stream, (width,) in float64. They work for every `TensorTransformer`, polynomial or not, except
`eigenvector`, which needs a layer of degree 2.
"""

import torch
from torch import Tensor

from tensorlm.model import TensorTransformer
from tensorlm.steering.checks import Positions, position_mask, require_layer, require_token, require_tokens, require_vector, require_whole
from tensorlm.steering.opened import Steerable, head_matrix, layer_tensor, opened
from tensorlm.tensors import eigen
from tensorlm.tensors.checks import require_finite, require_same_kind
from tensorlm.tensors.scaling import exponents, length, shifted
from tensorlm.tensors.ties import upward


@torch.no_grad()
def stream(model: TensorTransformer | Steerable, tokens: Tensor, layer: int) -> Tensor:
    """The residual stream that enters block `layer` (number of blocks: before the head), (batch, time, width) in float64.

    >>> from tensorlm.model import ModelConfig
    >>> stream(TensorTransformer(ModelConfig()), torch.tensor([[1, 2, 3]]), layer=2).shape
    torch.Size([1, 3, 64])
    """
    steerable = Steerable.of(model)
    require_layer(steerable.model, layer)
    return steerable.enter(require_tokens(steerable.model, tokens), layer)[0]


def mean_difference(model: TensorTransformer, tokens: Tensor, others: Tensor, layer: int, positions: Positions = "all") -> Tensor:
    """Mean stream over `others` less mean stream over `tokens`, at `positions` ("all", one, several, a mask): from the first to the second.

    Shapes: tokens and others (batch, time) -> (width,); with one position it is the mean over texts there. Raises ValueError
    for a layer or position that is none, and where the two sets have the same mean.

    >>> from tensorlm.model import ModelConfig
    >>> model = TensorTransformer(ModelConfig(norm="none"))
    >>> s = mean_difference(model, torch.tensor([[1, 2, 3]]), torch.tensor([[1, 2, 4]]), layer=0, positions=-1)
    >>> torch.allclose(s, embedding_difference(model, [3], [4]))
    True
    """
    steerable = Steerable.of(model)
    means = [_mean_over(stream(steerable, part, layer), positions) for part in (tokens, others)]
    return _not_zero("the two sets have the same mean stream at these positions", means[1] - means[0])


@torch.no_grad()
def embedding_difference(model: TensorTransformer, words: list[int], others: list[int]) -> Tensor:
    """Mean input row of the tokens `others` less that of `words`: rows as they enter block 0, normed and scaled, without smear.

    With a bigram table, rows as at the start of a text. This vector knows nothing but weights.
    """
    wide = Steerable.of(model).model
    means = [wide.input_site(wide.embed(_tokens(wide, name, part)[:, None])).mean((0, 1))
             for name, part in (("words", words), ("others", others))]
    return _not_zero("the two sets of words have the same mean row", means[1] - means[0])


@torch.no_grad()
def unembedding_difference(model: TensorTransformer, token: int, other: int) -> Tensor:
    """Row of the head for `other` less that for `token`, as the last stream meets it: also the read-out of logit(other) - logit(token).

    A constant norm before the head is folded in; a norm of each token ("rms", "anneal" in training) is not: there it is a direction only.

    >>> from tensorlm.model import ModelConfig
    >>> model = TensorTransformer(ModelConfig(norm="none", output_init="normal"))
    >>> w, x = unembedding_difference(model, 3, 7), stream(model, torch.tensor([[1, 2]]), 2)[0, -1]
    >>> logits = model.double()(torch.tensor([[1, 2]]))[0, -1]
    >>> torch.allclose(w @ x, logits[7] - logits[3])
    True
    """
    wide = Steerable.of(model).model
    for name, one in (("token", token), ("other", other)):
        require_token(wide, name, one)
    head = head_matrix(wide)
    return _not_zero("the two tokens have the same row of the head", head[other] - head[token])


def eigenvector(model: TensorTransformer, layer: int, readout: Tensor, index: int = 0) -> Tensor:
    """Unit eigenvector number `index` (largest |eigenvalue| first) of the quadratic form readout . f of the MLP of block `layer`.

    A quadratic form cannot tell v from -v, and of +-lambda which comes first: `tensorlm.tensors.ties` says. Raises ValueError for a
    layer without MLP of degree 2 and an index that is none.
    """
    model = opened(model)
    cp = layer_tensor(model, layer)
    vectors = eigen(cp, require_vector(model, "readout", readout)).vectors[0]
    if require_whole("index", index) >= len(vectors):
        raise ValueError(f"index must be from 0 to {len(vectors) - 1}, got {index!r}")
    return upward(vectors[index])


def random_like(vector: Tensor, count: int, seed: int = 0) -> Tensor:
    """`count` random directions, each as long as `vector`: (count, width). The control that every claim about a vector needs.

    >>> torch.linalg.vector_norm(random_like(torch.tensor([3.0, 4.0]), 2), dim=-1)
    tensor([5., 5.], dtype=torch.float64)
    """
    require_same_kind(vector=vector)
    if vector.ndim != 1 or vector.numel() == 0:
        raise ValueError(f"vector must have one axis, got shape {tuple(vector.shape)}")
    require_finite("vector", vector)
    require_whole("count", count, 1)
    require_whole("seed", seed)
    noise = torch.randn(count, len(vector), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return noise / torch.linalg.vector_norm(noise, dim=-1, keepdim=True) * length(vector.double())


def unit(vectors: Tensor) -> Tensor:
    """Vectors along the last axis at length 1; zeros stay zero."""
    return torch.nn.functional.normalize(shifted(vectors, -exponents(vectors, -1)), dim=-1)


def _mean_over(x: Tensor, positions) -> Tensor:
    mask = position_mask(positions, x.shape[1])
    return torch.einsum("btw,t->w", x, mask) / (mask.sum() * len(x))


def _tokens(model: TensorTransformer, name: str, tokens: list[int]) -> Tensor:
    if not isinstance(tokens, list | tuple) or not tokens:
        raise ValueError(f"{name} must be a list of at least one token, got {tokens!r}")
    return torch.tensor([require_token(model, f"{name}: each", token) for token in tokens])


def _not_zero(reason: str, vector: Tensor) -> Tensor:
    require_finite("the vector", vector)
    if not bool(vector.any()):
        raise ValueError(f"{reason}: their difference is no vector to steer with")
    return vector
