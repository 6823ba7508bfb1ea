"""The XComs of earlier runs that remain in the database after a newer run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from airflow.models.dagrun import DagRun
from kubernetes import client

from tests.dag import airflow_runs
from tests.dag.pods import NO_SCHEDULER, create, labels_of, wait_for_another_second
from tests.proxy import FaultProxy

NAMESPACE = "default"
INPUTS = {"list_pods", "fetch_active_tis"}


def clean_up(run_type: str, state: str = "success", **config: Any) -> DagRun:
    """Run the cleanup, then set the type and the state of the run."""
    run = airflow_runs.run("kpo_cleanup", config={"namespaces": NAMESPACE, **config})
    assert run.state == "success"
    airflow_runs.set_run(run, run_type, state)
    return run


@pytest.fixture(scope="module")
def runs(core: client.CoreV1Api, _proxy: FaultProxy) -> Iterator[dict[str, DagRun]]:
    """Run the cleanup several times, in this order; each run deletes XComs of earlier runs."""
    create(core, "kept", {"kubernetes_pod_operator": "True"}, NAMESPACE)  # without a pod, all later tasks are skipped
    create(core, "zombie", labels_of("of", "another", "airflow"), NAMESPACE, NO_SCHEDULER)
    wait_for_another_second()  # an unmatched pod must be older than settle_seconds
    yield {
        "first": clean_up("scheduled", delete_unmatched_pods=True, settle_seconds=0),
        "failed": clean_up("scheduled", "failed"),
        "running": clean_up("scheduled", "running"),
        "before manual": clean_up("scheduled"),
        "manual": clean_up("manual"),
        "before newest": clean_up("scheduled"),
        "newest": clean_up("scheduled"),
    }
    core.delete_namespaced_pod("kept", NAMESPACE, grace_period_seconds=0)


@pytest.mark.parametrize(
    ("run", "left"),
    [
        pytest.param("first", {"classify", "reap"}, id="a scheduled run that succeeded keeps its verdicts and report"),
        pytest.param("failed", {"classify"} | INPUTS, id="a failed run keeps all"),
        pytest.param("running", {"classify"} | INPUTS, id="a running run keeps all"),
        pytest.param("before manual", {"classify"}, id="a scheduled run before a manual one keeps its verdicts"),
        pytest.param("manual", {"classify"} | INPUTS, id="a manual run keeps all"),
        pytest.param("before newest", {"classify"}, id="the run before the newest keeps its verdicts"),
        pytest.param("newest", {"classify"} | INPUTS, id="the newest run keeps all"),
    ],
)
def test_a_newer_run_deletes_the_inputs_of_the_last_scheduled_success_only(
    runs: dict[str, DagRun], run: str, left: set[str]
) -> None:
    assert airflow_runs.tasks_with_result(runs[run]) == left


def test_xcoms_that_were_already_deleted_are_not_looked_up_again(
    runs: dict[str, DagRun], log_output: Callable[[], str]
) -> None:
    airflow_runs.set_run(runs["newest"], "scheduled", "failed")
    clean_up("manual", "failed")  # the run before the newest succeeded, and its XComs are deleted
    assert "XCom not found" not in log_output()


def test_a_failed_deletion_of_xcoms_is_a_warning_in_the_log(
    runs: dict[str, DagRun], caplog: pytest.LogCaptureFixture
) -> None:
    airflow_runs.set_run(runs["newest"], "scheduled", "success")
    with airflow_runs.deletion_of_xcoms_failing(runs["newest"]):
        clean_up("manual")
    assert airflow_runs.tasks_with_result(runs["newest"]) == {"classify"} | INPUTS
    warnings = " ".join(record.getMessage().strip() for record in caplog.records if record.levelname == "WARNING")
    expected = f"The XComs of list_pods and fetch_active_tis of earlier run {runs['newest'].run_id} were not deleted: "
    assert expected in warnings
