"""A real etcd and a real kube-apiserver on loopback, for tests.

    with ControlPlane() as cp:
        kubernetes.config.load_kube_config_from_dict(cp.kubeconfig)

There is no scheduler, no controller manager and no kubelet: pods stay as they were made until a test (or a
simulated kubelet) changes them, namespaces get no `default` service account, and a deleted namespace stays
in Terminating.
"""

from .binaries import Binaries, find_or_build
from .errors import ControlPlaneError, ControlPlaneUnavailable
from .server import ControlPlane

__all__ = ["Binaries", "ControlPlane", "ControlPlaneError", "ControlPlaneUnavailable", "find_or_build"]
