"""Create the pods of the test cluster, find them by their tasks, and restore them for the next test."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from kubernetes import client
from tenacity import retry, retry_if_result, stop_after_delay, wait_fixed

from include.kpo_cleanup.identity import to_label_value
from include.kpo_cleanup.workloads.labels import ID_LABELS

Pods = dict[str, Any]
NO_SCHEDULER = "none"


def pods_by_role(core: client.CoreV1Api, namespace: str = "airflow") -> Pods:
    """Return the pods by readable names, ``dag.task[map index]#try``, because pod names have random suffixes."""
    pods = core.list_namespaced_pod(namespace).items
    return {role(pod.metadata.labels or {}, pod.metadata.name): pod for pod in pods}


def role(labels: dict[str, str], name: str) -> str:
    if "try_number" not in labels:
        return name
    index = f"[{labels['map_index']}]" if "map_index" in labels else ""
    return f"{labels['dag_id']}.{labels['task_id']}{index}#{labels['try_number']}"


def labels_of(dag_id: str, task_id: str, run_id: str, try_number: int = 1) -> dict[str, str]:
    """Return the labels that the operator would set, for pods that the tests create."""
    ids = {"dag_id": dag_id, "task_id": task_id, "run_id": run_id}
    return {
        **{name: to_label_value(value) for name, value in ids.items()},
        "try_number": str(try_number),
        "kubernetes_pod_operator": "True",
    }


def create(
    core: client.CoreV1Api,
    name: str,
    labels: dict[str, str],
    namespace: str = "airflow",
    scheduler: str = "default-scheduler",
    **meta: Any,
) -> Any:
    """Create a pod that runs until it is deleted.

    :param scheduler: the pod stays Pending with NO_SCHEDULER. An unmatched pod that is running would be kept for a day.
    """
    body = {
        "metadata": {"name": name, "labels": labels, **meta},
        "spec": {
            "containers": [{"name": "base", "image": "busybox", "command": ["sleep", "infinity"]}],
            "restartPolicy": "Never",
            "schedulerName": scheduler,
        },
    }
    return core.create_namespaced_pod(namespace, body)


def restore(core: client.CoreV1Api, pods: Iterable[Any]) -> None:
    """Create deleted pods again, with the same names, labels and commands.

    All pods of their task instances are replaced, because pods of later tries must remain the younger ones.
    """
    existing = {pod.metadata.name for pod in core.list_namespaced_pod("airflow").items}
    by_task_instance = defaultdict(list)
    for pod in sorted(pods, key=lambda pod: (pod.metadata.labels or {}).get("try_number", "")):
        labels = pod.metadata.labels or {}
        by_task_instance[tuple(labels.get(name) for name in (*ID_LABELS, "map_index"))].append(pod)
    for of_one in by_task_instance.values():
        if all(pod.metadata.name in existing for pod in of_one):
            continue
        for pod in of_one:
            if pod.metadata.name in existing:
                core.delete_namespaced_pod(pod.metadata.name, "airflow", grace_period_seconds=0)
            if pod is not of_one[0]:
                wait_for_another_second()
            spec = core.api_client.sanitize_for_serialization(pod.spec)
            spec.pop("nodeName", None)
            core.create_namespaced_pod(
                "airflow", {"metadata": {"name": pod.metadata.name, "labels": pod.metadata.labels}, "spec": spec}
            )


def wait_for_another_second() -> None:
    """Wait for the next full second: a later try's pod must be younger, and creation times are whole seconds."""
    second = int(time.time())
    wait_until(lambda: int(time.time()) > second)


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> None:
    """Wait until a condition is true.

    :raises tenacity.RetryError: if it is still false after these seconds.
    """
    retry(stop=stop_after_delay(seconds), wait=wait_fixed(0.2), retry=retry_if_result(lambda true: not true))(
        condition
    )()
