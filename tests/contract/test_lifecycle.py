"""The life of a pod on the simulated node, which is the same for both servers."""

from __future__ import annotations

import time

import pytest

from tests.contract.space import (
    OBEDIENT,
    SIDECAR_COMMAND,
    SPEED,
    Json,
    Space,
    conditions,
    container,
    states,
)


@pytest.mark.parametrize(
    ("containers", "phase", "shown"),
    [
        pytest.param([container("c", "sleep 2; true")], "Succeeded", {"c": 0}, id="a command succeeds"),
        pytest.param([container("c", "sleep 1 && exit 3; true")], "Failed", {"c": 3}, id="a command fails"),
        pytest.param([container("c", "false && exit 0")], "Failed", {"c": 1}, id="the rest is not run"),
        pytest.param([container("c", "nonsense")], "Failed", {"c": 127}, id="an unknown command"),
        pytest.param(
            [{"name": "c", "image": "b", "command": ["sleep"], "args": ["1"]}],
            "Succeeded",
            {"c": 0},
            id="no shell, command and args",
        ),
        pytest.param([container("a"), container("b", "exit 1")], "Failed", {"a": 0, "b": 1}, id="one of two fails"),
    ],
)
def test_a_pod_ends(space: Space, containers: list[Json], phase: str, shown: Json) -> None:
    space.run("p", *containers)
    found = space.until_phase("p", "Succeeded", "Failed")
    assert found["status"]["phase"] == phase
    assert states(found) == shown
    assert conditions(found)["Ready"] == "False"


@pytest.mark.parametrize(
    ("script", "phase", "shown"), [("true", "Succeeded", {"base": 0}), ("exit 2", "Failed", {"base": "waiting"})]
)
def test_an_init_container_comes_first(space: Space, script: str, phase: str, shown: Json) -> None:
    space.run("p", initContainers=[container("init", script)])
    found = space.until_phase("p", "Succeeded", "Failed")
    assert found["status"]["phase"] == phase
    assert states(found) == shown


def test_the_scheduler_binds_a_pod_that_asks_for_none_else(space: Space) -> None:
    space.create("p", schedulerName="default-scheduler")
    found = space.until_phase("p", "Succeeded")
    assert found["spec"]["nodeName"]
    about = space.core.list_namespaced_event(space.name, field_selector="involvedObject.name=p").items
    assert {"Scheduled", "Pulled", "Created", "Started"} <= {event.reason for event in about}


def test_a_running_pod_looks_like_one(space: Space) -> None:
    space.run("p", container("c", "sleep infinity"))
    found = space.until_phase("p", "Running")
    status = found["status"]["containerStatuses"][0]
    assert {"hostIP", "podIP", "startTime"} <= found["status"].keys()
    assert (status["ready"], status["started"], status["restartCount"]) == (True, True, 0)
    assert status["state"]["running"]["startedAt"]
    assert set(conditions(found).values()) == {"True"}
    assert found["spec"]["nodeName"] == space.server.node


def test_a_sidecar_that_hangs_keeps_the_pod_running_but_not_ready(space: Space) -> None:
    space.run("p", container("base", "exit 0"), container("sidecar", "sleep infinity"))
    found = space.until("p", lambda found: states(found) == {"base": 0, "sidecar": "running"})
    assert found["status"]["phase"] == "Running"
    assert conditions(found)["Ready"] == "False"
    ended = found["status"]["containerStatuses"][0]["state"]["terminated"]
    assert ended["reason"] == "Completed"
    assert ended["finishedAt"]


@pytest.mark.parametrize(("policy", "script"), [("Always", "true"), ("OnFailure", "exit 1")])
def test_the_restart_policy_starts_a_container_again(space: Space, policy: str, script: str) -> None:
    def restarts(found: Json) -> int:
        return sum(status["restartCount"] for status in found["status"].get("containerStatuses", []))

    space.run("p", container("c", script), restartPolicy=policy)
    assert space.until("p", lambda found: restarts(found) >= 2)["status"]["phase"] == "Running"


