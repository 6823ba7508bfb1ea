"""Why a zombie is there, as its containers show it, and what would keep the next one away."""

from __future__ import annotations

from typing import NamedTuple

from .pod import XCOM_SIDECAR, Pod

_WORKER = "see why its worker ended (memory, eviction, drained node), or who ended the task"
_BEFORE_THE_START = ("PodInitializing", "ContainerCreating")  # what every pod says for a moment
_NEVER_STARTED = {  # by a part of the reason that the kubelet or the scheduler gives
    "Image": "correct the image's name or its pull secret",
    "Config": "a ConfigMap or a Secret that it names is missing",
    "Unschedulable": "the cluster has no room for it: look at its requests, node selectors and quotas",
}


class Cause(NamedTuple):
    """The reason why zombies of one kind are there."""

    problem: str
    advice: str


def cause_of(pod: Pod) -> Cause:
    """Tell why a zombie is still in the cluster."""
    main = pod.main
    if pod.is_completed:
        return Cause("a completed pod was left over", f"if its operator was to delete it: {_WORKER}")
    if main is not None and main.ended is not None:
        others = [container.name for container in pod.containers if container.state == "running"]
        if others:
            verb = "runs" if len(others) == 1 else "run"
            return Cause(f"{' and '.join(others)} {verb} on after {main.name} ended", _advice_on(others))
    if main is not None and main.state == "running":
        return Cause(f"{main.name} works on, but its operator is gone", _WORKER)
    if pod.phase == "Pending":
        why = _why_it_waits(pod)
        return Cause(f"it never started{f' ({why})' if why else ''}", _advice_on_waiting(why))
    return Cause("a pod was left over", _WORKER)


def _advice_on(sidecars: list[str]) -> str:
    if sidecars == [XCOM_SIDECAR]:
        return f"its result was not taken: {_WORKER}"
    return "make it a native sidecar: an init container with restartPolicy: Always"


def _why_it_waits(pod: Pod) -> str:
    """Give the reason that tells most; empty if there is none."""
    reasons = [container.waiting_reason for container in pod.containers if container.waiting_reason]
    running = [f"init container {c.name} still runs" for c in pod.containers if c.is_init and c.state == "running"]
    telling = [reason for reason in reasons if reason not in _BEFORE_THE_START]
    return next(filter(None, [*telling, pod.phase_reason, *running, *reasons]), "")


def _advice_on_waiting(why: str) -> str:
    known = (advice for word, advice in _NEVER_STARTED.items() if word in why)
    return next(known, "kubectl describe pod tells what it waits for")
