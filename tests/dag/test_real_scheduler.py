"""One run by a real scheduler: Airflow 3 keeps tasks from the ORM only there, and Airflow 2 must get its session."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import requests
from kubernetes import client
from tenacity import RetryError

from include.kpo_cleanup.airflow_compat import IS_AIRFLOW_3
from tests.conftest import HOME
from tests.dag.pods import pods_by_role, wait_until
from tests.proxy import FaultProxy

HERE = HOME / "real"  # an Airflow of its own: what other tests leave in their database is not for this scheduler
COMPONENTS = ["api-server", "scheduler", "dag-processor"] if IS_AIRFLOW_3 else ["scheduler"]
AIRFLOW = str(Path(sys.executable).with_name("airflow"))


def _environment() -> dict[str, str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return {
        **os.environ,
        "PATH": f"{Path(AIRFLOW).parent}{os.pathsep}{os.environ['PATH']}",  # Airflow 2 starts tasks as `airflow`
        "AIRFLOW_HOME": str(HERE),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{HERE}/airflow.db",
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(HERE / "logs"),
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor" if IS_AIRFLOW_3 else "SequentialExecutor",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{port}/execution/",
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__WORKERS__EXECUTION_API_RETRIES": "5",
        "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "30",
        "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(),
        "AIRFLOW__SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "1",
        "AIRFLOW__KPO_CLEANUP__SCHEDULE": "None",  # by hand only: each test counts what a run does
        "AIRFLOW__KPO_CLEANUP__SETTLE_SECONDS": "0",
        "NO_PROXY": "127.0.0.1",
    }


@pytest.fixture(scope="module")
def scheduler(_proxy: FaultProxy) -> Iterator[dict[str, str]]:
    """A running Airflow with the DAGs of the tests; gives its environment."""
    environment = _environment()
    HERE.mkdir(exist_ok=True)  # a second cluster in the same session
    subprocess.run([AIRFLOW, "db", "migrate"], env=environment, check=True, capture_output=True, timeout=300)
    with closing(_database()) as database:
        database.execute("PRAGMA journal_mode=WAL")  # reading must not lock out the processes of Airflow
    children = []
    for component in COMPONENTS:
        skip_logs = ["--skip-serve-logs"] if component == "scheduler" else []
        log = (HERE / f"{component}.log").open("wb")
        children.append(
            subprocess.Popen(
                [AIRFLOW, component, *skip_logs], env=environment, stdout=log, stderr=log, start_new_session=True
            )
        )
    try:
        if IS_AIRFLOW_3:  # a task that starts before the API server does fails
            wait_until(partial(_answers, int(environment["AIRFLOW__API__PORT"])), 120)
        yield environment
    finally:
        for child in children:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def _answers(port: int) -> bool:
    with suppress(OSError):
        return bool(requests.get(f"http://127.0.0.1:{port}/api/v2/version", timeout=10).ok)
    return False


def _database() -> sqlite3.Connection:
    return sqlite3.connect(HERE / "airflow.db", timeout=60)


def query(sql: str, *values: Any) -> list[Any]:
    with closing(_database()) as database, database:
        return database.execute(sql, values).fetchall()


def run(environment: dict[str, str], dag_id: str, **conf: Any) -> str:
    """Have the scheduler run a DAG, and wait for the end of the run; gives its run_id."""
    run_id = f"real:{secrets.token_hex(4)}"
    command = [AIRFLOW, "dags", "trigger", dag_id, "--conf", json.dumps(conf), "--run-id", run_id]
    try:
        wait_until(lambda: bool(query("SELECT 1 FROM serialized_dag WHERE dag_id = ?", dag_id)), 120)
        subprocess.run(command, env=environment, check=True, capture_output=True, timeout=120)
        wait_until(lambda: bool(query(f"{RUN} AND state IN ('success', 'failed')", dag_id, run_id)), 180)
    except RetryError:
        tails = (f"{name}: {(HERE / f'{name}.log').read_text()[-2000:]}" for name in COMPONENTS)
        pytest.fail("\n".join([f"{dag_id} did not end: {states(run_id)}", *tails]))
    return run_id


RUN = "SELECT 1 FROM dag_run WHERE dag_id = ? AND run_id = ?"


def states(run_id: str) -> set[tuple[str, int, str]]:
    return set(query("SELECT task_id, map_index, state FROM task_instance WHERE run_id = ?", run_id))


@pytest.mark.timeout(900)  # each task of the oldest releases imports Airflow anew
def test_under_a_real_scheduler_the_zombies_go_and_the_live_stay(
    scheduler: dict[str, str], core: client.CoreV1Api, proxy: FaultProxy
) -> None:
    core.delete_collection_namespaced_pod("airflow", grace_period_seconds=0)
    work = run(scheduler, "collisions")
    assert states(work) == {("a", 0, "failed"), ("a", 1, "failed"), ("a_1", -1, "failed")}
    # A state that the scheduler leaves as it is.
    query("UPDATE task_instance SET state = 'deferred' WHERE run_id = ? AND task_id = 'a' AND map_index = 1", work)
    cleanup = run(scheduler, "kpo_cleanup")
    assert states(cleanup) == {(task, -1, "success") for task in ("list_pods", "fetch_active_tis", "classify", "reap")}
    assert set(pods_by_role(core)) == {"collisions.a[1]#1"}
    log = next((HERE / "logs").rglob(f"*{cleanup}*/task_id=fetch_active_tis/*.log")).read_text()
    assert ("the Task SDK" if IS_AIRFLOW_3 else "Airflow's session") in log
