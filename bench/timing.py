"""Times that can be compared: taken in turn, so that a busy machine is busy for all, and the median of them."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from statistics import median


def stopwatch(call: Callable[[], object]) -> float:
    """How long one call takes, in seconds."""
    gc.collect()
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def interleaved(calls: Mapping[str, Callable[[], object]], repetitions: int, warm_up: bool = True) -> dict[str, float]:
    """The median seconds of each call, by its name; a first round warms all up and does not count."""
    for call in calls.values() if warm_up else ():
        call()
    rounds = [{name: stopwatch(call) for name, call in calls.items()} for _ in range(repetitions)]
    return {name: median(times[name] for times in rounds) for name in calls}
