"""XCom: how large it is, and that a large run passes through each database on both Airflows."""

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

from bench.classifying import task_instances_of
from bench.cluster import CONN_ID
from bench.results import Figure, at_most, mebibytes
from bench.setting import Bench
from include.kpo_cleanup import xcom
from include.kpo_cleanup.classify import Snapshot, classify
from include.kpo_cleanup.kube.pods import PodClient
from include.kpo_cleanup.settings import Settings
from tests.databases import Database, mariadb, postgresql

# Airflow 3's states do not go through mysqlclient; and PyMySQL sends Airflow 2's bytes as hex, twice as long, which is
# more than MariaDB takes by default (max_allowed_packet, 16 MiB).
DRIVERS = {"Airflow 3": "pymysql", "Airflow 2": "mysqldb"}
PASSING = Path(__file__).with_name("xcom_passing.py")


def measure(bench: Bench) -> Iterator[Figure]:
    size = bench.pods[-1]
    settings = Settings(namespaces=bench.cluster.fill(size), settle_seconds=0)
    run = _a_run(PodClient(CONN_ID), settings)
    lengths = {name: len(json.dumps(value)) for name, value in run.items()}
    listing = lengths["list_pods"]
    pods = f"{size:,} pods, each of its own DAG run"
    yield Figure("XCom of list_pods", "", pods, mebibytes(listing), "", listing / size, at_most(250, "bytes a pod"))

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "xcoms.json"
        file.write_text(json.dumps(run))
        for generation, python in (("Airflow 3", Path(sys.executable)), ("Airflow 2", bench.airflow_2)):
            if python is None:
                bench.say(f"XCom: no environment with {generation} was given (--airflow-2)")
                continue
            home = Path(folder) / generation.replace(" ", "-")
            for database, starting in _databases(home, DRIVERS[generation]):
                bench.say(f"XComs of a run of {size:,} pods through {generation} and {database}")
                with starting as url:
                    passed = _passes(python, url, file, home)
                ours = f"{mebibytes(sum(lengths.values()))} {'passed' if passed else 'did not pass'}"
                name = f"XComs of a run through {generation} and {database}"
                yield Figure(name, "", f"{size:,} pods", ours, "", int(not passed), at_most(0, "failures"))


def _a_run(api: PodClient, settings: Settings) -> dict[str, Any]:
    """Give what the tasks of one run return."""
    listing = api.list_pods(settings.namespace_list(), settings.label_selector)
    told = task_instances_of(listing.pods)
    verdicts = classify(Snapshot(listing.pods, told, settings, int(time.time())))
    return {
        "list_pods": xcom.dump_listing(listing),
        "fetch_active_tis": xcom.dump_task_instances(told),
        "classify": xcom.dump_classification(verdicts, {}),
    }


def _databases(home: Path, mysql_driver: str) -> Iterator[tuple[str, AbstractContextManager[str]]]:
    """Give the metadata databases one by one: the name, and what starts it and gives its URL."""
    yield "SQLite", nullcontext(f"sqlite:///{home}/airflow.db")
    yield "PostgreSQL", _url(postgresql(), "psycopg2")
    yield "MariaDB", _url(mariadb(), mysql_driver)


@contextmanager
def _url(starting: AbstractContextManager[Database], driver: str) -> Iterator[str]:
    with starting as database:
        yield database.url(driver)


def _passes(python: Path, url: str, file: Path, home: Path) -> bool:
    """Tell whether the XComs come back as they were; if not, show the end of the log."""
    home.mkdir(exist_ok=True)
    settings = {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(PASSING.parent),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": url,
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(home / "logs"),
    }
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_")} | settings
    command = [str(python), "-W", "ignore", str(PASSING), str(file)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        print(done.stdout[-3_000:], done.stderr[-3_000:], file=sys.stderr)
    return done.returncode == 0
