"""A kind of workload that the package does not know, added by one class and one line of the registry."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from include.kpo_cleanup import report, xcom
from include.kpo_cleanup.classify import Snapshot, classify
from include.kpo_cleanup.constants import Outcome
from include.kpo_cleanup.kube.workloads import KubeClient
from include.kpo_cleanup.settings import Settings
from include.kpo_cleanup.workloads.kind import WorkloadKind
from include.kpo_cleanup.workloads.labels import task_fields
from include.kpo_cleanup.workloads.parse import identity
from include.kpo_cleanup.workloads.registry import KINDS
from include.kpo_cleanup.workloads.workload import Links, Workload
from tests import proxy
from tests.faults.conftest import CONN_ID
from tests.faults.runs import FAILED_ONCE, IN_TRY_2, QUICK, clean_up, source_of
from tests.faults.servers import Server
from tests.faults.world import Task

DEFINITION = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "widgets.example.com"},
    "spec": {
        "group": "example.com",
        "scope": "Namespaced",
        "names": {"kind": "Widget", "listKind": "WidgetList", "plural": "widgets", "singular": "widget"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
            }
        ],
    },
}


class WidgetKind(WorkloadKind):
    """Made-up objects that control pods of the KubernetesPodOperator."""

    api_kind = "Widget"
    group = "example.com"
    plural = "widgets"

    def parse(self, item: Mapping[str, Any], pods: Sequence[Workload]) -> Workload:
        """Parse a widget."""
        labels, phase = item["spec"]["labels"], item["spec"]["phase"]
        return Workload(
            **identity(item["metadata"]), **task_fields(labels), kind="Widget", phase=phase, links=Links(pods=len(pods))
        )


@pytest.fixture(autouse=True)
def _registered(server: Server) -> Iterator[None]:
    KINDS["Widget"] = WidgetKind()
    server.define(DEFINITION)
    yield
    del KINDS["Widget"]


@pytest.fixture
def of_all_kinds(api: KubeClient) -> KubeClient:
    """Return a client for all kinds that uses the same connection as `api`."""
    return KubeClient(CONN_ID, QUICK, kinds=KINDS.values())


def widgets(namespace: str) -> str:
    return f"/apis/example.com/v1/namespaces/{namespace}/widgets"


def create(server: Server, namespace: str, name: str, task: Task, phase: str = "Running") -> None:
    """Create a widget of a task, with two pods."""
    labels = {**task.labels, "try_number": "1"}
    body = {
        "apiVersion": "example.com/v1",
        "kind": "Widget",
        "metadata": {"name": name},
        "spec": {"labels": labels, "phase": phase},
    }
    uid = server.call("POST", widgets(namespace), body)["metadata"]["uid"]
    owner = {"apiVersion": "example.com/v1", "kind": "Widget", "name": name, "uid": uid, "controller": True}
    for number in (1, 2):
        server.create_pod(namespace, f"{name}-{number}", labels, ownerReferences=[owner])


def names(server: Server, namespace: str) -> list[str]:
    return sorted(item["metadata"]["name"] for item in server.call("GET", widgets(namespace))["items"])


def test_it_is_listed_in_place_of_its_pods_classified_and_deleted(
    server: Server, of_all_kinds: KubeClient, namespace: str
) -> None:
    create(server, namespace, "zombie", FAILED_ONCE)
    create(server, namespace, "live", IN_TRY_2)
    create(server, namespace, "finished", FAILED_ONCE, "Succeeded")
    results = clean_up(of_all_kinds, namespace, source_of(FAILED_ONCE, IN_TRY_2))
    assert {name: result.outcome for name, result in results.items()} == {"zombie": Outcome.DELETED}
    assert names(server, namespace) == ["finished", "live"]
    (request,) = (line for line in server.proxy.requests if line.startswith("DELETE"))
    assert f"{widgets(namespace)}/zombie" in request


def test_it_passes_through_xcoms_and_reports(server: Server, of_all_kinds: KubeClient, namespace: str) -> None:
    create(server, namespace, "zombie", FAILED_ONCE)
    listing = of_all_kinds.list_workloads([namespace])
    assert xcom.load_listing(xcom.dump_listing(listing)).workloads[0].kind == "Widget"
    task_instances = source_of(FAILED_ONCE).fetch([FAILED_ONCE.key])
    now = int(time.time()) + 1
    verdicts = classify(Snapshot(listing.workloads, task_instances, Settings(settle_seconds=0), now))
    (loaded,) = xcom.load_classification(xcom.dump_classification(verdicts, {})).zombies
    assert str(loaded.workload) == f"Widget {namespace}/zombie"
    assert f"Widget {namespace}/zombie and its 2 pods: " in "\n".join(report.zombie_lines(verdicts))


@pytest.mark.parametrize("verb", ["get", "delete"])
def test_the_error_names_the_rule_that_permits_it(
    server: Server, of_all_kinds: KubeClient, namespace: str, verb: str
) -> None:
    create(server, namespace, "zombie", FAILED_ONCE)
    server.proxy.spoil(f"{verb.upper()} {widgets(namespace)}", proxy.status(403, "Forbidden", "no"))
    rule = f"allow verb {verb!r} on resource 'widgets' of API group 'example.com' in a Role for namespace {namespace!r}"
    if verb == "get":
        error: Any = of_all_kinds.list_workloads([namespace]).errors_by_kind["Widget"]
    else:
        error = clean_up(of_all_kinds, namespace, source_of(FAILED_ONCE))["zombie"].error
    assert rule in error.remedy


def test_a_newer_one_never_replaces_it_because_a_retry_might_not_adopt_it(
    server: Server, of_all_kinds: KubeClient, namespace: str
) -> None:
    create(server, namespace, "first", IN_TRY_2)
    create(server, namespace, "second", IN_TRY_2)
    assert clean_up(of_all_kinds, namespace, source_of(IN_TRY_2)) == {}
