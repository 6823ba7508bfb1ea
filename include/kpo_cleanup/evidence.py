"""Render the evidence of a verdict as short phrases, and derive the warning about a kept pod from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from .constants import Reason
from .diagnosis import advice_on_sidecars
from .task_instance import Record, TaskInstance
from .text import MAX_PHRASE, pluralize, printable
from .verdict import Evidence, Rule, Verdict
from .workloads.workload import Container, Workload

# The phrase for the rule that decided. No entry is needed if the states of task instance and containers suffice.
_DECISIVE: dict[Rule, Callable[[Workload, Any], str]] = {
    Rule.BAD_LABELS: lambda pod, _: pod.label_problem,
    Rule.PROTECTED: lambda pod, _: pod.protected_by,
    Rule.OWNED: lambda pod, e: _owner(pod, e.task_instance, e.now),
    Rule.TERMINATING: lambda pod, e: deletion(pod, e.now),
    Rule.HELD_BY_FINALIZERS: lambda pod, _: f"held by {', '.join(pod.finalizers)}",
    Rule.NOT_RESOLVED: lambda _, e: str(e.problem),
    Rule.RECORD_UNREADABLE: lambda _, e: str(e.problem),
    Rule.NO_TASK_INSTANCE: lambda pod, e: f"no task instance on record, {pod.noun} created {ago(pod.created, e.now)}",
    Rule.CREATED_AFTER_END: lambda pod, e: (
        f"created {duration(pod.created - e.task_instance.ended)} after its task instance ended"
    ),
    Rule.LATER_TRY: lambda pod, e: (
        f"{pod.noun} of try {pod.try_number}, but its task instance ended at try {e.task_instance.try_number}"
    ),
    Rule.RECORD_NAMES_ANOTHER: lambda _, e: f"the operator's record names {_named(e.record)}",
    Rule.CHECKED: lambda _, e: (
        f"marked already_checked by its operator; its task is at try {e.task_instance.try_number} now"
    ),
    Rule.STALLED: lambda pod, _: _stalled_by(pod.running_sidecars),
    Rule.LEFT_OVER: lambda pod, _: f"left over from try {pod.try_number}; a retry may adopt it",
    Rule.NOT_RECORDED: lambda _, e: (
        f"may still be in use: {e.other.name} of try {e.other.try_number} is newer, but not in the operator's record"
    ),
    Rule.USED_BY_ANOTHER: lambda *_: "its task, which is no longer mapped, has adopted it",
    Rule.ADOPTABLE: lambda pod, _: (
        f"its task is no longer mapped and may use it: no record names another {pod.noun} with its labels"
    ),
    Rule.UNDATED: lambda pod, _: f"{_phase(pod)}, kept because nothing shows when it ended",
    Rule.ENDED_LONG_AGO: lambda pod, e: f"{_still(e)}, but the {pod.noun} ended more than a day ago",
    Rule.OVERDUE: lambda pod, e: f"{_still(e)}, but the deadline of the {pod.noun}'s deletion has passed",
    Rule.NOT_STARTED: lambda pod, e: (
        f"{_still(e)}, but the {pod.noun} has not started for more than a day{_why_waiting(pod)}"
    ),
    Rule.EARLIER_TRY: lambda pod, e: (
        f"of try {pod.try_number}, but try {e.task_instance.try_number} is active "
        f"and may be waiting for the pods of this {pod.noun}"
    ),
    Rule.OUTLIVES_SUCCESS: lambda pod, e: f"not finished, although its task succeeded{_ended_ago(e)}",
    Rule.DETACHED: lambda pod, e: f"running without its task{_for_how_long(e)}",
    Rule.MAY_BE_DETACHED: lambda pod, e: (
        f"running without its task{_for_how_long(e)}, and no record shows whether its operator waited for it"
    ),
}
_STATES_DO_NOT_MATTER = (Rule.BAD_LABELS, Rule.PROTECTED, Rule.OWNED, Rule.NOT_RESOLVED)
_REMEDIES = {  # remedies by the rule that causes the warning
    Rule.BAD_LABELS: "if nobody needs such pods, delete them",
    Rule.HELD_BY_FINALIZERS: "repair the controller that sets this finalizer, or remove the finalizer",
    Rule.NOT_RESOLVED: "",
    Rule.RECORD_UNREADABLE: "",
    Rule.ENDED_LONG_AGO: "find out what the task is still doing",
    Rule.OVERDUE: "check whether its node is down; if so, clear the task or mark it as failed",
    Rule.EARLIER_TRY: "if the later try has created its own, delete this one: both do the same work",
    Rule.OUTLIVES_SUCCESS: "find out what it is still doing; if nothing, delete it",
    Rule.NOT_STARTED: "see the events of the pod; if it cannot start, mark the task as failed",
}
# Rules for a pod that its task seems to be waiting for in vain.
_HANGING = (Rule.STALLED, Rule.ENDED_LONG_AGO, Rule.OVERDUE, Rule.NOT_STARTED)
_IF_ALONE = (
    "if no other Airflow uses these namespaces, delete_unmatched_pods=True deletes such pods, running ones after a day"
)


def task_name(verdict: Verdict) -> tuple[str, str, str]:
    """Return the parts of a pod's task for display: ``orders.load``, ``try 2``, ``of run scheduled__2026-11-24…``.

    An id that malformed labels do not show is ``?``.
    """
    ids = {name: value or "?" for name, value in verdict.ids.items()}
    return f"{ids['dag_id']}.{ids['task_id']}", f"try {ids['try_number']}", f"of run {ids['run_id']}"


class PodWarning(NamedTuple):
    """A problem with kept pods that a user should check. Pods with the same problem share one warning."""

    reason: Reason
    problem: str = ""  # empty for unmatched pods, so that they share one warning
    remedy: str = ""


def phrases(verdict: Verdict) -> tuple[str, ...]:
    """Render the evidence of a verdict, starting with what decided it."""
    pod, evidence = verdict.workload, verdict.evidence
    if not isinstance(evidence, Evidence):
        return evidence
    parts = [_DECISIVE[evidence.rule](pod, evidence)] if evidence.rule in _DECISIVE else []
    if evidence.rule not in _STATES_DO_NOT_MATTER:
        ti, now = evidence.task_instance, evidence.now
        parts += [_newer_pod(pod, evidence), _completed_policy(pod, evidence)]
        lost = f"its {pod.links.lost_owner} no longer exists" if pod.links.lost_owner else ""
        parts += [task_instance_state(ti, now) if ti else "", lost, container_states(pod, now), deletion(pod, now)]
        if not _is_ordinary(pod):
            parts += [f"image {pod.image}" if pod.image else "", f"node {pod.node}" if pod.node else ""]
    return tuple(printable(part, MAX_PHRASE) for part in dict.fromkeys(filter(None, parts)))


def warning_of(verdict: Verdict) -> PodWarning | None:
    """Return the warning about a pod that is kept, or None if there is nothing to warn about."""
    evidence = verdict.evidence
    if verdict.is_zombie or not isinstance(evidence, Evidence):
        return None
    if verdict.reason is Reason.UNMATCHED and evidence.policy and not evidence.policy.value:
        return PodWarning(verdict.reason, remedy=_IF_ALONE)
    if evidence.rule is Rule.STALLED:
        remedy = _remedy_for_stalled(verdict.workload, evidence)
    elif evidence.rule in _REMEDIES:
        remedy = _REMEDIES[evidence.rule]
    else:
        return None
    if evidence.other and evidence.rule in _HANGING:  # no successor, because its labels differ
        remedy = f"check first whether the task is using its newer {evidence.other.noun} instead; {remedy}"
    problem = printable(_DECISIVE[evidence.rule](verdict.workload, evidence), MAX_PHRASE)
    return PodWarning(verdict.reason, problem, remedy)


def duration(seconds: int) -> str:
    """Render a length of time in one unit: ``45 s``, ``12 min``, ``2 h``, ``3 d``."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length or (unit == "min" and seconds >= length):
            return f"{seconds // length} {unit}"
    return f"{max(seconds, 0)} s"


