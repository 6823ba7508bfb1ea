"""A whole run through a real scheduler, from the first task's start to the last one's end, beside four idle tasks."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from statistics import median

from bench.real_airflow import IDLE, RealAirflow, in_each_airflow
from bench.results import Figure, seconds
from bench.setting import Bench

PODS, ZOMBIES = 1_000, 50
OURS = "kpo_cleanup"


def measure(bench: Bench) -> Iterator[Figure]:
    bench.say(f"whole runs with {PODS:,} pods through real schedulers")
    for result in in_each_airflow(bench, "bench.real_run", bench.repetitions):
        what = f"a whole run through a real scheduler, Airflow {result['airflow']}"
        size = f"{PODS:,} pods, {ZOMBIES} zombies"
        yield Figure(what, "four tasks that do nothing", size, seconds(result[OURS]), seconds(result[IDLE]))


def _measure_here(database_url: str, repetitions: int) -> None:
    with ExitStack() as stack:
        airflow = RealAirflow(stack, database_url, PODS, ZOMBIES)
        rounds = []
        for _ in range(1 + repetitions):
            ours, idle = airflow.clean_up(OURS), airflow.run(IDLE)
            rounds.append((_seconds(airflow, OURS, ours), _seconds(airflow, IDLE, idle)))
    # The first round warms all up.
    ours_took, idle_took = map(median, zip(*rounds[1:], strict=True))
    print(json.dumps({"airflow": airflow.version, OURS: ours_took, IDLE: idle_took}))


def _seconds(airflow: RealAirflow, dag_id: str, run_id: str) -> float:
    """Give the time from the start of the first task to the end of the last one."""
    sql = "SELECT max(end_date) - min(start_date) FROM task_instance WHERE dag_id = :dag_id AND run_id = :run_id"
    ((took,),) = airflow.records.query(sql, dag_id=dag_id, run_id=run_id)
    return float(took.total_seconds())


if __name__ == "__main__":
    _measure_here(sys.argv[1], int(sys.argv[2]))
