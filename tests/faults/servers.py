"""The API servers of the tests: the embedded one and the real one, each behind a proxy."""

from __future__ import annotations

import base64
import json
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from tempfile import NamedTemporaryFile
from typing import Any, cast
from urllib.parse import parse_qsl, urlsplit

import urllib3
from aiohttp import web

from demo.cluster import EmbeddedCluster
from tests.proxy import FaultProxy

TIMEOUT = 30  # seconds
CONNECTIONS = 20  # more than are used at once
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


class Server:
    """An API server behind a proxy. The tests themselves bypass the proxy."""

    def __init__(self, kubeconfig: Mapping[str, Any], proxy: FaultProxy, context: ssl.SSLContext | None) -> None:
        self.proxy = proxy
        self.url: str = _cluster(kubeconfig)["server"]
        self.cluster: dict[str, Any] = {**_cluster(kubeconfig), "plain": proxy.url}
        self._http = urllib3.PoolManager(maxsize=CONNECTIONS, ssl_context=context)

    def call(self, method: str, path: str, body: Any = None, content_type: str = "application/json") -> Any:
        """Send one request, which must succeed.

        :param path: the path within the core API, or from the root if it starts with a slash.
        """
        data = None if body is None else json.dumps(body)
        root = self.url if path.startswith("/") else f"{self.url}/api/v1/"
        headers, url = {"Content-Type": content_type}, f"{root}{path}"
        answer = self._http.request(method, url, body=data, headers=headers, timeout=TIMEOUT, retries=False)
        assert answer.status < 400, answer.data
        return json.loads(answer.data)

    def exists(self, path: str) -> bool:
        """Return whether the server serves this path from the root."""
        return self._http.request("GET", f"{self.url}{path}", timeout=TIMEOUT, retries=False).status == 200

    def define(self, definition: Mapping[str, Any]) -> None:
        """Define a custom resource if it is not defined, and wait until it is served.

        It stays defined for the next test: a real server takes up to 5 s to delete a definition that has objects.
        """
        if not self.exists(f"{DEFINITIONS}/{definition['metadata']['name']}"):
            self.call("POST", DEFINITIONS, definition)
        _wait_until(lambda: self.exists(_resource(definition)))

    def undefine(self, definition: Mapping[str, Any]) -> None:
        """Delete the definition of a custom resource if there is one, and wait until it is no longer served."""
        path = f"{DEFINITIONS}/{definition['metadata']['name']}"
        if self.exists(path):
            self.call("DELETE", path)
        _wait_until(lambda: not self.exists(path) and not self.exists(_resource(definition)))

    def create_namespace(self) -> str:
        """Create a namespace for one test."""
        created = self.call("POST", "namespaces", {"metadata": {"generateName": "faults-"}})
        return str(created["metadata"]["name"])

    def create_pod(
        self, namespace: str, name: str, labels: Mapping[str, str], container: str = "base", **metadata: Any
    ) -> dict[str, Any]:
        """Create a pod, which stays Pending because there is no kubelet."""
        body = {
            "metadata": {"name": name, "labels": dict(labels), **metadata},
            "spec": {
                "containers": [{"name": container, "image": "busybox"}],
                "restartPolicy": "Never",
                "schedulerName": "nobody",  # so that the kubelet of other tests on this server does not run it
            },
        }
        pod: dict[str, Any] = self.call("POST", f"namespaces/{namespace}/pods", body)
        return pod

    def bind(self, namespace: str, name: str) -> None:
        """Bind a pod to a node, like a scheduler: only such a pod has a grace period."""
        binding = {"metadata": {"name": name}, "target": {"kind": "Node", "name": "node-1"}}
        self.call("POST", f"namespaces/{namespace}/pods/{name}/binding", binding)

    def set_status(self, namespace: str, name: str, **status: Any) -> None:
        """Write the status, like a kubelet."""
        path = f"namespaces/{namespace}/pods/{name}/status"
        self.call("PATCH", path, {"status": status}, "application/merge-patch+json")

    def start(self, namespace: str, name: str) -> None:
        """Report a pod as running, like a kubelet."""
        running = {"name": "base", "state": {"running": {"startedAt": "2026-11-24T12:00:00Z"}}}
        self.set_status(namespace, name, phase="Running", containerStatuses=[running])

    def patch(self, namespace: str, name: str, metadata: Mapping[str, Any]) -> None:
        """Patch the metadata, like a person with kubectl."""
        path = f"namespaces/{namespace}/pods/{name}"
        self.call("PATCH", path, {"metadata": metadata}, "application/merge-patch+json")

    def pods(self, namespace: str) -> dict[str, dict[str, Any]]:
        """Return all pods by name."""
        items = self.call("GET", f"namespaces/{namespace}/pods")["items"]
        return {item["metadata"]["name"]: item for item in items}

    def delete(self, namespace: str, name: str, **options: Any) -> None:
        """Delete a pod, by default without a grace period."""
        self.call("DELETE", f"namespaces/{namespace}/pods/{name}", {"gracePeriodSeconds": 0, **options})


