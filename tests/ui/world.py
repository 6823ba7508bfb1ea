"""A real Airflow with three runs of the cleanup: one deleted pods, one found no zombies, one lacked permissions."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from demo.airflow import Airflow
from demo.airflow_settings import Config
from demo.scratch import scratch_folder
from demo.terminal import Terminal
from tests.conftest import REPO
from tests.proxy import FaultProxy, forbidden
from tests.ui.pods import FINISHED_TASKS, NAMESPACES, RETRYING_DAG, FrozenCluster, kept, zombies

TIMEOUT = 180  # seconds
SCHEDULE = "30 3 * * *"  # unlikely to be due while the tests run
FINAL_STATES = ("success", "failed")
CLEANUPS = ("kpo_cleanup", "kpo_cleanup_dry_run", "kpo_cleanup_paused")


@dataclass
class World:
    """An Airflow and a cluster, with the runs that the tests inspect."""

    airflow: Airflow
    cluster: FrozenCluster
    terminal: Terminal
    runs: dict[str, str] = field(default_factory=dict)  # run_ids of the cleanup: "deleted", "skipped", "forbidden"
    work_runs: dict[str, list[str]] = field(default_factory=dict)  # run_ids of the other DAGs, by dag_id

    def run(self, dag_id: str, **conf: Any) -> str:
        """Trigger a DAG run, wait until it has ended, and return its run_id."""
        run_id = self.airflow.healthy_api().trigger(dag_id, conf)
        self.wait_for_run(dag_id, run_id)
        return run_id

    def wait_for_run(self, dag_id: str, run_id: str) -> None:
        def has_ended() -> bool:
            return self.airflow.healthy_api().run_state(dag_id, run_id) in FINAL_STATES

        self._wait(f"the run of {dag_id} has ended", has_ended)

    def wait_for_first_run(self, dag_id: str) -> str:
        """Wait until the first run of a DAG has ended, and return its run_id."""
        self._wait(f"{dag_id} has a run", lambda: bool(self.run_ids(dag_id)))
        [run_id] = self.run_ids(dag_id)
        self.wait_for_run(dag_id, run_id)
        return run_id

    def run_ids(self, dag_id: str = "kpo_cleanup") -> list[str]:
        """Return the run_ids of all runs of a DAG, scheduled and manual."""
        return [run["dag_run_id"] for run in self._runs(dag_id)]

    def is_idle(self) -> bool:
        """Return whether the cleanup has had a run, and has none in progress."""
        runs = self._runs("kpo_cleanup")
        return bool(runs) and all(run["state"] in FINAL_STATES for run in runs)

    def _wait(self, description: str, condition: Callable[[], bool]) -> None:
        self.terminal.wait_for(description, condition, TIMEOUT, log=self.airflow.log("scheduler"))

    def _runs(self, dag_id: str) -> list[dict[str, Any]]:
        return list(self.airflow.healthy_api().request("GET", f"/dags/{dag_id}/dagRuns")["dag_runs"])

    def clean_up(self, **conf: Any) -> str:
        return self.run("kpo_cleanup", settle_seconds=0, **conf)


@contextmanager
def create_world() -> Iterator[World]:
    terminal = Terminal(steps=0)
    with scratch_folder() as folder, FrozenCluster() as cluster, FaultProxy(cluster.url) as proxy:
        kubeconfig = cluster.write_kubeconfig(folder / "kubeconfig")
        kubeconfig.write_text(kubeconfig.read_text().replace(cluster.url, proxy.url))
        config: Config = {
            "kpo_cleanup": {"schedule": SCHEDULE, "namespaces": ",".join(NAMESPACES)},
            # A browser opens connections in advance, and each blocks one of Airflow 2's web server workers.
            "webserver": {"workers": 4},
        }
        airflow = Airflow(folder, kubeconfig, NAMESPACES[0], config=config)
        airflow.install_dags(REPO / "tests/ui/workload.py")
        airflow.start(terminal, [*CLEANUPS, *FINISHED_TASKS, RETRYING_DAG])
        world = World(airflow, cluster, terminal)
        _run_dags(world, proxy, folder / "airflow.db")
        yield world


def _run_dags(world: World, proxy: FaultProxy, database: Path) -> None:
    api = world.airflow.api
    world.work_runs = {dag_id: [api.trigger(dag_id, {}) for _ in range(2)] for dag_id in FINISHED_TASKS}
    for dag_id, run_ids in world.work_runs.items():
        for run_id in run_ids:
            world.wait_for_run(dag_id, run_id)
    retrying_run = api.trigger(RETRYING_DAG, {})
    world.work_runs[RETRYING_DAG] = [retrying_run]
    world.terminal.wait_for("tasks wait for their retries", lambda: _waits_for_retries(world, retrying_run), TIMEOUT)
    # Set states that the scheduler does not change: one task is at its second try, the other waits for its pod.
    with closing(sqlite3.connect(database, timeout=60)) as connection, connection:
        connection.execute("UPDATE task_instance SET try_number = 2 WHERE task_id = 'ingest_clickstream'")
        connection.execute("UPDATE task_instance SET state = 'deferred' WHERE task_id = 'publish_metrics'")
    # The first scheduled run starts immediately, and must not find the pods.
    world.terminal.wait_for("the scheduled run has ended", world.is_idle, TIMEOUT)
    pods = list(zombies(world.work_runs))
    world.cluster.put([*pods, *kept(world.work_runs)])
    world.runs["deleted"] = world.clean_up()
    world.runs["skipped"] = world.clean_up()
    world.cluster.put(pods)
    proxy.spoil(f"^GET .*/namespaces/{NAMESPACES[1]}/pods", forbidden("list", NAMESPACES[1]))
    proxy.spoil("^DELETE .*/pods/load-warehouse", forbidden("delete", NAMESPACES[0]))
    world.runs["forbidden"] = world.clean_up()
    proxy.heal()


def _waits_for_retries(world: World, run_id: str) -> bool:
    states = [ti.state for ti in world.airflow.healthy_api().task_instances(RETRYING_DAG, run_id)]
    return bool(states) and set(states) == {"up_for_retry"}
