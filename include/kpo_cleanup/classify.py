"""The classification of pods: a pure function of pods, task instances, records, settings and time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby

from .constants import Reason
from .identity import UNMAPPED, TaskInstanceKey
from .pod import Pod
from .settings import Settings
from .task_instance import Record, TaskInstance, TaskInstances
from .verdict import Evidence, Policy, Rule, Verdict

MAX_CLOCK_SKEW = 5  # seconds by which a pod may be younger than its task instance's end: two clocks are compared
# Seconds after which an unmatched pod is deleted although it may be working: `airflow tasks test` creates such pods.
UNMATCHED_WORKING_AGE = 24 * 3600
STALE_AFTER = 24 * 3600  # seconds after which a task that still runs without its pod is worth a warning
NO_RECORD = Record()
SortKey = tuple[int, str, str, str]
WAITS_ON_ITS_POD = frozenset({"running", "deferred", "restarting"})  # states in which an operator is attached


@dataclass(frozen=True)
class Snapshot:
    """Everything known at one moment.

    :param pods: all listed pods, including those that are not classified.
    :param now: epoch seconds; classification uses no other clock.
    :param records: no entry where the operator left none.
    :param records_until: the ``sort_key`` of the last pod whose record was read, or None if all were.
    """

    pods: Sequence[Pod]
    task_instances: TaskInstances
    settings: Settings
    now: int
    records: Mapping[TaskInstanceKey, Record] = field(default_factory=dict)
    records_until: SortKey | None = None


def classify(snapshot: Snapshot) -> list[Verdict]:
    """Classify all pods of a snapshot; zombies come first, the oldest first among them."""
    classifier = Classifier(snapshot)
    verdicts = [classifier.classify(pod) for pod in snapshot.pods]
    return sorted(verdicts, key=lambda v: (not v.is_zombie, sort_key(v.pod)))


def sort_key(pod: Pod) -> SortKey:
    """Return the key that sorts pods by age, the oldest first."""
    return pod.created, pod.namespace, pod.name, pod.uid


def with_plain_tasks(keys: Iterable[TaskInstanceKey]) -> set[TaskInstanceKey]:
    """Return the task instances to query for pods with these keys.

    A task that is no longer mapped adopts the pod of one of its map indexes, because it searches by a subset of the
    pod's labels.
    """
    return {plain for key in keys for plain in (key, key._replace(map_index=UNMAPPED))}


def keys_needing_records(snapshot: Snapshot) -> set[TaskInstanceKey]:
    """Return the task instances whose record could change a verdict."""
    return record_keys(snapshot, uncertain_pods(snapshot))


def uncertain_pods(snapshot: Snapshot) -> list[Pod]:
    """Return the pods whose verdict a record, a try or an end could change, now or later; the oldest first.

    With ``delete_unmatched_pods``, these can make a zombie of a completed pod that the policies would keep.
    """
    settings = snapshot.settings
    if settings.delete_unmatched_pods:
        settings = replace(settings, delete_completed_pods=True, delete_pods_on_failure=True)
    verdicts = map(Classifier(replace(snapshot, records={}, settings=settings)).classify, snapshot.pods)
    uncertain = (
        v
        for v in verdicts
        if v.is_zombie
        or v.eligible_at is not None
        or v.rule in (Rule.NOT_RECORDED, Rule.ADOPTABLE, Rule.UNDATED)
        or (v.pod.already_checked and v.reason in (Reason.ACTIVE, Reason.STALLED))  # superseded at a later try
    )
    return sorted((verdict.pod for verdict in uncertain), key=sort_key)


def record_keys(snapshot: Snapshot, pods: Iterable[Pod]) -> set[TaskInstanceKey]:
    """Return the task instances whose records the verdicts on these pods depend on."""
    found, keys = snapshot.task_instances.found, {pod.key for pod in pods}
    plain = {key for key in with_plain_tasks(keys) - keys if key in found and found[key].is_active}
    return (keys & found.keys()) | plain


def incomplete_keys(task_instances: TaskInstances, pods: Iterable[Pod]) -> list[TaskInstanceKey]:
    """Return the task instances of these pods whose try and end the source has not returned, in their order."""
    found = task_instances.found
    return [key for key in dict.fromkeys(pod.key for pod in pods) if key in found and found[key].try_number is None]


class Classifier:
    """Classifies single pods of one snapshot."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._records = locate_records(snapshot.records, snapshot.pods)
        siblings = [pod for group in _groups(snapshot.pods, _place) for pod in group]
        self._successors = find_successors(siblings, snapshot.task_instances)
        self._mismatches = find_label_mismatches(siblings)

    def successor_of(self, pod: Pod) -> Pod | None:
        """Return the newer pod that supersedes `pod`, or None if no other pod supersedes it."""
        return self._successors.get(pod.uid)

    def classify(self, pod: Pod) -> Verdict:
        """Classify one pod by the first rule that applies. What is not known keeps the pod."""
        verdict = self._classify_at(pod, self._snapshot.now)
        if verdict.is_zombie and self._awaits_record(pod):
            return verdict._replace(is_zombie=False, awaits_record=True)
        if verdict.eligible_at is None or self._classify_at(pod, verdict.eligible_at).is_zombie:
            return verdict
        return verdict._replace(eligible_at=None)

    def _awaits_record(self, pod: Pod) -> bool:
        """Return whether nobody has read the record that could keep this pod."""
        until = self._snapshot.records_until
        return until is not None and sort_key(pod) > until and pod.key in self._snapshot.task_instances.found

    def _classify_at(self, pod: Pod, now: int) -> Verdict:
        settings, task_instances = self._snapshot.settings, self._snapshot.task_instances
        if pod.label_problem:
            return _keep(pod, Evidence(Rule.BAD_LABELS, now))
        if pod.protected_by:
            return _keep(pod, Evidence(Rule.PROTECTED, now))
        ti = task_instances.found.get(pod.key)
        if pod.is_owned:
            return _keep(pod, Evidence(Rule.OWNED, now, ti))
        if pod.deletion_deadline is not None:
            overdue_at = pod.deletion_deadline + settings.settle_seconds + 1
            if now < overdue_at:
                return _keep(pod, Evidence(Rule.TERMINATING, now), overdue_at)
            if pod.finalizers:
                return _keep(pod, Evidence(Rule.HELD_BY_FINALIZERS, now))
        if pod.key in task_instances.unresolved:
            return _keep(pod, Evidence(Rule.NOT_RESOLVED, now, problem=task_instances.unresolved[pod.key]))
        if self._users and self._users.get(str(pod), pod.key) != pod.key:
            return _keep(pod, Evidence(Rule.USED_BY_ANOTHER, now, ti))
        adoptable = self._adoptable_by_plain_task(pod, now)
        if adoptable:
            return _keep(pod, adoptable)
        if ti is None:
            return self._classify_unmatched(pod, Evidence(Rule.NO_TASK_INSTANCE, now))
        return self._classify_active(pod, ti, now) if ti.is_active else self._classify_finished(pod, ti, now)

    def _adoptable_by_plain_task(self, pod: Pod, now: int) -> Evidence | None:
        """Return why the operator of a task that is no longer mapped may adopt this pod of a map index, or None."""
        task_instances, key = self._snapshot.task_instances, pod.key._replace(map_index=UNMAPPED)
        if key == pod.key:
            return None
        if key in task_instances.unresolved:
            return Evidence(Rule.NOT_RESOLVED, now, problem=task_instances.unresolved[key])
        plain = task_instances.found.get(key)
        if plain is None or not plain.is_active:
            return None
        record, ti = self._snapshot.records.get(key), task_instances.found.get(pod.key)
        if record is None:
            return Evidence(Rule.ADOPTABLE, now, ti)
        return Evidence(Rule.RECORD_UNREADABLE, now, ti, problem=record.problem) if record.problem else None

    def _classify_active(self, pod: Pod, ti: TaskInstance, now: int) -> Verdict:
        settings, record = self._snapshot.settings, self._records.get(pod.key, NO_RECORD)
        superseded = self._superseded(pod, ti, record)
        if superseded and str(pod) not in record.pods:
            successor = self.successor_of(pod)
            if record.problem:
                return _keep(pod, Evidence(Rule.RECORD_UNREADABLE, now, ti, successor, problem=record.problem))
            if superseded is Rule.NOT_RECORDED:
                return _keep(pod, Evidence(superseded, now, ti, successor))
            policy = _completed_policy(pod, pod.finished_at, settings, now) if pod.is_completed else None
            evidence = Evidence(superseded, now, ti, successor, policy)
            return (_zombie if policy is None or policy.deletes else _keep)(pod, evidence)
        if ti.state in WAITS_ON_ITS_POD:
            rule = _hanging_rule(pod, settings, now)
        else:
            rule = Rule.LEFT_OVER if _has_running_sidecars(pod, settings, now) else Rule.ACTIVE
        return _keep(pod, Evidence(rule, now, ti, self._mismatches.get(pod.uid)))

    def _classify_finished(self, pod: Pod, ti: TaskInstance, now: int) -> Verdict:
        settings, record = self._snapshot.settings, self._records.get(pod.key, NO_RECORD)
        ended = _end_of(pod, ti)
        # An end in the future counts as now, because clocks differ.
        if ended is not None and now - min(ended, now) < settings.settle_seconds:
            return _keep(pod, Evidence(Rule.SETTLING, now, ti), ended + settings.settle_seconds)
        if not pod.already_checked:  # otherwise its operator had finished with it
            mismatch = self._ownership_mismatch(pod, ti, record)
            if mismatch:
                return self._classify_unmatched(pod, Evidence(mismatch, now, ti, record=record))
            if record.problem and str(pod) not in record.pods:
                return _keep(pod, Evidence(Rule.RECORD_UNREADABLE, now, ti, problem=record.problem))
        if pod.is_completed:
            if ended is None:
                return _keep(pod, Evidence(Rule.UNDATED, now, ti))
            policy = _completed_policy(pod, ended, settings, now)
            return (_zombie if policy.deletes else _keep)(pod, Evidence(Rule.COMPLETED, now, ti, policy=policy))
        return _zombie(pod, Evidence(Rule.ORPHANED, now, ti), end_time_unknown=ended is None)

    def _classify_unmatched(self, pod: Pod, evidence: Evidence) -> Verdict:
        settings = self._snapshot.settings
        if not settings.delete_unmatched_pods:
            return _keep(pod, evidence._replace(policy=Policy(False, "delete_unmatched_pods", False)))
        min_age = UNMATCHED_WORKING_AGE if pod.may_be_working else settings.settle_seconds
        is_old_enough = evidence.now - pod.created > min_age
        return (_zombie if is_old_enough else _keep)(pod, evidence)

    def _superseded(self, pod: Pod, ti: TaskInstance, record: Record) -> Rule | None:
        """Return the rule by which an active task instance no longer uses this pod, or may no longer use it.

        A lower try number alone proves nothing, because a retry adopts the pod of an earlier try. Nor does a newer pod
        of a later try that the operator has not recorded: two API servers date pods by different clocks, and a run that
        was deleted and created again counts its tries from 1 again.
        """
        successor = self._successors.get(pod.uid)
        if successor is not None and str(successor) in record.pods:
            return Rule.REPLACED
        if pod.already_checked and ti.try_number is not None and ti.try_number > pod.try_number:
            return Rule.CHECKED
        return None if successor is None else Rule.NOT_RECORDED

    def _ownership_mismatch(self, pod: Pod, ti: TaskInstance, record: Record) -> Rule | None:
        """Return the rule by which the pod is not proved to belong to the task instance.

        Another Airflow with the same DAG and run creates pods with the same labels. So does ``airflow tasks test``.
        """
        if ti.ended is not None and pod.created > ti.ended + MAX_CLOCK_SKEW:
            return Rule.CREATED_AFTER_END
        slack = 1 if self._snapshot.task_instances.try_number_may_lag else 0
        if ti.try_number is not None and pod.try_number > ti.try_number + slack:
            return Rule.LATER_TRY
        if not record.pods or str(pod) in record.pods:
            return None
        if ti.try_number is None:
            named = [self._pods_by_name[name] for name in record.pods if name in self._pods_by_name]
            names_another = not any(other.try_number > pod.try_number for other in named)
        else:
            names_another = pod.try_number >= ti.try_number  # later only if the try number may lag
        return Rule.RECORD_NAMES_ANOTHER if names_another else None

    @cached_property
    def _users(self) -> Mapping[str, TaskInstanceKey]:
        """Map the names of pods to the active task instances whose records name them."""
        found = self._snapshot.task_instances.found
        active = ((key, record) for key, record in self._records.items() if key in found and found[key].is_active)
        return {name: key for key, record in active for name in record.pods}

    @cached_property
    def _pods_by_name(self) -> Mapping[str, Pod]:
        return {str(pod): pod for pod in self._snapshot.pods}


