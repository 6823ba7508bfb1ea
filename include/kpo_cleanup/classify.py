"""The classification of workloads: a pure function of them, task instances, records, settings and time.

In the comments and docstrings of the rules, "pod" stands for a workload of any kind.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby

from .constants import Reason
from .identity import UNMAPPED, TaskInstanceKey
from .settings import Settings
from .task_instance import Record, TaskInstance, TaskInstances
from .verdict import Evidence, Policy, Rule, Verdict
from .workloads.registry import kind_of
from .workloads.workload import Workload

MAX_CLOCK_SKEW = 5  # seconds that a pod may be younger than its task instance's end: two clocks are compared
# Seconds after which an unmatched pod is deleted although it may be working: `airflow tasks test` creates such pods.
UNMATCHED_WORKING_AGE = 24 * 3600
STALE_AFTER = 24 * 3600  # seconds before a task that is running without its pod causes a warning
NO_RECORD = Record()
# Rules that keep a pod only until more is known about it.
_UNCERTAIN_RULES = (Rule.NOT_RECORDED, Rule.ADOPTABLE, Rule.UNDATED, Rule.MAY_BE_DETACHED)
SortKey = tuple[int, str, str, str]
WAITS_ON_ITS_POD = frozenset({"running", "deferred", "restarting"})  # states in which an operator is attached


@dataclass(frozen=True)
class Snapshot:
    """Everything known at one moment.

    :param workloads: all that were listed, including those that are not classified.
    :param now: epoch seconds; classification uses no other clock.
    :param records: the operators' records; keys without a record are absent.
    :param unread: ranges of pods, sorted by ``sort_key``, whose records were not read. The keys alternate: a range
        starts at each key with an even index, and ends before the next key. Empty if all records were read.
    """

    workloads: Sequence[Workload]
    task_instances: TaskInstances
    settings: Settings
    now: int
    records: Mapping[TaskInstanceKey, Record] = field(default_factory=dict)
    unread: Sequence[SortKey] = ()


def classify(snapshot: Snapshot) -> list[Verdict]:
    """Classify all pods of a snapshot; zombies come first, the oldest first among them."""
    classifier = Classifier(snapshot)
    verdicts = [classifier.classify(workload) for workload in snapshot.workloads]
    return sorted(verdicts, key=lambda v: (not v.is_zombie, sort_key(v.workload)))


def sort_key(workload: Workload) -> SortKey:
    """Return the key that sorts pods by age, the oldest first."""
    return workload.created, workload.namespace, workload.name, workload.uid


def with_plain_tasks(keys: Iterable[TaskInstanceKey]) -> set[TaskInstanceKey]:
    """Return the task instances to query for pods with these keys.

    A task that is no longer mapped adopts the pod of one of its map indexes, because it searches by a subset of the
    pod's labels.
    """
    return {plain for key in keys for plain in (key, key._replace(map_index=UNMAPPED))}


def uncertain_workloads(snapshot: Snapshot) -> list[Workload]:
    """Return the pods whose verdict a record, a try or an end could change, now or later; the oldest first.

    With ``delete_unmatched_pods``, they include completed pods that ``delete_completed_pods`` and
    ``delete_pods_on_failure`` keep: a record can show that such a pod is unmatched, and then it is deleted.
    """
    settings = snapshot.settings
    if settings.delete_unmatched_pods:
        settings = replace(settings, delete_completed_pods=True, delete_pods_on_failure=True)
    classifier = Classifier(replace(snapshot, records={}, settings=settings))
    return sorted(filter(classifier.is_uncertain, snapshot.workloads), key=sort_key)


def record_keys(snapshot: Snapshot, workloads: Iterable[Workload]) -> set[TaskInstanceKey]:
    """Return the task instances whose records the verdicts on these pods depend on."""
    found, keys = snapshot.task_instances.found, {workload.key for workload in workloads}
    plain = {key for key in with_plain_tasks(keys) - keys if key in found and found[key].is_active}
    return (keys & found.keys()) | plain


def incomplete_keys(task_instances: TaskInstances, workloads: Iterable[Workload]) -> list[TaskInstanceKey]:
    """Return the task instances of these pods whose try and end the source has not returned, in their order."""
    found = task_instances.found
    return [
        key
        for key in dict.fromkeys(workload.key for workload in workloads)
        if key in found and found[key].try_number is None
    ]


class Classifier:
    """Classifies individual pods of one snapshot."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._records = locate_records(snapshot.records, snapshot.workloads)
        siblings = [workload for group in _groups(snapshot.workloads, _place) for workload in group]
        self._successors = find_successors(siblings, snapshot.task_instances)
        self._mismatches = find_label_mismatches(siblings)

    def successor_of(self, workload: Workload) -> Workload | None:
        """Return the newer pod of a later try that this pod's task may use instead, or None if there is none."""
        return self._successors.get(workload.uid)

    def classify(self, workload: Workload) -> Verdict:
        """Classify one pod by the first rule that applies. When in doubt, the pod is kept."""
        verdict = self._classify_at(workload, self._snapshot.now)
        raw_ids = self._snapshot.task_instances.raw_ids.get(workload.key, ())
        if len(raw_ids) == 1:
            verdict = verdict._replace(raw_ids=raw_ids[0])
        if verdict.is_zombie and self._awaits_record(workload):
            return verdict._replace(is_zombie=False, awaits_record=True)
        if verdict.eligible_at is None or self._classify_at(workload, verdict.eligible_at).is_zombie:
            return verdict
        return verdict._replace(eligible_at=None)

    def is_uncertain(self, workload: Workload) -> bool:
        """Return whether a record, a try or an end could change the verdict on this pod, now or once it is due."""
        verdict = self._classify_at(workload, self._snapshot.now)
        if verdict.eligible_at is not None:
            verdict = self._classify_at(workload, verdict.eligible_at)
        if workload.already_checked and verdict.reason in (Reason.ACTIVE, Reason.STALLED):
            return True  # it is superseded if its task instance turns out to be at a later try
        return verdict.is_zombie or verdict.rule in _UNCERTAIN_RULES

    def _awaits_record(self, workload: Workload) -> bool:
        """Return whether this pod has a task instance whose record, which could keep the pod, was not read."""
        is_unread = bisect_right(self._snapshot.unread, sort_key(workload)) % 2 == 1
        return is_unread and workload.key in self._snapshot.task_instances.found

    def _classify_at(self, workload: Workload, now: int) -> Verdict:
        settings, task_instances = self._snapshot.settings, self._snapshot.task_instances
        if workload.label_problem:
            return _keep(workload, Evidence(Rule.BAD_LABELS, now))
        if workload.protected_by:
            return _keep(workload, Evidence(Rule.PROTECTED, now))
        ti = task_instances.found.get(workload.key)
        if workload.is_owned:
            return _keep(workload, Evidence(Rule.OWNED, now, ti))
        if workload.deletion_deadline is not None:
            overdue_at = workload.deletion_deadline + settings.settle_seconds + 1
            if now < overdue_at:
                return _keep(workload, Evidence(Rule.TERMINATING, now), overdue_at)
            if workload.finalizers:
                return _keep(workload, Evidence(Rule.HELD_BY_FINALIZERS, now))
        if workload.key in task_instances.unresolved:
            return _keep(workload, Evidence(Rule.NOT_RESOLVED, now, problem=task_instances.unresolved[workload.key]))
        if self._users and self._users.get(workload.record_name, workload.key) != workload.key:
            return _keep(workload, Evidence(Rule.USED_BY_ANOTHER, now, ti))
        adoptable = self._adoptable_by_plain_task(workload, now) if kind_of(workload).is_adopted else None
        if adoptable:
            return _keep(workload, adoptable)
        if ti is None:
            return self._classify_unmatched(workload, Evidence(Rule.NO_TASK_INSTANCE, now))
        return self._classify_active(workload, ti, now) if ti.is_active else self._classify_finished(workload, ti, now)

    def _adoptable_by_plain_task(self, workload: Workload, now: int) -> Evidence | None:
        """Return why an operator of a task that is no longer mapped may use this pod of a map index, or None.

        A record that names another pod proves nothing if that pod's labels differ: a task may have several operators.
        """
        task_instances, key = self._snapshot.task_instances, workload.key._replace(map_index=UNMAPPED)
        if key == workload.key:
            return None
        if key in task_instances.unresolved:
            return Evidence(Rule.NOT_RESOLVED, now, problem=task_instances.unresolved[key])
        plain = task_instances.found.get(key)
        if plain is None or not plain.is_active:
            return None
        record, ti = self._records.get(key, NO_RECORD), task_instances.found.get(workload.key)
        if record.problem:
            return Evidence(Rule.RECORD_UNREADABLE, now, ti, problem=record.problem)
        uses_another = any(
            (other.kind, other.namespace, other.labels) == (workload.kind, workload.namespace, workload.labels)
            for other in self._workloads_named_by(record)
        )
        return None if uses_another else Evidence(Rule.ADOPTABLE, now, ti)

    def _classify_active(self, workload: Workload, ti: TaskInstance, now: int) -> Verdict:
        settings, record = self._snapshot.settings, self._records.get(workload.key, NO_RECORD)
        if not kind_of(workload).is_adopted:
            return _keep(workload, Evidence(_unadopted_rule(workload, ti, settings, now), now, ti))
        superseded = self._superseded(workload, ti, record)
        if superseded and workload.record_name not in record.workloads:
            successor = self.successor_of(workload)
            if record.problem:
                return _keep(workload, Evidence(Rule.RECORD_UNREADABLE, now, ti, successor, problem=record.problem))
            if superseded is Rule.NOT_RECORDED:
                return _keep(workload, Evidence(superseded, now, ti, successor))
            policy = _completed_policy(workload, workload.finished_at, settings, now) if workload.is_completed else None
            evidence = Evidence(superseded, now, ti, successor, policy)
            return (_zombie if policy is None or policy.deletes else _keep)(workload, evidence)
        if ti.state in WAITS_ON_ITS_POD:
            rule = _hanging_rule(workload, settings, now)
        else:
            rule = Rule.LEFT_OVER if _has_running_sidecars(workload, settings, now) else Rule.ACTIVE
        return _keep(workload, Evidence(rule, now, ti, self._mismatches.get(workload.uid)))

    def _classify_finished(self, workload: Workload, ti: TaskInstance, now: int) -> Verdict:
        settings, record = self._snapshot.settings, self._records.get(workload.key, NO_RECORD)
        ended = _end_of(workload, ti)
        # An end in the future counts as now, because clocks differ.
        if ended is not None and now - min(ended, now) < settings.settle_seconds:
            return _keep(workload, Evidence(Rule.SETTLING, now, ti), ended + settings.settle_seconds)
        if not workload.already_checked:  # otherwise its operator had finished with it
            mismatch = self._ownership_mismatch(workload, ti, record)
            if mismatch:
                return self._classify_unmatched(workload, Evidence(mismatch, now, ti, record=record))
            if record.problem and workload.record_name not in record.workloads:
                return _keep(workload, Evidence(Rule.RECORD_UNREADABLE, now, ti, problem=record.problem))
        if workload.is_completed:
            if ended is None:
                return _keep(workload, Evidence(Rule.UNDATED, now, ti))
            # A Job that was left running may finish long after its task.
            policy = _completed_policy(workload, max(ended, workload.finished_at or ended), settings, now)
            return (_zombie if policy.deletes else _keep)(workload, Evidence(Rule.COMPLETED, now, ti, policy=policy))
        kind = kind_of(workload)
        if kind.outlives_success and (ti.state == "success" or record.is_detached):
            rule = Rule.DETACHED if kind.may_detach else Rule.OUTLIVES_SUCCESS
            return _keep(workload, Evidence(rule, now, ti))
        # A new try deletes the record of the one before. A run that is created again has the same tries as before.
        if kind.may_detach and not record.workloads:
            return _keep(workload, Evidence(Rule.MAY_BE_DETACHED, now, ti))
        return _zombie(workload, Evidence(Rule.ORPHANED, now, ti), end_time_unknown=ended is None)

    def _classify_unmatched(self, workload: Workload, evidence: Evidence) -> Verdict:
        settings = self._snapshot.settings
        if kind_of(workload).outlives_success:  # it may have been left running on purpose
            return _keep(workload, evidence)
        if not settings.delete_unmatched_pods:
            return _keep(workload, evidence._replace(policy=Policy(False, "delete_unmatched_pods", False)))
        min_age = UNMATCHED_WORKING_AGE if workload.may_be_working else settings.settle_seconds
        if evidence.now - workload.created > min_age:
            return _zombie(workload, evidence)
        return _keep(workload, evidence._replace(policy=Policy(False, "delete_unmatched_pods", True)))

    def _superseded(self, workload: Workload, ti: TaskInstance, record: Record) -> Rule | None:
        """Return the rule by which an active task instance no longer uses this pod, or may no longer use it.

        A lower try number alone proves nothing, because a retry adopts the pod of an earlier try. Nor does a newer pod
        of a later try that the operator has not recorded: two API servers date pods by different clocks, and a run that
        was deleted and created again counts its tries from 1 again.
        """
        successor = self.successor_of(workload)
        if successor is not None and successor.record_name in record.workloads:
            return Rule.REPLACED
        if workload.already_checked and ti.try_number is not None and ti.try_number > workload.try_number:
            return Rule.CHECKED
        return None if successor is None else Rule.NOT_RECORDED

    def _ownership_mismatch(self, workload: Workload, ti: TaskInstance, record: Record) -> Rule | None:
        """Return the rule by which the pod may belong to another task instance, or None if it is this one's.

        Another Airflow with the same DAG and run creates pods with the same labels. So does ``airflow tasks test``.
        """
        if ti.ended is not None and workload.created > ti.ended + MAX_CLOCK_SKEW:
            return Rule.CREATED_AFTER_END
        slack = 1 if self._snapshot.task_instances.try_number_may_lag else 0
        if ti.try_number is not None and workload.try_number > ti.try_number + slack:
            return Rule.LATER_TRY
        if not record.workloads or workload.record_name in record.workloads:
            return None
        if ti.try_number is None:
            named = self._workloads_named_by(record)
            names_another = not any(other.try_number > workload.try_number for other in named)
        else:
            names_another = workload.try_number >= ti.try_number  # later only if the try number may lag
        return Rule.RECORD_NAMES_ANOTHER if names_another else None

    def _workloads_named_by(self, record: Record) -> list[Workload]:
        """Return the workloads that a record names, without those that are not in the snapshot."""
        return [self._workloads_by_name[name] for name in record.workloads if name in self._workloads_by_name]

    @cached_property
    def _users(self) -> Mapping[str, TaskInstanceKey]:
        """Map the names of pods to the active task instances whose records name them."""
        found = self._snapshot.task_instances.found
        active = ((key, record) for key, record in self._records.items() if key in found and found[key].is_active)
        return {name: key for key, record in active for name in record.workloads}

    @cached_property
    def _workloads_by_name(self) -> Mapping[str, Workload]:
        return {workload.record_name: workload for workload in self._snapshot.workloads}


