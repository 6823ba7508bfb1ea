"""A Kubernetes cluster in one Python process: an API server with real HTTP, and a simulated node.

No library offers this: kmock 0.8, the closest one, has no label selectors, no pagination and no graceful deletion.
The API server (`api`) stores objects. The Job controller and the garbage collector, if switched on, run in its process.
The kubelet (`kubelet`) runs the pods, and the Spark operator (`spark_operator`) the SparkApplications. These two are
ordinary clients and also work with a real kube-apiserver. There is no authorization.
`tests/contract` verifies that both servers behave alike wherever clients depend on it.
"""

from __future__ import annotations

import base64
import json
import ssl
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from datetime import datetime
from pathlib import Path

from aiohttp import web

from .api import Api
from .background import BackgroundServer
from .certificates import self_signed_context
from .garbage_collector import GarbageCollector
from .job_controller import JobController
from .kubelet import Kubelet
from .ownership import Ownership
from .resources import Json
from .spark_operator import SparkOperator
from .store import Store, utc_now

__all__ = ["EmbeddedCluster", "Kubelet", "SparkOperator"]


class EmbeddedCluster(BackgroundServer):
    """A cluster that runs for the duration of its `with` block, on a free port of 127.0.0.1.

    `speed` is the number of simulated seconds per real second; it applies to containers, grace periods and backoffs.
    `controllers` switches on the Job controller and the garbage collector, which deletes objects whose owners do not
    exist. `spark_operator` also defines the resource SparkApplication.
    `now` is the API server's clock.
    """

    def __init__(
        self,
        namespaces: Sequence[str] = ("default", "airflow"),
        *,
        speed: float = 10.0,
        kubelet: bool = True,
        controllers: bool = False,
        spark_operator: bool = False,
        tls: bool = False,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self.url = ""
        self._namespaces = tuple(namespaces)
        self._tls: ssl.SSLContext | None = None
        self._certificate = ""
        if tls:
            self._tls, self._certificate = self_signed_context("embedded-cluster")
        self._store = Store(now)
        self._speed = speed
        self._with_kubelet = kubelet
        self._with_controllers = controllers
        self._with_spark_operator = spark_operator
        self._components: list[BackgroundServer] = []  # clients of the API server, which stop before it
        self._runner: web.AppRunner

    @property
    def kubeconfig(self) -> Json:
        cluster: Json = {"server": self.url}
        if self._certificate:
            cluster["certificate-authority-data"] = base64.b64encode(self._certificate.encode()).decode()
        context = {"cluster": "embedded", "user": "embedded", "namespace": self._namespaces[-1]}
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "embedded",
            "clusters": [{"name": "embedded", "cluster": cluster}],
            # The server does not authenticate, but clients require a user with credentials.
            "users": [{"name": "embedded", "user": {"token": "embedded"}}],
            "contexts": [{"name": "embedded", "context": context}],
        }

    def write_kubeconfig(self, path: Path | str) -> Path:
        """Write the kubeconfig as JSON, which is also valid YAML, and return its path."""
        path = Path(path)
        path.touch(mode=0o600)
        path.write_text(json.dumps(self.kubeconfig, indent=2))
        return path

    def expire_continue_tokens(self) -> None:
        """Compact the store: earlier continue tokens, and watches from earlier versions, fail with 410 Expired."""
        self._background.run(self._compact())

    async def _compact(self) -> None:
        self._store.compact()

    def submit(self, request: web.Request) -> Future[web.StreamResponse]:
        """Answer a request of this process, which may have arrived at another server."""
        return self._background.submit(self._api.answer(request))

    async def start(self) -> None:
        if self._with_controllers:
            ownership = Ownership(self._store)
            GarbageCollector(self._store, ownership)
            JobController(self._store, ownership, self._speed)
        api = self._api = Api(self._store, self._namespaces)
        self._runner = web.AppRunner(api.application(), access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self._tls).start()
        self.url = f"{'https' if self._tls else 'http'}://127.0.0.1:{self._runner.addresses[0][1]}"
        trust = ssl.create_default_context(cadata=self._certificate) if self._tls else None
        if self._with_kubelet:
            kubelet = Kubelet(self.url, ssl_context=trust, speed=self._speed)
            api.node = kubelet.server
            await self._start(kubelet)
        if self._with_spark_operator:
            await self._start(SparkOperator(self.url, ssl_context=trust, speed=self._speed))

    async def stop(self) -> None:
        for component in reversed(self._components):
            await component.stop()
        await self._runner.cleanup()

    async def _start(self, component: BackgroundServer) -> None:
        self._components.append(component)
        await component.start()
