"""The two servers that must behave alike, each with the same simulated node."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from demo.cluster import EmbeddedCluster, Kubelet
from tests.contract.namespace import SPEED, Namespace, Server
from tests.faults.servers import context_of


@pytest.fixture(scope="session", params=["embedded", pytest.param("real", marks=pytest.mark.cluster)])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    if request.param == "embedded":
        with EmbeddedCluster(speed=SPEED) as cluster:
            yield Server(cluster.kubeconfig, "demo-node", cluster.expire_continue_tokens)
        return
    control_plane = request.getfixturevalue("control_plane")
    trust = context_of(control_plane.kubeconfig)
    # A node of its own, because other tests may run a node on the same server.
    with Kubelet(control_plane.url, ssl_context=trust, speed=SPEED, node_name="contract-node"):
        yield Server(control_plane.kubeconfig, "contract-node", control_plane.compact)


@pytest.fixture
def namespace(server: Server) -> Namespace:
    """Create a namespace for one test."""
    return Namespace(server)
