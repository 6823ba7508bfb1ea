"""Jobs of the KubernetesJobOperator in an API server without controllers: the tests create their pods."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from include.kpo_cleanup.task_instance import Record
from tests.faults.servers import Server
from tests.faults.world import Task


def jobs(namespace: str) -> str:
    """Return the path of the Jobs of a namespace."""
    return f"/apis/batch/v1/namespaces/{namespace}/jobs"


def create_job(
    server: Server, namespace: str, name: str, task: Task, pods: int = 1, **metadata: Any
) -> Mapping[str, Any]:
    """Create a Job of the first try of a task, with pods that it controls, and return the Job."""
    labels = {**task.labels, "try_number": "1"}
    container = {"name": "base", "image": "busybox"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container], "restartPolicy": "Never"}}
    body = {"metadata": {"name": name, **metadata}, "spec": {"template": template}}
    job: Mapping[str, Any] = server.call("POST", jobs(namespace), body)
    for number in range(pods):
        create_pod(server, namespace, f"{name}-{number}", job)
    return job


def recording(task: Task, namespace: str, *names: str) -> Task:
    """Return a task whose operator has recorded Jobs of these names."""
    return replace(task, kind="Job", record=Record(frozenset(f"Job {namespace}/{name}" for name in names)))


def create_pod(server: Server, namespace: str, name: str, job: Mapping[str, Any], *, controlled: bool = True) -> None:
    """Create a pod of a Job, like the Job controller."""
    about = job["metadata"]
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": about["name"], "uid": about["uid"], "controller": True}
    labels = job["spec"]["template"]["metadata"]["labels"]
    server.create_pod(namespace, name, labels, ownerReferences=[owner] if controlled else [])


def delete_job(server: Server, namespace: str, name: str) -> None:
    """Delete a Job without its pods, because no garbage collector runs."""
    server.call("DELETE", f"{jobs(namespace)}/{name}", {"propagationPolicy": "Background"})


def names_of_jobs(server: Server, namespace: str) -> set[str]:
    """Return the names of all Jobs."""
    return {item["metadata"]["name"] for item in server.call("GET", jobs(namespace))["items"]}
