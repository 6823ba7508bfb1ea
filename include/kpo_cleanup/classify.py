"""The verdict on each pod: a pure function of pods, task instances, settings and the clock."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from itertools import groupby

from .evidence import ago, container_states, task_instance_state
from .pod import Pod
from .settings import Settings
from .task_instance import TaskInstance, TaskInstances
from .vocabulary import Reason


@dataclass(frozen=True)
class Verdict:
    """What is to happen to one pod, and why."""

    pod: Pod
    is_zombie: bool
    reason: Reason
    evidence: str


def classify(pods: Iterable[Pod], task_instances: TaskInstances, settings: Settings, now: int) -> list[Verdict]:
    """Judge all pods of one listing; zombies first, oldest first.

    :param now: epoch seconds; the only clock there is.
    """
    pods = list(pods)
    successors = find_successors(pods)
    verdicts = [judge(pod, successors.get(pod.uid), task_instances, settings, now) for pod in pods]
    return sorted(verdicts, key=lambda v: (not v.is_zombie, v.pod.created, v.pod.namespace, v.pod.name, v.pod.uid))


def find_successors(pods: Iterable[Pod]) -> dict[str, Pod]:
    """For each pod (by uid) the pod that a later try of the same task instance made and still uses.

    Only a pod to which the operator can attach counts: the next try's ``find_pod`` passes over one that is
    ``already_checked``, and one that is being deleted is about to vanish; with either of them as the only newer
    pod, that try would attach to the older one. Pods in other namespaces do not count either: ``find_pod`` looks
    into one namespace, and the other may belong to another Airflow with the same DAGs. Nor does one that is older:
    a DAG run that was deleted and made anew under its run_id counts its tries from 1 again.
    """
    groups: dict[Hashable, list[Pod]] = defaultdict(list)
    for pod in pods:
        if not pod.label_problem:
            groups[pod.task_instance_and_namespace].append(pod)
    successors: dict[str, Pod] = {}
    for group in groups.values():
        if len(group) == 1:
            continue  # as nearly all are
        latest: Pod | None = None  # of the tries above the one at hand
        group.sort(key=lambda pod: -pod.try_number)
        for _, of_try in groupby(group, key=lambda pod: pod.try_number):
            pods_of_try = list(of_try)
            successors.update({pod.uid: latest for pod in pods_of_try if latest and latest.created >= pod.created})
            in_use = [pod for pod in pods_of_try if not pod.is_checked and pod.deletion_deadline is None]
            latest = max([*in_use, *([latest] if latest else [])], key=_age_order, default=None)
    return successors


def _age_order(pod: Pod) -> tuple[int, int, str]:
    return pod.created, pod.try_number, pod.uid


def judge(pod: Pod, successor: Pod | None, task_instances: TaskInstances, settings: Settings, now: int) -> Verdict:
    """Judge one pod: the first rule that fits, safest first; what is not known means keep."""

    def keep(reason: Reason, *evidence: str) -> Verdict:
        return Verdict(pod, False, reason, "; ".join(filter(None, evidence)))

    def zombie(reason: Reason, *evidence: str) -> Verdict:
        return Verdict(pod, True, reason, "; ".join(filter(None, evidence)))

    if pod.label_problem:
        return keep(Reason.BAD_LABELS, pod.label_problem)
    if pod.protected_by:
        return keep(Reason.PROTECTED, pod.protected_by)
    if pod.controller:
        return keep(Reason.OWNED, f"controlled by {pod.controller}")
    if pod.deletion_deadline is not None and now <= pod.deletion_deadline + settings.settle_seconds:
        return keep(Reason.TERMINATING, _deletion(pod, now))
    if pod.key in task_instances.unresolved:
        return keep(Reason.UNRESOLVED, task_instances.unresolved[pod.key])

    containers = container_states(pod, now)
    ti = task_instances.found.get(pod.key)
    if ti is None:
        old_enough = now - pod.created > settings.settle_seconds
        verdict = zombie if settings.delete_unmatched_pods and old_enough else keep
        return verdict(Reason.UNMATCHED, "no task instance on record", f"created {ago(pod.created, now)}", containers)

    state = task_instance_state(ti, now)
    if ti.is_active:
        why = _superseded(pod, successor, ti)
        if why and not pod.is_completed:
            return zombie(Reason.SUPERSEDED, why, state, containers)
        if why:
            gate = _completed_gate(pod, pod.latest_sign_of_life, settings, now)
            verdict = zombie if gate.is_open else keep
            return verdict(Reason.SUPERSEDED, why, f"pod {pod.phase}, {gate.why}", state, containers)
        hanging = _hangs_on(pod, settings, now)
        if hanging:
            return keep(Reason.STALLED, f"{hanging} keeps its task waiting", state, containers)
        return keep(Reason.ACTIVE, state, containers)

    # Never from the future: a clock that is ahead must not make a task instance settle sooner.
    ended = min(ti.ended if ti.ended is not None else pod.latest_sign_of_life, now)
    if now - ended < settings.settle_seconds:
        return keep(Reason.SETTLING, state, containers)
    if pod.is_completed:
        gate = _completed_gate(pod, ended, settings, now)
        verdict = zombie if gate.is_open else keep
        return verdict(Reason.COMPLETED, f"pod {pod.phase}, {gate.why}", state, containers)
    return zombie(Reason.ORPHANED, state, containers, _deletion(pod, now))


def _superseded(pod: Pod, successor: Pod | None, ti: TaskInstance) -> str:
    """Why the operator is through with this pod although its task instance is active; empty if it is not.

    A lower try number alone says nothing: a retry reattaches to the pod of an earlier try.
    """
    if successor is not None:
        return f"replaced by {successor.name} of try {successor.try_number}"
    if pod.is_checked and ti.try_number is not None and ti.try_number > pod.try_number:
        return f"checked off by its operator, which is at try {ti.try_number}"
    return ""


def _hangs_on(pod: Pod, settings: Settings, now: int) -> str:
    """The containers that run on although the base container ended long ago; empty if that is not so."""
    if pod.main is None or pod.main.ended is None or now - pod.main.ended <= settings.settle_seconds:
        return ""
    return " and ".join(f"container {c.name}" for c in pod.containers if c.state == "running")


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
    if pod.is_checked:
        return _Gate(False, "kept on purpose by its operator")
    return _Gate(settings.delete_completed_pods, f"delete_completed_pods={settings.delete_completed_pods}")


def _deletion(pod: Pod, now: int) -> str:
    if pod.deletion_deadline is None:
        return ""
    late = now > pod.deletion_deadline
    deadline = f"deadline {ago(pod.deletion_deadline, now)}" if late else "within its grace period"
    return f"being deleted, {deadline}" + (f", finalizers {', '.join(pod.finalizers)}" if pod.finalizers else "")


def count_reasons(verdicts: Iterable[Verdict]) -> dict[str, int]:
    """How many pods have each reason, in the order of the rules."""
    counts = Counter(verdict.reason for verdict in verdicts)
    return {reason.value: counts[reason] for reason in Reason if counts[reason]}
