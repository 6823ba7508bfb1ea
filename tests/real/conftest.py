"""A real Airflow with PostgreSQL and LocalExecutor on the embedded cluster, and the evidence of its runs.

These tests are about real schedulers, workers and databases, for which the embedded cluster is sufficient:
`tests/contract` verifies that it behaves like a real kube-apiserver, and `tests/dag` runs on either with equal results.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from kubernetes import client, config

from demo.airflow import REPO, Airflow
from demo.airflow_settings import Config
from demo.cluster import EmbeddedCluster
from demo.processes import end_processes_of
from demo.terminal import Terminal
from tests.databases import Database, postgresql
from tests.proxy import FaultProxy
from tests.real.records import Records
from tests.real.story import Evidence, Story
from tests.real.witness import Witness

SPEED = 20.0
SETTLE_SECONDS = 5
READER = "kpo_cleanup"  # a role of PostgreSQL
CONFIG: Config = {
    "core": {"parallelism": 24, "dags_are_paused_at_creation": True},
    # The time after which a new scheduler adopts the tasks of one that died.
    "scheduler": {"orphaned_tasks_check_interval": 10, "scheduler_health_check_threshold": 20},
    "kpo_cleanup": {
        "schedule": "* * * * *",
        "settle_seconds": SETTLE_SECONDS,
        "kubernetes_conn_id": "witnessed",
        "airflow_conn_id": "metadata",  # Airflow 2 ignores it with a warning
    },
}


@pytest.fixture(scope="session")
def database() -> Iterator[Database]:
    with postgresql() as database:
        yield database


@pytest.fixture(scope="session")
def records(database: Database) -> Records:
    return Records(database.url("psycopg2"))


@pytest.fixture(scope="session")
def cluster() -> Iterator[EmbeddedCluster]:
    with EmbeddedCluster(["airflow"], speed=SPEED) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return the folder of the Airflow, and stop its processes at the end."""
    folder = tmp_path_factory.mktemp("airflow")
    yield folder
    end_processes_of(folder)


@pytest.fixture(scope="session")
def evidence(database: Database, records: Records, cluster: EmbeddedCluster, folder: Path) -> Iterator[Evidence]:
    """Run the whole story once, which takes minutes."""
    terminal = Terminal(0)
    core = client.CoreV1Api(config.new_client_from_config_dict(cluster.kubeconfig))
    with FaultProxy(cluster.url) as proxy:
        witness = Witness(proxy, core, records)
        (folder / "witnessed.json").write_text(
            json.dumps({**cluster.kubeconfig, "clusters": [{"name": "embedded", "cluster": {"server": proxy.url}}]})
        )
        extra = {"kube_config_path": str(folder / "witnessed.json"), "namespace": "airflow"}
        airflow = Airflow(
            folder,
            cluster.write_kubeconfig(folder / "kubeconfig.json"),
            "airflow",
            database_url=database.url("psycopg2"),
            config=CONFIG,
            variables={
                "AIRFLOW_CONN_WITNESSED": json.dumps({"conn_type": "kubernetes", "extra": extra}),
                "AIRFLOW_CONN_METADATA": database.url(user=READER),
            },
        )
        airflow.install_dags(REPO / "tests" / "dag" / "workload.py")
        airflow.start(terminal, ["kpo_cleanup", "lively", "busy"])
        records.execute(f"CREATE ROLE {READER} LOGIN")
        records.execute(f"GRANT SELECT ON task_instance, dag_run, xcom TO {READER}")
        yield Story(airflow, records, core, witness, terminal).tell()