def locate_records(
    records: Mapping[TaskInstanceKey, Record], workloads: Iterable[Workload]
) -> dict[TaskInstanceKey, Record]:
    """Return the records with the namespaces of the pods that they name.

    A record names a pod by its namespace only if a pod of that name exists there. On Cloud Composer 3 every pod runs in
    ``composer-user-workloads``, whatever namespace its operator requested and recorded. A pod of the same name in
    another namespace is the recorded one, because names end in random characters.
    """
    places: dict[tuple[str, str], set[str]] = defaultdict(set)
    for workload in workloads if records else ():
        places[_without_namespace(workload.record_name)].add(workload.record_name)

    def locate(recorded: str) -> set[str]:
        found = places.get(_without_namespace(recorded))
        return {recorded} if not found or recorded in found else found

    return {
        key: replace(
            record, workloads=frozenset(workload for recorded in record.workloads for workload in locate(recorded))
        )
        for key, record in records.items()
    }


def _without_namespace(recorded: str) -> tuple[str, str]:
    """Return the kind and the name of a recorded workload without its namespace, which may be missing."""
    kind, _, place = recorded.rpartition(" ")
    return kind, place.rpartition("/")[2]


def find_successors(workloads: Iterable[Workload], task_instances: TaskInstances) -> dict[str, Workload]:
    """Return, by uid, the newer pod that a later try of the same task instance created and uses.

    Only a pod that the operator would adopt counts. The next try's ``find_pod`` skips a pod that is
    ``already_checked``, and finds none with other labels or in another namespace. A pod that is being deleted is about
    to vanish. One that has a controller does not belong to the operator. The successor must be younger: a DAG run that
    was deleted and created again counts its tries from 1 again, and creation times are whole seconds.
    """
    successors: dict[str, Workload] = {}
    for group in _groups(workloads, lambda workload: workload.adoption_key):
        ti = task_instances.found.get(group[0].key)
        last_try = None if ti is None else ti.try_number
        latest: Workload | None = None  # the latest pod of later tries
        group.sort(key=lambda workload: -workload.try_number)
        for try_number, of_try in groupby(group, key=lambda workload: workload.try_number):
            workloads_of_try = list(of_try)
            successors.update(
                {workload.uid: latest for workload in workloads_of_try if latest and latest.created > workload.created}
            )
            if last_try is None or try_number <= last_try:
                latest = max(
                    [*filter(_is_adoptable, workloads_of_try), *([latest] if latest else [])], key=_age, default=None
                )
    return successors


