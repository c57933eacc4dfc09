"""CPU time of several functions in one process, in turns."""

import math
import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

BATCH_SECONDS = 0.02
Side = TypeVar("Side", bound=Hashable)


def interleave(sides: Mapping[Side, Callable], repeats: int) -> dict[Side, tuple[float, float, float]]:
    """Lower quartile, median and upper quartile of the CPU milliseconds of one call, for each side.

    Sides take turns, so that whatever else the machine does falls on all of them. One that takes less than 20 ms is
    called as often as fills them. The first calls, which warm up, do not count.
    """
    counts = {name: batch_size(call) for name, call in sides.items()}
    times: dict[Side, list[float]] = {name: [] for name in sides}
    for _ in range(max(2, repeats)):
        for name, call in sides.items():
            times[name].append(1e3 * seconds(call, counts[name]))
    return {name: quartiles(values) for name, values in times.items()}


def quartiles(values: list[float]) -> tuple[float, float, float]:
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def batch_size(call: Callable) -> int:
    call()
    return max(1, math.ceil(BATCH_SECONDS / max(seconds(call, 1), 1e-6)))


def seconds(call: Callable, count: int) -> float:
    started = time.process_time()
    for _ in range(count):
        call()
    return (time.process_time() - started) / count
