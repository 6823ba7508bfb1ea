"""A real kube-apiserver that is filled with pods of the operator by the ten thousand.

Two pods are made through the API, so that all that the server adds to a pod is there (defaults, `managedFields`). The
others are copies of what it then stored, written to etcd with names, uids and ids of their own, which have the same
length: through the API alone, 60,000 pods would take minutes.
"""

from __future__ import annotations

import base64
import json
import os
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import requests
from kubernetes import client, config

from bench.pod_template import MANAGER, ids_of, name_of, pod, status
from include.kpo_cleanup.identity import to_label_value
from tests.control_plane import ControlPlane

CONN_ID = "bench"
PUTS = 100  # in one transaction of etcd, which takes 128

# The tests switch it off, to make a continue token expire. Without the flag the server has it on.
AS_SHIPPED = "--feature-gates=ListFromCacheSnapshot=true"


class Cluster:
    """The API server, and the Airflow connection `CONN_ID` to it."""

    def __init__(self, stack: ExitStack) -> None:
        self.control_plane = stack.enter_context(ControlPlane(apiserver_flags=[AS_SHIPPED]))
        self._admin = client.CoreV1Api(config.new_client_from_config_dict(self.control_plane.kubeconfig))
        # Not the admin's, for whom the API server has no limits.
        kubeconfig = self._make_account()
        self.core = client.CoreV1Api(config.new_client_from_config_dict(kubeconfig))
        self._etcd = stack.enter_context(requests.Session())
        self._etcd.trust_env = False
        extra = {"kube_config": kubeconfig}
        os.environ[f"AIRFLOW_CONN_{CONN_ID.upper()}"] = json.dumps({"conn_type": "kubernetes", "extra": extra})
        self._namespaces: set[str] = set()
        self._templates = {is_zombie: self._make_template(is_zombie) for is_zombie in (False, True)}

    def put(self, namespace: str, numbers: Sequence[int], is_zombie: bool = False) -> None:
        """Have the pods of these numbers, with new uids. They may be there already."""
        self._need_namespace(namespace)
        copy = self._templates[is_zombie]
        for start in range(0, len(numbers), PUTS):
            puts = [{"requestPut": copy(namespace, number)} for number in numbers[start : start + PUTS]]
            self._call("txn", {"success": puts})
        # The API server takes its cache for fresh when it has seen one write of a revision, and a transaction is one
        # revision. A later one, of a pod that nobody looks at, makes it wait for all.
        self._call("put", copy(namespace_of(0), 0))

    def fill(self, count: int) -> str:
        """Have a namespace with so many live pods; gives its name."""
        namespace = namespace_of(count)
        if namespace not in self._namespaces:
            self.put(namespace, range(count))
        return namespace

    def metrics(self) -> str:
        """Read what the API server counts."""
        answer = self._admin.api_client.call_api("/metrics", "GET", _preload_content=False)
        return bytes(answer.data).decode()

    def _make_account(self) -> dict[str, Any]:
        """Make a service account that may do anything; gives its kubeconfig."""
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

    def _need_namespace(self, namespace: str) -> None:
        if namespace not in self._namespaces:
            self._admin.create_namespace({"metadata": {"name": namespace}})
            self._namespaces.add(namespace)

    def _make_template(self, is_zombie: bool) -> Callable[[str, int], dict[str, str]]:
        """Make one pod through the API; gives what copies it into an entry of etcd."""
        home, original = namespace_of(0), int(is_zombie)
        self._need_namespace(home)
        made = self._admin.create_namespaced_pod(home, pod(original), field_manager=MANAGER)
        self._admin.patch_namespaced_pod_status(
            made.metadata.name, home, {"status": status(is_zombie)}, field_manager="kubelet"
        )
        (entry,) = self._call("range", {"key": _base64(_key(home, original))})["kvs"]
        template = base64.b64decode(entry["value"])

        def copy(namespace: str, number: int) -> dict[str, str]:
            value = template.replace(made.metadata.uid.encode(), str(uuid.uuid4()).encode())
            for old, new in zip(_texts(home, original), _texts(namespace, number), strict=True):
                if len(old) != len(new):  # the value is protobuf, which tells lengths
                    raise ValueError(f"{new!r} is not as long as {old!r}")
                value = value.replace(old.encode(), new.encode())
            return {"key": _base64(_key(namespace, number)), "value": base64.b64encode(value).decode()}

        return copy

    def _call(self, call: str, body: Any) -> Any:
        answer = self._etcd.post(f"{self.control_plane.etcd_url}/v3/kv/{call}", json=body, timeout=60)
        answer.raise_for_status()
        return answer.json()


def namespace_of(count: int) -> str:
    """Name the namespace for so many pods; all names are equally long."""
    return f"pods-{count:06}"


def _texts(namespace: str, number: int) -> list[str]:
    return [namespace, name_of(number), *map(to_label_value, ids_of(number).values())]


def _key(namespace: str, number: int) -> str:
    return f"/registry/pods/{namespace}/{name_of(number)}"


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
