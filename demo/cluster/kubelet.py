"""A simulated node: it watches any API server, embedded or real, and simulates the containers of its pods."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Coroutine
from typing import Any

from aiohttp import web

from .background import BackgroundServer
from .certificates import self_signed_context
from .client import ApiClient
from .kubelet_http import KubeletServer
from .pod_worker import PodWorker
from .resources import Json
from .store import timestamp


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
        self._client: ApiClient
        self._runner: web.AppRunner

    async def start(self) -> None:
        self._client = ApiClient(self.url, self._ssl)
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
        await self._client.request("PATCH", f"{_path(pod)}/status", body)

    async def confirm_deletion(self, pod: Json) -> None:
        await self._client.request(
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
        await self._client.request("POST", f"/api/v1/namespaces/{metadata['namespace']}/events", event)

    def _find(self, namespace: str, name: str) -> PodWorker | None:
        path = _path({"metadata": {"namespace": namespace, "name": name}})
        return next((worker for worker in reversed(self._workers.values()) if _path(worker.pod) == path), None)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _register(self, port: int) -> None:
        """Register the node as ready. It needs no heartbeats because there is no node controller."""
        await self._client.request("POST", "/api/v1/nodes", {"metadata": {"name": self._name}})
        now = timestamp()
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "simulated"}
        status = {
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
            "conditions": [{**ready, "lastHeartbeatTime": now, "lastTransitionTime": now}],
        }
        await self._client.request("PATCH", f"/api/v1/nodes/{self._name}/status", {"status": status})

    async def _watch_pods(self) -> None:
        async for event, found in self._client.follow("/api/v1/pods"):
            if event == "LISTED":
                present = {pod["metadata"]["uid"] for pod in found["items"]}
                for uid in self._workers.keys() - present:
                    self._workers.pop(uid).abort()
                for pod in found["items"]:
                    self._observe(pod)
            elif event == "DELETED":
                if worker := self._workers.pop(found["metadata"]["uid"], None):
                    worker.abort()
            else:
                self._observe(found)

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
        """Bind a pod to this node. The server may reject the binding, because the pod has been bound or deleted."""
        name, namespace, uid = (pod["metadata"][key] for key in ("name", "namespace", "uid"))
        target = {"apiVersion": "v1", "kind": "Node", "name": self._name}
        binding = {"metadata": {"name": name, "uid": uid}, "target": target}
        if await self._client.request("POST", f"{_path(pod)}/binding", binding):
            await self.record_event(pod, "Scheduled", f"Successfully assigned {namespace}/{name} to {self._name}")


def _path(pod: Json) -> str:
    return f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"