def possible_successors(workloads: Iterable[Workload]) -> list[Workload]:
    """Return the pods that can change the verdict on another pod: as its successor, or because their labels differ.

    Of the pods with the same try and the same ``adoption_key``, of which there may be thousands, this is the youngest.
    """
    youngest: dict[Hashable, Workload] = {}
    for workload in workloads:
        if _is_adoptable(workload) and not workload.label_problem:
            alike = workload.adoption_key, workload.try_number
            youngest[alike] = max(youngest.get(alike, workload), workload, key=_age)
    return list(youngest.values())


def find_label_mismatches(workloads: Iterable[Workload]) -> dict[str, Workload]:
    """Return, by uid, the newer pod of a later try that is no successor because its labels differ."""
    mismatches: dict[str, Workload] = {}
    for group in _groups(workloads, _place):
        latest = max(filter(_is_adoptable, group), key=_age, default=None)
        for workload in group:
            if latest is None or latest.labels == workload.labels or latest.created <= workload.created:
                continue
            if latest.try_number > workload.try_number:
                mismatches[workload.uid] = latest
    return mismatches


def _groups(workloads: Iterable[Workload], by: Callable[[Workload], Hashable]) -> Iterable[list[Workload]]:
    """Group pods of one task instance; leave out a pod that is alone in its group, as nearly all are."""
    groups: dict[Hashable, list[Workload]] = defaultdict(list)
    for workload in workloads:
        if not workload.label_problem:
            groups[by(workload)].append(workload)
    return (group for group in groups.values() if len(group) > 1)


