"""A pod like the operator's, with 15 environment variables per container, and a status like the kubelet's."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from include.kpo_cleanup.identity import to_label_value

ENV_VARS = 15  # per container
PODS_PER_DAG = 50
FIELD_MANAGER = "OpenAPI-Generator"  # which the API server derives from the Python client's User-Agent


def name_of(number: int) -> str:
    return f"load-customer-orders-{number:08d}"


def ids_of(number: int) -> dict[str, str]:
    """Return the ids of a pod's task instance; every pod has its own run, and `PODS_PER_DAG` pods share a DAG."""
    date = datetime(2026, 10, 1, tzinfo=UTC) + timedelta(minutes=number % PODS_PER_DAG)
    return {
        "dag_id": f"customer_orders_{number // PODS_PER_DAG:04d}",
        "task_id": f"load_customer_orders_{number % 10}",
        "run_id": f"scheduled__{date.isoformat()}",
    }


def pod(number: int) -> dict[str, Any]:
    """Build the body of the operator's create request."""
    labels = {name: to_label_value(value) for name, value in ids_of(number).items()}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name_of(number),
            "labels": {
                **labels,
                "airflow_kpo_in_cluster": "True",
                "airflow_version": "3.3.2",
                "kubernetes_pod_operator": "True",
                "try_number": "1",
            },
        },
        "spec": {
            "containers": [
                _container("base", "customer-orders:2026.11", {"cpu": "250m", "memory": "512Mi"}),
                _container("airflow-xcom-sidecar", "alpine:latest", {"cpu": "1m", "memory": "10Mi"}),
            ],
            "restartPolicy": "Never",
            "volumes": [{"name": "xcom", "emptyDir": {}}],
        },
    }  # fmt: skip


def _container(name: str, image: str, requests: dict[str, str]) -> dict[str, Any]:
    return {
        "name": name,
        "image": image,
        "command": ["python", "-m", "load"],
        "env": [{"name": f"V{number:02}", "value": "x"} for number in range(ENV_VARS)],
        "resources": {"requests": requests},
        "volumeMounts": [{"name": "xcom", "mountPath": "/airflow/xcom"}],
    }


def status(is_zombie: bool) -> dict[str, Any]:
    """Build the status that the kubelet reports. In a zombie, only the sidecar is still running."""
    started = (datetime.now(UTC) - timedelta(hours=3)).strftime("%Y-%m-%dT%H:%M:%SZ")
    ended = (datetime.now(UTC) - timedelta(hours=2)).strftime("%Y-%m-%dT%H:%M:%SZ")
    running = {"running": {"startedAt": started}}
    terminated = {"terminated": {"exitCode": 0, "reason": "Completed", "startedAt": started, "finishedAt": ended}}

    def container(name: str, state: dict[str, Any]) -> dict[str, Any]:
        image = {"image": "customer-orders:2026.11", "imageID": "customer-orders@sha256:5eed"}
        return {"name": name, "state": state, "ready": "running" in state, "restartCount": 0, **image}

    sidecar = container("airflow-xcom-sidecar", running)
    return {
        "phase": "Running",
        "startTime": started,
        "containerStatuses": [container("base", terminated if is_zombie else running), sidecar],
    }
