"""The errors of the control plane."""


class ControlPlaneError(Exception):
    """etcd or kube-apiserver did not start (the message has the log's tail), or refused a call."""


class ControlPlaneUnavailable(ControlPlaneError):
    """There are no binaries here and they can't be built; the message says what to install."""
