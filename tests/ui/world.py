"""A real Airflow with runs of the cleanup that reaped, had nothing to do, and failed on permissions."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
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
from tests.ui.leftovers import FINISHED, NAMESPACES, RETRYING, FrozenCluster, kept, zombies

SECONDS = 180
SCHEDULE = "30 3 * * *"  # not while the tests run
OVER = ("success", "failed")
CLEANUPS = ("kpo_cleanup", "kpo_cleanup_dry_run", "kpo_cleanup_paused")


@dataclass
class World:
    """What the tests look at, and the means to make more of it."""

    airflow: Airflow
    cluster: FrozenCluster
    terminal: Terminal
    runs: dict[str, str] = field(default_factory=dict)  # run_ids of the cleanup, by what is to be seen in them
    work: dict[str, list[str]] = field(default_factory=dict)  # run_ids of the other DAGs

    def run(self, dag_id: str, **conf: Any) -> str:
        """One run of a DAG, to its end; gives its run_id."""
        run_id = self.airflow.healthy_api().trigger(dag_id, conf)
        self.wait(f"{dag_id} is over", dag_id, run_id)
        return run_id

    def wait(self, what: str, dag_id: str, run_id: str) -> None:
        def is_over() -> bool:
            return self.airflow.healthy_api().run_state(dag_id, run_id) in OVER

        self.terminal.wait_for(what, is_over, SECONDS, log=self.airflow.log("scheduler"))

    def run_ids(self, dag_id: str = "kpo_cleanup") -> list[str]:
        """All runs of a DAG, however they came about."""
        return [run["dag_run_id"] for run in self._runs(dag_id)]

    def is_idle(self) -> bool:
        """Whether the cleanup has run, and does not run now."""
        runs = self._runs("kpo_cleanup")
        return bool(runs) and all(run["state"] in OVER for run in runs)

    def _runs(self, dag_id: str) -> list[dict[str, Any]]:
        return list(self.airflow.healthy_api().request("GET", f"/dags/{dag_id}/dagRuns")["dag_runs"])

    def clean_up(self, **conf: Any) -> str:
        return self.run("kpo_cleanup", settle_seconds=0, **conf)


@contextmanager
def make_world() -> Iterator[World]:
    terminal = Terminal(steps=0)
    with scratch_folder() as folder, FrozenCluster() as cluster, FaultProxy(cluster.url) as proxy:
        kubeconfig = cluster.write_kubeconfig(folder / "kubeconfig")
        kubeconfig.write_text(kubeconfig.read_text().replace(cluster.url, proxy.url))
        config: Config = {
            "kpo_cleanup": {"schedule": SCHEDULE, "namespaces": ",".join(NAMESPACES)},
            # A browser opens connections in advance, and each holds up one of Airflow 2's workers.
            "webserver": {"workers": 4},
        }
        airflow = Airflow(folder, kubeconfig, NAMESPACES[0], config=config)
        airflow.install_dags(REPO / "tests/ui/workload.py")
        airflow.start(terminal, [*CLEANUPS, *FINISHED, RETRYING])
        world = World(airflow, cluster, terminal)
        _fill(world, proxy, folder / "airflow.db")
        yield world


def _fill(world: World, proxy: FaultProxy, database: Path) -> None:
    world.work = {dag_id: [world.airflow.api.trigger(dag_id, {}) for _ in range(2)] for dag_id in FINISHED}
    for dag_id, run_ids in world.work.items():
        for run_id in run_ids:
            world.wait(f"{dag_id} is over", dag_id, run_id)
    world.work[RETRYING] = [world.airflow.api.trigger(RETRYING, {})]
    world.terminal.wait_for("tasks wait for their retries", lambda: _waits(world, *world.work[RETRYING]), SECONDS)
    # States that the scheduler leaves as they are: one is at its second try, the other waits for its pod.
    with closing(sqlite3.connect(database, timeout=60)) as connection, connection:
        connection.execute("UPDATE task_instance SET try_number = 2 WHERE task_id = 'ingest_clickstream'")
        connection.execute("UPDATE task_instance SET state = 'deferred' WHERE task_id = 'publish_metrics'")
    # The first run by the schedule comes at once; it must not find the pods.
    world.terminal.wait_for("the scheduled run is over", world.is_idle, SECONDS)
    pods = list(zombies(world.work))
    world.cluster.put([*pods, *kept(world.work)])
    world.runs["reaped"] = world.clean_up()
    world.runs["nothing"] = world.clean_up()
    world.cluster.put(pods)
    proxy.spoil(f"^GET .*/namespaces/{NAMESPACES[1]}/pods", forbidden("list", NAMESPACES[1]))
    proxy.spoil("^DELETE .*/pods/load-warehouse", forbidden("delete", NAMESPACES[0]))
    world.runs["forbidden"] = world.clean_up()
    proxy.heal()


def _waits(world: World, run_id: str) -> bool:
    states = [ti.state for ti in world.airflow.healthy_api().task_instances(RETRYING, run_id)]
    return bool(states) and set(states) == {"up_for_retry"}
