"""Bilinear and squared attention on polynomials: scores, patterns and sums of values as convolutions of big matrix products."""

from itertools import accumulate

from torch import Tensor

from tensorlm.steering.monomials import Monomials
from tensorlm.steering.signal import Signal, groups_of


def attention(layer, x: Signal, first_values: Signal | None, algebra: Monomials, kept: list[int]) -> tuple[Signal, Signal]:
    """`Attention.forward` on a normed stream of polynomials: the output at the positions `kept`, and the values.

    z_i = sum_j c_ij s1_ij s2_ij v_j has degree max_j (2 n_i + 2 k_j + v_j) in the strength; n, k, v are the degrees of
    x_i, of key j and of value j. Queries of one degree and keys of one degree meet at a time, so that constants stay
    constants: a steered position costs only what it touches.
    """
    queries, keys, values = layer.project_heads(x.rows)
    queries = [layer.positions.rotate(query) for query in queries]
    keys = [layer.positions.offset(layer.positions.rotate(key)) for key in keys]
    key_degrees = x.degrees
    if "key_offset" in layer.positions.features:
        key_degrees = tuple(map(max, x.degrees, (0, *x.degrees)))
    values = Signal(values, x.degrees)
    mixed = _mix_values(layer, values, first_values, algebra)
    pattern = layer.positions.pattern().rows(0, x.time, x.rows)
    sources = list(accumulate((2 * key + value for key, value in zip(key_degrees, mixed.degrees)), max))
    degrees = tuple(2 * x.degrees[i] + sources[i] for i in kept)
    z = x.rows.new_zeros(algebra.rows(max(degrees)), layer.heads, len(kept), layer.head_dim)
    for (query_degree,), places in groups_of([x.degrees[i] for i in kept]).items():
        chosen = [kept[place] for place in places]
        some_queries = [query[: algebra.rows(query_degree), :, chosen] for query in queries]
        for (key_degree, value_degree), others in groups_of(key_degrees, mixed.degrees).items():
            others = [other for other in others if other <= max(chosen)]
            if others:
                some_keys = [key[: algebra.rows(key_degree), :, others] for key in keys]
                some_values = mixed.rows[: algebra.rows(value_degree), :, others]
                part = _attend(some_queries, some_keys, some_values, pattern[:, chosen][:, :, others], algebra)
                z[: len(part), :, places] += part
    return Signal(layer.merge_heads(z), degrees), values


def _attend(queries: list[Tensor], keys: list[Tensor], values: Tensor, pattern: Tensor, algebra: Monomials) -> Tensor:
    """(rows, heads, queries, head_dim) from queries, keys and values (rows, heads, positions, head_dim)."""
    scores = [algebra.multiply(query, key, "hqe,hke->hqk") for query, key in zip(queries, keys)]
    product = algebra.multiply(scores[0], scores[-1]) * pattern
    return algebra.multiply(product, values, "hqk,hke->hqe")


def _mix_values(layer, values: Signal, first_values: Signal | None, algebra: Monomials) -> Signal:
    if first_values is None or not hasattr(layer, "value_mix"):
        return values
    mix = layer.value_mix
    return values.mapped(lambda rows: mix[0] * rows).plus(first_values.mapped(lambda rows: mix[1] * rows), algebra)
