"""The cluster of the DAG tests, behind a proxy. The connection of the cleanup leads to the proxy."""

from __future__ import annotations

import json
import os
import re
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from kubernetes import client, config

from demo.airflow_settings import IS_AIRFLOW_3, USER, Config, environment, free_port
from demo.cluster import EmbeddedCluster, Kubelet
from demo.processes import end_processes_of, start
from demo.rest import AirflowApi
from demo.terminal import Terminal
from include.kpo_cleanup.text import LINE
from tests.conftest import HOME
from tests.dag import airflow_runs
from tests.faults.servers import context_of
from tests.proxy import FaultProxy

NAMESPACES = ("default", "other", "airflow")
SOURCES: dict[str, dict[str, Any]] = (
    {
        "task_sdk": {},
        "metadata_connection": {"airflow_conn_id": "metadata"},
        "rest_api": {"airflow_conn_id": "airflow_api"},
    }
    if IS_AIRFLOW_3
    else {"session": {}}
)
SPEED = 20.0


@dataclass(frozen=True)
class Cluster:
    """A running cluster with the permissions of an administrator, without the proxy."""

    kubeconfig: dict[str, Any]
    ssl_context: ssl.SSLContext | None

    @property
    def url(self) -> str:
        return str(self.kubeconfig["clusters"][0]["cluster"]["server"])


@pytest.fixture(scope="session", params=["embedded", pytest.param("real", marks=pytest.mark.cluster)])
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Start the embedded cluster, or a real kube-apiserver with the same simulated kubelet as its only node."""
    if request.param == "embedded":
        with EmbeddedCluster(NAMESPACES, speed=SPEED) as embedded:
            yield Cluster(embedded.kubeconfig, None)
        return
    control_plane = request.getfixturevalue("control_plane")
    context = context_of(control_plane.kubeconfig)
    create_namespaces(control_plane.kubeconfig)
    with Kubelet(control_plane.url, ssl_context=context, speed=SPEED):
        yield Cluster(control_plane.kubeconfig, context)


def create_namespaces(kubeconfig: dict[str, Any]) -> None:
    """Create the namespaces of the tests that do not exist yet."""
    core = client.CoreV1Api(config.new_client_from_config_dict(kubeconfig))
    for namespace in set(NAMESPACES) - {item.metadata.name for item in core.list_namespace().items}:
        core.create_namespace({"metadata": {"name": namespace}})


@pytest.fixture(scope="session")
def core(cluster: Cluster) -> client.CoreV1Api:
    return client.CoreV1Api(config.new_client_from_config_dict(cluster.kubeconfig))


@contextmanager
def connection_to(url: str, user: dict[str, Any], file: str = "kubeconfig.json") -> Iterator[None]:
    """Point the connection ``kubernetes_default`` to this URL, with this user of a kubeconfig."""
    path = HOME / file
    kubeconfig = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "proxy",
        "clusters": [{"name": "proxy", "cluster": {"server": url}}],
        "users": [{"name": "user", "user": user}],
        "contexts": [{"name": "proxy", "context": {"cluster": "proxy", "user": "user"}}],
    }
    path.write_text(json.dumps(kubeconfig))
    extra = {"kube_config_path": str(path), "namespace": "airflow"}
    with pytest.MonkeyPatch.context() as environment:
        connection = {"conn_type": "kubernetes", "extra": extra}
        environment.setenv("AIRFLOW_CONN_KUBERNETES_DEFAULT", json.dumps(connection))
        yield


@pytest.fixture(scope="session")
def _database() -> None:
    os.environ["AIRFLOW_CONN_METADATA"] = json.dumps({"conn_type": "sqlite", "host": f"{HOME}/airflow.db"})
    airflow_runs.prepare()


@pytest.fixture(scope="session")
def _proxy(cluster: Cluster, _database: None) -> Iterator[FaultProxy]:
    with FaultProxy(cluster.url, cluster.ssl_context) as proxy, connection_to(proxy.url, {}):
        yield proxy


@pytest.fixture(scope="session")
def airflow_api(_database: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Start an API server for the Airflow of these runs, with the connection `airflow_api`."""
    folder = tmp_path_factory.mktemp("api-server")
    (folder / "tmp").mkdir()
    (folder / "passwords.json").write_text(json.dumps({USER: "secret"}))
    url = f"http://127.0.0.1:{free_port()}"
    airflow_runs.register_dags()
    # Airflow 3.0 fails requests about DAGs whose bundle is not configured.
    bundles = os.environ["AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST"]
    config: Config = {"dag_processor": {"dag_bundle_config_list": bundles}}
    variables = environment(folder, url, f"sqlite:///{HOME}/airflow.db", config)
    try:
        start("api-server", ("airflow", "api-server"), folder, variables)
        api = AirflowApi(url, USER, "secret")
        Terminal(0).wait_for("it responds", lambda: api.heartbeats() is not None, 120, log=folder / "api-server.log")
        parts = {"conn_type": "http", "host": url, "login": USER, "password": "secret"}
        os.environ["AIRFLOW_CONN_AIRFLOW_API"] = json.dumps(parts)
        yield
    finally:
        end_processes_of(folder)


@pytest.fixture
def proxy(_proxy: FaultProxy) -> Iterator[FaultProxy]:
    """Return the proxy without rules and recorded requests, and remove those of the test."""
    _proxy.heal()
    yield _proxy
    _proxy.heal()


@pytest.fixture(params=SOURCES)
def source(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Return the options that select a source of task instances."""
    if request.param == "rest_api":
        request.getfixturevalue("airflow_api")
    return SOURCES[request.param]


@pytest.fixture(autouse=True)
def _no_log_line_is_cut_off(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Check that each line of the log fits into the log view of Airflow, except links, which are not broken."""
    yield
    lines = [record.getMessage() for record in caplog.get_records("call") if "kpo_cleanup" in record.name]
    assert [line for line in lines if len(line) > LINE and not line.lstrip().startswith("http")] == []


@pytest.fixture
def log_output(capfd: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """Join the new output into one line without colors, because some Airflows draw frames around exceptions."""
    return lambda: " ".join(re.sub(r"\x1b\[[0-9;]*m", "", capfd.readouterr().out).split())
