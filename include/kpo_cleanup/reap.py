"""Delete the zombies: look again just before, never touch what has come back to life, account for every pod."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from include.kpo_cleanup.classify import Verdict, find_successors, judge
from include.kpo_cleanup.errors import KubernetesError, TaskInstanceSourceError
from include.kpo_cleanup.pod import Pod
from include.kpo_cleanup.pods import CONCURRENT_DELETES, Deletion
from include.kpo_cleanup.settings import Settings
from include.kpo_cleanup.task_instances import TaskInstanceSource
from include.kpo_cleanup.vocabulary import Outcome, Reason

log = logging.getLogger(__name__)

BATCH = 100  # pods that share one second look; small, so that the look is seconds old when the last of them goes


class PodDeleter(Protocol):
    """What is needed of the Kubernetes API here."""

    def siblings(self, pod: Pod) -> list[Pod]:
        """The pods of the pod's task instance, as they are now."""

    def delete(self, pod: Pod, grace_period_seconds: int) -> Deletion:
        """Delete this pod, if it still is the same."""


@dataclass(frozen=True)
class Result:
    """What became of one zombie, and why."""

    verdict: Verdict
    outcome: Outcome
    detail: str = ""


def reap(
    zombies: Iterable[Verdict],
    api: PodDeleter,
    source: TaskInstanceSource,
    settings: Settings,
    clock: Callable[[], float],
) -> list[Result]:
    """Delete the zombies in their order, at most ``max_deletes`` of them.

    Where the second look fails, or the API server answers to none of a whole batch, the rest is left alone, with
    that as the reason.

    :param clock: gives epoch seconds.
    """
    queue = list(zombies)
    results: list[Result] = []
    deleted = 0
    why_left = f"max_deletes={settings.max_deletes} was reached"
    while queue and deleted < settings.max_deletes:
        batch = queue[: min(BATCH, settings.max_deletes - deleted)]
        del queue[: len(batch)]
        try:
            looked = _look_again(batch, api, source, settings, int(clock()))
        except TaskInstanceSourceError as error:
            log.error("The second look failed, so no more is deleted: %s", error)
            results += [Result(verdict, Outcome.FAILED, f"not deleted: {error}") for verdict in batch]
            why_left = f"the second look failed: {error}"
            break
        results += [result for result in looked if isinstance(result, Result)]
        doomed = [verdict for verdict in looked if isinstance(verdict, Verdict)]
        if settings.dry_run:
            results += [Result(verdict, Outcome.DRY_RUN) for verdict in doomed]
            deleted += len(doomed)
            continue
        deletions = _delete(doomed, api, settings)
        for verdict, deletion in deletions:
            _log_deletion(verdict, deletion)
            results.append(Result(verdict, deletion.outcome, deletion.detail))
        deleted += sum(deletion.outcome is Outcome.DELETED for _, deletion in deletions)
        if queue:
            log.info("%s deleted so far, %s pods to go", deleted, len(queue))
        if deletions and all(deletion.is_transient for _, deletion in deletions):
            why_left = "the API server answered to none of a whole batch"
            break
    return results + [Result(verdict, Outcome.LEFT_FOR_NEXT_RUN, why_left) for verdict in queue]


def count_outcomes(results: Iterable[Result]) -> dict[str, int]:
    """How many pods have each outcome, in the order of the vocabulary."""
    counts = Counter(result.outcome for result in results)
    return {outcome.value: counts[outcome] for outcome in Outcome if counts[outcome]}


def _look_again(
    batch: list[Verdict], api: PodDeleter, source: TaskInstanceSource, settings: Settings, now: int
) -> list[Verdict | Result]:
    """Judge once more with what Airflow says now; what is no zombie any more is spared."""
    fresh = source.fetch([verdict.pod.key for verdict in batch])
    looked: list[Verdict | Result] = []
    for verdict in batch:
        successor = None
        if verdict.reason is Reason.SUPERSEDED:
            # What makes it dead is another pod. Is that pod gone or checked off, the next try uses this one.
            try:
                siblings = api.siblings(verdict.pod)
            except KubernetesError as error:
                looked.append(Result(verdict, Outcome.FAILED, str(error)))
                continue
            successor = find_successors([verdict.pod, *siblings]).get(verdict.pod.uid)
        again = judge(verdict.pod, successor, fresh, settings, now)
        if again.is_zombie:
            looked.append(again)
        else:
            detail = f"{again.reason.value} now: {again.evidence}"
            log.warning("Spared %s/%s, %s", verdict.pod.namespace, verdict.pod.name, detail)
            looked.append(Result(verdict, Outcome.SPARED, detail))
    return looked


def _delete(doomed: list[Verdict], api: PodDeleter, settings: Settings) -> list[tuple[Verdict, Deletion]]:
    with ThreadPoolExecutor(CONCURRENT_DELETES, thread_name_prefix="reap") as pool:
        deletions = pool.map(lambda verdict: api.delete(verdict.pod, settings.grace_period_seconds), doomed)
        return list(zip(doomed, deletions))


def _log_deletion(verdict: Verdict, deletion: Deletion) -> None:
    level = logging.ERROR if deletion.outcome is Outcome.FAILED else logging.INFO
    pod, why = verdict.pod, f"{verdict.reason.value}: {verdict.evidence}"
    detail = f" ({deletion.detail})" if deletion.detail else ""
    log.log(level, "%s %s/%s, %s%s", deletion.outcome.value, pod.namespace, pod.name, why, detail)
