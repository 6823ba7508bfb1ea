"""The command-line flags of etcd, kube-apiserver and kube-controller-manager."""

from __future__ import annotations

from pathlib import Path

from .binaries import CONTROLLER_MANAGER
from .certificates import LOOPBACK

SERVER = "kube-apiserver"
KUBELET_CLIENT = "kube-apiserver-kubelet-client"
SERVICE_ACCOUNT = "service-account"
CONTROLLERS = ("job-controller", "garbage-collector-controller")


def etcd_flags(folder: Path, url: str) -> list[str]:
    """Return the flags for etcd to store its data in `folder` and serve at `url`."""
    return [
        f"--data-dir={folder / 'etcd'}",
        f"--listen-client-urls={url}",
        f"--advertise-client-urls={url}",
        f"--listen-peer-urls=http://{LOOPBACK}:0",
        "--unsafe-no-fsync",  # faster; the data is not needed after a crash
    ]


def apiserver_flags(folder: Path, etcd_url: str, port: int) -> list[str]:
    """Return the flags for kube-apiserver to serve at `port` with the certificates and keys in `folder`."""
    return [
        f"--etcd-servers={etcd_url}",
        "--etcd-compaction-interval=0",  # continue tokens expire only through ControlPlane.compact()
        # ListFromCacheSnapshot: from 1.34 on, the watch cache serves continue tokens from snapshots and does not
        # notice when someone else compacts etcd. Disabled so that compact() takes effect immediately.
        # TranslateStreamCloseWebsocketRequests: disabled so that the WebSocket of exec reaches the kubelet as the
        # client sent it, and not as SPDY. From 1.36 on, nodes that declare ExtendWebSocketsToKubelet get it anyway.
        "--feature-gates=ListFromCacheSnapshot=false,TranslateStreamCloseWebsocketRequests=false",
        f"--bind-address={LOOPBACK}",
        f"--secure-port={port}",
        f"--cert-dir={folder}",
        f"--tls-cert-file={folder / SERVER}.crt",
        f"--tls-private-key-file={folder / SERVER}.key",
        f"--client-ca-file={folder / 'ca.crt'}",
        # No Node authorizer, because no client authenticates as a kubelet.
        "--authorization-mode=RBAC",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={folder / SERVICE_ACCOUNT}.key",
        f"--service-account-signing-key-file={folder / SERVICE_ACCOUNT}.key",
        # This plugin rejects pods in namespaces without a `default` account, which the controller manager creates.
        "--disable-admission-plugins=ServiceAccount",
        "--allow-privileged",
        "--service-cluster-ip-range=10.0.0.0/24",
        "--endpoint-reconciler-type=none",  # loopback is not a valid endpoint address
        # These allow a simulated kubelet on a node with a loopback address; its certificate is not verified.
        "--kubelet-preferred-address-types=InternalIP",
        f"--kubelet-client-certificate={folder / KUBELET_CLIENT}.crt",
        f"--kubelet-client-key={folder / KUBELET_CLIENT}.key",
    ]


def controller_manager_flags(folder: Path, kubeconfig: Path, port: int) -> list[str]:
    """Return the flags for kube-controller-manager to run the controllers that the tests need, serving at `port`."""
    return [
        f"--kubeconfig={kubeconfig}",
        f"--controllers={','.join(CONTROLLERS)}",
        "--leader-elect=false",
        f"--bind-address={LOOPBACK}",
        f"--secure-port={port}",
        f"--cert-dir={folder}",
        f"--tls-cert-file={folder / CONTROLLER_MANAGER}.crt",
        f"--tls-private-key-file={folder / CONTROLLER_MANAGER}.key",
    ]
