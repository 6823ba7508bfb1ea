"""The output of the demo: headings, lines with the seconds so far, tables, and waiting with a deadline."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from tabulate import tabulate

Found = TypeVar("Found")

POLL_SECONDS = 0.5
REPORT_SECONDS = 10  # so often, a long wait says that it still waits
TAIL_LINES = 25
WIDTH = 116


class DemoError(Exception):
    """The demo cannot go on. The message says why, and `log` has more."""

    def __init__(self, message: str, log: Path | None = None) -> None:
        super().__init__(message)
        self.log = log

    def __str__(self) -> str:
        message = super().__str__()
        if self.log is None or not self.log.exists():
            return message
        tail = self.log.read_text(errors="replace").splitlines()[-TAIL_LINES:]
        return "\n".join([message, f"The last lines of {self.log.name}:", *(f"  | {line}" for line in tail)])


class Terminal:
    """Prints the story as it goes on. Each line begins with the seconds since the start."""

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

    def say(self, text: str) -> None:
        print(f"  [{self.elapsed:3.0f} s] {text}", flush=True)

    def show(self, lines: Iterable[str]) -> None:
        for line in lines:
            # Tables fit into this width; a line with all settings does not.
            for part in textwrap.wrap(line, WIDTH, subsequent_indent="  ", drop_whitespace=False) or [""]:
                print(f"    {part}".rstrip(), flush=True)

    def table(self, rows: Sequence[Sequence[str]], columns: Sequence[str]) -> None:
        self.show(tabulate(rows, columns, disable_numparse=True).splitlines())

    def wait_for(
        self,
        what: str,
        look: Callable[[], Found | None],
        seconds: float,
        *,
        log: Path | None = None,
    ) -> Found:
        """Return what `look` finds, as soon as it is true; an empty list is not.

        :raises DemoError: if it finds nothing for so many seconds.
        """
        self.say(f"waiting: {what}")
        start = time.monotonic()
        next_report = float(REPORT_SECONDS)
        while True:
            found = look()
            if found:
                return found
            waited = time.monotonic() - start
            if waited > seconds:
                raise DemoError(f"Still waiting after {seconds:.0f} s: {what}", log)
            if waited >= next_report:
                self.say(f"… still waiting, {waited:.0f} s")
                next_report = waited + REPORT_SECONDS
            time.sleep(POLL_SECONDS)
