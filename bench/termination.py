"""The time from a SIGTERM in the middle of `reap` to the last deletion, and to the results of `reap`."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from statistics import median

from bench.cluster import CONN_ID, namespace_of
from bench.context import Bench
from bench.latency import LATENCIES, added_latency
from bench.reap_worker import InMemorySource
from bench.results import Figure, at_most, seconds
from include.kpo_cleanup.classify import Snapshot, classify
from include.kpo_cleanup.constants import Outcome
from include.kpo_cleanup.kube.interface import DeleteResult
from include.kpo_cleanup.kube.workloads import KubeClient
from include.kpo_cleanup.reap import reap
from include.kpo_cleanup.settings import Settings
from include.kpo_cleanup.termination import raise_on_sigterm
from include.kpo_cleanup.workloads.workload import Workload

ZOMBIES = 1_000
DELETED_BEFORE_SIGTERM = 250  # in the middle of a batch
GRACE_SECONDS = 5  # after which Airflow 3 sends SIGKILL


class TerminatedClient(KubeClient):
    """A client that sends SIGTERM to its own process after ``DELETED_BEFORE_SIGTERM`` deletions."""

    def __init__(self, conn_id: str) -> None:
        super().__init__(conn_id)
        self.ended: list[float] = []  # when the response to each deletion arrived
        self.terminated_at = 0.0

    def delete(self, workload: Workload, grace_period_seconds: int) -> DeleteResult:
        result = super().delete(workload, grace_period_seconds)
        self.ended.append(time.monotonic())
        if len(self.ended) >= DELETED_BEFORE_SIGTERM and not self.terminated_at:
            self.terminated_at = time.monotonic()
            os.kill(os.getpid(), signal.SIGTERM)
        return result


def measure(bench: Bench) -> Iterator[Figure]:
    cluster, namespace = bench.cluster, namespace_of(900_002)
    settings = Settings(namespaces=namespace, max_deletes=ZOMBIES, settle_seconds=0)
    for place, latency in LATENCIES.items():
        bench.progress(f"SIGTERM during the deletion of {ZOMBIES:,} zombies, API server {place}")
        times = []
        for _ in range(bench.repetitions):
            cluster.put(namespace, range(ZOMBIES), is_zombie=True)
            with added_latency(latency):
                times.append(_terminate(settings))
        last, end = map(median, zip(*times, strict=True))
        measurement, size = f"from SIGTERM to the results of `reap`, API server {place}", f"{ZOMBIES:,} zombies"
        ours = f"{seconds(end)}; last deletion after {seconds(last)}"
        yield Figure(measurement, "SIGKILL", size, ours, seconds(GRACE_SECONDS), end, at_most(GRACE_SECONDS, "s"))


def _terminate(settings: Settings) -> tuple[float, float]:
    """Return the seconds from SIGTERM to the response to the last deletion, and to the return of `reap`."""
    client = TerminatedClient(CONN_ID)
    pods = client.list_workloads(settings.namespace_list()).workloads
    source = InMemorySource(pods)
    zombies = [v for v in classify(Snapshot(pods, source.task_instances, settings, int(time.time()))) if v.is_zombie]
    with raise_on_sigterm():
        results = reap(zombies, client, source, settings, settings.namespace_list())
    end = time.monotonic()
    if not any(result.outcome is Outcome.LEFT_FOR_NEXT_RUN for result in results):
        raise RuntimeError("reap was not terminated")
    return max(client.ended) - client.terminated_at, end - client.terminated_at
