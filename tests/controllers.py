"""The controllers of a real API server: kube-controller-manager, and the simulated kubelet and Spark operator."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from demo.cluster import Kubelet, SparkOperator
from tests.control_plane import ControlPlane
from tests.control_plane_fixture import ControllerManager
from tests.faults.servers import context_of

NODE = "controllers-node"


@contextmanager
def running_controllers(
    control_plane: ControlPlane, controller_manager: ControllerManager, speed: float
) -> Iterator[None]:
    """Start all controllers and a node for their pods; stop them at the end of the `with` block."""
    url, trust = control_plane.url, context_of(control_plane.kubeconfig)
    with (
        Kubelet(url, ssl_context=trust, speed=speed, node_name=NODE),
        SparkOperator(url, ssl_context=trust, speed=speed),
        # Started last, so that its garbage collector knows SparkApplications from the beginning.
        controller_manager(),
    ):
        yield
