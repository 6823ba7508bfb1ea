"""Delete the zombies: list and look again, never touch what has come back to life, account for every pod."""

from __future__ import annotations

import logging
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from threading import Lock

from .classify import Classifier, Snapshot, Verdict, keys_needing_records
from .constants import ALL_NAMESPACES, Outcome, Reason
from .errors import KpoCleanupError, TaskInstanceSourceError
from .identity import TaskInstanceKey
from .kube import CONCURRENT_DELETES, Cluster, DeleteResult, Listing, accepted
from .pod import Pod
from .retry import RetryPolicy
from .settings import Settings
from .task_instance import Record, TaskInstances
from .task_instances.interface import TaskInstanceSource
from .text import INDENT, by_clause, packed, pluralize, wrapped

log = logging.getLogger(__name__)

NO_ANSWER = "the API server does not answer any more"
BATCH = 100  # pods that share one look
MAX_SNAPSHOT_AGE = 5.0  # seconds after which a look says nothing any more
MAX_CONFLICTS = 4  # times that a pod, or the one that replaced it, is read again before its deletion


@dataclass(frozen=True)
class Result:
    """The fate of one zombie, and why."""

    verdict: Verdict
    deletion: DeleteResult

    @property
    def outcome(self) -> Outcome:
        """Its outcome, whether anything was sent for it or not."""
        return self.deletion.outcome

    def lines(self) -> list[str]:
        """Say what became of the pod, whose it was, and why."""
        verdict, detail = self.verdict, str(self.deletion)
        return [
            *packed((f"{self.outcome.value} {verdict.pod}:", *verdict.pod.task_name)),
            *(by_clause(detail, INDENT) if detail else []),
            *wrapped(f"{verdict.reason.value}: {verdict.evidence}", INDENT),
        ]


@dataclass
class _Candidate:
    """A pod that may be deleted, and what was tried so far. Times are of the monotonic clock."""

    verdict: Verdict  # the last one
    attempts: int = 0
    first_attempt: float | None = None
    not_before: float = 0.0
    readings: int = 0  # after the listing, of it or of its successor
    is_counted: bool = False  # in max_deletes: it was deleted, or nobody knows
    result: Result | None = None

    @property
    def pod(self) -> Pod:
        return self.verdict.pod

    def ends(self, outcome: Outcome, status: str = "") -> None:
        """Settle what became of it."""
        self.result = Result(self.verdict, DeleteResult(outcome, status))


@dataclass(frozen=True)
class _Look:
    """Airflow's answer on some pods' task instances, and when it was asked."""

    asked_at: float  # by the monotonic clock
    task_instances: TaskInstances
    judge: Classifier


def reap(
    zombies: Sequence[Verdict],
    cluster: Cluster,
    source: TaskInstanceSource,
    settings: Settings,
    namespaces: Collection[str],
    clock: Callable[[], float] = time.time,
    monotonic: Callable[[], float] = time.monotonic,
    patience: RetryPolicy | None = None,
    batch_size: int = BATCH,
) -> list[Result]:
    """Delete the zombies in their order, at most ``max_deletes`` of them.

    Of each only name and uid count: the pods are listed again, and judged by all rules as they are now.

    :param namespaces: those of this run; nothing is deleted anywhere else.
    :param clock: gives epoch seconds, by which pods and task instances are judged.
    :param monotonic: gives seconds, by which the age of an answer is measured.
    :param batch_size: pods that share one look.
    """
    reaper = _Reaper(cluster, source, settings, clock, monotonic, patience or RetryPolicy(), batch_size)
    return reaper.run(zombies, namespaces)


def count_outcomes(results: Iterable[Result]) -> dict[str, int]:
    """Count the pods of each outcome, in the order of the vocabulary."""
    counts = Counter(result.outcome for result in results)
    return {outcome.value: counts[outcome] for outcome in Outcome if counts[outcome]}


