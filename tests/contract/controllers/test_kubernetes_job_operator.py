"""The KubernetesJobOperator of the installed provider, against both servers."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.cncf.kubernetes.operators.job import KubernetesDeleteJobOperator, KubernetesJobOperator
from airflow.providers.common.compat.sdk import AirflowException, TaskDeferred

from tests.contract.controllers.airflow_context import TASK_ID, Records, connect, context_of, ti_labels
from tests.contract.namespace import Json, Namespace, conditions, names_in

FOREVER = "sleep infinity"


@pytest.fixture(autouse=True)
def _connection(namespace: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connect(namespace, tmp_path, monkeypatch)


def operator(namespace: Namespace, script: str, **arguments: Any) -> Any:
    return KubernetesJobOperator(
        task_id=TASK_ID,
        name="load",
        namespace=namespace.name,
        image="busybox:1",
        cmds=["/bin/sh", "-c", script],
        job_poll_interval=0.1,
        discover_pods_retry_number=1000,  # the operator does not wait between its attempts
        **arguments,
    )


def the_job(namespace: Namespace, records: Records) -> Json:
    assert records["job_namespace"] == namespace.name
    return namespace.find(f"{namespace.jobs}/{records['job_name']}")


def the_pod(namespace: Namespace, records: Records) -> Json:
    """Wait until the pod of the Job is running, and return it."""
    selector = f"{namespace.pods}?labelSelector=job-name={records['job_name']}"
    (pod,) = namespace.wait_for(selector, lambda found: len(found["items"]) == 1)["items"]
    return namespace.wait_for_phase(pod["metadata"]["name"], "Running")


def test_a_waiting_operator_returns_when_its_job_has_completed(namespace: Namespace) -> None:
    records = Records()
    operator(namespace, "sleep 5; true", wait_until_job_complete=True).execute(context_of(records))
    assert conditions(the_job(namespace, records))["Complete"] == "True"
    assert [one["type"] for one in records["job"]["status"]["conditions"]] == ["SuccessCriteriaMet", "Complete"]


def test_a_waiting_operator_returns_the_value_of_its_xcom_sidecar(namespace: Namespace) -> None:
    script = """echo '{"rows": 3}' > /airflow/xcom/return.json"""
    waiting = operator(namespace, script, wait_until_job_complete=True, do_xcom_push=True)
    assert waiting.execute(context_of(Records())) == {"rows": 3}


def test_a_waiting_operator_fails_with_its_job(namespace: Namespace) -> None:
    records = Records()
    waiting = operator(namespace, "exit 1", wait_until_job_complete=True, backoff_limit=0)
    with pytest.raises(AirflowException, match="is failed with error 'BackoffLimitExceeded'"):
        waiting.execute(context_of(records))
    assert conditions(the_job(namespace, records))["Failed"] == "True"


def test_a_detached_operator_returns_while_its_job_is_running(namespace: Namespace) -> None:
    records = Records()
    operator(namespace, FOREVER, wait_until_job_complete=False).execute(context_of(records))
    assert records["job"]["status"] is None
    pod = the_pod(namespace, records)
    assert pod["metadata"]["labels"].items() >= {**ti_labels(), "kubernetes_pod_operator": "True"}.items()
    assert the_job(namespace, records)["status"]["active"] == 1


def test_the_labels_of_the_task_instance_are_on_a_job_without_labels_of_its_own(namespace: Namespace) -> None:
    plain, labelled = Records(), Records()
    operator(namespace, "true").execute(context_of(plain))
    operator(namespace, "true", labels={"team": "a"}).execute(context_of(labelled))
    assert the_job(namespace, plain)["metadata"]["labels"].items() >= ti_labels().items()
    assert the_job(namespace, labelled)["metadata"]["labels"] == {"team": "a"}


@pytest.mark.parametrize(("script", "succeeds"), [("sleep 5; true", True), ("exit 1", False)])
def test_a_deferred_operator_ends_with_the_event_of_its_trigger(
    namespace: Namespace, script: str, succeeds: bool
) -> None:
    records = Records()
    deferring = operator(namespace, script, wait_until_job_complete=True, deferrable=True, backoff_limit=0)
    with pytest.raises(TaskDeferred) as deferred:
        deferring.execute(context_of(records))

    async def first_event() -> Any:
        async for event in deferred.value.trigger.run():
            return event.payload

    event = asyncio.run(first_event())
    assert (event["status"] == "success") is succeeds
    resumed = operator(namespace, script, wait_until_job_complete=True, deferrable=True)
    if succeeds:
        resumed.execute_complete(context_of(records), event)
    else:
        with pytest.raises(AirflowException, match="BackoffLimitExceeded"):
            resumed.execute_complete(context_of(records), event)
    assert records["job"]["metadata"]["name"] == records["job_name"]
    assert the_job(namespace, records)


def test_a_retry_starts_a_second_job_beside_the_first(namespace: Namespace) -> None:
    for try_number in (1, 2):
        operator(namespace, FOREVER).execute(context_of(Records(), try_number))
    found = namespace.wait_for(namespace.pods, lambda found: len(found["items"]) == 2)
    tries = {pod["metadata"]["labels"]["try_number"] for pod in found["items"]}
    assert tries == {"1", "2"}
    assert len(names_in(namespace.call("GET", namespace.jobs))) == 2


def test_a_waiting_retry_also_waits_for_the_pods_of_the_first_try(namespace: Namespace) -> None:
    first = Records()
    operator(namespace, FOREVER).execute(context_of(first))
    pod = the_pod(namespace, first)
    waiting = operator(namespace, "sleep 5; true", wait_until_job_complete=True, get_logs=False)
    waiting.discover_pods_retry_number = 1
    waiting.execute(context_of(Records(), 2))
    assert pod["metadata"]["uid"] in [one.metadata.uid for one in waiting.pods]
    namespace.wait_until_gone(pod["metadata"]["name"])  # the operator deletes the pods that it has waited for
    selector = f"{namespace.pods}?labelSelector=job-name={first['job_name']}"
    namespace.wait_for(selector, lambda found: found["items"])  # the first Job goes on with another pod


def test_a_waiting_operator_of_a_suspended_job_fails_and_leaves_the_job_without_pods(namespace: Namespace) -> None:
    records = Records()
    waiting = operator(namespace, FOREVER, wait_until_job_complete=True, suspend=True)
    waiting.discover_pods_retry_number = 1
    with pytest.raises(AirflowException, match="No pods running"):
        waiting.execute(context_of(records))
    assert the_job(namespace, records)["spec"]["suspend"]
    assert namespace.pod_names() == []


def test_a_killed_operator_deletes_its_job_and_its_pod(namespace: Namespace) -> None:
    records = Records()
    killed = operator(namespace, FOREVER)
    killed.execute(context_of(records))
    pod = the_pod(namespace, records)
    killed.on_kill()
    namespace.wait_for(f"{namespace.jobs}/{records['job_name']}", lambda found: not found)
    assert not namespace.get_pod(pod["metadata"]["name"])


def test_the_delete_operator_orphans_the_pods_of_a_job(namespace: Namespace) -> None:
    records = Records()
    operator(namespace, FOREVER).execute(context_of(records))
    pod = the_pod(namespace, records)
    delete = KubernetesDeleteJobOperator(task_id="delete", name=records["job_name"], namespace=namespace.name)
    delete.execute(context_of(Records()))
    namespace.wait_for(f"{namespace.jobs}/{records['job_name']}", lambda found: not found)
    orphan = namespace.get_pod(pod["metadata"]["name"])
    assert (orphan["status"]["phase"], orphan["metadata"]["labels"]["job-name"]) == ("Running", records["job_name"])
    assert "ownerReferences" not in orphan["metadata"]
