"""The cost of verification: the current `reap` and that of an earlier commit, in two processes that take turns."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from bench.cluster import CONN_ID, namespace_of
from bench.context import Bench
from bench.results import Figure, at_most, seconds

BASELINE = "c55831c"  # the last commit whose `reap` queried Airflow only once and did not list the pods again
ZOMBIES, SLICE = 5_000, 1_000
REPO = Path(__file__).parent.parent
WORKER = Path(__file__).with_name("reap_worker.py")


def measure(bench: Bench) -> Iterator[Figure]:
    slices = max(1, min(ZOMBIES, bench.pods[-1]) // SLICE)
    cluster = bench.cluster  # before the workers are started, because they inherit its connection
    size, namespace = f"{slices * SLICE:,} zombies", namespace_of(900_001)
    bench.progress(f"reaping {size} without and with verification")
    with ExitStack() as stack:
        baseline = stack.enter_context(_worker(stack.enter_context(_checkout(BASELINE))))
        workers = {"baseline": baseline, "ours": stack.enter_context(_worker(REPO))}
        times: dict[str, list[float]] = {name: [] for name in workers}
        for round_ in range(1 + slices):
            # The order alternates, so that each goes first in every other round.
            for name, worker in sorted(workers.items(), reverse=bool(round_ % 2)):
                cluster.put(namespace, range(SLICE), is_zombie=True)
                took = _reap(worker, f"{namespace} {SLICE}")
                if round_:  # the first round includes imports and connections
                    times[name].append(took)
        ours, theirs = median(times["ours"]), median(times["baseline"])
        measurement = "reap with verification, including the second listing"
        without = f"without verification (commit {BASELINE})"
        turns = f"{size}, {SLICE:,} per turn"
        yield Figure(measurement, without, turns, seconds(ours), seconds(theirs), ours / theirs, at_most(1.3))


@contextmanager
def _checkout(commit: str) -> Iterator[Path]:
    """Extract `include/` of a commit into a temporary folder."""
    with TemporaryDirectory(prefix="kpo-cleanup-baseline-") as folder:
        archive = subprocess.run(["git", "archive", commit, "include"], cwd=REPO, capture_output=True, check=False)
        if archive.returncode:
            message = archive.stderr.decode().strip()
            raise RuntimeError(f"commit {commit} is not in this clone ({message}); fetch the complete history")
        subprocess.run(["tar", "--extract"], cwd=folder, input=archive.stdout, check=True)
        yield Path(folder)


@contextmanager
def _worker(tree: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-W", "ignore", "-P", str(WORKER), CONN_ID]
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
    raise RuntimeError(f"the worker exited with status {worker.wait()}; its output is above")
