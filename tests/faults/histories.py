"""Set up and run random histories."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from demo.cluster import EmbeddedCluster
from demo.cluster.spark_application import DEFINITION
from include.kpo_cleanup.kube.workloads import KubeClient
from include.kpo_cleanup.workloads.registry import KINDS
from tests.faults import world
from tests.faults.conftest import CONN_ID
from tests.faults.machine import BRIEF, BYPASS, MAX_TICK, PAGE_SIZE, PATIENT, Airflow
from tests.faults.servers import connection, without_http
from tests.faults.world import TALLY


@contextmanager
def set_up(kind: type[Airflow]) -> Iterator[None]:
    """Set up what all histories of a machine share: an API server behind a proxy, and a clock."""
    now, elapsed, ahead, lock = float(world.START), 0.0, 0.0, threading.Lock()
    last = time.monotonic()

    def set_clock_offset(seconds: float) -> None:
        nonlocal ahead
        ahead = seconds

    def time_passes(seconds: float) -> None:
        nonlocal now, elapsed
        with lock:  # each request may advance the clock in a thread of its own
            now, elapsed = now + seconds, elapsed + seconds

    def monotonic() -> float:
        nonlocal last, elapsed
        with lock:
            before, last = last, time.monotonic()
            elapsed += min(last - before, MAX_TICK)
            return elapsed

    def server_time() -> datetime:
        return datetime.fromtimestamp(now + ahead, UTC)

    with (
        pytest.MonkeyPatch.context() as patch,
        EmbeddedCluster(kubelet=False, now=server_time) as cluster,
        without_http(cluster) as server,
    ):
        server.define(DEFINITION)
        for conn_id, url in ((CONN_ID, server.proxy.url), (BYPASS, server.url)):
            patch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(connection({"server": url})))
        kind.server, kind.clock, kind.time_passes = server, staticmethod(lambda: now), staticmethod(time_passes)
        kind.set_clock_offset = staticmethod(set_clock_offset)
        kind.monotonic = staticmethod(monotonic)
        kind.brief_client, kind.patient_client = (
            KubeClient(CONN_ID, BRIEF, PAGE_SIZE, KINDS.values()),
            KubeClient(CONN_ID, PATIENT, PAGE_SIZE, KINDS.values()),
        )
        kind.prepare(patch)
        yield


def run_histories(kind: type[Airflow], histories: int, of_seed: int | None = None) -> int:
    """Run random histories, with the profile's seed or with this one, and return how many ran."""
    before = TALLY["histories"]
    run_state_machine_as_test(
        kind if of_seed is None else seed(of_seed)(kind),
        settings=settings(
            max_examples=histories,
            stateful_step_count=8,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            print_blob=False,
        ),
    )
    return TALLY["histories"] - before
