"""Run bench modules in a separate process for each Airflow version: a process can import only one version."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.context import Bench
from tests.databases import Database, postgresql

REPO = Path(__file__).parent.parent


def run_on_migrated_databases(bench: Bench, module: str, *arguments: str) -> Iterator[dict[str, Any]]:
    """Run a bench module with each Airflow, on a freshly migrated database; yield the JSON objects it prints."""
    for python, database in installed_airflows(bench):
        with tempfile.TemporaryDirectory(prefix="kpo-cleanup-bench-") as home:
            environment = {
                **environment_without_airflow(),
                "AIRFLOW_HOME": home,
                "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database.url("psycopg2"),
                "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
                "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR",
            }
            migrate = [str(python.with_name("airflow")), "db", "migrate"]
            done = subprocess.run(migrate, env=environment, cwd=home, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"airflow db migrate failed: {done.stderr[-2000:]}")
            yield from run_module(python, module, arguments, environment)


def installed_airflows(bench: Bench) -> Iterator[tuple[Path, Database]]:
    """Yield the Python executable of each installed Airflow, and an empty PostgreSQL database for it."""
    for python in filter(None, (bench.airflow_2, Path(sys.executable))):
        with postgresql() as database:
            bench.versions[database.name.split()[0]] = database.name.split()[1]
            yield python.absolute(), database


def environment_without_airflow() -> dict[str, str]:
    """Return this process's environment without the variables that configure its own Airflow."""
    return {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}


def run_module(
    python: Path, module: str, arguments: Sequence[str], environment: Mapping[str, str]
) -> Iterator[dict[str, Any]]:
    """Run a Python module, and yield the JSON objects that it prints, one per line.

    :raises RuntimeError: if it fails.
    """
    command = [str(python), "-W", "ignore", "-m", module, *arguments]
    with subprocess.Popen(command, env=environment, cwd=REPO, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("{"):  # other lines are Airflow's output and progress messages
                yield json.loads(line)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} exited with status {process.returncode}")
