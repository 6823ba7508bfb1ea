"""One pod's life on the node: it is started, kept running, stopped, killed, and removed from the API server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Protocol

from .container import Container, conditions, phase, timestamp
from .resources import Json

# Simulated seconds.
_START_DELAY = 0.5
_FIRST_BACK_OFF, _LONGEST_BACK_OFF = 10.0, 300.0
_UNPULLABLE = "does-not-exist"
_POLL = 0.02  # real seconds


class Node(Protocol):
    """The part of a kubelet that its workers need."""

    speed: float

    async def report(self, pod: Json, status: Json) -> None: ...
    async def strike_off(self, pod: Json) -> None: ...
    async def tell(self, pod: Json, reason: str, message: str, *, container: str = "") -> None: ...


class PodWorker:
    """The task that plays one pod; it begins at once."""

    def __init__(self, node: Node, pod: Json, number: int) -> None:
        self.pod = pod
        self._node = node
        files: dict[str, str] = {}
        spec = pod["spec"]
        self.inits = [Container(c, files, self._sleep) for c in spec.get("initContainers") or []]
        self.containers = [Container(c, files, self._sleep) for c in spec["containers"]]
        if self.inits:
            for container in self.containers:
                container.wait("PodInitializing", "")
        self._policy: str = spec["restartPolicy"]
        self._ip = f"10.244.{number // 250 % 250}.{number % 250 + 2}"
        self._started = timestamp()
        self._ended = False  # no container starts any more
        self._deadline = float("inf")  # in the loop's time: when the grace period is over
        self._reported: Json = {}
        self._reporting = asyncio.Lock()
        self._life = asyncio.create_task(self._live())
        self._end: asyncio.Task[None] | None = None

    @property
    def all(self) -> list[Container]:
        return [*self.inits, *self.containers]

    def observe(self, pod: Json) -> None:
        """Take in a newer version of the pod."""
        self.pod = pod
        if pod["metadata"].get("deletionTimestamp"):
            grace = float(pod["metadata"].get("deletionGracePeriodSeconds") or 0)
            # A later delete can only shorten the grace period.
            self._deadline = min(self._deadline, _clock() + grace / self._node.speed)
            if self._end is None:
                self._end = asyncio.create_task(self._terminate())

    def abandon(self) -> None:
        """Kill all that still runs and tell nobody, for the API server has no such pod any more."""
        self._ended = True
        self._kill()
        for task in (self._life, self._end):
            if task:
                task.cancel()

    async def _live(self) -> None:
        await self._report()
        await self._sleep(_START_DELAY)
        for container in self.inits:
            await self._keep(container, "Never" if self._policy == "Never" else "OnFailure")
            if container.exit_code != 0:
                return
        await asyncio.gather(*(self._keep(container, self._policy) for container in self.containers))

    async def _keep(self, container: Container, policy: str) -> None:
        """Run a container again and again, as the policy wants."""
        if _UNPULLABLE in container.image:
            await self._fail_to_pull(container)
        back_off, name = 0.0, container.name
        while not self._ended:
            await self._tell("Pulled", f'Container image "{container.image}" already present on machine', name)
            if self._ended:
                return
            run = container.start()
            await self._report()
            await self._tell("Created", f"Created container: {name}", name)
            await self._tell("Started", f"Started container {name}", name)
            # Shielded: the process has to end first, even if this worker is stopped.
            code = await asyncio.shield(run)
            await self._report()
            if self._ended or policy == "Never" or (policy == "OnFailure" and code == 0):
                return
            # The first restart is at once, the next after ten seconds; then each wait is twice as long.
            if back_off:
                container.wait("CrashLoopBackOff", f"back-off {back_off:.0f}s restarting failed container={name}")
                await self._report()
                await self._tell("BackOff", f"Back-off restarting failed container {name}", name)
                await self._sleep(back_off)
            back_off = min(back_off * 2, _LONGEST_BACK_OFF) or _FIRST_BACK_OFF

    async def _fail_to_pull(self, container: Container) -> None:
        """Say for ever that the image cannot be pulled."""
        why = f'Back-off pulling image "{container.image}": not found'
        container.wait("ImagePullBackOff", why)
        await self._report()
        await self._tell("BackOff", why, container.name)
        await asyncio.get_running_loop().create_future()

    async def _terminate(self) -> None:
        self._ended = True
        for container in self.all:
            if container.process:
                await self._tell("Killing", f"Stopping container {container.name}", container.name)
        for container in self.all:
            if container.process:
                container.process.signal("TERM")
        while self._is_running() and _clock() < self._deadline:
            await asyncio.sleep(_POLL)
        self._kill()
        while self._is_running():
            await asyncio.sleep(0)
        self._life.cancel()
        if any(container.log for container in self.all):
            await self._report()
        await self._node.strike_off(self.pod)

    def _is_running(self) -> bool:
        return any(container.process for container in self.all)

    def _kill(self) -> None:
        for container in self.all:
            if container.process:
                container.process.kill()

    def _sleep(self, seconds: float) -> Awaitable[None]:
        return asyncio.sleep(seconds / self._node.speed)

    async def _tell(self, reason: str, message: str, container: str) -> None:
        await self._node.tell(self.pod, reason, message, container=container)

    async def _report(self) -> None:
        async with self._reporting:
            now_phase = phase(self._policy, self.inits, self.containers, ended=self._ended)
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
                await self._node.report(self.pod, status)


def _clock() -> float:
    return asyncio.get_running_loop().time()
