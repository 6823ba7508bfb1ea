"""Compare the cleanup with the expected verdicts: real operators, real DAG runs, and all four tasks over HTTP."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from airflow.models.dagrun import DagRun
from kubernetes import client

from include.kpo_cleanup.airflow_compat import AIRFLOW_RELEASE, IS_AIRFLOW_3
from include.kpo_cleanup.identity import to_label_value
from tests.conftest import HOME
from tests.dag import airflow_runs, workload
from tests.dag.pods import NO_SCHEDULER, Pods, create, labels_of, pods_by_role, restore, role, wait_until
from tests.proxy import FaultProxy

pytestmark = pytest.mark.long

LONG = to_label_value(workload.LONG)

# States that task instances get after the run, which all of them finish.
STATE_CHANGES: list[tuple[str, str, int, str | None]] = [
    ("workload", "stalled", -1, "running"),
    ("workload", "subclass", -1, "running"),
    ("workload", "retrying", -1, "up_for_retry"),
    ("workload", "reattached", -1, "running"),
    ("workload", "replaced", -1, "running"),
    ("workload", "checked", -1, "running"),
    ("workload", workload.LONG, -1, "deferred"),
    ("workload", "mapped", 0, None),
    ("workload", "group.member", -1, "removed"),
    ("workload", "a", 1, "running"),
    ("collisions", "a_1", -1, "running"),
]
ZOMBIES = {
    "workload.sidecar#1": "orphaned",
    "workload.eks#1": "orphaned",
    "workload.replaced#1": "superseded",
    "workload.mapped[1]#1": "orphaned",
    "workload.group.member#1": "orphaned",
    "workload.a[0]#1": "orphaned",
    "workload.a_1#1": "orphaned",  # although a[1], which the Task SDK also calls a_1, is running
    "collisions.a[0]#1": "orphaned",
    "collisions.a[1]#1": "orphaned",  # although a_1 is running
    f"{LONG}.task#1": "orphaned",
}
KEPT = {
    "workload.stalled#1": "stalled",
    "workload.subclass#1": "active",
    "workload.retrying#1": "active",
    "workload.reattached#1": "active",  # the task is at try 2, and has adopted the pod of try 1
    "workload.replaced#2": "active",
    f"workload.{LONG}#1": "active",
    "workload.mapped[0]#1": "active",  # cleared: its state is NULL
    "workload.a[1]#1": "active",
    "collisions.a_1#1": "active",
    "workload.kept#1": "completed",
    "workload.broken#1": "completed",
    "workload.decorated#1": "completed",
    "workload.job#1": "owned",
    "workload.protected#1": "protected",
    "staging.task#1": "unmatched",
    "unlabeled": "bad_labels",
}
# Its operator is at try 2, and has no pod yet. Before Airflow 3.2, the Task SDK returns no try numbers.
CHECKED_POD = "workload.checked#1"


@pytest.fixture(scope="module")
def runs(core: client.CoreV1Api, _proxy: FaultProxy) -> dict[str, DagRun]:
    """Run each test DAG once; all tests of this module use its pods and task instances."""
    core.delete_collection_namespaced_pod("airflow", grace_period_seconds=0)
    wait_until(lambda: not pods_by_role(core))
    runs = {dag_id: airflow_runs.run(dag_id) for dag_id in ("workload", "collisions", workload.LONG)}
    # The label has only a hash of this id, which the Task SDK needs. A file in the cleanup's own bundle contains it.
    (HOME / "dags" / "generated_dags.json").write_text(json.dumps({"dag_id": workload.LONG}))
    for dag_id, task_id, map_index, state in STATE_CHANGES:
        airflow_runs.set_state(runs[dag_id], task_id, state, map_index)
    run_id = runs["workload"].run_id
    owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "nightly", "uid": "1", "controller": True}
    create(core, "job", labels_of("workload", "job", run_id), ownerReferences=[owner])
    create(core, "protected", labels_of("workload", "protected", run_id), annotations={"kpo-cleanup/protect": "true"})
    create(core, "checked", {**labels_of("workload", "checked", run_id), "already_checked": "True"})
    create(core, "staging", labels_of("staging", "task", run_id), scheduler=NO_SCHEDULER)
    create(core, "unlabeled", {"kubernetes_pod_operator": "True", "app": "web"})
    # Not checked, and with a label that a mesh writes, which the pod of try 2 does not have.
    labels = {"already_checked": None, "service.istio.io/canonical-revision": "v1"}
    name = pods_by_role(core)["workload.replaced#1"].metadata.name
    core.patch_namespaced_pod(name, "airflow", {"metadata": {"labels": labels}})
    airflow_runs.delete_xcom(runs["workload"], "eks", "pod_namespace")  # a record without a namespace
    expected = {*ZOMBIES, *KEPT, CHECKED_POD}
    wait_until(lambda: set(pods_by_role(core)) == expected and _are_settled(pods_by_role(core)))
    return runs


def _are_settled(pods: Pods) -> bool:
    return all(pod.status.phase != "Pending" or pod.spec.scheduler_name == NO_SCHEDULER for pod in pods.values())


@pytest.fixture
def pods(core: client.CoreV1Api, runs: dict[str, DagRun]) -> Iterator[Pods]:
    """Return the pods before the test, and restore those that it deletes."""
    before = pods_by_role(core)
    yield before
    restore(core, before.values())
    # Longer ago than ttl_seconds_after_finished=0, but no longer before the pods' creation than clocks may differ.
    airflow_runs.set_end_date(*runs, ago=timedelta(seconds=2))
    wait_until(lambda: _are_settled(pods_by_role(core)))


def _expected_for(source: dict[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
    if IS_AIRFLOW_3 and not source and AIRFLOW_RELEASE < (3, 2):
        return ZOMBIES, {**KEPT, CHECKED_POD: "active"}
    return {**ZOMBIES, CHECKED_POD: "superseded"}, KEPT


def _outcomes(report: dict[str, Any], pods: Pods) -> dict[str, tuple[str, str]]:
    by_name = {pod.metadata.name: role(pod.metadata.labels, pod.metadata.name) for pod in pods.values()}
    return {by_name[row["pod"].partition("/")[2]]: (row["reason"], row["outcome"]) for row in report["zombies"]}


def test_a_dry_run_reports_the_zombies_and_sends_no_delete_request(
    proxy: FaultProxy, pods: Pods, core: client.CoreV1Api, source: dict[str, Any]
) -> None:
    zombies, kept = _expected_for(source)
    run = airflow_runs.run("kpo_cleanup", settle_seconds=0, dry_run=True, config=source)
    assert set(airflow_runs.states(run).values()) == {"success"}
    assert airflow_runs.result(run, "classify")["kept_by_reason"] == dict(Counter(kept.values()))
    report = airflow_runs.result(run, "reap")
    assert _outcomes(report, pods) == {pod: (reason, "would_delete") for pod, reason in zombies.items()}
    assert not [line for line in proxy.requests if not line.startswith("GET ")]
    assert set(pods_by_role(core)) == set(pods)


def test_a_run_deletes_the_zombies_and_no_other_pod(
    proxy: FaultProxy, pods: Pods, core: client.CoreV1Api, source: dict[str, Any]
) -> None:
    zombies, kept = _expected_for(source)
    run = airflow_runs.run("kpo_cleanup", settle_seconds=0, config=source)
    assert set(airflow_runs.states(run).values()) == {"success"}
    assert _outcomes(airflow_runs.result(run, "reap"), pods) == {
        pod: (reason, "deleted") for pod, reason in zombies.items()
    }
    assert set(pods_by_role(core)) == set(kept)


def test_pods_of_tasks_that_have_just_finished_are_settling_and_reap_is_skipped(
    proxy: FaultProxy, pods: Pods, core: client.CoreV1Api, source: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    zombies, _ = _expected_for(source)
    superseded = sum(reason == "superseded" for reason in zombies.values())
    if "task_sdk" in request.node.name and AIRFLOW_RELEASE < (3, 2):
        # While the main container is running, the end of the task is unknown: the pod gets a grace period.
        run = airflow_runs.run("kpo_cleanup", config=source, settle_seconds=3600, dry_run=True)
        reasons = airflow_runs.result(run, "classify")["zombies_by_reason"]
        assert reasons == {
            "superseded": 1,
            "orphaned": len(zombies) - 2,
        }  # the main container of the other one has just ended
        return
    run = airflow_runs.run("kpo_cleanup", config=source, settle_seconds=3600)
    reasons = airflow_runs.result(run, "classify")["zombies_by_reason"]
    assert reasons == {"superseded": superseded}  # a pod that its task no longer uses need not settle
    run = airflow_runs.run("kpo_cleanup", config=source, settle_seconds=3600)
    assert airflow_runs.states(run)["reap"] == "skipped"
    assert len(pods_by_role(core)) == len(pods) - superseded


def test_completed_and_unmatched_pods_are_deleted_if_the_settings_allow_it(
    proxy: FaultProxy, pods: Pods, source: dict[str, Any]
) -> None:
    run = airflow_runs.run(
        "kpo_cleanup",
        settle_seconds=0,
        dry_run=True,
        delete_pods_on_failure=True,
        ttl_seconds_after_finished=0,
        config={"delete_unmatched_pods": True, **source},
    )
    additional = {
        "workload.kept#1": "completed",
        "workload.broken#1": "completed",
        "workload.decorated#1": "completed",
        "staging.task#1": "unmatched",
    }
    expected = {**_expected_for(source)[0], **additional}
    assert _outcomes(airflow_runs.result(run, "reap"), pods) == {
        pod: (reason, "would_delete") for pod, reason in expected.items()
    }


def test_at_most_max_deletes_pods_are_deleted_the_oldest_first(
    proxy: FaultProxy, pods: Pods, core: client.CoreV1Api, source: dict[str, Any]
) -> None:
    zombies, _ = _expected_for(source)
    run = airflow_runs.run("kpo_cleanup", settle_seconds=0, max_deletes=2, config=source)
    outcomes = _outcomes(airflow_runs.result(run, "reap"), pods)
    assert Counter(outcome for _, outcome in outcomes.values()) == {
        "deleted": 2,
        "left_for_next_run": len(zombies) - 2,
    }
    gone = set(pods) - set(pods_by_role(core))
    left = set(zombies) - gone
    created = {name: pod.metadata.creation_timestamp for name, pod in pods.items()}
    assert max(created[name] for name in gone) <= min(created[name] for name in left)
