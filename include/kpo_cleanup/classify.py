"""The verdict on each pod: a pure function of pods, task instances, records, settings and the clock."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

from .constants import Reason
from .evidence import ago, container_states, deletion, duration, phase, task_instance_state
from .identity import TaskInstanceKey
from .pod import Pod
from .settings import Settings
from .task_instance import Record, TaskInstance, TaskInstances

MAX_CLOCK_SKEW = 5  # seconds that a pod may be younger than its task instance's end: two clocks are compared
STALE_AFTER = 24 * 3600  # seconds after which a task that still runs without its pod is worth a warning
_CANNOT_ACCOUNT = "this Airflow cannot account for them"
_IF_ALONE = "if no other Airflow uses these namespaces: delete_unmatched_pods=True removes them"
NO_RECORD = Record()
WAITS_ON_ITS_POD = frozenset({"running", "deferred", "restarting"})  # states in which an operator is attached


@dataclass(frozen=True)
class Verdict:
    """The decision on one pod, and why."""

    pod: Pod
    is_zombie: bool
    reason: Reason
    evidence: str
    end_time_unknown: bool = False  # nobody knows for how long it has been over: it is asked to end before it is forced
    eligible_at: int | None = None  # epoch seconds when it will be a zombie, if nothing happens until then
    warning: str = ""  # why somebody should look at it although it is kept; alike for all of its kind
    remedy: str = ""  # what to do about that


@dataclass(frozen=True)
class Snapshot:
    """All that is known when pods are judged.

    :param pods: all pods of the listing, also those that are not judged.
    :param records: without an entry where the operator left none.
    :param now: epoch seconds; the only clock there is.
    """

    pods: Sequence[Pod]
    task_instances: TaskInstances
    settings: Settings
    now: int
    records: Mapping[TaskInstanceKey, Record] = field(default_factory=dict)


def classify(facts: Snapshot) -> list[Verdict]:
    """Classify all pods of one listing; zombies first, oldest first."""
    judge = Classifier(facts)
    verdicts = [judge.classify(pod) for pod in facts.pods]
    return sorted(verdicts, key=lambda v: (not v.is_zombie, v.pod.created, v.pod.namespace, v.pod.name, v.pod.uid))


def keys_needing_records(facts: Snapshot) -> set[TaskInstanceKey]:
    """Find the task instances whose record can change a verdict: those whose pods are zombies without one, or soon.

    With ``delete_unmatched_pods``, a record that names another pod lets a completed one go that the gates would keep.
    """
    settings = facts.settings
    if settings.delete_unmatched_pods:
        settings = replace(settings, delete_completed_pods=True, delete_pods_on_failure=True)
    judge = Classifier(replace(facts, records={}, settings=settings))
    verdicts = (judge.classify(pod) for pod in facts.pods if pod.key in facts.task_instances.found)
    return {v.pod.key for v in verdicts if v.is_zombie or v.eligible_at is not None}


class Classifier:
    """Judges pods one by one, by the same facts."""

    def __init__(self, facts: Snapshot) -> None:
        self._facts = facts
        self._pods = {str(pod): pod for pod in facts.pods}
        siblings = [pod for group in _groups(facts.pods, lambda pod: pod.adoption_key[:2]) for pod in group]
        self._successors = find_successors(siblings, facts.task_instances)
        self._strangers = explain_label_mismatch(siblings)

    def successor_of(self, pod: Pod) -> Pod | None:
        """Give the pod on which it rests that this one is superseded; None if it does not rest on another pod."""
        return self._successors.get(pod.uid)

    def classify(self, pod: Pod) -> Verdict:
        """Classify one pod: the first rule that fits, safest first; what is not known means keep."""
        verdict = self._verdict_on(pod, self._facts.now)
        if verdict.eligible_at is None or self._verdict_on(pod, verdict.eligible_at).is_zombie:
            return verdict
        return replace(verdict, eligible_at=None)

    def _verdict_on(self, pod: Pod, now: int) -> Verdict:
        settings, task_instances = self._facts.settings, self._facts.task_instances
        ti = task_instances.found.get(pod.key)
        if pod.label_problem:
            return _keep(pod, Reason.BAD_LABELS, pod.label_problem, warning=pod.label_problem)
        if pod.protected_by:
            return _keep(pod, Reason.PROTECTED, pod.protected_by)
        if pod.is_owned:
            return _keep(pod, Reason.OWNED, _owner(pod), _goes_on(pod, ti, now))
        if pod.deletion_deadline is not None:
            due = pod.deletion_deadline + settings.settle_seconds + 1
            if now < due:
                return _keep(pod, Reason.TERMINATING, deletion(pod, now), eligible_at=due)
            if pod.finalizers:
                held = f"held by {', '.join(pod.finalizers)}"
                remedy = "see to what sets this finalizer, or remove it"
                return _keep(pod, Reason.TERMINATING, deletion(pod, now), warning=held, remedy=remedy)
        if pod.key in task_instances.unresolved:
            return _unresolved(pod, task_instances.unresolved[pod.key])
        if ti is None:
            born = f"created {ago(pod.created, now)}"
            return self._unmatched(pod, now, "no task instance on record", born, container_states(pod, now))
        return self._of_active(pod, ti, now) if ti.is_active else self._of_finished(pod, ti, now)

    def _of_active(self, pod: Pod, ti: TaskInstance, now: int) -> Verdict:
        settings, states = self._facts.settings, (task_instance_state(ti, now), container_states(pod, now))
        record = self._facts.records.get(pod.key, NO_RECORD)
        why = self._superseded(pod, ti)
        if why and str(pod) not in record.pods:
            if record.problem:
                return _unresolved(pod, record.problem, why, *states)
            if not pod.is_completed:
                return _zombie(pod, Reason.SUPERSEDED, why, *states, deletion(pod, now))
            gate = _completed_gate(pod, pod.last_activity, settings, now)
            verdict = _zombie if gate.is_open else _keep
            return verdict(pod, Reason.SUPERSEDED, why, f"{phase(pod)}, {gate.why}", *states, deletion(pod, now))
        hanging = _hangs_on(pod, settings, now)
        if hanging and ti.state in WAITS_ON_ITS_POD:
            waiting = f"container {hanging} keeps its task waiting"
            remedy = f"make {hanging} a native sidecar, or give the task an execution_timeout"
            return _keep(pod, Reason.STALLED, waiting, *states, warning=waiting, remedy=remedy)
        left_over = f"left over from try {pod.try_number}, which the retry may take over" if hanging else ""
        evidence = (left_over, self._strangers.get(pod.uid, ""), *states)
        if ti.state == "running" and pod.is_completed and now - pod.last_activity > STALE_AFTER:
            warning = f"its task runs, but its pod has been over for more than {duration(STALE_AFTER)}"
            return _keep(pod, Reason.ACTIVE, *evidence, warning=warning, remedy="see what the task still does")
        return _keep(pod, Reason.ACTIVE, *evidence)

    def _of_finished(self, pod: Pod, ti: TaskInstance, now: int) -> Verdict:
        settings, states = self._facts.settings, (task_instance_state(ti, now), container_states(pod, now))
        record = self._facts.records.get(pod.key, NO_RECORD)
        ended = _over_since(pod, ti)
        # Never from the future: a clock that is ahead must not make a task instance settle sooner.
        if ended is not None and now - min(ended, now) < settings.settle_seconds:
            return _keep(pod, Reason.SETTLING, *states, eligible_at=min(ended, now) + settings.settle_seconds)
        if not pod.already_checked:  # else its operator was through with it
            not_its = self._not_its_pod(pod, ti, record)
            if not_its:
                return self._unmatched(pod, now, not_its, *states)
            if record.problem and str(pod) not in record.pods:
                return _unresolved(pod, record.problem, *states)
        if pod.is_completed:
            gate = _completed_gate(pod, pod.last_activity if ended is None else ended, settings, now)
            verdict = _zombie if gate.is_open else _keep
            return verdict(pod, Reason.COMPLETED, f"{phase(pod)}, {gate.why}", *states, deletion(pod, now))
        return replace(_zombie(pod, Reason.ORPHANED, *states, deletion(pod, now)), end_time_unknown=ended is None)

    def _unmatched(self, pod: Pod, now: int, *evidence: str) -> Verdict:
        settings = self._facts.settings
        if not settings.delete_unmatched_pods:
            return _keep(pod, Reason.UNMATCHED, *evidence, warning=_CANNOT_ACCOUNT, remedy=_IF_ALONE)
        old_enough = now - pod.created > settings.settle_seconds
        return (_zombie if old_enough else _keep)(pod, Reason.UNMATCHED, *evidence)

    def _superseded(self, pod: Pod, ti: TaskInstance) -> str:
        """Say why the operator is through with this pod although its task instance is active; empty if it is not.

        A lower try number alone says nothing: a retry reattaches to the pod of an earlier try.
        """
        successor = self._successors.get(pod.uid)
        if successor is not None:
            return f"replaced by {successor.name} of try {successor.try_number}"
        if pod.already_checked and ti.try_number is not None and ti.try_number > pod.try_number:
            return f"checked off by its operator, which is at try {ti.try_number}"
        return ""

    def _not_its_pod(self, pod: Pod, ti: TaskInstance, record: Record) -> str:
        """Say why this pod is not shown to be the task instance's; empty if it is.

        Another Airflow with the same DAG and run makes pods of the same labels, and so does ``airflow tasks test``.
        """
        if ti.ended is not None and pod.created > ti.ended + MAX_CLOCK_SKEW:
            return f"made {duration(pod.created - ti.ended)} after its task instance ended"
        slack = 1 if self._facts.task_instances.try_number_may_lag else 0
        if ti.try_number is not None and pod.try_number > ti.try_number + slack:
            return f"it is of try {pod.try_number}, and its task instance ended at try {ti.try_number}"
        if not record.pods or str(pod) in record.pods:
            return ""
        if ti.try_number is None:
            named = [self._pods[name] for name in record.pods if name in self._pods]
            names_another = not any(other.try_number > pod.try_number for other in named)
        else:
            names_another = pod.try_number == ti.try_number
        return f"Airflow's record names pod {', '.join(sorted(record.pods))}" if names_another else ""


def find_successors(pods: Iterable[Pod], task_instances: TaskInstances) -> dict[str, Pod]:
    """Find for each pod (by uid) the pod that a later try of the same task instance made and uses.

    Only a pod to which the operator would attach counts. The next try's ``find_pod`` passes over a pod that is
    ``already_checked``. It does not find one of other labels or in another namespace. A pod that is being deleted is
    about to vanish. One that has a controller is not the operator's. The successor must be younger: a DAG run that was
    deleted and made anew counts its tries from 1 again, and creation times are whole seconds.
    """
    successors: dict[str, Pod] = {}
    for group in _groups(pods, lambda pod: pod.adoption_key):
        ti = task_instances.found.get(group[0].key)
        last_try = None if ti is None else ti.try_number
        latest: Pod | None = None  # of the tries above the one at hand
        group.sort(key=lambda pod: -pod.try_number)
        for try_number, of_try in groupby(group, key=lambda pod: pod.try_number):
            pods_of_try = list(of_try)
            successors.update({pod.uid: latest for pod in pods_of_try if latest and latest.created > pod.created})
            if last_try is None or try_number <= last_try:
                latest = max(
                    [*filter(_is_attachable, pods_of_try), *([latest] if latest else [])], key=_age, default=None
                )
    return successors


def explain_label_mismatch(pods: Iterable[Pod]) -> dict[str, str]:
    """Say of each pod (by uid) which later one is no successor because of its labels, and which label differs."""
    strangers: dict[str, str] = {}
    for group in _groups(pods, lambda pod: pod.adoption_key[:2]):
        latest = max(filter(_is_attachable, group), key=_age, default=None)
        for pod in group:
            if latest is None or latest.labels == pod.labels or latest.created <= pod.created:
                continue
            if latest.try_number > pod.try_number:
                differing = sorted({name for name, _ in {*latest.labels} ^ {*pod.labels}})
                strangers[pod.uid] = f"{latest.name} of try {latest.try_number} has another {', '.join(differing)}"
    return strangers


def _groups(pods: Iterable[Pod], by: Callable[[Pod], Hashable]) -> Iterable[list[Pod]]:
    """Group pods of one task instance; a pod that is alone in its group, as nearly all are, is left out."""
    groups: dict[Hashable, list[Pod]] = defaultdict(list)
    for pod in pods:
        if not pod.label_problem:
            groups[by(pod)].append(pod)
    return (group for group in groups.values() if len(group) > 1)


def _is_attachable(pod: Pod) -> bool:
    return not (pod.already_checked or pod.is_owned) and pod.deletion_deadline is None


def _age(pod: Pod) -> tuple[int, int, str]:
    return pod.created, pod.try_number, pod.uid


def _keep(pod: Pod, reason: Reason, *evidence: str, **more: Any) -> Verdict:
    return Verdict(pod, False, reason, "; ".join(filter(None, evidence)), **more)


def _unresolved(pod: Pod, why: str, *evidence: str) -> Verdict:
    return _keep(pod, Reason.UNRESOLVED, why, *evidence, warning=why)


def _zombie(pod: Pod, reason: Reason, *evidence: str) -> Verdict:
    return Verdict(pod, True, reason, "; ".join(filter(None, evidence)))


def _owner(pod: Pod) -> str:
    return f"controlled by {pod.controller}" if pod.controller else f"labelled as a pod of Job/{pod.job}"


def _goes_on(pod: Pod, ti: TaskInstance | None, now: int) -> str:
    if ti is None or ti.is_active or pod.is_completed:
        return ""
    since = f" since {duration(now - ti.ended)}" if ti.ended is not None else ""
    return f"it goes on although its task is over{since} ({ti.state})"


def _over_since(pod: Pod, ti: TaskInstance) -> int | None:
    """Tell when the task instance was over, in epoch seconds; None if nothing tells.

    If the source does not know, the end of the main container does. While that runs, nothing tells: the task may have
    been marked failed this very second. Then its operator's ``on_kill`` may be on its way.
    """
    if ti.ended is not None:
        return ti.ended
    if pod.main is not None and pod.main.ended is not None:
        return pod.main.ended
    return pod.last_activity if pod.is_completed else None


def _hangs_on(pod: Pod, settings: Settings, now: int) -> str:
    """Name the containers that run on although the main container ended long ago; empty if that is not so."""
    main = pod.main
    if main is None or main.ended is None or now - main.ended <= settings.settle_seconds:
        return ""
    return " and ".join(c.name for c in pod.containers if c.state == "running")


@dataclass(frozen=True)
class _Gate:
    is_open: bool
    why: str


def _completed_gate(pod: Pod, ended: int, settings: Settings, now: int) -> _Gate:
    """Tell whether the settings let a completed pod go; it uses no compute and may be somebody's evidence."""
    ttl = settings.ttl_seconds_after_finished
    if ttl is not None and now - ended > ttl:
        return _Gate(True, f"over for longer than ttl_seconds_after_finished={ttl}")
    if pod.phase == "Failed":
        return _Gate(settings.delete_pods_on_failure, f"delete_pods_on_failure={settings.delete_pods_on_failure}")
    if pod.already_checked:
        return _Gate(False, "kept on purpose by its operator")
    return _Gate(settings.delete_completed_pods, f"delete_completed_pods={settings.delete_completed_pods}")


def count_reasons(verdicts: Iterable[Verdict]) -> dict[str, int]:
    """Count the pods of each reason, in the order of the rules."""
    counts = Counter(verdict.reason for verdict in verdicts)
    return {reason.value: counts[reason] for reason in Reason if counts[reason]}
