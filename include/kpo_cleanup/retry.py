"""When a failed request is sent again: the same rules for every server."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import isnan
from typing import Any, TypeVar

from .errors import KpoCleanupError
from .text import without_numbers, wrap

T = TypeVar("T")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RetryPolicy:
    """The timeouts of a request, and its retries: exponential backoff with jitter. All times are in seconds."""

    connect_timeout: float = 10
    read_timeout: float = 60  # Kubernetes' API server itself gives up on a request after 60
    attempts: int = 5
    deadline: float = 90  # seconds after the first attempt; no attempt starts later
    initial_backoff: float = 1
    max_backoff: float = 30  # seconds between two attempts; a longer Retry-After is cut
    _warned_of: set[str] = field(default_factory=set, init=False, repr=False, compare=False)

    def call(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function that sends a request, and call it again if it raises an error that ``is_retryable``."""
        start, attempts = time.monotonic(), 0
        while True:
            try:
                return function(*arguments)
            except KpoCleanupError as error:
                attempts += 1
                delay = self.next_delay(error, attempts, time.monotonic() - start)
                if delay is None:
                    raise
                self.warn_once(error, "retrying")
            time.sleep(delay)

    def warn_once(self, error: KpoCleanupError, consequence: str) -> None:
        """Log an error that does not end the task, once for its cause: an outage fails many requests, many times."""
        cause = without_numbers(error.cause or error.summary)
        if cause not in self._warned_of:
            self._warned_of.add(cause)
            for line in wrap(f"{error}; {consequence}"):
                log.warning("%s", line)

    def next_delay(self, error: KpoCleanupError, attempts: int, elapsed: float) -> float | None:
        """Return how long to wait before the next attempt, or None if there must not be one.

        :param attempts: the number of attempts that have failed so far.
        :param elapsed: the time since the start of the first attempt.
        """
        if not error.is_retryable or attempts >= self.attempts:
            return None
        delay = self._backoff(attempts) if error.retry_after is None else min(error.retry_after, self.max_backoff)
        return delay if elapsed + delay <= self.deadline else None

    def _backoff(self, attempts: int) -> float:
        """Return a random delay, so that clients that failed together do not return together."""
        return random.uniform(0, min(self.initial_backoff * 2 ** (attempts - 1), self.max_backoff))


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds of a ``Retry-After`` header, or None if it has no number: these servers send no dates."""
    try:
        seconds = float(headers.get("Retry-After", ""))
    except ValueError:
        return None
    return None if isnan(seconds) else max(seconds, 0)
