"""The API server of a test, embedded or real, and timeouts that a test can wait for."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from tenacity import wait_random

from demo.cluster import EmbeddedCluster
from include.kpo_cleanup.kube import client as kube
from include.kpo_cleanup.kube import pods
from include.kpo_cleanup.kube.pods import PodApi
from tests.faults.servers import Server, behind_proxy, connection

CONN_ID = "faults"
PAGE_SIZE = 5
Connect = Callable[[Mapping[str, Any]], PodApi]


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
    """Healthy, and behind a proxy."""
    server: Server = request.getfixturevalue(f"{request.param}_server")
    server.proxy.heal()
    return server


@pytest.fixture
def namespace(server: Server) -> str:
    return server.create_namespace()


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Connect:
    """Make the product's client out of an Airflow connection to the address of a cluster."""

    def make(cluster: Mapping[str, Any]) -> PodApi:
        monkeypatch.setenv(f"AIRFLOW_CONN_{CONN_ID.upper()}", json.dumps(connection(cluster)))
        return PodApi(CONN_ID)

    return make


@pytest.fixture
def api(server: Server, connect: Connect) -> PodApi:
    """The product's client, by way of the proxy."""
    return connect({"server": server.proxy.url})


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    monkeypatch.setattr(kube, "CONNECT_TIMEOUT", 2)
    # As long as a busy machine may need; only where a timeout is what the test waits for, shorter.
    monkeypatch.setattr(kube, "READ_TIMEOUT", 0.3 if "silent" in request.node.name else 1)
    monkeypatch.setattr(kube, "MAX_WAIT", 1)
    monkeypatch.setattr(kube, "_backoff", wait_random(0, 0.02))
    monkeypatch.setattr(pods, "PAGE_SIZE", PAGE_SIZE)
