"""What a steering vector does to a bilinear MLP, from the weights alone: the self term, and the cross term with all it can meet.

    f(x + a s) - f(x) = 2a B(s, x) + a^2 f(s),    x = row of the token + sum of coefficient * direction that a layer writes

B is bilinear, so the cross term is a sum of 2B(s, d) over the directions d in x, and every one of them is a fact of the
weights: the rows of *all* tokens, the columns of D, the outputs of heads. What the weights cannot say is which token stands
there and with which coefficients the directions occur; `tensorlm.steering.weights` measures that part. The polar form B is
elementary; reading a bilinear layer off its weights is Pearce et al. arXiv 2410.08417, the lens on the direct path is the logit lens.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from tensorlm.checks import require_finite, require_instance, require_last_axis, require_number, require_whole
from tensorlm.model import TensorTransformer
from tensorlm.scaling import length
from tensorlm.steering.comparison import Part, coefficients, run
from tensorlm.steering.prepare import layer_tensor, opened, require_block, require_position, require_token, require_tokens, require_vector
from tensorlm.tables import Names, Table, largest, name_of, promoted
from tensorlm.tensors import CPTensor
from tensorlm.ties import by_value, ranks, settled


@dataclass(frozen=True, eq=False)
class Writer:
    """A part of the model, the directions (n, width) that it can add to the stream as they arrive, and a name for each."""

    part: Part
    directions: Tensor
    names: tuple[str, ...]


def writers(model: TensorTransformer, layer: int) -> tuple[Writer, ...]:
    """All attention up to and with block `layer`, all MLPs of degree 2 below it, as the MLP of block `layer` meets them.

    >>> from tensorlm.model import ModelConfig
    >>> found = writers(TensorTransformer(ModelConfig(norm="none"), seed=0), layer=1)
    >>> [(str(writer.part), tuple(writer.directions.shape)) for writer in found]
    [('attention 0', (64, 64)), ('mlp 0', (128, 64)), ('attention 1', (64, 64))]
    """
    model = opened(model)
    require_block(model, layer)
    arriving = coefficients(model, layer, middle=True)
    return tuple(_writer(model, part, factor) for part, factor in arriving.items() if part.kind != "embedding")


def token_rows(model: TensorTransformer, layer: int = 0, previous: int | None = None) -> Tensor:
    """What every token adds to the stream before the MLP of block `layer` at its own position: (vocab, width).

    Row norm, input scale and learned shortcuts are in it. A smear adds the same row, times the learned number, at the next
    position: `smear_factor`. With a bigram table a row belongs to a pair of tokens: those after `previous`, or at the start of
    a text. Raises ValueError for a layer or token that is none.
    """
    model = opened(model)
    require_block(model, layer)
    size = model.config.vocab_size
    before = None if previous is None else torch.full((size, 1), require_token(model, "previous", previous))
    rows = model.embed(torch.arange(size)[:, None], previous=before)[:, 0]
    return coefficients(model, layer, middle=True)[Part("embedding")] * rows


def smear_factor(model: TensorTransformer) -> float:
    """With which factor a token's row also stands at the next position: the learned smear, or 0."""
    return float(model.smear) if model.config.smear == "learned" else 0.0


def output_matrices(model: TensorTransformer, layer: int) -> Tensor:
    """o_h v_h of every head: (heads, width, width), with the layer's own share of a value residual.

    A vector s at a position that a head reads with weight P adds P o_h v_h s at the reading position.
    """
    attention = _attention(opened(model), layer)
    mix = attention.value_mix[0] if attention.value_mix is not None else 1.0
    return mix * _outputs(attention) @ _values(attention)


def _writer(model: TensorTransformer, part: Part, factor: float) -> Writer:
    layer = part.layer or 0
    if part.kind == "attention":
        directions, names = _head_directions(model, layer), "head {} direction {}"
        return Writer(part, factor * directions.flatten(0, 1),
                      tuple(names.format(head, index) for head in range(len(directions)) for index in range(directions.shape[1])))
    cp = layer_tensor(model, layer)
    sizes = torch.linalg.vector_norm(cp.L, dim=1) * torch.linalg.vector_norm(cp.R, dim=1)
    return Writer(part, factor * (cp.D * sizes).mT, tuple(f"unit {unit}" for unit in range(cp.hidden)))


