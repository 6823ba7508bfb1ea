"""Listing pods: kpo_cleanup, the typed loop of `airflow kubernetes cleanup-pods`, and reading pages without parsing."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from bench.cluster import CONN_ID, Cluster
from bench.context import Bench
from bench.results import Figure, Panel, Point, at_least, at_most, seconds
from bench.timing import interleaved
from include.kpo_cleanup.kube.workloads import PAGE_SIZE, KubeClient
from include.kpo_cleanup.tasks import gc_paused
from include.kpo_cleanup.workloads.labels import KPO_LABEL

SIZE = 10_000  # pods, for the table
OURS, TYPED, FLOOR = "kpo_cleanup", "typed, as cleanup-pods", "read and thrown away"
PANEL = Panel("listing", "Listing pods", "pods", "seconds")

_TOKEN = re.compile(rb'"continue":"([^"]+)"')
_HEAD = 1_000  # bytes at the start of a page that contain its token


def measure(bench: Bench) -> Iterator[Figure | Point]:
    cluster, api = bench.cluster, KubeClient(CONN_ID)
    for size in bench.pods:
        namespace = cluster.fill(size)
        bench.progress(f"listing {size:,} pods")
        costs = interleaved(
            {
                OURS: partial(list_with_kpo_cleanup, api, namespace),
                TYPED: partial(consume, typed, cluster, namespace),
                FLOOR: partial(read_and_discard, cluster, namespace),
            },
            # Larger sizes are for the plot only, where one round is enough; the typed loop is slow.
            bench.repetitions if size <= SIZE else 1,
            warm_up=size <= SIZE,
        )
        yield from (Point(PANEL, series, size, cost) for series, cost in costs.items())
        if size == SIZE or size == bench.pods[-1] < SIZE:
            times = {name: seconds(cost) for name, cost in costs.items()}
            pods = f"{size:,} pods"
            faster, slower = costs[TYPED] / costs[OURS], costs[OURS] / costs[FLOOR]
            yield Figure("listing", "typed loop of cleanup-pods", pods, times[OURS], times[TYPED], faster, at_least(4))
            yield Figure("listing", "floor: pages discarded", pods, times[OURS], times[FLOOR], slower, at_most(1.3))


def consume(pods_of: Callable[..., Iterator[Any]], *arguments: Any) -> int:
    return sum(1 for _ in pods_of(*arguments))


@gc_paused()  # as in the task
def list_with_kpo_cleanup(api: KubeClient, namespace: str) -> int:
    return len(api.list_workloads([namespace]).workloads)


def typed(cluster: Cluster, namespace: str) -> Iterator[Any]:
    """List as `airflow.providers.cncf.kubernetes.cli.kubernetes_command.cleanup_pods` does, but with our selector."""
    arguments: dict[str, Any] = {"limit": 500, "label_selector": f"{KPO_LABEL}=True"}
    while True:
        pods = cluster.core.list_namespaced_pod(namespace, **arguments)
        yield from pods.items
        if not pods.metadata._continue:
            return
        arguments["_continue"] = pods.metadata._continue


def page_request(core: Any, namespace: str) -> Callable[..., Any]:
    """Return a function that requests one page of the listing; ``data`` of its result is the raw body."""
    selector = f"{KPO_LABEL}=True"
    call = core.list_namespaced_pod
    return partial(call, namespace, limit=PAGE_SIZE, label_selector=selector, _preload_content=False)


def read_and_discard(cluster: Cluster, namespace: str) -> int:
    """Do the minimum that a client must do, with the same HTTP client: extract only the token from each page."""
    call = page_request(cluster.core, namespace)
    length, token = 0, None
    while True:
        body = call(**({"_continue": token} if token else {})).data
        length += len(body)
        found = _TOKEN.search(body, 0, _HEAD)
        if not found:
            return length
        token = found[1].decode()
