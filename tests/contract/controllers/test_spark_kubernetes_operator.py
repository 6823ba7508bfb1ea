"""The SparkKubernetesOperator of the installed provider, against both servers."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.cncf.kubernetes.operators import custom_object_launcher
from airflow.providers.cncf.kubernetes.operators.spark_kubernetes import SparkKubernetesOperator
from airflow.providers.common.compat.sdk import AirflowException, TaskDeferred

from tests.contract.controllers.airflow_context import TASK_ID, Records, connect, context_of, ti_labels
from tests.contract.controllers.spark import DEADLINE, FOREVER, application, path_of, running_driver, wait_for_state
from tests.contract.namespace import Namespace, names_in


class WorkerDied(Exception):
    """The worker has died while the operator was waiting for its driver."""


class Dying(SparkKubernetesOperator):  # type: ignore[misc]
    """The operator in a worker that dies once the driver has been started."""

    def await_pod_start(self, pod: Any) -> None:
        raise WorkerDied

    def post_complete_action(self, **_: Any) -> None:
        """Do nothing, because the worker is dead."""


@pytest.fixture(autouse=True)
def _connection(namespace: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connect(namespace, tmp_path, monkeypatch)
    # The operator waits ten seconds before it checks again whether the application has started.
    monkeypatch.setattr(custom_object_launcher, "time", SimpleNamespace(sleep=lambda _: time.sleep(0.05)))


def operator(namespace: Namespace, arguments: list[str], kind: type = SparkKubernetesOperator, **more: Any) -> Any:
    return kind(
        task_id=TASK_ID,
        name="load",
        namespace=namespace.name,
        template_spec=application(arguments=arguments, **more.pop("spec", {})),
        **more,
    )


def applications(namespace: Namespace) -> list[str]:
    return names_in(namespace.call("GET", path_of(namespace, "")))


def test_the_operator_returns_when_its_application_has_completed_and_deletes_it(namespace: Namespace) -> None:
    records = Records()
    operator(namespace, ["sleep 10; true"]).execute(context_of(records))
    assert records["pod_name"].endswith("-driver")
    assert records["pod_namespace"] == namespace.name
    assert applications(namespace) == []
    namespace.wait_until_gone(records["pod_name"])


def test_the_operator_fails_with_its_application(namespace: Namespace) -> None:
    with pytest.raises(AirflowException):
        operator(namespace, ["sleep 10; exit 3"]).execute(context_of(Records()))


def test_a_completed_application_stays_if_the_operator_does_not_delete_it(namespace: Namespace) -> None:
    records = Records()
    operator(namespace, ["sleep 10; true"], delete_on_termination=False).execute(context_of(records))
    name = records["pod_name"].removesuffix("-driver")
    wait_for_state(namespace, "COMPLETED", name=name)
    assert namespace.get_pod(records["pod_name"])["status"]["phase"] == "Succeeded"


def test_a_retry_reattaches_to_the_driver_of_a_worker_that_died(namespace: Namespace) -> None:
    first, second = Records(), Records()
    with pytest.raises(WorkerDied):
        operator(namespace, ["sleep 40; true"], Dying).execute(context_of(first))
    name = first["pod_name"].removesuffix("-driver")
    driver = running_driver(namespace, name)
    labels = {**ti_labels(), "spark_kubernetes_operator": "True", "spark-role": "driver"}
    assert driver["metadata"]["labels"].items() >= labels.items()
    assert "kubernetes_pod_operator" not in driver["metadata"]["labels"]
    operator(namespace, FOREVER).execute(context_of(second, 2))
    assert second["pod_name"] == first["pod_name"]
    assert applications(namespace) == []


def test_without_reattaching_a_retry_starts_a_second_application(namespace: Namespace) -> None:
    names = []
    for try_number in (1, 2):
        records = Records()
        with pytest.raises(WorkerDied):
            operator(namespace, FOREVER, Dying, reattach_on_restart=False).execute(context_of(records, try_number))
        names.append(records["pod_name"].removesuffix("-driver"))
    assert sorted(names) == applications(namespace)
    for name in names:
        driver = running_driver(namespace, name)
        assert "spark_kubernetes_operator" not in driver["metadata"]["labels"]


def test_executors_carry_the_labels_of_the_task_instance(namespace: Namespace) -> None:
    records = Records()
    with pytest.raises(WorkerDied):
        operator(namespace, FOREVER, Dying, spec={"executor": {"instances": 1}}).execute(context_of(records))
    executor = namespace.wait_for_phase(f"{records['pod_name'].removesuffix('-driver')}-exec-1", "Running")
    labels = {**ti_labels(), "spark_kubernetes_operator": "True", "spark-role": "executor"}
    assert executor["metadata"]["labels"].items() >= labels.items()


def test_a_killed_operator_deletes_its_application_and_its_driver(namespace: Namespace) -> None:
    records = Records()
    killed = operator(namespace, FOREVER, Dying)
    with pytest.raises(WorkerDied):
        killed.execute(context_of(records))
    killed.on_kill()
    assert applications(namespace) == []
    namespace.wait_until_gone(records["pod_name"])


def test_the_trigger_of_a_killed_operator_deletes_only_the_driver_which_may_be_started_again(
    namespace: Namespace,
) -> None:
    spec = {"restartPolicy": {"type": "OnFailure", "onFailureRetries": 1}}
    with pytest.raises(TaskDeferred) as deferred:
        operator(namespace, FOREVER, spec=spec, deferrable=True).execute(context_of(Records()))
    (name,) = applications(namespace)
    first = running_driver(namespace, name)
    asyncio.run(deferred.value.trigger.on_kill())
    namespace.wait_for(
        f"{namespace.pods}/{name}-driver",
        lambda found: found and found["metadata"]["uid"] != first["metadata"]["uid"],
        DEADLINE,
    )
    assert applications(namespace) == [name]
