"""The command lines of etcd and kube-apiserver."""

from __future__ import annotations

from pathlib import Path

from .certificates import LOOPBACK

SERVER = "kube-apiserver"
KUBELET_CLIENT = "kube-apiserver-kubelet-client"
SERVICE_ACCOUNT = "service-account"


def etcd_flags(folder: Path, url: str) -> list[str]:
    """Make the flags by which etcd keeps its data in `folder` and serves at `url`."""
    return [
        f"--data-dir={folder / 'etcd'}",
        f"--listen-client-urls={url}",
        f"--advertise-client-urls={url}",
        f"--listen-peer-urls=http://{LOOPBACK}:0",
        "--unsafe-no-fsync",  # faster, and nobody wants the data after a crash
    ]


def apiserver_flags(folder: Path, etcd_url: str, port: int) -> list[str]:
    """Make the flags to serve at `port` with the certificates and keys that are in `folder`."""
    return [
        f"--etcd-servers={etcd_url}",
        "--etcd-compaction-interval=0",  # a continue token expires only by ControlPlane.compact()
        # ListFromCacheSnapshot: from 1.34 on, the watch cache answers continue tokens from snapshots. It does not
        # notice that somebody else compacts etcd. Without it, compact() works at once.
        # TranslateStreamCloseWebsocketRequests: the kubelet gets exec's websocket as the client sent it, not as SPDY.
        # From 1.36 on, nodes that declare ExtendWebSocketsToKubelet get it so in any case.
        "--feature-gates=ListFromCacheSnapshot=false,TranslateStreamCloseWebsocketRequests=false",
        f"--bind-address={LOOPBACK}",
        f"--secure-port={port}",
        f"--cert-dir={folder}",
        f"--tls-cert-file={folder / SERVER}.crt",
        f"--tls-private-key-file={folder / SERVER}.key",
        f"--client-ca-file={folder / 'ca.crt'}",
        # No Node authorizer: nothing here signs in as a kubelet.
        "--authorization-mode=RBAC",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={folder / SERVICE_ACCOUNT}.key",
        f"--service-account-signing-key-file={folder / SERVICE_ACCOUNT}.key",
        # It refuses pods in namespaces without a `default` account, which the controller manager makes.
        "--disable-admission-plugins=ServiceAccount",
        "--allow-privileged",
        "--service-cluster-ip-range=10.0.0.0/24",
        "--endpoint-reconciler-type=none",  # loopback is no valid endpoint address
        # So that a kubelet can be simulated: a node with that address. Its certificate isn't checked.
        "--kubelet-preferred-address-types=InternalIP",
        f"--kubelet-client-certificate={folder / KUBELET_CLIENT}.crt",
        f"--kubelet-client-key={folder / KUBELET_CLIENT}.key",
    ]
