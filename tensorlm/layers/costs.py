"""What an algorithm of polynomial attention costs, counted beforehand, and the cheapest one."""

from functools import lru_cache

from tensorlm.checks import require_one_of, require_whole

ALGORITHMS = ("quadratic", "row_blocks", "recurrent")
BLOCK = 64  # queries that the row blocks take at a time
CHUNK = 128  # queries between two states of the recurrent algorithm
# Time of a multiply-add, in units of one of the row blocks, on one thread of a CPU (benchmarks/attention_scaling.py). The
# quadratic one waits for memory; the recurrent one spends some of its time on forming features.
TIME_PER_MULTIPLY_ADD = {"quadratic": 3.0, "row_blocks": 1.0, "recurrent": 1.25}
# The fused kernel on a GPU, beside row blocks there: no tile leaves the chip, and all are taken at once. Not measured yet.
FUSED_TIME = 0.05
MAX_SIZE = 1 << 40


def feature_count(head_dim: int, branches: int) -> int:
    """Features of a head whose inner product is the score: d^2 for two branches, d (d + 1) / 2 for a square."""
    _require(head_dim=head_dim, branches=branches)
    return head_dim**2 if branches == 2 else head_dim * (head_dim + 1) // 2


def multiply_adds(algorithm: str, time: int, head_dim: int, branches: int, window: int = 0) -> int:
    """Multiply-adds of one head over `time` tokens, with a table of `window` ages (0: no table).

    A pair of query and key costs (branches + 1) d + 1: its scores, their product with the pattern, the values. quadratic:
    time^2 pairs. row_blocks: blocks of 64 queries, each with the keys up to its end, about half as many. recurrent: the
    pairs of a chunk of 128 (and of the window before it), and for each token 2 F d for writing into and reading from the
    state and 2 F for its features, F = `feature_count`; a first chunk reads nothing, a last one writes nothing.

    >>> round(multiply_adds("row_blocks", 8192, 16, 2) / multiply_adds("recurrent", 8192, 16, 2), 1)
    13.6
    """
    require_one_of("algorithm", algorithm, ALGORITHMS)
    _require(time=time, head_dim=head_dim, branches=branches)
    require_whole("window", window)
    block, back = (BLOCK, time) if algorithm == "row_blocks" else (CHUNK, chunks_back(window) * CHUNK)
    ends = ((start, min(start + block, time)) for start in range(0, time, block))
    met = sum((end - start) * (end - max(0, start - back)) for start, end in ends) if algorithm != "quadratic" else time**2
    pairs = met * ((branches + 1) * head_dim + 1)
    through_state = max(0, time - CHUNK) if algorithm == "recurrent" else 0
    return pairs + through_state * 2 * feature_count(head_dim, branches) * (head_dim + 1)


@lru_cache(maxsize=256)
def choose(time: int, head_dim: int, branches: int, window: int = 0, fused: bool = False) -> str:
    """The algorithm that should take the least time: multiply-adds times `TIME_PER_MULTIPLY_ADD`.

    `fused`: the fused kernel can be had; it multiplies the pairs that row blocks multiply, at `FUSED_TIME` each. Up to 64
    tokens are one block. A table over the whole sequence leaves nothing for the recurrent state to save.

    >>> choose(64, 16, 2), choose(256, 16, 2), choose(8192, 16, 2), choose(8192, 16, 2, window=8192)
    ('quadratic', 'row_blocks', 'recurrent', 'row_blocks')
    """
    costs = {name: multiply_adds(name, time, head_dim, branches, window) * TIME_PER_MULTIPLY_ADD[name] for name in ALGORITHMS}
    if fused:
        costs["fused"] = costs["row_blocks"] * FUSED_TIME
    elif time <= BLOCK:
        return "quadratic"
    return min(costs, key=costs.__getitem__)


def working_memory(algorithm: str, time: int, head_dim: int, branches: int, window: int = 0, heads: int = 1, batch: int = 1,
                   itemsize: int = 4) -> int:
    """Bytes that a forward pass needs at its peak beside its arguments and its result, gradients not kept.

    quadratic and row_blocks: branches + 1 arrays of scores of all heads and sequences and the pattern of all heads, of
    time^2 and of 64 time numbers each. recurrent: the pattern of one chunk, and the largest of the scores of a chunk, its
    features beside two states of F d numbers, and the chunks' outputs before they are joined.

    >>> working_memory("quadratic", 8192, 16, 2, heads=4) / 2**20, working_memory("recurrent", 8192, 16, 2, heads=4) / 2**20
    (4096.0, 2.3125)
    """
    require_one_of("algorithm", algorithm, ALGORITHMS)
    _require(time=time, head_dim=head_dim, branches=branches, heads=heads, batch=batch, itemsize=itemsize)
    rows = min(time, {"quadratic": time, "row_blocks": BLOCK, "recurrent": CHUNK}[algorithm])
    if algorithm != "recurrent":
        return ((branches + 1) * batch + 1) * heads * rows * time * itemsize
    columns, features = min(time, (chunks_back(window) + 1) * CHUNK), feature_count(head_dim, branches)
    state = features * head_dim
    largest = max((branches + 1) * rows * columns + state, rows * features + 2 * state, state + time * head_dim)
    return (rows * columns + largest) * batch * heads * itemsize


def chunks_back(window: int, chunk: int = CHUNK) -> int:
    """Chunks before its own that a query reaches into through a table of `window` ages."""
    return max(0, -(-(window - 1) // chunk))


def _require(**sizes: int) -> None:
    limits = {"branches": 2, "itemsize": 8}
    for name, size in sizes.items():
        require_whole(name, size, 1, limits.get(name, MAX_SIZE))
