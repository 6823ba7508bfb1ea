"""Listing: ours, the typed loop of `airflow kubernetes cleanup-pods`, and the same pages read and thrown away."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from bench.cluster import CONN_ID, Cluster
from bench.results import Figure, Panel, Point, at_least, at_most, seconds
from bench.setting import Bench
from bench.timing import interleaved
from include.kpo_cleanup.kube.pods import PAGE_SIZE, PodClient
from include.kpo_cleanup.pod import KPO_LABEL
from include.kpo_cleanup.tasks import gc_paused

SIZE = 10_000  # for which the figures are asked
OURS, TYPED, FLOOR = "kpo_cleanup", "typed, as cleanup-pods", "read and thrown away"
PANEL = Panel("listing", "Listing pods", "pods", "seconds")

_TOKEN = re.compile(rb'"continue":"([^"]+)"')
_HEAD = 1_000  # bytes at the start of a page, in which its token is


def measure(bench: Bench) -> Iterator[Figure | Point]:
    cluster, api = bench.cluster, PodClient(CONN_ID)
    for size in bench.pods:
        namespace = cluster.fill(size)
        bench.say(f"listing {size:,} pods")
        costs = interleaved(
            {
                OURS: partial(ours, api, namespace),
                TYPED: partial(through, typed, cluster, namespace),
                FLOOR: partial(read_and_throw_away, cluster, namespace),
            },
            # For the plot one round will do, and all are warm by then; the typed loop takes its time.
            bench.repetitions if size <= SIZE else 1,
            warm_up=size <= SIZE,
        )
        yield from (Point(PANEL, series, size, cost) for series, cost in costs.items())
        if size == SIZE or size == bench.pods[-1] < SIZE:
            times = {name: seconds(cost) for name, cost in costs.items()}
            pods = f"{size:,} pods"
            faster, slower = costs[TYPED] / costs[OURS], costs[OURS] / costs[FLOOR]
            yield Figure("listing", "typed loop of cleanup-pods", pods, times[OURS], times[TYPED], faster, at_least(4))
            yield Figure("listing", "floor: pages thrown away", pods, times[OURS], times[FLOOR], slower, at_most(1.3))


def through(pods_of: Callable[..., Iterator[Any]], *arguments: Any) -> int:
    return sum(1 for _ in pods_of(*arguments))


@gc_paused()  # as in the task
def ours(api: PodClient, namespace: str) -> int:
    return len(api.list_pods([namespace]).pods)


def typed(cluster: Cluster, namespace: str) -> Iterator[Any]:
    """List as `airflow.providers.cncf.kubernetes.cli.kubernetes_command.cleanup_pods` does, with our selector."""
    arguments: dict[str, Any] = {"limit": 500, "label_selector": f"{KPO_LABEL}=True"}
    while True:
        pods = cluster.core.list_namespaced_pod(namespace, **arguments)
        yield from pods.items
        if not pods.metadata._continue:
            return
        arguments["_continue"] = pods.metadata._continue


def raw_pages(core: Any, namespace: str) -> Callable[..., Any]:
    """Make the call for a page of our listing; its answer has the body as it comes in ``data``."""
    selector = f"{KPO_LABEL}=True"
    call = core.list_namespaced_pod
    return partial(call, namespace, limit=PAGE_SIZE, label_selector=selector, _preload_content=False)


def read_and_throw_away(cluster: Cluster, namespace: str) -> int:
    """Do the least that a client can, with the same HTTP client: look at the token of each page only."""
    call = raw_pages(cluster.core, namespace)
    length, token = 0, None
    while True:
        body = call(**({"_continue": token} if token else {})).data
        length += len(body)
        found = _TOKEN.search(body, 0, _HEAD)
        if not found:
            return length
        token = found[1].decode()
