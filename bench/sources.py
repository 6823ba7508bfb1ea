"""The cost of the same queries for each source of task instances: calls, time, and rows in Airflow's audit log."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bench.airflow_process import run_on_migrated_databases
from bench.context import Bench
from bench.history import DAGS_WITH_PODS
from bench.results import Figure, at_most, mebibytes, seconds
from include.kpo_cleanup.text import pluralize

RUNS_IN_30_DAYS = 30 * 24 * 4  # at */15
SIZES = {
    "many DAGs": "10,000 pods of 200 DAGs",
    "latest": "100,000 rows, 2,000 of the latest runs",
    "at random": "100,000 rows, 2,000 at random",
    "records": "500 zombies",
    "tries and ends": "500 zombies",
}


def measure(bench: Bench) -> Iterator[Figure]:
    bench.progress("querying every source for pods in a history of 100,000 task instances")
    for result in run_on_migrated_databases(bench, "bench.source_worker"):
        yield _audit_log(result) if result["source"] == "audit log" else _query(result)


def _query(result: dict[str, Any]) -> Figure:
    backlog = f"{result['zombies']:,} zombies, max_deletes=500" if "zombies" in result else ""
    subject = result["query"] if backlog or result["query"] in ("records", "tries and ends") else "TI query"
    measurement = f"{subject}, {result['source']}, Airflow {result['airflow']}"
    size = backlog or SIZES[result["query"]]
    ours = f"{pluralize(result['calls'], result['unit'])}, {seconds(result['seconds'])}"
    if (result["source"], result["query"]) != ("Task SDK", "many DAGs"):
        return Figure(measurement, "", size, ours)
    per_dag, theirs = result["calls"] / DAGS_WITH_PODS, f"{DAGS_WITH_PODS} calls"
    return Figure(measurement, "one call per DAG", size, ours, theirs, per_dag, at_most(1.2, "calls per DAG"))


def _audit_log(result: dict[str, Any]) -> Figure:
    rows, size = (RUNS_IN_30_DAYS * result[name] for name in ("rows", "bytes"))
    ours = f"{rows:,} rows, {mebibytes(size)}"
    return Figure("audit log after 30 days of */15, REST API", "", result["query"], ours)
