"""The API server of a test, embedded or real, and a retry policy with delays that a test can wait for."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest

from demo.cluster import EmbeddedCluster
from include.kpo_cleanup.kube.workloads import KubeClient
from include.kpo_cleanup.retry import RetryPolicy
from tests.faults.runs import QUICK
from tests.faults.servers import Server, behind_proxy, connection

CONN_ID = "faults"
PAGE_SIZE = 5
Connect = Callable[[Mapping[str, Any]], KubeClient]


@pytest.fixture(scope="session")
def embedded_server() -> Iterator[Server]:
    with EmbeddedCluster(kubelet=False, tls=True) as cluster, behind_proxy(cluster.kubeconfig) as server:
        yield server


@pytest.fixture(scope="session")
def real_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with behind_proxy(request.getfixturevalue("control_plane").kubeconfig) as server:
        yield server


@pytest.fixture(params=["embedded", pytest.param("real", marks=pytest.mark.cluster)])
def server(request: pytest.FixtureRequest) -> Server:
    """Return an API server behind a proxy that has no fault yet."""
    server: Server = request.getfixturevalue(f"{request.param}_server")
    server.proxy.heal()
    return server


@pytest.fixture
def namespace(server: Server) -> str:
    return server.create_namespace()


@pytest.fixture
def retry_policy(request: pytest.FixtureRequest) -> RetryPolicy:
    """Return a policy with short delays, and a short timeout if the test waits for it."""
    return replace(QUICK, read_timeout=0.3) if "silent" in request.node.name else QUICK


@pytest.fixture
def page_size() -> int:
    return PAGE_SIZE


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch, retry_policy: RetryPolicy, page_size: int) -> Connect:
    """Return a function that connects the client to a cluster through an Airflow connection."""

    def make(cluster: Mapping[str, Any]) -> KubeClient:
        monkeypatch.setenv(f"AIRFLOW_CONN_{CONN_ID.upper()}", json.dumps(connection(cluster)))
        return KubeClient(CONN_ID, retry_policy, page_size)

    return make


@pytest.fixture
def api(server: Server, connect: Connect) -> KubeClient:
    """Return the client, connected through the proxy."""
    return connect({"server": server.proxy.url})
