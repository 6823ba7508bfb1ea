"""The size of the XComs, and whether those of a large run pass through each database on Airflow 2 and 3."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from bench.classification import task_instances_of
from bench.cluster import CONN_ID
from bench.context import Bench
from bench.results import Figure, at_most, mebibytes
from include.kpo_cleanup import xcom
from include.kpo_cleanup.classify import Snapshot, classify
from include.kpo_cleanup.kube.workloads import KubeClient
from include.kpo_cleanup.settings import Settings
from tests.databases import Database, mariadb, postgresql

# mysqlclient cannot send Airflow 3's task instance states. PyMySQL sends Airflow 2's bytes as hex, which doubles the
# statement and so exceeds MariaDB's default limit (max_allowed_packet, 16 MiB).
DRIVERS = {"Airflow 3": "pymysql", "Airflow 2": "mysqldb"}
ROUNDTRIP = Path(__file__).with_name("xcom_roundtrip.py")


def measure(bench: Bench) -> Iterator[Figure]:
    size = bench.pods[-1]
    settings = Settings(namespaces=bench.cluster.fill(size), settle_seconds=0)
    xcoms = _xcoms_of_a_run(KubeClient(CONN_ID), settings)
    lengths = {name: len(json.dumps(value)) for name, value in xcoms.items()}
    listing = lengths["list_pods"]
    pods = f"{size:,} pods, each of its own DAG run"
    yield Figure("XCom of list_pods", "", pods, mebibytes(listing), "", listing / size, at_most(250, "bytes per pod"))

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "xcoms.json"
        file.write_text(json.dumps(xcoms))
        for airflow, python in (("Airflow 3", Path(sys.executable)), ("Airflow 2", bench.airflow_2)):
            if python is None:
                bench.progress(f"XComs: skipping {airflow}, because --airflow-2 is not set")
                continue
            home = Path(folder) / airflow.replace(" ", "-")
            for database, starting in _databases(home, DRIVERS[airflow]):
                bench.progress(f"XComs of a run with {size:,} pods through {airflow} and {database}")
                with starting as url:
                    passed = _pass_through(python, url, file, home)
                ours = f"{mebibytes(sum(lengths.values()))} {'passed' if passed else 'did not pass'}"
                name = f"XComs of a run through {airflow} and {database}"
                yield Figure(name, "", f"{size:,} pods", ours, "", int(not passed), at_most(0, "failures"))


def _xcoms_of_a_run(api: KubeClient, settings: Settings) -> dict[str, Any]:
    """Return the return values of the tasks of one run."""
    listing = api.list_workloads(settings.namespace_list(), settings.label_selector)
    task_instances = task_instances_of(listing.workloads)
    verdicts = classify(Snapshot(listing.workloads, task_instances, settings, int(time.time())))
    return {
        "list_pods": xcom.dump_listing(listing),
        "fetch_active_tis": xcom.dump_task_instances(task_instances),
        "classify": xcom.dump_classification(verdicts, {}),
    }


def _databases(home: Path, mysql_driver: str) -> Iterator[tuple[str, AbstractContextManager[str]]]:
    """Yield the name of each metadata database, and a context manager that starts it and returns its URL."""
    yield "SQLite", nullcontext(f"sqlite:///{home}/airflow.db")
    yield "PostgreSQL", _url(postgresql(), "psycopg2")
    yield "MariaDB", _url(mariadb(), mysql_driver)


@contextmanager
def _url(starting: AbstractContextManager[Database], driver: str) -> Iterator[str]:
    with starting as database:
        yield database.url(driver)


def _pass_through(python: Path, url: str, file: Path, home: Path) -> bool:
    """Return whether the XComs arrive unchanged; if not, print the end of the output."""
    home.mkdir(exist_ok=True)
    settings = {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROUNDTRIP.parent),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": url,
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(home / "logs"),
    }
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_")} | settings
    command = [str(python), "-W", "ignore", str(ROUNDTRIP), str(file)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        print(done.stdout[-3_000:], done.stderr[-3_000:], file=sys.stderr)
    return done.returncode == 0
