"""The XComs of earlier runs that are left in the database after a newer run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from airflow.models.dagrun import DagRun
from kubernetes import client

from tests.dag import airflow_runs
from tests.dag.pods import create, labels_of, wait_for_another_second, wait_until
from tests.proxy import FaultProxy

NAMESPACE = "default"
INPUTS = {"list_pods", "fetch_active_tis"}


def clean_up(run_type: str, state: str = "success", **config: Any) -> DagRun:
    """Run the cleanup; the run has this type and state from then on."""
    run = airflow_runs.run("kpo_cleanup", config={"namespaces": NAMESPACE, **config})
    assert run.state == "success"
    airflow_runs.set_run(run, run_type, state)
    return run


@pytest.fixture(scope="module")
def runs(core: client.CoreV1Api, _proxy: FaultProxy) -> dict[str, DagRun]:
    """Run the cleanup several times, in this order; each run removes XComs of those before it."""
    create(core, "zombie", labels_of("of", "another", "airflow"), NAMESPACE)
    wait_until(lambda: core.read_namespaced_pod("zombie", NAMESPACE).status.phase == "Running")
    wait_for_another_second()  # an unmatched pod must be older than settle_seconds
    return {
        "first": clean_up("scheduled", delete_unmatched_pods=True, settle_seconds=0),
        "failed": clean_up("scheduled", "failed"),
        "running": clean_up("scheduled", "running"),
        "before a manual one": clean_up("scheduled"),
        "manual": clean_up("manual"),
        "before the newest": clean_up("scheduled"),
        "newest": clean_up("scheduled"),
    }


@pytest.mark.parametrize(
    ("run", "left"),
    [
        pytest.param("first", {"classify", "reap"}, id="a scheduled one that succeeded has its verdicts and report"),
        pytest.param("failed", {"classify"} | INPUTS, id="one that failed has all"),
        pytest.param("running", {"classify"} | INPUTS, id="one that goes on has all"),
        pytest.param("before a manual one", {"classify"}, id="one before a manual one has its verdicts"),
        pytest.param("manual", {"classify"} | INPUTS, id="a manual one has all"),
        pytest.param("before the newest", {"classify"}, id="one before the newest has its verdicts"),
        pytest.param("newest", {"classify"} | INPUTS, id="the newest has all"),
    ],
)
def test_of_the_runs(runs: dict[str, DagRun], run: str, left: set[str]) -> None:
    assert airflow_runs.tasks_with_result(runs[run]) == left


def test_what_is_gone_already_is_not_asked_for_in_vain(runs: dict[str, DagRun], said: Callable[[], str]) -> None:
    airflow_runs.set_run(runs["newest"], "scheduled", "failed")
    clean_up("manual", "failed")  # the one before the newest succeeded, and has nothing left
    assert "XCom not found" not in said()


def test_a_failure_to_remove_is_one_line_in_the_log(runs: dict[str, DagRun], caplog: pytest.LogCaptureFixture) -> None:
    airflow_runs.set_run(runs["newest"], "scheduled", "success")
    with airflow_runs.keeping_xcoms_of(runs["newest"]):
        clean_up("manual")
    assert airflow_runs.tasks_with_result(runs["newest"]) == {"classify"} | INPUTS
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    [line] = [line for line in warnings if "earlier run" in line]
    assert line.startswith(f"The listing and task instances of earlier run {runs['newest'].run_id} were not deleted: ")
