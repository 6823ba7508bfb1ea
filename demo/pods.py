"""List, show and remove the pods of one DAG run."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kubernetes import client, config
from urllib3.exceptions import HTTPError

from demo.terminal import DemoError
from include.kpo_cleanup.identity import to_label_value

COLUMNS = ("pod", "try", "phase", "containers")
REQUEST_TIMEOUT = 15  # seconds


@dataclass(frozen=True)
class PodView:
    """The fields of a pod that the demo shows and checks."""

    name: str
    uid: str
    task_id: str
    map_index: int
    try_number: int
    phase: str
    containers: str
    main_is_running: bool  # the main container: base, or the only one
    main_ended_at: float | None  # epoch seconds
    is_terminating: bool

    @property
    def row(self) -> tuple[str, ...]:
        phase = f"{self.phase}, terminating" if self.is_terminating else self.phase
        return (self.name, str(self.try_number), phase, self.containers)

    def main_ended_longer_ago_than(self, seconds: float) -> bool:
        return self.main_ended_at is not None and time.time() - self.main_ended_at > seconds


class Namespace:
    """One namespace of a cluster; nothing outside it is read or changed."""

    def __init__(self, kubeconfig: Path, namespace: str) -> None:
        self.name = namespace
        try:
            api_client = config.new_client_from_config(str(kubeconfig))
        except config.ConfigException as error:
            raise DemoError(f"cannot load the kubeconfig {kubeconfig}: {error}") from error
        self._api, self._jobs = client.CoreV1Api(api_client), client.BatchV1Api(api_client)

    def check_access(self) -> None:
        """Check that the pods of the namespace can be listed.

        :raises DemoError: if they cannot.
        """
        self._list(limit=1)

    def pods(self, dag_id: str, run_id: str) -> list[PodView]:
        """List the pods of a DAG run, sorted by task.

        :raises DemoError: if they cannot be listed.
        """
        items = self._list(label_selector=run_selector(dag_id, run_id))
        return sorted(map(_view, items), key=lambda pod: (pod.task_id, pod.map_index, pod.try_number))

    def remove_pods(self, dag_id: str, run_id: str) -> None:
        """Delete the Jobs and the pods of a DAG run without a grace period, because they do no real work."""
        options: dict[str, Any] = {
            "label_selector": run_selector(dag_id, run_id),
            "_request_timeout": REQUEST_TIMEOUT,
        }
        try:
            self._jobs.delete_collection_namespaced_job(self.name, propagation_policy="Background", **options)
        finally:
            self._api.delete_collection_namespaced_pod(self.name, grace_period_seconds=0, **options)

    def _list(self, **options: Any) -> list[Any]:
        try:
            response = self._api.list_namespaced_pod(self.name, _request_timeout=REQUEST_TIMEOUT, **options)
        except client.ApiException as error:
            raise DemoError(f"cannot list pods in namespace {self.name}: {error.status} {error.reason}") from error
        except HTTPError as error:
            raise DemoError(f"cannot reach the cluster: {error}") from error
        return list(response.items)


def dag_selector(dag_id: str) -> str:
    """Return the label selector for the pods of a DAG."""
    return f"dag_id={to_label_value(dag_id)}"


def run_selector(dag_id: str, run_id: str) -> str:
    """Return the label selector for the pods of a DAG run."""
    return f"{dag_selector(dag_id)},run_id={to_label_value(run_id)}"


def _view(pod: Any) -> PodView:
    labels = pod.metadata.labels
    states = {status.name: status.state for status in pod.status.container_statuses or ()}
    main = states.get("base") or next(iter(states.values()), None)
    ended = main.terminated.finished_at if main and main.terminated else None
    return PodView(
        name=pod.metadata.name,
        uid=pod.metadata.uid,
        task_id=labels["task_id"],
        map_index=int(labels.get("map_index", -1)),
        try_number=int(labels["try_number"]),
        phase=pod.status.phase,
        containers=", ".join(f"{name} {_state(state)}" for name, state in states.items()),
        main_is_running=bool(main and main.running),
        main_ended_at=ended.astimezone(UTC).timestamp() if isinstance(ended, datetime) else None,
        is_terminating=pod.metadata.deletion_timestamp is not None,
    )


def _state(state: Any) -> str:
    if state.terminated:
        return f"exited {state.terminated.exit_code}"
    return "running" if state.running else f"waiting ({state.waiting.reason})" if state.waiting else "unknown"
