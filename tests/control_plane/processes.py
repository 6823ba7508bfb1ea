"""A server process: start it, wait until it is ready, stop it; its output goes to a log file."""

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
        # Not this process's environment: etcd treats ETCD_* as flags, and loopback must not use a proxy.
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            # With these, the binary built by this project exits and removes `folder` when this process dies.
            "CONTROL_PLANE_PARENT": str(os.getpid()),
            "CONTROL_PLANE_FOLDER": str(folder),
        }
        with self._log.open("ab") as log:
            # Its own session, so that Ctrl-C reaches only the test process, which then stops this one.
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
        """Wait until `is_ready` returns True; raise ControlPlaneError with the end of the log on timeout or exit."""
        deadline = time.monotonic() + seconds
        while True:
            ready = self._check(is_ready)
            if (code := self._popen.poll()) is not None:
                raise ControlPlaneError(f"{self.name} exited with {code} before it was {what}.\n{self.log_tail()}")
            if ready:
                return
            if time.monotonic() > deadline:
                raise ControlPlaneError(f"{self.name} was not {what} after {seconds} s.\n{self.log_tail()}")
            time.sleep(_POLL_SECONDS)

    @staticmethod
    def _check(is_ready: Callable[[], bool]) -> bool:
        try:
            return is_ready()
        except (requests.ConnectionError, requests.Timeout):
            return False

    def log_tail(self) -> str:
        """Return the last lines of the log."""
        lines = self._log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
        return "\n".join([f"Last lines of the log of {self.name}:", *lines])

    def stop(self, seconds: float) -> None:
        """Terminate the process, and kill it if it is still running after `seconds`."""
        self._popen.terminate()
        try:
            self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()


def free_ports(count: int) -> list[int]:
    """Return free ports on loopback; all are held until the last is found, so that they differ."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind((LOOPBACK, 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
