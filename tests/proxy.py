"""An HTTP proxy between the product and an API server that records requests and injects faults."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import ssl
import struct
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from aiohttp import ClientSession, ServerDisconnectedError, TCPConnector, web

from demo.cluster.background import BackgroundLoop

Forward = Callable[[], Awaitable[web.StreamResponse]]
Fault = Callable[[web.Request, Forward], Awaitable[web.StreamResponse]]
Upstream = Callable[[web.Request], Future[web.StreamResponse]]

CLIENT_CLOSED_REQUEST = 499  # what proxies record; nobody receives it
_HOP_BY_HOP = {"connection", "content-length", "content-encoding", "host", "transfer-encoding"}


@dataclass
class Rule:
    """A fault for the requests whose ``METHOD path?query`` matches; ``times`` of them, or all."""

    pattern: str
    fault: Fault
    times: int | None = None

    def applies(self, line: str) -> bool:
        if self.times == 0 or not re.search(self.pattern, line):
            return False
        if self.times is not None:
            self.times -= 1
        return True


class FaultProxy:
    """A proxy that runs as long as its ``with`` block, on 127.0.0.1.

    :param upstream: the address of a server, or a function that answers a request.
    """

    def __init__(self, upstream: str | Upstream, ssl_context: ssl.SSLContext | None = None) -> None:
        self.url = ""
        self.rules: list[Rule] = []
        self.requests: list[str] = []  # "METHOD path?query", in order of arrival
        self.arrivals: list[float] = []  # the time of each request, by the monotonic clock
        self._in_flight = 0  # requests that are being processed
        self._idle = threading.Event()
        self._idle.set()
        self._upstream, self._ssl = upstream, ssl_context
        self._loop = BackgroundLoop("fault-proxy")

    def __enter__(self) -> FaultProxy:
        self._loop.run(self._start())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.run(self._stop())
        self._loop.stop()

    def spoil(self, pattern: str, fault: Fault, times: int | None = None) -> None:
        """Answer matching requests with a fault; earlier rules win."""
        self.rules.append(Rule(pattern, fault, times))

    def wait_until_idle(self) -> None:
        """Wait until no request is being processed, including those whose client has disconnected."""
        assert self._idle.wait(60)

    def heal(self) -> None:
        """Remove all rules and recorded requests."""
        self.rules.clear()
        self.requests.clear()
        self.arrivals.clear()

    async def _start(self) -> None:
        self._session = ClientSession(
            connector=TCPConnector(ssl=self._ssl if self._ssl is not None else True), auto_decompress=True
        )
        application = web.Application(client_max_size=2**26)
        application.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.5)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def _stop(self) -> None:
        await self._runner.cleanup()
        await self._session.close()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self._in_flight += 1
        self._idle.clear()
        try:
            return await self._answer(request)
        finally:
            self._in_flight -= 1
            if not self._in_flight:
                self._idle.set()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        line = f"{request.method} {request.path_qs}"
        self.requests.append(line)
        self.arrivals.append(time.monotonic())
        body = await request.read()

        async def forward() -> web.StreamResponse:
            if is_gone(request):  # a server cancels a request whose client has disconnected
                return web.Response(status=CLIENT_CLOSED_REQUEST)
            if callable(self._upstream):
                return await asyncio.wrap_future(self._upstream(request))
            headers = {k: v for k, v in request.headers.items() if k.lower() not in _HOP_BY_HOP}
            url = self._upstream.rstrip("/") + request.path_qs
            async with self._session.request(request.method, url, data=body, headers=headers) as answer:
                kept = {k: v for k, v in answer.headers.items() if k.lower() not in _HOP_BY_HOP}
                return web.Response(status=answer.status, body=await answer.read(), headers=kept)

        rule = next((rule for rule in self.rules if rule.applies(line)), None)
        try:
            return await (rule.fault(request, forward) if rule else forward())
        except ServerDisconnectedError:
            return await reset(request, forward)


def status(code: int, reason: str, message: str, **headers: str) -> Fault:
    """Respond with an error, as the API server does."""
    body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "reason": reason}

    async def fault(_request: web.Request, _forward: Forward) -> web.StreamResponse:
        return web.Response(
            status=code,
            text=json.dumps({**body, "code": code}),
            content_type="application/json",
            headers={name.replace("_", "-"): value for name, value in headers.items()},
        )

    return fault


def forbidden(verb: str, namespace: str, resource: str = "pods", group: str = "") -> Fault:
    """Respond with the error of a missing RBAC permission."""
    what = f'resource "{resource}" in API group "{group}" in the namespace "{namespace}"'
    subject = f"{resource}.{group}" if group else resource
    return status(403, "Forbidden", f'{subject} is forbidden: User "kpo" cannot {verb} {what}')


def denied(code: int, reason: str) -> Fault:
    """Answer as the API server does for an admission webhook, which chooses the status."""
    return status(code, reason, 'admission webhook "guard.example.com" denied the request: keep it')


def first(do: Callable[[], Any]) -> Fault:
    """Run a function before the request is forwarded."""

    async def fault(request: web.Request, forward: Forward) -> web.StreamResponse:
        await request.loop.run_in_executor(None, do)
        return await forward()

    return fault


def answer(code: int, body: str | bytes, content_type: str = "text/html", **headers: str) -> Fault:
    """Respond without forwarding the request, as a gateway in between does."""

    async def fault(_request: web.Request, _forward: Forward) -> web.StreamResponse:
        return web.Response(
            status=code,
            body=body.encode() if isinstance(body, str) else body,
            content_type=content_type,
            headers={name.replace("_", "-"): value for name, value in headers.items()},
        )

    return fault


def edited(change: Callable[[Any], object]) -> Fault:
    """Change the JSON of a response."""

    async def fault(_request: web.Request, forward: Forward) -> web.StreamResponse:
        whole = await forward()
        assert isinstance(whole, web.Response)
        assert isinstance(whole.body, bytes)
        value = json.loads(whole.body)
        change(value)
        return web.json_response(value, status=whole.status)

    return fault


def too_late(fault: Fault) -> Fault:
    """Forward the request, and apply the fault to its response only."""

    async def late_fault(request: web.Request, forward: Forward) -> web.StreamResponse:
        done = await forward()

        async def again() -> web.StreamResponse:
            return done

        return await fault(request, again)

    return late_fault


async def reset(request: web.Request, _forward: Forward) -> web.StreamResponse:
    """Reset the connection instead of responding."""
    _cut_off(request, reset=True)
    return web.Response()


async def reset_midway(request: web.Request, forward: Forward) -> web.StreamResponse:
    """Send half of the response, then reset the connection."""
    return await _send_half(request, await forward(), reset=True)


async def truncated(request: web.Request, forward: Forward) -> web.StreamResponse:
    """Send half of the response, then close the connection properly."""
    return await _send_half(request, await forward(), reset=False)


async def silent(request: web.Request, _forward: Forward) -> web.StreamResponse:
    """Do not respond until the client disconnects, for at most twenty seconds."""
    await _until_gone(request, 20)
    return web.Response()


def is_gone(request: web.Request) -> bool:
    """Return whether the client has disconnected."""
    return request.transport is None or request.transport.is_closing()


async def _until_gone(request: web.Request, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not is_gone(request) and time.monotonic() < end:
        await asyncio.sleep(0.02)


async def _begin(request: web.Request, whole: web.StreamResponse) -> tuple[web.StreamResponse, bytes]:
    """Send the headers of a response, and return its body."""
    assert isinstance(whole, web.Response)
    assert isinstance(whole.body, bytes)
    response = web.StreamResponse(status=whole.status, headers={"Content-Type": whole.content_type})
    response.content_length = len(whole.body)
    await response.prepare(request)
    return response, whole.body


async def _send_half(request: web.Request, whole: web.StreamResponse, reset: bool) -> web.StreamResponse:
    response, body = await _begin(request, whole)
    await response.write(body[: len(body) // 2])
    await asyncio.sleep(0.05)  # a reset discards what the client has not read yet
    _cut_off(request, reset)
    return response


def _cut_off(request: web.Request, reset: bool) -> None:
    assert request.transport is not None
    if reset:
        # With a linger time of zero, the kernel sends RST instead of FIN.
        sock = request.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        request.transport.abort()
    else:
        request.transport.close()
