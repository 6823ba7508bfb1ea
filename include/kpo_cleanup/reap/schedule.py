"""Select the next targets, depending on what has failed so far: pure logic, without requests, threads or clocks."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ..errors import AdmissionDenied, KpoCleanupError, KubernetesError, TooSlow
from ..kube.interface import CONCURRENT_DELETES
from .target import Target

BATCH = 100  # maximum number of pods that share one snapshot
MAX_QUERY_FAILURES = 10  # consecutive failures of single-pod queries before the source is considered dead
MAX_QUERY_SECONDS = 60  # the same, by the total seconds of at least three such failures
MAX_FAILURES = 5  # consecutive failures before a namespace comes last and only random pods of it are tried
MAX_NAMESPACES = 5  # namespaces with the same failure before a single failure counts as MAX_FAILURES elsewhere
MAX_PROBES = 30  # pods to try in a failing namespace before the others are left: perhaps only some fail
MAX_SILENT = 2 * CONCURRENT_DELETES  # consecutive pods without a response to any attempt before the run ends


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


class Schedule:
    """Selects the batches of one run.

    Owns the health of the namespaces, of the API server and of the source, and what counts towards ``max_deletes``.
    """

    def __init__(self, max_deletes: int, batch_size: int) -> None:
        self._max_deletes, self._batch_size = max_deletes, batch_size
        self._counted = 0  # pods that count towards max_deletes
        self._silent = 0  # consecutive deletions without a response
        self._given_up = 0  # consecutive pods without a response to any attempt
        self._troubles: dict[str, _Trouble] = {}  # by namespace
        self._namespaces_with: Counter[tuple[str, ...]] = Counter()  # namespaces by the signature of their error
        self._size = batch_size  # size of the next batch: smaller after a query that failed or was too slow
        self._failed_queries: list[float] = []  # durations of consecutive failures of single-pod queries
        self._failed_dags: Counter[str] = Counter()  # failures of single-pod queries by DAG
        self._dag_ranks: defaultdict[str, float] = defaultdict(random.random)

    @property
    def room(self) -> int:
        """Return how many more pods may be deleted."""
        return self._max_deletes - self._counted

    @property
    def is_responding(self) -> bool:
        """Return whether to send more of this batch: the API server has responded to some of the last deletions."""
        return self._silent < CONCURRENT_DELETES and not self.is_api_server_dead

    @property
    def is_api_server_dead(self) -> bool:
        return self._given_up >= MAX_SILENT

    @property
    def is_source_dead(self) -> bool:
        failures, seconds = len(self._failed_queries), sum(self._failed_queries)
        return failures >= MAX_QUERY_FAILURES or (failures >= 3 and seconds > MAX_QUERY_SECONDS)

    def next_batch(self, pending: Sequence[Target], now: float) -> tuple[list[Target], bool]:
        """Return the next targets that are due, and whether they probe namespaces in trouble."""
        batch = self._first_due(self._by_dag(self._healthy(pending)), self._size, now)
        if batch:
            return batch, False
        return self._first_due(self._by_dag(self._probes(pending)), min(self._size, CONCURRENT_DELETES), now), True

    def next_due(self, pending: Sequence[Target]) -> float | None:
        """Return when the next target is due, or None if no further one can be tried."""
        waiting = (*self._healthy(pending), *self._probes(pending))
        return min((each.not_before for each in waiting if each.is_counted or self.room > 0), default=None)

    def begin(self, target: Target, is_probing: bool) -> bool:
        """Return whether to try a target of the batch: its namespace may have run into trouble since."""
        if self._is_in_trouble(target):
            if not is_probing:
                return False
            self._troubles[target.workload.namespace].probed.add(target.workload.uid)
        return True

    def count(self, target: Target) -> None:
        """Count a pod that was deleted, or may have been."""
        self._counted += not target.is_counted
        target.is_counted = True

    def release(self, target: Target) -> None:
        """Stop counting a pod whose deletion was not carried out after all."""
        self._counted -= 1
        target.is_counted = False

    def record_success(self, target: Target) -> None:
        self._silent = self._given_up = 0
        self._troubles.pop(target.workload.namespace, None)

    def record_failure(self, target: Target, error: KubernetesError, is_final: bool) -> None:
        """Record a deletion that failed.

        :param is_final: whether there is no other attempt.
        """
        self._silent = 0 if error.has_response else self._silent + 1
        if is_final:
            self._given_up = 0 if error.has_response else self._given_up + 1
        namespace = target.workload.namespace
        if isinstance(error, AdmissionDenied):  # it concerns only this pod
            self._troubles.pop(namespace, None)
            return
        trouble = self._troubles.setdefault(namespace, _Trouble(error))
        trouble.error = error
        trouble.in_a_row += 1
        trouble.may_pass |= error.is_retryable and error.has_response
        if trouble.in_a_row == MAX_FAILURES:
            self._namespaces_with[error.signature] += 1

    def record_query(self, was_fast: bool) -> None:
        """Record a query that was answered: the source works, and what did not respond may be tried again."""
        self._failed_queries.clear()
        self._silent = 0
        if was_fast:
            self._size = min(2 * self._size, self._batch_size)

    def record_failed_query(self, batch: Sequence[Target], error: KpoCleanupError, seconds: float) -> bool:
        """Return whether smaller batches follow, because a slow source can answer a smaller query.

        If not, the query was about one task instance, which may be the cause.
        """
        if len({target.workload.key for target in batch}) > 1:
            self._size = len(batch) // 2 if isinstance(error, TooSlow) else 1
            return True
        self._failed_queries.append(seconds)
        self._failed_dags[batch[0].workload.dag_id] += 1
        return False

    def why_left(self, target: Target) -> str:
        """Return why a target was not tried."""
        if self.room > 0:
            return f"deletions in the same namespace fail: {self._troubles[target.workload.namespace].error.cause}"
        return f"max_deletes={self._max_deletes} was reached"

    def _first_due(self, targets: Iterable[Target], size: int, now: float) -> list[Target]:
        """Return the first that are due: those that count already, and as many others as there is room for."""
        batch: list[Target] = []
        room = self.room
        for target in targets:
            if len(batch) == size:
                break
            if target.not_before > now or not (target.is_counted or room > 0):
                continue
            room -= not target.is_counted
            batch.append(target)
        return batch

    def _is_in_trouble(self, target: Target) -> bool:
        trouble = self._troubles.get(target.workload.namespace)
        if trouble is None:
            return False
        is_widespread = self._namespaces_with[trouble.error.signature] >= MAX_NAMESPACES
        return trouble.in_a_row >= (1 if is_widespread else MAX_FAILURES)

    def _healthy(self, pending: Iterable[Target]) -> Iterable[Target]:
        """Return the targets in namespaces where deletions do not keep failing."""
        healthy = (target for target in pending if not self._is_in_trouble(target))
        if max(self._namespaces_with.values(), default=0) < MAX_NAMESPACES:
            return healthy
        return sorted(healthy, key=lambda target: target.rank)  # so that few of one namespace are tried at once

    def _probes(self, pending: Iterable[Target]) -> list[Target]:
        """Return the targets that probe namespaces where deletions keep failing: the untried first, at random."""
        probes: list[Target] = []
        untried: Counter[str] = Counter()
        for target in sorted(filter(self._is_in_trouble, pending), key=lambda target: (target.attempts, target.rank)):
            namespace = target.workload.namespace
            trouble = self._troubles[namespace]
            if target.attempts or len(trouble.probed) + untried[namespace] < trouble.max_probes:
                untried[namespace] += not target.attempts
                probes.append(target)
        return probes

    def _by_dag(self, targets: Iterable[Target]) -> Iterable[Target]:
        """Order targets so that a small batch is about few DAGs, and those whose queries failed come last.

        Once queries fail, the order of the DAGs is random, so that no run begins with the failures of the last one.
        """
        if self._size == self._batch_size and not self._failed_dags:
            return targets
        order: Mapping[str, float] = self._dag_ranks
        if not self._failed_dags:
            targets = list(targets)
            order = {dag_id: n for n, dag_id in enumerate(dict.fromkeys(target.workload.dag_id for target in targets))}

        def rank(target: Target) -> tuple[int, float]:
            dag_id = target.workload.dag_id
            return self._failed_dags[dag_id], order[dag_id]

        return sorted(targets, key=rank)
