"""What became of the zombies of one run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from .constants import Outcome
from .errors import KpoCleanupError
from .verdict import Verdict

NOT_LISTED = "no deletion was sent, because the second listing failed"


@dataclass(frozen=True)
class Result:
    """The outcome of one zombie.

    :param verdict: the latest. That of a spared pod is no longer a zombie's, unless the detail says why it was spared.
    :param detail: a short note, such as the finalizers that hold the pod.
    :param error: why the outcome is ``failed`` or ``unknown``, or ``left_for_next_run`` after a termination.
    :param deadline: epoch seconds by which the pod ends, if it has a grace period, or would end in a dry run.
    :param log: the last log lines of its main container.
    """

    verdict: Verdict
    outcome: Outcome
    detail: str = ""
    error: KpoCleanupError | None = None
    deadline: int | None = None
    log: tuple[str, ...] = ()


def count_outcomes(results: Iterable[Result]) -> dict[str, int]:
    """Count the pods of each outcome, in the order of the enumeration."""
    counts = Counter(result.outcome for result in results)
    return {outcome.value: counts[outcome] for outcome in Outcome if counts[outcome]}
