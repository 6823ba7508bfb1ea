"""A simulated node: it watches any API server, embedded or real, and simulates the containers of its pods."""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
import time
from collections.abc import Coroutine
from typing import Any

import aiohttp
from aiohttp import web

from .background import BackgroundServer
from .certificates import self_signed_context
from .container import timestamp
from .kubelet_http import KubeletServer
from .pod_worker import PodWorker
from .resources import Json

log = logging.getLogger(__name__)


class Kubelet(BackgroundServer):
    """A client of the API server that changes pods only through the public API.

    `ssl_context` is required for an https URL. `speed` is the number of simulated seconds per real second. The kubelet
    is also the scheduler: it binds every unbound pod whose scheduler is the default one.
    """

    def __init__(
        self,
        url: str,
        *,
        ssl_context: ssl.SSLContext | None = None,
        speed: float = 1.0,
        node_name: str = "demo-node",
    ) -> None:
        self.url = url.rstrip("/")
        self.speed = speed
        self.server = KubeletServer(self._find)
        self._name = node_name
        self._ssl = ssl_context
        self._workers: dict[str, PodWorker] = {}  # by pod UID
        self._count = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._client: aiohttp.ClientSession
        self._runner: web.AppRunner

    async def start(self) -> None:
        self._client = aiohttp.ClientSession(
            self.url,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=10),
            connector=aiohttp.TCPConnector(ssl=self._ssl if self._ssl else True, limit=32),
            read_bufsize=4 * 1024 * 1024,  # each watch event is one line, which may be long
        )
        self._runner = web.AppRunner(self.server.application(), access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self_signed_context(self._name)[0]).start()
        await self._register(self._runner.addresses[0][1])
        self._spawn(self._watch_pods())

    async def stop(self) -> None:
        for worker in self._workers.values():
            worker.abort()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._runner.cleanup()
        await self._client.close()

    async def patch_status(self, pod: Json, status: Json) -> None:
        # The uid makes the patch fail if another pod has taken the name.
        body = {"metadata": {"uid": pod["metadata"]["uid"]}, "status": status}
        await self._request("PATCH", f"{_path(pod)}/status", body)

    async def confirm_deletion(self, pod: Json) -> None:
        await self._request(
            "DELETE", _path(pod), {"gracePeriodSeconds": 0, "preconditions": {"uid": pod["metadata"]["uid"]}}
        )

    async def record_event(self, pod: Json, reason: str, message: str, *, container: str = "") -> None:
        """Create an Event about the pod."""
        metadata, now = pod["metadata"], timestamp()
        involved = {key: metadata[key] for key in ("name", "namespace", "uid", "resourceVersion")}
        field = {"fieldPath": f"spec.containers{{{container}}}"} if container else {}
        event = {
            "metadata": {"name": f"{metadata['name']}.{time.time_ns():x}"},
            "involvedObject": {"apiVersion": "v1", "kind": "Pod", **involved, **field},
            "reason": reason,
            "message": message,
            "type": "Warning" if reason == "BackOff" else "Normal",
            "count": 1,
            "source": {"component": "kubelet" if container else "default-scheduler", "host": self._name},
            "firstTimestamp": now,
            "lastTimestamp": now,
        }
        await self._request("POST", f"/api/v1/namespaces/{metadata['namespace']}/events", event)

    def _find(self, namespace: str, name: str) -> PodWorker | None:
        path = _path({"metadata": {"namespace": namespace, "name": name}})
        return next((worker for worker in reversed(self._workers.values()) if _path(worker.pod) == path), None)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _request(self, method: str, path: str, body: Json) -> bool:
        """Send a request, retrying until the server responds; return False if it refused the request.

        A refusal needs no handling: the pod has changed or is gone, and the watch delivers that.
        """
        content_type = "application/merge-patch+json" if method == "PATCH" else "application/json"
        while True:
            try:
                async with self._client.request(
                    method, path, data=json.dumps(body), headers={"Content-Type": content_type}
                ) as answer:
                    if answer.status < 400:
                        return True
                    log.debug("%s %s: %s", method, path, await answer.text())
                    if answer.status < 429:
                        return False
            except aiohttp.ClientConnectionError as error:
                log.debug("%s %s: %s", method, path, error)
            await asyncio.sleep(0.5)

    async def _register(self, port: int) -> None:
        """Register the node as ready. It needs no heartbeats because there is no node controller."""
        await self._request("POST", "/api/v1/nodes", {"metadata": {"name": self._name}})
        now = timestamp()
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "simulated"}
        status = {
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
            "conditions": [{**ready, "lastHeartbeatTime": now, "lastTransitionTime": now}],
        }
        await self._request("PATCH", f"/api/v1/nodes/{self._name}/status", {"status": status})

    async def _watch_pods(self) -> None:
        """List and watch pods; list again whenever the watch ends."""
        while True:
            try:
                async with self._client.get("/api/v1/pods") as answer:
                    answer.raise_for_status()
                    pods = await answer.json()
                present = {pod["metadata"]["uid"] for pod in pods["items"]}
                for uid in self._workers.keys() - present:
                    self._workers.pop(uid).abort()
                for pod in pods["items"]:
                    self._observe(pod)
                await self._watch_from(pods["metadata"]["resourceVersion"])
            except (aiohttp.ClientError, OSError) as error:
                log.debug("the pod watch failed: %s", error)
                await asyncio.sleep(0.2)

    async def _watch_from(self, version: str) -> None:
        """Watch until the server ends the watch: after half an hour, or because the version was compacted."""
        query = {"watch": "true", "resourceVersion": version}
        async with self._client.get("/api/v1/pods", params=query) as answer:
            answer.raise_for_status()
            async for line in answer.content:
                event = json.loads(line)
                pod = event["object"]
                if event["type"] == "ERROR":
                    return
                if event["type"] == "DELETED":
                    if worker := self._workers.pop(pod["metadata"]["uid"], None):
                        worker.abort()
                else:
                    self._observe(pod)

    def _observe(self, pod: Json) -> None:
        uid, spec = pod["metadata"]["uid"], pod["spec"]
        if "nodeName" not in spec:
            if spec["schedulerName"] == "default-scheduler":
                self._spawn(self._bind(pod))
            return
        if uid not in self._workers:
            if spec["nodeName"] != self._name or pod["status"].get("phase") in ("Succeeded", "Failed"):
                return
            self._count += 1
            self._workers[uid] = PodWorker(self, pod, self._count)
        self._workers[uid].observe(pod)

    async def _bind(self, pod: Json) -> None:
        """Bind a pod to this node. The server refuses a pod that has been bound or deleted, as intended."""
        name, namespace, uid = (pod["metadata"][key] for key in ("name", "namespace", "uid"))
        target = {"apiVersion": "v1", "kind": "Node", "name": self._name}
        binding = {"metadata": {"name": name, "uid": uid}, "target": target}
        if await self._request("POST", f"{_path(pod)}/binding", binding):
            await self.record_event(pod, "Scheduled", f"Successfully assigned {namespace}/{name} to {self._name}")


def _path(pod: Json) -> str:
    return f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"
