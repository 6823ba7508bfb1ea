"""A DAG file for the UI tests: task instances that are soon over, or wait for a retry, for pods to belong to.

And a cleanup of its own namespace, which nobody has unpaused.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from include.kpo_cleanup.airflow_compat import DAG, AirflowFailException, task
from include.kpo_cleanup.dag import cleanup_dag

try:
    from airflow.providers.standard.operators.empty import EmptyOperator
except ImportError:
    from airflow.operators.empty import EmptyOperator


def make(
    dag_id: str, succeeding: Sequence[str] = (), failing: Sequence[str] = (), retrying: Sequence[str] = ()
) -> None:
    """A DAG of independent tasks."""
    with DAG(dag_id, schedule=None, start_date=datetime(2024, 1, 1, tzinfo=UTC), catchup=False):
        for task_id in succeeding:
            EmptyOperator(task_id=task_id)  # over without a process
        for task_id in failing:
            task(task_id=task_id)(fail)()
        for task_id in retrying:
            task(task_id=task_id, retries=1, retry_delay=timedelta(days=1))(stumble)()


def fail() -> None:
    raise AirflowFailException("for good")


def stumble() -> None:
    raise ValueError("for now")


make("nightly_orders", succeeding=["extract_orders", "export_report"], failing=["load_warehouse"])
make("ml_feature_refresh_for_recommendations", succeeding=["compute_customer_lifetime_value_with_full_history"])
make("hourly_events", retrying=["ingest_clickstream", "publish_metrics"])
cleanup_dag(
    "kpo_cleanup_paused", settings={"namespaces": "team-paused", "settle_seconds": 0}, is_paused_upon_creation=True
)
