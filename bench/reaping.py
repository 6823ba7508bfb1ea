"""Reaping: 5,000 zombies by `reap`, and by the same calls one after the other."""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Iterator
from functools import partial

from bench.classifying import task_instances_of
from bench.cluster import CONN_ID, Cluster, namespace_of
from bench.results import Figure, Panel, Point, at_least, at_most, seconds
from bench.setting import Bench
from bench.timing import stopwatch
from include.kpo_cleanup.classify import classify
from include.kpo_cleanup.identity import TaskInstanceKey
from include.kpo_cleanup.pods import CONCURRENT_DELETES, PodApi
from include.kpo_cleanup.reap import reap
from include.kpo_cleanup.settings import Settings
from include.kpo_cleanup.task_instances import TaskInstances
from include.kpo_cleanup.vocabulary import Outcome

ZOMBIES, SLICE = 5_000, 1_000  # the two ways take turns, a slice each
PANEL = Panel("reap", "Deleting zombies", "pods", "seconds")
OURS, ONE_BY_ONE = "kpo_cleanup", "one after the other"


class Memory:
    """A source that knows the answer: here it is the API server that is measured."""

    description = "the benchmark"

    def __init__(self, known: TaskInstances) -> None:
        self._known = known

    def fetch(self, keys: Collection[TaskInstanceKey]) -> TaskInstances:
        return self._known


def measure(bench: Bench) -> Iterator[Figure | Point]:
    cluster, api = bench.cluster, PodApi(CONN_ID)
    slices = max(1, min(ZOMBIES, bench.pods[-1]) // SLICE)
    bench.say(f"reaping {slices * SLICE:,} zombies, twice")
    before = _refusals(cluster)
    took = {OURS: 0.0, ONE_BY_ONE: 0.0}
    for number in range(slices):
        for name, clean_up in ((OURS, _by_reap), (ONE_BY_ONE, _one_by_one)):
            namespace = namespace_of(900_000)
            cluster.put(namespace, range(SLICE), is_zombie=True)
            settings = Settings(namespaces=namespace, max_deletes=SLICE, settle_seconds=0)
            took[name] += clean_up(api, settings)
            yield Point(PANEL, name, (number + 1) * SLICE, took[name])
            left = api.list_pods(settings).pods
            if left:
                raise RuntimeError(f"{len(left)} pods are left after {name}")
    size, ratio = f"{slices * SLICE:,} zombies", took[ONE_BY_ONE] / took[OURS]
    name = f"reap, {CONCURRENT_DELETES} at once"
    yield Figure(name, ONE_BY_ONE, size, seconds(took[OURS]), seconds(took[ONE_BY_ONE]), ratio, at_least(4))
    refused = _refusals(cluster) - before
    yield Figure("reap, refused with 429", "", size, f"{refused}", "", refused, at_most(0, "refusals"))


def _by_reap(api: PodApi, settings: Settings) -> float:
    pods = api.list_pods(settings).pods
    failed = TaskInstances({key: ti for key, ti in task_instances_of(pods).found.items() if not ti.is_active})
    known = TaskInstances(dict.fromkeys((pod.key for pod in pods), next(iter(failed.found.values()))))
    zombies = [verdict for verdict in classify(pods, known, settings, int(time.time())) if verdict.is_zombie]
    results = []

    def call() -> None:
        results.extend(reap(zombies, api, Memory(known), settings, time.time))

    took = stopwatch(call)
    if {result.outcome for result in results} != {Outcome.DELETED} or len(results) != len(pods):
        raise RuntimeError(f"not all were deleted: {results[0]}")
    return took


def _one_by_one(api: PodApi, settings: Settings) -> float:
    pods = api.list_pods(settings).pods
    delete = partial(api.delete, grace_period_seconds=settings.grace_period_seconds)
    return stopwatch(lambda: [delete(pod) for pod in pods])


def _refusals(cluster: Cluster) -> int:
    """How many requests the API server has refused for being too many, by its own count."""
    metrics = cluster.metrics()
    counts = re.findall(r'^apiserver_request_total\{.*code="429".*\} (\S+)$', metrics, re.MULTILINE)
    return sum(int(float(count)) for count in counts)
