"""A simulated container: its process, log and state. Also a pod's phase and conditions, derived from its containers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from .resources import Json
from .shell import Lines, Process, Write
from .store import timestamp


@dataclass
class Log:
    """The log of one run of a container."""

    lines: list[tuple[datetime, str]] = field(default_factory=list)
    closed: bool = False

    def write(self, text: str) -> None:
        """Append `text`, which must consist of complete lines."""
        self.lines += [(datetime.now(UTC), line) for line in text.splitlines()]


class Container:
    """A container that its pod's worker can restart. All containers of a pod share `files`."""

    def __init__(self, spec: Json, files: dict[str, str], sleep: Callable[[float], Awaitable[None]]) -> None:
        self.name: str = spec["name"]
        self.image: str = spec["image"]
        self.state: Json = {"waiting": {"reason": "ContainerCreating"}}
        self.last_state: Json = {}
        self.restarts = 0
        self.log: Log | None = None
        self.process: Process | None = None  # while it runs
        self._command = [*(spec.get("command") or []), *(spec.get("args") or [])]
        self._files = files
        self._sleep = sleep

    @property
    def running(self) -> bool:
        return "running" in self.state

    @property
    def exit_code(self) -> int | None:
        """Return the exit code of the last run, or None while the container is running."""
        last = self.last_state if "waiting" in self.state else self.state
        code: int | None = last.get("terminated", {}).get("exitCode")
        return code

    def start(self) -> asyncio.Task[int]:
        """Start the container and return a task with its exit code.

        Without a command, the image's entry point would run; it is unknown here and counts as a success.
        """
        self._archive()
        self.log, self.state = Log(), {"running": {"startedAt": timestamp()}}
        self.process = self.execute(self._command, self.log.write)
        return asyncio.create_task(self._run(self.process, self.log))

    async def _run(self, process: Process, log: Log) -> int:
        code = await process.wait()
        self.process = None
        log.closed = True
        reason = "Error" if code else "Completed"
        self.state = {
            "terminated": {"exitCode": code, "reason": reason, **self.state["running"], "finishedAt": timestamp()}
        }
        return code

    def execute(self, command: list[str], write: Write, lines: Lines | None = None) -> Process:
        """Start PID 1, or another process if PID 1 is already running."""
        return Process(command, self._files, write, self._sleep, self.process, lines)

    def set_waiting(self, reason: str, message: str) -> None:
        """Set the state to waiting, before the first start or between two runs."""
        self._archive()
        self.state = {"waiting": {"reason": reason, "message": message}}

    def _archive(self) -> None:
        if "terminated" in self.state:
            self.last_state, self.restarts = self.state, self.restarts + 1

    def status(self) -> Json:
        return {
            "name": self.name,
            "state": self.state,
            "lastState": self.last_state,
            "ready": self.running,
            "started": self.running,
            "restartCount": self.restarts,
            "image": self.image,
            "imageID": f"simulated://{self.image}" if self.log else "",
        }


def phase(policy: str, inits: list[Container], containers: list[Container], *, ended: bool) -> str:
    """Return the pod's phase, as the kubelet's `getPhase` does.

    If `ended` is true, no container will be restarted, whatever the restart policy is.
    """
    if any(c.exit_code for c in inits) and (policy == "Never" or ended):
        return "Failed"
    if any(c.exit_code is None for c in inits) or any("waiting" in c.state and not c.last_state for c in containers):
        return "Pending"
    if any(c.running for c in containers):
        return "Running"
    succeeded = all(c.exit_code == 0 for c in containers)
    if ended or policy == "Never" or (policy == "OnFailure" and succeeded):
        return "Succeeded" if succeeded else "Failed"
    return "Running"  # between two runs


def conditions(phase: str, inits: list[Container], containers: list[Container], before: Json) -> list[Json]:
    """Return the pod's conditions. One that is the same in `before`, the previous status, keeps its transition time."""
    unready = [c.name for c in containers if not c.running]
    reason = {"Succeeded": "PodCompleted", "Failed": "PodFailed"}.get(phase, "ContainersNotReady")
    not_ready = {"reason": reason, "message": f"containers with unready status: [{' '.join(unready)}]"}
    since = {(c["type"], c["status"]): c["lastTransitionTime"] for c in before.get("conditions", ())}
    found = []
    for kind, holds in (
        ("Initialized", all(c.exit_code == 0 for c in inits)),
        ("Ready", not unready),
        ("ContainersReady", not unready),
        ("PodScheduled", True),
    ):
        value = str(holds)
        why = not_ready if kind.endswith("Ready") and unready else {}
        changed = since.get((kind, value)) or timestamp()
        found.append({"type": kind, "status": value, "lastProbeTime": None, "lastTransitionTime": changed, **why})
    return found
