"""Why a zombie was left behind: one diagnosis for each way in which that happens."""

from __future__ import annotations

from typing import Any

import pytest

from include.kpo_cleanup.diagnosis import diagnose
from include.kpo_cleanup.workloads.workload import XCOM_SIDECAR, Container
from tests.unit.builders import HOUR, NOW, make_pod

ENDED = Container("base", "terminated", NOW - 2 * HOUR, NOW - HOUR, 0)
KILLED = ENDED._replace(exit_code=137, reason="OOMKilled")
RUNNING = Container("base", "running", NOW - 2 * HOUR)


def waiting(reason: str, name: str = "base", is_init: bool = False) -> Container:
    return Container(name, "waiting", reason=reason, is_init=is_init)


def running(name: str, is_native: bool = False) -> Container:
    return Container(name, "running", NOW - 2 * HOUR, is_native=is_native)


@pytest.mark.parametrize(
    ("pod", "problem", "advice"),
    [
        pytest.param(
            {"containers": (ENDED, running("istio-proxy"))},
            "istio-proxy is still running after base ended",
            "make it a native sidecar",
            id="a sidecar outlives the main container",
        ),
        pytest.param(
            {"containers": (ENDED, running("a"), running("b"))},
            "a and b are still running after base ended",
            "make a and b native sidecars",
            id="two sidecars outlive the main container",
        ),
        pytest.param(
            {"containers": (ENDED, running(XCOM_SIDECAR))},
            f"{XCOM_SIDECAR} is still running after base ended",
            f"upgrade the operator's provider, because only the operator ends {XCOM_SIDECAR}; find out why its worker",
            id="the operator's own sidecar outlives the main container",
        ),
        pytest.param(
            {"containers": (ENDED, running(XCOM_SIDECAR), running("logs"))},
            f"{XCOM_SIDECAR} and logs are still running after base ended",
            "make logs a native sidecar; upgrade the operator's provider",
            id="the operator's own sidecar and another one outlive the main container",
        ),
        pytest.param(
            {"containers": (KILLED, running(XCOM_SIDECAR), running("istio-proxy", is_native=True))},
            f"{XCOM_SIDECAR} is still running after base ended (OOMKilled)",
            "upgrade the operator's provider",
            id="the operator's own sidecar keeps a native one running",
        ),
        pytest.param(
            {"containers": (ENDED, running("gcsfuse", is_native=True), running("logs"))},
            "logs is still running after base ended",
            "make it a native sidecar",
            id="a plain sidecar keeps a native one running",
        ),
        pytest.param(
            {"containers": (ENDED, running("istio-proxy", is_native=True))},
            "native sidecar istio-proxy is still running after base ended",
            "check the node",
            id="the kubelet does not stop a native sidecar",
        ),
        pytest.param(
            {"containers": (ENDED, running("istio-proxy", is_native=True), running("gcsfuse", is_native=True))},
            "native sidecars istio-proxy and gcsfuse are still running after base ended",
            "check the node",
            id="the kubelet stops none of two native sidecars",
        ),
        pytest.param(
            {"containers": (ENDED, Container("proxy", "waiting", reason="CrashLoopBackOff", restarts=3))},
            "proxy is waiting to be restarted (CrashLoopBackOff), although base ended",
            "kubectl describe pod",
            id="a sidecar keeps crashing",
        ),
        pytest.param(
            {"phase": "Pending", "containers": (ENDED, waiting("CreateContainerConfigError", XCOM_SIDECAR))},
            f"{XCOM_SIDECAR} has not started (CreateContainerConfigError), although base ended",
            "a ConfigMap or Secret may be missing, or its security context may not fit the image",
            id="a sidecar cannot start, and the main container has ended",
        ),
        pytest.param(
            {"containers": (ENDED,)},
            "the pod has not completed although base ended",
            "check its node",
            id="all containers have ended but the pod has not",
        ),
        pytest.param(
            {"main_container": "train", "containers": (running("base"), ENDED._replace(name="train"))},
            "base is still running after train ended",
            "make it a native sidecar",
            id="a sidecar outlives a main container with another name",
        ),
        pytest.param(
            {"containers": (RUNNING, running("istio-proxy"))},
            "base is still running, but its operator is gone",
            "its worker ended",
            id="the main container is still running",
        ),
        pytest.param(
            {"containers": (waiting("CrashLoopBackOff")._replace(restarts=208, last_end="OOMKilled"),)},
            "base keeps exiting and being restarted (CrashLoopBackOff, OOMKilled)",
            "raise its memory limit",
            id="the main container runs out of memory in a loop",
        ),
        pytest.param(
            {"containers": (waiting("CrashLoopBackOff")._replace(restarts=1, last_end="exit code 1"),)},
            "base keeps exiting and being restarted (CrashLoopBackOff, exit code 1)",
            "kubectl logs --previous",
            id="the main container crashes in a loop",
        ),
        pytest.param(
            {"phase": "Pending", "containers": (waiting("ImagePullBackOff"),)},
            "base never started (ImagePullBackOff)",
            "the image name, its pull secret or the registry may be wrong",
            id="the image cannot be pulled",
        ),
        pytest.param(
            {"phase": "Pending", "containers": (waiting("PodInitializing"), waiting("ErrImagePull", "init", True))},
            "base never started (ErrImagePull)",
            "the image name",
            id="the image of an init container cannot be pulled",
        ),
        pytest.param(
            {"phase": "Pending", "containers": (waiting("ImagePullBackOff"), running("istio-proxy"))},
            "base never started (ImagePullBackOff)",
            "the image name",
            id="only a sidecar has started",
        ),
        pytest.param(
            {"phase": "Pending", "containers": (), "phase_reason": "Unschedulable"},
            "it never started (Unschedulable)",
            "requests, node selectors, taints or volumes may be the cause; "
            "the evidence has the message from Kubernetes",
            id="no node can take it, or a volume is not bound",
        ),
        pytest.param(
            {"phase": "Pending", "containers": (), "phase_reason": "SchedulingGated"},
            "it never started (SchedulingGated)",
            "scheduling gates",
            id="its scheduling is gated",
        ),
        pytest.param(
            {"phase": "Pending", "containers": (waiting("CreateContainerConfigError"),)},
            "base never started (CreateContainerConfigError)",
            "a ConfigMap or Secret may be missing, or its security context may not fit the image",
            id="the main container cannot be created",
        ),
        pytest.param(
            {"phase": "Pending", "containers": (waiting("PodInitializing"), running("init")._replace(is_init=True))},
            "base never started (init container init is running)",
            "kubectl describe pod",
            id="an init container does not end",
        ),
        pytest.param(
            {"phase": "Pending", "containers": (waiting("ContainerCreating"),)},
            "base never started (ContainerCreating)",
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
            {"phase": "Pending", "main_container": "", "containers": (waiting("", "train"), running("linkerd-proxy"))},
            "a pod was left behind",
            "its worker",
            id="a container has started that may be the main one",
        ),
        pytest.param(
            {"phase": "Succeeded", "containers": (ENDED,)},
            "a completed pod was left behind",
            "its worker",
            id="the pod has succeeded",
        ),
        pytest.param(
            {"phase": "Failed", "containers": (KILLED,)},
            "a completed pod was left behind (OOMKilled)",
            "its worker",
            id="the main container ran out of memory",
        ),
        pytest.param(
            {"phase": "Failed", "containers": (), "phase_reason": "Evicted"},
            "a completed pod was left behind (Evicted)",
            "its worker",
            id="the pod was evicted",
        ),
        pytest.param(
            {"phase": "Unknown", "containers": (), "phase_reason": "NodeLost"},
            "a pod was left behind (NodeLost)",
            "its worker",
            id="its node is lost",
        ),
    ],
)
def test_the_diagnosis_of_a_zombie_is_what_its_containers_show(pod: dict[str, Any], problem: str, advice: str) -> None:
    diagnosis = diagnose(make_pod(**pod))
    assert diagnosis.problem == problem
    assert advice in diagnosis.advice
