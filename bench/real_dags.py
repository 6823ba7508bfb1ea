"""The DAG file of the benchmarks that run a real Airflow."""

from __future__ import annotations

import json
import os
import resource
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from include.kpo_cleanup.airflow_compat import DAG, task
from include.kpo_cleanup.dag import cleanup_dag

START = datetime(2026, 1, 1, tzinfo=UTC)
PEAKS = Path(os.environ["AIRFLOW_HOME"]) / "peaks"


def record_peak(context: dict[str, Any]) -> None:
    """Record the peak memory of the task's process, after its XComs have been read and sent."""
    ti = context["ti"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with PEAKS.open("a") as file:
        file.write(f"{json.dumps([ti.dag_id, ti.task_id, peak])}\n")


def nothing() -> None:
    """Do nothing."""


measured = {"on_success_callback": record_peak}
with DAG("nothing", schedule=None, start_date=START, default_args=measured):
    previous, *others = (task(task_id=name)(nothing)() for name in ("one", "two", "three", "four"))
    for following in others:
        previous >> following
        previous = following

cleanup_dag("kpo_cleanup_measured", default_args=measured)
# Its five scheduled runs are overdue: once it is unpaused, they follow each other without delay.
end = START + timedelta(minutes=15) * 4
cleanup_dag("kpo_cleanup_overdue", schedule="*/15 * * * *", catchup=True, start_date=START, end_date=end)
