"""The rule by which a request that failed for a passing reason is sent again, the same for all servers."""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping
from dataclasses import dataclass
from math import isnan

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, stop_after_delay

from .errors import KpoCleanupError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RetryPolicy:
    """The time to wait for a server, in seconds, and the number of attempts."""

    connect_timeout: float = 10
    read_timeout: float = 60  # Kubernetes' API server itself gives up on a request after 60
    attempts: int = 5
    deadline: float = 90  # no attempt begins after that
    initial_backoff: float = 0.5
    max_backoff: float = 30  # between two attempts, and the longest Retry-After that is obeyed

    def pause(self, attempt: int, retry_after: float | None = None) -> float:
        """Say how long to wait after an attempt, at random: clients that failed together must not return together."""
        if retry_after is not None:
            return min(retry_after, self.max_backoff)
        return random.uniform(0, min(self.initial_backoff * 2**attempt, self.max_backoff))

    def retrying(self) -> Retrying:
        """Make the policy of one request: it tries again as long as the error ``is_retryable``."""
        return Retrying(
            stop=stop_after_attempt(self.attempts) | stop_after_delay(self.deadline),
            wait=lambda state: self.pause(state.attempt_number, getattr(_error_of(state), "retry_after", None)),
            retry=retry_if_exception(lambda error: isinstance(error, KpoCleanupError) and error.is_retryable),
            before_sleep=lambda state: log.warning(
                "%s; attempt %s of %s", _error_of(state), state.attempt_number + 1, self.attempts
            ),
            reraise=True,
        )


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Read the header's seconds; None if it is no number (our servers send no dates)."""
    try:
        seconds = float(headers.get("Retry-After", ""))
    except ValueError:
        return None
    return None if isnan(seconds) else max(seconds, 0)


def _error_of(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None
