"""What the parts share: the sizes, the servers (started when a part first asks) and a word on progress."""

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
    """One run of the benchmarks; whatever it started is closed with ``stack``."""

    stack: ExitStack
    pods: tuple[int, ...] = POD_SIZES
    rows: tuple[int, ...] = ROW_SIZES
    repetitions: int = 5
    airflow_2: Path | None = None  # the Python of an environment with Airflow 2, for what differs there
    versions: dict[str, str] = field(default_factory=dict)  # of what was measured with; parts add theirs
    started: float = field(default_factory=time.monotonic)

    @cached_property
    def cluster(self) -> Cluster:
        """Start a real kube-apiserver, if it is not there."""
        from bench.cluster import Cluster

        self.say("starting a kube-apiserver")
        cluster = Cluster(self.stack)
        self.versions["kube-apiserver"] = cluster.control_plane.version
        return cluster

    def say(self, text: str) -> None:
        """Print a line on what is going on."""
        minutes, seconds = divmod(int(time.monotonic() - self.started), 60)
        print(f"[{minutes:2}:{seconds:02}] {text}", flush=True)
