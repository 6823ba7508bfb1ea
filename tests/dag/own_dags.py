"""A user's own DAG file: one cleanup per cluster, with a callback for failed runs.

The other cleanups use Airflow's REST API, run on demand or continuously, or have invalid settings, which must not
affect the others.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from include.kpo_cleanup.dag import cleanup_dag

FAILED_RUNS = Path(os.environ["AIRFLOW_HOME"]) / "failed-runs"


def record_failure(context: dict[str, Any]) -> None:
    """Append the id of a DAG whose run has failed to a file."""
    with FAILED_RUNS.open("a") as file:
        file.write(f"{context['dag'].dag_id}\n")


for name in ("cpu", "gpu"):
    cleanup_dag(
        f"kpo_cleanup_{name}",
        settings={"kubernetes_conn_id": name, "namespaces": "airflow", "settle_seconds": 0},
        schedule=None,
        on_failure_callback=record_failure,
    )
cleanup_dag(
    "kpo_cleanup_by_rest",
    settings={"airflow_conn_id": "airflow_api", "namespaces": "airflow", "settle_seconds": 0, "max_deletes": 1},
    schedule=None,
)
cleanup_dag("kpo_cleanup_on_demand", settings={"namespaces": "airflow,other"}, schedule=None)
cleanup_dag("kpo_cleanup_continuous", settings={"namespaces": "other", "dry_run": True}, schedule="@continuous")
cleanup_dag("kpo_cleanup_with_mistakes", settings={"dryrun": True, "max_deletes": 0}, schedule="@sometimes")
