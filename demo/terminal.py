"""Output of the demo: numbered steps, lines with the elapsed seconds, tables, and waiting with a timeout."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from tabulate import tabulate

Result = TypeVar("Result")

POLL_SECONDS = 0.5
PROGRESS_SECONDS = 10  # interval of the progress lines while waiting
TAIL_LINES = 25


class DemoError(Exception):
    """Raised when the demo cannot continue; the last lines of `log` are part of the message."""

    def __init__(self, message: str, log: Path | None = None) -> None:
        super().__init__(message)
        self.log = log

    def __str__(self) -> str:
        message = super().__str__()
        if self.log is None or not self.log.exists():
            return message
        tail = self.log.read_text(errors="replace").splitlines()[-TAIL_LINES:]
        return "\n".join([message, f"Last lines of {self.log.name}:", *(f"  | {line}" for line in tail)])


class Terminal:
    """Print the progress of the demo; lines begin with the seconds since the start."""

    def __init__(self, steps: int) -> None:
        self._started = time.monotonic()
        self._steps = steps
        self._step = 0

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self._started

    def step(self, title: str) -> None:
        self._step += 1
        print(f"\nStep {self._step} of {self._steps}: {title}", flush=True)

    def info(self, text: str) -> None:
        print(f"  [{self.elapsed:3.0f} s] {text}", flush=True)

    def show(self, lines: Iterable[str]) -> None:
        for line in lines:
            print(f"    {line}".rstrip(), flush=True)

    def table(self, rows: Sequence[Sequence[str]], columns: Sequence[str]) -> None:
        self.show(tabulate(rows, columns, disable_numparse=True).splitlines())

    def wait_for(
        self,
        description: str,
        condition: Callable[[], Result | None],
        timeout: float,
        *,
        log: Path | None = None,
    ) -> Result:
        """Call `condition` until its result is truthy, and return that result.

        :param description: the condition as a clause that follows "waiting until".
        :raises DemoError: if the condition is not met within `timeout` seconds.
        """
        self.info(f"waiting until {description}")
        start = time.monotonic()
        next_progress = float(PROGRESS_SECONDS)
        while True:
            result = condition()
            if result:
                return result
            waited = time.monotonic() - start
            if waited > timeout:
                raise DemoError(f"timed out after {timeout:.0f} s waiting until {description}", log)
            if waited >= next_progress:
                self.info(f"… still waiting after {waited:.0f} s")
                next_progress = waited + PROGRESS_SECONDS
            time.sleep(POLL_SECONDS)
