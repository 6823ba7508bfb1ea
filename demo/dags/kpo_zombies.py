"""
### Tasks whose pods the demo watches

| task | its pod | what the demo does to it |
| --- | --- | --- |
| `zombie_kpo_task` | `base` ends after 5 s, a sidecar never does | its worker is killed; no retry |
| `healthy_kpo_task` | works for an hour, grace period of a day | nothing |
| `mapped_kpo_task` | index 0 as the first, index 1 as the second | as theirs |
| `retried_kpo_task` | works for an hour | its worker is killed; the retry takes over the pod of the first try |
| `deferred_kpo_task` | works for an hour, watched by the triggerer | nothing |

Tasks with such a sidecar hang: the operator waits for the whole pod. After their workers have died, nothing ends it.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from kubernetes.client import models as k8s

from include.kpo_cleanup.airflow_compat import DAG

HOUR = "3600"
A_DAY = 86_400
REQUESTS = {"cpu": "10m", "memory": "16Mi"}  # for the report, which adds up the requests that were freed


def pod(**sleeps: str) -> k8s.V1Pod:
    """Make a pod with a container for each name, which sleeps for that long."""
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
    """Make a pod whose work is soon done, but which never ends."""
    return pod(base="5", sidecar="infinity")


def working() -> k8s.V1Pod:
    """Make a pod that still works when the cleanup runs; it has a long grace period."""
    made = pod(base=HOUR)
    made.spec.termination_grace_period_seconds = A_DAY
    return made


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
    # No task waits for another.
    KubernetesPodOperator(task_id="zombie_kpo_task", full_pod_spec=hanging())
    KubernetesPodOperator(task_id="healthy_kpo_task", full_pod_spec=working())
    KubernetesPodOperator.partial(task_id="mapped_kpo_task").expand_kwargs(
        [{"full_pod_spec": hanging()}, {"full_pod_spec": working()}]
    )
    KubernetesPodOperator(
        task_id="retried_kpo_task", full_pod_spec=pod(base=HOUR), retries=1, retry_delay=timedelta(seconds=1)
    )
    KubernetesPodOperator(task_id="deferred_kpo_task", full_pod_spec=pod(base=HOUR), deferrable=True)
