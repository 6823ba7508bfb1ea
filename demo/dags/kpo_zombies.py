"""
### The tasks of `make demo`

| task | its pod | what the demo does |
| --- | --- | --- |
| `zombie_kpo_task` | `base` exits after 5 s, a sidecar never does | kills its worker; there is no retry |
| `healthy_kpo_task` | works for an hour, with a grace period of one day | nothing |
| `mapped_kpo_task` | index 0 like `zombie_kpo_task`, index 1 like `healthy_kpo_task` | the same as for those |
| `retried_kpo_task` | works for an hour | kills its worker; the retry adopts the pod of the first try |
| `deferred_kpo_task` | works for an hour, watched by the triggerer | nothing |
| `zombie_job_task` | a Job with two pods that work for an hour | kills its worker; there is no retry |
| `detached_job_task` | a Job that works for an hour, for which the task does not wait | nothing |
| `zombie_spark_task` | a SparkApplication that works for an hour | kills its worker; there is no retry |

A task with a sidecar that never exits hangs, because the operator waits for the whole pod. Once its worker has died,
nothing ends the pod. The same holds for a Job and a SparkApplication; if only their pods were deleted, their
controllers would start them again. `zombie_spark_task` exists only in the embedded cluster, which has a Spark operator.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.providers.cncf.kubernetes.operators.job import KubernetesJobOperator
from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.providers.cncf.kubernetes.operators.spark_kubernetes import SparkKubernetesOperator
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


def controlled() -> k8s.V1Pod:
    """Build the pod of a Job that is still working when the cleanup runs, and ends soon when it is deleted."""
    built = pod(base=HOUR)
    built.spec.termination_grace_period_seconds = 1
    return built


APPLICATION: dict[str, Any] = {
    "apiVersion": "sparkoperator.k8s.io/v1beta2",
    "kind": "SparkApplication",
    "spec": {
        "type": "Python",
        "mode": "cluster",
        "image": "spark:3.5",
        "mainApplicationFile": "local:///opt/job.py",
        "sparkVersion": "3.5.0",
        # The embedded cluster runs the arguments as a shell script.
        "arguments": ["trap 'exit 143' TERM; while true; do sleep 1; done"],
        "restartPolicy": {"type": "OnFailure", "onFailureRetries": 3},
        "driver": {},
        "executor": {"instances": 1},
    },
}
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
    KubernetesJobOperator(
        task_id="zombie_job_task",
        full_pod_spec=controlled(),
        parallelism=2,
        wait_until_job_complete=True,
        discover_pods_retry_number=100,  # there is no wait between the attempts
    )
    KubernetesJobOperator(task_id="detached_job_task", full_pod_spec=controlled())
    if namespace := os.environ.get("DEMO_SPARK_NAMESPACE"):
        SparkKubernetesOperator(task_id="zombie_spark_task", namespace=namespace, template_spec=APPLICATION)
