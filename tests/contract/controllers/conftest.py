"""The embedded server with its controllers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from demo.cluster import EmbeddedCluster
from tests.contract.namespace import SPEED, Server


@pytest.fixture(scope="package")
def server() -> Iterator[Server]:
    with EmbeddedCluster(speed=SPEED, controllers=True, spark_operator=True) as cluster:
        yield Server(cluster.kubeconfig, "demo-node", cluster.expire_continue_tokens)
