"""Deleting 5,000 zombies with `reap`, with the same requests sequentially, and as `cleanup-pods` does."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from kubernetes.client import V1DeleteOptions

from bench.cluster import CONN_ID, Cluster, namespace_of
from bench.context import Bench
from bench.latency import LATENCIES, added_latency
from bench.reap_worker import InMemorySource
from bench.results import Figure, Panel, Point, at_least, at_most, seconds
from bench.timing import cpu_seconds, stopwatch
from include.kpo_cleanup.classify import Snapshot, classify
from include.kpo_cleanup.constants import Outcome
from include.kpo_cleanup.kube.interface import CONCURRENT_DELETES
from include.kpo_cleanup.kube.workloads import KubeClient
from include.kpo_cleanup.reap import reap
from include.kpo_cleanup.settings import Settings
from include.kpo_cleanup.workloads.workload import Workload

ZOMBIES, ZOMBIES_PER_TURN = 5_000, 1_000  # the methods take turns
PANELS = {place: Panel("reap", f"Deleting zombies, API server {place}", "pods", "seconds") for place in LATENCIES}
OURS, ONE_BY_ONE, TYPED = "kpo_cleanup", "the same calls one after the other", "one after the other, as cleanup-pods"


def measure(bench: Bench) -> Iterator[Figure | Point]:
    cluster, api = bench.cluster, KubeClient(CONN_ID)
    turns = max(1, min(ZOMBIES, bench.pods[-1]) // ZOMBIES_PER_TURN)
    size, rejected_before = f"{turns * ZOMBIES_PER_TURN:,} zombies", _rejected_requests(cluster)
    methods: dict[str, Callable[[Sequence[Workload], Settings], object]] = {
        OURS: partial(_reap, api),
        ONE_BY_ONE: partial(_delete_one_by_one, api),
        TYPED: partial(_delete_typed, cluster),
    }
    for place, latency in LATENCIES.items():
        bench.progress(f"deleting {size} with {len(methods)} methods, API server {place}")
        took, cpu_time = dict.fromkeys(methods, 0.0), 0.0
        for number in range(turns):
            for name, delete_all in methods.items():
                namespace = namespace_of(900_000)
                cluster.put(namespace, range(ZOMBIES_PER_TURN), is_zombie=True)
                settings = Settings(namespaces=namespace, max_deletes=ZOMBIES_PER_TURN, settle_seconds=0)
                pods = api.list_workloads(settings.namespace_list(), settings.label_selector).workloads
                cpu_before = cpu_seconds()
                with added_latency(latency):
                    took[name] += stopwatch(partial(delete_all, pods, settings))
                if name == OURS:
                    cpu_time += cpu_seconds() - cpu_before
                yield Point(PANELS[place], name, (number + 1) * ZOMBIES_PER_TURN, took[name])
                if remaining := api.list_workloads(settings.namespace_list(), settings.label_selector).workloads:
                    raise RuntimeError(f"{name} left {len(remaining)} pods behind")
        measurement, ours = f"reap, {CONCURRENT_DELETES} workers, API server {place}", took[OURS]
        for method in (TYPED, ONE_BY_ONE):
            theirs = took[method]
            yield Figure(measurement, method, size, seconds(ours), seconds(theirs), theirs / ours, at_least(4))
        if not latency:
            floor = cpu_time / (os.cpu_count() or 1)
            baseline = "floor: its CPU time on all cores"
            yield Figure(measurement, baseline, size, seconds(ours), seconds(floor), ours / floor, at_most(1.3))
    rejected = _rejected_requests(cluster) - rejected_before
    yield Figure("reap, rejected with 429", "", size, f"{rejected}", "", rejected, at_most(0, "rejections"))


def _reap(api: KubeClient, pods: Sequence[Workload], settings: Settings) -> None:
    """Classify and reap the pods; classifying takes about one percent of the measured time."""
    source = InMemorySource(pods)
    zombies = [v for v in classify(Snapshot(pods, source.task_instances, settings, int(time.time()))) if v.is_zombie]
    results = reap(zombies, api, source, settings, settings.namespace_list())
    if {result.outcome for result in results} != {Outcome.DELETED} or len(results) != len(pods):
        raise RuntimeError(f"not all pods were deleted: {results[0]}")


def _delete_one_by_one(api: KubeClient, pods: Sequence[Workload], settings: Settings) -> None:
    for pod in pods:
        api.delete(pod, settings.grace_period_seconds)


def _delete_typed(cluster: Cluster, pods: Sequence[Workload], settings: Settings) -> None:
    """Delete as `_delete_pod` of cleanup-pods does, but without creating a new client for each pod."""
    options = V1DeleteOptions(grace_period_seconds=settings.grace_period_seconds)
    for pod in pods:
        cluster.core.delete_namespaced_pod(pod.name, pod.namespace, body=options)


def _rejected_requests(cluster: Cluster) -> int:
    """Return the number of requests that the API server has rejected with 429 Too Many Requests."""
    metrics = cluster.metrics()
    counts = re.findall(r'^apiserver_request_total\{.*code="429".*\} (\S+)$', metrics, re.MULTILINE)
    return sum(int(float(count)) for count in counts)
