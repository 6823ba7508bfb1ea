"""The control plane that other tests use: the servers, their life cycle, and where the binaries come from."""

from __future__ import annotations

import http.server
import os
import shutil
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from kubernetes import client, config

from tests.control_plane import (
    Binaries,
    ControlPlane,
    ControlPlaneError,
    ControlPlaneUnavailable,
    find_or_build,
    find_or_build_controller_manager,
)
from tests.control_plane.binaries import CONTROLLER_MANAGER, GO_SOURCES
from tests.control_plane.certificates import CertificateAuthority
from tests.control_plane.processes import free_ports
from tests.control_plane_fixture import ControllerManager

pytest_plugins = ["tests.control_plane_fixture"]

REPOSITORY = Path(__file__).parent.parent
WAIT_SECONDS = 20


def core(kubeconfig: dict[str, Any]) -> client.CoreV1Api:
    return client.CoreV1Api(config.new_client_from_config_dict(kubeconfig))


def unscheduled_pod(name: str, **spec: Any) -> dict[str, Any]:
    """Return a pod that no scheduler binds, so that the simulated kubelet of other tests does not run it."""
    containers = [{"name": "base", "image": "example.org/none"}]
    return {"metadata": {"name": name}, "spec": {"containers": containers, "schedulerName": "nobody", **spec}}


def status_of(call: Callable[[], object]) -> int:
    """Return the HTTP status of the API server's response to `call`."""
    try:
        call()
    except client.ApiException as error:
        return int(error.status)
    return 200


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"timed out after {WAIT_SECONDS} s"
        time.sleep(0.05)


@pytest.fixture
def admin(control_plane: ControlPlane) -> client.CoreV1Api:
    return core(control_plane.kubeconfig)


@pytest.fixture
def namespace(admin: client.CoreV1Api) -> str:
    created = admin.create_namespace({"metadata": {"generateName": "control-plane-"}})
    return str(created.metadata.name)


class TestServer:
    def test_the_server_is_ready_and_returns_its_version(self, control_plane: ControlPlane) -> None:
        version = client.VersionApi(config.new_client_from_config_dict(control_plane.kubeconfig)).get_code()
        assert version.git_version == control_plane.version
        assert control_plane.version.startswith("v1.")

    def test_a_pod_is_created_listed_and_deleted(self, admin: client.CoreV1Api, namespace: str) -> None:
        created = admin.create_namespaced_pod(namespace, unscheduled_pod("one"))
        listed = admin.list_namespaced_pod(namespace).items
        assert [pod.metadata.uid for pod in listed] == [created.metadata.uid]
        admin.delete_namespaced_pod("one", namespace)
        assert status_of(lambda: admin.read_namespaced_pod("one", namespace)) == 404

    def test_a_written_kubeconfig_is_private_and_authenticates_an_administrator(
        self, control_plane: ControlPlane, tmp_path: Path
    ) -> None:
        path = control_plane.write_kubeconfig(tmp_path / "kubeconfig")
        assert path.stat().st_mode & 0o077 == 0
        api = client.CoreV1Api(config.new_client_from_config(str(path)))
        assert api.read_namespace("default").metadata.name == "default"


class TestServiceAccounts:
    @pytest.fixture
    def service_account(self, control_plane: ControlPlane, admin: client.CoreV1Api, namespace: str) -> client.CoreV1Api:
        admin.create_namespaced_service_account(namespace, {"metadata": {"name": "deleter"}})
        return core(control_plane.kubeconfig_for_service_account(namespace, "deleter"))

    def test_an_account_without_a_role_has_no_permissions(
        self, service_account: client.CoreV1Api, namespace: str
    ) -> None:
        with pytest.raises(client.ApiException, match=f"system:serviceaccount:{namespace}:deleter") as caught:
            service_account.list_namespaced_pod(namespace)
        assert caught.value.status == 403

    def test_an_account_with_a_role_has_its_permissions_and_no_others(
        self, admin: client.CoreV1Api, service_account: client.CoreV1Api, namespace: str
    ) -> None:
        admin.create_namespaced_pod(namespace, unscheduled_pod("one"))
        rbac = client.RbacAuthorizationV1Api(admin.api_client)
        rule = {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}
        rbac.create_namespaced_role(namespace, {"metadata": {"name": "lister"}, "rules": [rule]})
        role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "lister"}
        subject = {"kind": "ServiceAccount", "name": "deleter", "namespace": namespace}
        rbac.create_namespaced_role_binding(
            namespace, {"metadata": {"name": "lister"}, "roleRef": role, "subjects": [subject]}
        )
        # The authorizer receives the role through a watch.
        wait_until(lambda: status_of(lambda: service_account.list_namespaced_pod(namespace)) == 200)
        assert status_of(lambda: service_account.delete_namespaced_pod("one", namespace)) == 403

    def test_a_missing_account_gets_no_token(self, control_plane: ControlPlane) -> None:
        with pytest.raises(ControlPlaneError, match='"nobody\\\\" not found'):
            control_plane.kubeconfig_for_service_account("default", "nobody")


