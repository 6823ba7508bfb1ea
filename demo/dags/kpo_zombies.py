"""
### The tasks of `make demo`

| task | its pod | what the demo does |
| --- | --- | --- |
| `zombie_kpo_task` | `base` exits after 5 s, a sidecar never does | kills its worker; there is no retry |
| `healthy_kpo_task` | works for an hour, with a grace period of one day | nothing |
| `mapped_kpo_task` | index 0 like `zombie_kpo_task`, index 1 like `healthy_kpo_task` | the same as for those |
| `retried_kpo_task` | works for an hour | kills its worker; the retry adopts the pod of the first try |
| `deferred_kpo_task` | works for an hour, watched by the triggerer | nothing |

A task with a sidecar that never exits hangs, because the operator waits for the whole pod. Once its worker has died,
nothing ends the pod.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from kubernetes.client import models as k8s

from include.kpo_cleanup.airflow_compat import DAG

HOUR = "3600"
ONE_DAY = 86_400  # seconds
REQUESTS = {"cpu": "10m", "memory": "16Mi"}  # so that the report has resource requests to add up


def pod(**sleeps: str) -> k8s.V1Pod:
    """Build a pod with one container per keyword argument, which sleeps for the given duration."""
    containers = [
        k8s.V1Container(
            name=name,
            image="busybox:stable",
            command=["/bin/sh", "-c"],
            args=[f"sleep {duration}"],
            resources=k8s.V1ResourceRequirements(requests=REQUESTS),
        )
        for name, duration in sleeps.items()
    ]
    return k8s.V1Pod(metadata=k8s.V1ObjectMeta(), spec=k8s.V1PodSpec(containers=containers, restart_policy="Never"))


def hanging() -> k8s.V1Pod:
    """Build a pod whose main container exits soon while its sidecar never does."""
    return pod(base="5", sidecar="infinity")


def working() -> k8s.V1Pod:
    """Build a pod that is still working when the cleanup runs, with a long grace period."""
    built = pod(base=HOUR)
    built.spec.termination_grace_period_seconds = ONE_DAY
    return built


DEFAULTS: dict[str, Any] = {"retries": 0, "startup_check_interval_seconds": 1}


with DAG(
    "kpo_zombies",
    schedule=None,
    start_date=datetime(2024, 1, 1, tzinfo=UTC),
    catchup=False,
    tags=["demo"],
    default_args=DEFAULTS,
    doc_md=__doc__,
):
    # The tasks do not depend on each other.
    KubernetesPodOperator(task_id="zombie_kpo_task", full_pod_spec=hanging())
    KubernetesPodOperator(task_id="healthy_kpo_task", full_pod_spec=working())
    KubernetesPodOperator.partial(task_id="mapped_kpo_task").expand_kwargs(
        [{"full_pod_spec": hanging()}, {"full_pod_spec": working()}]
    )
    KubernetesPodOperator(
        task_id="retried_kpo_task", full_pod_spec=pod(base=HOUR), retries=1, retry_delay=timedelta(seconds=1)
    )
    KubernetesPodOperator(task_id="deferred_kpo_task", full_pod_spec=pod(base=HOUR), deferrable=True)
