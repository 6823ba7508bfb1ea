"""The memory of a listing, each time in a process of its own: `python -m bench.listing_memory NAMESPACE`.

tracemalloc counts what Python allocates, the bodies of answers included.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator

from bench.cluster import CONN_ID, namespace_of
from bench.results import Figure, Panel, Point, at_most, mebibytes
from bench.setting import Bench
from include.kpo_cleanup.pods import PodApi
from include.kpo_cleanup.settings import Settings

PANEL = Panel("listing", "Memory of a listing", "pods", "MiB")
KILOBYTE = 1_000


def measure(bench: Bench) -> Iterator[Figure | Point]:
    measured = {}
    for size in bench.pods:
        namespace = bench.cluster.fill(size)
        bench.say(f"memory of listing {size:,} pods")
        measured[size] = kept, peak = _in_a_fresh_process(namespace)
        yield Point(PANEL, "kpo_cleanup, at its peak", size, peak / 2**20)
        yield Point(PANEL, "kpo_cleanup, what is kept", size, kept / 2**20)
    least, most = bench.pods[0], bench.pods[-1]
    if least == most:
        return
    (kept_least, peak_least), (kept_most, peak_most) = measured[least], measured[most]
    growth = (peak_most - peak_least) / (most - least) / KILOBYTE
    against, pods = f"its own at {least:,} pods", f"{most:,} pods"
    ours, theirs = mebibytes(peak_most), mebibytes(peak_least)
    yield Figure("listing, memory at its peak", against, pods, ours, theirs, growth, at_most(1, "KB a further pod"))
    # What is needed for a moment is one page, however many there are.
    working, working_least = peak_most - kept_most, peak_least - kept_least
    ours, theirs = mebibytes(working), mebibytes(working_least)
    name = "listing, memory beyond what is kept"
    yield Figure(name, against, pods, ours, theirs, working / working_least, at_most(1.1))


def _in_a_fresh_process(namespace: str) -> tuple[int, int]:
    command = [sys.executable, "-W", "ignore", "-m", "bench.listing_memory", namespace]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr[-2_000:]}")
    kept, peak = json.loads(done.stdout.splitlines()[-1])
    return kept, peak


def _measure_here(namespace: str) -> None:
    api = PodApi(CONN_ID)
    api.list_pods(Settings(namespaces=namespace_of(0)))  # imports, and the connection
    tracemalloc.start()
    listing = api.list_pods(Settings(namespaces=namespace))
    kept, peak = tracemalloc.get_traced_memory()
    assert listing.pods
    print(json.dumps([kept, peak]))


if __name__ == "__main__":
    _measure_here(sys.argv[1])
