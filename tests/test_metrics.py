"""The counters reach Airflow's metrics: read from the network, as a StatsD server does."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

from tests.conftest import REPO

COUNT = """
from include.kpo_cleanup.airflow_compat import AIRFLOW_RELEASE, count_metric

if AIRFLOW_RELEASE == (3, 2):  # there the task runner sets the metrics up; the others do so by themselves
    from airflow.sdk.observability.metrics.stats_utils import get_stats_factory
    from airflow.sdk.observability.stats import Stats

    Stats.initialize(factory=get_stats_factory(Stats))
count_metric("reason", {"active": 3, "orphaned": 2})
"""


def test_counters_go_out_by_reason() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as statsd:
        statsd.bind(("127.0.0.1", 0))
        statsd.settimeout(30)
        environment = {
            **os.environ,
            "PYTHONPATH": str(REPO),
            "AIRFLOW__METRICS__STATSD_ON": "True",
            "AIRFLOW__METRICS__STATSD_HOST": "127.0.0.1",
            "AIRFLOW__METRICS__STATSD_PORT": str(statsd.getsockname()[1]),
        }
        subprocess.run([sys.executable, "-c", COUNT], env=environment, check=True, capture_output=True, timeout=120)
        received: set[bytes] = set()
        while not any(line.endswith(b"orphaned:2|c") for line in received):
            received.add(statsd.recv(1000))
    assert {b"airflow.kpo_cleanup.reason.active:3|c", b"airflow.kpo_cleanup.reason.orphaned:2|c"} <= received
