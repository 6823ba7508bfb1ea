"""One run of ``reap``: list the zombies again, delete them batch by batch, and account for all of them."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Collection, Sequence

from ..constants import ALL_NAMESPACES, Outcome
from ..errors import CallerNotRunning, KpoCleanupError, to_error
from ..kube.interface import DELETE_TIMEOUT, Cluster, Listing
from ..results import NOT_LISTED, Result
from ..retry import RetryPolicy
from ..settings import Settings
from ..task_instances.interface import TaskInstanceSource
from ..termination import Terminated
from ..text import count
from ..verdict import Verdict
from ..workloads.workload import common_noun
from .deleter import NO_RESPONSE, Deleter
from .known import KnownWorkloads
from .ledger import Ledger
from .pod_logs import PodLogs
from .schedule import BATCH, Schedule
from .snapshot import MAX_SNAPSHOT_AGE, BatchSnapshot, take_snapshot
from .steps import run_concurrently, worker_threads
from .target import NOT_DELETED, Target, lost_among, pending_among

log = logging.getLogger(__name__)

OUT_OF_TIME = "the run had no time left"
NO_ANSWERS = "their task instances could not be queried"
TERMINATED = KpoCleanupError("reap received SIGTERM, because it was marked as failed or its worker is shutting down")
ENDED = KpoCleanupError("reap ended early, because it was marked as failed or cleared, or its run was deleted")


def reap(
    zombies: Sequence[Verdict],
    cluster: Cluster,
    source: TaskInstanceSource,
    settings: Settings,
    namespaces: Collection[str],
    clock: Callable[[], float] = time.time,
    monotonic: Callable[[], float] = time.monotonic,
    retry_policy: RetryPolicy | None = None,
    batch_size: int = BATCH,
    delete_timeout: float = DELETE_TIMEOUT,
    max_seconds: float = math.inf,
) -> list[Result]:
    """Delete the zombies in their order, at most ``max_deletes`` of them, and return a result for each.

    Only their namespaces, names and uids are used: the pods are listed and classified again.

    :param namespaces: the namespaces of this run; nothing is deleted in any other.
    :param clock: returns epoch seconds, to classify by.
    :param monotonic: returns seconds, to measure the age of a snapshot by.
    :param batch_size: pods that share one snapshot.
    :param delete_timeout: seconds after which a deletion without a response is no longer carried out.
    :param max_seconds: seconds after which nothing more is sent, except for requests in progress and the last reads.
    """
    policy = retry_policy or RetryPolicy()
    noun = common_noun(zombie.workload for zombie in zombies)
    known, schedule, ledger = KnownWorkloads(settings, clock), Schedule(settings.max_deletes, batch_size), Ledger(noun)
    deleter = Deleter(cluster, settings, clock, monotonic, policy, delete_timeout, known, schedule, ledger)
    reaper = _Reaper(cluster, source, settings, monotonic, policy, max_seconds, known, schedule, ledger, deleter)
    return reaper.run([Target(zombie) for zombie in zombies], namespaces)


class _Reaper:
    """Processes the targets of one run until each has a result."""

    def __init__(
        self,
        cluster: Cluster,
        source: TaskInstanceSource,
        settings: Settings,
        monotonic: Callable[[], float],
        retry_policy: RetryPolicy,
        max_seconds: float,
        known: KnownWorkloads,
        schedule: Schedule,
        ledger: Ledger,
        deleter: Deleter,
    ) -> None:
        self._cluster, self._source, self._settings = cluster, source, settings
        self._monotonic, self._retry_policy, self._max_seconds = monotonic, retry_policy, max_seconds
        self._known, self._schedule, self._ledger, self._deleter = known, schedule, ledger, deleter
        lines = 0 if settings.dry_run else settings.last_log_lines
        self._pod_logs = PodLogs(cluster, lines, monotonic, retry_policy)
        self._is_verified = False  # whether the source has shown this task as running

    def run(self, targets: Sequence[Target], namespaces: Collection[str]) -> list[Result]:
        """Return a result for every target, in order."""
        for target in targets:
            self._check_scope(target, namespaces)
        try:
            self._list_again(pending_among(targets))
            why_left = self._delete_in_batches(targets)
            for target in pending_among(targets):
                why = why_left or self._schedule.why_left(target)
                outcome = Outcome.FAILED if target.lost else Outcome.LEFT_FOR_NEXT_RUN
                self._ledger.record(target, outcome, why, target.lost)
            self._deleter.resolve_lost(lost_among(targets))
        except Terminated:
            self._end_early(targets, TERMINATED)
        except CallerNotRunning:
            self._end_early(targets, ENDED)
        results = [target.result for target in targets if target.result]
        self._ledger.log_results([result for result in results if result.outcome in NOT_DELETED])
        return results

    def _end_early(self, targets: Sequence[Target], why: KpoCleanupError) -> None:
        """Record a result for all pods without another request: the task may have been marked as failed to stop it."""
        log.warning("%s", why)
        for target in pending_among(targets):
            self._ledger.record(target, Outcome.LEFT_FOR_NEXT_RUN, why.summary, why)
        for target in lost_among(targets):
            detail = f"the {target.workload.noun} was not read"
            self._ledger.record(target, Outcome.UNKNOWN, detail, target.lost)

    def _check_scope(self, target: Target, namespaces: Collection[str]) -> None:
        namespace = target.workload.namespace
        in_scope = namespace in namespaces or ALL_NAMESPACES in namespaces
        if not in_scope or namespace in self._settings.excluded():
            summary = f"refusing to delete: namespace {namespace!r} is not in this run's scope"
            error = KpoCleanupError(summary, remedy="check whether the XCom of classify was modified")
            self._ledger.record(target, Outcome.FAILED, error=error)

    def _list_again(self, targets: Sequence[Target]) -> None:
        namespaces = sorted({target.workload.namespace for target in targets})
        if not namespaces:
            return
        log.info("%s to verify in %s", count(targets, "zombie"), count(namespaces, "namespace"))
        self._known.listed_at = self._monotonic()  # all pages show the cluster as it was at the first one
        uids = {target.workload.uid for target in targets}
        tasks = {target.workload.key[:3] for target in targets}  # dag_id, task_id and run_id
        try:
            listing = self._cluster.list_workloads(
                namespaces,
                self._settings.label_selector,
                must_exist=False,  # the pods of a namespace that was deleted are gone
                # Those of other map indexes as well: a task that is no longer mapped may have recorded one of them.
                keep=lambda workload: workload.uid in uids or workload.key[:3] in tasks,
                known=[target.workload for target in targets],
            )
        except Exception as error:  # whatever it is, there must be a report
            listing = Listing(errors_by_namespace=dict.fromkeys(namespaces, to_error(error)))
        self._known.add_listed(listing.workloads)
        by_uid = {(workload.namespace, workload.uid): workload for workload in listing.workloads}
        for target in targets:
            namespace = target.workload.namespace
            listed = by_uid.get((namespace, target.workload.uid))
            if listed is not None:
                target.verdict = target.verdict._replace(workload=listed)
            elif namespace in listing.errors_by_namespace or target.workload.uid in listing.unread:
                why = listing.errors_by_namespace.get(namespace) or listing.unread[target.workload.uid]
                self._ledger.record(target, Outcome.FAILED, NOT_LISTED, why)
            else:
                detail = f"the {target.workload.noun} is no longer listed"
                self._ledger.record(target, Outcome.ALREADY_GONE, detail)

    def _delete_in_batches(self, targets: Sequence[Target]) -> str:
        """Delete batch by batch, and return why all pending targets are left, if they share a reason."""
        with worker_threads() as pool:
            pending = targets
            while pending := pending_among(pending):
                if self._schedule.is_api_server_dead:
                    return NO_RESPONSE
                if self._schedule.is_source_dead:
                    return NO_ANSWERS
                now = self._monotonic()
                if now - self._known.listed_at >= self._max_seconds:
                    return OUT_OF_TIME
                batch, is_probing = self._schedule.next_batch(pending, now)
                if batch:
                    self._pod_logs.read(batch)
                    snapshot = self._take_snapshot(batch)
                    if snapshot is not None:
                        steps = (self._deleter.process(target, snapshot, is_probing) for target in batch)
                        run_concurrently(pool, steps)
                        self._log_batch(pending)
                elif (due_at := self._schedule.next_due(pending)) is not None:
                    time.sleep(max(0.0, due_at - self._monotonic()))
                elif not self._release_lost(targets):
                    return ""
        return ""

    def _take_snapshot(self, batch: Sequence[Target]) -> BatchSnapshot | None:
        """Return a snapshot of a batch. If the query fails, smaller batches follow, or the pods fail with its error.

        :raises CallerNotRunning: if this task has been running, but no longer is.
        """
        started = self._monotonic()
        try:
            snapshot = take_snapshot(batch, self._known, self._source, self._monotonic)
        except Exception as exception:  # whatever it is, there must be a report
            if isinstance(exception, CallerNotRunning) and self._is_verified:
                raise
            error = to_error(exception)
            if self._schedule.record_failed_query(batch, error, self._monotonic() - started):
                self._retry_policy.warn_once(error, "querying fewer task instances at a time")
            else:
                for target in batch:
                    self._ledger.record(target, Outcome.FAILED, error=error)
            return None
        self._is_verified = True
        self._schedule.record_query(was_fast=self._monotonic() - started < MAX_SNAPSHOT_AGE / 4)
        return snapshot

    def _release_lost(self, targets: Sequence[Target]) -> bool:
        """Find out which deletions that count were not carried out, so that untried pods can take their places."""
        room = self._schedule.room
        self._deleter.resolve_lost(lost_among(targets))
        return self._schedule.room > room

    def _log_batch(self, targets: Sequence[Target]) -> None:
        """Log what was done, and how many deletions remain."""
        if not self._ledger.unlogged:
            return
        self._ledger.log_results()
        pending = pending_among(targets)
        to_go = min(len(pending), self._schedule.room + sum(target.is_counted for target in pending))
        if to_go > 0 and not self._settings.dry_run:
            self._ledger.log_progress(to_go)
