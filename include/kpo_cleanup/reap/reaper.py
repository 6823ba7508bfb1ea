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
from .candidate import NOT_DELETED, Candidate, lost_among, pending_among
from .deleter import NO_RESPONSE, Deleter
from .known import KnownWorkloads
from .ledger import Ledger
from .pod_logs import PodLogs
from .schedule import BATCH, Schedule
from .snapshot import MAX_SNAPSHOT_AGE, BatchSnapshot, take_snapshot
from .steps import run_side_by_side, worker_threads

log = logging.getLogger(__name__)

OUT_OF_TIME = "the time of the run was over"
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

    :param namespaces: of this run; nothing is deleted in any other.
    :param clock: returns epoch seconds, to classify by.
    :param monotonic: returns seconds, to measure the age of a snapshot by.
    :param batch_size: pods that share one snapshot.
    :param delete_timeout: seconds after which a deletion without a response is no longer carried out.
    :param max_seconds: after which nothing more is sent, except for requests that are under way and the last reads.
    """
    policy = retry_policy or RetryPolicy()
    noun = common_noun(zombie.workload for zombie in zombies)
    known, schedule, ledger = KnownWorkloads(settings, clock), Schedule(settings.max_deletes, batch_size), Ledger(noun)
    deleter = Deleter(cluster, settings, clock, monotonic, policy, delete_timeout, known, schedule, ledger)
    reaper = _Reaper(cluster, source, settings, monotonic, policy, max_seconds, known, schedule, ledger, deleter)
    return reaper.run([Candidate(zombie) for zombie in zombies], namespaces)


class _Reaper:
    """Leads the candidates of one run to their results."""

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

    def run(self, candidates: Sequence[Candidate], namespaces: Collection[str]) -> list[Result]:
        """Account for every candidate, in their order."""
        for candidate in candidates:
            self._check_scope(candidate, namespaces)
        try:
            self._list_again(pending_among(candidates))
            why_left = self._delete_in_batches(candidates)
            for candidate in pending_among(candidates):
                why = why_left or self._schedule.why_left(candidate)
                outcome = Outcome.FAILED if candidate.lost else Outcome.LEFT_FOR_NEXT_RUN
                self._ledger.settle(candidate, outcome, why, candidate.lost)
            self._deleter.resolve_lost(lost_among(candidates))
        except Terminated:
            self._end_early(candidates, TERMINATED)
        except CallerNotRunning:
            self._end_early(candidates, ENDED)
        results = [candidate.result for candidate in candidates if candidate.result]
        self._ledger.log_results([result for result in results if result.outcome in NOT_DELETED])
        return results

    def _end_early(self, candidates: Sequence[Candidate], why: KpoCleanupError) -> None:
        """Settle everything without another request: the task may have been marked as failed to stop the deletions."""
        log.warning("%s", why)
        for candidate in pending_among(candidates):
            self._ledger.settle(candidate, Outcome.LEFT_FOR_NEXT_RUN, why.summary, why)
        for candidate in lost_among(candidates):
            detail = f"the {candidate.workload.noun} was not read"
            self._ledger.settle(candidate, Outcome.UNKNOWN, detail, candidate.lost)

    def _check_scope(self, candidate: Candidate, namespaces: Collection[str]) -> None:
        namespace = candidate.workload.namespace
        in_scope = namespace in namespaces or ALL_NAMESPACES in namespaces
        if not in_scope or namespace in self._settings.excluded():
            summary = f"refusing to delete: namespace {namespace!r} is not in this run's scope"
            error = KpoCleanupError(summary, remedy="check whether the XCom of classify was modified")
            self._ledger.settle(candidate, Outcome.FAILED, error=error)

    def _list_again(self, candidates: Sequence[Candidate]) -> None:
        namespaces = sorted({candidate.workload.namespace for candidate in candidates})
        if not namespaces:
            return
        log.info("%s to verify in %s", count(candidates, "zombie"), count(namespaces, "namespace"))
        self._known.listed_at = self._monotonic()  # all pages show the cluster as it was at the first one
        uids, keys = ({getattr(c.workload, name) for c in candidates} for name in ("uid", "key"))
        try:
            listing = self._cluster.list_workloads(
                namespaces,
                self._settings.label_selector,
                must_exist=False,  # the pods of a namespace that was deleted are gone
                keep=lambda workload: workload.uid in uids or workload.key in keys,
                known=[candidate.workload for candidate in candidates],
            )
        except Exception as error:  # whatever it is, there must be a report
            listing = Listing(errors_by_namespace=dict.fromkeys(namespaces, to_error(error)))
        self._known.add_listed(listing.workloads)
        by_uid = {(workload.namespace, workload.uid): workload for workload in listing.workloads}
        for candidate in candidates:
            namespace = candidate.workload.namespace
            listed = by_uid.get((namespace, candidate.workload.uid))
            if listed is not None:
                candidate.verdict = candidate.verdict._replace(workload=listed)
            elif namespace in listing.errors_by_namespace or candidate.workload.uid in listing.unread:
                why = listing.errors_by_namespace.get(namespace) or listing.unread[candidate.workload.uid]
                self._ledger.settle(candidate, Outcome.FAILED, NOT_LISTED, why)
            else:
                detail = f"the {candidate.workload.noun} is no longer listed"
                self._ledger.settle(candidate, Outcome.ALREADY_GONE, detail)

    def _delete_in_batches(self, candidates: Sequence[Candidate]) -> str:
        """Delete batch by batch, and return why all pending candidates are left, if they have one reason."""
        with worker_threads() as pool:
            pending = candidates
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
                        steps = (self._deleter.process(candidate, snapshot, is_probing) for candidate in batch)
                        run_side_by_side(pool, steps)
                        self._log_batch(pending)
                elif (due_at := self._schedule.next_due(pending)) is not None:
                    time.sleep(max(0.0, due_at - self._monotonic()))
                elif not self._release_lost(candidates):
                    return ""
        return ""

    def _take_snapshot(self, batch: Sequence[Candidate]) -> BatchSnapshot | None:
        """Return a snapshot of a batch. If the query fails, smaller batches follow, or the error is that of its pods.

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
                for candidate in batch:
                    self._ledger.settle(candidate, Outcome.FAILED, error=error)
            return None
        self._is_verified = True
        self._schedule.record_query(was_fast=self._monotonic() - started < MAX_SNAPSHOT_AGE / 4)
        return snapshot

    def _release_lost(self, candidates: Sequence[Candidate]) -> bool:
        """Find out which deletions that count were not carried out, so that untried pods can take their places."""
        room = self._schedule.room
        self._deleter.resolve_lost(lost_among(candidates))
        return self._schedule.room > room

    def _log_batch(self, candidates: Sequence[Candidate]) -> None:
        """Log what was done, and how far the run is."""
        if not self._ledger.unlogged:
            return
        self._ledger.log_results()
        pending = pending_among(candidates)
        to_go = min(len(pending), self._schedule.room + sum(candidate.is_counted for candidate in pending))
        if to_go > 0 and not self._settings.dry_run:
            self._ledger.log_progress(to_go)
