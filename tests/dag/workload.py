"""A DAG file for the tests: real operators create the pods, and real runs the task instances.

`Abandoned` behaves like an operator whose worker is killed: it creates or adopts its pod, and then fails. The pods run
on a simulated kubelet.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.exceptions import AirflowException
from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from kubernetes.client import models as k8s

from include.kpo_cleanup.airflow_compat import DAG, task

try:
    from airflow.sdk import TaskGroup
except ImportError:
    from airflow.utils.task_group import TaskGroup

LONG = "a_long_id_" * 25  # 250 characters, the maximum that Airflow allows
DEFAULTS: dict[str, Any] = {
    "namespace": "airflow",
    "image": "busybox",
    "startup_check_interval_seconds": 1,
    "base_container_status_polling_interval": 0.2,
    "retries": 0,
    "retry_delay": timedelta(0),
}


class Abandoned(KubernetesPodOperator):  # type: ignore[misc]
    """A user-defined subclass, whose worker dies as soon as it has its pod."""

    def await_pod_start(self, pod: k8s.V1Pod) -> None:
        if self.retries:
            # Creation times are whole seconds, and the next try's pod must be younger.
            created = int(time.time())
            while int(time.time()) == created:
                time.sleep(0.02)
        raise AirflowException("the worker died")

    def cleanup(self, *_: Any, **__: Any) -> None:
        """Keep the pod, because the worker process is dead."""


class Podless(KubernetesPodOperator):  # type: ignore[misc]
    """An operator whose worker dies before it creates a pod."""

    def execute(self, context: Any) -> None:
        raise AirflowException("the worker died")


class EksPodOperator(Abandoned):
    """An operator named like one for external clusters, which uses the test cluster."""


FOREVER: dict[str, Any] = {"cmds": ["sleep"], "arguments": ["infinity"]}


def with_sidecar(base: str) -> k8s.V1Pod:
    """Build the pod of a typical zombie: a base container that ends and a sidecar that does not."""
    containers = [
        k8s.V1Container(name=name, image="busybox", command=["sh", "-c"], args=[command])
        for name, command in (("base", base), ("sidecar", "sleep infinity"))
    ]
    return k8s.V1Pod(metadata=k8s.V1ObjectMeta(), spec=k8s.V1PodSpec(containers=containers, restart_policy="Never"))


def make(dag_id: str, define: Callable[[], object], schedule: str | None = None) -> None:
    start = datetime(2024, 1, 1, tzinfo=UTC)
    with DAG(dag_id, schedule=schedule, start_date=start, catchup=False, default_args=DEFAULTS):
        define()


def colliding() -> None:
    """Define tasks that collide: the Task SDK returns ``a_1`` for both."""
    Abandoned.partial(task_id="a", **FOREVER).expand(env_vars=[{"N": "0"}, {"N": "1"}])
    Abandoned(task_id="a_1", **FOREVER)


def everything() -> None:
    Abandoned(task_id="sidecar", full_pod_spec=with_sidecar("sleep 1"))
    Abandoned(task_id="stalled", full_pod_spec=with_sidecar("sleep 1"))
    Abandoned(task_id="subclass", **FOREVER)
    EksPodOperator(task_id="eks", **FOREVER)
    Abandoned(task_id="retrying", **FOREVER)
    Abandoned(task_id="reattached", retries=1, **FOREVER)
    Abandoned(task_id="replaced", retries=1, reattach_on_restart=False, on_finish_action="keep_pod", **FOREVER)
    Podless(task_id="checked", retries=1)
    Abandoned(task_id=LONG, **FOREVER)
    Abandoned.partial(task_id="mapped", **FOREVER).expand(env_vars=[{"N": "0"}, {"N": "1"}])
    KubernetesPodOperator(task_id="kept", cmds=["true"], on_finish_action="keep_pod")
    KubernetesPodOperator(task_id="broken", cmds=["false"], on_finish_action="keep_pod")
    KubernetesPodOperator(task_id="tidy", cmds=["true"])
    colliding()
    with TaskGroup(group_id="group"):
        Abandoned(task_id="member", **FOREVER)

    @task.kubernetes(image="python:3.12", namespace="airflow", on_finish_action="keep_pod")  # type: ignore[untyped-decorator]
    def decorated() -> None:
        """Do nothing: the simulated kubelet has no Python."""

    decorated()


def lively() -> None:
    """Define all kinds of pods at once. Tests kill some of the workers; tasks with retries survive this."""
    for name in ("reattached", "cleared"):
        KubernetesPodOperator(task_id=name, retries=9, **FOREVER)
    KubernetesPodOperator.partial(task_id="mapped", retries=9, **FOREVER).expand(env_vars=[{"N": "0"}, {"N": "1"}])
    # Pods of earlier tries are kept as well.
    KubernetesPodOperator(
        task_id="replaced", retries=9, reattach_on_restart=False, on_finish_action="keep_pod", **FOREVER
    )
    KubernetesPodOperator(task_id="stalled", retries=9, full_pod_spec=with_sidecar("sleep 1"))
    KubernetesPodOperator(task_id="sidecar", full_pod_spec=with_sidecar("sleep 1"))
    KubernetesPodOperator(task_id="deferred", deferrable=True, **FOREVER)
    KubernetesPodOperator(task_id="deferred_failed", deferrable=True, **FOREVER)
    KubernetesPodOperator(task_id="kept", cmds=["true"], on_finish_action="keep_pod")


def busy() -> None:
    """Define tasks whose pods are created and deleted while the cleanup is running."""
    KubernetesPodOperator(task_id="succeeds", cmds=["sleep"], arguments=["60"])
    KubernetesPodOperator(task_id="fails", cmds=["false"], retries=1)


def reproduction() -> None:
    """Define typical zombies, whose sidecars outlive a killed worker, and healthy pods."""
    Abandoned(task_id="zombie", full_pod_spec=with_sidecar("sleep 1"))
    KubernetesPodOperator(task_id="healthy", cmds=["true"])
    KubernetesPodOperator(task_id="kept", cmds=["true"], on_finish_action="keep_pod")
    Abandoned.partial(task_id="mapped").expand(full_pod_spec=[with_sidecar("sleep 1")])


def costly() -> None:
    """Define a task whose pod requests resources."""
    requests = k8s.V1ResourceRequirements(requests={"cpu": "2", "memory": "4Gi"})
    Abandoned(task_id="export", container_resources=requests, **FOREVER)


make("workload", everything)
make("reproduction", reproduction)
make("collisions", colliding)
make(LONG, lambda: Abandoned(task_id="task", **FOREVER))
make("lively", lively)
make("orders", costly)
make("sales", costly)
make("busy", busy, schedule="* * * * *")
