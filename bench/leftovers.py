"""The XComs that 30 days of runs leave in the metadata database, from the rows of five real runs in a row."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from itertools import cycle, islice
from typing import Any

from bench.real_airflow import OVERDUE, RealAirflow, in_each_airflow
from bench.results import Figure, at_most
from bench.setting import Bench
from demo.airflow_settings import IS_AIRFLOW_3

PODS, ZOMBIES = 1_000, 50
FEW = 5  # zombies that each run but the first finds
RUNS = 5  # of the DAG
RUNS_OF_A_MONTH = 30 * 24 * 4
MEGABYTE = 1_000_000


def measure(bench: Bench) -> Iterator[Figure]:
    bench.say(f"the XComs of {RUNS} runs in a row with {PODS:,} pods")
    for result in in_each_airflow(bench, "bench.leftovers"):
        first, *others, newest = result["runs"]  # each with its rows and bytes
        rows, size = (
            one + last + sum(rest) / len(rest) * (RUNS_OF_A_MONTH - 2)
            for one, last, *rest in zip(first, newest, *others, strict=True)
        )
        megabytes, all_of_it = size / MEGABYTE, newest[1] * RUNS_OF_A_MONTH / MEGABYTE
        yield Figure(
            f"XComs after 30 days of */15, Airflow {result['airflow']}",
            "if each run kept all",
            f"{PODS:,} pods, {RUNS_OF_A_MONTH:,} runs",
            f"{megabytes:,.1f} MB in {rows:,.0f} rows",
            f"{all_of_it:,.0f} MB",
            megabytes,
            at_most(20, "MB"),
        )


def _measure_here(database_url: str) -> None:
    with ExitStack() as stack:
        airflow = RealAirflow(stack, database_url, PODS, ZOMBIES)
        few, others, backlog = airflow.zombies[:FEW], airflow.zombies[FEW : 2 * FEW], airflow.zombies[2 * FEW :]
        found = [backlog, *islice(cycle((few, others)), RUNS - 1)]
        for number, zombies in enumerate(found):
            # A run that has listed the pods takes no notice of new ones: they are for the next run.
            airflow.wait_for(f"{number} runs have listed", partial(_have_listed, airflow, number))
            airflow.put_zombies(zombies)
            airflow.api.pause(OVERDUE, False)
        airflow.wait_for(f"{RUNS} runs have listed", partial(_have_listed, airflow, RUNS))
        airflow.wait_for("they are over", partial(airflow.records.are_idle, OVERDUE))
        runs = sorted(run.run_id for run in airflow.records.runs(OVERDUE))
        for run_id, zombies in zip(runs, found, strict=True):
            airflow.check(OVERDUE, run_id, len(zombies))
        left = [_rows_and_bytes(airflow, run_id) for run_id in runs]
    print(json.dumps({"airflow": airflow.version, "runs": left}))


def _have_listed(airflow: RealAirflow, number: int) -> bool:
    """Tell whether so many runs have listed the pods."""
    task_instances = airflow.records.task_instances(OVERDUE)
    return number <= sum(ti.task_id == "list_pods" and ti.is_over for ti in task_instances)


def _rows_and_bytes(airflow: RealAirflow, run_id: str) -> list[Any]:
    """Count what a run has in the database: rows, and bytes of their values."""
    value = "value::text" if IS_AIRFLOW_3 else "value"  # JSON or bytes of it
    sql = f"SELECT count(*), sum(octet_length({value})) FROM xcom WHERE dag_id = :dag_id AND run_id = :run_id"
    return list(airflow.records.query(sql, dag_id=OVERDUE, run_id=run_id)[0])


if __name__ == "__main__":
    _measure_here(sys.argv[1])
