"""A DAG file for the UI tests: tasks that finish quickly or wait for a retry, to which the pods belong.

It also contains a paused cleanup DAG for another namespace.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from include.kpo_cleanup.airflow_compat import DAG, AirflowFailException, get_current_context, task
from include.kpo_cleanup.dag import cleanup_dag

try:
    from airflow.providers.standard.operators.empty import EmptyOperator
except ImportError:
    from airflow.operators.empty import EmptyOperator


def create_dag(
    dag_id: str, succeeding: Sequence[str] = (), failing: Sequence[str] = (), retrying: Sequence[str] = ()
) -> None:
    """Create a DAG of independent tasks."""
    with DAG(dag_id, schedule=None, start_date=datetime(2024, 1, 1, tzinfo=UTC), catchup=False):
        for task_id in succeeding:
            EmptyOperator(task_id=task_id)  # succeeds without starting a process
        for task_id in failing:
            task(task_id=task_id)(fail)()
        for task_id in retrying:
            task(task_id=task_id, retries=1, retry_delay=timedelta(days=1))(fail_and_retry)()


def fail() -> None:
    raise AirflowFailException("not retried")


def fail_and_retry() -> None:
    """Record the pod of the second try, as its operator would, and fail."""
    ti = get_current_context()["ti"]
    ti.xcom_push(key="pod_name", value=f"{ti.task_id.replace('_', '-')}-retry")
    ti.xcom_push(key="pod_namespace", value="airflow")
    raise ValueError("retried")


create_dag("nightly_orders", succeeding=["extract_orders", "export_report"], failing=["load_warehouse"])
create_dag("ml_feature_refresh_for_recommendations", succeeding=["compute_customer_lifetime_value_with_full_history"])
create_dag("hourly_events", retrying=["ingest_clickstream", "publish_metrics"])
cleanup_dag(
    "kpo_cleanup_paused", settings={"namespaces": "team-paused", "settle_seconds": 0}, is_paused_upon_creation=True
)
