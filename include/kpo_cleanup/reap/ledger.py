"""Record and log the outcome of each target."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable

from ..constants import Outcome
from ..errors import KpoCleanupError
from ..kube.interface import DeleteResult
from ..report import result_lines
from ..results import Result
from ..text import pluralize
from .target import NOT_DELETED, Target

log = logging.getLogger(__name__)

_LEVELS = {Outcome.FAILED: logging.ERROR, Outcome.UNKNOWN: logging.ERROR, Outcome.SPARED: logging.WARNING}
_NOT_LOGGED = (Outcome.WOULD_DELETE, Outcome.LEFT_FOR_NEXT_RUN)  # the report lists these


class Ledger:
    """Records a result for each target; counts and logs what was deleted.

    :param noun: common noun for all targets.
    """

    def __init__(self, noun: str) -> None:
        self._noun, self._deleted = noun, 0
        self.unlogged: list[Result] = []

    def record(
        self,
        target: Target,
        outcome: Outcome,
        detail: str = "",
        error: KpoCleanupError | None = None,
        deadline: int | None = None,
    ) -> None:
        """Record a result. If the pod was deleted, or may have been, the result is logged after the batch."""
        target.result = Result(target.verdict, outcome, detail, error, deadline, target.log or ())
        self._deleted += outcome is Outcome.DELETED
        if outcome not in NOT_DELETED:
            self.unlogged.append(target.result)

    def record_gone(self, target: Target) -> None:
        """Record that a pod no longer exists. If the response to an attempt was lost, it counts as deleted."""
        if target.is_counted:
            self.record(target, Outcome.DELETED)
        else:
            self.record(target, Outcome.ALREADY_GONE, f"the {target.workload.noun} no longer exists")

    def record_accepted(self, target: Target, accepted: DeleteResult) -> None:
        self.record(target, accepted.outcome, accepted.detail, deadline=accepted.deadline)

    def log_results(self, others: Iterable[Result] = ()) -> None:
        """Log the results since the last call, by outcome, so that the log of a killed worker shows what was done.

        :param others: results to log only at the end, because the batches would scatter them.
        """
        by_outcome: dict[Outcome, list[Result]] = defaultdict(list)
        for result in (*self.unlogged, *others):
            by_outcome[result.outcome].append(result)
        self.unlogged.clear()
        for outcome, results in by_outcome.items():
            for line in () if outcome in _NOT_LOGGED else result_lines(results):
                log.log(_LEVELS.get(outcome, logging.INFO), "%s", line)

    def log_progress(self, to_go: int) -> None:
        log.info("%s deleted so far, %s to go", pluralize(self._deleted, self._noun), f"{to_go:,}")
