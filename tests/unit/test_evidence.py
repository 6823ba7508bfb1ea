"""Times and states in words for people."""

from __future__ import annotations

import pytest

from include.kpo_cleanup.evidence import ago, container_states, duration, task_instance_state
from include.kpo_cleanup.pod import Container
from include.kpo_cleanup.task_instance import TaskInstance
from tests.unit.builders import DAY, HOUR, MINUTE, NOW, make_pod


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-5, "0 s"),
        (0, "0 s"),
        (59, "59 s"),
        (MINUTE, "1 min"),
        (119, "1 min"),
        (2 * HOUR - 1, "119 min"),
        (2 * HOUR, "2 h"),
        (2 * DAY - 1, "47 h"),
        (2 * DAY, "2 d"),
        (400 * DAY, "400 d"),
    ],
)
def test_a_duration_is_said_in_one_unit(seconds: int, words: str) -> None:
    assert duration(seconds) == words


def test_the_future_is_now() -> None:
    assert ago(NOW + HOUR, NOW) == "0 s ago"


@pytest.mark.parametrize(
    ("ti", "words"),
    [
        (TaskInstance("failed", 2, NOW - 3 * HOUR), "task instance failed (try 2) 3 h ago"),
        (TaskInstance("failed"), "task instance failed"),
        (TaskInstance(None), "task instance cleared"),
        (TaskInstance("up_for_retry", 1, NOW - HOUR), "task instance up_for_retry (try 1)"),
        (TaskInstance("running", 0), "task instance running (try 0)"),
    ],
)
def test_a_task_instance_is_said_with_what_is_known(ti: TaskInstance, words: str) -> None:
    assert task_instance_state(ti, NOW) == words


def test_containers_are_said_one_by_one() -> None:
    pod = make_pod(
        containers=(
            Container("base", "terminated", None, NOW - 2 * HOUR, 0),
            Container("init", "terminated"),
            Container("sidecar", "running", NOW - 3 * HOUR),
            Container("proxy", "running"),
            Container("logs", "waiting", waiting_reason="ErrImagePull"),
            Container("other", "waiting"),
        )
    )
    assert container_states(pod, NOW) == (
        "base exited 0 2 h ago, init exited ?, sidecar running 3 h, proxy running, logs waiting (ErrImagePull), "
        "other waiting"
    )


def test_a_pod_without_containers_is_said_by_its_phase() -> None:
    assert container_states(make_pod(phase="Pending", containers=()), NOW) == "pod Pending, no container status"
