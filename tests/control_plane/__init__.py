"""A real etcd and a real kube-apiserver on loopback, for tests.

    with ControlPlane() as cp:
        kubernetes.config.load_kube_config_from_dict(cp.kubeconfig)

There is no scheduler, no controller manager and no kubelet. Pods stay as they are until a test or a simulated kubelet
changes them. Namespaces get no `default` service account. A deleted namespace stays in Terminating.
"""

from .binaries import Binaries, find_or_build
from .errors import ControlPlaneError, ControlPlaneUnavailable
from .server import ControlPlane

__all__ = ["Binaries", "ControlPlane", "ControlPlaneError", "ControlPlaneUnavailable", "find_or_build"]
