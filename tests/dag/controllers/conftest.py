"""A cluster with a Job controller, a garbage collector and a Spark operator, behind a proxy of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from kubernetes import client, config

from demo.cluster import EmbeddedCluster
from tests.controllers import running_controllers
from tests.dag.conftest import NAMESPACES, SPEED, Cluster, connection_to, create_namespaces
from tests.faults.servers import context_of
from tests.proxy import FaultProxy


# These override the fixtures of the other tests, whose pods have owners that do not exist: the garbage collector would
# delete them. The real controllers act on the objects of all tests, so they stop after the tests of this package.
@pytest.fixture(scope="package", params=["embedded", pytest.param("real", marks=pytest.mark.cluster)])
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    if request.param == "embedded":
        with EmbeddedCluster(NAMESPACES, speed=SPEED, controllers=True, spark_operator=True) as embedded:
            yield Cluster(embedded.kubeconfig, None)
        return
    control_plane = request.getfixturevalue("control_plane")
    create_namespaces(control_plane.kubeconfig)
    with running_controllers(control_plane, request.getfixturevalue("controller_manager"), SPEED):
        yield Cluster(control_plane.kubeconfig, context_of(control_plane.kubeconfig))


@pytest.fixture(scope="package")
def core(cluster: Cluster) -> client.CoreV1Api:
    return client.CoreV1Api(config.new_client_from_config_dict(cluster.kubeconfig))


@pytest.fixture(scope="package")
def _proxy(cluster: Cluster, _database: None) -> Iterator[FaultProxy]:
    with FaultProxy(cluster.url, cluster.ssl_context) as proxy, connection_to(proxy.url, {}, "controllers.json"):
        yield proxy


@pytest.fixture
def log_text(caplog: pytest.LogCaptureFixture) -> Callable[[], str]:
    """Join the lines of the log of all tasks into one line."""
    caplog.set_level("INFO")
    return lambda: " ".join(" ".join(caplog.messages).split())
