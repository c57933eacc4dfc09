"""CPU time of several functions in one process, in turns."""

import math
import statistics
import time
from collections.abc import Callable, Mapping

BATCH_SECONDS = 0.02


def interleave(sides: Mapping[str, Callable], repeats: int) -> dict[str, tuple[float, float, float]]:
    """Lower quartile, median and upper quartile of the CPU milliseconds of one call, for each side.

    Sides take turns, so that whatever else the machine does falls on all of them. One that takes less than 20 ms is
    called as often as fills them. The first calls, which warm up, do not count.
    """
    counts = {name: batch_size(call) for name, call in sides.items()}
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(max(2, repeats)):
        for name, call in sides.items():
            times[name].append(1e3 * seconds(call, counts[name]))
    return {name: tuple(statistics.quantiles(values, n=4, method="inclusive")) for name, values in times.items()}


def batch_size(call: Callable) -> int:
    call()
    return max(1, math.ceil(BATCH_SECONDS / max(seconds(call, 1), 1e-6)))


def seconds(call: Callable, count: int) -> float:
    started = time.process_time()
    for _ in range(count):
        call()
    return (time.process_time() - started) / count
