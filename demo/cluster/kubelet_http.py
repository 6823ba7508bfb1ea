"""The kubelet's HTTP server, to which a real API server forwards logs and exec."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from aiohttp import WSMsgType, web

from .container import Container, Log
from .listing import Query, parse_bool
from .pod_worker import PodWorker
from .shell import Lines

_PROTOCOL = "v4.channel.k8s.io"  # the protocol of the Python clients
_POLL = 0.02  # seconds
_STDIN, _STDOUT, _, _ERROR = (bytes([number]) for number in range(4))  # the first byte of every message


class KubeletServer:
    """A server of logs and exec. `find` returns the worker of a pod by namespace and name."""

    def __init__(self, find: Callable[[str, str], PodWorker | None]) -> None:
        self._find = find

    def application(self) -> web.Application:
        async def logs(request: web.Request) -> web.StreamResponse:
            return await self.logs(request, **request.match_info)

        async def execute(request: web.Request) -> web.StreamResponse:
            return await self.exec(request, **request.match_info)

        app = web.Application()
        app.router.add_get("/containerLogs/{namespace}/{pod}/{container}", logs)
        app.router.add_route("*", "/exec/{namespace}/{pod}/{container}", execute)
        return app

    async def logs(self, request: web.Request, namespace: str, pod: str, container: str) -> web.StreamResponse:
        log, state = (found := self._container(namespace, pod, container)).log, found.state
        if log is None:
            reason = state["waiting"]["reason"]
            if reason == "ImagePullBackOff":
                reason = "trying and failing to pull image"
            raise web.HTTPBadRequest(text=f'container "{container}" in pod "{pod}" is waiting to start: {reason}')
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(request)
        with contextlib.suppress(ConnectionResetError):
            await _send_log(log, request.query, response)
        return response

    async def exec(self, request: web.Request, namespace: str, pod: str, container: str) -> web.StreamResponse:
        found = self._container(namespace, pod, container)
        if found.process is None:
            raise web.HTTPInternalServerError(text=f'container not found ("{container}")')
        if request.headers.get("Upgrade", "").lower() != "websocket":
            raise web.HTTPBadRequest(text="Upgrade request required")
        socket = web.WebSocketResponse(protocols=[_PROTOCOL])
        await socket.prepare(request)
        await socket.send_bytes(_STDOUT)  # signals the client that the streams are open
        written: list[str] = []
        lines: Lines = asyncio.Queue()
        reader = asyncio.create_task(_read_input(socket, lines))
        # The parameter is `stdin` in the API server and `input` in the kubelet.
        is_interactive = parse_bool(request.query, "stdin") or parse_bool(request.query, "input")
        command = request.query.getall("command", [])
        process = found.execute(command, written.append, lines if is_interactive else None)
        try:
            code = await process.wait()
            # All supported commands are short and write little, so the output is sent at the end.
            await socket.send_bytes(_STDOUT + "".join(written).encode())
            await socket.send_bytes(_ERROR + json.dumps(_outcome(code)).encode())
            await socket.close()
        except ConnectionResetError:
            pass  # the client has disconnected
        finally:
            reader.cancel()
        return socket

    def _container(self, namespace: str, pod: str, name: str) -> Container:
        worker = self._find(namespace, pod)
        for container in worker.all if worker else ():
            if container.name == name:
                return container
        raise web.HTTPNotFound(text=f'pod "{pod}" with container "{name}" not found')


async def _send_log(log: Log, query: Query, response: web.StreamResponse) -> None:
    index = 0
    if "sinceSeconds" in query:
        since = datetime.now(UTC) - timedelta(seconds=int(query["sinceSeconds"]))
        index = sum(moment < since for moment, _ in log.lines)
    if "tailLines" in query:
        index = max(index, len(log.lines) - int(query["tailLines"]))
    while True:
        closed = log.closed  # read before the lines, so that none is missed
        for moment, line in log.lines[index:]:
            stamp = moment.strftime("%Y-%m-%dT%H:%M:%S.%f000Z ") if parse_bool(query, "timestamps") else ""
            await response.write(f"{stamp}{line}\n".encode())
            index += 1
        if closed or not parse_bool(query, "follow"):
            return
        await asyncio.sleep(_POLL)


async def _read_input(socket: web.WebSocketResponse, lines: Lines) -> None:
    async for message in socket:
        data = message.data.encode() if message.type is WSMsgType.TEXT else message.data
        if data[:1] == _STDIN:
            for line in data[1:].decode().splitlines():
                lines.put_nowait(line)
    lines.put_nowait(None)


def _outcome(code: int) -> dict[str, object]:
    if code == 0:
        return {"metadata": {}, "status": "Success"}
    cause = {"reason": "ExitCode", "message": str(code)}
    message = f"command terminated with non-zero exit code: exit status {code}"
    return {"status": "Failure", "message": message, "reason": "NonZeroExitCode", "details": {"causes": [cause]}}