def _resource(definition: Mapping[str, Any]) -> str:
    """Return the path of a custom resource."""
    spec = definition["spec"]
    return f"/apis/{spec['group']}/{spec['versions'][0]['name']}/{spec['names']['plural']}"


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, f"timed out after {TIMEOUT} s"
        time.sleep(0.05)


@dataclass
class _Request:
    """What the embedded API server uses of a request."""

    method: str
    path: str
    query: dict[str, str]
    content_type: str
    body: bytes

    async def read(self) -> bytes:
        return self.body


class EmbeddedServer(Server):
    """An embedded API server without TLS, which the tests call without HTTP. The random histories need the speed."""

    def __init__(self, cluster: EmbeddedCluster, proxy: FaultProxy) -> None:
        super().__init__(cluster.kubeconfig, proxy, None)
        self._submit = cluster.submit

    def call(self, method: str, path: str, body: Any = None, content_type: str = "application/json") -> Any:
        url = urlsplit(path if path.startswith("/") else f"/api/v1/{path}")
        data = b"" if body is None else json.dumps(body).encode()
        request = _Request(method, url.path, dict(parse_qsl(url.query)), content_type, data)
        answer = self._submit(cast(web.Request, request)).result(TIMEOUT)
        assert isinstance(answer, web.Response)
        assert isinstance(answer.body, bytes)
        assert answer.status < 400, answer.body
        return json.loads(answer.body)


def context_of(kubeconfig: Mapping[str, Any]) -> ssl.SSLContext | None:
    """Return a TLS context with the CA and the client certificate of a kubeconfig, or None if it has no CA."""
    authority, user = _cluster(kubeconfig).get("certificate-authority-data"), kubeconfig["users"][0]["user"]
    if not authority:
        return None
    context = ssl.create_default_context(cadata=base64.b64decode(authority).decode())
    if "client-key-data" in user:
        with NamedTemporaryFile() as both:
            both.write(base64.b64decode(user["client-certificate-data"]) + base64.b64decode(user["client-key-data"]))
            both.flush()
            context.load_cert_chain(both.name)
    return context


@contextmanager
def without_http(cluster: EmbeddedCluster) -> Iterator[Server]:
    """Start a proxy that passes requests on to an embedded API server in this process."""
    with FaultProxy(cluster.submit) as proxy:
        yield EmbeddedServer(cluster, proxy)


@contextmanager
def behind_proxy(kubeconfig: Mapping[str, Any]) -> Iterator[Server]:
    """Start a proxy, which has the credentials, in front of the API server of a kubeconfig."""
    context = context_of(kubeconfig)
    with FaultProxy(_cluster(kubeconfig)["server"], context) as proxy:
        yield Server(kubeconfig, proxy, context)


def connection(cluster: Mapping[str, Any], namespace: str = "default") -> dict[str, Any]:
    """Return an Airflow connection to the API server at this address, without credentials."""
    kubeconfig = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "it",
        "clusters": [{"name": "it", "cluster": {k: v for k, v in cluster.items() if k != "plain"}}],
        "users": [{"name": "it", "user": {}}],
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
    }
    return {"conn_type": "kubernetes", "extra": {"kube_config": kubeconfig, "namespace": namespace}}


def _cluster(kubeconfig: Mapping[str, Any]) -> dict[str, Any]:
    cluster: dict[str, Any] = kubeconfig["clusters"][0]["cluster"]
    return cluster
