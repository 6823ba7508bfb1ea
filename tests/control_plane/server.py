"""etcd and kube-apiserver as one context manager, and kube-controller-manager as another one."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import requests
import yaml

from .binaries import CONTROLLER_MANAGER, Binaries, find_or_build, find_or_build_controller_manager
from .certificates import LOOPBACK, CertificateAuthority, write_key
from .errors import ControlPlaneError
from .flags import KUBELET_CLIENT, SERVER, SERVICE_ACCOUNT, apiserver_flags, controller_manager_flags, etcd_flags
from .processes import Process, free_ports

START_SECONDS = 90
STOP_SECONDS = 3  # before SIGKILL: kube-apiserver would wait a minute for the clients of open watches
REQUEST_SECONDS = 10
_ADMIN = "kpo-cleanup-admin"


class ControlPlane:
    """A context manager that starts both servers on entry, and stops them and removes their files on exit.

    `apiserver_flags` override the default flags. `ports` returns free ports; it is called again if another process
    has taken one of them in the meantime.
    """

    url: str
    """The URL of the API server."""
    kubeconfig: dict[str, Any]
    """The kubeconfig of an administrator, who is in the group system:masters."""
    version: str
    """The version of the API server, such as `v1.36.3`."""
    etcd_url: str
    """The URL of etcd's JSON API, for operations that the API server does not offer."""

    def __init__(
        self,
        binaries: Binaries | None = None,
        apiserver_flags: Sequence[str] = (),
        ports: Callable[[int], Sequence[int]] = free_ports,
    ) -> None:
        self._binaries = binaries
        self._apiserver_flags = apiserver_flags
        self._ports = ports
        self._running = ExitStack()

    def __enter__(self) -> ControlPlane:
        binaries = self._binaries or find_or_build()
        for last_attempt in (False, False, True):
            try:
                self._start(binaries)
                break
            except BaseException as error:
                self._running.close()
                # Another process has taken one of the free ports before the server listened on it.
                if last_attempt or "address already in use" not in str(error):
                    raise
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    def kubeconfig_for_service_account(self, namespace: str, name: str) -> dict[str, Any]:
        """Return a kubeconfig for an existing service account, with a token that is valid for an hour."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
        token = self._parse(self._session.post(f"{self.url}{path}", json=body, timeout=REQUEST_SECONDS))
        return self._kubeconfig(namespace, {"token": token["status"]["token"]})

    def write_kubeconfig(self, path: str | Path, kubeconfig: dict[str, Any] | None = None) -> Path:
        """Write the given kubeconfig, by default the administrator's, readable only by its owner; return `path`."""
        path = Path(path)
        path.touch(mode=0o600)
        path.write_text(yaml.safe_dump(kubeconfig or self.kubeconfig, sort_keys=False))
        return path

    def compact(self) -> None:
        """Compact etcd, so that all earlier continue tokens fail with 410 Expired.

        Watches and lists also fail if their resourceVersion is older than the API server's watch cache.
        """
        # Write first: the current revision itself is never compacted, and a token may refer to it.
        written = self._etcd("put", key="kpo-cleanup/compacted", value="")
        self._etcd("compaction", revision=int(written["header"]["revision"]))

    @contextmanager
    def controller_manager(self, binary: Path | None = None) -> Iterator[None]:
        """Run kube-controller-manager with the Job controller and the garbage collector only.

        The garbage collector takes up to 30 seconds to notice a resource that is defined while it is running.
        """
        binary = binary or find_or_build_controller_manager()
        (port,) = free_ports(1)
        kubeconfig = self.write_kubeconfig(self._folder / "controller-manager.kubeconfig")
        process = Process([binary, *controller_manager_flags(self._folder, kubeconfig, port)], self._folder)
        try:
            process.wait_until(lambda: self._is_ok(f"https://{LOOPBACK}:{port}/healthz"), "healthy", START_SECONDS)
            yield
        finally:
            process.stop(STOP_SECONDS)

    def _start(self, binaries: Binaries) -> None:
        self._folder = folder = Path(self._running.enter_context(tempfile.TemporaryDirectory(prefix="control-plane-")))
        self._issue_certificates(folder)
        etcd_port, port = self._ports(2)
        self.etcd_url = f"http://{LOOPBACK}:{etcd_port}"
        self.url = f"https://{LOOPBACK}:{port}"
        self._session = self._running.enter_context(requests.Session())
        self._session.trust_env = False  # no proxy to loopback
        self._session.verify = str(folder / "ca.crt")
        self._session.cert = (str(folder / f"{_ADMIN}.crt"), str(folder / f"{_ADMIN}.key"))

        etcd = self._run([binaries.etcd, *etcd_flags(folder, self.etcd_url)], folder)
        etcd.wait_until(lambda: self._is_ok(f"{self.etcd_url}/health"), "healthy", START_SECONDS)
        flags = [*apiserver_flags(folder, self.etcd_url, port), *self._apiserver_flags]
        apiserver = self._run([binaries.kube_apiserver, *flags], folder)
        apiserver.wait_until(lambda: self._is_ok(f"{self.url}/readyz"), "ready", START_SECONDS)
        default = f"{self.url}/api/v1/namespaces/default"
        apiserver.wait_until(lambda: self._is_ok(default), "serving its default namespace", START_SECONDS)
        # If the port was taken, the first health check may have reached another etcd before ours exited.
        etcd.wait_until(lambda: self._is_ok(f"{self.etcd_url}/health"), "still healthy", START_SECONDS)

        self._ca = _base64(folder / "ca.crt")
        self.kubeconfig = self._kubeconfig(
            "default",
            {
                "client-certificate-data": _base64(folder / f"{_ADMIN}.crt"),
                "client-key-data": _base64(folder / f"{_ADMIN}.key"),
            },
        )
        self.version = self._parse(self._session.get(f"{self.url}/version", timeout=REQUEST_SECONDS))["gitVersion"]

    def _run(self, command: Sequence[str | Path], folder: Path) -> Process:
        process = Process(command, folder)
        self._running.callback(process.stop, STOP_SECONDS)
        return process

    @staticmethod
    def _issue_certificates(folder: Path) -> None:
        authority = CertificateAuthority(folder)
        authority.issue_server(SERVER)
        authority.issue_server(CONTROLLER_MANAGER)
        authority.issue_client(_ADMIN, group="system:masters")
        authority.issue_client(KUBELET_CLIENT, group="system:masters")
        write_key(folder / f"{SERVICE_ACCOUNT}.key")

    def _is_ok(self, url: str) -> bool:
        return self._session.get(url, timeout=REQUEST_SECONDS).ok

    def _etcd(self, call: str, **body: Any) -> dict[str, Any]:
        """Call etcd's JSON API, in which keys and values are base64-encoded."""
        encoded = {
            key: base64.b64encode(value.encode()).decode() if isinstance(value, str) else value
            for key, value in body.items()
        }
        url = f"{self.etcd_url}/v3/kv/{call}"
        return self._parse(self._session.post(url, json=encoded, timeout=REQUEST_SECONDS))

    @staticmethod
    def _parse(response: requests.Response) -> dict[str, Any]:
        if not response.ok:
            raise ControlPlaneError(f"{response.request.method} {response.url}: {response.text}")
        body: dict[str, Any] = response.json()
        return body

    def _kubeconfig(self, namespace: str, user: dict[str, str]) -> dict[str, Any]:
        cluster = {"server": self.url, "certificate-authority-data": self._ca}
        context = {"cluster": "test", "user": "test", "namespace": namespace}
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "test", "user": user}],
            "contexts": [{"name": "test", "context": context}],
            "current-context": "test",
        }


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
