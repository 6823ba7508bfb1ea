"""The features of the embedded cluster alone; those that it shares with a real one are in `tests/contract`."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from kubernetes import client, config

from demo.cluster import EmbeddedCluster
from tests.contract.space import Server, Space, container, pod, states

REPOSITORY = Path(__file__).parent.parent
SPEED = 20.0
# The command of `@task.kubernetes` in its pod.
DECORATED = """python -c "import os;x = os.environ['__PYTHON_SCRIPT'];f = open('/tmp/script.py', 'wb'); f.close()" \
&& : && mkdir -p /airflow/xcom && python /tmp/script.py /tmp/script.in /airflow/xcom/return.json"""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with EmbeddedCluster(speed=SPEED) as cluster:
        yield Server(cluster.kubeconfig, "demo-node", cluster.expire_continue_tokens)


@pytest.fixture
def space(server: Server) -> Space:
    return Space(server)


def test_it_serves_https_that_its_kubeconfig_trusts(tmp_path: Path) -> None:
    with EmbeddedCluster(("default", "team"), tls=True, speed=SPEED) as cluster:
        path = cluster.write_kubeconfig(tmp_path / "kubeconfig")
        assert path.stat().st_mode & 0o077 == 0
        core = client.CoreV1Api(config.new_client_from_config(str(path)))
        assert {item.metadata.name for item in core.list_namespace().items} == {"default", "team"}
        core.create_namespaced_pod("team", pod("p", schedulerName="default-scheduler"))
        while core.read_namespaced_pod("p", "team").status.phase != "Succeeded":
            time.sleep(0.02)
        assert cluster.kubeconfig["contexts"][0]["context"]["namespace"] == "team"


def test_nothing_is_left_behind() -> None:
    before = set(threading.enumerate())
    with EmbeddedCluster(speed=SPEED) as cluster:
        space = Space(Server(cluster.kubeconfig, "demo-node", cluster.expire_continue_tokens))
        space.run("p", container("base", "sleep infinity"))
        space.until_phase("p", "Running")
    assert set(threading.enumerate()) <= before


def test_without_a_kubelet_pods_stay_pending() -> None:
    with EmbeddedCluster(kubelet=False) as cluster:
        core = client.CoreV1Api(config.new_client_from_config_dict(cluster.kubeconfig))
        core.create_namespaced_pod("airflow", pod("p", schedulerName="default-scheduler"))
        assert core.read_namespaced_pod("p", "airflow").spec.node_name is None
        assert core.list_node().items == []


def test_the_command_line_runs_until_it_is_told_to_stop(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "demo.cluster", "--namespace", "team", "--kubeconfig", str(tmp_path / "config")]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        url = process.stdout.readline().strip()
        kubeconfig = json.loads((tmp_path / "config").read_text())
        assert kubeconfig["clusters"][0]["cluster"]["server"] == url
        core = client.CoreV1Api(config.new_client_from_config_dict(kubeconfig))
        assert core.list_namespaced_pod("team").items == []
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def test_a_watch_from_a_forgotten_version_is_told_so(space: Space) -> None:
    version = space.create("p")["metadata"]["resourceVersion"]
    space.server.expire_continue_tokens()
    event = space.call("GET", space.pods, watch="true", resourceVersion=version)
    assert event["type"] == "ERROR"
    assert (event["object"]["code"], event["object"]["reason"]) == (410, "Expired")


def test_a_namespace_takes_its_pods_with_it(space: Space) -> None:
    space.create("p", metadata={"finalizers": ["example.com/hold"]})
    space.core.delete_namespace(space.name)
    assert space.listed() == []
    assert space.fails("GET", f"/api/v1/namespaces/{space.name}")["reason"] == "NotFound"


def test_what_would_be_misunderstood_is_refused(space: Space) -> None:
    space.create("p")
    message = "dry runs are not simulated"
    assert space.fails("POST", space.pods, pod("q"), dryRun="All")["message"] == message
    assert space.fails("DELETE", f"{space.pods}/p", {"dryRun": ["All"]})["message"] == message
    assert space.listed() == ["p"]
    # New client libraries then list and watch, as with an old server.
    assert space.fails("GET", space.pods, watch="true", sendInitialEvents="true")["reason"] == "Invalid"


@pytest.mark.parametrize(
    ("script", "code", "log"),
    [
        pytest.param("echo a > /f; nothing", 127, "nothing: not found (the simulated", id="unknown command"),
        pytest.param("echo a | cat", 2, "sh: syntax not simulated: |\n", id="unknown syntax"),
        pytest.param("echo 'a; b' && echo \"c && d\"\necho e", 0, "a; b\nc && d\ne\n", id="quotes and lines"),
        pytest.param(DECORATED, 0, "(simulated: python -c ", id="@task.kubernetes"),
    ],
)
def test_commands_are_run_or_said_to_be_unknown(space: Space, script: str, code: int, log: str) -> None:
    space.run("p", container("base", script))
    assert states(space.until_phase("p", "Succeeded", "Failed")) == {"base": code}
    answer = space.core.read_namespaced_pod_log("p", space.name, _preload_content=False)
    assert answer.data.decode().startswith(log)