def _head_directions(model: TensorTransformer, layer: int) -> Tensor:
    """Left singular vectors of what each head can write, times singular values, peak upwards: (heads, head_dim, width)."""
    attention = _attention(model, layer)
    values = [output_matrices(model, layer)]
    if attention.value_mix is not None:
        values.append(attention.value_mix[1] * _outputs(attention) @ _values(_attention(model, 0)))
    left, sizes, _ = torch.linalg.svd(torch.cat(values, dim=-1), full_matrices=False)
    return (settled(sizes, left.mT) * sizes[..., None])[:, : attention.head_dim]


def _attention(model: TensorTransformer, layer: int) -> Any:
    require_block(model, layer)
    attention = getattr(model.blocks[layer], "attention", None)
    if attention is None:
        raise ValueError(f"layer {layer} must have attention, this model has none")
    return attention


def _outputs(attention) -> Tensor:
    return attention.o.view(attention.width, attention.heads, attention.head_dim).transpose(0, 1)


def _values(attention) -> Tensor:
    return attention.v.view(attention.heads, attention.head_dim, attention.width)


HALVES = {True: ("key", "key after"), False: ("key",)}


def score_table(model: TensorTransformer, vector: Tensor, layer: int, distance: int = 0, position: int = 0) -> dict[str, Tensor]:
    """q_b(row of t) . k_b(s) for every token t as the query: {"key": (branches, heads, vocab)}, with key_offset "key after" too.

    `vector` joins the stream that enters block `layer` at a position; "key" is its effect on the scores of that position, "key
    after" on those of the position after it, whose key holds half of it. Rows are those of the tokens alone, without what
    lower layers add. `distance`, from the vector's position to the query, matters with rotary positions only; `position`, that
    of the vector itself, only where key_offset has split the rotated pairs too. Squared attention has one branch, its scores are
    squared. Raises ValueError for a layer without attention, and for a distance or position below 0.

    >>> from tensorlm.model import ModelConfig
    >>> table = score_table(TensorTransformer(ModelConfig(norm="none", positions=("decay", "key_offset"))), torch.ones(64), layer=1)
    >>> {name: tuple(values.shape) for name, values in table.items()}
    {'key': (2, 4, 65), 'key after': (2, 4, 65)}
    """
    model = opened(model)
    require_block(model, layer)
    attention = getattr(model.blocks[layer], "attention", None)
    if attention is None:
        raise ValueError(f"layer {layer} must have attention, this model has none")
    query_position = require_whole("distance", distance) + require_whole("position", position)
    arriving = coefficients(model, layer, layer)
    rows = arriving[Part("embedding")] * model.embed(torch.arange(model.config.vocab_size)[:, None])
    streams = torch.stack([rows, (arriving[Part("vector")] * require_vector(model, "vector", vector)).expand_as(rows)])
    queries, _, _, keys = attention.prepare(streams.flatten(0, 1))
    turns = attention.positions.rotation_matrices(query_position + 1)
    size = len(rows)
    asking = torch.stack([query[:size, :, 0] @ turns[query_position].mT for query in queries])  # branches, vocab, heads, head_dim
    asked = torch.stack([key[size, :, 0] @ turns[position].mT for key in keys])
    offset = "key_offset" in attention.positions.features
    names, parts = HALVES[offset], asked.chunk(2, -1) if offset else (asked,)
    return {name: torch.einsum("bvhd,bhd->bhv", query, part) for name, query, part in
            zip(names, asking.chunk(len(parts), -1), parts)}


