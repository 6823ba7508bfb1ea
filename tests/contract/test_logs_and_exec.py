"""Logs and exec, including the exchange between the operator and its XCom sidecar."""

from __future__ import annotations

import json
import time
from contextlib import closing
from typing import Any

import pytest
from kubernetes.stream import stream

from tests.contract.namespace import SIDECAR_COMMAND, SPEED, Json, Namespace, container, states


def log_of(namespace: Namespace, name: str, **query: Any) -> str:
    response = namespace.core.read_namespaced_pod_log(name, namespace.name, _preload_content=False, **query)
    return response.data.decode()  # type: ignore[no-any-return]


def test_a_log_is_read_completely_or_by_tail_age_and_with_timestamps(namespace: Namespace) -> None:
    namespace.run_pod("p", container("c", "echo one; echo 'two  words'; echo three"))
    namespace.wait_for_phase("p", "Succeeded")
    assert log_of(namespace, "p") == "one\ntwo  words\nthree\n"
    assert log_of(namespace, "p", tail_lines=1) == "three\n"
    assert log_of(namespace, "p", since_seconds=3600) == "one\ntwo  words\nthree\n"
    stamp, _, text = log_of(namespace, "p", timestamps=True, tail_lines=1).partition(" ")
    assert stamp.endswith("Z")
    assert text == "three\n"


def test_following_a_log_ends_when_its_container_ends(namespace: Namespace) -> None:
    namespace.run_pod("p", container("c", "echo one; sleep 60; echo two"), container("s", "sleep infinity"))
    namespace.wait_for_phase("p", "Running")
    response = namespace.core.read_namespaced_pod_log(
        "p", namespace.name, container="c", follow=True, _preload_content=False
    )
    arrivals = [(line, time.monotonic()) for line in response]
    assert b"".join(line for line, _ in arrivals) == b"one\ntwo\n"
    assert arrivals[-1][1] - arrivals[0][1] > 3 / SPEED


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({}, "a container name must be specified for pod p, choose one of: [a b]"),
        ({"container": "c"}, "container c is not valid for pod p"),
        (
            {"container": "b"},
            'container "b" in pod "p" is waiting to start: trying and failing to pull image',
        ),
    ],
)
def test_a_log_that_cannot_be_read_is_refused_with_the_reason(namespace: Namespace, query: Json, message: str) -> None:
    namespace.run_pod("p", container("a", "sleep infinity"), container("b", image="does-not-exist"))
    namespace.wait_until("p", lambda found: states(found) == {"a": "running", "b": "waiting"})
    assert namespace.request_error("GET", f"{namespace.pods}/p/log", **query) == {
        "metadata": {},
        "message": message,
        "reason": "BadRequest",
        "code": 400,
    }


def test_the_log_of_an_unscheduled_pod_is_empty(namespace: Namespace) -> None:
    namespace.create_pod("p")
    assert log_of(namespace, "p") == ""


@pytest.mark.parametrize("subresource", ["log", "exec"])
def test_logs_and_exec_of_a_pod_on_a_missing_node_are_not_found(namespace: Namespace, subresource: str) -> None:
    namespace.create_pod("p")
    namespace.bind_pod("p")
    assert namespace.request_error("GET", f"{namespace.pods}/p/{subresource}", command="true", stdout="true") == {
        "metadata": {},
        "message": 'pods "nowhere" not found',
        "reason": "NotFound",
        "details": {"name": "nowhere", "kind": "pods"},
        "code": 404,
    }


def connected(namespace: Namespace, command: list[str], **streams: bool) -> Any:
    return stream(
        namespace.core.connect_get_namespaced_pod_exec,
        "p",
        namespace.name,
        container="airflow-xcom-sidecar",
        command=command,
        stdout=True,
        stderr=True,
        tty=False,
        _preload_content=False,
        **streams,
    )


def test_the_xcom_sidecar_returns_the_value_and_is_killed(namespace: Namespace) -> None:
    """Replay the exchange of `PodManager.extract_xcom` verbatim."""
    mounts = [{"name": "xcom", "mountPath": "/airflow/xcom"}]
    base = container("base", """echo '{"a": 1}' > /airflow/xcom/return.json""", volumeMounts=mounts)
    sidecar = container("airflow-xcom-sidecar", SIDECAR_COMMAND, volumeMounts=mounts)
    namespace.run_pod("p", base, sidecar, volumes=[{"name": "xcom", "emptyDir": {}}])
    namespace.wait_until("p", lambda found: states(found) == {"base": 0, "airflow-xcom-sidecar": "running"})
    path = "/airflow/xcom/return.json"
    read = f"if [ -s {path} ]; then cat {path}; else echo __airflow_xcom_result_empty__; fi"
    with closing(connected(namespace, ["/bin/sh", "-c", read], stdin=False)) as session:
        session.run_forever(timeout=5)
        assert session.returncode == 0
        assert json.loads(session.read_all()) == {"a": 1}
    with closing(connected(namespace, ["/bin/sh"], stdin=True)) as session:
        session.write_stdin("kill -2 $(pgrep -u $(id -u) -f 'sh')\n")
        session.run_forever(timeout=5)
        assert not session.peek_stderr()
    found = namespace.wait_for_phase("p", "Succeeded")
    assert states(found) == {"base": 0, "airflow-xcom-sidecar": 0}


def test_a_missing_xcom_value_is_read_as_empty(namespace: Namespace) -> None:
    namespace.run_pod("p", container("airflow-xcom-sidecar", SIDECAR_COMMAND))
    namespace.wait_for_phase("p", "Running")
    read = "if [ -s /airflow/xcom/return.json ]; then cat /airflow/xcom/return.json; else echo empty; fi"
    with closing(connected(namespace, ["/bin/sh", "-c", read], stdin=False)) as session:
        session.run_forever(timeout=5)
        assert session.read_all() == "empty\n"


def test_exec_returns_the_exit_code_of_a_failed_command(namespace: Namespace) -> None:
    namespace.run_pod("p", container("airflow-xcom-sidecar", SIDECAR_COMMAND))
    namespace.wait_for_phase("p", "Running")
    with closing(connected(namespace, ["/bin/sh", "-c", "exit 3"], stdin=False)) as session:
        session.run_forever(timeout=5)
        assert session.returncode == 3
