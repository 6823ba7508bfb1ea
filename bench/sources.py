"""What the sources of task instances need for the same questions: calls, time, and rows in Airflow's audit log."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bench.airflow_process import of_each_airflow
from bench.history import DAGS_WITH_PODS
from bench.results import Figure, at_most, mebibytes, seconds
from bench.setting import Bench

RUNS_IN_30_DAYS = 30 * 24 * 4  # at */15
SIZES = {
    "many DAGs": "10,000 pods of 200 DAGs",
    "latest": "100,000 rows, 2,000 of the latest runs",
    "at random": "100,000 rows, 2,000 at random",
    "records": "500 zombies",
}


def measure(bench: Bench) -> Iterator[Figure]:
    bench.say("asking every source, for pods in a history of 100,000 task instances")
    for told in of_each_airflow(bench, "bench.asking"):
        yield _audit_log(told) if told["source"] == "audit log" else _asking(told)


def _asking(told: dict[str, Any]) -> Figure:
    what = "the operator's records" if told["question"] == "records" else "TI query"
    name, size = f"{what}, {told['source']}, Airflow {told['airflow']}", SIZES[told["question"]]
    ours = f"{told['calls']:,} {told['unit']}, {seconds(told['seconds'])}"
    if (told["source"], told["question"]) != ("Task SDK", "many DAGs"):
        return Figure(name, "", size, ours)
    each = told["calls"] / DAGS_WITH_PODS
    return Figure(name, "one call a DAG", size, ours, f"{DAGS_WITH_PODS} calls", each, at_most(1.2, "calls a DAG"))


def _audit_log(told: dict[str, Any]) -> Figure:
    rows, size = (RUNS_IN_30_DAYS * told[name] for name in ("rows", "bytes"))
    ours = f"{rows:,} rows, {mebibytes(size)}"
    return Figure("audit log after 30 days of */15, REST API", "", told["question"], ours)
