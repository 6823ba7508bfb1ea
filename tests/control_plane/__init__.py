"""A real etcd and a real kube-apiserver on loopback, for tests.

    with ControlPlane() as control_plane:
        kubernetes.config.load_kube_config_from_dict(control_plane.kubeconfig)

There is no scheduler and no kubelet. Pods do not change until a test or a simulated kubelet changes them. Unless
`control_plane.controller_manager()` runs the Job controller and the garbage collector, there are no controllers:
namespaces have no `default` service account, and a deleted namespace stays in Terminating.
"""

from .binaries import Binaries, find_or_build, find_or_build_controller_manager
from .errors import ControlPlaneError, ControlPlaneUnavailable
from .server import ControlPlane

__all__ = [
    "Binaries",
    "ControlPlane",
    "ControlPlaneError",
    "ControlPlaneUnavailable",
    "find_or_build",
    "find_or_build_controller_manager",
]
