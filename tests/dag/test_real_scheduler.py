"""One run by a real scheduler: Airflow 3 keeps tasks from the ORM only there, and Airflow 2 must get its session."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from kubernetes import client

from demo.airflow import REPO, Airflow
from demo.airflow_settings import Config
from demo.processes import end_processes_of
from demo.terminal import Terminal
from include.kpo_cleanup.airflow_compat import IS_AIRFLOW_3
from tests.conftest import HOME
from tests.dag.pods import pods_by_role
from tests.proxy import FaultProxy

TERMINAL = Terminal(0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("airflow")


@pytest.fixture(scope="module")
def airflow(folder: Path, _proxy: FaultProxy) -> Iterator[Airflow]:
    """An Airflow of its own: what other tests leave in their database is not for this scheduler."""
    config: Config = {
        "core": {"dags_are_paused_at_creation": True},
        "kpo_cleanup": {"schedule": "None", "settle_seconds": 0},
    }
    airflow = Airflow(folder, HOME / "kubeconfig.json", "airflow", config=config)
    airflow.install_dags(REPO / "tests" / "dag" / "workload.py")
    try:
        airflow.start(TERMINAL, ["kpo_cleanup", "collisions"])
        yield airflow
    finally:
        end_processes_of(folder)


def run(airflow: Airflow, dag_id: str) -> str:
    """Have the scheduler run a DAG, and wait for the end of the run; gives its run_id."""
    airflow.api.pause(dag_id, False)
    run_id = airflow.api.trigger(dag_id, {})

    def is_over() -> bool:
        return airflow.checked().run_state(dag_id, run_id) in ("success", "failed")

    TERMINAL.wait_for(f"{dag_id} is over", is_over, 180, log=airflow.log("scheduler"))
    return run_id


def states(airflow: Airflow, dag_id: str, run_id: str) -> set[tuple[str, int, str | None]]:
    return {(ti.task_id, ti.map_index, ti.state) for ti in airflow.api.task_instances(dag_id, run_id)}


@pytest.mark.timeout(900)  # each task of the oldest releases imports Airflow anew
def test_under_a_real_scheduler_the_zombies_go_and_the_live_stay(
    airflow: Airflow, folder: Path, core: client.CoreV1Api, proxy: FaultProxy
) -> None:
    core.delete_collection_namespaced_pod("airflow", grace_period_seconds=0)
    work = run(airflow, "collisions")
    assert states(airflow, "collisions", work) == {("a", 0, "failed"), ("a", 1, "failed"), ("a_1", -1, "failed")}
    # A state that the scheduler leaves as it is.
    sql = "UPDATE task_instance SET state = 'deferred' WHERE run_id = ? AND task_id = 'a' AND map_index = 1"
    with closing(sqlite3.connect(folder / "airflow.db", timeout=60)) as database, database:
        database.execute(sql, (work,))
    cleanup = run(airflow, "kpo_cleanup")
    assert states(airflow, "kpo_cleanup", cleanup) == {
        (task, -1, "success") for task in ("list_pods", "fetch_active_tis", "classify", "reap")
    }
    assert set(pods_by_role(core)) == {"collisions.a[1]#1"}
    log = next((folder / "task-logs").rglob(f"*{cleanup}*/task_id=fetch_active_tis/*.log")).read_text()
    assert ("the Task SDK" if IS_AIRFLOW_3 else "Airflow's session") in log
