"""A process for each Airflow, since a process can import one only, on a PostgreSQL with that Airflow's tables."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.setting import Bench
from tests.databases import Database, postgresql

REPO = Path(__file__).parent.parent


def of_each_airflow(bench: Bench, module: str, *arguments: str) -> Iterator[dict[str, Any]]:
    """Run a module of the bench on each Airflow that there is; gives the JSON objects that it prints."""
    for python, database in each_airflow(bench):
        with tempfile.TemporaryDirectory(prefix="kpo-cleanup-bench-") as home:
            environment = {
                **without_airflow(),
                "AIRFLOW_HOME": home,
                "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database.url("psycopg2"),
                "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
                "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR",
            }
            migrate = [str(python.with_name("airflow")), "db", "migrate"]
            done = subprocess.run(migrate, env=environment, cwd=home, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"airflow db migrate failed: {done.stderr[-2000:]}")
            yield from printed_by(python, module, arguments, environment)


def each_airflow(bench: Bench) -> Iterator[tuple[Path, Database]]:
    """Give the Python of each Airflow that there is, and an empty database for it."""
    for python in filter(None, (bench.airflow_2, Path(sys.executable))):
        with postgresql() as database:
            bench.versions[database.name.split()[0]] = database.name.split()[1]
            yield python.absolute(), database


def without_airflow() -> dict[str, str]:
    """Give the environment variables of this process that do not tell of its own Airflow."""
    return {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}


def printed_by(
    python: Path, module: str, arguments: Sequence[str], environment: Mapping[str, str]
) -> Iterator[dict[str, Any]]:
    """Run a module, and give the JSON objects that it prints.

    :raises RuntimeError: if it fails.
    """
    command = [str(python), "-W", "ignore", "-m", module, *arguments]
    with subprocess.Popen(command, env=environment, cwd=REPO, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("{"):  # the rest is Airflow's own talk, and what is waited for
                yield json.loads(line)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
