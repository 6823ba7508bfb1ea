"""The errors of the control plane."""


class ControlPlaneError(Exception):
    """etcd or kube-apiserver did not start (the message includes the end of its log) or refused a request."""


class ControlPlaneUnavailable(ControlPlaneError):
    """There are no binaries and they cannot be built; the message says what to install."""
