"""The XComs that 30 days of runs leave in the metadata database, extrapolated from five consecutive real runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from itertools import cycle, islice
from typing import Any

from bench.context import Bench
from bench.real_airflow import OVERDUE, RealAirflow, run_on_empty_databases
from bench.results import Figure, at_most
from demo.airflow_settings import IS_AIRFLOW_3

PODS, ZOMBIES = 1_000, 50
FEW = 5  # zombies of each run after the first
RUNS = 5
RUNS_PER_MONTH = 30 * 24 * 4
MEGABYTE = 1_000_000


def measure(bench: Bench) -> Iterator[Figure]:
    bench.progress(f"XComs of {RUNS} consecutive runs with {PODS:,} pods")
    for result in run_on_empty_databases(bench, "bench.xcom_growth"):
        first, *others, newest = result["runs"]  # rows and bytes of each
        rows, size = (
            oldest + latest + sum(rest) / len(rest) * (RUNS_PER_MONTH - 2)
            for oldest, latest, *rest in zip(first, newest, *others, strict=True)
        )
        megabytes, without_removal = size / MEGABYTE, newest[1] * RUNS_PER_MONTH / MEGABYTE
        yield Figure(
            f"XComs after 30 days of */15, Airflow {result['airflow']}",
            "if every run kept all its XComs",
            f"{PODS:,} pods, {RUNS_PER_MONTH:,} runs",
            f"{megabytes:,.1f} MB in {rows:,.0f} rows",
            f"{without_removal:,.0f} MB",
            megabytes,
            at_most(20, "MB"),
        )


def _measure_here(database_url: str) -> None:
    with ExitStack() as stack:
        airflow = RealAirflow(stack, database_url, PODS, ZOMBIES)
        backlog, *batches = airflow.zombies[2 * FEW :], airflow.zombies[:FEW], airflow.zombies[FEW : 2 * FEW]
        zombies_by_run = [backlog, *islice(cycle(batches), RUNS - 1)]
        for number, zombies in enumerate(zombies_by_run):
            # Wait until the previous run has listed the pods, so that it does not find the next run's zombies.
            airflow.wait_for(f"{number} runs have listed pods", partial(_have_listed, airflow, number))
            airflow.put_zombies(zombies)
            airflow.api.pause(OVERDUE, False)
        airflow.wait_for(f"{RUNS} runs have listed pods", partial(_have_listed, airflow, RUNS))
        airflow.wait_for("all runs have ended", partial(airflow.records.are_idle, OVERDUE))
        runs = sorted(run.run_id for run in airflow.records.runs(OVERDUE))
        for run_id, zombies in zip(runs, zombies_by_run, strict=True):
            airflow.check_zombies(OVERDUE, run_id, len(zombies))
        sizes = [_rows_and_bytes(airflow, run_id) for run_id in runs]
    print(json.dumps({"airflow": airflow.version, "runs": sizes}))


def _have_listed(airflow: RealAirflow, count: int) -> bool:
    """Return whether at least `count` runs have listed the pods."""
    task_instances = airflow.records.task_instances(OVERDUE)
    return count <= sum(ti.task_id == "list_pods" and ti.is_over for ti in task_instances)


def _rows_and_bytes(airflow: RealAirflow, run_id: str) -> list[Any]:
    """Return the number of XComs of a run, and the bytes of their values."""
    value = "value::text" if IS_AIRFLOW_3 else "value"  # JSON, or JSON as bytes
    sql = f"SELECT count(*), sum(octet_length({value})) FROM xcom WHERE dag_id = :dag_id AND run_id = :run_id"
    return list(airflow.records.query(sql, dag_id=OVERDUE, run_id=run_id)[0])


if __name__ == "__main__":
    _measure_here(sys.argv[1])
