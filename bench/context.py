"""The context shared by all parts: sizes, a cluster that is started on first use, and progress messages."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.cluster import Cluster

POD_SIZES = (1_000, 10_000, 50_000)
ROW_SIZES = (10_000, 100_000, 1_000_000)


@dataclass
class Bench:
    """One run of the benchmarks; closing ``stack`` stops the servers."""

    stack: ExitStack
    pods: tuple[int, ...] = POD_SIZES
    rows: tuple[int, ...] = ROW_SIZES
    repetitions: int = 5
    airflow_2: Path | None = None  # Python executable of an environment with Airflow 2
    versions: dict[str, str] = field(default_factory=dict)  # of the servers; parts add those that they start
    started: float = field(default_factory=time.monotonic)

    @cached_property
    def cluster(self) -> Cluster:
        """Start a real kube-apiserver on first use."""
        from bench.cluster import Cluster

        self.progress("starting a kube-apiserver")
        cluster = Cluster(self.stack)
        self.versions["kube-apiserver"] = cluster.control_plane.version
        return cluster

    def progress(self, text: str) -> None:
        """Print a progress message with the elapsed time."""
        minutes, seconds = divmod(int(time.monotonic() - self.started), 60)
        print(f"[{minutes:2}:{seconds:02}] {text}", flush=True)
