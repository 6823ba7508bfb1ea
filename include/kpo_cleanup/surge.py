"""Refuse to delete an implausible share of the pods: a wrong setting or a wrong answer may be the cause."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from .errors import KpoCleanupError
from .settings import Settings
from .text import pluralize
from .verdict import Verdict

MIN_PODS = 20  # a share of fewer pods means nothing


def find_surge(
    zombies: Sequence[Verdict], candidates: int, workloads: int, settings: Settings, noun: str = "pod"
) -> KpoCleanupError | None:
    """Return why this run must not delete anything, or None.

    :param candidates: the number of pods that are zombies unless their records, which were not read, say otherwise.
    :param workloads: the number of workloads that were found.
    :param noun: common noun for the workloads.
    """
    limit, number = settings.max_delete_percent, len(zombies) + candidates
    if limit is None or workloads < MIN_PODS or 100 * number <= limit * workloads:
        return None
    reasons = Counter(verdict.reason.value for verdict in zombies)
    shown = [f"{count:,} {reason}" for reason, count in reasons.most_common()]
    if candidates:
        shown.append(pluralize(candidates, "more candidate"))
    return KpoCleanupError(
        f"no {noun}s are deleted: {number:,} of {pluralize(workloads, noun)} are zombies, more than "
        f"max_delete_percent={limit}",
        cause=", ".join(shown),
        remedy="check the zombies in the log of classify; if they may be deleted, trigger one run with "
        "max_delete_percent=100",
    )
