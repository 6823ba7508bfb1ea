"""Diagnose from its containers why a zombie was left behind, and advise how to prevent the next one."""

from __future__ import annotations

from typing import NamedTuple

from .workloads.workload import XCOM_SIDECAR, Container, Workload

_WORKER = "find out why its worker ended (memory, eviction, node drain), or who ended the task"
_BEFORE_START = ("PodInitializing", "ContainerCreating")  # every pod shows these for a moment
# Keys are parts of the kubelet's or the scheduler's reason. Each reason has several possible causes.
_NOT_STARTED = {
    "Image": "the image name, its pull secret or the registry may be wrong",
    "Config": "a ConfigMap or Secret may be missing, or its security context may not fit the image",
    "Unschedulable": "no node can take it: requests, node selectors, taints or volumes may be the cause",
    "SchedulingGated": "a controller has not removed the scheduling gates",
}
_SEE_EVENTS = "run kubectl describe pod to see what it is waiting for"
_OUT_OF_MEMORY = "OOMKilled"


class Diagnosis(NamedTuple):
    """What zombies of one kind have in common, and what to do about it."""

    problem: str
    advice: str


def diagnose(pod: Workload) -> Diagnosis:
    """Return why a zombie is still in the cluster."""
    main = pod.main
    if pod.is_completed:
        why = (main.reason if main else "") or pod.phase_reason
        advice = f"if its operator should have deleted it, {_WORKER}"
        return Diagnosis(f"a completed {pod.noun} was left behind{_in_parentheses(why)}", advice)
    if main is not None and main.state == "terminated":
        return _diagnose_sidecars(pod, main)
    if main is not None and main.state == "running":
        return Diagnosis(f"{main.name} is still running, but its operator is gone", _WORKER)
    if main is not None and main.has_run:
        why = ", ".join(dict.fromkeys(filter(None, [main.reason, main.last_end])))
        advice = "raise its memory limit" if main.last_end == _OUT_OF_MEMORY else "see kubectl logs --previous"
        return Diagnosis(f"{main.name} keeps exiting and being restarted{_in_parentheses(why)}", advice)
    if pod.phase == "Pending" and (main is not None or not any(container.has_run for container in pod.containers)):
        why = _waiting_reason(pod)
        return Diagnosis(f"{main.name if main else 'it'} never started{_in_parentheses(why)}", _advice_on_waiting(why))
    return Diagnosis(f"a {pod.noun} was left behind{_in_parentheses(pod.phase_reason)}", _WORKER)


def _diagnose_sidecars(pod: Workload, main: Container) -> Diagnosis:
    """Return what keeps a pod from completing after its main container has ended."""
    ended = f"{main.name} ended{_in_parentheses(main.reason)}"
    running = pod.running_sidecars
    waiting = [c for c in pod.containers if c.state == "waiting" and not c.is_native]
    if running:
        problem = f"{' and '.join(running)} {'is' if len(running) == 1 else 'are'} still running after {ended}"
        advice = [*advice_on_sidecars(running), *([_WORKER] if XCOM_SIDECAR in running else [])]
        return Diagnosis(problem, "; ".join(advice))
    if waiting:
        why = waiting[0].reason
        waits = "is waiting to be restarted" if waiting[0].has_run else "has not started"
        problem = f"{waiting[0].name} {waits}{_in_parentheses(why)}, although {ended}"
        return Diagnosis(problem, _advice_on_waiting(why))
    native = [c.name for c in pod.containers if c.state == "running"]
    if native:
        what = f"native sidecar {native[0]} is" if len(native) == 1 else f"native sidecars {' and '.join(native)} are"
        return Diagnosis(f"{what} still running after {ended}", "check the node, whose kubelet should have stopped it")
    return Diagnosis(f"the pod has not completed although {ended}", "check its node")


def advice_on_sidecars(names: list[str]) -> list[str]:
    """Return how to keep these sidecars from outliving the main container. Users cannot change the XCom sidecar."""
    others = [name for name in names if name != XCOM_SIDECAR]
    advice = []
    if len(others) == 1:
        advice.append(f"make {'it' if names == others else others[0]} a native sidecar")
    elif others:
        advice.append(f"make {' and '.join(others)} native sidecars")
    if len(others) < len(names):
        advice.append(f"upgrade the operator's provider, because only the operator ends {XCOM_SIDECAR}")
    return advice


def _waiting_reason(pod: Workload) -> str:
    """Return the most informative reason why a pod has not started; empty if there is none."""
    reasons = [container.reason for container in pod.containers if container.state == "waiting" and container.reason]
    running = [f"init container {c.name} is running" for c in pod.containers if c.is_init and c.state == "running"]
    informative = [reason for reason in reasons if reason not in _BEFORE_START]
    return next(filter(None, [*informative, pod.phase_reason, *running, *reasons]), "")


def _advice_on_waiting(why: str) -> str:
    causes = next((causes for word, causes in _NOT_STARTED.items() if word in why), "")
    return f"{causes}; the evidence has the message from Kubernetes" if causes else _SEE_EVENTS


def _in_parentheses(text: str) -> str:
    return f" ({text})" if text else ""