class TestCompact:
    def test_compacting_expires_earlier_continue_tokens_only(
        self, control_plane: ControlPlane, admin: client.CoreV1Api, namespace: str
    ) -> None:
        for name in ("one", "two"):
            admin.create_namespaced_pod(namespace, unscheduled_pod(name))

        def token() -> str:
            return str(admin.list_namespaced_pod(namespace, limit=1).metadata._continue)

        def next_page(token: str) -> list[str]:
            page = admin.list_namespaced_pod(namespace, limit=1, _continue=token)
            return [pod.metadata.name for pod in page.items]

        before = token()
        assert next_page(before) == ["two"]
        control_plane.compact()
        with pytest.raises(client.ApiException, match='"reason":"Expired"') as caught:
            next_page(before)
        assert caught.value.status == 410
        assert next_page(token()) == ["two"]


class Kubelet(http.server.BaseHTTPRequestHandler):
    """A kubelet's API that only serves container logs."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"log of {self.path.split('?')[0]}".encode())

    def log_message(self, *_: object) -> None:
        """Discard the access log."""


@pytest.fixture
def kubelet_port(tmp_path: Path) -> Iterator[int]:
    """Start a kubelet on loopback with its own certificate, and return its port."""
    CertificateAuthority(tmp_path).issue_server("kubelet")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "kubelet.crt", tmp_path / "kubelet.key")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Kubelet) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_logs_are_read_from_a_kubelet_on_loopback(admin: client.CoreV1Api, namespace: str, kubelet_port: int) -> None:
    endpoint = {"kubeletEndpoint": {"Port": kubelet_port}}
    status = {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}], "daemonEndpoints": endpoint}
    admin.create_node({"metadata": {"name": namespace}, "status": status})
    admin.create_namespaced_pod(namespace, unscheduled_pod("one", nodeName=namespace))
    # Not deserialized, because release 36 of the client converts the bytes with str(), including the "b'".
    log = admin.read_namespaced_pod_log("one", namespace, _preload_content=False)
    assert log.data.decode() == f"log of /containerLogs/{namespace}/one/base"


class TestLifecycle:
    @pytest.fixture
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """Return the directory in which a control plane of this test stores its files."""
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        return tmp_path

    @pytest.fixture
    def binaries(self, control_plane: ControlPlane) -> Binaries:
        """Return the binaries; the test is skipped if the control plane is unavailable."""
        return find_or_build()

    def test_a_stopped_control_plane_leaves_no_files_and_no_server(self, binaries: Binaries, folder: Path) -> None:
        with ControlPlane(binaries) as running:
            assert list(folder.iterdir())
        assert not list(folder.iterdir())
        with pytest.raises(requests.ConnectionError):
            requests.get(running.url, timeout=5)

    def test_a_killed_test_process_leaves_no_files_and_no_server(self, binaries: Binaries, tmp_path: Path) -> None:
        if binaries.etcd.resolve() != binaries.kube_apiserver.resolve():
            pytest.skip("only the binary built by this project exits with its parent")
        script = (
            "from tests.control_plane import ControlPlane\n"
            "with ControlPlane() as running: print(running.url, flush=True); input()"
        )
        command = [sys.executable, "-c", script]
        with subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env={**os.environ, "TMPDIR": str(tmp_path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout
            url = process.stdout.readline().strip()
            assert list(tmp_path.iterdir())
            process.send_signal(signal.SIGKILL)
        wait_until(lambda: not list(tmp_path.iterdir()))
        with pytest.raises(requests.ConnectionError):
            requests.get(url, timeout=5)

    def test_a_control_plane_retries_with_other_ports_if_one_was_taken(
        self, binaries: Binaries, control_plane: ControlPlane
    ) -> None:
        taken = int(control_plane.url.rpartition(":")[2])
        choices = iter([[taken, taken], free_ports(2)])
        with ControlPlane(binaries, ports=lambda _: next(choices)) as running:
            assert running.version == control_plane.version

    def test_a_server_that_fails_to_start_raises_the_end_of_its_log(self, binaries: Binaries, folder: Path) -> None:
        with pytest.raises(ControlPlaneError, match="unknown flag: --nonsense"):
            ControlPlane(binaries, apiserver_flags=["--nonsense"]).__enter__()
        assert not list(folder.iterdir())


class TestControllerManager:
    def test_it_creates_the_pods_of_jobs_and_collects_those_of_deleted_ones(
        self, admin: client.CoreV1Api, namespace: str, controller_manager: ControllerManager
    ) -> None:
        batch = client.BatchV1Api(admin.api_client)
        template = {"spec": {**unscheduled_pod("")["spec"], "restartPolicy": "Never"}}
        with controller_manager():
            batch.create_namespaced_job(namespace, {"metadata": {"name": "one"}, "spec": {"template": template}})
            wait_until(lambda: len(admin.list_namespaced_pod(namespace).items) == 1)
            batch.delete_namespaced_job("one", namespace, propagation_policy="Background")
            wait_until(lambda: admin.list_namespaced_pod(namespace).items == [])


class TestBinaries:
    """Where the binaries come from, with a fake `go` whose build takes no time."""

    @pytest.fixture(autouse=True)
    def cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
        monkeypatch.setenv("KPO_CLEANUP_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("PATH", str(tmp_path))
        return tmp_path / "cache"

    @pytest.fixture
    def builds(self, tmp_path: Path) -> Path:
        """Put a fake `go` on PATH, and return the file in which it logs its builds."""
        self.write_program(
            tmp_path / "go",
            f'echo build >>{tmp_path}/builds; /bin/sleep 0.2; while [ "$1" != -o ]; do shift; done\n'
            'echo >"$2"; /bin/chmod +x "$2"',
        )
        return tmp_path / "builds"

    @staticmethod
    def write_program(path: Path, script: str = "") -> None:
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def test_binaries_are_taken_from_kubebuilder_assets(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("etcd", "kube-apiserver"):
            self.write_program(tmp_path / "assets" / name)
        monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path / "assets"))
        assert find_or_build() == Binaries(tmp_path / "assets/etcd", tmp_path / "assets/kube-apiserver")

    def test_binaries_are_taken_from_path(self, tmp_path: Path) -> None:
        for name in ("etcd", "kube-apiserver"):
            self.write_program(tmp_path / name)
        assert find_or_build() == Binaries(tmp_path / "etcd", tmp_path / "kube-apiserver")

    def test_binaries_are_built_once_by_concurrent_callers(self, builds: Path, cache: Path) -> None:
        with ThreadPoolExecutor() as pool:
            found = set(pool.map(lambda _: find_or_build(), range(4)))
        assert builds.read_text() == "build\n"
        assert found == {find_or_build()}
        assert [path for path in cache.iterdir() if path.name.startswith("building-")] == []

    def test_binaries_are_rebuilt_when_the_sources_change(self, builds: Path, tmp_path: Path) -> None:
        first = find_or_build()
        changed = shutil.copytree(GO_SOURCES, tmp_path / "go-sources")
        (changed / "kube-apiserver/main.go").write_text("other")
        assert find_or_build(changed) != first
        assert builds.read_text() == "build\nbuild\n"

    def test_the_controller_manager_is_built_on_demand_beside_the_other_binaries(self, builds: Path) -> None:
        binaries = find_or_build()
        assert not (binaries.etcd.parent / CONTROLLER_MANAGER).exists()
        assert find_or_build_controller_manager() == binaries.etcd.parent / CONTROLLER_MANAGER
        assert find_or_build_controller_manager().exists()
        assert find_or_build() == binaries
        assert builds.read_text() == "build\nbuild\n"

    def test_the_controller_manager_is_never_of_another_origin_than_the_api_server(
        self, builds: Path, tmp_path: Path
    ) -> None:
        for name in ("etcd", "kube-apiserver"):
            self.write_program(tmp_path / name)
        with pytest.raises(ControlPlaneUnavailable, match=f"PATH contains kube-apiserver but not {CONTROLLER_MANAGER}"):
            find_or_build_controller_manager()
        self.write_program(tmp_path / CONTROLLER_MANAGER)
        assert find_or_build_controller_manager() == tmp_path / CONTROLLER_MANAGER
        assert not builds.exists()

    @pytest.mark.parametrize(
        ("go", "message"),
        [
            pytest.param(None, "nor Go to build it. Install Go 1.26", id="there is no Go"),
            pytest.param("echo network is down >&2; exit 1", "network is down\nInstall Go", id="the build fails"),
        ],
    )
    def test_binaries_are_unavailable_with_an_installation_hint_if(
        self, tmp_path: Path, go: str | None, message: str
    ) -> None:
        if go:
            self.write_program(tmp_path / "go", go)
        with pytest.raises(ControlPlaneUnavailable, match=message):
            find_or_build()

    def test_binaries_are_unavailable_if_kubebuilder_assets_does_not_contain_them(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))
        with pytest.raises(ControlPlaneUnavailable, match=f"KUBEBUILDER_ASSETS={tmp_path} does not contain etcd"):
            find_or_build()


class TestFixture:
    @pytest.mark.parametrize(
        ("required", "outcome"),
        [
            pytest.param("0", "1 skipped", id="skips the test by default"),
            pytest.param("1", "1 error", id="fails the test if a cluster is required"),
        ],
    )
    def test_the_fixture_without_binaries(self, tmp_path: Path, required: str, outcome: str) -> None:
        test = "tests/test_control_plane.py::TestServer::test_the_server_is_ready_and_returns_its_version"
        run = subprocess.run(
            [sys.executable, "-m", "pytest", "-rs", "-p", "no:cacheprovider", "-m", "cluster", test],
            cwd=REPOSITORY,
            env={**os.environ, "REQUIRE_CLUSTER": required, "KUBEBUILDER_ASSETS": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert outcome in run.stdout
        assert "Install Go 1.26 or newer" in run.stdout
