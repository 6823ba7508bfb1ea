"""SparkApplications of a namespace."""

from __future__ import annotations

from typing import Any

from tests.contract.namespace import Json, Namespace

GROUP_VERSION = "sparkoperator.k8s.io/v1beta2"
FOREVER = ["sleep", "infinity"]
DEADLINE = 40.0  # seconds; an application is started again only after a retry interval


def path_of(namespace: Namespace, name: str = "app") -> str:
    return f"/apis/{GROUP_VERSION}/namespaces/{namespace.name}/sparkapplications/{name}"


def application(name: str = "app", arguments: list[str] | None = None, **spec: Any) -> Json:
    """Return a SparkApplication whose driver runs the arguments as a shell script."""
    return {
        "apiVersion": GROUP_VERSION,
        "kind": "SparkApplication",
        "metadata": {"name": name},
        "spec": {
            "type": "Python",
            "mode": "cluster",
            "image": "spark:3.5",
            "mainApplicationFile": "local:///opt/job.py",
            "sparkVersion": "3.5.0",
            "arguments": arguments or [],
            "restartPolicy": {"type": "Never"},
            "driver": {"labels": {"dag_id": "d"}},
            "executor": {"labels": {"dag_id": "d"}},
            **spec,
        },
    }


def submit(namespace: Namespace, body: Json) -> Json:
    return namespace.call("POST", path_of(namespace, ""), body)


def state_in(found: Json) -> str:
    return str(found.get("status", {}).get("applicationState", {}).get("state", ""))


def wait_for_state(namespace: Namespace, *states: str, name: str = "app") -> Json:
    """Wait until an application reaches one of the states, and return the application."""
    return namespace.wait_for(path_of(namespace, name), lambda found: state_in(found) in states, DEADLINE)


def running_driver(namespace: Namespace, name: str = "app") -> Json:
    """Wait until the driver of an application is running, and return its pod."""
    wait_for_state(namespace, "RUNNING", name=name)
    return namespace.wait_for_phase(f"{name}-driver", "Running")