def _place(workload: Workload) -> Hashable:
    return workload.kind, workload.namespace, workload.key


def _is_adoptable(workload: Workload) -> bool:
    return kind_of(workload).is_adoptable(workload)


def _age(workload: Workload) -> tuple[int, int, str]:
    return workload.created, workload.try_number, workload.uid


def _keep(workload: Workload, evidence: Evidence, eligible_at: int | None = None) -> Verdict:
    return Verdict(workload, False, evidence.rule.reason, evidence, eligible_at=eligible_at)


def _zombie(workload: Workload, evidence: Evidence, end_time_unknown: bool = False) -> Verdict:
    return Verdict(workload, True, evidence.rule.reason, evidence, end_time_unknown)


def _end_of(workload: Workload, ti: TaskInstance) -> int | None:
    """Return when the task instance ended, in epoch seconds; None if that is unknown.

    If the source does not know, the end of the main container counts. While that runs, the end is unknown: the task may
    have been marked failed this very second, and its operator's ``on_kill`` may be about to run.
    """
    if ti.ended is not None:
        return ti.ended
    if workload.main is not None and workload.main.ended is not None:
        return workload.main.ended
    return workload.finished_at


def _has_running_sidecars(workload: Workload, settings: Settings, now: int) -> bool:
    """Return whether containers are still running more than ``settle_seconds`` after the main container ended."""
    main = workload.main
    if main is None or main.ended is None or now - main.ended <= settings.settle_seconds:
        return False
    return bool(workload.running_sidecars)


