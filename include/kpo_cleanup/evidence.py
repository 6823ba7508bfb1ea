"""Short evidence for people: the state of a task instance and of containers, and since when."""

from __future__ import annotations

from .pod import Pod
from .task_instance import TaskInstance


def duration(seconds: int) -> str:
    """Say a length of time as people do: ``45 s``, ``12 min``, ``2 h``, ``3 d``."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length or (unit == "min" and seconds >= length):
            return f"{seconds // length} {unit}"
    return f"{max(seconds, 0)} s"


def ago(then: int, now: int) -> str:
    """Say how long ago; a time in the future is "now", for clocks differ."""
    return f"{duration(now - then)} ago"


def task_instance_state(ti: TaskInstance, now: int) -> str:
    """Say such as ``task instance failed 12 min ago`` or ``task instance running (try 2)``."""
    state = ti.state or "cleared"
    tried = f" (try {ti.try_number})" if ti.try_number is not None else ""
    since = f" {ago(ti.ended, now)}" if ti.ended is not None and not ti.is_active else ""
    return f"task instance {state}{tried}{since}"


def phase(pod: Pod) -> str:
    """Say such as ``pod Failed (Evicted)``."""
    return f"pod {pod.phase}" + (f" ({pod.phase_reason})" if pod.phase_reason else "")


def container_states(pod: Pod, now: int) -> str:
    """Say such as ``base exited 0 2 h ago, airflow-xcom-sidecar running 2 h``."""
    parts = []
    for container in pod.containers:
        name = f"init container {container.name}" if container.is_init else container.name
        if container.state == "terminated":
            code = "?" if container.exit_code is None else container.exit_code
            when = f" {ago(container.ended, now)}" if container.ended is not None else ""
            parts.append(f"{name} exited {code}{when}")
        elif container.state == "running":
            how_long = f" {duration(now - container.started)}" if container.started is not None else ""
            parts.append(f"{name} running{how_long}")
        else:
            why = f" ({container.waiting_reason})" if container.waiting_reason else ""
            parts.append(f"{name} waiting{why}")
    if pod.phase_reason or not parts:
        parts.insert(0, phase(pod))
    return ", ".join(parts) if pod.containers else f"{', '.join(parts)}, no container status"


def deletion(pod: Pod, now: int) -> str:
    """Say such as ``being deleted, deadline 5 min ago, finalizers example.com/backup``; empty if nothing is so."""
    parts = []
    if pod.deletion_deadline is not None:
        late = now > pod.deletion_deadline
        deadline = f"deadline {ago(pod.deletion_deadline, now)}" if late else "within its grace period"
        parts.append(f"being deleted, {deadline}")
    if pod.finalizers:
        parts.append(f"finalizers {', '.join(pod.finalizers)}")
    return ", ".join(parts)