def locate_records(records: Mapping[TaskInstanceKey, Record], pods: Iterable[Pod]) -> dict[TaskInstanceKey, Record]:
    """Return the records with the namespaces of the pods that they name.

    A record names a pod by its namespace only if a pod of that name exists there. On Cloud Composer 3 every pod runs in
    ``composer-user-workloads``, whatever namespace its operator requested and recorded. Names end in random characters.
    """
    places: dict[str, set[str]] = defaultdict(set)
    for pod in pods if records else ():
        places[pod.name].add(str(pod))

    def locate(recorded: str) -> set[str]:
        found = places.get(recorded.rpartition("/")[2])
        return {recorded} if not found or recorded in found else found

    return {
        key: replace(record, pods=frozenset(pod for recorded in record.pods for pod in locate(recorded)))
        for key, record in records.items()
    }


def find_successors(pods: Iterable[Pod], task_instances: TaskInstances) -> dict[str, Pod]:
    """Return, by uid, the newer pod that a later try of the same task instance created and uses.

    Only a pod that the operator would adopt counts. The next try's ``find_pod`` skips a pod that is
    ``already_checked``, and finds none with other labels or in another namespace. A pod that is being deleted is about
    to vanish. One that has a controller does not belong to the operator. The successor must be younger: a DAG run that
    was deleted and created again counts its tries from 1 again, and creation times are whole seconds.
    """
    successors: dict[str, Pod] = {}
    for group in _groups(pods, lambda pod: pod.adoption_key):
        ti = task_instances.found.get(group[0].key)
        last_try = None if ti is None else ti.try_number
        latest: Pod | None = None  # among the pods of later tries
        group.sort(key=lambda pod: -pod.try_number)
        for try_number, of_try in groupby(group, key=lambda pod: pod.try_number):
            pods_of_try = list(of_try)
            successors.update({pod.uid: latest for pod in pods_of_try if latest and latest.created > pod.created})
            if last_try is None or try_number <= last_try:
                latest = max(
                    [*filter(_is_adoptable, pods_of_try), *([latest] if latest else [])], key=_age, default=None
                )
    return successors


