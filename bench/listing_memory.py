"""The memory that a listing needs, measured in a new process: `python -m bench.listing_memory NAMESPACE`.

tracemalloc counts all memory allocated by Python, including response bodies.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator

from bench.cluster import CONN_ID, namespace_of
from bench.context import Bench
from bench.listing import page_request
from bench.results import Figure, Panel, Point, at_most, mebibytes
from include.kpo_cleanup.kube.client import connect
from include.kpo_cleanup.kube.workloads import KubeClient

PANEL = Panel("listing", "Memory of a listing", "pods", "MiB")
KILOBYTE = 1_000


def measure(bench: Bench) -> Iterator[Figure | Point]:
    peaks = []
    for size in bench.pods:
        namespace = bench.cluster.fill(size)
        bench.progress(f"memory of listing {size:,} pods")
        kept, peak, page = _measure_in_new_process(namespace)
        peaks.append(peak)
        yield Point(PANEL, "kpo_cleanup, at its peak", size, peak / 2**20)
        yield Point(PANEL, "kpo_cleanup, what is kept", size, kept / 2**20)
    pods = f"{size:,} pods"
    # Holding two pages at the same time would exceed this target.
    times = (peak - kept) / page
    ours, theirs = mebibytes(peak - kept), mebibytes(page)
    yield Figure("listing, temporary memory", "one page of raw data", pods, ours, theirs, times, at_most(2))
    smallest = bench.pods[0]
    if smallest < size:
        growth = (peak - peaks[0]) / (size - smallest) / KILOBYTE
        target = at_most(1, "KB per additional pod")
        itself, ours, theirs = f"itself at {smallest:,} pods", mebibytes(peak), mebibytes(peaks[0])
        yield Figure("listing, peak memory", itself, pods, ours, theirs, growth, target)


def _measure_in_new_process(namespace: str) -> tuple[int, int, int]:
    command = [sys.executable, "-W", "ignore", "-m", "bench.listing_memory", namespace]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr[-2_000:]}")
    kept, peak, page = json.loads(done.stdout.splitlines()[-1])
    return kept, peak, page


def _measure_here(namespace: str) -> None:
    api = KubeClient(CONN_ID)
    api.list_workloads([namespace_of(0)])  # so that imports and the connection are not measured
    tracemalloc.start()
    listing = api.list_workloads([namespace])
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert listing.workloads
    core, _ = connect(CONN_ID, 1)
    print(json.dumps([kept, peak, len(page_request(core, namespace)().data)]))


if __name__ == "__main__":
    _measure_here(sys.argv[1])
