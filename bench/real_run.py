"""The duration of a run under a real scheduler, from the start of `list_pods` to the end of `reap`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from statistics import median

from bench.context import Bench
from bench.real_airflow import IDLE, RealAirflow, run_on_empty_databases
from bench.results import Figure, at_most, seconds

PODS, ZOMBIES = 1_000, 50
OURS = "kpo_cleanup"


def measure(bench: Bench) -> Iterator[Figure]:
    bench.progress(f"runs with {PODS:,} pods under real schedulers")
    for result in run_on_empty_databases(bench, "bench.real_run", bench.repetitions):
        measurement = f"a run under a real scheduler, Airflow {result['airflow']}"
        size = f"{PODS:,} pods, {ZOMBIES} zombies"
        yield Figure(measurement, "four tasks that do nothing", size, seconds(result[OURS]), seconds(result[IDLE]))
        measurement = f"worker processes of a run that finds no zombie, Airflow {result['airflow']}"
        yield Figure(
            measurement,
            "four tasks",
            f"{PODS:,} pods",
            f"{result['quiet']}",
            "4",
            result["quiet"],
            at_most(3, "workers"),
        )


def _measure_here(database_url: str, repetitions: int) -> None:
    with ExitStack() as stack:
        airflow = RealAirflow(stack, database_url, PODS, ZOMBIES)
        rounds = []
        for _ in range(1 + repetitions):
            ours, idle = airflow.run_cleanup(OURS), airflow.run(IDLE)
            rounds.append((_duration(airflow, OURS, ours), _duration(airflow, IDLE, idle)))
        quiet = airflow.count_workers(OURS, airflow.run(OURS))
    # The first round is a warm-up.
    ours_seconds, idle_seconds = map(median, zip(*rounds[1:], strict=True))
    print(json.dumps({"airflow": airflow.version, OURS: ours_seconds, IDLE: idle_seconds, "quiet": quiet}))


def _duration(airflow: RealAirflow, dag_id: str, run_id: str) -> float:
    """Return the seconds from the start of the first task to the end of the last one."""
    sql = "SELECT max(end_date) - min(start_date) FROM task_instance WHERE dag_id = :dag_id AND run_id = :run_id"
    ((duration,),) = airflow.records.query(sql, dag_id=dag_id, run_id=run_id)
    return float(duration.total_seconds())


if __name__ == "__main__":
    _measure_here(sys.argv[1], int(sys.argv[2]))
