"""The cost of verification: the current `reap` compared with that of an earlier commit."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.context import Bench
from bench.reap_turns import REPO, WORKER, ZOMBIES_PER_TURN, take_turns
from bench.results import Figure, at_most, seconds

BASELINE = "c55831c"  # the last commit whose `reap` queried Airflow only once and did not list the pods again
ZOMBIES = 5_000


def measure(bench: Bench) -> Iterator[Figure]:
    turns = max(1, min(ZOMBIES, bench.pods[-1]) // ZOMBIES_PER_TURN)
    size = f"{turns * ZOMBIES_PER_TURN:,} zombies"
    bench.progress(f"reaping {size} without and with verification")
    with _checkout(BASELINE) as tree:
        ours, theirs = take_turns(bench, tree, REPO / WORKER, turns)
    measurement = "reap with verification, including the second listing"
    without = f"without verification (commit {BASELINE})"
    size = f"{size}, {ZOMBIES_PER_TURN:,} per turn"
    yield Figure(measurement, without, size, seconds(ours), seconds(theirs), ours / theirs, at_most(1.3))


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
