"""Reaping: 5,000 zombies by `reap`, by the same calls one after the other, and as `cleanup-pods` deletes."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from kubernetes.client import V1DeleteOptions

from bench.cluster import CONN_ID, Cluster, namespace_of
from bench.distance import PLACES, distance
from bench.reap_worker import Memory
from bench.results import Figure, Panel, Point, at_least, at_most, seconds
from bench.setting import Bench
from bench.timing import cpu_seconds, stopwatch
from include.kpo_cleanup.classify import Snapshot, classify
from include.kpo_cleanup.constants import Outcome
from include.kpo_cleanup.kube.interface import CONCURRENT_DELETES
from include.kpo_cleanup.kube.pods import PodClient
from include.kpo_cleanup.pod import Pod
from include.kpo_cleanup.reap import reap
from include.kpo_cleanup.settings import Settings

ZOMBIES, SLICE = 5_000, 1_000  # the ways take turns, a slice each
PANELS = {place: Panel("reap", f"Deleting zombies, API server {place}", "pods", "seconds") for place in PLACES}
OURS, ONE_BY_ONE, TYPED = "kpo_cleanup", "the same calls one after the other", "one after the other, as cleanup-pods"


def measure(bench: Bench) -> Iterator[Figure | Point]:
    cluster, api = bench.cluster, PodClient(CONN_ID)
    slices = max(1, min(ZOMBIES, bench.pods[-1]) // SLICE)
    size, before = f"{slices * SLICE:,} zombies", _refusals(cluster)
    ways: dict[str, Callable[[Sequence[Pod], Settings], object]] = {
        OURS: partial(_reap, api),
        ONE_BY_ONE: partial(_one_by_one, api),
        TYPED: partial(_typed, cluster),
    }
    for place, seconds_away in PLACES.items():
        bench.say(f"reaping {size}, {len(ways)} times, API server {place}")
        took, computed = dict.fromkeys(ways, 0.0), 0.0
        for number in range(slices):
            for name, clean_up in ways.items():
                namespace = namespace_of(900_000)
                cluster.put(namespace, range(SLICE), is_zombie=True)
                settings = Settings(namespaces=namespace, max_deletes=SLICE, settle_seconds=0)
                pods = api.list_pods(settings.namespace_list(), settings.label_selector).pods
                computed_before = cpu_seconds()
                with distance(seconds_away):
                    took[name] += stopwatch(partial(clean_up, pods, settings))
                if name == OURS:
                    computed += cpu_seconds() - computed_before
                yield Point(PANELS[place], name, (number + 1) * SLICE, took[name])
                if left := api.list_pods(settings.namespace_list(), settings.label_selector).pods:
                    raise RuntimeError(f"{len(left)} pods are left after {name}")
        what, ours = f"reap, {CONCURRENT_DELETES} at once, API server {place}", took[OURS]
        for peer in (TYPED, ONE_BY_ONE):
            yield Figure(what, peer, size, seconds(ours), seconds(took[peer]), took[peer] / ours, at_least(4))
        if not seconds_away:
            floor = computed / (os.cpu_count() or 1)
            against = "floor: its own computing on all cores"
            yield Figure(what, against, size, seconds(ours), seconds(floor), ours / floor, at_most(1.3))
    refused = _refusals(cluster) - before
    yield Figure("reap, refused with 429", "", size, f"{refused}", "", refused, at_most(0, "refusals"))


def _reap(api: PodClient, pods: Sequence[Pod], settings: Settings) -> None:
    """Classifier and reap. The judging is on the clock, too: about a hundredth of it."""
    source = Memory(pods)
    zombies = [v for v in classify(Snapshot(pods, source.told, settings, int(time.time()))) if v.is_zombie]
    results = reap(zombies, api, source, settings, settings.namespace_list())
    if {result.outcome for result in results} != {Outcome.DELETED} or len(results) != len(pods):
        raise RuntimeError(f"not all were deleted: {results[0]}")


def _one_by_one(api: PodClient, pods: Sequence[Pod], settings: Settings) -> None:
    for pod in pods:
        api.delete(pod, settings.grace_period_seconds)


def _typed(cluster: Cluster, pods: Sequence[Pod], settings: Settings) -> None:
    """Delete as `_delete_pod` of cleanup-pods does, without the new client that it makes for each pod."""
    options = V1DeleteOptions(grace_period_seconds=settings.grace_period_seconds)
    for pod in pods:
        cluster.core.delete_namespaced_pod(pod.name, pod.namespace, body=options)


def _refusals(cluster: Cluster) -> int:
    """Count the requests that the API server has refused for being too many."""
    metrics = cluster.metrics()
    counts = re.findall(r'^apiserver_request_total\{.*code="429".*\} (\S+)$', metrics, re.MULTILINE)
    return sum(int(float(count)) for count in counts)