def possible_successors(pods: Iterable[Pod]) -> list[Pod]:
    """Return the pods that can be a successor or a label mismatch: of those that differ in neither, only the youngest.

    The others of a task instance, of which there may be thousands, change no verdict but their own.
    """
    youngest: dict[Hashable, Pod] = {}
    for pod in pods:
        if _is_adoptable(pod) and not pod.label_problem:
            alike = pod.adoption_key, pod.try_number
            youngest[alike] = max(youngest.get(alike, pod), pod, key=_age)
    return list(youngest.values())


def find_label_mismatches(pods: Iterable[Pod]) -> dict[str, Pod]:
    """Return, by uid, the newer pod of a later try that is no successor because its labels differ."""
    mismatches: dict[str, Pod] = {}
    for group in _groups(pods, _place):
        latest = max(filter(_is_adoptable, group), key=_age, default=None)
        for pod in group:
            if latest is None or latest.labels == pod.labels or latest.created <= pod.created:
                continue
            if latest.try_number > pod.try_number:
                mismatches[pod.uid] = latest
    return mismatches


def _groups(pods: Iterable[Pod], by: Callable[[Pod], Hashable]) -> Iterable[list[Pod]]:
    """Group pods of one task instance; leave out a pod that is alone in its group, as nearly all are."""
    groups: dict[Hashable, list[Pod]] = defaultdict(list)
    for pod in pods:
        if not pod.label_problem:
            groups[by(pod)].append(pod)
    return (group for group in groups.values() if len(group) > 1)


