"""A real kube-apiserver with tens of thousands of operator pods.

Two pods are created through the API, so that they contain everything that the server adds (defaults, `managedFields`).
All others are copies of the stored objects, written directly to etcd with their own names, uids and ids of the same
length, because creating 60,000 pods through the API would take minutes.
"""

from __future__ import annotations

import base64
import json
import os
import re
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import requests
from kubernetes import client, config

from bench.pod_template import FIELD_MANAGER, ids_of, name_of, pod, status
from include.kpo_cleanup.identity import to_label_value
from tests.control_plane import ControlPlane

CONN_ID = "bench"
PUTS = 100  # per etcd transaction; the limit is 128

# The control plane of the tests disables this feature to make continue tokens expire. It is enabled by default.
DEFAULT_FEATURES = "--feature-gates=ListFromCacheSnapshot=true"


class Cluster:
    """An API server, and the Airflow connection `CONN_ID` to it."""

    def __init__(self, stack: ExitStack) -> None:
        self.control_plane = stack.enter_context(ControlPlane(apiserver_flags=[DEFAULT_FEATURES]))
        self._admin = client.CoreV1Api(config.new_client_from_config_dict(self.control_plane.kubeconfig))
        # A service account, because the API server does not apply its fairness limits to administrators.
        kubeconfig = self._create_service_account()
        self.core = client.CoreV1Api(config.new_client_from_config_dict(kubeconfig))
        self._etcd = stack.enter_context(requests.Session())
        self._etcd.trust_env = False
        extra = {"kube_config": kubeconfig}
        os.environ[f"AIRFLOW_CONN_{CONN_ID.upper()}"] = json.dumps({"conn_type": "kubernetes", "extra": extra})
        self._namespaces: set[str] = set()
        self._templates = {is_zombie: self._create_template(is_zombie) for is_zombie in (False, True)}

    def put(self, namespace: str, numbers: Sequence[int], is_zombie: bool = False) -> None:
        """Create or replace the pods with these numbers; each gets a new uid."""
        self._ensure_namespace(namespace)
        copy = self._templates[is_zombie]
        for start in range(0, len(numbers), PUTS):
            puts = [{"requestPut": copy(namespace, number)} for number in numbers[start : start + PUTS]]
            self._call("txn", {"success": puts})
        # The API server considers its cache fresh once it has seen one write of a revision, and a transaction is a
        # single revision. A later write, to a pod that is not used, makes it wait for the whole transaction.
        self._call("put", copy(namespace_of(0), 0))

    def fill(self, count: int) -> str:
        """Fill a namespace with `count` live pods, unless it exists, and return its name."""
        namespace = namespace_of(count)
        if namespace not in self._namespaces:
            self.put(namespace, range(count))
        return namespace

    def metrics(self) -> str:
        """Return the metrics of the API server."""
        response = self._admin.api_client.call_api("/metrics", "GET", _preload_content=False)
        return bytes(response.data).decode()

    def traffic_of(self, call: Callable[[], object]) -> tuple[float, float]:
        """Return how many requests about pods a call causes, and the bytes of the responses."""
        before = self._traffic()
        call()
        requests, size = (after - earlier for earlier, after in zip(before, self._traffic(), strict=True))
        return requests, size

    def _traffic(self) -> tuple[float, float]:
        """Return the number of the requests about pods so far, except for watches, and the bytes of the responses."""
        metrics = self.metrics()

        def total(name: str) -> float:
            samples = re.findall(rf"^{name}{{(.*)}} (\S+)$", metrics, re.M)
            return sum(
                float(value) for labels, value in samples if 'resource="pods"' in labels and "WATCH" not in labels
            )

        return total("apiserver_request_total"), total("apiserver_response_sizes_sum")

    def _create_service_account(self) -> dict[str, Any]:
        """Create a service account with all permissions, and return its kubeconfig."""
        account = {"namespace": "default", "name": CONN_ID}
        self._admin.create_namespaced_service_account("default", {"metadata": {"name": CONN_ID}})
        client.RbacAuthorizationV1Api(self._admin.api_client).create_cluster_role_binding(
            {
                "metadata": {"name": CONN_ID},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
                "subjects": [{"kind": "ServiceAccount", **account}],
            }
        )
        return self.control_plane.kubeconfig_for_service_account(**account)

    def _ensure_namespace(self, namespace: str) -> None:
        if namespace not in self._namespaces:
            self._admin.create_namespace({"metadata": {"name": namespace}})
            self._namespaces.add(namespace)

    def _create_template(self, is_zombie: bool) -> Callable[[str, int], dict[str, str]]:
        """Create one pod through the API, and return a function that builds an etcd entry for a copy of it."""
        home, original = namespace_of(0), int(is_zombie)
        self._ensure_namespace(home)
        created = self._admin.create_namespaced_pod(home, pod(original), field_manager=FIELD_MANAGER)
        self._admin.patch_namespaced_pod_status(
            created.metadata.name, home, {"status": status(is_zombie)}, field_manager="kubelet"
        )
        (entry,) = self._call("range", {"key": _base64(_key(home, original))})["kvs"]
        template = base64.b64decode(entry["value"])

        def copy(namespace: str, number: int) -> dict[str, str]:
            value = template.replace(created.metadata.uid.encode(), str(uuid.uuid4()).encode())
            for old, new in zip(_varying_texts(home, original), _varying_texts(namespace, number), strict=True):
                if len(old) != len(new):  # the value is protobuf, which stores lengths
                    raise ValueError(f"{new!r} must be as long as {old!r}")
                value = value.replace(old.encode(), new.encode())
            return {"key": _base64(_key(namespace, number)), "value": base64.b64encode(value).decode()}

        return copy

    def _call(self, call: str, body: Any) -> Any:
        response = self._etcd.post(f"{self.control_plane.etcd_url}/v3/kv/{call}", json=body, timeout=60)
        response.raise_for_status()
        return response.json()


def namespace_of(count: int) -> str:
    """Return the name of the namespace for `count` pods; all names have the same length."""
    return f"pods-{count:06}"


def _varying_texts(namespace: str, number: int) -> list[str]:
    return [namespace, name_of(number), *map(to_label_value, ids_of(number).values())]


def _key(namespace: str, number: int) -> str:
    return f"/registry/pods/{namespace}/{name_of(number)}"


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
