"""The query for task instances: by SQL on both generations' own schema in PostgreSQL, and by the Task SDK."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.history import ROWS_OF_ONE_RUN
from bench.results import Figure, Panel, Point, at_most, seconds
from bench.setting import Bench
from tests.databases import Database, postgresql

REPO = Path(__file__).parent.parent
TIME = Panel("task-instances", "Task instances of 2,000 pods, PostgreSQL", "rows of task_instance", "seconds")
RUNS_NEEDED = 10  # of the history: the Task SDK is asked for pods of so many


def measure(bench: Bench) -> Iterator[Figure | Point]:
    """One process for each generation, for a process can import one Airflow only."""
    for python in filter(None, (bench.airflow_2, Path(sys.executable))):
        with postgresql() as database:
            bench.versions[database.name.split()[0]] = database.name.split()[1]
            for result in _queries(python.absolute(), database, bench):
                yield from _of_sql(result, is_largest=result["rows"] == _sizes(bench)[-1])
                if "calls" in result:
                    yield from _of_sdk(result, is_largest=result["rows"] == _sizes(bench)[-1])


def _sizes(bench: Bench) -> list[int]:
    least = RUNS_NEEDED * ROWS_OF_ONE_RUN
    return sorted({max(rows, least) // ROWS_OF_ONE_RUN * ROWS_OF_ONE_RUN for rows in bench.rows})


def _of_sql(result: dict[str, Any], is_largest: bool) -> Iterator[Figure | Point]:
    where = "session, Airflow" if result["airflow"].startswith("2.") else "metadata connection, Airflow"
    source = f"{where} {result['airflow']}"
    yield Point(TIME, source, result["rows"], result["ours"])
    yield Point(
        TIME, f"its statement by {result['driver']} alone, Airflow {result['airflow']}", result["rows"], result["bare"]
    )
    if is_largest:
        ours, bare = result["ours"], result["bare"]
        yield Figure(
            f"TI query, {source}",
            f"the bare SQL statement through {result['driver']}",
            f"{result['rows']:,} rows, {result['matching']:,} matching",
            seconds(ours),
            seconds(bare),
            ours / bare,
            at_most(1.5),
        )


def _of_sdk(result: dict[str, Any], is_largest: bool) -> Iterator[Figure | Point]:
    if is_largest:
        calls, dags = result["calls"], result["dags"]
        yield Figure(
            f"TI query, Task SDK, Airflow {result['airflow']}",
            "one call a DAG",
            f"{result['pods']:,} pods of {dags} DAGs",
            f"{calls} calls, {seconds(result['asking'])}",
            f"{dags} calls",
            calls / dags,
            at_most(1.2, "calls a DAG"),
        )


def _queries(python: Path, database: Database, bench: Bench) -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="kpo-cleanup-bench-") as home:
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")},
            "AIRFLOW_HOME": home,
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database.url("psycopg2"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR",
        }
        migrate = [str(python.with_name("airflow")), "db", "migrate"]
        done = subprocess.run(migrate, env=environment, cwd=home, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"airflow db migrate failed: {done.stderr[-2000:]}")
        sizes = ",".join(map(str, _sizes(bench)))
        arguments = [str(python), "-W", "ignore", "-m", "bench.queries", sizes, str(bench.repetitions)]
        with subprocess.Popen(arguments, env=environment, cwd=REPO, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("{"):  # the rest is Airflow's own talk
                    yield json.loads(line)
        if process.returncode:
            raise RuntimeError(f"{' '.join(arguments)} ended with {process.returncode}")