@dataclass(frozen=True, eq=False)
class ContextAccount:
    """Effects on a read-out of one MLP, text by text: effect = self_term + token + context, each (batch,).

    `rows` (batch, width) are the rows of the tokens at the position. `effect` comes from two evaluations of the MLP.
    """

    self_term: Tensor
    token: Tensor
    context: Tensor
    effect: Tensor
    rows: Tensor

    def explained(self) -> float:
        """Share of the variance of the effect over texts that the weights explain, the token known: 1 - var(context) / var(effect).

        Up to one constant for all texts, `offset`. Below 0 where the context's term works against the token's.
        """
        return 1 - (self._centred(self.context).square().sum() / self._spread()).item()

    def offset(self) -> float:
        """Mean of the context's term, which the weights miss even where they explain the variance."""
        return self.context.mean().item()

    def variance_shares(self) -> tuple[float, float]:
        """Covariance of the token's and of the context's term with the effect, over its variance: they sum to 1."""
        centred = self._centred(self.effect)
        token, context = ((self._centred(part) @ centred / self._spread()).item() for part in (self.token, self.context))
        return token, context

    def _centred(self, part: Tensor) -> Tensor:
        """Less its mean, in units of the largest departure of the effect: squares of such numbers keep within the number range."""
        largest = (self.effect - self.effect.mean()).abs().max()
        if largest == 0:
            raise ValueError("the effect is the same in all texts: there is no variance to explain")
        return (part - part.mean()) / largest

    def _spread(self) -> Tensor:
        return self._centred(self.effect).square().sum()

    def witness(self) -> tuple[int, int]:
        """Two texts of the batch with the same row, hence the same report, whose effects differ most.

        Raises ValueError where no row occurs twice.
        """
        _, group = torch.unique(self.rows, dim=0, return_inverse=True)
        gaps = (self.effect[:, None] - self.effect).abs().masked_fill(group[:, None] != group, -1.0).fill_diagonal_(-1.0)
        if gaps.max() < 0:
            raise ValueError("no two texts of the batch have the same token at the position: give more texts")
        first, second = divmod(int(by_value(gaps.flatten())[0]), len(gaps))
        return min(first, second), max(first, second)


@torch.no_grad()
def what_context_adds(model: TensorTransformer, tokens: Tensor, vector: Tensor, layer: int, readout: Tensor, position: int = -1,
                      alpha: float = 1.0) -> ContextAccount:
    """The account of readout . [f(x + alpha s) - f(x)] at the MLP of block `layer` and one position, over tokens (batch, time).

    `vector` joins the stream that enters the block, at that position only; `readout` (width,), for instance a difference of
    unembeddings. With a smear the row of the token before counts as context. Raises as `weights_alone` does.

    >>> from tensorlm.model import ModelConfig
    >>> model = TensorTransformer(ModelConfig(norm="none", output_init="normal"))
    >>> account = what_context_adds(model, torch.tensor([[1, 5, 7], [2, 9, 7]]), torch.ones(64), 0, torch.ones(64))
    >>> account.witness(), torch.equal(account.token[0], account.token[1]), torch.equal(account.effect[0], account.effect[1])
    ((0, 1), True, False)
    """
    model = opened(model)
    tokens = require_tokens(model, tokens)
    position = require_position("position", position, tokens.shape[1])
    require_block(model, layer)
    readout = require_vector(model, "readout", readout)
    arriving = coefficients(model, layer, layer, middle=True)
    s = require_number("alpha", alpha) * arriving[Part("vector")] * require_vector(model, "vector", vector)
    rows = arriving[Part("embedding")] * model.embed(tokens)[:, position]
    x, cp = run(model, tokens).blocks[layer].resid_mid[:, position], layer_tensor(model, layer)
    token, context = (2 * cp.polar(s, part) @ readout for part in (rows, x - rows))
    mlp = getattr(model.blocks[layer], "mlp")  # noqa: B009
    effect = (mlp(x + s) - mlp(x)) @ readout
    if not torch.isfinite(effect).all():
        raise ValueError(f"alpha={alpha:g} is too large: effects leave the number range")
    return ContextAccount((cp(s) @ readout).expand_as(effect), token, context, effect, rows)


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
        """The same over all directions that layers below can write, at their gauge-free size (`tensorlm.steering.weights`)."""
        if not self.writers:
            raise ValueError("no layer writes into the stream before this MLP")
        labels = [f"{writer.part} {name}" for writer in self.writers for name in writer.names]
        return self._table("direction", torch.cat([self.writer_cross(writer) for writer in self.writers]), labels, names, count, readout)

    def spectrum(self) -> "MapSpectrum":
        """Singular value decomposition and eigenvalues of `map`, in the order and with the signs of `tensorlm.ties`."""
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
    return WeightsAlone(tensor, vector, token_rows(model, layer, previous), writers(model, layer), model.head_matrix())


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
