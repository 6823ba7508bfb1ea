"""The SQL query for task instances, on the schemas of Airflow 2 and 3 in PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bench.airflow_process import run_on_migrated_databases
from bench.context import Bench
from bench.history import ROWS_PER_RUN
from bench.queries import RUNS
from bench.results import Figure, Panel, Point, at_most, seconds

TIME = Panel("task-instances", "Task instances of 2,000 pods, PostgreSQL", "rows of task_instance", "seconds")


def measure(bench: Bench) -> Iterator[Figure | Point]:
    sizes = sorted({max(rows // ROWS_PER_RUN, RUNS) * ROWS_PER_RUN for rows in bench.rows})
    arguments = ",".join(map(str, sizes)), str(bench.repetitions)
    for result in run_on_migrated_databases(bench, "bench.queries", *arguments):
        yield from _figures(result, is_largest=result["rows"] == sizes[-1])


def _figures(result: dict[str, Any], is_largest: bool) -> Iterator[Figure | Point]:
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
