"""Time our `reap` against that of another checkout, in two processes that take turns."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from bench.cluster import CONN_ID, namespace_of
from bench.context import Bench

ZOMBIES_PER_TURN = 1_000
REPO = Path(__file__).parent.parent
WORKER = Path("bench", "reap_worker.py")


def take_turns(bench: Bench, tree: Path, script: Path, turns: int) -> tuple[float, float]:
    """Let this checkout and another one reap in turns, and return the median seconds of our turns and of theirs.

    :param tree: contains the other `include/`.
    :param script: reaps with the other tree; its input and output are those of `reap_worker.py`.
    """
    cluster, namespace = bench.cluster, namespace_of(900_001)  # before the workers, which inherit its connection
    with _worker(tree, script) as theirs, _worker(REPO, REPO / WORKER) as ours:
        workers = {"theirs": theirs, "ours": ours}
        times: dict[str, list[float]] = {name: [] for name in workers}
        for round_ in range(1 + turns):
            # The order alternates, so that each goes first in every other round.
            for name, worker in sorted(workers.items(), reverse=bool(round_ % 2)):
                cluster.put(namespace, range(ZOMBIES_PER_TURN), is_zombie=True)
                took = _reap(worker, f"{namespace} {ZOMBIES_PER_TURN}")
                if round_:  # the first round includes imports and connections
                    times[name].append(took)
    return median(times["ours"]), median(times["theirs"])


@contextmanager
def _worker(tree: Path, script: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-W", "ignore", "-P", str(script), CONN_ID]
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    with subprocess.Popen(
        command, cwd=tree, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


def _reap(worker: subprocess.Popen[str], request: str) -> float:
    """Send a request to a worker, and return the seconds that it reports."""
    assert worker.stdin is not None
    assert worker.stdout is not None
    print(request, file=worker.stdin, flush=True)
    for line in worker.stdout:
        if line.startswith("took "):  # other lines are Airflow's own output
            return float(line.split()[1])
    raise RuntimeError(f"the worker exited with status {worker.wait()}; its errors are above")