def _place(pod: Pod) -> Hashable:
    return pod.namespace, pod.key


def _is_adoptable(pod: Pod) -> bool:
    return not (pod.already_checked or pod.is_owned) and pod.deletion_deadline is None


def _age(pod: Pod) -> tuple[int, int, str]:
    return pod.created, pod.try_number, pod.uid


def _keep(pod: Pod, evidence: Evidence, eligible_at: int | None = None) -> Verdict:
    return Verdict(pod, False, evidence.rule.reason, evidence, eligible_at=eligible_at)


def _zombie(pod: Pod, evidence: Evidence, end_time_unknown: bool = False) -> Verdict:
    return Verdict(pod, True, evidence.rule.reason, evidence, end_time_unknown)


def _end_of(pod: Pod, ti: TaskInstance) -> int | None:
    """Return when the task instance ended, in epoch seconds; None if that is unknown.

    If the source does not know, the end of the main container counts. While that runs, the end is unknown: the task may
    have been marked failed this very second, and its operator's ``on_kill`` may be about to run.
    """
    if ti.ended is not None:
        return ti.ended
    if pod.main is not None and pod.main.ended is not None:
        return pod.main.ended
    return pod.finished_at


def _has_running_sidecars(pod: Pod, settings: Settings, now: int) -> bool:
    """Return whether containers are still running more than ``settle_seconds`` after the main container ended."""
    main = pod.main
    if main is None or main.ended is None or now - main.ended <= settings.settle_seconds:
        return False
    return bool(pod.running_sidecars)


