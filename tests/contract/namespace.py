"""A namespace of either server, with raw access to the API, and builders for its pods."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable
from typing import Any

import requests
from kubernetes import client, config

Json = dict[str, Any]

SPEED = 20.0  # simulated seconds per second
MERGE = "application/merge-patch+json"
SIDECAR_COMMAND = 'trap "exit 0" INT; while true; do sleep 1; done;'  # of KPO's xcom sidecar, word for word
OBEDIENT = "trap 'exit 5' TERM; while true; do sleep 1; done"


class Server:
    """An API server as its administrator sees it, with one simulated node."""

    def __init__(self, kubeconfig: Json, node: str, expire_continue_tokens: Callable[[], None]) -> None:
        self.kubeconfig = kubeconfig
        self.node = node
        self.expire_continue_tokens = expire_continue_tokens
        self.core = client.CoreV1Api(config.new_client_from_config_dict(kubeconfig))
        settings = self.core.api_client.configuration
        self.url: str = settings.host
        self.http = requests.Session()
        self.http.trust_env = False
        self.http.verify = settings.ssl_ca_cert
        self.http.cert = (settings.cert_file, settings.key_file) if settings.cert_file else None


class Space:
    def __init__(self, server: Server) -> None:
        self.server = server
        self.core = server.core
        self.name = f"space-{uuid.uuid4().hex[:8]}"
        self.core.create_namespace({"metadata": {"name": self.name}})

    @property
    def pods(self) -> str:
        return f"/api/v1/namespaces/{self.name}/pods"

    def request(
        self, method: str, path: str, body: Any = None, content_type: str = "application/json", **query: Any
    ) -> tuple[int, Json]:
        """Make a request; a trailing underscore is dropped from the names of query parameters."""
        answer = self.server.http.request(
            method,
            self.server.url + path,
            params={key.removesuffix("_"): value for key, value in query.items()},
            data=None if body is None else json.dumps(body),
            headers={"Content-Type": content_type},
            timeout=30,
        )
        return answer.status_code, answer.json()

    def call(self, method: str, path: str, *request: Any, **query: Any) -> Json:
        code, answer = self.request(method, path, *request, **query)
        assert code < 400, answer
        return answer

    def fails(self, method: str, path: str, *request: Any, **query: Any) -> Json:
        """Return the body of the error, without the parts that all errors have in common."""
        code, status = self.request(method, path, *request, **query)
        common = {key: status.pop(key) for key in ("kind", "apiVersion", "status")}
        assert common == {"kind": "Status", "apiVersion": "v1", "status": "Failure"}
        assert status["code"] == code
        if causes := status.get("details", {}).get("causes"):
            # The real server checks a pod's metadata more than once, and repeats what it finds.
            status["details"]["causes"] = [cause for i, cause in enumerate(causes) if cause not in causes[:i]]
        return status

    def create(self, name: str, **overrides: Any) -> Json:
        """Make a pod that no scheduler takes."""
        return self.call("POST", self.pods, pod(name, **overrides))

    def run(self, name: str, *containers: Json, **overrides: Any) -> Json:
        """Make a pod on the simulated node."""
        if containers:
            overrides["containers"] = list(containers)
        return self.create(name, nodeName=self.server.node, **overrides)

    def get(self, name: str) -> Json:
        """Read a pod; empty if there is none."""
        code, found = self.request("GET", f"{self.pods}/{name}")
        assert code in (200, 404)
        return found if code == 200 else {}

    def listed(self, **query: str) -> list[str]:
        return [item["metadata"]["name"] for item in self.call("GET", self.pods, **query)["items"]]

    def bind(self, name: str) -> None:
        """Bind a pod to a node without a kubelet, so that the pod stays as it is."""
        target = {"apiVersion": "v1", "kind": "Node", "name": "nowhere"}
        self.call("POST", f"{self.pods}/{name}/binding", {"metadata": {"name": name}, "target": target})

    def patch(self, name: str, body: Json) -> Json:
        return self.call("PATCH", f"{self.pods}/{name}", body, MERGE)

    def set_phase(self, name: str, phase: str) -> None:
        self.patch(f"{name}/status", {"status": {"phase": phase}})

    def delete(self, name: str, **options: Any) -> Json:
        return self.call("DELETE", f"{self.pods}/{name}", options or None)

    def until(self, name: str, condition: Callable[[Json], Any], timeout: float = 10.0) -> Json:
        end = time.monotonic() + timeout
        while not condition(found := self.get(name)):
            assert time.monotonic() < end, f"{name} never got there: {json.dumps(found.get('status'), indent=1)}"
            time.sleep(0.02)
        return found

    def until_phase(self, name: str, *phases: str) -> Json:
        return self.until(name, lambda found: found and found["status"]["phase"] in phases)

    def until_gone(self, name: str) -> None:
        self.until(name, lambda found: not found)


def pod(name: str, *, labels: Json | None = None, metadata: Json | None = None, **spec: Any) -> Json:
    containers = spec.pop("containers", None) or [container("base")]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels or {}, **(metadata or {})},
        "spec": {"containers": containers, "restartPolicy": "Never", "schedulerName": "nobody", **spec},
    }


def container(name: str, script: str = "true", **fields: Any) -> Json:
    return {"name": name, "image": "busybox:1", "command": ["/bin/sh", "-c", script], **fields}


def states(found: Json) -> Json:
    """Map each container's name to its exit code, or to the name of its state."""
    shown: Json = {}
    for status in found["status"].get("containerStatuses", []):
        kind = next(iter(status["state"]))
        shown[status["name"]] = status["state"][kind]["exitCode"] if kind == "terminated" else kind
    return shown


def conditions(found: Json) -> Json:
    return {condition["type"]: condition["status"] for condition in found["status"].get("conditions", [])}
