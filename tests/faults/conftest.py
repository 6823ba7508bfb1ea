"""The API server of a test, embedded or real, and timeouts for which a test can wait."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest

from demo.cluster import EmbeddedCluster
from include.kpo_cleanup.kube.pods import PodClient
from include.kpo_cleanup.retry import RetryPolicy
from tests.faults.runs import QUICK
from tests.faults.servers import Server, behind_proxy, connection

CONN_ID = "faults"
PAGE_SIZE = 5
ATTEMPTS = 5
Connect = Callable[[Mapping[str, Any]], PodClient]


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
    """Put a healthy server behind a proxy."""
    server: Server = request.getfixturevalue(f"{request.param}_server")
    server.proxy.heal()
    return server


@pytest.fixture
def namespace(server: Server) -> str:
    return server.create_namespace()


@pytest.fixture
def patience(request: pytest.FixtureRequest) -> RetryPolicy:
    """Make a patience that is short enough for a test; its timeout is shorter if the test waits for it."""
    return replace(QUICK, read_timeout=0.3) if "silent" in request.node.name else QUICK


@pytest.fixture
def page_size() -> int:
    return PAGE_SIZE


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch, patience: RetryPolicy, page_size: int) -> Connect:
    """Make the product's client out of an Airflow connection to the address of a cluster."""

    def make(cluster: Mapping[str, Any]) -> PodClient:
        monkeypatch.setenv(f"AIRFLOW_CONN_{CONN_ID.upper()}", json.dumps(connection(cluster)))
        return PodClient(CONN_ID, patience, page_size)

    return make


@pytest.fixture
def api(server: Server, connect: Connect) -> PodClient:
    """Make the product's client, which goes through the proxy."""
    return connect({"server": server.proxy.url})