def _hanging_rule(workload: Workload, settings: Settings, now: int) -> Rule:
    """Return the rule for a pod for which its task is waiting in vain, or ``Rule.ACTIVE`` for any other active pod."""
    if workload.deletion_deadline is not None:
        return Rule.OVERDUE  # before the deadline, the rule for terminating pods applies
    if _has_running_sidecars(workload, settings, now):
        return Rule.STALLED
    if workload.finished_at is not None and now - workload.finished_at > STALE_AFTER:
        return Rule.ENDED_LONG_AGO
    has_started = any(container.has_run for container in workload.containers)
    if workload.phase == "Pending" and not has_started and now - workload.created > STALE_AFTER:
        return Rule.NOT_STARTED
    return Rule.ACTIVE


def _unadopted_rule(workload: Workload, ti: TaskInstance, settings: Settings, now: int) -> Rule:
    """Return the rule for a workload of an active task instance that no other try adopts."""
    if ti.try_number is None or ti.state not in WAITS_ON_ITS_POD:
        return Rule.ACTIVE
    if ti.try_number > workload.try_number:
        return Rule.ACTIVE if workload.is_completed else Rule.EARLIER_TRY
    return _hanging_rule(workload, settings, now)


def _completed_policy(workload: Workload, ended: int | None, settings: Settings, now: int) -> Policy:
    """Return the setting that decides about a completed pod, which uses no compute and may be needed for debugging."""
    ttl = settings.ttl_seconds_after_finished
    is_expired = ttl is not None and ended is not None and now - ended > ttl
    if is_expired or not kind_of(workload).has_completion_options:
        return Policy(is_expired, "ttl_seconds_after_finished", ttl)
    if workload.phase == "Failed":
        return Policy(settings.delete_pods_on_failure, "delete_pods_on_failure", settings.delete_pods_on_failure)
    if workload.already_checked:
        return Policy(False)
    return Policy(settings.delete_completed_pods, "delete_completed_pods", settings.delete_completed_pods)
