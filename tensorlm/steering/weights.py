"""What a steering vector does to a bilinear MLP, from the weights alone: the self term, and the cross term with all it can meet.

    f(x + a s) - f(x) = 2a B(s, x) + a^2 f(s),    x = row of the token + sum of coefficient * direction that a layer writes

B is bilinear, so the cross term is a sum of 2B(s, d) over the directions d in x, and every one of them is a fact of the
weights: the rows of *all* tokens, the columns of D, the outputs of heads. What the weights cannot say is which token stands
there and with which coefficients the directions occur; `tensorlm.steering.context` measures that part. The polar form B is
elementary; reading a bilinear layer off its weights is Pearce et al. arXiv 2410.08417, the lens on the direct path is the logit lens.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from tensorlm.model import TensorTransformer
from tensorlm.steering.checks import require_block, require_vector
from tensorlm.steering.opened import head_matrix, layer_tensor, opened
from tensorlm.steering.runs import Part, coefficients
from tensorlm.steering.tables import Names, Table, largest, name_of, promoted
from tensorlm.steering.writers import Writer, token_rows, writers
from tensorlm.tensors import CPTensor
from tensorlm.tensors.checks import require_finite, require_instance, require_last_axis
from tensorlm.tensors.scaling import length
from tensorlm.tensors.ties import ranks, settled


@dataclass(frozen=True, eq=False)
class WeightsAlone:
    """A vector s as it arrives at the MLP of a block, with everything the weights say of it. Made by `weights_alone`.

    `tensor` is the MLP (D, L, R), `vector` s (width,), `rows` the tokens (vocab, width), `writers` the directions of the layers
    below, `head` the unembedding (vocab, width). Effects are changes of the stream; `logits` sends one straight to the head,
    which is its *direct path* only: what later layers make of it is not in it.
    """

    tensor: CPTensor
    vector: Tensor
    rows: Tensor
    writers: tuple[Writer, ...]
    head: Tensor

    @cached_property
    def self_term(self) -> Tensor:
        """f(s), (width,): at strength a it enters as a^2 f(s), whatever the text."""
        return self.tensor(self.vector)

    @cached_property
    def map(self) -> Tensor:
        """The matrix of 2B(s, .), (width, width): the cross term is a times it times x. It is the Jacobian of f at s."""
        return self.tensor.jacobian(self.vector)

    @cached_property
    def token_cross(self) -> Tensor:
        """2B(s, row of t) for every token t: (vocab, width)."""
        return self.rows @ self.map.mT

    def writer_cross(self, writer: Writer) -> Tensor:
        """2B(s, d) for every direction of a writer: (n, width)."""
        return writer.directions @ self.map.mT

    def logits(self, effect: Tensor) -> Tensor:
        """The direct path of a change of the stream to the logits: (..., width) -> (..., vocab)."""
        require_instance("effect", effect, Tensor)
        require_last_axis("effect", effect, self.head.shape[-1])
        return effect.double() @ self.head.mT

    def tokens_table(self, names: Names = None, count: int = 10, readout: Tensor | None = None) -> Table:
        """The tokens whose presence makes s push hardest at strength 1: size of 2B(s, row), and the tokens it promotes.

        At strength -1 the same row promotes what it now demotes: only the self term keeps its sign.
        With `readout` (width,), such as a difference of unembeddings, they are ranked by readout . 2B(s, row), shown with its sign.
        """
        return self._table("token", self.token_cross, [name_of(names, t) for t in range(len(self.rows))], names, count, readout)

    def writers_table(self, names: Names = None, count: int = 10, readout: Tensor | None = None) -> Table:
        """The same over all directions that layers below can write, at their gauge-free size (`tensorlm.steering.writers`)."""
        if not self.writers:
            raise ValueError("no layer writes into the stream before this MLP")
        labels = [f"{writer.part} {name}" for writer in self.writers for name in writer.names]
        return self._table("direction", torch.cat([self.writer_cross(writer) for writer in self.writers]), labels, names, count, readout)

    def spectrum(self) -> "MapSpectrum":
        """Singular value decomposition and eigenvalues of `map`, in the order and with the signs of `tensorlm.tensors.ties`."""
        left, values, right = torch.linalg.svd(self.map)
        inputs, found = settled(values, right), torch.linalg.eigvals(self.map)
        keys = torch.stack([ranks(part, 1e-9) for part in (found.abs(), found.real, found.imag)])
        order = (keys * keys.new_tensor([[len(found) ** 2], [len(found)], [1]])).sum(0).argsort()
        return MapSpectrum(values, inputs, inputs @ right.mT @ left.mT, found[order])

    def expected(self, probabilities: Tensor) -> "Expected":
        """Mean and covariance of 2B(s, row of t) when the token t at the position is drawn with these probabilities (vocab,).

        Linear in the row, so it is `map` applied to the mean row, and map C map^T of the covariance C of the rows.
        """
        weights = _distribution(probabilities, len(self.rows))
        mean = weights @ self.rows
        centred = self.rows - mean
        return Expected(self.map @ mean, self.map @ (centred.mT * weights) @ centred @ self.map.mT, mean)

    def _table(self, first: str, effects: Tensor, labels: list[str], names: Names, count: int, readout: Tensor | None) -> Table:
        pushes = None if readout is None else effects @ require_vector(effects.shape[-1], "readout", readout)
        size = length(effects) if pushes is None else pushes
        rows = []
        for index in largest(size, count):
            logits = self.logits(effects[index])
            rows.append((labels[index], size[index].item(), promoted(logits, names), promoted(logits, names, demoted=True)))
        return Table((first, "size" if readout is None else "push", "promotes", "demotes"), tuple(rows))


@dataclass(frozen=True, eq=False)
class MapSpectrum:
    """2B(s, .) = sum_r values_r outputs_r inputs_r^T: values (r,) descending, inputs and outputs (r, width) orthonormal rows.

    `eigenvalues` (width,) are complex, by falling size: the matrix is not symmetric.
    """

    values: Tensor
    inputs: Tensor
    outputs: Tensor
    eigenvalues: Tensor

    def rank(self, share: float = 0.99) -> int:
        """The fewest directions that hold this share of the squared Frobenius norm."""
        if not 0 < share <= 1:
            raise ValueError(f"share must lie above 0 and at most at 1, got {share!r}")
        mass = (self.values / self.values.max().clamp_min(torch.finfo(self.values.dtype).tiny)).square().cumsum(0)
        return int((mass < share * mass[-1] * (1 - 1e-12)).sum()) + 1


@dataclass(frozen=True, eq=False)
class Expected:
    """Mean (width,) and covariance (width, width) of the cross term over a distribution of tokens, and their mean row (width,)."""

    mean: Tensor
    covariance: Tensor
    mean_row: Tensor

    def along(self, readout: Tensor) -> tuple[float, float]:
        """Mean and standard deviation of readout . 2B(s, row)."""
        readout = require_vector(len(self.mean), "readout", readout)
        return (readout @ self.mean).item(), (readout @ self.covariance @ readout).clamp_min(0).sqrt().item()


def weights_alone(model: TensorTransformer, vector: Tensor, layer: int, previous: int | None = None) -> WeightsAlone:
    """What the weights say of `vector`, added to the stream that enters block `layer`, at that block's MLP.

    `previous` picks the rows of a bigram table (`writers.token_rows`). Constant norms are folded in. Raises ValueError for a
    layer without MLP of degree 2, a vector of another width, a model with parts that are no polynomial.

    >>> from tensorlm.model import ModelConfig
    >>> report = weights_alone(TensorTransformer(ModelConfig(norm="none", output_init="normal")), torch.ones(64), layer=1)
    >>> report.token_cross.shape, len(report.tokens_table(count=3))
    (torch.Size([65, 64]), 3)
    >>> torch.allclose(report.map @ report.vector, 2 * report.self_term)
    True
    """
    model = opened(model)
    require_block(model, layer)
    arrives = coefficients(model, layer, layer, middle=True)[Part("vector")]
    vector = arrives * require_vector(model, "vector", vector)
    tensor = layer_tensor(model, layer)
    require_finite("f(vector)", tensor(vector))
    return WeightsAlone(tensor, vector, token_rows(model, layer, previous), writers(model, layer), head_matrix(model))


def self_table(report: WeightsAlone, names: Names = None, count: int = 10) -> Table:
    """What f(s) promotes and what it demotes on the direct path: logits less their mean, at strength 1."""
    logits = report.logits(report.self_term)
    centred = logits - logits.mean()
    return Table(("token", "logit"), tuple((name_of(names, index), centred[index].item()) for index in largest(centred, count)))


def _distribution(probabilities: Tensor, size: int) -> Tensor:
    require_instance("probabilities", probabilities, Tensor)
    weights = probabilities.double()
    if tuple(weights.shape) != (size,) or not bool((weights >= 0).all()) or abs(weights.sum().item() - 1) > 1e-6:
        raise ValueError(f"probabilities must be ({size},), at least 0 and of sum 1, got shape {tuple(weights.shape)} and sum "
                         f"{weights.sum().item():.6g}")
    return weights
