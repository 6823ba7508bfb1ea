"""The peak memory of the task processes that a real scheduler starts, compared with a task that does nothing."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack

from bench.context import Bench
from bench.real_airflow import IDLE, MEASURED, RealAirflow, run_on_empty_databases
from bench.results import Figure, at_most

ZOMBIES = 500


def measure(bench: Bench) -> Iterator[Figure]:
    size = bench.pods[-1]
    bench.progress(f"memory of the task processes of a run with {size:,} pods")
    for result in run_on_empty_databases(bench, "bench.task_memory", size):
        tasks: dict[str, float] = result["tasks"]
        idle = result["idle"]
        peaks = ", ".join(f"{name} {peak:.0f} MB" for name, peak in tasks.items())
        bench.progress(f"idle task {idle:.0f} MB, {peaks}")
        largest = max(tasks, key=lambda name: tasks[name])
        yield Figure(
            f"memory of the largest task process, Airflow {result['airflow']}",
            "a task that does nothing",
            f"{size:,} pods, {ZOMBIES} zombies",
            f"{tasks[largest]:.0f} MB ({largest})",
            f"{idle:.0f} MB",
            tasks[largest] - idle,
            at_most(150, "MB more"),
        )


def _measure_here(database_url: str, size: int) -> None:
    with ExitStack() as stack:
        airflow = RealAirflow(stack, database_url, size, ZOMBIES)
        airflow.run(IDLE)
        airflow.run_cleanup(MEASURED)
        lines = (airflow.folder / "peaks").read_text().splitlines()
    peaks = {(dag_id, task_id): kilobytes * 1024 / 1e6 for dag_id, task_id, kilobytes in map(json.loads, lines)}
    idle = max(peak for (dag_id, _), peak in peaks.items() if dag_id == IDLE)
    tasks = {task_id: peak for (dag_id, task_id), peak in peaks.items() if dag_id == MEASURED}
    print(json.dumps({"airflow": airflow.version, "idle": idle, "tasks": tasks}))


if __name__ == "__main__":
    _measure_here(sys.argv[1], int(sys.argv[2]))
