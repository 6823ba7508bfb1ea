"""A complete Airflow, 2 or 3, on PostgreSQL, with the pods of its tasks in a real kube-apiserver.

A process can import only one Airflow, so a part that measures both versions runs in one process for each.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from importlib.metadata import version
from typing import Any

from bench.airflow_process import environment_without_airflow, installed_airflows, run_module
from bench.cluster import CONN_ID, Cluster, namespace_of
from bench.context import Bench
from bench.pod_rows import insert_rows
from demo.airflow import REPO, Airflow
from demo.airflow_settings import IS_AIRFLOW_3, Config
from demo.scratch import scratch_folder
from demo.terminal import Terminal
from tests.real.records import Records

IDLE, MEASURED, OVERDUE = DAGS = ("nothing", "kpo_cleanup_measured", "kpo_cleanup_overdue")
TIMEOUT = 1800  # seconds; the machine may be busy


def run_on_empty_databases(bench: Bench, module: str, *arguments: int) -> Iterator[dict[str, Any]]:
    """Run a bench module with each installed Airflow and an empty database; yield the JSON objects it prints.

    The URL of the database is passed as the first argument.
    """
    for python, database in installed_airflows(bench):
        all_arguments = [database.url("psycopg2"), *map(str, arguments)]
        yield from run_module(python, module, all_arguments, environment_without_airflow())


class RealAirflow:
    """The Airflow of this environment and a cluster with its live pods; `put_zombies` adds the zombies."""

    version = version("apache-airflow")

    def __init__(self, stack: ExitStack, database_url: str, pods: int, zombies: int) -> None:
        """Start cluster and Airflow, and wait until the DAGs are parsed."""
        self.zombies = range(0, pods, pods // zombies)
        self.records = Records(database_url)
        self.folder = stack.enter_context(scratch_folder())
        self._namespace = namespace_of(pods)
        self._terminal = Terminal(0)
        self._cluster = Cluster(stack)
        self._cluster.put(self._namespace, sorted({*range(pods)} - {*self.zombies}))
        kubeconfig = json.loads(os.environ[f"AIRFLOW_CONN_{CONN_ID.upper()}"])["extra"]["kube_config"]
        file = self._cluster.control_plane.write_kubeconfig(self.folder / "kubeconfig", kubeconfig)
        # settle_seconds=0, because the pods are new and their task instances have just ended.
        options = {"settle_seconds": 0, "namespaces": self._namespace, "schedule": None}
        config: Config = {
            "core": {"dags_are_paused_at_creation": True},
            # Airflow's default; the demo's timeout is too short on a busy machine.
            "scheduler": dict.fromkeys(("scheduler_zombie_task_threshold", "task_instance_heartbeat_timeout"), 300),
            "kpo_cleanup": options,
        }
        self._airflow = Airflow(self.folder, file, self._namespace, database_url=database_url, config=config)
        self._airflow.install_dags(REPO / "bench" / "real_dags.py")
        self._airflow.start(self._terminal, DAGS)
        self.api = self._airflow.api
        insert_rows(database_url, self._namespace, range(pods), failed=self.zombies)

    def put_zombies(self, numbers: Sequence[int] = ()) -> None:
        """Create or replace the zombies with these numbers, or all of them by default."""
        self._cluster.put(self._namespace, numbers or self.zombies, is_zombie=True)

    def run(self, dag_id: str) -> str:
        """Trigger a DAG run, wait until it has ended, and return its run_id.

        :raises RuntimeError: if it fails.
        """
        self.api.pause(dag_id, False)
        run_id = self.api.trigger(dag_id, {})
        # Polls the database, because the API server of Airflow 3 is busy with the tasks.
        self.wait_for(f"the run of {dag_id} has ended", lambda: self.records.are_idle(dag_id))
        states = self._states(dag_id, run_id)
        if not set(states.values()) <= {"success", "skipped"}:
            raise RuntimeError(f"run {run_id} of {dag_id} ended with task states {states}")
        return run_id

    def count_workers(self, dag_id: str, run_id: str) -> int:
        """Return how many tasks of a run were executed; with the KubernetesExecutor, each needs a worker pod."""
        return list(self._states(dag_id, run_id).values()).count("success")

    def _states(self, dag_id: str, run_id: str) -> dict[str, str | None]:
        return {ti.task_id: ti.state for ti in self.records.task_instances(dag_id) if ti.run_id == run_id}

    def run_cleanup(self, dag_id: str) -> str:
        """Create all zombies, run a cleanup DAG that must find them, and return its run_id."""
        self.put_zombies()
        run_id = self.run(dag_id)
        self.check_zombies(dag_id, run_id, len(self.zombies))
        return run_id

    def check_zombies(self, dag_id: str, run_id: str, expected: int) -> None:
        """Check how many zombies a cleanup run found.

        :raises RuntimeError: if the number is not `expected`.
        """
        where = "dag_id = :dag_id AND run_id = :run_id AND task_id = 'classify' AND key = 'return_value'"
        ((value,),) = self.records.query(f"SELECT value FROM xcom WHERE {where}", dag_id=dag_id, run_id=run_id)
        found = len((value if IS_AIRFLOW_3 else json.loads(bytes(value)))["zombies"])
        if found != expected:
            raise RuntimeError(f"run {run_id} of {dag_id} found {found} zombies, expected {expected}")

    def wait_for(self, description: str, condition: Callable[[], bool]) -> None:
        """Wait until a condition is met, and check meanwhile that all components are running."""

        def is_met_while_healthy() -> bool:
            self._airflow.healthy_api()
            return condition()

        self._terminal.wait_for(description, is_met_while_healthy, TIMEOUT, log=self._airflow.log("scheduler"))
