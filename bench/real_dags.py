"""A DAG file for a real Airflow of the benchmarks."""

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


def note_peak(context: dict[str, Any]) -> None:
    """Write down how much memory the task's process had at most; its XComs have been read and sent by now."""
    ti = context["ti"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with PEAKS.open("a") as file:
        file.write(f"{json.dumps([ti.dag_id, ti.task_id, peak])}\n")


def nothing() -> None:
    """Do nothing."""


measured = {"on_success_callback": note_peak}
with DAG("nothing", schedule=None, start_date=START, default_args=measured):
    first, *others = (task(task_id=name)(nothing)() for name in ("one", "two", "three", "four"))
    for then in others:
        first >> then
        first = then

cleanup_dag("kpo_cleanup_measured", default_args=measured)
# Its five scheduled runs are overdue, and follow each other at once.
end = START + timedelta(minutes=15) * 4
cleanup_dag("kpo_cleanup_overdue", schedule="*/15 * * * *", catchup=True, start_date=START, end_date=end)
