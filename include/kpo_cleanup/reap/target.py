"""A pod that may be deleted, and what has been tried so far."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field

from ..constants import Outcome
from ..errors import KpoCleanupError
from ..results import Result
from ..verdict import Verdict
from ..workloads.workload import Workload

NOT_DELETED = (Outcome.FAILED, Outcome.SPARED, Outcome.LEFT_FOR_NEXT_RUN)


@dataclass
class Target:
    """A pod that may be deleted, and what has been tried so far. Times are of the monotonic clock.

    ``Schedule`` sets ``is_counted``, ``PodLogs`` sets ``log``, and ``Ledger`` sets ``result``. ``Deleter`` sets the
    rest, after the second listing has updated the verdict.
    """

    verdict: Verdict  # from the latest snapshot
    attempts: int = 0  # failed attempts after which another one may succeed
    first_attempt: float = 0.0
    not_before: float = 0.0
    conflicts: int = 0
    is_counted: bool = False  # whether it counts towards max_deletes: it was deleted, or may have been
    lost: KpoCleanupError | None = None  # error of the latest attempt that may have been carried out nevertheless
    log: tuple[str, ...] | None = None  # the last lines; None if they were not requested
    result: Result | None = None
    rank: float = field(default_factory=random.random)  # order among probes: each run probes other pods

    @property
    def workload(self) -> Workload:
        return self.verdict.workload


def pending_among(targets: Iterable[Target]) -> list[Target]:
    """Return those without a result."""
    return [target for target in targets if target.result is None]


def lost_among(targets: Iterable[Target]) -> list[Target]:
    """Return those that may have been deleted although no response confirms it."""
    return [each for each in targets if each.lost and each.result and each.result.outcome in NOT_DELETED]
