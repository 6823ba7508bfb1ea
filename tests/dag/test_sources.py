"""Sources of another Airflow, or with an old copy of the data: the run fails, and nothing is deleted."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.models.dagrun import DagRun
from airflow.utils.session import create_session
from kubernetes import client

from include.kpo_cleanup.airflow_compat import IS_AIRFLOW_3
from tests.conftest import HOME
from tests.dag import airflow_runs
from tests.dag.pods import NO_SCHEDULER, create, labels_of, wait_until
from tests.proxy import FaultProxy

NAMESPACE = "other"
only_airflow_3 = pytest.mark.skipif(not IS_AIRFLOW_3, reason="Airflow 2 has no connection to the metadata database")


@pytest.fixture(scope="module")
def finished_run(core: client.CoreV1Api, _proxy: FaultProxy) -> DagRun:
    """Run tasks until all have finished."""
    run = airflow_runs.run("collisions")
    core.delete_collection_namespaced_pod("airflow", label_selector="dag_id=collisions", grace_period_seconds=0)
    return run


@pytest.fixture
def zombies(proxy: FaultProxy, core: client.CoreV1Api, finished_run: DagRun) -> Iterator[set[str]]:
    """Create a pod whose task instance has finished, and one without a task instance."""
    create(core, "zombie", labels_of("collisions", "a_1", finished_run.run_id), NAMESPACE, NO_SCHEDULER)
    create(core, "unmatched", labels_of("collisions", "a_1", "never"), NAMESPACE, NO_SCHEDULER)
    youngest = max(pod.metadata.creation_timestamp for pod in core.list_namespaced_pod(NAMESPACE).items)
    wait_until(lambda: datetime.now(UTC) - youngest > timedelta(seconds=2))  # older than settle_seconds=0
    yield {"zombie", "unmatched"}
    core.delete_collection_namespaced_pod(NAMESPACE, grace_period_seconds=0)
    wait_until(lambda: names(core) == set())


def names(core: client.CoreV1Api) -> set[str]:
    return {pod.metadata.name for pod in core.list_namespaced_pod(NAMESPACE).items}


def clean_up(before: tuple[str, Callable[[Any], object]] | None = None, **config: Any) -> DagRun:
    config = {"delete_unmatched_pods": True, **config}
    return airflow_runs.run("kpo_cleanup", before, config, settle_seconds=0, namespaces=NAMESPACE)


def copy_database(path: Path) -> None:
    with closing(sqlite3.connect(HOME / "airflow.db")) as source, closing(sqlite3.connect(path)) as target:
        source.backup(target)


def copy_schema(path: Path) -> None:
    copy_database(path)
    with closing(sqlite3.connect(path)) as database:
        for table in ("xcom", "task_instance", "dag_run"):
            database.execute(f"DELETE FROM {table}")
        database.commit()


def fail_own_task(task_id: str) -> None:
    """Mark the cleanup's task as failed, as a user would in the UI."""
    with create_session() as session:
        run = session.query(DagRun).filter(DagRun.dag_id == "kpo_cleanup").order_by(DagRun.id.desc()).first()
        session.expunge_all()
    airflow_runs.set_state(run, task_id, "failed")


@only_airflow_3
@pytest.mark.parametrize(
    "make", [copy_database, copy_schema], ids=["a copy from before the run", "a database without runs"]
)
def test_a_connection_to_another_database_fails_the_run(
    core: client.CoreV1Api,
    zombies: set[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    log_output: Callable[[], str],
    make: Callable[[Path], None],
) -> None:
    make(tmp_path / "airflow.db")
    connection = {"conn_type": "sqlite", "host": f"{tmp_path}/airflow.db"}
    monkeypatch.setenv("AIRFLOW_CONN_ELSEWHERE", json.dumps(connection))
    run = clean_up(airflow_conn_id="elsewhere")
    assert airflow_runs.states(run)["fetch_active_tis"] == "failed"
    assert airflow_runs.states(run)["reap"] == "upstream_failed"
    assert "this task, kpo_cleanup.fetch_active_tis of run" in log_output()
    assert names(core) == zombies


@only_airflow_3
def test_reap_fails_if_the_connection_now_leads_to_another_database(
    core: client.CoreV1Api, zombies: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def redirect(_: Any) -> None:
        copy_schema(tmp_path / "airflow.db")
        monkeypatch.setenv(
            "AIRFLOW_CONN_METADATA", json.dumps({"conn_type": "sqlite", "host": f"{tmp_path}/airflow.db"})
        )

    run = clean_up(("reap", redirect), airflow_conn_id="metadata")
    assert airflow_runs.states(run)["reap"] == "failed"
    assert names(core) == zombies


@pytest.mark.parametrize("task_id", ["fetch_active_tis", "reap"])
def test_a_task_that_was_marked_as_failed_deletes_nothing(
    core: client.CoreV1Api, zombies: set[str], task_id: str, log_output: Callable[[], str]
) -> None:
    clean_up((task_id, lambda _: fail_own_task(task_id)))
    # Airflow 2 logs no exception of a task that was marked as failed, if it may be retried.
    is_logged = "is 'failed' there instead of 'running'" in log_output()
    assert is_logged == (task_id == "reap" or IS_AIRFLOW_3)
    assert names(core) == zombies


def test_the_runs_own_airflow_passes_the_check(core: client.CoreV1Api, zombies: set[str]) -> None:
    assert clean_up().state == "success"
    assert names(core) == set()


@only_airflow_3
def test_a_connection_to_the_runs_own_database_passes_the_check(core: client.CoreV1Api, zombies: set[str]) -> None:
    assert clean_up(airflow_conn_id="metadata").state == "success"
    assert names(core) == set()
