"""A namespace of either server with raw access to the API, and builders for its pods and Jobs."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable
from typing import Any

import requests
from kubernetes import client, config

Json = dict[str, Any]

SPEED = 20.0  # simulated seconds per real second
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
SIDECAR_COMMAND = 'trap "exit 0" INT; while true; do sleep 1; done;'  # of KPO's XCom sidecar, verbatim
EXITS_ON_SIGTERM = "trap 'exit 5' TERM; while true; do sleep 1; done"


class Server:
    """An API server with one simulated node, accessed with administrator rights."""

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


class Namespace:
    """A new namespace of a server."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.core = server.core
        self.name = f"namespace-{uuid.uuid4().hex[:8]}"
        self.core.create_namespace({"metadata": {"name": self.name}})

    @property
    def pods(self) -> str:
        return f"/api/v1/namespaces/{self.name}/pods"

    @property
    def jobs(self) -> str:
        return f"/apis/batch/v1/namespaces/{self.name}/jobs"

    def request(
        self, method: str, path: str, body: Any = None, content_type: str = "application/json", **query: Any
    ) -> tuple[int, Json]:
        """Send a request. A trailing underscore in the name of a query parameter is dropped."""
        response = self.server.http.request(
            method,
            self.server.url + path,
            params={key.removesuffix("_"): value for key, value in query.items()},
            data=None if body is None else json.dumps(body),
            headers={"Content-Type": content_type},
            timeout=30,
        )
        return response.status_code, response.json()

    def call(self, method: str, path: str, *request: Any, **query: Any) -> Json:
        """Send a request that must succeed, and return the body of the response."""
        code, body = self.request(method, path, *request, **query)
        assert code < 400, body
        return body

    def request_error(self, method: str, path: str, *request: Any, **query: Any) -> Json:
        """Send a request that must fail, and return its Status without the fields that are equal in all errors."""
        code, status = self.request(method, path, *request, **query)
        common = {key: status.pop(key) for key in ("kind", "apiVersion", "status")}
        assert common == {"kind": "Status", "apiVersion": "v1", "status": "Failure"}
        assert status["code"] == code
        if causes := status.get("details", {}).get("causes"):
            # The real server validates a pod's metadata more than once and repeats the causes.
            status["details"]["causes"] = [cause for i, cause in enumerate(causes) if cause not in causes[:i]]
        return status

    def create_pod(self, name: str, **overrides: Any) -> Json:
        """Create a pod that no scheduler binds."""
        return self.call("POST", self.pods, pod(name, **overrides))

    def run_pod(self, name: str, *containers: Json, **overrides: Any) -> Json:
        """Create a pod on the simulated node."""
        if containers:
            overrides["containers"] = list(containers)
        return self.create_pod(name, nodeName=self.server.node, **overrides)

    def find(self, path: str) -> Json:
        """Return an object, or an empty dict if it does not exist."""
        code, found = self.request("GET", path)
        assert code in (200, 404)
        return found if code == 200 else {}

    def get_pod(self, name: str) -> Json:
        """Return a pod, or an empty dict if it does not exist."""
        return self.find(f"{self.pods}/{name}")

    def pod_names(self, **query: str) -> list[str]:
        """List pods, and return their names in the order of the response."""
        return names_in(self.call("GET", self.pods, **query))

    def bind_pod(self, name: str) -> None:
        """Bind a pod to a node without a kubelet, so that its status does not change."""
        target = {"apiVersion": "v1", "kind": "Node", "name": "nowhere"}
        self.call("POST", f"{self.pods}/{name}/binding", {"metadata": {"name": name}, "target": target})

    def patch_pod(self, name: str, body: Json) -> Json:
        return self.call("PATCH", f"{self.pods}/{name}", body, MERGE)

    def set_phase(self, name: str, phase: str) -> None:
        self.patch_pod(f"{name}/status", {"status": {"phase": phase}})

    def delete_pod(self, name: str, **options: Any) -> Json:
        return self.call("DELETE", f"{self.pods}/{name}", options or None)

    def wait_for(self, path: str, condition: Callable[[Json], Any], timeout: float = 20.0) -> Json:
        """Wait until the condition holds for an object or a list, and return it."""
        end = time.monotonic() + timeout
        while not condition(found := self.find(path)):
            assert time.monotonic() < end, f"timed out waiting for {path}: {json.dumps(found, indent=1)}"
            time.sleep(0.02)
        return found

    def wait_until(self, name: str, condition: Callable[[Json], Any]) -> Json:
        """Wait until the condition holds for a pod, and return the pod."""
        return self.wait_for(f"{self.pods}/{name}", condition)

    def wait_for_phase(self, name: str, *phases: str) -> Json:
        return self.wait_until(name, lambda found: found and found["status"]["phase"] in phases)

    def wait_until_gone(self, name: str) -> None:
        self.wait_until(name, lambda found: not found)


def pod(name: str, *, labels: Json | None = None, metadata: Json | None = None, **spec: Any) -> Json:
    containers = spec.pop("containers", None) or [container("base")]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels or {}, **(metadata or {})},
        "spec": {"containers": containers, "restartPolicy": "Never", "schedulerName": "nobody", **spec},
    }


def job(name: str, script: str = "true", *, labels: Json | None = None, **spec: Any) -> Json:
    """Return a Job whose pods run the script, and whose template has the labels."""
    template = {"metadata": {"labels": labels or {}}, "spec": pod("", containers=[container("base", script)])["spec"]}
    template["spec"]["schedulerName"] = "default-scheduler"
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": {"template": template, **spec}}


def container(name: str, script: str = "true", **fields: Any) -> Json:
    return {"name": name, "image": "busybox:1", "command": ["/bin/sh", "-c", script], **fields}


def states(found: Json) -> Json:
    """Map each container's name to its exit code if it has terminated, or to the name of its state."""
    by_name: Json = {}
    for status in found["status"].get("containerStatuses", []):
        kind = next(iter(status["state"]))
        by_name[status["name"]] = status["state"][kind]["exitCode"] if kind == "terminated" else kind
    return by_name


def names_in(found: Json) -> list[str]:
    """Return the names of the objects in a list."""
    return [item["metadata"]["name"] for item in found["items"]]


def conditions(found: Json) -> Json:
    """Map each condition's type to its status."""
    return {condition["type"]: condition["status"] for condition in found["status"].get("conditions", [])}
