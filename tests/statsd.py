"""A StatsD server that stores all samples, and their names in Prometheus."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Sample:
    """A line of StatsD: a name with tags in the format of InfluxDB, a value and a type."""

    name: str
    tags: Mapping[str, str]
    value: float
    kind: str

    @classmethod
    def parse(cls, line: str) -> Sample:
        stat, _, rest = line.rpartition(":")
        name, *tags = stat.split(",")
        value, kind = rest.split("|")[:2]
        return cls(name, dict(tag.split("=", 1) for tag in tags), float(value), kind)

    @property
    def prometheus_names(self) -> set[str]:
        """Return the names that ``statsd_exporter`` uses without a mapping; a timer is a summary."""
        plain = re.sub(r"[^a-zA-Z0-9_]", "_", self.name)
        return {f"{plain}_count", f"{plain}_sum", plain} if self.kind == "ms" else {plain}


class StatsdServer:
    """A server on a free local port that runs during its ``with`` block."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.settimeout(0.2)
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._receive)

    def __enter__(self) -> StatsdServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()
        self._socket.close()

    @property
    def port(self) -> int:
        return int(self._socket.getsockname()[1])

    @property
    def samples(self) -> list[Sample]:
        """Return all samples so far in order."""
        return [Sample.parse(line) for line in list(self._lines)]

    def _receive(self) -> None:
        while not self._is_over.is_set():
            try:
                packet = self._socket.recv(65_536)
            except TimeoutError:
                continue
            self._lines += packet.decode().splitlines()