class _Reaper:
    """One reaping: what is shared by the threads that delete."""

    def __init__(
        self,
        cluster: Cluster,
        source: TaskInstanceSource,
        settings: Settings,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        patience: RetryPolicy,
        batch_size: int,
    ) -> None:
        self._cluster, self._source, self._settings = cluster, source, settings
        self._clock, self._monotonic, self._patience = clock, monotonic, patience
        self._batch_size = batch_size
        self._pods: dict[TaskInstanceKey, dict[str, Pod]] = defaultdict(dict)  # as they are now, by uid
        self._read_at: dict[str, float] = {}  # by uid; the others with the listing
        self._listed_at = 0.0  # by the monotonic clock, like the former
        self._records: Mapping[TaskInstanceKey, Record] = {}  # of the last look
        self._lock = Lock()
        self._done = 0  # of max_deletes
        self._unanswered = 0  # deletions in a row
        self._given_up = 0  # pods in a row, after all attempts
        self._refusals: Counter[tuple[str, tuple[str, str, str]]] = Counter()  # by namespace and cause

    def run(self, zombies: Sequence[Verdict], namespaces: Collection[str]) -> list[Result]:
        """Account for every zombie, in their order."""
        candidates = [_Candidate(zombie) for zombie in zombies]
        for candidate in candidates:
            self._check_namespace(candidate, namespaces)
        self._list_again([candidate for candidate in candidates if candidate.result is None])
        why_left = self._delete(candidates)
        for candidate in candidates:
            if candidate.result is None:
                candidate.ends(Outcome.LEFT_FOR_NEXT_RUN, why_left)
        return [candidate.result for candidate in candidates if candidate.result]

    def _check_namespace(self, candidate: _Candidate, namespaces: Collection[str]) -> None:
        namespace = candidate.pod.namespace
        is_ours = namespace in namespaces or ALL_NAMESPACES in namespaces
        if not is_ours or namespace in self._settings.excluded():
            candidate.ends(Outcome.FAILED, "its namespace is none of this run's; was the XCom of classify edited?")
            self._log(candidate)

    def _list_again(self, candidates: list[_Candidate]) -> None:
        namespaces = sorted({candidate.pod.namespace for candidate in candidates})
        if not namespaces:
            return
        self._listed_at = self._monotonic()  # its pages show the cluster as it was at the first one
        uids, keys = ({getattr(c.pod, name) for c in candidates} for name in ("uid", "key"))
        try:
            # A namespace that was deleted meanwhile is as good as an empty one.
            listing = self._cluster.list_pods(
                namespaces,
                self._settings.label_selector,
                must_exist=False,
                keep=lambda pod: pod.uid in uids or pod.key in keys,
            )
        except Exception as error:  # whatever it is, the report must tell
            listing = Listing(errors_by_namespace=dict.fromkeys(namespaces, _said(error)))
        by_uid = {(pod.namespace, pod.uid): pod for pod in listing.pods}
        for pod in listing.pods:
            self._pods[pod.key][pod.uid] = pod
        for candidate in candidates:
            now = by_uid.get((candidate.pod.namespace, candidate.pod.uid))
            if now is not None:
                candidate.verdict = replace(candidate.verdict, pod=now)
                continue
            if candidate.pod.namespace in listing.errors_by_namespace:
                candidate.ends(Outcome.FAILED, listing.errors_by_namespace[candidate.pod.namespace])
            else:
                candidate.ends(Outcome.ALREADY_GONE, "it is not listed any more")
            self._log(candidate)

    def _delete(self, candidates: list[_Candidate]) -> str:
        """Delete batch by batch, and say why the rest is left."""
        with ThreadPoolExecutor(CONCURRENT_DELETES, thread_name_prefix="reap") as pool:
            while open_ones := [candidate for candidate in candidates if candidate.result is None]:
                if self._given_up >= CONCURRENT_DELETES:
                    return NO_ANSWER
                room = self._settings.max_deletes - self._done
                batch = _ready(open_ones, self._batch_size, room, self._monotonic())
                if not batch:
                    waiting = [candidate for candidate in open_ones if candidate.is_counted or room > 0]
                    if not waiting:
                        return f"max_deletes={self._settings.max_deletes} was reached"
                    time.sleep(max(0.0, min(c.not_before for c in waiting) - self._monotonic()))
                    continue
                try:
                    look = self._look({candidate.pod.key for candidate in batch})
                except Exception as error:  # whatever it is, the report must tell
                    why = f"the look at the task instances failed: {_said(error)}"
                    log.error("%s", why)
                    for candidate in batch:
                        candidate.ends(Outcome.FAILED, why)
                    return why
                self._unanswered = 0
                list(pool.map(partial(self._try_one, look), batch))
                self._log_progress(candidates)
        return ""

    def _look(self, keys: set[TaskInstanceKey]) -> _Look:
        """Ask Airflow once more, and for the operators' records: another attempt may meet another try.

        :raises TaskInstanceSourceError: also if the answer is too old by the time that it is there.
        """
        asked_at = self._monotonic()
        task_instances = self._source.fetch(sorted(keys))
        doubted = keys_needing_records(self._facts(keys, task_instances))
        self._records = {}
        if doubted:
            self._records = self._source.read_records(task_instances, sorted(doubted))
            if self._monotonic() - asked_at > MAX_SNAPSHOT_AGE / 5:
                asked_at = self._monotonic()
                task_instances = self._source.fetch(sorted(keys))
        look = _Look(asked_at, task_instances, Classifier(self._facts(keys, task_instances)))
        if self._is_old(look):
            raise TaskInstanceSourceError(
                f"the answer about {len(keys)} task instances took longer than {MAX_SNAPSHOT_AGE:g} s, "
                f"and tasks may have come back to life meanwhile ({self._source.description}); see why Airflow is slow"
            )
        return look

    def _is_old(self, look: _Look) -> bool:
        """Tell whether it says nothing any more about a task instance that may have come back to life."""
        return self._monotonic() - look.asked_at > MAX_SNAPSHOT_AGE

    def _facts(self, keys: Iterable[TaskInstanceKey], task_instances: TaskInstances) -> Snapshot:
        with self._lock:
            pods = [pod for key in keys for pod in self._pods[key].values()]
        return Snapshot(pods, task_instances, self._settings, int(self._clock()), self._records)

    def _try_one(self, look: _Look, candidate: _Candidate) -> None:
        """Classifier once more, and delete what still is a zombie; what needs a new look stays open."""
        judge = look.judge
        try:
            while self._unanswered < CONCURRENT_DELETES and not self._is_old(look):
                key = candidate.pod.key
                if not self._refresh_successor(candidate, judge):
                    changed = self._judge_and_delete(candidate, judge)
                    if changed is None:
                        break
                    candidate.verdict = replace(candidate.verdict, pod=changed)
                candidate.readings += 1
                if candidate.readings > MAX_CONFLICTS:
                    candidate.ends(
                        Outcome.FAILED, f"it was read again {MAX_CONFLICTS} times, and is still not certain to go"
                    )
                    break
                if candidate.pod.key != key:
                    break  # the look says nothing about that task instance
                judge = Classifier(self._facts([key], look.task_instances))
        except Exception as error:  # whatever it is, the report must tell
            candidate.ends(Outcome.FAILED, _said(error))
        self._log(candidate)

    def _refresh_successor(self, candidate: _Candidate, judge: Classifier) -> bool:
        """Read the pod that replaced this one again if that was long ago: if it goes, a retry may take this one over.

        :returns: whether it was read.
        """
        successor, now = judge.successor_of(candidate.pod), self._monotonic()
        if successor is None or now - self._read_at.get(successor.uid, self._listed_at) <= MAX_SNAPSHOT_AGE:
            return False
        if judge.classify(candidate.pod).reason is not Reason.SUPERSEDED:
            return False
        self._replace(successor, self._read(successor), now)
        return True

    def _replace(self, old: Pod, new: Pod | None, read_at: float) -> None:
        with self._lock:
            self._pods[old.key].pop(old.uid, None)
            if new is not None:
                self._pods[new.key][new.uid] = new
                self._read_at[new.uid] = read_at

    def _judge_and_delete(self, candidate: _Candidate, judge: Classifier) -> Pod | None:
        """Give the pod as it is now if it has changed since it was read, and so was not deleted."""
        verdict = judge.classify(candidate.pod)
        if not verdict.is_zombie:
            spared = DeleteResult(Outcome.SPARED, f"{verdict.reason.value} now: {verdict.evidence}")
            lost = self._find_out(candidate) if candidate.is_counted else None
            candidate.result = Result(candidate.verdict, lost or spared)
            return None
        candidate.verdict = verdict
        if self._settings.dry_run:
            candidate.ends(Outcome.WOULD_DELETE)
            self._count(candidate)
            return None
        refusal = self._refusal_in(candidate.pod.namespace)
        if refusal:
            candidate.result = Result(verdict, refusal)
            return None
        if candidate.first_attempt is None:
            candidate.first_attempt = self._monotonic()
        deletion = self._cluster.delete(candidate.pod, self._grace_period(verdict))
        if deletion.is_conflict:
            return self._read_again(candidate, deletion)
        self._note(candidate, deletion)
        return None

    def _note(self, candidate: _Candidate, deletion: DeleteResult) -> None:
        """Take in what the API server said, or that it said nothing."""
        was_sent_before = candidate.is_counted
        if deletion.outcome_unknown or deletion.outcome in (Outcome.DELETED, Outcome.AWAITING_FINALIZER):
            self._count(candidate)
        with self._lock:
            self._unanswered = self._unanswered + 1 if deletion.is_retryable else 0
        if deletion.is_retryable and self._may_try_again(candidate, deletion):
            return
        with self._lock:
            self._given_up = self._given_up + 1 if deletion.is_retryable else 0
            if deletion.outcome is Outcome.FAILED and not deletion.is_retryable:
                self._refusals[candidate.pod.namespace, deletion.cause] += 1
        if deletion.outcome is Outcome.ALREADY_GONE and was_sent_before:
            deletion = DeleteResult(Outcome.DELETED)  # by an attempt whose answer got lost
        candidate.result = Result(candidate.verdict, deletion)

    def _may_try_again(self, candidate: _Candidate, deletion: DeleteResult) -> bool:
        now = self._monotonic()
        candidate.attempts += 1
        pause = self._patience.pause(candidate.attempts, deletion.retry_after)
        candidate.not_before = now + pause
        has_time = candidate.not_before - (candidate.first_attempt or 0.0) <= self._patience.deadline
        if candidate.attempts >= self._patience.attempts or not has_time:
            return False
        log.warning("%s: %s; it is tried again in %.0f s", candidate.pod, deletion, pause)
        return True

    def _read(self, pod: Pod) -> Pod | None:
        return self._cluster.get(pod, self._settings.label_selector)

    def _find_out(self, candidate: _Candidate) -> DeleteResult | None:
        """Find out what an attempt did whose answer got lost; None if it did nothing."""
        pod = self._read(candidate.pod)
        if pod is None or pod.uid != candidate.pod.uid:
            return DeleteResult(Outcome.DELETED)
        return None if pod.deletion_deadline is None else accepted(pod.finalizers)

    def _read_again(self, candidate: _Candidate, deletion: DeleteResult) -> Pod | None:
        """Read a pod that is not as it was; None settles what became of it."""
        old, now = candidate.pod, self._monotonic()
        pod = self._read(old)
        if candidate.is_counted and (pod is None or pod.uid != old.uid):
            candidate.ends(Outcome.DELETED)  # by an attempt whose answer got lost
        elif pod is None:
            candidate.ends(Outcome.ALREADY_GONE, "the API server has no such pod any more")
        elif pod.uid != old.uid:
            candidate.ends(Outcome.SPARED, "another pod has its name now")
        elif pod.resource_version == old.resource_version:
            candidate.result = Result(candidate.verdict, deletion)  # it was refused for another reason
        else:
            self._replace(old, pod, now)
            return pod
        return None

    def _grace_period(self, verdict: Verdict) -> int:
        """Choose the grace period in seconds; -1 is the pod's own."""
        asked, deadline = self._settings.grace_period_seconds, verdict.pod.deletion_deadline
        if deadline is not None and deadline < self._clock():
            return 0  # on a dead node nothing else ends it
        if not verdict.end_time_unknown:
            return asked
        return max(verdict.pod.grace_period if asked < 0 else asked, self._settings.settle_seconds)

    def _count(self, candidate: _Candidate) -> None:
        if not candidate.is_counted:
            candidate.is_counted = True
            with self._lock:
                self._done += 1

    def _refusal_in(self, namespace: str) -> DeleteResult | None:
        """Give the refusal of as many pods of a namespace as run at once: the next ones need not be tried."""
        for (of_namespace, (outcome, status, remedy)), times in list(self._refusals.items()):
            if of_namespace == namespace and times >= CONCURRENT_DELETES:
                return DeleteResult(Outcome(outcome), status, remedy, f"not sent, for {times} others were refused")
        return None

    def _log(self, candidate: _Candidate) -> None:
        """Say what became of each pod when it happens: a run that is killed half-way has still said what it did."""
        result = candidate.result
        if result is None or result.outcome is Outcome.WOULD_DELETE:  # the report tells these
            return
        level = {Outcome.FAILED: logging.ERROR, Outcome.SPARED: logging.WARNING}.get(result.outcome, logging.INFO)
        with self._lock:  # the lines of one pod stay together
            for line in result.lines():
                log.log(level, "%s", line)

    def _log_progress(self, candidates: list[_Candidate]) -> None:
        open_ones = [candidate for candidate in candidates if candidate.result is None]
        room = self._settings.max_deletes - self._done
        to_go = min(len(open_ones), room + sum(candidate.is_counted for candidate in open_ones))
        if to_go > 0 and not self._settings.dry_run:
            deleted = sum(c.result is not None and c.result.outcome is Outcome.DELETED for c in candidates)
            log.info("%s deleted so far, %s to go", pluralize(deleted, "pod"), f"{to_go:,}")


def _ready(candidates: list[_Candidate], size: int, room: int, now: float) -> list[_Candidate]:
    """Take the next ones whose time has come: those that are pluralize already, and as many others as there is room."""
    batch: list[_Candidate] = []
    for candidate in candidates:
        if len(batch) == size or candidate.not_before > now:
            continue
        if not candidate.is_counted:
            if room <= 0:
                continue
            room -= 1
        batch.append(candidate)
    return batch


def _said(error: Exception) -> str:
    """Say what went wrong; of an error that is none of ours, its type, too."""
    return str(error) if isinstance(error, KpoCleanupError) else f"{type(error).__name__}: {error}"
