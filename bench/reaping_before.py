"""Reaping with all proofs beside reaping as it was before them: two trees, a process each, taking turns."""

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
from bench.results import Figure, at_most, seconds
from bench.setting import Bench

BEFORE = "c55831c"  # the last commit that deleted on one look at Airflow, and without a second listing
ZOMBIES, SLICE = 5_000, 1_000
REPO = Path(__file__).parent.parent
WORKER = Path(__file__).with_name("reap_worker.py")


def measure(bench: Bench) -> Iterator[Figure]:
    slices = max(1, min(ZOMBIES, bench.pods[-1]) // SLICE)
    cluster = bench.cluster  # first, for the workers inherit its connection
    size, namespace = f"{slices * SLICE:,} zombies", namespace_of(900_001)
    bench.say(f"reaping {size} as it was before the proofs, and as it is")
    with ExitStack() as stack:
        before = stack.enter_context(_worker(stack.enter_context(_tree(BEFORE))))
        workers = {"before": before, "ours": stack.enter_context(_worker(REPO))}
        times: dict[str, list[float]] = {name: [] for name in workers}
        for round_ in range(1 + slices):
            # Each is the first one every other time.
            for name, worker in sorted(workers.items(), reverse=bool(round_ % 2)):
                cluster.put(namespace, range(SLICE), is_zombie=True)
                answer = _ask(worker, f"{namespace} {SLICE}")
                if round_:  # the first one imports and connects
                    times[name].append(answer)
        took = {name: median(of_one) for name, of_one in times.items()}
        ratio = took["ours"] / took["before"]
        what, against = "reap with all proofs, second listing included", f"the commit before the proofs ({BEFORE})"
        turns = f"{size}, {SLICE:,} a turn"
        yield Figure(what, against, turns, seconds(took["ours"]), seconds(took["before"]), ratio, at_most(1.3))


@contextmanager
def _tree(commit: str) -> Iterator[Path]:
    """Take the package of a commit into a folder."""
    with TemporaryDirectory(prefix="kpo-cleanup-before-") as folder:
        archive = subprocess.run(["git", "archive", commit, "include"], cwd=REPO, capture_output=True, check=False)
        if archive.returncode:
            said = archive.stderr.decode().strip()
            raise RuntimeError(f"commit {commit} is not in this repository: {said}; fetch its whole history")
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


def _ask(worker: subprocess.Popen[str], line: str) -> float:
    assert worker.stdin is not None
    assert worker.stdout is not None
    print(line, file=worker.stdin, flush=True)
    for answer in worker.stdout:
        if answer.startswith("took "):  # the rest is Airflow's own talk
            return float(answer.split()[1])
    raise RuntimeError(f"the worker ended with {worker.wait()}; what it said is above")
