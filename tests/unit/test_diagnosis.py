"""Why a zombie is there: one cause for each way in which a pod is left."""

from __future__ import annotations

from typing import Any

import pytest

from include.kpo_cleanup.diagnosis import cause_of
from include.kpo_cleanup.pod import XCOM_SIDECAR, Container
from tests.unit.builders import HOUR, NOW, make_pod

ENDED = Container("base", "terminated", NOW - 2 * HOUR, NOW - HOUR, 0)
RUNNING = Container("base", "running", NOW - 2 * HOUR)


def waiting(reason: str, name: str = "base", is_init: bool = False) -> Container:
    return Container(name, "waiting", waiting_reason=reason, is_init=is_init)


def running(name: str) -> Container:
    return Container(name, "running", NOW - 2 * HOUR)


@pytest.mark.parametrize(
    ("pod", "problem", "advice"),
    [
        pytest.param(
            {"containers": (ENDED, running("istio-proxy"))},
            "istio-proxy runs on after base ended",
            "native sidecar",
            id="a sidecar that outlives the main container",
        ),
        pytest.param(
            {"containers": (ENDED, running("a"), running("b"))},
            "a and b run on after base ended",
            "native sidecar",
            id="two of them",
        ),
        pytest.param(
            {"containers": (ENDED, running(XCOM_SIDECAR))},
            f"{XCOM_SIDECAR} runs on after base ended",
            "its result was not taken",
            id="the sidecar of the operator",
        ),
        pytest.param(
            {"main_container": "train", "containers": (running("base"), ENDED._replace(name="train"))},
            "base runs on after train ended",
            "native sidecar",
            id="a main container of another name",
        ),
        pytest.param(
            {"containers": (RUNNING, running("istio-proxy"))},
            "base works on, but its operator is gone",
            "its worker ended",
            id="a task that is gone",
        ),
        pytest.param(
            {"phase": "Pending", "containers": (waiting("ImagePullBackOff"),)},
            "it never started (ImagePullBackOff)",
            "image's name",
            id="an image that is not there",
        ),
        pytest.param(
            {"phase": "Pending", "containers": (waiting("PodInitializing"), waiting("ErrImagePull", "init", True))},
            "it never started (ErrImagePull)",
            "image's name",
            id="an image of an init container",
        ),
        pytest.param(
            {"phase": "Pending", "containers": (), "phase_reason": "Unschedulable"},
            "it never started (Unschedulable)",
            "no room",
            id="no node for it",
        ),
        pytest.param(
            {"phase": "Pending", "containers": (waiting("CreateContainerConfigError"),)},
            "it never started (CreateContainerConfigError)",
            "ConfigMap",
            id="a ConfigMap that is missing",
        ),
        pytest.param(
            {
                "phase": "Pending",
                "containers": (waiting("PodInitializing"), running("init")._replace(is_init=True)),
            },
            "it never started (init container init still runs)",
            "kubectl describe pod",
            id="an init container without end",
        ),
        pytest.param(
            {"phase": "Pending", "containers": (waiting("ContainerCreating"),)},
            "it never started (ContainerCreating)",
            "kubectl describe pod",
            id="a volume that does not come",
        ),
        pytest.param(
            {"phase": "Pending", "containers": ()}, "it never started", "kubectl describe pod", id="nobody knows why"
        ),
        pytest.param(
            {"phase": "Succeeded", "containers": (ENDED,)},
            "a completed pod was left over",
            "its worker",
            id="completed",
        ),
        pytest.param(
            {"phase": "Failed", "containers": (), "phase_reason": "Evicted"},
            "a completed pod was left over",
            "its worker",
            id="evicted",
        ),
        pytest.param(
            {"phase": "Unknown", "containers": ()}, "a pod was left over", "its worker", id="on a node that is gone"
        ),
        pytest.param(
            {"containers": (waiting("CrashLoopBackOff"),)}, "a pod was left over", "its worker", id="started and fell"
        ),
    ],
)
def test_a_zombie_has_the_cause_that_its_containers_show(pod: dict[str, Any], problem: str, advice: str) -> None:
    cause = cause_of(make_pod(**pod))
    assert cause.problem == problem
    assert advice in cause.advice
