"""Why a zombie was left behind, as its containers show it, and what prevents the next one."""

from __future__ import annotations

from typing import NamedTuple

from .pod import XCOM_SIDECAR, Pod

_WORKER = "find out why its worker ended (memory, eviction, node drain), or who ended the task"
_BEFORE_START = ("PodInitializing", "ContainerCreating")  # what every pod shows for a moment
_NEVER_STARTED = {  # by a part of the reason that the kubelet or the scheduler gives
    "Image": "correct the image name or its pull secret",
    "Config": "create the ConfigMap or Secret that it refers to",
    "Unschedulable": "no node can take it: check its requests, node selectors and quotas",
}


class Diagnosis(NamedTuple):
    """What zombies of one kind have in common, and what to do about it."""

    problem: str
    advice: str


def diagnose(pod: Pod) -> Diagnosis:
    """Return why a zombie is still in the cluster."""
    main = pod.main
    if pod.is_completed:
        return Diagnosis("a completed pod was left behind", f"if its operator should have deleted it, {_WORKER}")
    if main is not None and main.ended is not None:
        sidecars = pod.running_containers
        if sidecars:
            verb = "is" if len(sidecars) == 1 else "are"
            problem = f"{' and '.join(sidecars)} {verb} still running after {main.name} ended"
            return Diagnosis(problem, _advice_on(sidecars))
    if main is not None and main.state == "running":
        return Diagnosis(f"{main.name} is still running, but its operator is gone", _WORKER)
    if pod.phase == "Pending":
        why = _waiting_reason(pod)
        return Diagnosis(f"it never started{f' ({why})' if why else ''}", _advice_on_waiting(why))
    return Diagnosis("a pod was left behind", _WORKER)


def _advice_on(sidecars: list[str]) -> str:
    if sidecars == [XCOM_SIDECAR]:
        return f"its operator did not collect the XCom: {_WORKER}"
    return "make it a native sidecar: an init container with restartPolicy: Always"


def _waiting_reason(pod: Pod) -> str:
    """Return the most informative reason why a pod has not started; empty if there is none."""
    reasons = [container.waiting_reason for container in pod.containers if container.waiting_reason]
    running = [f"init container {c.name} is running" for c in pod.containers if c.is_init and c.state == "running"]
    informative = [reason for reason in reasons if reason not in _BEFORE_START]
    return next(filter(None, [*informative, pod.phase_reason, *running, *reasons]), "")


def _advice_on_waiting(why: str) -> str:
    known = (advice for word, advice in _NEVER_STARTED.items() if word in why)
    return next(known, "run kubectl describe pod to see what it is waiting for")
