"""The two servers with their controllers: Job controller, garbage collector and the simulated Spark operator."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from kubernetes import client, config

from demo.cluster import EmbeddedCluster, Kubelet, SparkOperator
from tests.contract.namespace import SPEED, Server, ssl_context

SPARK_APPLICATIONS = "sparkapplications.sparkoperator.k8s.io"


# The real controllers act on the objects of all tests, so they stop after the tests of this package.
@pytest.fixture(scope="package", params=["embedded", pytest.param("real", marks=pytest.mark.cluster)])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    if request.param == "embedded":
        with EmbeddedCluster(speed=SPEED, controllers=True, spark_operator=True) as cluster:
            yield Server(cluster.kubeconfig, "demo-node", cluster.expire_continue_tokens)
        return
    control_plane = request.getfixturevalue("control_plane")
    controller_manager = request.getfixturevalue("controller_manager")
    url, trust = control_plane.url, ssl_context(control_plane.kubeconfig)
    with (
        Kubelet(url, ssl_context=trust, speed=SPEED, node_name="controllers-node"),
        SparkOperator(url, ssl_context=trust, speed=SPEED),
        # Started last, so that its garbage collector knows SparkApplications from the beginning.
        controller_manager(),
    ):
        yield Server(control_plane.kubeconfig, "controllers-node", control_plane.compact)
    api = config.new_client_from_config_dict(control_plane.kubeconfig)
    client.ApiextensionsV1Api(api).delete_custom_resource_definition(SPARK_APPLICATIONS)
