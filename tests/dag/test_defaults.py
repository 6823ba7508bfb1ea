"""Reproduce the user's report with default settings: a worker dies, a sidecar keeps running, a run deletes the pod."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from kubernetes import client, config

from demo.cluster import EmbeddedCluster
from include.kpo_cleanup.settings import Settings
from tests.conftest import HOME
from tests.dag import airflow_runs
from tests.dag.pods import pods_by_role, wait_until

SETTLE = timedelta(seconds=Settings().settle_seconds)
POD_AGE = timedelta(minutes=10)  # by the clock of the API server
ZOMBIES = {"reproduction.zombie#1", "reproduction.mapped[0]#1"}
# A completed pod that the operator kept on purpose; by default the cleanup keeps it as well.
KEPT = {"reproduction.kept#1"}


@pytest.fixture
def core(monkeypatch: pytest.MonkeyPatch, _proxy: object) -> Iterator[client.CoreV1Api]:
    """Start a separate cluster in which all pods are as old as `POD_AGE`."""
    with EmbeddedCluster(["airflow"], now=lambda: datetime.now(UTC) - POD_AGE) as cluster:
        extra = {"kube_config_path": str(cluster.write_kubeconfig(HOME / "defaults")), "namespace": "airflow"}
        monkeypatch.setenv("AIRFLOW_CONN_KUBERNETES_DEFAULT", json.dumps({"conn_type": "kubernetes", "extra": extra}))
        yield client.CoreV1Api(config.new_client_from_config_dict(cluster.kubeconfig))


def move_ends_into_the_past(core: client.CoreV1Api) -> None:
    """Set the ends of the tasks and of their containers back by the settling time, instead of waiting for it."""
    airflow_runs.set_end_date("reproduction", ago=SETTLE)
    for pod in core.list_namespaced_pod("airflow").items:
        statuses = core.api_client.sanitize_for_serialization(pod.status.container_statuses or [])
        for ended in [status["state"]["terminated"] for status in statuses if "terminated" in status["state"]]:
            ended["finishedAt"] = (datetime.now(UTC) - SETTLE).strftime("%Y-%m-%dT%H:%M:%SZ")
        body = {"status": {"containerStatuses": statuses}}
        core.patch_namespaced_pod_status(pod.metadata.name, "airflow", body)


def test_only_the_zombies_are_deleted_after_the_settling_time_and_before_it_the_log_shows_when(
    core: client.CoreV1Api, caplog: pytest.LogCaptureFixture
) -> None:
    airflow_runs.run("reproduction")
    wait_until(lambda: set(pods_by_role(core)) == ZOMBIES | KEPT)
    wait_until(lambda: all(has_only_its_sidecar(pods_by_role(core)[zombie]) for zombie in ZOMBIES))

    early = airflow_runs.run("kpo_cleanup")
    assert airflow_runs.states(early)["reap"] == "skipped"
    assert airflow_runs.result(early, "classify")["kept_by_reason"] == {"settling": len(ZOMBIES | KEPT)}
    due = f"{len(ZOMBIES)} of {len(ZOMBIES | KEPT)} settling pods: due for deletion "
    (line,) = (n for n, text in enumerate(caplog.messages) if text.startswith(due))
    assert caplog.messages[line + 1] == "    left for a later run, or for one with settle_seconds=0"
    assert set(pods_by_role(core)) == ZOMBIES | KEPT

    move_ends_into_the_past(core)
    assert airflow_runs.states(airflow_runs.run("kpo_cleanup"))["reap"] == "success"
    assert set(pods_by_role(core)) == KEPT


def has_only_its_sidecar(pod: client.V1Pod) -> bool:
    states = {status.name: status.state for status in pod.status.container_statuses or []}
    return bool(states and states["base"].terminated and states["sidecar"].running)
