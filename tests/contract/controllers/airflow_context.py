"""The context in which Airflow executes an operator, and the connection to the cluster under test."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.contract.namespace import Namespace

DAG_ID, TASK_ID, RUN_ID = "orders", "load", "manual__1"


class Records(dict[str, Any]):
    """The XComs that an operator pushes."""

    def push(self, key: str, value: Any) -> None:
        self[key] = value


def connect(namespace: Namespace, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Point the connection `kubernetes_default` to the server of a namespace."""
    path = folder / "kubeconfig.json"
    path.write_text(json.dumps(namespace.server.kubeconfig))
    connection = {"conn_type": "kubernetes", "extra": {"kube_config_path": str(path), "namespace": namespace.name}}
    monkeypatch.setenv("AIRFLOW_CONN_KUBERNETES_DEFAULT", json.dumps(connection))


def context_of(records: Records, try_number: int = 1) -> dict[str, Any]:
    """Return the context of a try of the task."""
    ti = SimpleNamespace(
        dag_id=DAG_ID, task_id=TASK_ID, run_id=RUN_ID, map_index=-1, try_number=try_number, xcom_push=records.push
    )
    return {"ti": ti, "task_instance": ti, "run_id": RUN_ID, "dag": None}


def ti_labels(try_number: int = 1) -> dict[str, str]:
    """Return the labels of the task instance that the operators set."""
    return {"dag_id": DAG_ID, "task_id": TASK_ID, "run_id": RUN_ID, "try_number": str(try_number)}
