"""A DAG file for the tests: Jobs and SparkApplications of real operators, whose pods have a controller.

`Abandoned…` behaves like an operator whose worker is killed while it waits: it does nothing more.
"""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import cached_property
from types import SimpleNamespace
from typing import Any

from airflow.exceptions import AirflowException
from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook

from include.kpo_cleanup.airflow_compat import DAG

DEFAULTS: dict[str, Any] = {"namespace": "airflow", "retries": 0, "retry_delay": timedelta(0)}
FOREVER: dict[str, Any] = {"image": "busybox", "cmds": ["sleep"], "arguments": ["infinity"]}
WAITING: dict[str, Any] = {**FOREVER, "wait_until_job_complete": True}
# Long enough for the operator to find the pod: in provider 10.8, it would create another one, outside the Job.
BRIEFLY: dict[str, Any] = {"image": "busybox", "cmds": ["sleep"], "arguments": ["20"]}


class WorkerDies(KubernetesHook):  # type: ignore[misc]
    """The connection of a worker that dies while it waits for a Job."""

    def wait_until_job_complete(self, *_: Any, **__: Any) -> None:
        raise AirflowException("the worker died")


def define(dag_id: str) -> DAG:
    return DAG(dag_id, schedule=None, start_date=datetime(2024, 1, 1, tzinfo=UTC), default_args=DEFAULTS)


with suppress(ImportError):  # the first provider with this operator is 8.0
    from airflow.providers.cncf.kubernetes.operators.job import KubernetesJobOperator

    class AbandonedJob(KubernetesJobOperator):  # type: ignore[misc]
        @cached_property
        def hook(self) -> Any:
            return WorkerDies(conn_id=self.kubernetes_conn_id)

        def post_complete_action(self, **_: Any) -> None:
            """Keep the pods, because the worker process is dead."""

    with define("jobs"):
        AbandonedJob(task_id="waiting", parallelism=3, **WAITING)
        AbandonedJob(task_id="deferred", **WAITING)
        AbandonedJob(task_id="retried", retries=1, **WAITING)
        AbandonedJob(task_id="retrying", retries=1, **WAITING)
        AbandonedJob(task_id="orphaning", **WAITING)
        AbandonedJob(task_id="managed", **WAITING)
        KubernetesJobOperator(task_id="detached", **FOREVER)
        KubernetesJobOperator(task_id="detached_and_failed", **FOREVER)
        KubernetesJobOperator(task_id="completed", **BRIEFLY)


with suppress(ImportError):  # before provider 8.0, the operator only creates the application
    from airflow.providers.cncf.kubernetes.operators import custom_object_launcher
    from airflow.providers.cncf.kubernetes.operators.spark_kubernetes import SparkKubernetesOperator

    # The operator waits ten seconds before it checks again whether the application has started.
    custom_object_launcher.time = SimpleNamespace(sleep=lambda _: time.sleep(0.05))

    class AbandonedApplication(SparkKubernetesOperator):  # type: ignore[misc]
        def await_pod_start(self, pod: Any) -> None:
            raise AirflowException("the worker died")

        def post_complete_action(self, **_: Any) -> None:
            """Keep the application, because the worker process is dead."""

    def application(script: str) -> dict[str, Any]:
        return {
            "apiVersion": "sparkoperator.k8s.io/v1beta2",
            "kind": "SparkApplication",
            "spec": {
                "type": "Python",
                "mode": "cluster",
                "image": "spark:3.5",
                "mainApplicationFile": "local:///opt/job.py",
                "sparkVersion": "3.5.0",
                "arguments": [script],
                "restartPolicy": {"type": "OnFailure", "onFailureRetries": 1},
                "driver": {},
                "executor": {"instances": 2},
            },
        }

    with define("applications"):
        working = {"template_spec": application("sleep infinity")}
        AbandonedApplication(task_id="abandoned", **working)
        AbandonedApplication(task_id="succeeded", **working)
        AbandonedApplication(task_id="reattached", retries=1, **working)
        AbandonedApplication(task_id="not_reattaching", reattach_on_restart=False, **working)
        SparkKubernetesOperator(
            task_id="completed", template_spec=application("sleep 5; true"), delete_on_termination=False
        )