def _hanging_rule(pod: Pod, settings: Settings, now: int) -> Rule:
    """Return the rule by which a task hangs on a pod that cannot move any more, or that of any active pod."""
    if pod.deletion_deadline is not None:
        return Rule.OVERDUE  # the deadline has passed, or the pod would be terminating
    if _has_running_sidecars(pod, settings, now):
        return Rule.STALLED
    if pod.finished_at is not None and now - pod.finished_at > STALE_AFTER:
        return Rule.ENDED_LONG_AGO
    has_started = any(container.has_run for container in pod.containers)
    if pod.phase == "Pending" and not has_started and now - pod.created > STALE_AFTER:
        return Rule.NOT_STARTED
    return Rule.ACTIVE


def _completed_policy(pod: Pod, ended: int | None, settings: Settings, now: int) -> Policy:
    """Return the setting that decides about a completed pod, which uses no compute and may be needed for debugging."""
    ttl = settings.ttl_seconds_after_finished
    if ttl is not None and ended is not None and now - ended > ttl:
        return Policy(True, "ttl_seconds_after_finished", ttl)
    if pod.phase == "Failed":
        return Policy(settings.delete_pods_on_failure, "delete_pods_on_failure", settings.delete_pods_on_failure)
    if pod.already_checked:
        return Policy(False)
    return Policy(settings.delete_completed_pods, "delete_completed_pods", settings.delete_completed_pods)
