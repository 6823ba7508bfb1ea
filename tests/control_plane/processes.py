"""A server process that is started, awaited until it is ready, and stopped; its log is in a file."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import requests

from .certificates import LOOPBACK
from .errors import ControlPlaneError

_LOG_LINES = 25
_POLL_SECONDS = 0.05


class Process:
    """A `command` that runs in `folder` until `stop`."""

    def __init__(self, command: Sequence[str | Path], folder: Path) -> None:
        self.name = Path(command[0]).name
        self._log = folder / f"{self.name}.log"
        # Not this process's environment: etcd reads any ETCD_* as a flag, and proxies are not for loopback.
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            # With these two the binary that is built here ends, and clears `folder`, when this process dies.
            "CONTROL_PLANE_PARENT": str(os.getpid()),
            "CONTROL_PLANE_FOLDER": str(folder),
        }
        with self._log.open("ab") as log:
            # A session of its own: Ctrl-C must reach only the test process, which then stops this one.
            self._popen = subprocess.Popen(
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait_until(self, is_ready: Callable[[], bool], what: str, seconds: float) -> None:
        """Return once `is_ready`; raise ControlPlaneError, with the log's tail, if that takes too long."""
        deadline = time.monotonic() + seconds
        while True:
            ready = self._answers(is_ready)
            if (code := self._popen.poll()) is not None:
                raise ControlPlaneError(f"{self.name} ended with {code}, not yet {what}.\n{self.log_tail()}")
            if ready:
                return
            if time.monotonic() > deadline:
                raise ControlPlaneError(f"{self.name} is not {what} after {seconds} s.\n{self.log_tail()}")
            time.sleep(_POLL_SECONDS)

    @staticmethod
    def _answers(is_ready: Callable[[], bool]) -> bool:
        try:
            return is_ready()
        except (requests.ConnectionError, requests.Timeout):
            return False

    def log_tail(self) -> str:
        """Read the last lines of its log."""
        lines = self._log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
        return "\n".join([f"The last lines of {self.name}'s log:", *lines])

    def stop(self, seconds: float) -> None:
        """Ask it to end, and kill it if it still runs after `seconds`."""
        self._popen.terminate()
        try:
            self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()


def free_ports(count: int) -> list[int]:
    """Find free ports on loopback; all are held until the last is found, so that they differ."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind((LOOPBACK, 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
