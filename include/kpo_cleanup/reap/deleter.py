"""Verify a pod and delete it, as steps that run concurrently with those of other pods."""

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
from .known import KnownWorkloads
from .ledger import Ledger
from .schedule import Schedule
from .snapshot import MAX_SNAPSHOT_AGE, BatchSnapshot
from .steps import Steps, run_concurrently, worker_threads
from .target import Target

NO_RESPONSE = "the API server does not respond"
IN_FLIGHT: KpoCleanupError = KubernetesError(
    "waiting for a deletion", cause="reap was terminated before the response arrived"
)
MAX_CONFLICTS = 4  # rereads of a pod or its successor; the pod fails if there is another one


class Deleter:
    """Deletes, rereads and retries individual pods. Owns the attempts and the lost responses."""

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
        self._is_unreadable = False  # whether reading a pod after a lost response got no response either

    def process(self, target: Target, snapshot: BatchSnapshot, is_probing: bool) -> Steps[None]:
        """Record the result of a target, or leave it pending: for another attempt, or for another snapshot."""
        if not self._schedule.begin(target, is_probing):
            return
        try:
            yield from self._verify_and_delete(target, snapshot)
        except Exception as exception:  # whatever it is, there must be a report
            error = to_error(exception)
            if target.lost is IN_FLIGHT:
                self._record_lost(target, error)
            self._ledger.record(target, Outcome.FAILED, error=error)

    def _verify_and_delete(self, target: Target, snapshot: BatchSnapshot) -> Steps[None]:
        """Reclassify the pod and delete it if it is still a zombie. Leave it pending if the snapshot has expired."""
        key = target.workload.key
        while self._schedule.is_responding and not snapshot.has_expired(self._monotonic()):
            verdict, earlier = snapshot.classifiers[key].classify(target.workload), target.verdict
            verdict = verdict._replace(link=earlier.link if verdict.raw_ids == earlier.raw_ids else "")
            successor = self._stale_successor(verdict, snapshot.classifiers[key])
            if successor is not None:
                yield from self._read_again(successor)
            elif not verdict.is_zombie:
                target.verdict = verdict
                self._ledger.record(target, Outcome.SPARED)
                return
            else:
                target.verdict = verdict
                has_changed = yield from self._delete(target)
                if not has_changed:
                    return
            target.conflicts += 1
            if target.conflicts > MAX_CONFLICTS:
                what = f"the {target.workload.noun} or its successor"
                raise KubernetesError(f"{what} was read {target.conflicts} times and keeps changing")
            if target.workload.key != key:
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

    def _delete(self, target: Target) -> Steps[bool]:
        """Delete a zombie, and return whether it has changed and must be classified again instead."""
        if self._settings.dry_run:
            self._schedule.count(target)
            grace_period = self._expected_grace_period(target.verdict)
            deadline = int(self._clock()) + grace_period if grace_period else None
            self._ledger.record(target, Outcome.WOULD_DELETE, deadline=deadline)
            return False
        if not target.attempts:
            target.first_attempt = self._monotonic()
        lost, target.lost = target.lost, IN_FLIGHT
        try:
            accepted = yield partial(self._cluster.delete, target.workload, self._grace_period(target.verdict))
        except Conflict as conflict:
            target.lost = lost
            return (yield from self._resolve_conflict(target, conflict))
        except NotFound:
            self._ledger.record_gone(target)
        except KubernetesError as error:
            target.lost = lost
            self._record_failure(target, error)
            return False
        else:
            self._schedule.count(target)
            self._ledger.record_accepted(target, accepted)
        self._schedule.record_success(target)
        return False

    def _resolve_conflict(self, target: Target, conflict: Conflict) -> Steps[bool]:
        """Read the pod after a 409, and return whether it has changed and must be classified again."""
        old = target.workload
        workload = yield from self._read_again(old)
        if workload is None or (workload.uid != old.uid and target.is_counted):
            self._ledger.record_gone(target)
        elif workload.uid != old.uid:
            self._ledger.record(target, Outcome.SPARED, f"another {old.noun} has its name now")
        elif workload.resource_version == old.resource_version:
            self._ledger.record(target, Outcome.FAILED, error=conflict)  # refused for another reason
        else:
            target.verdict = target.verdict._replace(workload=workload)
            return True
        return False

    def _record_failure(self, target: Target, error: KubernetesError) -> None:
        """Process a failed deletion: schedule another attempt, or record the failure."""
        now, delay = self._monotonic(), None
        if error.outcome_unknown:
            self._record_lost(target, error)
        if error.is_retryable:
            target.attempts += 1
            delay = self._retry_policy.next_delay(error, target.attempts, now - target.first_attempt)
        self._schedule.record_failure(target, error, is_final=delay is None)
        if delay is None:
            self._ledger.record(target, Outcome.FAILED, error=error)
        else:
            target.not_before = now + delay
            self._retry_policy.warn_once(error, "retrying")

    def _record_lost(self, target: Target, error: KpoCleanupError) -> None:
        """Record that a deletion may have been carried out, or may still be, although it failed."""
        target.lost, self._lost_at = error, self._monotonic()
        self._schedule.count(target)

    def resolve_lost(self, targets: Sequence[Target]) -> None:
        """Find out what became of pods whose deletion may have been carried out although its response was lost."""
        if not targets:
            return
        time.sleep(max(0.0, self._lost_at + self._delete_timeout - self._monotonic()))
        self._is_unreadable = False
        with worker_threads() as pool:
            run_concurrently(pool, map(self._read_lost, targets))

    def _read_lost(self, target: Target) -> Steps[None]:
        """Read a pod, and keep its result only if its deletion was not carried out."""
        before = target.workload
        try:
            if self._is_unreadable:
                raise KubernetesError("not read", cause=NO_RESPONSE)
            workload = yield from self._read_again(before)
        except Exception as error:
            self._is_unreadable |= not getattr(error, "has_response", True)
            self._ledger.record(target, Outcome.UNKNOWN, f"the {before.noun} could not be read: {error}", target.lost)
            return
        was_overdue = target.verdict.is_zombie and before.deletion_deadline is not None
        if workload is None or workload.uid != before.uid:
            self._ledger.record_gone(target)
        elif workload.deletion_deadline is not None and not was_overdue:
            self._ledger.record_accepted(
                target, DeleteResult.from_accepted(workload.finalizers, workload.deletion_deadline)
            )
        elif target.result:
            target.lost = None
            self._schedule.release(target)

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
