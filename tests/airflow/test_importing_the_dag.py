"""The cost of importing the DAG file."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.conftest import REPO

IMPORT_LIMIT = 1.0  # seconds of CPU time, which the DAG processor spends whenever it parses the file

# Audit events show every connection and process of all libraries.
IMPORT_THE_DAG = f"""
import importlib.util, sys, time
from datetime import datetime

events = []
WATCHED = ("socket.connect", "socket.getaddrinfo", "sqlite3.connect", "subprocess.Popen")
sys.addaudithook(lambda event, args: events.append(event) if event in WATCHED else None)

try:
    from airflow.sdk import dag, task
except ImportError:
    from airflow.decorators import dag, task

@dag(schedule=None, start_date=datetime(2024, 1, 1))
def trivial():
    @task
    def nothing():
        pass
    nothing()

trivial()
events.clear()
started = time.process_time()
spec = importlib.util.spec_from_file_location("dag_file", {str(REPO / "dags" / "kpo_cleanup.py")!r})
spec.loader.exec_module(importlib.util.module_from_spec(spec))
print("SECONDS", time.process_time() - started)
print("EVENTS", *events)
"""


@pytest.fixture(scope="module")
def import_of_the_dag(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Import a trivial DAG and then ours in a new process without a database; return the cost and events of ours."""
    environment = {
        **os.environ,
        "AIRFLOW_HOME": str(tmp_path_factory.mktemp("home")),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "sqlite:////nonexistent/airflow.db",
        "PYTHONPATH": str(REPO),
    }
    command = [sys.executable, "-W", "ignore", "-c", IMPORT_THE_DAG]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert process.returncode == 0, process.stderr
    lines = [line.split() for line in process.stdout.splitlines() if line.startswith(("SECONDS", "EVENTS"))]
    return {name: values for name, *values in lines}


class TestImportingTheDag:
    def test_importing_the_dag_opens_no_connection_and_starts_no_process(
        self, import_of_the_dag: dict[str, list[str]]
    ) -> None:
        assert import_of_the_dag["EVENTS"] == []

    def test_importing_the_dag_takes_less_than_a_second(self, import_of_the_dag: dict[str, list[str]]) -> None:
        assert float(import_of_the_dag["SECONDS"][0]) < IMPORT_LIMIT