def ago(then: int, now: int) -> str:
    """Render how long ago a time was; a time in the future counts as now, because clocks differ."""
    return f"{duration(now - then)} ago"


def task_instance_state(ti: TaskInstance, now: int) -> str:
    """Render a phrase such as ``task instance failed (try 1) 12 min ago`` or ``task instance running (try 2)``."""
    state = ti.state or "cleared"
    try_number = f" (try {ti.try_number})" if ti.try_number is not None else ""
    since = f" {ago(ti.ended, now)}" if ti.ended is not None and not ti.is_active else ""
    return f"task instance {state}{try_number}{since}"


def container_states(pod: Workload, now: int) -> str:
    """Render a phrase such as ``base exited 0 2 h ago, airflow-xcom-sidecar running 2 h``."""
    parts = []
    for container in pod.containers:
        name = f"init container {container.name}" if container.is_init else container.name
        if container.state == "terminated":
            code = "?" if container.exit_code is None else container.exit_code
            why = f" ({container.reason})" if container.reason else ""
            when = f" {ago(container.ended, now)}" if container.ended is not None else ""
            part = f"{name} exited {code}{why}{when}"
        elif container.state == "running":
            how_long = f" {duration(now - container.started)}" if container.started is not None else ""
            part = f"{name} running{how_long}"
        else:
            why = ": ".join(filter(None, [container.reason, container.message]))
            part = f"{name} waiting ({why})" if why else f"{name} waiting"
        parts.append(f"{part}{_restarts(container)}")
    if pod.phase_reason or not parts:
        parts.insert(0, _phase(pod, pod.phase_message))
    return ", ".join(parts) if pod.containers else f"{', '.join(parts)}, no container status"


