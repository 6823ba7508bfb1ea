"""Short evidence for people: the state of a task instance and of containers, and since when."""

from __future__ import annotations

from .pod import Pod
from .task_instance import TaskInstance


def duration(seconds: int) -> str:
    """A length of time as people say it: ``45 s``, ``12 min``, ``2 h``, ``3 d``."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length or (unit == "min" and seconds >= length):
            return f"{seconds // length} {unit}"
    return f"{max(seconds, 0)} s"


def ago(then: int, now: int) -> str:
    """How long ago; a time in the future is "now", for clocks differ."""
    return f"{duration(now - then)} ago"


def task_instance_state(ti: TaskInstance, now: int) -> str:
    """Such as ``TI failed 12 min ago`` or ``TI running (try 2)``."""
    state = ti.state or "cleared"
    tried = f" (try {ti.try_number})" if ti.try_number is not None else ""
    since = f" {ago(ti.ended, now)}" if ti.ended is not None and not ti.is_active else ""
    return f"TI {state}{tried}{since}"


def container_states(pod: Pod, now: int) -> str:
    """Such as ``base exited 0 2 h ago, airflow-xcom-sidecar running 2 h``."""
    parts = []
    for container in pod.containers:
        if container.state == "terminated":
            code = "?" if container.exit_code is None else container.exit_code
            when = f" {ago(container.ended, now)}" if container.ended is not None else ""
            parts.append(f"{container.name} exited {code}{when}")
        elif container.state == "running":
            how_long = f" {duration(now - container.started)}" if container.started is not None else ""
            parts.append(f"{container.name} running{how_long}")
        else:
            why = f" ({container.waiting_reason})" if container.waiting_reason else ""
            parts.append(f"{container.name} waiting{why}")
    return ", ".join(parts) or f"pod {pod.phase}, no container started"
