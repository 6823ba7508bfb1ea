"""Compare this checkout with release 0.2.0. They take turns, and each runs its own benchmarks."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import NamedTuple

from bench.context import Bench
from bench.reap_turns import REPO, WORKER, ZOMBIES_PER_TURN, take_turns
from bench.results import Figure, at_most, seconds
from tests.control_plane.binaries import find_or_build

RELEASE = "d5c482b"  # 0.2.0
TURNS = 2
REAP_TURNS = 10


class Row(NamedTuple):
    """A row of a page: the part that measures it, and the prefix of the measurement's name."""

    part: str
    prefix: str


# In this tree and in the release, whose parts and measurements had other names.
PAIRS = [
    (Row("listing", "listing"), Row("listing", "listing")),
    (Row("memory", "listing, peak memory"), Row("memory", "listing, memory at its peak")),
    (Row("classify", "classify"), Row("classify", "classify")),
    (Row("dag", "the whole DAG, API server on the same machine"),) * 2,
    (Row("xcom-growth", "XComs after 30 days"), Row("leftovers", "XComs after 30 days")),
    (
        Row("task-memory", "memory of the largest task process"),
        Row("process-memory", "memory of the heaviest process of a run"),
    ),
]


def measure(bench: Bench) -> Iterator[Figure]:
    baseline = f"0.2.0 ({RELEASE})"
    with _release() as release:
        bench.progress(f"reaping with this tree and with 0.2.0, {REAP_TURNS} turns")
        measurement = "reap, including the second listing"
        size = f"{REAP_TURNS * ZOMBIES_PER_TURN:,} zombies, {ZOMBIES_PER_TURN:,} per turn"
        ours, theirs = take_turns(bench, release, release / WORKER, REAP_TURNS)
        yield Figure(measurement, baseline, size, seconds(ours), seconds(theirs), ours / theirs, at_most(1.1))
        for our_row, their_row in PAIRS:
            bench.progress(f"{our_row.part} of this tree and of 0.2.0, {TURNS} turns")
            turns = [(_run(bench, REPO, our_row), _run(bench, release, their_row)) for _ in range(TURNS)]
            our_number, their_number = (median(map(_number, texts)) for texts in zip(*turns, strict=True))
            ratio, texts = our_number / their_number, turns[-1]
            yield Figure(
                our_row.prefix, baseline, f"as in part {our_row.part}", *texts, ratio=ratio, target=at_most(1.1)
            )


@contextmanager
def _release() -> Iterator[Path]:
    """Check the release out into a temporary worktree."""
    with TemporaryDirectory(prefix="kpo-cleanup-release-") as folder:
        tree = Path(folder) / RELEASE
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", tree, RELEASE], cwd=REPO, check=True)
        try:
            yield tree
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", tree], cwd=REPO, check=True)


def _run(bench: Bench, tree: Path, row: Row) -> str:
    """Run a part of a tree's benchmarks with the same API server, and return its own value in this row.

    :raises RuntimeError: if there is no such row.
    """
    environment = {**os.environ, "KUBEBUILDER_ASSETS": str(find_or_build().kube_apiserver.parent)}
    with TemporaryDirectory(prefix="kpo-cleanup-page-") as folder:
        sizes = ",".join(map(str, bench.pods))
        options = ["--sizes", sizes, "--repetitions", str(bench.repetitions), "--out", folder]
        command = [sys.executable, "-m", "bench", *options, row.part]
        subprocess.run(command, cwd=tree, env=environment, stdout=subprocess.DEVNULL, check=True)
        page = (Path(folder) / "README.md").read_text()
    for line in page.splitlines():
        if line.startswith(f"| {row.prefix}"):
            return line.split("|")[4].strip()
    raise RuntimeError(f"{row.part} has measured nothing that starts with {row.prefix!r}:\n{page}")


def _number(text: str) -> float:
    """Return the number at the start of a value, in seconds if it is a time."""
    match = re.match(r"([\d.,]+) (\S+)", text)
    assert match, text
    return float(match[1].replace(",", "")) / (1_000 if match[2] == "ms" else 1)
