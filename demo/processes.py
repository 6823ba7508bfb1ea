"""Child processes that leave nothing behind, whatever happens to the demo.

Each child has a session of its own, so that Ctrl-C in the terminal reaches the demo alone. All that a child starts
stays in its session, even if the parent is killed. The sessions are in a file. So a later demo can end the processes of
a demo that was killed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from demo.terminal import DemoError

SESSIONS = "sessions"
KILL_ROUNDS = 20


def start(name: str, arguments: Sequence[str], folder: Path, environment: Mapping[str, str]) -> Child:
    """Start a Python module below `folder`; its output goes to NAME.log there."""
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
    """One started process."""

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
        """Check that it still runs.

        :raises DemoError: if it has ended, for none should end by itself.
        """
        code = self._process.poll()
        if code is not None:
            raise DemoError(f"{self.name} has ended with exit status {code}", self.log)

    def finish(self, seconds: float) -> None:
        """Wait until it ends.

        :raises DemoError: if it takes longer, or fails.
        """
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise DemoError(f"{self.name} has not ended within {seconds:.0f} s", self.log) from None
        self.has_finished()

    def has_finished(self) -> bool:
        """Tell whether it has ended.

        :raises DemoError: if it has failed.
        """
        code = self._process.poll()
        if code:
            raise DemoError(f"{self.name} failed with exit status {code}", self.log)
        return code is not None

    def kill_session(self) -> None:
        """Kill it with everything that it started."""
        _end(self._folder, {self.pid})
        self._process.wait()


def end_processes_of(folder: Path) -> None:
    """Kill all processes that were started in this folder."""
    path = folder / SESSIONS
    sessions = {int(line) for line in path.read_text().split()} if path.exists() else set()
    # A child that was started just now may not be in the file yet.
    _end(folder, sessions | {process.pid for process in psutil.Process().children()})


def _end(folder: Path, sessions: set[int]) -> None:
    for _ in range(KILL_ROUNDS):  # more may be started while the list is made
        processes = [process for process in psutil.process_iter() if _belongs(process, folder, sessions)]
        if not processes:
            return
        for process in processes:
            process.kill()
        psutil.wait_procs(processes, timeout=1)


def _belongs(process: psutil.Process, folder: Path, sessions: set[int]) -> bool:
    try:
        # Both, for the number may be another session's by now, and a person's shell may be in the folder.
        return (
            os.getsid(process.pid) in sessions
            and process.status() != psutil.STATUS_ZOMBIE
            and Path(process.cwd()).is_relative_to(folder)
        )
    except (psutil.Error, ProcessLookupError, PermissionError):
        return False


def kill_worker(runner_pid: int, scheduler_pid: int) -> None:
    """Kill the process of a running task and all above it, as when a worker node dies.

    :raises DemoError: if that process is not one that our scheduler started.
    """
    try:
        runner = psutil.Process(runner_pid)
        ancestors = runner.parents()
        pids = [process.pid for process in ancestors]
        if scheduler_pid not in pids[1:]:
            raise DemoError(f"process {runner_pid} is not a worker of the scheduler {scheduler_pid}")
        runner.suspend()  # or it would see its supervisor die, and tidy up
        for supervisor in reversed(ancestors[: pids.index(scheduler_pid)]):
            supervisor.kill()
        runner.kill()
    except psutil.NoSuchProcess as error:
        raise DemoError(f"the worker process {runner_pid} ended before it was killed") from error
