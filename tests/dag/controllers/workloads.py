"""The Jobs or SparkApplications that the operators of a DAG created, and their pods, by task and try: ``waiting#1``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from airflow.models.dagrun import DagRun
from kubernetes import client

from tests.dag import airflow_runs
from tests.dag.pods import wait_until

MAX_WAIT = 120  # seconds; real controllers retry with increasing delays


class Workloads:
    """The workloads of one kind, of the last run of a DAG."""

    dag_id = ""
    expected: frozenset[str]  # tasks and tries

    def __init__(self, core: client.CoreV1Api) -> None:
        self._core = core
        self._run: DagRun | None = None

    def names(self) -> dict[str, str]:
        """Return the names of the objects."""
        raise NotImplementedError

    def delete(self) -> None:
        """Delete the objects."""
        raise NotImplementedError

    def is_settled(self) -> bool:
        """Return whether the states of the objects no longer change."""
        raise NotImplementedError

    def prepare(self, run: DagRun) -> None:
        """Bring about what happens to the objects and the task instances after the run."""
        raise NotImplementedError

    def run(self) -> DagRun:
        """Run the operators, unless all workloads of the last run exist."""
        if self._run and self.names().keys() | self.pods().keys() == self.expected:
            return self._run
        self.clear()
        self._run = airflow_runs.run(self.dag_id)
        wait_until(lambda: self.names().keys() == self.expected and self.is_settled(), MAX_WAIT)
        self.prepare(self._run)
        airflow_runs.set_end_date(self.dag_id)
        return self._run

    def clear(self) -> None:
        """Delete the objects and all pods, also for the tests of another kind: the objects would create pods again."""
        self.delete()
        self._core.delete_collection_namespaced_pod("airflow", grace_period_seconds=0)
        wait_until(lambda: not self.names() and not self.pods(), MAX_WAIT)

    def pods(self) -> Counter[str]:
        """Return how many pods there are."""
        return Counter(role(pod.metadata.labels, pod.metadata.name) for pod in self.list_pods())

    def list_pods(self) -> list[Any]:
        return list(self._core.list_namespaced_pod("airflow").items)

    def verdicts(self, rows: Iterable[dict[str, Any]]) -> dict[str, str]:
        """Return the reasons in the rows of a report."""
        roles = {pod.metadata.name: role(pod.metadata.labels, pod.metadata.name) for pod in self.list_pods()}
        roles |= {name: of_name for of_name, name in self.names().items()}
        return {roles[(row.get("pod") or row["name"]).rpartition("/")[2]]: row["reason"] for row in rows}


def role(labels: dict[str, str] | None, name: str) -> str:
    """Return task and try, or the first two words of the name if there are no such labels."""
    labels = labels or {}
    return f"{labels['task_id']}#{labels['try_number']}" if "task_id" in labels else "-".join(name.split("-")[:2])
