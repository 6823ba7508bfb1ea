"""Listing and deleting SparkApplications over HTTP, with faults one at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from demo.cluster.spark_application import DEFINITION
from include.kpo_cleanup.constants import Outcome
from include.kpo_cleanup.kube.interface import CONCURRENT_DELETES
from include.kpo_cleanup.kube.workloads import KubeClient
from include.kpo_cleanup.workloads.registry import KINDS
from tests import proxy
from tests.faults.conftest import CONN_ID, PAGE_SIZE
from tests.faults.jobs import create_job
from tests.faults.runs import FAILED_ONCE, IN_TRY_2, QUICK, clean_up, outcomes, source_of
from tests.faults.servers import Server
from tests.faults.world import Task

API = "sparkoperator.k8s.io/v1beta2"
GET_APPLICATION = "GET /apis/sparkoperator"
LIST_DRIVERS = "GET .*spark-role"


@pytest.fixture
def _defined(server: Server) -> None:
    server.define(DEFINITION)


@pytest.fixture
def client(api: KubeClient) -> KubeClient:
    """Return a client for all kinds that uses the same connection as `api`."""
    return KubeClient(CONN_ID, QUICK, PAGE_SIZE, KINDS.values())


def applications(namespace: str) -> str:
    return f"/apis/{API}/namespaces/{namespace}/sparkapplications"


def labels_of(task: Task, role: str) -> dict[str, str]:
    """Return the labels of the pods of an application."""
    ours = {name: value for name, value in task.labels.items() if name != "kubernetes_pod_operator"}
    return {**ours, "try_number": "1", "spark_kubernetes_operator": "True", "spark-role": role}


def create_driver(server: Server, namespace: str, name: str, task: Task, uid: str = "1") -> None:
    """Create the driver and an executor of an application, like the Spark operator."""
    owner = {"apiVersion": API, "kind": "SparkApplication", "name": name, "uid": uid, "controller": True}
    driver = server.create_pod(namespace, f"{name}-driver", labels_of(task, "driver"), ownerReferences=[owner])
    owner = {"apiVersion": "v1", "kind": "Pod", "name": f"{name}-driver", "uid": driver["metadata"]["uid"]}
    server.create_pod(
        namespace, f"{name}-exec-1", labels_of(task, "executor"), ownerReferences=[{**owner, "controller": True}]
    )


def create_application(server: Server, namespace: str, name: str, task: Task) -> Mapping[str, Any]:
    """Create an application of the first try of a task, with its pods."""
    body = {
        "apiVersion": API,
        "kind": "SparkApplication",
        "metadata": {"name": name},
        "spec": {"driver": {"labels": labels_of(task, "driver")}},
    }
    app: Mapping[str, Any] = server.call("POST", applications(namespace), body)
    create_driver(server, namespace, name, task, app["metadata"]["uid"])
    return app


def names(server: Server, namespace: str) -> set[str]:
    return {item["metadata"]["name"] for item in server.call("GET", applications(namespace))["items"]}


@pytest.mark.usefixtures("_defined")
class TestApplications:
    def test_an_application_takes_the_place_of_its_driver_and_executors_are_not_listed(
        self, server: Server, client: KubeClient, namespace: str
    ) -> None:
        create_application(server, namespace, "app", FAILED_ONCE)
        server.create_pod(namespace, "plain", {**FAILED_ONCE.labels, "try_number": "1"})
        assert {str(each) for each in client.list_workloads([namespace]).workloads} == {
            f"SparkApplication {namespace}/app",
            f"{namespace}/plain",
        }

    def test_the_application_of_a_finished_task_is_deleted_and_not_its_driver(
        self, server: Server, client: KubeClient, namespace: str
    ) -> None:
        create_application(server, namespace, "zombie", FAILED_ONCE)
        create_application(server, namespace, "live", IN_TRY_2)
        results = clean_up(client, namespace, source_of(FAILED_ONCE, IN_TRY_2))
        assert outcomes(results) == {"zombie": Outcome.DELETED}
        assert names(server, namespace) == {"live"}
        # No garbage collector runs here, which would delete the pods.
        assert len(server.pods(namespace)) == 4

    def test_the_last_lines_of_the_driver_are_saved(self, server: Server, client: KubeClient, namespace: str) -> None:
        create_application(server, namespace, "app", FAILED_ONCE)
        server.start(namespace, "app-driver")
        server.proxy.spoil("/pods/app-driver/log", proxy.answer(200, "one\ntwo\n", "text/plain"))
        result = clean_up(client, namespace, source_of(FAILED_ONCE), last_log_lines=2)["app"]
        assert (result.outcome, result.log) == (Outcome.DELETED, ("one", "two"))

    def test_a_selector_narrows_the_listing_of_drivers(
        self, server: Server, client: KubeClient, namespace: str
    ) -> None:
        create_application(server, namespace, "app", FAILED_ONCE)
        assert client.list_workloads([namespace], "team=a").workloads == []

    def test_drivers_stay_owned_if_their_applications_cannot_be_read(
        self, server: Server, client: KubeClient, namespace: str
    ) -> None:
        rule = "'get' on resource 'sparkapplications' of API group 'sparkoperator.k8s.io'"
        create_application(server, namespace, "app", FAILED_ONCE)
        server.proxy.spoil(GET_APPLICATION, proxy.status(403, "Forbidden", "no"))
        listing = client.list_workloads([namespace])
        assert [(str(each), each.is_owned) for each in listing.workloads] == [(f"{namespace}/app-driver", True)]
        assert listing.errors_by_namespace == {}
        assert rule in listing.errors_by_kind["SparkApplication"].remedy

    def test_the_error_names_the_rule_that_permits_deleting_applications(
        self, server: Server, client: KubeClient, namespace: str
    ) -> None:
        create_application(server, namespace, "app", FAILED_ONCE)
        server.proxy.spoil("DELETE ", proxy.status(403, "Forbidden", "no"))
        error = clean_up(client, namespace, source_of(FAILED_ONCE))["app"].error
        assert error is not None
        assert "'delete' on resource 'sparkapplications' of API group 'sparkoperator.k8s.io'" in error.remedy

    def test_applications_whose_conversion_webhook_is_down_do_not_delay_jobs(
        self, server: Server, client: KubeClient, namespace: str
    ) -> None:
        for number in range(3 * CONCURRENT_DELETES):
            create_application(server, namespace, f"app-{number}", FAILED_ONCE)
            create_job(server, namespace, f"job-{number}", FAILED_ONCE)
        found = client.list_workloads([namespace]).workloads
        mixed = sorted(found, key=lambda workload: workload.name.split("-")[1])
        server.proxy.heal()
        server.proxy.spoil(GET_APPLICATION, proxy.status(500, "InternalError", "webhook: connection refused"))
        again = client.list_workloads([namespace], known=mixed)
        reads = sum(line.startswith(GET_APPLICATION) for line in server.proxy.requests)
        assert reads <= 2 * CONCURRENT_DELETES * QUICK.attempts
        assert sum(workload.kind == "Job" for workload in again.workloads) == 3 * CONCURRENT_DELETES
        assert {workload.is_owned for workload in again.workloads if workload.kind == "Pod"} == {True}
        assert "10 in a row could not be read" in str([*again.unread.values()][-1])


def test_a_forbidden_listing_of_drivers_affects_nothing_else(
    server: Server, client: KubeClient, namespace: str
) -> None:
    server.create_pod(namespace, "plain", {**FAILED_ONCE.labels, "try_number": "1"})
    server.proxy.spoil(LIST_DRIVERS, proxy.forbidden("list", namespace))
    listing = client.list_workloads([namespace])
    assert [str(each) for each in listing.workloads] == [f"{namespace}/plain"]
    assert (listing.errors_by_namespace, [*listing.errors_by_kind]) == ({}, ["SparkApplication"])


def test_without_the_definition_a_driver_stays_owned(server: Server, client: KubeClient, namespace: str) -> None:
    server.undefine(DEFINITION)
    create_driver(server, namespace, "app", FAILED_ONCE)
    listing = client.list_workloads([namespace])
    assert [(str(each), each.is_owned) for each in listing.workloads] == [(f"{namespace}/app-driver", True)]
    assert listing.errors_by_kind["SparkApplication"].remedy == (
        "check that the cluster serves 'sparkapplications' of API group 'sparkoperator.k8s.io', "
        "or remove sparkapplications from kinds"
    )


def test_a_driver_without_a_controller_is_not_listed(server: Server, client: KubeClient, namespace: str) -> None:
    server.create_pod(namespace, "lonely-driver", labels_of(FAILED_ONCE, "driver"))
    assert client.list_workloads([namespace]).workloads == []
