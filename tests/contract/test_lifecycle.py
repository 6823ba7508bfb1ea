"""The life cycle of a pod on the simulated node, which is the same for both servers."""

from __future__ import annotations

import time

import pytest

from tests.contract.namespace import (
    EXITS_ON_SIGTERM,
    SIDECAR_COMMAND,
    SPEED,
    Json,
    Namespace,
    conditions,
    container,
    states,
)


@pytest.mark.parametrize(
    ("containers", "phase", "expected_states"),
    [
        pytest.param([container("c", "sleep 2; true")], "Succeeded", {"c": 0}, id="a command succeeds"),
        pytest.param([container("c", "sleep 1 && exit 3; true")], "Failed", {"c": 3}, id="a command fails"),
        pytest.param([container("c", "false && exit 0")], "Failed", {"c": 1}, id="a failed command stops an and-list"),
        pytest.param([container("c", "nonsense")], "Failed", {"c": 127}, id="an unknown command"),
        pytest.param(
            [{"name": "c", "image": "b", "command": ["sleep"], "args": ["1"]}],
            "Succeeded",
            {"c": 0},
            id="a command with arguments and without a shell",
        ),
        pytest.param(
            [container("a"), container("b", "exit 1")], "Failed", {"a": 0, "b": 1}, id="one of two containers fails"
        ),
    ],
)
def test_a_pod_finishes_with_the_exit_codes_of_its_containers(
    namespace: Namespace, containers: list[Json], phase: str, expected_states: Json
) -> None:
    namespace.run_pod("p", *containers)
    found = namespace.wait_for_phase("p", "Succeeded", "Failed")
    assert found["status"]["phase"] == phase
    assert states(found) == expected_states
    assert conditions(found)["Ready"] == "False"


@pytest.mark.parametrize(
    ("script", "phase", "expected_states"),
    [("true", "Succeeded", {"base": 0}), ("exit 2", "Failed", {"base": "waiting"})],
)
def test_containers_start_only_after_their_init_container_succeeded(
    namespace: Namespace, script: str, phase: str, expected_states: Json
) -> None:
    namespace.run_pod("p", initContainers=[container("init", script)])
    found = namespace.wait_for_phase("p", "Succeeded", "Failed")
    assert found["status"]["phase"] == phase
    assert states(found) == expected_states


def test_a_pod_of_the_default_scheduler_is_bound_and_run(namespace: Namespace) -> None:
    namespace.create_pod("p", schedulerName="default-scheduler")
    found = namespace.wait_for_phase("p", "Succeeded")
    assert found["spec"]["nodeName"]
    about = namespace.core.list_namespaced_event(namespace.name, field_selector="involvedObject.name=p").items
    assert {"Scheduled", "Pulled", "Created", "Started"} <= {event.reason for event in about}


def test_a_running_pod_meets_all_conditions_and_reports_its_node_and_its_start(namespace: Namespace) -> None:
    namespace.run_pod("p", container("c", "sleep infinity"))
    found = namespace.wait_for_phase("p", "Running")
    status = found["status"]["containerStatuses"][0]
    assert {"hostIP", "podIP", "startTime"} <= found["status"].keys()
    assert (status["ready"], status["started"], status["restartCount"]) == (True, True, 0)
    assert status["state"]["running"]["startedAt"]
    assert set(conditions(found).values()) == {"True"}
    assert found["spec"]["nodeName"] == namespace.server.node


def test_a_running_sidecar_keeps_its_pod_running_but_not_ready(namespace: Namespace) -> None:
    namespace.run_pod("p", container("base", "exit 0"), container("sidecar", "sleep infinity"))
    found = namespace.wait_until("p", lambda found: states(found) == {"base": 0, "sidecar": "running"})
    assert found["status"]["phase"] == "Running"
    assert conditions(found)["Ready"] == "False"
    ended = found["status"]["containerStatuses"][0]["state"]["terminated"]
    assert ended["reason"] == "Completed"
    assert ended["finishedAt"]


@pytest.mark.parametrize(("policy", "script"), [("Always", "true"), ("OnFailure", "exit 1")])
def test_a_container_is_restarted_according_to_the_restart_policy(
    namespace: Namespace, policy: str, script: str
) -> None:
    def restarts(found: Json) -> int:
        return sum(status["restartCount"] for status in found["status"].get("containerStatuses", []))

    namespace.run_pod("p", container("c", script), restartPolicy=policy)
    assert namespace.wait_until("p", lambda found: restarts(found) >= 2)["status"]["phase"] == "Running"


