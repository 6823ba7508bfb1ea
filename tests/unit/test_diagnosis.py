"""Why a zombie was left behind: one diagnosis for each way in which that happens."""

from __future__ import annotations

from typing import Any

import pytest

from include.kpo_cleanup.diagnosis import diagnose
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
            "istio-proxy is still running after base ended",
            "native sidecar",
            id="a sidecar outlives the main container",
        ),
        pytest.param(
            {"containers": (ENDED, running("a"), running("b"))},
            "a and b are still running after base ended",
            "native sidecar",
            id="two sidecars outlive the main container",
        ),
        pytest.param(
            {"containers": (ENDED, running(XCOM_SIDECAR))},
            f"{XCOM_SIDECAR} is still running after base ended",
            "its operator did not collect the XCom",
            id="the operator's own sidecar outlives the main container",
        ),
        pytest.param(
            {"main_container": "train", "containers": (running("base"), ENDED._replace(name="train"))},
            "base is still running after train ended",
            "native sidecar",
            id="a sidecar outlives a main container with another name",
        ),
        pytest.param(
            {"containers": (RUNNING, running("istio-proxy"))},
            "base is still running, but its operator is gone",
            "its worker ended",
            id="the main container is still running",
        ),
        pytest.param(
            {"phase": "Pending", "containers": (waiting("ImagePullBackOff"),)},
            "it never started (ImagePullBackOff)",
            "image name",
            id="the image does not exist",
        ),
        pytest.param(
            {"phase": "Pending", "containers": (waiting("PodInitializing"), waiting("ErrImagePull", "init", True))},
            "it never started (ErrImagePull)",
            "image name",
            id="the image of an init container does not exist",
        ),
        pytest.param(
            {"phase": "Pending", "containers": (), "phase_reason": "Unschedulable"},
            "it never started (Unschedulable)",
            "no node can take it",
            id="no node can take it",
        ),
        pytest.param(
            {"phase": "Pending", "containers": (waiting("CreateContainerConfigError"),)},
            "it never started (CreateContainerConfigError)",
            "ConfigMap",
            id="a ConfigMap is missing",
        ),
        pytest.param(
            {
                "phase": "Pending",
                "containers": (waiting("PodInitializing"), running("init")._replace(is_init=True)),
            },
            "it never started (init container init is running)",
            "kubectl describe pod",
            id="an init container does not end",
        ),
        pytest.param(
            {"phase": "Pending", "containers": (waiting("ContainerCreating"),)},
            "it never started (ContainerCreating)",
            "kubectl describe pod",
            id="a volume is missing",
        ),
        pytest.param(
            {"phase": "Pending", "containers": ()},
            "it never started",
            "kubectl describe pod",
            id="the reason is unknown",
        ),
        pytest.param(
            {"phase": "Succeeded", "containers": (ENDED,)},
            "a completed pod was left behind",
            "its worker",
            id="the pod has completed",
        ),
        pytest.param(
            {"phase": "Failed", "containers": (), "phase_reason": "Evicted"},
            "a completed pod was left behind",
            "its worker",
            id="the pod was evicted",
        ),
        pytest.param(
            {"phase": "Unknown", "containers": ()}, "a pod was left behind", "its worker", id="its node is lost"
        ),
        pytest.param(
            {"containers": (waiting("CrashLoopBackOff"),)},
            "a pod was left behind",
            "its worker",
            id="it crashes in a loop",
        ),
    ],
)
def test_the_diagnosis_of_a_zombie_is_what_its_containers_show(pod: dict[str, Any], problem: str, advice: str) -> None:
    diagnosis = diagnose(make_pod(**pod))
    assert diagnosis.problem == problem
    assert advice in diagnosis.advice
