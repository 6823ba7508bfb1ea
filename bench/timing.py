"""Times that can be compared: taken in turn, so that a busy machine is busy for all, and the median of them."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from statistics import median

import psutil  # type: ignore[import-untyped]


def stopwatch(call: Callable[[], object]) -> float:
    """Time one call in seconds. The garbage collector does not look through what was there before."""
    gc.collect()
    gc.freeze()
    start = time.perf_counter()
    call()
    took = time.perf_counter() - start
    gc.unfreeze()
    return took


def interleaved(calls: Mapping[str, Callable[[], object]], repetitions: int, warm_up: bool = True) -> dict[str, float]:
    """Give the median seconds of each call, by its name; a first round warms all up and does not count."""
    for call in calls.values() if warm_up else ():
        call()
    rounds = [{name: stopwatch(call) for name, call in calls.items()} for _ in range(repetitions)]
    return {name: median(times[name] for times in rounds) for name in calls}


def cpu_seconds() -> float:
    """Tell how long this process and the servers that it started have computed so far."""
    here = psutil.Process()
    times = [process.cpu_times() for process in (here, *here.children(recursive=True))]
    return float(sum(of_one.user + of_one.system for of_one in times))
