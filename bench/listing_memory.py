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
from bench.listing import raw_pages
from bench.results import Figure, Panel, Point, at_most, mebibytes
from bench.setting import Bench
from include.kpo_cleanup.kube.client import connect
from include.kpo_cleanup.kube.pods import PodClient

PANEL = Panel("listing", "Memory of a listing", "pods", "MiB")
KILOBYTE = 1_000


def measure(bench: Bench) -> Iterator[Figure | Point]:
    peaks = []
    for size in bench.pods:
        namespace = bench.cluster.fill(size)
        bench.say(f"memory of listing {size:,} pods")
        kept, peak, page = _in_a_fresh_process(namespace)
        peaks.append(peak)
        yield Point(PANEL, "kpo_cleanup, at its peak", size, peak / 2**20)
        yield Point(PANEL, "kpo_cleanup, what is kept", size, kept / 2**20)
    pods = f"{size:,} pods"
    # Two pages at once would be more than this.
    times = (peak - kept) / page
    ours, theirs = mebibytes(peak - kept), mebibytes(page)
    yield Figure("listing, memory beyond what is kept", "one page of raw data", pods, ours, theirs, times, at_most(2))
    least = bench.pods[0]
    if least < size:
        growth = (peak - peaks[0]) / (size - least) / KILOBYTE
        against, ours, theirs = f"its own at {least:,} pods", mebibytes(peak), mebibytes(peaks[0])
        yield Figure("listing, memory at its peak", against, pods, ours, theirs, growth, at_most(1, "KB a further pod"))


def _in_a_fresh_process(namespace: str) -> tuple[int, int, int]:
    command = [sys.executable, "-W", "ignore", "-m", "bench.listing_memory", namespace]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr[-2_000:]}")
    kept, peak, page = json.loads(done.stdout.splitlines()[-1])
    return kept, peak, page


def _measure_here(namespace: str) -> None:
    api = PodClient(CONN_ID)
    api.list_pods([namespace_of(0)])  # imports, and the connection
    tracemalloc.start()
    listing = api.list_pods([namespace])
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert listing.pods
    core, _ = connect(CONN_ID, 1)
    print(json.dumps([kept, peak, len(raw_pages(core, namespace)().data)]))


if __name__ == "__main__":
    _measure_here(sys.argv[1])
