"""Verify each zombie again right before deleting it, and account for all of them.

The main thread owns all state. A worker thread sends one request and returns the response.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from queue import SimpleQueue
from typing import Any, TypeVar

from .candidates import read_records
from .classify import (
    Classifier,
    Snapshot,
    incomplete_keys,
    possible_successors,
    record_keys,
    uncertain_workloads,
    with_plain_tasks,
)
from .constants import ALL_NAMESPACES, Outcome, Reason
from .errors import (
    AdmissionDenied,
    CallerNotRunning,
    Conflict,
    KpoCleanupError,
    KubernetesError,
    NotFound,
    TooSlow,
)
from .identity import TaskInstanceKey
from .kube.interface import CONCURRENT_DELETES, DELETE_TIMEOUT, LOG_TIMEOUT, Cluster, DeleteResult, Listing
from .report import log_lines, result_lines
from .results import NOT_LISTED, Result
from .retry import RetryPolicy
from .settings import Settings
from .task_instance import Record, TaskInstances
from .task_instances.interface import TaskInstanceSource
from .termination import Terminated
from .text import count, pluralize
from .verdict import Verdict
from .workloads.registry import kind_of
from .workloads.workload import Workload, common_noun

log = logging.getLogger(__name__)

NO_RESPONSE = "the API server does not respond"
OUT_OF_TIME = "the time of the run was over"
NO_ANSWERS = "their task instances could not be queried"
TERMINATED = KpoCleanupError("reap received SIGTERM, because it was marked as failed or its worker is shutting down")
ENDED = KpoCleanupError("reap ended early, because it was marked as failed or cleared, or its run was deleted")
IN_FLIGHT: KpoCleanupError = KubernetesError(
    "waiting for a deletion", cause="reap was terminated before the response arrived"
)
SLOW_LOG = KpoCleanupError("reading the log of a pod", cause=f"no response within {LOG_TIMEOUT} s")
BATCH = 100  # maximum number of pods that share one snapshot
MAX_QUERY_FAILURES = 10  # consecutive failures of single-pod queries before the source is considered dead
MAX_QUERY_SECONDS = 60  # the same, by the total seconds of at least three such failures
MAX_SNAPSHOT_AGE = 5.0  # seconds; nothing is deleted on older evidence
MAX_FAILURES = 5  # consecutive failures before a namespace comes last and only random pods of it are tried
MAX_NAMESPACES = 5  # namespaces with the same failure before a single failure counts as MAX_FAILURES elsewhere
MAX_PROBES = 30  # pods to try in a failing namespace before the others are left: perhaps only some fail
MAX_TERMINATION = 2  # seconds to wait for responses after SIGTERM: Airflow 3 kills the task after 5
MAX_SILENT = 2 * CONCURRENT_DELETES  # consecutive pods without a response to any attempt before the run ends
MAX_LOG_SECONDS = 30  # seconds for the logs of all batches: a hanging kubelet must not delay every small batch
MAX_CONFLICTS = 4  # rereads of a pod or its successor before the pod is given up

T = TypeVar("T")
_LEVELS = {Outcome.FAILED: logging.ERROR, Outcome.UNKNOWN: logging.ERROR, Outcome.SPARED: logging.WARNING}
_NOT_LOGGED = (Outcome.WOULD_DELETE, Outcome.LEFT_FOR_NEXT_RUN)  # the report lists these
_NOT_DELETED = (Outcome.FAILED, Outcome.SPARED, Outcome.LEFT_FOR_NEXT_RUN)

_Request = Callable[[], Any]
_Steps = Generator[_Request, Any, T]  # receives the response to each request, or the exception that it raised


@dataclass
class _Target:
    """A pod that may be deleted, and what was tried so far. Times are of the monotonic clock."""

    verdict: Verdict  # the latest
    attempts: int = 0  # failed attempts, of which another may succeed
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


@dataclass
class _Trouble:
    """Failures in one namespace since a request last succeeded there."""

    error: KubernetesError  # the latest
    in_a_row: int = 0
    probed: set[str] = field(default_factory=set)  # uids
    may_pass: bool = False  # whether a server responded that another attempt, or another pod, may succeed

    @property
    def max_probes(self) -> int:
        return MAX_PROBES if self.may_pass else CONCURRENT_DELETES


@dataclass(frozen=True)
class _Snapshot:
    """What Airflow knows about the task instances of a batch, and how their pods are classified.

    :param taken_at: when Airflow was queried, by the monotonic clock.
    """

    taken_at: float
    batch: Sequence[_Target]
    task_instances: TaskInstances
    records: Mapping[TaskInstanceKey, Record]
    classifiers: dict[TaskInstanceKey, Classifier]


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
    reaper = _Reaper(cluster, source, settings, clock, monotonic, policy, batch_size, delete_timeout, max_seconds)
    return reaper.run(zombies, namespaces)


class _Reaper:
    """The state of one run, which only the main thread touches."""

    def __init__(
        self,
        cluster: Cluster,
        source: TaskInstanceSource,
        settings: Settings,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        retry_policy: RetryPolicy,
        batch_size: int,
        delete_timeout: float,
        max_seconds: float,
    ) -> None:
        self._cluster, self._source, self._settings = cluster, source, settings
        self._clock, self._monotonic, self._retry_policy = clock, monotonic, retry_policy
        self._batch_size, self._delete_timeout = batch_size, delete_timeout
        self._max_seconds = max_seconds
        self._workloads: dict[TaskInstanceKey, dict[str, Workload]] = defaultdict(dict)  # latest state by uid
        # possible successors, computed on demand
        self._successors: dict[TaskInstanceKey, list[Workload]] = {}
        self._by_name: dict[str, Workload] = {}
        self._listed_at = 0.0  # monotonic time, as in `_read_at`
        self._read_at: dict[str, float] = {}  # by uid, if read again after the listing
        self._unlogged: list[Result] = []
        self._log_seconds = 0.0  # total duration of the requests for logs
        self._noun = "pod"  # common noun for all zombies
        self._deleted = 0
        self._counted = 0  # pods that count towards max_deletes
        self._silent = 0  # consecutive deletions without a response
        self._lost_at = 0.0  # monotonic time when a response was last lost
        self._given_up = 0  # consecutive pods without a response to any attempt
        self._troubles: dict[str, _Trouble] = {}  # by namespace
        self._size = batch_size  # size of the next batch: smaller after a query that failed or was too slow
        self._failed_queries: list[float] = []  # durations of consecutive failures of single-pod queries
        self._failed_dags: Counter[str] = Counter()  # failures of single-pod queries by DAG
        self._namespaces_with: Counter[tuple[str, ...]] = Counter()  # namespaces by the signature of their error
        self._is_verified = False  # whether the source has shown this task as running
        self._dag_ranks: defaultdict[str, float] = defaultdict(random.random)

    def run(self, zombies: Sequence[Verdict], namespaces: Collection[str]) -> list[Result]:
        """Account for every zombie, in their order."""
        targets = [_Target(zombie) for zombie in zombies]
        self._noun = common_noun(zombie.workload for zombie in zombies)
        for target in targets:
            self._check_scope(target, namespaces)
        try:
            self._list_again(_pending(targets))
            why_left = self._delete_in_batches(targets)
            for target in _pending(targets):
                why = why_left or self._why_left(target)
                outcome = Outcome.FAILED if target.lost else Outcome.LEFT_FOR_NEXT_RUN
                self._conclude(target, outcome, why, target.lost)
            self._resolve_lost(_lost(targets))
        except Terminated:
            self._end_early(targets, TERMINATED)
        except CallerNotRunning:
            self._end_early(targets, ENDED)
        results = [target.result for target in targets if target.result]
        self._log_results([result for result in results if result.outcome in _NOT_DELETED])
        return results

    def _end_early(self, targets: list[_Target], why: KpoCleanupError) -> None:
        """Give every pod a result without another request: the task may have been marked as failed to stop it."""
        log.warning("%s", why)
        for target in _pending(targets):
            self._conclude(target, Outcome.LEFT_FOR_NEXT_RUN, why.summary, why)
        for target in _lost(targets):
            self._conclude(target, Outcome.UNKNOWN, f"the {target.workload.noun} was not read", target.lost)

    def _check_scope(self, target: _Target, namespaces: Collection[str]) -> None:
        namespace = target.workload.namespace
        in_scope = namespace in namespaces or ALL_NAMESPACES in namespaces
        if not in_scope or namespace in self._settings.excluded():
            summary = f"refusing to delete: namespace {namespace!r} is not in this run's scope"
            error = KpoCleanupError(summary, remedy="check whether the XCom of classify was modified")
            self._conclude(target, Outcome.FAILED, error=error)

    def _list_again(self, targets: list[_Target]) -> None:
        namespaces = sorted({target.workload.namespace for target in targets})
        if not namespaces:
            return
        log.info("%s to verify in %s", count(targets, "zombie"), count(namespaces, "namespace"))
        self._listed_at = self._monotonic()  # all pages show the cluster as it was at the first one
        uids, keys = ({getattr(c.workload, name) for c in targets} for name in ("uid", "key"))
        try:
            listing = self._cluster.list_workloads(
                namespaces,
                self._settings.label_selector,
                must_exist=False,  # the pods of a namespace that was deleted are gone
                keep=lambda workload: workload.uid in uids or workload.key in keys,
                known=[target.workload for target in targets],
            )
        except Exception as error:  # whatever it is, there must be a report
            listing = Listing(errors_by_namespace=dict.fromkeys(namespaces, _to_error(error)))
        for workload in listing.workloads:
            self._workloads[workload.key][workload.uid] = self._by_name[workload.record_name] = workload
        by_uid = {(workload.namespace, workload.uid): workload for workload in listing.workloads}
        for target in targets:
            namespace = target.workload.namespace
            listed = by_uid.get((namespace, target.workload.uid))
            if listed is not None:
                target.verdict = target.verdict._replace(workload=listed)
            elif namespace in listing.errors_by_namespace or target.workload.uid in listing.unread:
                why = listing.errors_by_namespace.get(namespace) or listing.unread[target.workload.uid]
                self._conclude(target, Outcome.FAILED, NOT_LISTED, why)
            else:
                self._conclude(target, Outcome.ALREADY_GONE, f"the {target.workload.noun} is no longer listed")

    def _delete_in_batches(self, targets: list[_Target]) -> str:
        """Delete batch by batch, and return why all pending targets are left, if they have one reason."""
        with _threads() as pool:
            pending = targets
            while pending := _pending(pending):
                if self._given_up >= MAX_SILENT:
                    return NO_RESPONSE
                if self._monotonic() - self._listed_at >= self._max_seconds:
                    return OUT_OF_TIME
                room = self._settings.max_deletes - self._counted
                now = self._monotonic()
                batch = _next_batch(self._by_dag(self._healthy(pending)), self._size, room, now)
                is_probing = not batch
                if is_probing:
                    batch = _next_batch(
                        self._by_dag(self._probes(pending)), min(self._size, CONCURRENT_DELETES), room, now
                    )
                if not batch:
                    waiting = [
                        target
                        for target in chain(self._healthy(pending), self._probes(pending))
                        if target.is_counted or room > 0
                    ]
                    if not waiting and self._release_lost(targets):
                        continue
                    if not waiting:
                        return ""
                    time.sleep(max(0.0, min(c.not_before for c in waiting) - self._monotonic()))
                    continue
                self._read_logs(batch)
                now = self._monotonic()
                try:
                    snapshot = self._take_snapshot(batch)
                except Exception as error:  # whatever it is, there must be a report
                    if isinstance(error, CallerNotRunning) and self._is_verified:
                        raise
                    self._record_failed_query(batch, _to_error(error), self._monotonic() - now)
                    if self._source_is_dead():
                        return NO_ANSWERS
                    continue
                self._failed_queries.clear()
                self._is_verified = True
                if self._monotonic() - now < MAX_SNAPSHOT_AGE / 4:
                    self._size = min(2 * self._size, self._batch_size)
                self._silent = 0
                _run(pool, (self._process(target, snapshot, is_probing) for target in batch))
                if self._unlogged:
                    self._log_results()
                    self._log_progress(pending)
        return ""

    def _read_logs(self, batch: Iterable[_Target]) -> None:
        """Log the last lines of what the pods of a batch have logged, before the snapshot, which must be fresh.

        A log that cannot be read in time is left out, because it must not delay the deletion.
        """
        lines = 0 if self._settings.dry_run else self._settings.last_log_lines
        unread = [c for c in batch if lines and c.log is None and c.workload.main and c.workload.main.has_run]
        if not unread or self._log_seconds > MAX_LOG_SECONDS:
            return
        started = self._monotonic()
        with _threads() as pool:
            requests = {pool.submit(self._cluster.read_log, c.workload, lines): c for c in unread}
            for request in wait(requests, LOG_TIMEOUT).not_done:
                request.cancel()
        self._log_seconds += self._monotonic() - started
        for request, target in requests.items():
            target.log = ()
            error = request.exception() if request.done() and not request.cancelled() else SLOW_LOG
            if error is None:
                target.log = tuple(request.result())
                for line in log_lines(target.workload, target.log) if target.log else ():
                    log.info("%s", line)
            elif not isinstance(error, NotFound):
                self._retry_policy.warn_once(_to_error(error), "its last lines are not saved")

    def _healthy(self, pending: Iterable[_Target]) -> Iterable[_Target]:
        """Return the targets in namespaces where deletions do not keep failing."""
        healthy = (target for target in pending if not self._is_in_trouble(target))
        if max(self._namespaces_with.values(), default=0) < MAX_NAMESPACES:
            return healthy
        return sorted(healthy, key=lambda target: target.rank)  # so that few of one namespace are tried at once

    def _probes(self, pending: Iterable[_Target]) -> list[_Target]:
        """Return the targets that probe namespaces where deletions keep failing: the untried first, at random."""
        probes: list[_Target] = []
        untried: Counter[str] = Counter()
        for target in sorted(filter(self._is_in_trouble, pending), key=lambda c: (c.attempts, c.rank)):
            namespace = target.workload.namespace
            trouble = self._troubles[namespace]
            if target.attempts or len(trouble.probed) + untried[namespace] < trouble.max_probes:
                untried[namespace] += not target.attempts
                probes.append(target)
        return probes

    def _by_dag(self, targets: Iterable[_Target]) -> Iterable[_Target]:
        """Order targets so that a small batch is about few DAGs, and those whose queries failed come last.

        Once queries fail, the order of the DAGs is random, so that no run begins with the failures of the last one.
        """
        if self._size == self._batch_size and not self._failed_dags:
            return targets
        order: Mapping[str, float] = self._dag_ranks
        if not self._failed_dags:
            targets = list(targets)
            order = {dag_id: n for n, dag_id in enumerate(dict.fromkeys(c.workload.dag_id for c in targets))}
        return sorted(targets, key=lambda c: (self._failed_dags[c.workload.dag_id], order[c.workload.dag_id]))

    def _record_failed_query(self, batch: list[_Target], error: KpoCleanupError, seconds: float) -> None:
        """Shrink the next batches, because a slow source can answer a smaller query and one pod may be the cause."""
        if len({target.workload.key for target in batch}) > 1:
            self._retry_policy.warn_once(error, "querying fewer task instances at a time")
            self._size = len(batch) // 2 if isinstance(error, TooSlow) else 1
            return
        self._failed_queries.append(seconds)
        self._failed_dags[batch[0].workload.dag_id] += 1
        for target in batch:
            self._conclude(target, Outcome.FAILED, error=error)

    def _source_is_dead(self) -> bool:
        failures, seconds = len(self._failed_queries), sum(self._failed_queries)
        return failures >= MAX_QUERY_FAILURES or (failures >= 3 and seconds > MAX_QUERY_SECONDS)

    def _is_in_trouble(self, target: _Target) -> bool:
        trouble = self._troubles.get(target.workload.namespace)
        if trouble is None:
            return False
        is_widespread = self._namespaces_with[trouble.error.signature] >= MAX_NAMESPACES
        return trouble.in_a_row >= (1 if is_widespread else MAX_FAILURES)

    def _why_left(self, target: _Target) -> str:
        if self._counted < self._settings.max_deletes:
            return f"deletions in its namespace fail: {self._troubles[target.workload.namespace].error.cause}"
        return f"max_deletes={self._settings.max_deletes} was reached"

    def _take_snapshot(self, batch: Sequence[_Target]) -> _Snapshot:
        """Query Airflow for task instances, and for the records that matter: a retry may have another pod.

        :raises TooSlow: if the answer is too old by the time it arrives.
        """
        keys = {target.workload.key for target in batch}
        queried, taken_at = sorted(with_plain_tasks(keys)), self._monotonic()
        task_instances = self._source.fetch(queried)
        records: Mapping[TaskInstanceKey, Record] = {}
        combined = self._combine(batch, task_instances, {})
        uncertain = uncertain_workloads(combined)
        if record_keys(combined, uncertain):
            records = read_records(combined, uncertain, self._source)
            if self._monotonic() - taken_at > MAX_SNAPSHOT_AGE / 5:
                taken_at = self._monotonic()
                task_instances = self._source.fetch(queried)
        if incomplete_keys(task_instances, [target.workload for target in batch]):
            uncertain = uncertain_workloads(self._combine(batch, task_instances, {}))
            task_instances = self._source.complete(task_instances, incomplete_keys(task_instances, uncertain))
        classifier = Classifier(self._combine(batch, task_instances, records))
        snapshot = _Snapshot(taken_at, batch, task_instances, records, dict.fromkeys(keys, classifier))
        if self._has_expired(snapshot):
            raise TooSlow(
                f"querying {len(keys)} task instances took longer than {MAX_SNAPSHOT_AGE:g} s",
                cause=f"{self._source.description}; tasks may have been restarted meanwhile",
                remedy="find out why Airflow is slow",
            )
        return snapshot

    def _combine(
        self, batch: Sequence[_Target], task_instances: TaskInstances, records: Mapping[TaskInstanceKey, Record]
    ) -> Snapshot:
        """Return a snapshot of these pods and of those that can change their verdicts, as they were last read."""
        workloads: dict[str, Workload] = {}
        for target in batch:
            of_task = self._workloads[target.workload.key]
            if target.workload.uid in of_task:
                workloads[target.workload.uid] = of_task[target.workload.uid]
        for key in {target.workload.key for target in batch}:
            if key not in self._successors:
                self._successors[key] = possible_successors(self._workloads[key].values())
            workloads.update({workload.uid: workload for workload in self._successors[key]})
        named = (self._by_name.get(name) for record in records.values() for name in record.workloads)
        workloads.update({workload.uid: workload for workload in named if workload is not None})
        return Snapshot([*workloads.values()], task_instances, self._settings, int(self._clock()), records)

    def _is_responding(self) -> bool:
        return self._silent < CONCURRENT_DELETES and self._given_up < MAX_SILENT

    def _has_expired(self, snapshot: _Snapshot) -> bool:
        return self._monotonic() - snapshot.taken_at > MAX_SNAPSHOT_AGE

    def _process(self, target: _Target, snapshot: _Snapshot, is_probing: bool) -> _Steps[None]:
        if self._is_in_trouble(target):
            if not is_probing:
                return
            self._troubles[target.workload.namespace].probed.add(target.workload.uid)
        try:
            yield from self._verify_and_delete(target, snapshot)
        except Exception as exception:  # whatever it is, there must be a report
            error = _to_error(exception)
            target.lost = error if target.lost is IN_FLIGHT else target.lost
            self._conclude(target, Outcome.FAILED, error=error)

    def _verify_and_delete(self, target: _Target, snapshot: _Snapshot) -> _Steps[None]:
        """Reclassify the pod and delete it if it is still a zombie. Leave it pending if the snapshot has expired."""
        key = target.workload.key
        while self._is_responding() and not self._has_expired(snapshot):
            verdict, earlier = snapshot.classifiers[key].classify(target.workload), target.verdict
            verdict = verdict._replace(link=earlier.link if verdict.raw_ids == earlier.raw_ids else "")
            successor = self._stale_successor(verdict, snapshot.classifiers[key])
            if successor is not None:
                yield from self._read_again(successor)
            elif not verdict.is_zombie:
                target.verdict = verdict
                self._conclude(target, Outcome.SPARED)
                return
            else:
                target.verdict = verdict
                has_changed = yield from self._delete(target)
                if not has_changed:
                    return
            target.conflicts += 1
            if target.conflicts > MAX_CONFLICTS:
                what = f"the {target.workload.noun} or its successor"
                raise KubernetesError(f"{what} was read {MAX_CONFLICTS} times and keeps changing")
            if target.workload.key != key:
                return  # the snapshot may not cover that task instance
            alike = [other for other in snapshot.batch if other.workload.key == key]
            changed = self._combine(alike, snapshot.task_instances, snapshot.records)
            snapshot.classifiers[key] = Classifier(changed)

    def _stale_successor(self, verdict: Verdict, classifier: Classifier) -> Workload | None:
        """Return the newer pod on which a verdict rests, if it must be read again.

        If that pod is gone or on its way out, a retry may adopt the older one.
        """
        successor = classifier.successor_of(verdict.workload)
        if successor is None or verdict.reason is not Reason.SUPERSEDED:
            return None
        read_at = self._read_at.get(successor.uid, self._listed_at)
        return successor if self._monotonic() - read_at > MAX_SNAPSHOT_AGE else None

    def _read_again(self, old: Workload) -> _Steps[Workload | None]:
        """Read the pod that has this name now, and return it."""
        read_at = self._monotonic()
        workload: Workload | None = yield partial(self._cluster.get, old, self._settings.label_selector)
        self._workloads[old.key].pop(old.uid, None)
        self._by_name.pop(old.record_name, None)
        if any(each.uid == old.uid for each in self._successors.get(old.key, ())):
            del self._successors[old.key]
        if workload is not None:
            self._workloads[workload.key][workload.uid] = self._by_name[workload.record_name] = workload
            self._read_at[workload.uid] = read_at
            if workload.key in self._successors:
                self._successors[workload.key] = possible_successors([*self._successors[workload.key], workload])
        return workload

    def _delete(self, target: _Target) -> _Steps[bool]:
        """Delete a zombie, and return whether it has changed and must be classified again instead."""
        if self._settings.dry_run:
            self._count(target)
            grace_period = self._expected_grace_period(target.verdict)
            deadline = int(self._clock()) + grace_period if grace_period else None
            self._conclude(target, Outcome.WOULD_DELETE, deadline=deadline)
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
            self._conclude_gone(target)
        except KubernetesError as error:
            target.lost = error if error.outcome_unknown else lost
            self._record_failure(target, error)
            return False
        else:
            self._count(target)
            self._conclude_accepted(target, accepted)
        self._silent = self._given_up = 0
        self._troubles.pop(target.workload.namespace, None)
        return False

    def _resolve_conflict(self, target: _Target, conflict: Conflict) -> _Steps[bool]:
        """Read the pod after a 409, and return whether it has changed and must be classified again."""
        old = target.workload
        workload = yield from self._read_again(old)
        if workload is None or (workload.uid != old.uid and target.is_counted):
            self._conclude_gone(target)
        elif workload.uid != old.uid:
            self._conclude(target, Outcome.SPARED, f"another {old.noun} has its name now")
        elif workload.resource_version == old.resource_version:
            self._conclude(target, Outcome.FAILED, error=conflict)  # refused for another reason
        else:
            target.verdict = target.verdict._replace(workload=workload)
            return True
        return False

    def _record_failure(self, target: _Target, error: KubernetesError) -> None:
        """Process a failed deletion: schedule another attempt, or record the failure."""
        if error.outcome_unknown:
            self._count(target)
            self._lost_at = self._monotonic()
        if error.is_retryable:
            now = self._monotonic()
            target.attempts += 1
            self._silent = 0 if error.has_response else self._silent + 1
            self._record_trouble(target, error)
            delay = self._retry_policy.next_delay(error, target.attempts, now - target.first_attempt)
            if delay is not None:
                target.not_before = now + delay
                self._retry_policy.warn_once(error, "retrying")
                return
            self._given_up = 0 if error.has_response else self._given_up + 1
        else:
            self._silent = self._given_up = 0
            if isinstance(error, AdmissionDenied):  # it concerns only this pod
                self._troubles.pop(target.workload.namespace, None)
            else:
                self._record_trouble(target, error)
        self._conclude(target, Outcome.FAILED, error=error)

    def _record_trouble(self, target: _Target, error: KubernetesError) -> None:
        trouble = self._troubles.setdefault(target.workload.namespace, _Trouble(error))
        trouble.error = error
        trouble.in_a_row += 1
        trouble.may_pass |= error.is_retryable and error.has_response
        if trouble.in_a_row == MAX_FAILURES:
            self._namespaces_with[error.signature] += 1

    def _resolve_lost(self, targets: list[_Target]) -> None:
        """Find out what became of pods whose deletion may have been carried out although its response was lost."""
        if not targets:
            return
        time.sleep(max(0.0, self._lost_at + self._delete_timeout - self._monotonic()))
        self._silent = 0
        with _threads() as pool:
            _run(pool, map(self._read_lost, targets))

    def _release_lost(self, targets: list[_Target]) -> bool:
        """Find out which deletions that count were not carried out, so that untried pods can take their places."""
        before = self._counted
        self._resolve_lost(_lost(targets))
        return self._counted < before

    def _read_lost(self, target: _Target) -> _Steps[None]:
        """Read a pod, and keep its result only if its deletion was not carried out."""
        before = target.workload
        try:
            if self._silent:
                raise KubernetesError("not read", cause=NO_RESPONSE)
            workload = yield from self._read_again(before)
        except Exception as error:
            self._silent += not getattr(error, "has_response", True)
            self._conclude(target, Outcome.UNKNOWN, f"the {before.noun} could not be read: {error}", target.lost)
            return
        was_overdue = target.verdict.is_zombie and before.deletion_deadline is not None
        if workload is None or workload.uid != before.uid:
            self._conclude_gone(target)
        elif workload.deletion_deadline is not None and not was_overdue:
            self._conclude_accepted(target, DeleteResult.from_accepted(workload.finalizers, workload.deletion_deadline))
        elif target.result:
            target.lost, target.is_counted = None, False
            self._counted -= 1

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

    def _count(self, target: _Target) -> None:
        self._counted += not target.is_counted
        target.is_counted = True

    def _conclude_gone(self, target: _Target) -> None:
        """Record the result of a pod that no longer exists: an attempt whose response was lost may have deleted it."""
        if target.is_counted:
            self._conclude(target, Outcome.DELETED)
        else:
            self._conclude(target, Outcome.ALREADY_GONE, f"the {target.workload.noun} no longer exists")

    def _conclude_accepted(self, target: _Target, accepted: DeleteResult) -> None:
        self._conclude(target, accepted.outcome, accepted.detail, deadline=accepted.deadline)

    def _conclude(
        self,
        target: _Target,
        outcome: Outcome,
        detail: str = "",
        error: KpoCleanupError | None = None,
        deadline: int | None = None,
    ) -> None:
        """Record a result. One that says that a pod was deleted, or may have been, is logged after the batch."""
        target.result = Result(target.verdict, outcome, detail, error, deadline, target.log or ())
        self._deleted += outcome is Outcome.DELETED
        if outcome not in _NOT_DELETED:
            self._unlogged.append(target.result)

    def _log_results(self, others: Iterable[Result] = ()) -> None:
        """Log the latest results by outcome: if the worker is killed, the log still shows what was done.

        :param others: final results, which would be scattered over many batches.
        """
        by_outcome: dict[Outcome, list[Result]] = defaultdict(list)
        for result in (*self._unlogged, *others):
            by_outcome[result.outcome].append(result)
        self._unlogged.clear()
        for outcome, results in by_outcome.items():
            for line in () if outcome in _NOT_LOGGED else result_lines(results):
                log.log(_LEVELS.get(outcome, logging.INFO), "%s", line)

    def _log_progress(self, targets: list[_Target]) -> None:
        pending, room = _pending(targets), self._settings.max_deletes - self._counted
        to_go = min(len(pending), room + sum(target.is_counted for target in pending))
        if to_go > 0 and not self._settings.dry_run:
            log.info("%s deleted so far, %s to go", pluralize(self._deleted, self._noun), f"{to_go:,}")


def _run(pool: ThreadPoolExecutor, processes: Iterable[_Steps[None]]) -> None:
    """Run generators side by side in this thread, and send each request that they yield from a worker thread."""
    waiting = iter(processes)
    running: dict[Future[Any], _Steps[None]] = {}
    responses: SimpleQueue[Future[Any]] = SimpleQueue()
    try:
        while True:
            if len(running) < CONCURRENT_DELETES and (steps := next(waiting, None)) is not None:
                request = _resume(steps)
            elif running:
                future = responses.get()
                steps = running.pop(future)
                request = _resume(steps, future)
            else:
                return
            if request is not None:
                future = pool.submit(request)
                running[future] = steps
                future.add_done_callback(responses.put)
    except Terminated:
        for future in wait(running, MAX_TERMINATION).done:
            _resume(running[future], future)  # its next request is not sent
        raise


def _resume(steps: _Steps[None], future: Future[Any] | None = None) -> _Request | None:
    """Continue with the response to the last request, and return the next one, or None at the end."""
    try:
        if future is None:
            return next(steps)
        error = future.exception()
        return steps.throw(error) if error else steps.send(future.result())
    except StopIteration:
        return None


@contextmanager
def _threads() -> Iterator[ThreadPoolExecutor]:
    """Provide threads for requests. After a termination, those that still wait for a response are not awaited."""
    pool = ThreadPoolExecutor(CONCURRENT_DELETES, thread_name_prefix="reap")
    try:
        yield pool
    finally:
        pool.shutdown(wait=False)


def _lost(targets: Iterable[_Target]) -> list[_Target]:
    """Return those that may have been deleted although no response confirms it."""
    return [c for c in targets if c.lost and c.result and c.result.outcome in _NOT_DELETED]


def _pending(targets: Iterable[_Target]) -> list[_Target]:
    return [target for target in targets if target.result is None]


def _next_batch(pending: Iterable[_Target], size: int, room: int, now: float) -> list[_Target]:
    """Return the next targets that are due: those that count already, and as many others as there is room for."""
    batch: list[_Target] = []
    for target in pending:
        if len(batch) == size:
            break
        if target.not_before > now or not (target.is_counted or room > 0):
            continue
        room -= not target.is_counted
        batch.append(target)
    return batch


def _to_error(error: BaseException) -> KpoCleanupError:
    """Return an error of this package as it is, and any other exception with its type."""
    return error if isinstance(error, KpoCleanupError) else KpoCleanupError(f"{type(error).__name__}: {error}")