def deletion(pod: Workload, now: int) -> str:
    """Render a phrase such as ``being deleted, deadline 5 min ago, finalizers example.com/backup``.

    It is empty if the pod is not being deleted and has no finalizers.
    """
    parts = []
    if pod.deletion_deadline is not None:
        is_late = now > pod.deletion_deadline
        deadline = f"deadline {ago(pod.deletion_deadline, now)}" if is_late else "within its grace period"
        parts.append(f"being deleted, {deadline}")
    if pod.finalizers:
        parts.append(f"finalizers {', '.join(pod.finalizers)}")
    return ", ".join(parts)


def _stalled_by(sidecars: list[str]) -> str:
    return f"{' and '.join(sidecars)} {'keeps' if len(sidecars) == 1 else 'keep'} the task waiting"


def _remedy_for_stalled(pod: Workload, evidence: Evidence) -> str:
    """Return how to end the wait, and how to prevent it; an execution_timeout does not interrupt a deferred task."""
    is_deferred = evidence.task_instance is not None and evidence.task_instance.state == "deferred"
    timeout = [] if is_deferred else ["set an execution_timeout"]
    prevention = ", or ".join([*advice_on_sidecars(pod.running_sidecars), *timeout])
    them = "it" if len(pod.running_sidecars) == 1 else "them"
    return f"stop {them}, or mark the task as failed; permanent fix: {prevention}"


def _named(record: Record) -> str:
    """Render a phrase such as ``pod airflow/extract-1`` or ``Job airflow/job-load-1``."""
    return ", ".join(name if " " in name else f"pod {name}" for name in sorted(record.workloads))


def _for_how_long(evidence: Any) -> str:
    ended = evidence.task_instance.ended
    return "" if ended is None else f" for {duration(evidence.now - ended)}"


def _ended_ago(evidence: Any) -> str:
    ended = evidence.task_instance.ended
    return "" if ended is None else f" {ago(ended, evidence.now)}"


def _still(evidence: Any) -> str:
    return f"its task is still {evidence.task_instance.state}"


def _why_waiting(pod: Workload) -> str:
    """Return why a pod has not started, in parentheses."""
    why = next(filter(None, [pod.phase_reason, *(container.reason for container in pod.containers)]), "")
    return f" ({why})" if why else ""


def _owner(pod: Workload, ti: TaskInstance | None, now: int) -> str:
    owner = f"controlled by {pod.controller}" if pod.controller else f"labelled as a pod of {pod.links.labelled_owner}"
    if pod.links.owner_problem:
        return f"{owner}, which could not be read: {pod.links.owner_problem}"
    if ti is None or ti.is_active or pod.is_completed:
        return owner
    ended = f"ended {ago(ti.ended, now)}" if ti.ended is not None else "has ended"
    return f"{owner}, still running although its task instance {ended} ({ti.state})"


def _newer_pod(pod: Workload, evidence: Evidence) -> str:
    other = evidence.other
    if other is None or evidence.rule is Rule.NOT_RECORDED:
        return ""
    differing = sorted({name for name, _ in {*other.labels} ^ {*pod.labels}})
    if not differing:
        return f"replaced by {other.name} of try {other.try_number}"
    return f"not replaced by {other.name} of try {other.try_number}, which differs in label {', '.join(differing)}"


def _completed_policy(pod: Workload, evidence: Evidence) -> str:
    policy = evidence.policy
    if policy is None:
        return ""
    if policy.option == "delete_unmatched_pods":
        return _until_old_enough(pod) if policy.value else ""
    if not pod.is_completed:
        return ""
    if not policy.option:
        return f"{_phase(pod)}, kept on purpose by its operator"
    is_ttl = policy.option == "ttl_seconds_after_finished"
    longer_than = f"{'' if policy.deletes else 'not '}finished for longer than " if is_ttl and policy.value else ""
    return f"{_phase(pod)}, {longer_than}{policy.option}={policy.value}"


def _until_old_enough(pod: Workload) -> str:
    """Return how long ``delete_unmatched_pods`` keeps a pod that is too young."""
    if not pod.may_be_working:
        return "kept until it is older than settle_seconds"
    return f"kept until it is a day old, because {pod.main_container or 'its main container'} may be running"


def _is_ordinary(pod: Workload) -> bool:
    """Return whether the main container is running or succeeded, and nothing suggests a faulty image or node."""
    main = pod.main
    is_well = main is not None and not main.restarts and (main.state == "running" or main.exit_code == 0)
    return is_well and not pod.phase_reason and pod.deletion_deadline is None


def _phase(pod: Workload, message: str = "") -> str:
    """Render a phrase such as ``pod Failed (Evicted: The node was low on resource: memory.)``."""
    why = ": ".join(filter(None, [pod.phase_reason, message]))
    return f"{pod.noun} {pod.phase} ({why})" if why else f"{pod.noun} {pod.phase}"


def _restarts(container: Container) -> str:
    """Render a phrase such as ``, 208 restarts (OOMKilled)``; empty if it was never restarted."""
    if not container.restarts:
        return ""
    return f", {pluralize(container.restarts, 'restart')}" + (f" ({container.last_end})" if container.last_end else "")
