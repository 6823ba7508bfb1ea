"""`python -m bench.queries ROWS REPETITIONS`: time the TI query of one Airflow; print one line of JSON per size.

It runs in a separate process, on the metadata database of ``[database] sql_alchemy_conn``, which it fills with rows.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from sqlalchemy import create_engine, event
from sqlalchemy.engine import Connection

from bench.history import add_runs, find_caller, keys_of_pods
from bench.timing import interleaved
from include.kpo_cleanup.airflow_compat import AIRFLOW_VERSION, IS_AIRFLOW_3
from include.kpo_cleanup.task_instances.interface import TaskInstanceSource
from include.kpo_cleanup.task_instances.sql import SqlSource, airflow_session, metadata_connection
from include.kpo_cleanup.tasks import gc_paused

CONN_ID = "bench_metadata"
RUNS = 2  # the latest runs of each DAG, whose task instances are queried


def main() -> None:
    sizes, repetitions = [int(size) for size in sys.argv[1].split(",")], int(sys.argv[2])
    url = os.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]
    os.environ[f"AIRFLOW_CONN_{CONN_ID.upper()}"] = url.replace("postgresql+psycopg2", "postgres")
    before = 0
    for rows in sizes:
        add_runs(create_engine(url), before, rows)
        before = rows
        print(json.dumps({"airflow": AIRFLOW_VERSION, "rows": rows, **measure(repetitions)}), flush=True)


def measure(repetitions: int) -> dict[str, Any]:
    """Time the source, and its SQL statements executed by the driver alone, on the same open connection."""
    keys = keys_of_pods(RUNS)
    with (metadata_connection(CONN_ID) if IS_AIRFLOW_3 else airflow_session)() as connection:
        source = SqlSource(lambda: nullcontext(connection), find_caller(connection), "bench")
        with recorded(connection) as statements:
            check(source, keys)
        cursor = connection.connection.cursor()

        @gc_paused()  # as in the task
        def ours() -> None:
            source.fetch(keys)

        @gc_paused()
        def bare() -> None:
            for statement, parameters in statements:
                cursor.execute(statement, parameters)
                cursor.fetchall()

        plan = plan_of(connection, statements)
        if "Seq Scan on task_instance" in plan:
            raise SystemExit(f"the query scans the whole table:\n{plan}")
        # More repetitions than usual, because each takes only milliseconds.
        times = interleaved({"ours": ours, "bare": bare}, 5 * repetitions)
        return {**times, "matching": len(keys), "driver": connection.dialect.driver}


def check(source: TaskInstanceSource, keys: frozenset[Any]) -> None:
    found = source.fetch(keys).found
    if set(found) != keys:
        raise SystemExit(f"only {len(found)} of {len(keys)} task instances were found")


@contextmanager
def recorded(connection: Connection) -> Iterator[list[tuple[str, Any]]]:
    """Record the statements and parameters that are passed to the driver."""
    statements: list[tuple[str, Any]] = []

    def record(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        statements.append((statement, parameters))

    event.listen(connection.engine, "before_cursor_execute", record)
    yield statements
    event.remove(connection.engine, "before_cursor_execute", record)


def plan_of(connection: Connection, statements: list[tuple[str, Any]]) -> str:
    """Return the database's execution plan for the statements."""
    explain = "EXPLAIN QUERY PLAN " if connection.dialect.name == "sqlite" else "EXPLAIN "
    lines = []
    for statement, parameters in statements:
        if statement.startswith("SHOW"):
            continue  # MariaDB cannot explain a statement that reads no table
        cursor = connection.connection.cursor()
        cursor.execute(explain + statement, parameters)
        lines += [" ".join(map(str, line)) for line in cursor.fetchall()]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