def test_on_failure_leaves_a_success_alone(space: Space) -> None:
    space.run("p", restartPolicy="OnFailure")
    space.until_phase("p", "Succeeded")


def test_an_image_that_does_not_exist_keeps_the_pod_pending(space: Space) -> None:
    def reason(found: Json) -> str:
        statuses = found["status"].get("containerStatuses", [])
        return str(statuses[0]["state"].get("waiting", {}).get("reason")) if statuses else ""

    space.run("p", container("c", image="does-not-exist:1"))
    assert space.until("p", lambda found: reason(found) == "ImagePullBackOff")["status"]["phase"] == "Pending"
    space.delete("p")
    space.until_gone("p")


@pytest.mark.parametrize(
    ("script", "obedient"),
    [
        pytest.param(OBEDIENT, True, id="a trap for SIGTERM ends it"),
        pytest.param("trap '' TERM; while true; do sleep 1; done", False, id="SIGTERM is ignored"),
        pytest.param("sleep infinity", False, id="PID 1 has no default handler"),
        pytest.param("trap 'exit 0' TERM; sleep infinity", False, id="a trap waits for the foreground command"),
        pytest.param(SIDECAR_COMMAND, False, id="the xcom sidecar only traps SIGINT"),
    ],
)
def test_a_pod_dies_at_sigterm_or_when_its_grace_period_is_over(space: Space, script: str, obedient: bool) -> None:
    grace = 30
    space.run("p", container("c", script), terminationGracePeriodSeconds=grace)
    space.until_phase("p", "Running")
    begun = time.monotonic()
    space.delete("p")
    space.until_gone("p")
    taken = (time.monotonic() - begun) * SPEED
    assert (taken < grace - 2) is obedient


def test_a_dying_pod_is_still_running_and_shows_which_containers_have_ended(space: Space) -> None:
    space.run(
        "p",
        container("polite", OBEDIENT),
        container("stubborn", "sleep infinity"),
        terminationGracePeriodSeconds=600,
    )
    space.until_phase("p", "Running")
    space.delete("p")
    found = space.until("p", lambda found: states(found) == {"polite": 5, "stubborn": "running"})
    assert found["status"]["phase"] == "Running"
    assert found["metadata"]["deletionGracePeriodSeconds"] == 600


def test_a_second_delete_shortens_the_dying(space: Space) -> None:
    space.run("p", container("c", "sleep infinity"))
    space.until_phase("p", "Running")
    space.delete("p", gracePeriodSeconds=86400)
    space.delete("p", gracePeriodSeconds=1)
    space.until_gone("p")


def test_a_finalizer_keeps_a_pod_whose_containers_have_died(space: Space) -> None:
    space.run("p", container("c", "sleep infinity"), metadata={"finalizers": ["example.com/hold"]})
    space.until_phase("p", "Running")
    space.delete("p", gracePeriodSeconds=1)
    found = space.until("p", lambda found: states(found) == {"c": 137})
    assert found["status"]["phase"] == "Failed"
    space.until("p", lambda found: found["metadata"]["deletionGracePeriodSeconds"] == 0)
    space.patch("p", {"metadata": {"finalizers": None}})
    assert not space.get("p")


def test_a_forced_delete_is_immediate_and_the_name_is_free(space: Space) -> None:
    first = space.run("p", container("c", "sleep infinity"))
    space.until_phase("p", "Running")
    space.delete("p", gracePeriodSeconds=0)
    assert not space.get("p")
    second = space.run("p", container("c", "sleep infinity"))
    assert space.until_phase("p", "Running")["metadata"]["uid"] == second["metadata"]["uid"] != first["metadata"]["uid"]


def test_the_kubelet_lists_anew_when_its_watch_is_too_old(space: Space) -> None:
    space.server.expire_continue_tokens()
    space.run("p")
    space.until_phase("p", "Succeeded")
