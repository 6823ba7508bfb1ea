"""`python -m bench.queries ROWS REPETITIONS`: the TI queries of one Airflow; a line of JSON a size.

It runs in a process of its own, on the metadata database of ``[database] sql_alchemy_conn``, which it fills.
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

from bench.history import fill, keys_of_pods, own_task_instance
from bench.timing import interleaved
from include.kpo_cleanup.airflow_compat import AIRFLOW_VERSION, IS_AIRFLOW_3
from include.kpo_cleanup.task_instances.interface import TaskInstanceSource
from include.kpo_cleanup.task_instances.sql import SqlSource, airflow_session, metadata_connection
from include.kpo_cleanup.tasks import gc_paused

CONN_ID = "bench_metadata"
RUNS = 2  # of each DAG, whose pods are asked for


def main() -> None:
    sizes, repetitions = [int(size) for size in sys.argv[1].split(",")], int(sys.argv[2])
    url = os.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]
    os.environ[f"AIRFLOW_CONN_{CONN_ID.upper()}"] = url.replace("postgresql+psycopg2", "postgres")
    before = 0
    for rows in sizes:
        fill(create_engine(url), before, rows)
        before = rows
        print(json.dumps({"airflow": AIRFLOW_VERSION, "rows": rows, **query(repetitions)}), flush=True)


def query(repetitions: int) -> dict[str, Any]:
    """Time the source and its own statement in the hands of the driver: one connection, open before, for both."""
    keys = keys_of_pods(RUNS)
    with (metadata_connection(CONN_ID) if IS_AIRFLOW_3 else airflow_session)() as connection:
        source = SqlSource(lambda: nullcontext(connection), own_task_instance(connection), "bench")
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
            raise SystemExit(f"the query reads the whole table:\n{plan}")
        # Of milliseconds one takes more rounds than of seconds.
        times = interleaved({"ours": ours, "bare": bare}, 5 * repetitions)
        return {**times, "matching": len(keys), "driver": connection.dialect.driver}


def check(source: TaskInstanceSource, keys: frozenset[Any]) -> None:
    found = source.fetch(keys).found
    if set(found) != keys:
        raise SystemExit(f"{len(found)} of {len(keys)} task instances were found")


@contextmanager
def recorded(connection: Connection) -> Iterator[list[tuple[str, Any]]]:
    """Record what the driver is given."""
    statements: list[tuple[str, Any]] = []

    def record(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        statements.append((statement, parameters))

    event.listen(connection.engine, "before_cursor_execute", record)
    yield statements
    event.remove(connection.engine, "before_cursor_execute", record)


def plan_of(connection: Connection, statements: list[tuple[str, Any]]) -> str:
    """Tell how the database goes about it."""
    explain = "EXPLAIN "
    lines = []
    for statement, parameters in statements:
        if statement.startswith("SHOW"):
            continue  # MariaDB does not explain what reads no table
        cursor = connection.connection.cursor()
        cursor.execute(explain + statement, parameters)
        lines += [" ".join(map(str, line)) for line in cursor.fetchall()]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
