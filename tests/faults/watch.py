"""The requests of ``reap``, interrupted and recorded."""

from __future__ import annotations

import itertools
import json
import signal
import threading
from typing import TYPE_CHECKING, Any

from aiohttp import web

from include.kpo_cleanup.kube.interface import DELETE_TIMEOUT
from include.kpo_cleanup.reap.snapshot import MAX_SNAPSHOT_AGE
from tests import proxy
from tests.faults import objects, rules
from tests.faults.objects import Json
from tests.faults.world import TALLY

if TYPE_CHECKING:
    from tests.faults.machine import Airflow

ALWAYS = 1e9  # seconds
STEP_SECONDS = 120.0  # for one step with any faults and timeouts, on a busy machine
TIMED_OUT = proxy.status(504, "Timeout", "request did not complete within the allotted timeout")


class Watch:
    """A rule of the proxy that precedes all faults: it interrupts ``reap`` and records what is really deleted."""

    def __init__(self, machine: Airflow) -> None:
        self._machine, self._lock = machine, threading.Lock()
        self._requests, self._deletions = itertools.count(), itertools.count()
        self._in_use = dict.fromkeys(machine.must_be_kept(), -ALWAYS)  # since when, by uid
        all_tasks = [*machine.tasks.values(), *machine.their_tasks.values()]
        self.excused = rules.in_use(machine.objects(), all_tasks) - self._in_use.keys()  # they look like zombies
        self.deletions: set[str] = set()  # uids
        self.late: set[str] = set()  # deleted although the client no longer waited: the machine was busy
        self.vanished: set[str] = set()  # deleted by somebody else
        self.was_sent = False
        self.is_terminated = threading.Event()
        self.sent_after_sigterm = 0

    def __enter__(self) -> None:
        self._machine.server.proxy.rules.insert(0, proxy.Rule("", self._pass))
        self._handler = signal.getsignal(signal.SIGTERM)
        signal.signal(signal.SIGTERM, self._terminate)

    def __exit__(self, *_: object) -> None:
        del self._machine.server.proxy.rules[0]

    def _terminate(self, *arguments: Any) -> None:
        self.is_terminated.set()
        self._machine.explained_by("reap was terminated before the response arrived|reap received SIGTERM")
        assert callable(self._handler)
        self._handler(*arguments)

    async def _pass(self, request: web.Request, forward: proxy.Forward) -> web.StreamResponse:
        machine, line = self._machine, f"{request.method} {request.path_qs}"
        arrived = machine.monotonic()
        wanted = json.loads(await request.read())["preconditions"]["uid"] if request.method == "DELETE" else ""
        self.sent_after_sigterm += bool(wanted) and self.is_terminated.is_set()
        waited, waited_in_use = await request.loop.run_in_executor(None, self._interrupt, wanted)

        async def record() -> web.StreamResponse:
            found = await request.loop.run_in_executor(None, self._find, request.path) if wanted else None
            if wanted and waited > server_timeout(request):
                machine.explained_by("504 Gateway Timeout")
                return await TIMED_OUT(request, forward)
            answer = await forward()
            if wanted:
                self.was_sent = True
                if answer.status == 200:
                    self.deletions.add(wanted)
                    if proxy.is_gone(request):
                        self.late.add(wanted)
                    # With several deletions at once, it is not known which of them was decided when.
                    too_long = MAX_SNAPSHOT_AGE + DELETE_TIMEOUT if machine.batch_size == 1 else ALWAYS / 2
                    since = self._in_use.get(wanted, arrived)
                    is_used = waited_in_use > DELETE_TIMEOUT or arrived - since > too_long
                    is_trusted = is_used and machine.source.is_trusted and since >= machine.cut_off_at
                    TALLY["wrong, with a replica that was cut off while reap ran"] += is_trusted
                    if found and (self._is_exempt(found, wanted) or (is_used and not is_trusted)):
                        machine.wrong.append(found)
            return answer

        rule = next((rule for rule in machine.server.proxy.rules[1:] if rule.applies(line)), None)
        return await (rule.fault(request, record) if rule else record())

    def _find(self, path: str) -> Json | None:
        return objects.find_at(self._machine.server, path)

    def _is_exempt(self, found: Json, wanted: str) -> bool:
        machine = self._machine
        return objects.uid(found) == wanted and rules.is_exempt(found, machine.settings, int(machine.clock()))

    def _interrupt(self, wanted: str) -> tuple[float, float]:
        """Carry out the interruptions that are due right before this request.

        :param wanted: the uid of the pod that it deletes; half of the incidents of zombies happen to that pod.
        :return: for how many seconds the request waits, and for how many of them that pod is in use.
        """
        waited = waited_in_use = 0.0
        with self._lock:
            machine, now_at = self._machine, [("request", next(self._requests))]
            if wanted:
                now_at.append(("deletion", next(self._deletions)))
            if ("deletion", machine.sigterm) in now_at:
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
                assert self.is_terminated.wait(STEP_SECONDS)
            for at, incident, seconds in machine.within:
                if at in now_at:
                    before = machine.by_uid()
                    if wanted and incident[0] == "zombie" and incident[1] % 2:
                        machine.move_zombie(wanted, incident[2])
                    else:
                        machine.life_goes_on([incident])
                    self.vanished |= before.keys() - machine.by_uid().keys()
                    now = machine.monotonic()
                    self._in_use = {uid: self._in_use.get(uid, now) for uid in machine.must_be_kept()}
                    machine.time_passes(seconds)
                    waited += seconds
                    waited_in_use += seconds if wanted in self._in_use else 0
        return waited, waited_in_use


def server_timeout(request: web.Request) -> float:
    """Return the seconds after which the API server drops a request."""
    return float(request.query.get("timeout", "60s").removesuffix("s"))
