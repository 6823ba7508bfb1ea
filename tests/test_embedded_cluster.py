"""What only the embedded cluster has; `tests/contract` covers what it has in common with a real one."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client, config

from demo.cluster import EmbeddedCluster
from tests.contract.namespace import Namespace, Server, conditions, container, job, pod, states

REPOSITORY = Path(__file__).parent.parent
SPEED = 20.0
# The command that `@task.kubernetes` runs in its pod.
DECORATED = """python -c "import os;x = os.environ['__PYTHON_SCRIPT'];f = open('/tmp/script.py', 'wb'); f.close()" \
&& : && mkdir -p /airflow/xcom && python /tmp/script.py /tmp/script.in /airflow/xcom/return.json"""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with EmbeddedCluster(speed=SPEED) as cluster:
        yield Server(cluster.kubeconfig, "demo-node", cluster.expire_continue_tokens)


@pytest.fixture
def namespace(server: Server) -> Namespace:
    return Namespace(server)


def test_the_kubeconfig_trusts_the_certificate_of_an_https_cluster(tmp_path: Path) -> None:
    with EmbeddedCluster(("default", "team"), tls=True, speed=SPEED) as cluster:
        path = cluster.write_kubeconfig(tmp_path / "kubeconfig")
        assert path.stat().st_mode & 0o077 == 0
        core = client.CoreV1Api(config.new_client_from_config(str(path)))
        assert {item.metadata.name for item in core.list_namespace().items} == {"default", "team"}
        core.create_namespaced_pod("team", pod("p", schedulerName="default-scheduler"))
        while core.read_namespaced_pod("p", "team").status.phase != "Succeeded":
            time.sleep(0.02)
        assert cluster.kubeconfig["contexts"][0]["context"]["namespace"] == "team"


def test_no_thread_is_left_when_a_cluster_stops() -> None:
    before = set(threading.enumerate())
    with EmbeddedCluster(speed=SPEED) as cluster:
        namespace = Namespace(Server(cluster.kubeconfig, "demo-node", cluster.expire_continue_tokens))
        namespace.run_pod("p", container("base", "sleep infinity"))
        namespace.wait_for_phase("p", "Running")
    assert set(threading.enumerate()) <= before


def test_without_a_kubelet_pods_stay_pending() -> None:
    with EmbeddedCluster(kubelet=False) as cluster:
        core = client.CoreV1Api(config.new_client_from_config_dict(cluster.kubeconfig))
        core.create_namespaced_pod("airflow", pod("p", schedulerName="default-scheduler"))
        assert core.read_namespaced_pod("p", "airflow").spec.node_name is None
        assert core.list_node().items == []


def test_without_controllers_jobs_have_no_pods_and_dependents_stay(namespace: Namespace) -> None:
    namespace.call("POST", namespace.jobs, job("j"))
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": "missing", "uid": "1", "controller": True}
    namespace.create_pod("p", metadata={"ownerReferences": [owner]})
    namespace.run_pod("q")
    namespace.wait_for_phase("q", "Succeeded")
    assert namespace.pod_names() == ["p", "q"]


def test_the_next_request_after_a_change_sees_what_the_controllers_did() -> None:
    with EmbeddedCluster(kubelet=False, controllers=True) as cluster:
        namespace = Namespace(Server(cluster.kubeconfig, "demo-node", cluster.expire_continue_tokens))
        namespace.call("POST", namespace.jobs, job("j", parallelism=2, completions=2, backoffLimit=0))
        first, second = namespace.pod_names()
        namespace.set_phase(first, "Succeeded")
        assert namespace.call("GET", f"{namespace.jobs}/j")["status"]["succeeded"] == 1
        namespace.set_phase(second, "Failed")
        assert conditions(namespace.call("GET", f"{namespace.jobs}/j"))["Failed"] == "True"
        namespace.call("DELETE", f"{namespace.jobs}/j", {"propagationPolicy": "Foreground"})
        assert namespace.pod_names() == []
        assert not namespace.find(f"{namespace.jobs}/j")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("completionMode", "Indexed"),
        ("activeDeadlineSeconds", 60),
        ("podFailurePolicy", {"rules": []}),
        ("manualSelector", True),
    ],
)
def test_a_job_with_a_field_that_is_not_simulated_is_refused(namespace: Namespace, field: str, value: Any) -> None:
    error = namespace.request_error("POST", namespace.jobs, job("j", **{field: value}))
    assert error["reason"] == "BadRequest"
    assert error["message"].startswith(f"spec.{field} ")


def test_the_command_line_runs_a_cluster_until_sigterm(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "demo.cluster", "--namespace", "team", "--kubeconfig", str(tmp_path / "config")]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        url = process.stdout.readline().strip()
        kubeconfig = json.loads((tmp_path / "config").read_text())
        assert kubeconfig["clusters"][0]["cluster"]["server"] == url
        core = client.CoreV1Api(config.new_client_from_config_dict(kubeconfig))
        assert core.list_namespaced_pod("team").items == []
        custom = client.CustomObjectsApi(core.api_client)
        assert custom.list_cluster_custom_object("sparkoperator.k8s.io", "v1beta2", "sparkapplications")["items"] == []
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def test_a_watch_from_a_compacted_version_fails_with_410_expired(namespace: Namespace) -> None:
    version = namespace.create_pod("p")["metadata"]["resourceVersion"]
    namespace.server.expire_continue_tokens()
    event = namespace.call("GET", namespace.pods, watch="true", resourceVersion=version)
    assert event["type"] == "ERROR"
    assert (event["object"]["code"], event["object"]["reason"]) == (410, "Expired")


def test_deleting_a_namespace_deletes_its_pods(namespace: Namespace) -> None:
    namespace.create_pod("p", metadata={"finalizers": ["example.com/hold"]})
    namespace.core.delete_namespace(namespace.name)
    assert namespace.pod_names() == []
    assert namespace.request_error("GET", f"/api/v1/namespaces/{namespace.name}")["reason"] == "NotFound"


def test_dry_runs_and_initial_events_are_refused_because_they_are_not_simulated(namespace: Namespace) -> None:
    namespace.create_pod("p")
    message = "dry runs are not simulated"
    assert namespace.request_error("POST", namespace.pods, pod("q"), dryRun="All")["message"] == message
    assert namespace.request_error("DELETE", f"{namespace.pods}/p", {"dryRun": ["All"]})["message"] == message
    assert namespace.pod_names() == ["p"]
    # Newer client libraries then fall back to LIST and WATCH, as with an older server.
    assert namespace.request_error("GET", namespace.pods, watch="true", sendInitialEvents="true")["reason"] == "Invalid"


@pytest.mark.parametrize(
    ("script", "code", "log"),
    [
        pytest.param("echo a > /f; nothing", 127, "nothing: not found (the simulated", id="unknown command"),
        pytest.param("echo a | cat", 2, "sh: syntax not simulated: |\n", id="unknown syntax"),
        pytest.param("echo 'a; b' && echo \"c && d\"\necho e", 0, "a; b\nc && d\ne\n", id="quotes and newlines"),
        pytest.param(DECORATED, 0, "(simulated: python -c ", id="the command of @task.kubernetes"),
    ],
)
def test_a_command_is_simulated_or_fails_with_the_reason_in_its_log(
    namespace: Namespace, script: str, code: int, log: str
) -> None:
    namespace.run_pod("p", container("base", script))
    assert states(namespace.wait_for_phase("p", "Succeeded", "Failed")) == {"base": code}
    response = namespace.core.read_namespaced_pod_log("p", namespace.name, _preload_content=False)
    assert response.data.decode().startswith(log)
