"""Verify a pod and delete it, as steps that run side by side with those of other pods."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

from ..classify import Classifier
from ..constants import Outcome, Reason
from ..errors import Conflict, KpoCleanupError, KubernetesError, NotFound, to_error
from ..kube.interface import Cluster, DeleteResult
from ..retry import RetryPolicy
from ..settings import Settings
from ..verdict import Verdict
from ..workloads.registry import kind_of
from ..workloads.workload import Workload
from .candidate import Candidate
from .known import KnownWorkloads
from .ledger import Ledger
from .schedule import Schedule
from .snapshot import MAX_SNAPSHOT_AGE, BatchSnapshot
from .steps import Steps, run_side_by_side, worker_threads

NO_RESPONSE = "the API server does not respond"
IN_FLIGHT: KpoCleanupError = KubernetesError(
    "waiting for a deletion", cause="reap was terminated before the response arrived"
)
MAX_CONFLICTS = 4  # rereads of a pod or its successor before the pod is given up


class Deleter:
    """Decides on single pods: deletes, rereads and retries. Owns what was tried, and the responses that were lost."""

    def __init__(
        self,
        cluster: Cluster,
        settings: Settings,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        retry_policy: RetryPolicy,
        delete_timeout: float,
        known: KnownWorkloads,
        schedule: Schedule,
        ledger: Ledger,
    ) -> None:
        self._cluster, self._settings = cluster, settings
        self._clock, self._monotonic = clock, monotonic
        self._retry_policy, self._delete_timeout = retry_policy, delete_timeout
        self._known, self._schedule, self._ledger = known, schedule, ledger
        self._lost_at = 0.0  # monotonic time when a response was last lost
        self._is_unreadable = False  # whether reading one of the pods whose responses were lost had no response

    def process(self, candidate: Candidate, snapshot: BatchSnapshot, is_probing: bool) -> Steps[None]:
        """Settle a candidate, or leave it pending: for another attempt, or for another snapshot."""
        if not self._schedule.begin(candidate, is_probing):
            return
        try:
            yield from self._verify_and_delete(candidate, snapshot)
        except Exception as exception:  # whatever it is, there must be a report
            error = to_error(exception)
            candidate.lost = error if candidate.lost is IN_FLIGHT else candidate.lost
            self._ledger.settle(candidate, Outcome.FAILED, error=error)

    def _verify_and_delete(self, candidate: Candidate, snapshot: BatchSnapshot) -> Steps[None]:
        """Reclassify the pod and delete it if it is still a zombie. Leave it pending if the snapshot has expired."""
        key = candidate.workload.key
        while self._schedule.is_responding and not snapshot.has_expired(self._monotonic()):
            verdict, earlier = snapshot.classifiers[key].classify(candidate.workload), candidate.verdict
            verdict = verdict._replace(link=earlier.link if verdict.raw_ids == earlier.raw_ids else "")
            successor = self._stale_successor(verdict, snapshot.classifiers[key])
            if successor is not None:
                yield from self._read_again(successor)
            elif not verdict.is_zombie:
                candidate.verdict = verdict
                self._ledger.settle(candidate, Outcome.SPARED)
                return
            else:
                candidate.verdict = verdict
                has_changed = yield from self._delete(candidate)
                if not has_changed:
                    return
            candidate.conflicts += 1
            if candidate.conflicts > MAX_CONFLICTS:
                what = f"the {candidate.workload.noun} or its successor"
                raise KubernetesError(f"{what} was read {MAX_CONFLICTS} times and keeps changing")
            if candidate.workload.key != key:
                return  # the snapshot may not cover that task instance
            snapshot.refresh(key)

    def _stale_successor(self, verdict: Verdict, classifier: Classifier) -> Workload | None:
        """Return the newer pod on which a verdict rests, if it must be read again.

        If that pod is gone or on its way out, a retry may adopt the older one.
        """
        successor = classifier.successor_of(verdict.workload)
        if successor is None or verdict.reason is not Reason.SUPERSEDED:
            return None
        return successor if self._monotonic() - self._known.read_at(successor) > MAX_SNAPSHOT_AGE else None

    def _read_again(self, old: Workload) -> Steps[Workload | None]:
        """Read the pod that has this name now, and return it."""
        read_at = self._monotonic()
        workload: Workload | None = yield partial(self._cluster.get, old, self._settings.label_selector)
        self._known.replace(old, workload, read_at)
        return workload

    def _delete(self, candidate: Candidate) -> Steps[bool]:
        """Delete a zombie, and return whether it has changed and must be classified again instead."""
        if self._settings.dry_run:
            self._schedule.count(candidate)
            grace_period = self._expected_grace_period(candidate.verdict)
            deadline = int(self._clock()) + grace_period if grace_period else None
            self._ledger.settle(candidate, Outcome.WOULD_DELETE, deadline=deadline)
            return False
        if not candidate.attempts:
            candidate.first_attempt = self._monotonic()
        lost, candidate.lost = candidate.lost, IN_FLIGHT
        try:
            accepted = yield partial(self._cluster.delete, candidate.workload, self._grace_period(candidate.verdict))
        except Conflict as conflict:
            candidate.lost = lost
            return (yield from self._resolve_conflict(candidate, conflict))
        except NotFound:
            self._ledger.settle_gone(candidate)
        except KubernetesError as error:
            candidate.lost = error if error.outcome_unknown else lost
            self._record_failure(candidate, error)
            return False
        else:
            self._schedule.count(candidate)
            self._ledger.settle_accepted(candidate, accepted)
        self._schedule.record_success(candidate)
        return False

    def _resolve_conflict(self, candidate: Candidate, conflict: Conflict) -> Steps[bool]:
        """Read the pod after a 409, and return whether it has changed and must be classified again."""
        old = candidate.workload
        workload = yield from self._read_again(old)
        if workload is None or (workload.uid != old.uid and candidate.is_counted):
            self._ledger.settle_gone(candidate)
        elif workload.uid != old.uid:
            self._ledger.settle(candidate, Outcome.SPARED, f"another {old.noun} has its name now")
        elif workload.resource_version == old.resource_version:
            self._ledger.settle(candidate, Outcome.FAILED, error=conflict)  # refused for another reason
        else:
            candidate.verdict = candidate.verdict._replace(workload=workload)
            return True
        return False

    def _record_failure(self, candidate: Candidate, error: KubernetesError) -> None:
        """Take in a deletion that failed: schedule another attempt, or settle it."""
        now, delay = self._monotonic(), None
        if error.outcome_unknown:
            self._schedule.count(candidate)
            self._lost_at = now
        if error.is_retryable:
            candidate.attempts += 1
            delay = self._retry_policy.next_delay(error, candidate.attempts, now - candidate.first_attempt)
        self._schedule.record_failure(candidate, error, is_final=delay is None)
        if delay is None:
            self._ledger.settle(candidate, Outcome.FAILED, error=error)
        else:
            candidate.not_before = now + delay
            self._retry_policy.warn_once(error, "retrying")

    def resolve_lost(self, candidates: Sequence[Candidate]) -> None:
        """Find out what became of pods whose deletion may have been carried out although its response was lost."""
        if not candidates:
            return
        time.sleep(max(0.0, self._lost_at + self._delete_timeout - self._monotonic()))
        self._is_unreadable = False
        with worker_threads() as pool:
            run_side_by_side(pool, map(self._read_lost, candidates))

    def _read_lost(self, candidate: Candidate) -> Steps[None]:
        """Read a pod, and keep its result only if its deletion was not carried out."""
        before = candidate.workload
        try:
            if self._is_unreadable:
                raise KubernetesError("not read", cause=NO_RESPONSE)
            workload = yield from self._read_again(before)
        except Exception as error:
            self._is_unreadable |= not getattr(error, "has_response", True)
            self._ledger.settle(
                candidate, Outcome.UNKNOWN, f"the {before.noun} could not be read: {error}", candidate.lost
            )
            return
        was_overdue = candidate.verdict.is_zombie and before.deletion_deadline is not None
        if workload is None or workload.uid != before.uid:
            self._ledger.settle_gone(candidate)
        elif workload.deletion_deadline is not None and not was_overdue:
            self._ledger.settle_accepted(
                candidate, DeleteResult.from_accepted(workload.finalizers, workload.deletion_deadline)
            )
        elif candidate.result:
            candidate.lost = None
            self._schedule.release(candidate)

    def _grace_period(self, verdict: Verdict) -> int:
        """Return the grace period in seconds; -1 is the pod's own."""
        configured, deadline = self._settings.grace_period_seconds, verdict.workload.deletion_deadline
        if deadline is not None and deadline < self._clock():
            return 0  # on a node that is down, nothing else ends the pod
        if not verdict.end_time_unknown:
            return configured
        return max(verdict.workload.grace_period if configured < 0 else configured, self._settings.settle_seconds)

    def _expected_grace_period(self, verdict: Verdict) -> int:
        """Return the grace period that the API server will choose: none for a pod that has ended, or not started."""
        workload = verdict.workload
        if workload.is_completed or not workload.containers or not kind_of(workload).has_grace_period:
            return 0
        requested = self._grace_period(verdict)
        return workload.grace_period if requested < 0 else requested
