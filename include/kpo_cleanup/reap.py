"""Delete the zombies: look again just before, never touch what has come back to life, account for every pod."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from .classify import Verdict, find_successors, judge
from .errors import KubernetesError, TaskInstanceSourceError
from .kube import CONCURRENT_DELETES, Deletion, PodDeleter
from .settings import Settings
from .task_instance import TaskInstances
from .task_instances import TaskInstanceSource
from .vocabulary import Outcome, Reason

log = logging.getLogger(__name__)

NO_ANSWER = "the API server does not answer any more"
BATCH = 100  # pods that share one second look; small, so that the look is seconds old when the last of them goes


@dataclass(frozen=True)
class Result:
    """What became of one zombie, and why."""

    verdict: Verdict
    deletion: Deletion

    @property
    def outcome(self) -> Outcome:
        """Its outcome, whether anything was sent for it or not."""
        return self.deletion.outcome


class _Breaker:
    """Trips when as many requests in a row as run at once were answered by nobody: then none is tried any more.

    Each of them has had all its attempts by then, and thousands more would take hours.
    """

    def __init__(self) -> None:
        self._in_vain = 0

    @property
    def has_tripped(self) -> bool:
        return self._in_vain >= CONCURRENT_DELETES

    def note(self, is_passing: bool) -> None:
        self._in_vain = self._in_vain + 1 if is_passing else 0


def reap(
    zombies: Iterable[Verdict],
    api: PodDeleter,
    source: TaskInstanceSource,
    settings: Settings,
    clock: Callable[[], float],
) -> list[Result]:
    """Delete the zombies in their order, at most ``max_deletes`` of them.

    Where the second look fails, or the API server does not answer any more, the rest is left alone, with that as
    the reason.

    :param clock: gives epoch seconds.
    """
    queue = list(zombies)
    results: list[Result] = []
    done = 0
    breaker = _Breaker()
    why_left = f"max_deletes={settings.max_deletes} was reached"
    with ThreadPoolExecutor(CONCURRENT_DELETES, thread_name_prefix="reap") as pool:
        while queue and done < settings.max_deletes:
            batch = queue[: min(BATCH, settings.max_deletes - done)]
            del queue[: len(batch)]
            try:
                fresh = source.fetch([verdict.pod.key for verdict in batch])
            except TaskInstanceSourceError as error:
                log.error("The second look failed, so no more is deleted: %s", error)
                why_left = f"the second look failed: {error}"
                results += [Result(verdict, Deletion(Outcome.FAILED, why_left)) for verdict in batch]
                break
            look_and_delete = partial(
                _look_and_delete, api=api, fresh=fresh, settings=settings, now=int(clock()), breaker=breaker
            )
            of_batch = list(pool.map(look_and_delete, batch))
            results += of_batch
            done += sum(result.outcome in (Outcome.DELETED, Outcome.WOULD_DELETE) for result in of_batch)
            if queue and not settings.dry_run:
                log.info("%s deleted so far, %s pods to go", done, len(queue))
            if breaker.has_tripped:
                why_left = NO_ANSWER
                break
    return results + [Result(verdict, Deletion(Outcome.LEFT_FOR_NEXT_RUN, why_left)) for verdict in queue]


def count_outcomes(results: Iterable[Result]) -> dict[str, int]:
    """How many pods have each outcome, in the order of the vocabulary."""
    counts = Counter(result.outcome for result in results)
    return {outcome.value: counts[outcome] for outcome in Outcome if counts[outcome]}


def _look_and_delete(
    verdict: Verdict, api: PodDeleter, fresh: TaskInstances, settings: Settings, now: int, breaker: _Breaker
) -> Result:
    """Judge once more with what Airflow says now, and delete what still is a zombie."""
    if breaker.has_tripped:
        return Result(verdict, Deletion(Outcome.LEFT_FOR_NEXT_RUN, NO_ANSWER))
    pod, successor = verdict.pod, None
    if verdict.reason is Reason.SUPERSEDED:
        # What makes it dead is another pod. Is that pod gone or checked off, the next try uses this one.
        try:
            siblings = api.siblings(pod)
        except KubernetesError as error:
            breaker.note(error.is_passing)
            return _logged(Result(verdict, Deletion(Outcome.FAILED, str(error))))
        successor = find_successors([pod, *siblings]).get(pod.uid)
    again = judge(pod, successor, fresh, settings, now)
    if not again.is_zombie:
        return _logged(Result(verdict, Deletion(Outcome.SPARED, f"{again.reason.value} now: {again.evidence}")))
    if settings.dry_run:
        return Result(again, Deletion(Outcome.WOULD_DELETE))
    deletion = api.delete(pod, settings.grace_period_seconds)
    breaker.note(deletion.is_passing)
    return _logged(Result(again, deletion))


def _logged(result: Result) -> Result:
    """One line for each pod, when it happens: a run that is killed half-way has still said what it did."""
    level = {Outcome.FAILED: logging.ERROR, Outcome.SPARED: logging.WARNING}.get(result.outcome, logging.INFO)
    why, cause = f"{result.verdict.reason.value}: {result.verdict.evidence}", str(result.deletion)
    # What is out of the ordinary comes first, for a line may be longer than the screen.
    text = f"{cause} ({why})" if cause else why
    log.log(level, "%s %s, %s", result.outcome.value, result.verdict.pod, text)
    return result
