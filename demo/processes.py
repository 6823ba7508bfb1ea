"""Child processes that can all be ended, even after the demo itself was killed.

Each child runs in its own session, so that Ctrl-C in the terminal reaches only the demo. Everything that a child starts
stays in that session, even if its parent is killed. The session ids are written to a file, so that the next demo can
end the processes of a demo that was killed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from demo.terminal import DemoError

SESSIONS = "sessions"
KILL_ROUNDS = 20


def start(name: str, arguments: Sequence[str], folder: Path, environment: Mapping[str, str]) -> Child:
    """Start a Python module with `folder` as working directory; its output goes to NAME.log in that folder."""
    log = folder / f"{name}.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    with (folder / SESSIONS).open("a") as sessions:
        sessions.write(f"{process.pid}\n")
    return Child(name, process, log, folder)


class Child:
    """A process that `start` has started."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path, folder: Path) -> None:
        self.name = name
        self.log = log
        self.started = time.time()
        self._process = process
        self._folder = folder

    @property
    def pid(self) -> int:
        return self._process.pid

    def check(self) -> None:
        """Check that the process is still running.

        :raises DemoError: if it has exited, because no component should exit by itself.
        """
        code = self._process.poll()
        if code is not None:
            raise DemoError(f"{self.name} exited unexpectedly with status {code}", self.log)

    def finish(self, timeout: float) -> None:
        """Wait until the process exits.

        :raises DemoError: if it fails, or does not exit within `timeout` seconds.
        """
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise DemoError(f"{self.name} did not finish within {timeout:.0f} s", self.log) from None
        self.has_finished()

    def has_finished(self) -> bool:
        """Return True if the process has exited successfully, and False while it is running.

        :raises DemoError: if it has failed.
        """
        code = self._process.poll()
        if code:
            raise DemoError(f"{self.name} failed with exit status {code}", self.log)
        return code is not None

    def kill_session(self) -> None:
        """Kill the process and everything that it started."""
        _kill_all(self._folder, {self.pid})
        self._process.wait()


def end_processes_of(folder: Path) -> None:
    """Kill all processes that were started below `folder`."""
    path = folder / SESSIONS
    sessions = {int(line) for line in path.read_text().split()} if path.exists() else set()
    # A child that has just been started may not be in the file yet.
    _kill_all(folder, sessions | {process.pid for process in psutil.Process().children()})


def _kill_all(folder: Path, sessions: set[int]) -> None:
    for _ in range(KILL_ROUNDS):  # processes may start others while they are being listed
        processes = [process for process in psutil.process_iter() if _is_child_process(process, folder, sessions)]
        if not processes:
            return
        for process in processes:
            with suppress(psutil.NoSuchProcess):  # it has ended since
                process.kill()
        psutil.wait_procs(processes, timeout=1)


def _is_child_process(process: psutil.Process, folder: Path, sessions: set[int]) -> bool:
    try:
        # Check session and folder: the session id may have been reused, and a user's shell may be in the folder.
        return (
            os.getsid(process.pid) in sessions
            and process.status() != psutil.STATUS_ZOMBIE
            and Path(process.cwd()).is_relative_to(folder)
        )
    except (psutil.Error, OSError):  # while a process ends, psutil passes on that its files are missing
        return False


def kill_worker(runner_pid: int, scheduler_pid: int) -> None:
    """Kill the process of a running task and its supervisors, as if the worker's node had died.

    :raises DemoError: if the scheduler did not start that process.
    """
    try:
        runner = psutil.Process(runner_pid)
        ancestors = runner.parents()
        pids = [process.pid for process in ancestors]
        if scheduler_pid not in pids[1:]:
            raise DemoError(f"process {runner_pid} was not started by the scheduler (process {scheduler_pid})")
        runner.suspend()  # otherwise it would notice that its supervisor died, and clean up
        for supervisor in reversed(ancestors[: pids.index(scheduler_pid)]):
            supervisor.kill()
        runner.kill()
    except psutil.NoSuchProcess as error:
        raise DemoError(f"worker process {runner_pid} exited before it could be killed") from error