def test_a_successful_container_is_not_restarted_on_failure(namespace: Namespace) -> None:
    namespace.run_pod("p", restartPolicy="OnFailure")
    namespace.wait_for_phase("p", "Succeeded")


def test_a_missing_image_keeps_the_pod_pending(namespace: Namespace) -> None:
    def reason(found: Json) -> str:
        statuses = found["status"].get("containerStatuses", [])
        return str(statuses[0]["state"].get("waiting", {}).get("reason")) if statuses else ""

    namespace.run_pod("p", container("c", image="does-not-exist:1"))
    assert namespace.wait_until("p", lambda found: reason(found) == "ImagePullBackOff")["status"]["phase"] == "Pending"
    namespace.delete_pod("p")
    namespace.wait_until_gone("p")


@pytest.mark.parametrize(
    ("script", "exits_early"),
    [
        pytest.param(EXITS_ON_SIGTERM, True, id="a trap for SIGTERM exits"),
        pytest.param("trap '' TERM; while true; do sleep 1; done", False, id="SIGTERM is ignored"),
        pytest.param("sleep infinity", False, id="PID 1 has no default handler"),
        pytest.param("trap 'exit 0' TERM; sleep infinity", False, id="a trap waits for the foreground command"),
        pytest.param(SIDECAR_COMMAND, False, id="the XCom sidecar traps only SIGINT"),
    ],
)
def test_a_deleted_pod_ends_on_sigterm_or_at_the_end_of_its_grace_period(
    namespace: Namespace, script: str, exits_early: bool
) -> None:
    grace = 30
    namespace.run_pod("p", container("c", script), terminationGracePeriodSeconds=grace)
    namespace.wait_for_phase("p", "Running")
    started = time.monotonic()
    namespace.delete_pod("p")
    namespace.wait_until_gone("p")
    taken = (time.monotonic() - started) * SPEED
    assert (taken < grace - 2) is exits_early


def test_a_terminating_pod_stays_in_phase_running_and_reports_which_containers_have_ended(namespace: Namespace) -> None:
    namespace.run_pod(
        "p",
        container("polite", EXITS_ON_SIGTERM),
        container("stubborn", "sleep infinity"),
        terminationGracePeriodSeconds=600,
    )
    namespace.wait_for_phase("p", "Running")
    namespace.delete_pod("p")
    found = namespace.wait_until("p", lambda found: states(found) == {"polite": 5, "stubborn": "running"})
    assert found["status"]["phase"] == "Running"
    assert found["metadata"]["deletionGracePeriodSeconds"] == 600


def test_a_second_delete_shortens_the_grace_period_of_a_running_pod(namespace: Namespace) -> None:
    namespace.run_pod("p", container("c", "sleep infinity"))
    namespace.wait_for_phase("p", "Running")
    namespace.delete_pod("p", gracePeriodSeconds=86400)
    namespace.delete_pod("p", gracePeriodSeconds=1)
    namespace.wait_until_gone("p")


def test_a_finalizer_keeps_a_pod_whose_containers_were_killed(namespace: Namespace) -> None:
    namespace.run_pod("p", container("c", "sleep infinity"), metadata={"finalizers": ["example.com/hold"]})
    namespace.wait_for_phase("p", "Running")
    namespace.delete_pod("p", gracePeriodSeconds=1)
    found = namespace.wait_until("p", lambda found: states(found) == {"c": 137})
    assert found["status"]["phase"] == "Failed"
    namespace.wait_until("p", lambda found: found["metadata"]["deletionGracePeriodSeconds"] == 0)
    namespace.patch_pod("p", {"metadata": {"finalizers": None}})
    assert not namespace.get_pod("p")


def test_a_forced_delete_frees_the_name_of_a_running_pod_immediately(namespace: Namespace) -> None:
    first = namespace.run_pod("p", container("c", "sleep infinity"))
    namespace.wait_for_phase("p", "Running")
    namespace.delete_pod("p", gracePeriodSeconds=0)
    assert not namespace.get_pod("p")
    second = namespace.run_pod("p", container("c", "sleep infinity"))
    assert (
        namespace.wait_for_phase("p", "Running")["metadata"]["uid"]
        == second["metadata"]["uid"]
        != first["metadata"]["uid"]
    )


def test_the_kubelet_lists_again_when_its_watch_has_expired(namespace: Namespace) -> None:
    namespace.server.expire_continue_tokens()
    namespace.run_pod("p")
    namespace.wait_for_phase("p", "Succeeded")
