"""The two servers with their controllers: Job controller, garbage collector and the simulated Spark operator."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from demo.cluster import EmbeddedCluster
from tests.contract.namespace import SPEED, Server
from tests.controllers import NODE, running_controllers


# The real controllers act on the objects of all tests, so they stop after the tests of this package.
@pytest.fixture(scope="package", params=["embedded", pytest.param("real", marks=pytest.mark.cluster)])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    if request.param == "embedded":
        with EmbeddedCluster(speed=SPEED, controllers=True, spark_operator=True) as cluster:
            yield Server(cluster.kubeconfig, "demo-node", cluster.expire_continue_tokens)
        return
    control_plane = request.getfixturevalue("control_plane")
    with running_controllers(control_plane, request.getfixturevalue("controller_manager"), SPEED):
        yield Server(control_plane.kubeconfig, NODE, control_plane.compact)
