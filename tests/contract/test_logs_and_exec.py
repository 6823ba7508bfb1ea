"""Logs, and the exchange between the operator and its xcom sidecar."""

from __future__ import annotations

import json
import time
from contextlib import closing
from typing import Any

import pytest
from kubernetes.stream import stream

from tests.contract.space import SIDECAR_COMMAND, SPEED, Json, Space, container, states


def log_of(space: Space, name: str, **query: Any) -> str:
    answer = space.core.read_namespaced_pod_log(name, space.name, _preload_content=False, **query)
    return answer.data.decode()  # type: ignore[no-any-return]


def test_logs_are_read_whole_by_tail_and_with_timestamps(space: Space) -> None:
    space.run("p", container("c", "echo one; echo 'two  words'; echo three"))
    space.until_phase("p", "Succeeded")
    assert log_of(space, "p") == "one\ntwo  words\nthree\n"
    assert log_of(space, "p", tail_lines=1) == "three\n"
    assert log_of(space, "p", since_seconds=3600) == "one\ntwo  words\nthree\n"
    stamp, _, text = log_of(space, "p", timestamps=True, tail_lines=1).partition(" ")
    assert stamp.endswith("Z")
    assert text == "three\n"


def test_a_followed_log_ends_with_its_container(space: Space) -> None:
    space.run("p", container("c", "echo one; sleep 6; echo two"), container("s", "sleep infinity"))
    space.until_phase("p", "Running")
    answer = space.core.read_namespaced_pod_log("p", space.name, container="c", follow=True, _preload_content=False)
    arrivals = [(line, time.monotonic()) for line in answer]
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
def test_a_log_that_cannot_be_read(space: Space, query: Json, message: str) -> None:
    space.run("p", container("a", "sleep infinity"), container("b", image="does-not-exist"))
    space.until("p", lambda found: states(found) == {"a": "running", "b": "waiting"})
    assert space.fails("GET", f"{space.pods}/p/log", **query) == {
        "metadata": {},
        "message": message,
        "reason": "BadRequest",
        "code": 400,
    }


def test_the_log_of_an_unscheduled_pod_is_empty(space: Space) -> None:
    space.create("p")
    assert log_of(space, "p") == ""


@pytest.mark.parametrize("subresource", ["log", "exec"])
def test_a_node_that_does_not_exist_is_not_found(space: Space, subresource: str) -> None:
    space.create("p")
    space.bind("p")
    assert space.fails("GET", f"{space.pods}/p/{subresource}", command="true", stdout="true") == {
        "metadata": {},
        "message": 'pods "nowhere" not found',
        "reason": "NotFound",
        "details": {"name": "nowhere", "kind": "pods"},
        "code": 404,
    }


def connected(space: Space, command: list[str], **streams: bool) -> Any:
    return stream(
        space.core.connect_get_namespaced_pod_exec,
        "p",
        space.name,
        container="airflow-xcom-sidecar",
        command=command,
        stdout=True,
        stderr=True,
        tty=False,
        _preload_content=False,
        **streams,
    )


def test_the_xcom_sidecar_hands_out_the_value_and_is_killed(space: Space) -> None:
    """Play the exchange of `PodManager.extract_xcom`, word for word."""
    mounts = [{"name": "xcom", "mountPath": "/airflow/xcom"}]
    base = container("base", """echo '{"a": 1}' > /airflow/xcom/return.json""", volumeMounts=mounts)
    sidecar = container("airflow-xcom-sidecar", SIDECAR_COMMAND, volumeMounts=mounts)
    space.run("p", base, sidecar, volumes=[{"name": "xcom", "emptyDir": {}}])
    space.until("p", lambda found: states(found) == {"base": 0, "airflow-xcom-sidecar": "running"})
    path = "/airflow/xcom/return.json"
    read = f"if [ -s {path} ]; then cat {path}; else echo __airflow_xcom_result_empty__; fi"
    with closing(connected(space, ["/bin/sh", "-c", read], stdin=False)) as session:
        session.run_forever(timeout=5)
        assert session.returncode == 0
        assert json.loads(session.read_all()) == {"a": 1}
    with closing(connected(space, ["/bin/sh"], stdin=True)) as session:
        session.write_stdin("kill -2 $(pgrep -u $(id -u) -f 'sh')\n")
        session.run_forever(timeout=5)
        assert not session.peek_stderr()
    found = space.until_phase("p", "Succeeded")
    assert states(found) == {"base": 0, "airflow-xcom-sidecar": 0}


def test_a_missing_xcom_value_reads_as_empty(space: Space) -> None:
    space.run("p", container("airflow-xcom-sidecar", SIDECAR_COMMAND))
    space.until_phase("p", "Running")
    read = "if [ -s /airflow/xcom/return.json ]; then cat /airflow/xcom/return.json; else echo empty; fi"
    with closing(connected(space, ["/bin/sh", "-c", read], stdin=False)) as session:
        session.run_forever(timeout=5)
        assert session.read_all() == "empty\n"


def test_a_failing_command_tells_its_exit_code(space: Space) -> None:
    space.run("p", container("airflow-xcom-sidecar", SIDECAR_COMMAND))
    space.until_phase("p", "Running")
    with closing(connected(space, ["/bin/sh", "-c", "exit 3"], stdin=False)) as session:
        session.run_forever(timeout=5)
        assert session.returncode == 3
