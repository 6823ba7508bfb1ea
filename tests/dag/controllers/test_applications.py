"""SparkApplications of the real SparkKubernetesOperator, which a simulated Spark operator runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any

import pytest
from airflow.models.dagrun import DagRun
from kubernetes import client
from packaging.version import Version

from tests.dag import airflow_runs
from tests.dag.controllers.workloads import Workloads, role
from tests.dag.pods import wait_until
from tests.proxy import FaultProxy

if Version(version("apache-airflow-providers-cncf-kubernetes")) < Version("10.8.1"):
    pytest.skip("before provider 10.8.1, the operator does not label its drivers", allow_module_level=True)

STATE_CHANGES = {"succeeded": "success", "reattached": "running"}
# By task and try.
ZOMBIES = {"abandoned#1": "orphaned"}
KEPT = {"succeeded#1": "detached", "reattached#1": "active", "completed#1": "completed"}
UNLABELLED = "not-reattaching"
EXECUTORS = 2  # of each running application
RESOURCE = ("sparkoperator.k8s.io", "v1beta2", "airflow", "sparkapplications")


class Applications(Workloads):
    dag_id = "applications"
    expected = frozenset({*ZOMBIES, *KEPT, UNLABELLED})

    def __init__(self, core: client.CoreV1Api) -> None:
        super().__init__(core)
        self._custom = client.CustomObjectsApi(core.api_client)

    def names(self) -> dict[str, str]:
        by_labels = {app["metadata"]["name"]: app["spec"]["driver"].get("labels") for app in self._list()}
        return {role(labels, name): name for name, labels in by_labels.items()}

    def delete(self) -> None:
        self._custom.delete_collection_namespaced_custom_object(*RESOURCE)

    def is_settled(self) -> bool:
        states = Counter(app["status"]["applicationState"]["state"] for app in self._list())
        return states == {"RUNNING": 4, "COMPLETED": 1} and self.pods().total() == 4 * (1 + EXECUTORS) + 1

    def prepare(self, run: DagRun) -> None:
        for task_id, state in STATE_CHANGES.items():
            airflow_runs.set_state(run, task_id, state)

    def _list(self) -> list[Any]:
        return list(self._custom.list_namespaced_custom_object(*RESOURCE)["items"])


@pytest.fixture(scope="module")
def applications(core: client.CoreV1Api, _proxy: FaultProxy) -> Iterator[Applications]:
    applications = Applications(core)
    yield applications
    applications.clear()


@pytest.fixture
def run(applications: Applications) -> DagRun:
    return applications.run()


def test_a_dry_run_finds_the_applications_that_nobody_waits_for(
    run: DagRun, proxy: FaultProxy, applications: Applications, source: dict[str, Any]
) -> None:
    cleanup = airflow_runs.run("kpo_cleanup", settle_seconds=0, dry_run=True, config=source)
    found = airflow_runs.result(cleanup, "classify")
    assert applications.verdicts(found["zombies"]) == ZOMBIES
    assert found["kept_by_reason"] == dict(Counter(KEPT.values()))
    assert {*applications.verdicts(found["untouched"])} == {role for role, reason in KEPT.items() if reason != "active"}
    assert not [line for line in proxy.requests if not line.startswith("GET ")]


def test_a_run_deletes_only_these_applications_with_their_drivers_and_executors(
    run: DagRun, proxy: FaultProxy, applications: Applications, log_text: Callable[[], str]
) -> None:
    name = applications.names()["abandoned#1"]
    cleanup = airflow_runs.run("kpo_cleanup", settle_seconds=0)
    assert airflow_runs.states(cleanup)["reap"] == "success"
    assert {*applications.names()} == {*KEPT, UNLABELLED}
    wait_until(lambda: {*applications.pods()} == {*KEPT, UNLABELLED})
    assert f"SparkApplication airflow/{name}" in log_text()
