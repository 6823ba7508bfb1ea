"""Comparable timings: calls take turns, so that load on the machine affects all of them, and the median is used."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from statistics import median

import psutil  # type: ignore[import-untyped]


def stopwatch(call: Callable[[], object]) -> float:
    """Return the seconds that a call takes, with existing objects hidden from the garbage collector."""
    gc.collect()
    gc.freeze()
    start = time.perf_counter()
    call()
    took = time.perf_counter() - start
    gc.unfreeze()
    return took


def interleaved(calls: Mapping[str, Callable[[], object]], repetitions: int, warm_up: bool = True) -> dict[str, float]:
    """Return the median seconds of each call by name; the first round is a warm-up and is not counted."""
    for call in calls.values() if warm_up else ():
        call()
    rounds = [{name: stopwatch(call) for name, call in calls.items()} for _ in range(repetitions)]
    return {name: median(times[name] for times in rounds) for name in calls}


def cpu_seconds() -> float:
    """Return the CPU time of this process and the servers it has started, in seconds."""
    current = psutil.Process()
    times = [process.cpu_times() for process in (current, *current.children(recursive=True))]
    return float(sum(process_times.user + process_times.system for process_times in times))
