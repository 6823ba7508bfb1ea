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
class _Candidate:
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
    batch: Sequence[_Candidate]
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
        candidates = [_Candidate(zombie) for zombie in zombies]
        self._noun = common_noun(zombie.workload for zombie in zombies)
        for candidate in candidates:
            self._check_scope(candidate, namespaces)
        try:
            self._list_again(_pending(candidates))
            why_left = self._delete_in_batches(candidates)
            for candidate in _pending(candidates):
                why = why_left or self._why_left(candidate)
                outcome = Outcome.FAILED if candidate.lost else Outcome.LEFT_FOR_NEXT_RUN
                self._settle(candidate, outcome, why, candidate.lost)
            self._resolve_lost(_lost(candidates))
        except Terminated:
            self._end_early(candidates, TERMINATED)
        except CallerNotRunning:
            self._end_early(candidates, ENDED)
        results = [candidate.result for candidate in candidates if candidate.result]
        self._log_results([result for result in results if result.outcome in _NOT_DELETED])
        return results

    def _end_early(self, candidates: list[_Candidate], why: KpoCleanupError) -> None:
        """Settle everything without another request: the task may have been marked as failed to stop the deletions."""
        log.warning("%s", why)
        for candidate in _pending(candidates):
            self._settle(candidate, Outcome.LEFT_FOR_NEXT_RUN, why.summary, why)
        for candidate in _lost(candidates):
            self._settle(candidate, Outcome.UNKNOWN, f"the {candidate.workload.noun} was not read", candidate.lost)

    def _check_scope(self, candidate: _Candidate, namespaces: Collection[str]) -> None:
        namespace = candidate.workload.namespace
        in_scope = namespace in namespaces or ALL_NAMESPACES in namespaces
        if not in_scope or namespace in self._settings.excluded():
            summary = f"refusing to delete: namespace {namespace!r} is not in this run's scope"
            error = KpoCleanupError(summary, remedy="check whether the XCom of classify was modified")
            self._settle(candidate, Outcome.FAILED, error=error)

    def _list_again(self, candidates: list[_Candidate]) -> None:
        namespaces = sorted({candidate.workload.namespace for candidate in candidates})
        if not namespaces:
            return
        log.info("%s to verify in %s", count(candidates, "zombie"), count(namespaces, "namespace"))
        self._listed_at = self._monotonic()  # all pages show the cluster as it was at the first one
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
            listing = Listing(errors_by_namespace=dict.fromkeys(namespaces, _to_error(error)))
        for workload in listing.workloads:
            self._workloads[workload.key][workload.uid] = self._by_name[workload.record_name] = workload
        by_uid = {(workload.namespace, workload.uid): workload for workload in listing.workloads}
        for candidate in candidates:
            namespace = candidate.workload.namespace
            listed = by_uid.get((namespace, candidate.workload.uid))
            if listed is not None:
                candidate.verdict = candidate.verdict._replace(workload=listed)
            elif namespace in listing.errors_by_namespace or candidate.workload.uid in listing.unread:
                why = listing.errors_by_namespace.get(namespace) or listing.unread[candidate.workload.uid]
                self._settle(candidate, Outcome.FAILED, NOT_LISTED, why)
            else:
                self._settle(candidate, Outcome.ALREADY_GONE, f"the {candidate.workload.noun} is no longer listed")

    def _delete_in_batches(self, candidates: list[_Candidate]) -> str:
        """Delete batch by batch, and return why all pending candidates are left, if they have one reason."""
        with _threads() as pool:
            pending = candidates
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
                        candidate
                        for candidate in chain(self._healthy(pending), self._probes(pending))
                        if candidate.is_counted or room > 0
                    ]
                    if not waiting and self._release_lost(candidates):
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
                _run(pool, (self._process(candidate, snapshot, is_probing) for candidate in batch))
                if self._unlogged:
                    self._log_results()
                    self._log_progress(pending)
        return ""

    def _read_logs(self, batch: Iterable[_Candidate]) -> None:
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
        for request, candidate in requests.items():
            candidate.log = ()
            error = request.exception() if request.done() and not request.cancelled() else SLOW_LOG
            if error is None:
                candidate.log = tuple(request.result())
                for line in log_lines(candidate.workload, candidate.log) if candidate.log else ():
                    log.info("%s", line)
            elif not isinstance(error, NotFound):
                self._retry_policy.warn_once(_to_error(error), "its last lines are not saved")

    def _healthy(self, pending: Iterable[_Candidate]) -> Iterable[_Candidate]:
        """Return the candidates in namespaces without trouble."""
        healthy = (candidate for candidate in pending if not self._is_in_trouble(candidate))
        if max(self._namespaces_with.values(), default=0) < MAX_NAMESPACES:
            return healthy
        return sorted(healthy, key=lambda candidate: candidate.rank)  # so that few of one namespace are tried at once

    def _probes(self, pending: Iterable[_Candidate]) -> list[_Candidate]:
        """Return the candidates that probe namespaces in trouble: the untried first, at random."""
        probes: list[_Candidate] = []
        untried: Counter[str] = Counter()
        for candidate in sorted(filter(self._is_in_trouble, pending), key=lambda c: (c.attempts, c.rank)):
            namespace = candidate.workload.namespace
            trouble = self._troubles[namespace]
            if candidate.attempts or len(trouble.probed) + untried[namespace] < trouble.max_probes:
                untried[namespace] += not candidate.attempts
                probes.append(candidate)
        return probes

    def _by_dag(self, candidates: Iterable[_Candidate]) -> Iterable[_Candidate]:
        """Order candidates so that a small batch is about few DAGs, and those whose queries failed come last.

        Once queries fail, the order of the DAGs is random, so that no run begins with the failures of the last one.
        """
        if self._size == self._batch_size and not self._failed_dags:
            return candidates
        order: Mapping[str, float] = self._dag_ranks
        if not self._failed_dags:
            candidates = list(candidates)
            order = {dag_id: n for n, dag_id in enumerate(dict.fromkeys(c.workload.dag_id for c in candidates))}
        return sorted(candidates, key=lambda c: (self._failed_dags[c.workload.dag_id], order[c.workload.dag_id]))

    def _record_failed_query(self, batch: list[_Candidate], error: KpoCleanupError, seconds: float) -> None:
        """Shrink the next batches, because a slow source can answer a smaller query and one pod may be the cause."""
        if len({candidate.workload.key for candidate in batch}) > 1:
            self._retry_policy.warn_once(error, "querying fewer task instances at a time")
            self._size = len(batch) // 2 if isinstance(error, TooSlow) else 1
            return
        self._failed_queries.append(seconds)
        self._failed_dags[batch[0].workload.dag_id] += 1
        for candidate in batch:
            self._settle(candidate, Outcome.FAILED, error=error)

    def _source_is_dead(self) -> bool:
        failures, seconds = len(self._failed_queries), sum(self._failed_queries)
        return failures >= MAX_QUERY_FAILURES or (failures >= 3 and seconds > MAX_QUERY_SECONDS)

    def _is_in_trouble(self, candidate: _Candidate) -> bool:
        trouble = self._troubles.get(candidate.workload.namespace)
        if trouble is None:
            return False
        is_widespread = self._namespaces_with[trouble.error.signature] >= MAX_NAMESPACES
        return trouble.in_a_row >= (1 if is_widespread else MAX_FAILURES)

    def _why_left(self, candidate: _Candidate) -> str:
        if self._counted < self._settings.max_deletes:
            return f"deletions in its namespace fail: {self._troubles[candidate.workload.namespace].error.cause}"
        return f"max_deletes={self._settings.max_deletes} was reached"

    def _take_snapshot(self, batch: Sequence[_Candidate]) -> _Snapshot:
        """Query Airflow for task instances, and for the records that matter: a retry may have another pod.

        :raises TooSlow: if the answer is too old by the time it arrives.
        """
        keys = {candidate.workload.key for candidate in batch}
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
        if incomplete_keys(task_instances, [candidate.workload for candidate in batch]):
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
        self, batch: Sequence[_Candidate], task_instances: TaskInstances, records: Mapping[TaskInstanceKey, Record]
    ) -> Snapshot:
        """Return a snapshot of these pods and of those that can change their verdicts, as they were last read."""
        workloads: dict[str, Workload] = {}
        for candidate in batch:
            of_task = self._workloads[candidate.workload.key]
            if candidate.workload.uid in of_task:
                workloads[candidate.workload.uid] = of_task[candidate.workload.uid]
        for key in {candidate.workload.key for candidate in batch}:
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

    def _process(self, candidate: _Candidate, snapshot: _Snapshot, is_probing: bool) -> _Steps[None]:
        if self._is_in_trouble(candidate):
            if not is_probing:
                return
            self._troubles[candidate.workload.namespace].probed.add(candidate.workload.uid)
        try:
            yield from self._verify_and_delete(candidate, snapshot)
        except Exception as exception:  # whatever it is, there must be a report
            error = _to_error(exception)
            candidate.lost = error if candidate.lost is IN_FLIGHT else candidate.lost
            self._settle(candidate, Outcome.FAILED, error=error)

    def _verify_and_delete(self, candidate: _Candidate, snapshot: _Snapshot) -> _Steps[None]:
        """Reclassify the pod and delete it if it is still a zombie. Leave it pending if the snapshot has expired."""
        key = candidate.workload.key
        while self._is_responding() and not self._has_expired(snapshot):
            verdict, earlier = snapshot.classifiers[key].classify(candidate.workload), candidate.verdict
            verdict = verdict._replace(link=earlier.link if verdict.raw_ids == earlier.raw_ids else "")
            successor = self._stale_successor(verdict, snapshot.classifiers[key])
            if successor is not None:
                yield from self._read_again(successor)
            elif not verdict.is_zombie:
                candidate.verdict = verdict
                self._settle(candidate, Outcome.SPARED)
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

    def _delete(self, candidate: _Candidate) -> _Steps[bool]:
        """Delete a zombie, and return whether it has changed and must be classified again instead."""
        if self._settings.dry_run:
            self._count(candidate)
            grace_period = self._expected_grace_period(candidate.verdict)
            deadline = int(self._clock()) + grace_period if grace_period else None
            self._settle(candidate, Outcome.WOULD_DELETE, deadline=deadline)
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
            self._settle_gone(candidate)
        except KubernetesError as error:
            candidate.lost = error if error.outcome_unknown else lost
            self._record_failure(candidate, error)
            return False
        else:
            self._count(candidate)
            self._settle_accepted(candidate, accepted)
        self._silent = self._given_up = 0
        self._troubles.pop(candidate.workload.namespace, None)
        return False

    def _resolve_conflict(self, candidate: _Candidate, conflict: Conflict) -> _Steps[bool]:
        """Read the pod after a 409, and return whether it has changed and must be classified again."""
        old = candidate.workload
        workload = yield from self._read_again(old)
        if workload is None or (workload.uid != old.uid and candidate.is_counted):
            self._settle_gone(candidate)
        elif workload.uid != old.uid:
            self._settle(candidate, Outcome.SPARED, f"another {old.noun} has its name now")
        elif workload.resource_version == old.resource_version:
            self._settle(candidate, Outcome.FAILED, error=conflict)  # refused for another reason
        else:
            candidate.verdict = candidate.verdict._replace(workload=workload)
            return True
        return False

    def _record_failure(self, candidate: _Candidate, error: KubernetesError) -> None:
        """Take in a deletion that failed: schedule another attempt, or settle it."""
        if error.outcome_unknown:
            self._count(candidate)
            self._lost_at = self._monotonic()
        if error.is_retryable:
            now = self._monotonic()
            candidate.attempts += 1
            self._silent = 0 if error.has_response else self._silent + 1
            self._record_trouble(candidate, error)
            delay = self._retry_policy.next_delay(error, candidate.attempts, now - candidate.first_attempt)
            if delay is not None:
                candidate.not_before = now + delay
                self._retry_policy.warn_once(error, "retrying")
                return
            self._given_up = 0 if error.has_response else self._given_up + 1
        else:
            self._silent = self._given_up = 0
            if isinstance(error, AdmissionDenied):  # it concerns only this pod
                self._troubles.pop(candidate.workload.namespace, None)
            else:
                self._record_trouble(candidate, error)
        self._settle(candidate, Outcome.FAILED, error=error)

    def _record_trouble(self, candidate: _Candidate, error: KubernetesError) -> None:
        trouble = self._troubles.setdefault(candidate.workload.namespace, _Trouble(error))
        trouble.error = error
        trouble.in_a_row += 1
        trouble.may_pass |= error.is_retryable and error.has_response
        if trouble.in_a_row == MAX_FAILURES:
            self._namespaces_with[error.signature] += 1

    def _resolve_lost(self, candidates: list[_Candidate]) -> None:
        """Find out what became of pods whose deletion may have been carried out although its response was lost."""
        if not candidates:
            return
        time.sleep(max(0.0, self._lost_at + self._delete_timeout - self._monotonic()))
        self._silent = 0
        with _threads() as pool:
            _run(pool, map(self._read_lost, candidates))

    def _release_lost(self, candidates: list[_Candidate]) -> bool:
        """Find out which deletions that count were not carried out, so that untried pods can take their places."""
        before = self._counted
        self._resolve_lost(_lost(candidates))
        return self._counted < before

    def _read_lost(self, candidate: _Candidate) -> _Steps[None]:
        """Read a pod, and keep its result only if its deletion was not carried out."""
        before = candidate.workload
        try:
            if self._silent:
                raise KubernetesError("not read", cause=NO_RESPONSE)
            workload = yield from self._read_again(before)
        except Exception as error:
            self._silent += not getattr(error, "has_response", True)
            self._settle(candidate, Outcome.UNKNOWN, f"the {before.noun} could not be read: {error}", candidate.lost)
            return
        was_overdue = candidate.verdict.is_zombie and before.deletion_deadline is not None
        if workload is None or workload.uid != before.uid:
            self._settle_gone(candidate)
        elif workload.deletion_deadline is not None and not was_overdue:
            self._settle_accepted(
                candidate, DeleteResult.from_accepted(workload.finalizers, workload.deletion_deadline)
            )
        elif candidate.result:
            candidate.lost, candidate.is_counted = None, False
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

    def _count(self, candidate: _Candidate) -> None:
        self._counted += not candidate.is_counted
        candidate.is_counted = True

    def _settle_gone(self, candidate: _Candidate) -> None:
        """Settle a pod that does not exist: an earlier attempt whose response was lost may have deleted it."""
        if candidate.is_counted:
            self._settle(candidate, Outcome.DELETED)
        else:
            self._settle(candidate, Outcome.ALREADY_GONE, f"the {candidate.workload.noun} no longer exists")

    def _settle_accepted(self, candidate: _Candidate, accepted: DeleteResult) -> None:
        self._settle(candidate, accepted.outcome, accepted.detail, deadline=accepted.deadline)

    def _settle(
        self,
        candidate: _Candidate,
        outcome: Outcome,
        detail: str = "",
        error: KpoCleanupError | None = None,
        deadline: int | None = None,
    ) -> None:
        """Record a result. One that says that a pod was deleted, or may have been, is logged after the batch."""
        candidate.result = Result(candidate.verdict, outcome, detail, error, deadline, candidate.log or ())
        self._deleted += outcome is Outcome.DELETED
        if outcome not in _NOT_DELETED:
            self._unlogged.append(candidate.result)

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

    def _log_progress(self, candidates: list[_Candidate]) -> None:
        pending, room = _pending(candidates), self._settings.max_deletes - self._counted
        to_go = min(len(pending), room + sum(candidate.is_counted for candidate in pending))
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


def _lost(candidates: Iterable[_Candidate]) -> list[_Candidate]:
    """Return those that may have been deleted although no response confirms it."""
    return [c for c in candidates if c.lost and c.result and c.result.outcome in _NOT_DELETED]


def _pending(candidates: Iterable[_Candidate]) -> list[_Candidate]:
    return [candidate for candidate in candidates if candidate.result is None]


def _next_batch(pending: Iterable[_Candidate], size: int, room: int, now: float) -> list[_Candidate]:
    """Return the next candidates that are due: those that count already, and as many others as there is room for."""
    batch: list[_Candidate] = []
    for candidate in pending:
        if len(batch) == size:
            break
        if candidate.not_before > now or not (candidate.is_counted or room > 0):
            continue
        room -= not candidate.is_counted
        batch.append(candidate)
    return batch


def _to_error(error: BaseException) -> KpoCleanupError:
    """Return an error of this package as it is, and any other exception with its type."""
    return error if isinstance(error, KpoCleanupError) else KpoCleanupError(f"{type(error).__name__}: {error}")
