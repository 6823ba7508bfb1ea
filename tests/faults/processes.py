"""The operators of the installed provider in their workers, until they wait for their workloads or the workers die."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook
from airflow.providers.cncf.kubernetes.operators.job import KubernetesJobOperator
from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.providers.cncf.kubernetes.operators.spark_kubernetes import SparkKubernetesOperator
from kubernetes.client import CustomObjectsApi

from tests.faults.objects import JOB, Json
from tests.faults.world import Operator, Task

SPARK_APPLICATION = {"apiVersion": "sparkoperator.k8s.io/v1beta2", "kind": "SparkApplication"}


class Detached(Exception):
    """The operator waits for its workload, or its worker has died: the test goes on without it."""


class Hook(KubernetesHook):  # type: ignore[misc]
    """The hook that all operators share. It detaches from an operator that would wait."""

    def wait_until_job_complete(self, *_: Any, **__: Any) -> None:
        raise Detached


class Process:
    """An operator in its worker, until it waits."""

    log = logging.getLogger(__name__)  # Airflow 3 would print its many messages
    dies: str  # when the worker dies, as in ``Life.start_try``
    pushed: dict[str, Any]  # its XComs
    started: Callable[[str], object]  # called with the name of what it has created, as a controller notices it

    def xcom_push(self, key: str, value: Any) -> None:
        """Record the XComs that are pushed."""
        if self.dies == "unrecorded":
            raise Detached
        self.pushed[key] = value

    def find_pod(self, *args: Any, **more: Any) -> Any:
        """Find the pods, unless the worker dies before that."""
        if self.dies == "late" and len(self.pushed) == 2:
            raise Detached
        return super().find_pod(*args, **more)  # type: ignore[misc]

    def await_pod_start(self, pod: Any) -> None:
        """Detach from the operator, which would wait here."""
        raise Detached

    def invoke_defer_method(self, **_: Any) -> None:
        """Detach from the operator, which would defer here."""
        raise Detached

    def execute_deferrable(self) -> None:
        """Detach from the operator of a Job, which would defer here."""
        raise Detached

    def post_complete_action(self, **_: Any) -> None:
        """Do nothing, because the operator has not finished with its workload, or is dead."""


class PodProcess(Process, KubernetesPodOperator):  # type: ignore[misc]
    """The operator of a pod."""

    def run(self, context: dict[str, Any], is_deferrable: bool) -> None:
        (self.execute_async if is_deferrable else self.execute_sync)(context)


class JobProcess(Process, KubernetesJobOperator):  # type: ignore[misc]
    """The operator of a Job."""

    def run(self, context: dict[str, Any], is_deferrable: bool) -> None:
        self.deferrable = is_deferrable and self.wait_until_job_complete
        self.execute(context)

    def create_job(self, job_request_obj: Any) -> Any:
        """Create the Job and its pods."""
        job = super().create_job(job_request_obj)
        self.started(job.metadata.name)
        return job


class SparkProcess(Process, SparkKubernetesOperator):  # type: ignore[misc]
    """The operator of an application."""

    def run(self, context: dict[str, Any], is_deferrable: bool) -> None:
        self.deferrable = is_deferrable
        self.execute(context)


class SparkApi(CustomObjectsApi):  # type: ignore[misc]
    """The client with which an operator creates an application; its driver is created immediately."""

    def __init__(self, api_client: Any, started: Callable[[str], object]) -> None:
        super().__init__(api_client)
        self._started = started

    def create_namespaced_custom_object(self, *args: Any, **more: Any) -> Json:
        """Create the application and its driver."""
        created: Json = super().create_namespaced_custom_object(*args, **more)
        self._started(created["metadata"]["name"])
        return created


def process_of(
    task: Task, operator: Operator, name: str, hook: Hook, started: Callable[[str], object], dies: str
) -> Any:
    """Return the process of an operator of this task, which creates a workload of this name."""
    common = {
        "task_id": task.task_id,
        "name": name,
        "random_name_suffix": False,
        "namespace": task.namespace,
        "labels": operator.labels,
        "image": "busybox",
        "reattach_on_restart": task.reattaches,
        "on_finish_action": task.on_finish_action,
        "on_kill_action": task.on_kill_action,
        "kubernetes_conn_id": hook.conn_id,
    }
    if task.kind == "Pod":
        process = PodProcess(**common, schedulername="nobody")
    elif task.kind == JOB:
        policy = "Orphan" if task.on_kill_action == "keep_pod" else "Foreground"
        process = JobProcess(
            **common,
            parallelism=task.parallelism,
            wait_until_job_complete=task.waits,
            on_kill_propagation_policy=policy,
        )
    else:
        template = {**SPARK_APPLICATION, "spec": {"driver": {"labels": dict(operator.labels)}, "executor": {}}}
        keeps = task.on_finish_action == "keep_pod"
        process = SparkProcess(**common, template_spec=template, delete_on_termination=not keeps)
        process.__dict__["custom_obj_api"] = SparkApi(hook.core_v1_client.api_client, started)
    process.dies, process.pushed, process.started = dies, {}, started
    # Connecting again each time would take longer than everything else.
    process.__dict__["hook"], process.__dict__["client"] = hook, hook.core_v1_client
    return process
