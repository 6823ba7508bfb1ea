"""A whole Airflow, 2 or 3, on PostgreSQL, and the pods of its tasks in a real kube-apiserver.

A process can have one Airflow only: a part that measures both has a process of its own for each.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from importlib.metadata import version
from typing import Any

from bench.airflow_process import each_airflow, printed_by, without_airflow
from bench.cluster import CONN_ID, Cluster, namespace_of
from bench.pod_rows import insert_rows
from bench.setting import Bench
from demo.airflow import REPO, Airflow
from demo.airflow_settings import IS_AIRFLOW_3, Config
from demo.scratch import scratch_folder
from demo.terminal import Terminal
from tests.real.records import Records

IDLE, MEASURED, OVERDUE = DAGS = ("nothing", "kpo_cleanup_measured", "kpo_cleanup_overdue")
TIMEOUT = 1800  # seconds; the machine may have other work


def in_each_airflow(bench: Bench, module: str, *arguments: int) -> Iterator[dict[str, Any]]:
    """Run a module of ours with Airflow 2 and with 3, each on a database of its own; give the JSON that it prints.

    Its arguments are the URL of the empty database, and these.
    """
    for python, database in each_airflow(bench):
        told = [database.url("psycopg2"), *map(str, arguments)]
        yield from printed_by(python, module, told, without_airflow())


class RealAirflow:
    """The Airflow of this environment, its cluster, and the live pods in it; the zombies come with `put_zombies`."""

    version = version("apache-airflow")

    def __init__(self, stack: ExitStack, database_url: str, pods: int, zombies: int) -> None:
        """Start all, and wait until the DAGs are known."""
        self.zombies = range(0, pods, pods // zombies)
        self.records = Records(database_url)
        self.folder = stack.enter_context(scratch_folder())
        self._namespace = namespace_of(pods)
        self._terminal = Terminal(0)
        self._cluster = Cluster(stack)
        self._cluster.put(self._namespace, sorted({*range(pods)} - {*self.zombies}))
        kubeconfig = json.loads(os.environ[f"AIRFLOW_CONN_{CONN_ID.upper()}"])["extra"]["kube_config"]
        file = self._cluster.control_plane.write_kubeconfig(self.folder / "kubeconfig", kubeconfig)
        # The pods are new, and so their task instances have ended just now.
        ours = {"settle_seconds": 0, "namespaces": self._namespace, "schedule": None}
        config: Config = {
            "core": {"dags_are_paused_at_creation": True},
            # Airflow's own; that of the demo is too short for a machine that has other work, too.
            "scheduler": dict.fromkeys(("scheduler_zombie_task_threshold", "task_instance_heartbeat_timeout"), 300),
            "kpo_cleanup": ours,
        }
        self._airflow = Airflow(self.folder, file, self._namespace, database_url=database_url, config=config)
        self._airflow.install_dags(REPO / "bench" / "real_dags.py")
        self._airflow.start(self._terminal, DAGS)
        self.api = self._airflow.api
        insert_rows(database_url, self._namespace, range(pods), failed=self.zombies)

    def put_zombies(self, numbers: Sequence[int] = ()) -> None:
        """Have the pods of these numbers anew, all zombies if none is given: their task instances have failed."""
        self._cluster.put(self._namespace, numbers or self.zombies, is_zombie=True)

    def run(self, dag_id: str) -> str:
        """Trigger a run and wait for its end; gives its run_id.

        :raises RuntimeError: if it fails.
        """
        self.api.pause(dag_id, False)
        run_id = self.api.trigger(dag_id, {})
        # Not by the API, whose server has enough to do with the tasks of Airflow 3.
        self.wait_for(f"{dag_id} is over", lambda: self.records.are_idle(dag_id))
        states = {ti.task_id: ti.state for ti in self.records.task_instances(dag_id) if ti.run_id == run_id}
        if set(states.values()) != {"success"}:
            raise RuntimeError(f"{run_id} of {dag_id} ended as {states}")
        return run_id

    def clean_up(self, dag_id: str) -> str:
        """Put all zombies and run a cleanup, which must find them; gives its run_id."""
        self.put_zombies()
        run_id = self.run(dag_id)
        self.check(dag_id, run_id, len(self.zombies))
        return run_id

    def check(self, dag_id: str, run_id: str, zombies: int) -> None:
        """:raises RuntimeError: if this run of a cleanup found other than so many zombies."""
        where = "dag_id = :dag_id AND run_id = :run_id AND task_id = 'classify' AND key = 'return_value'"
        ((value,),) = self.records.query(f"SELECT value FROM xcom WHERE {where}", dag_id=dag_id, run_id=run_id)
        found = len((value if IS_AIRFLOW_3 else json.loads(bytes(value)))["zombies"])
        if found != zombies:
            raise RuntimeError(f"{run_id} of {dag_id} found {found} zombies, not {zombies}")

    def wait_for(self, what: str, look: Callable[[], bool]) -> None:
        """Wait until it is so, while all components run."""

        def look_at_both() -> bool:
            self._airflow.healthy_api()
            return look()

        self._terminal.wait_for(what, look_at_both, TIMEOUT, log=self._airflow.log("scheduler"))
