"""The life cycle of one pod on the node: start, restarts, status reports, termination and removal."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Protocol

from .container import Container, conditions, phase
from .resources import Json
from .store import timestamp

# Simulated seconds.
_START_DELAY = 0.5
_INITIAL_BACKOFF, _MAX_BACKOFF = 10.0, 300.0
_MISSING_IMAGE = "does-not-exist"
_POLL = 0.02  # real seconds


class Node(Protocol):
    """The part of a kubelet that its workers need."""

    speed: float

    async def patch_status(self, pod: Json, status: Json) -> None: ...
    async def confirm_deletion(self, pod: Json) -> None: ...
    async def record_event(self, pod: Json, reason: str, message: str, *, container: str = "") -> None: ...


class PodWorker:
    """The simulation of one pod, which starts on construction."""

    def __init__(self, node: Node, pod: Json, number: int) -> None:
        self.pod = pod
        self._node = node
        files: dict[str, str] = {}
        spec = pod["spec"]
        self.inits = [Container(c, files, self._sleep) for c in spec.get("initContainers") or []]
        self.containers = [Container(c, files, self._sleep) for c in spec["containers"]]
        if self.inits:
            for container in self.containers:
                container.set_waiting("PodInitializing", "")
        self._policy: str = spec["restartPolicy"]
        self._ip = f"10.244.{number // 250 % 250}.{number % 250 + 2}"
        self._started = timestamp()
        self._terminating = False  # once it is true, no container is started
        self._deadline = float("inf")  # end of the grace period, in the loop's time
        self._reported: Json = {}
        self._reporting = asyncio.Lock()
        self._run = asyncio.create_task(self._run_pod())
        self._termination: asyncio.Task[None] | None = None

    @property
    def all(self) -> list[Container]:
        return [*self.inits, *self.containers]

    def observe(self, pod: Json) -> None:
        """Process a newer version of the pod."""
        self.pod = pod
        if pod["metadata"].get("deletionTimestamp"):
            grace = float(pod["metadata"].get("deletionGracePeriodSeconds") or 0)
            # A later delete can only shorten the grace period.
            self._deadline = min(self._deadline, _clock() + grace / self._node.speed)
            if self._termination is None:
                self._termination = asyncio.create_task(self._terminate())

    def abort(self) -> None:
        """Kill all containers without reporting it, because the pod no longer exists in the API server."""
        self._terminating = True
        self._kill()
        for task in (self._run, self._termination):
            if task:
                task.cancel()

    async def _run_pod(self) -> None:
        await self._report_status()
        await self._sleep(_START_DELAY)
        for container in self.inits:
            await self._run_container(container, "Never" if self._policy == "Never" else "OnFailure")
            if container.exit_code != 0:
                return
        await asyncio.gather(*(self._run_container(container, self._policy) for container in self.containers))

    async def _run_container(self, container: Container, policy: str) -> None:
        """Run a container, and restart it according to the policy."""
        if _MISSING_IMAGE in container.image:
            await self._fail_to_pull(container)
        backoff, name = 0.0, container.name
        while not self._terminating:
            await self._record_event("Pulled", f'Container image "{container.image}" already present on machine', name)
            if self._terminating:
                return
            exit_code_task = container.start()
            await self._report_status()
            await self._record_event("Created", f"Created container: {name}", name)
            await self._record_event("Started", f"Started container {name}", name)
            # Shielded: the process must end first, even if this worker is cancelled.
            code = await asyncio.shield(exit_code_task)
            await self._report_status()
            if self._terminating or policy == "Never" or (policy == "OnFailure" and code == 0):
                return
            # The first restart is immediate, the second after ten seconds; the backoff then doubles each time.
            if backoff:
                container.set_waiting("CrashLoopBackOff", f"back-off {backoff:.0f}s restarting failed container={name}")
                await self._report_status()
                await self._record_event("BackOff", f"Back-off restarting failed container {name}", name)
                await self._sleep(backoff)
            backoff = min(backoff * 2, _MAX_BACKOFF) or _INITIAL_BACKOFF

    async def _fail_to_pull(self, container: Container) -> None:
        """Report that the image cannot be pulled, and never return."""
        why = f'Back-off pulling image "{container.image}": not found'
        container.set_waiting("ImagePullBackOff", why)
        await self._report_status()
        await self._record_event("BackOff", why, container.name)
        await asyncio.get_running_loop().create_future()

    async def _terminate(self) -> None:
        self._terminating = True
        for container in self.all:
            if container.process:
                await self._record_event("Killing", f"Stopping container {container.name}", container.name)
        for container in self.all:
            if container.process:
                container.process.signal("TERM")
        while self._is_running() and _clock() < self._deadline:
            await asyncio.sleep(_POLL)
        self._kill()
        while self._is_running():
            await asyncio.sleep(0)
        self._run.cancel()
        if any(container.log for container in self.all):
            await self._report_status()
        await self._node.confirm_deletion(self.pod)

    def _is_running(self) -> bool:
        return any(container.process for container in self.all)

    def _kill(self) -> None:
        for container in self.all:
            if container.process:
                container.process.kill()

    def _sleep(self, seconds: float) -> Awaitable[None]:
        return asyncio.sleep(seconds / self._node.speed)

    async def _record_event(self, reason: str, message: str, container: str) -> None:
        await self._node.record_event(self.pod, reason, message, container=container)

    async def _report_status(self) -> None:
        async with self._reporting:
            now_phase = phase(self._policy, self.inits, self.containers, ended=self._terminating)
            begun = any(container.log for container in self.all)
            status = {
                "phase": now_phase,
                "conditions": conditions(now_phase, self.inits, self.containers, self._reported),
                "hostIP": "127.0.0.1",
                "startTime": self._started,
                **({"podIP": self._ip, "podIPs": [{"ip": self._ip}]} if begun else {}),
                "initContainerStatuses": [{**c.status(), "ready": c.exit_code == 0} for c in self.inits],
                "containerStatuses": [c.status() for c in self.containers],
            }
            if status != self._reported:
                self._reported = status
                await self._node.patch_status(self.pod, status)


def _clock() -> float:
    return asyncio.get_running_loop().time()
