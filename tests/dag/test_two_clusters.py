"""Two cleanup DAGs with a cluster each, which must not affect each other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from airflow.models.dagrun import DagRun
from kubernetes import client, config

from demo.cluster import EmbeddedCluster
from tests.dag import airflow_runs
from tests.dag.pods import create, labels_of, wait_until

NAMESPACE = "airflow"


class OneCluster:
    """A cluster that can go down, and the Airflow connection to it."""

    def __init__(self, name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._cluster = EmbeddedCluster([NAMESPACE])
        kubeconfig = self._cluster.__enter__().write_kubeconfig(folder / name)
        connection = {"conn_type": "kubernetes", "extra": {"kube_config_path": str(kubeconfig)}}
        monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", json.dumps(connection))
        self.core = client.CoreV1Api(config.new_client_from_config_dict(self._cluster.kubeconfig))
        self._is_up = True

    def names(self) -> set[str]:
        return {pod.metadata.name for pod in self.core.list_namespaced_pod(NAMESPACE).items}

    def go_down(self) -> None:
        if self._is_up:
            self._is_up = False
            self._cluster.__exit__(None, None, None)


@pytest.fixture
def clusters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, OneCluster]]:
    clusters = {name: OneCluster(name, tmp_path, monkeypatch) for name in ("cpu", "gpu")}
    yield clusters
    for cluster in clusters.values():
        cluster.go_down()


@pytest.fixture(scope="module")
def collisions(_proxy: object) -> DagRun:
    return airflow_runs.run("collisions")


def age_of(cluster: OneCluster, name: str) -> timedelta:
    created: datetime = cluster.core.read_namespaced_pod(name, NAMESPACE).metadata.creation_timestamp
    return datetime.now(UTC) - created


def outcomes(run: DagRun) -> dict[str, tuple[str, str]]:
    return {row["pod"]: (row["reason"], row["outcome"]) for row in airflow_runs.result(run, "reap")["zombies"]}


def test_a_pod_in_one_cluster_does_not_supersede_a_pod_in_the_other(
    clusters: dict[str, OneCluster], collisions: DagRun
) -> None:
    airflow_runs.set_state(collisions, "a_1", "running")
    older, newer = (labels_of("collisions", "a_1", collisions.run_id, try_number) for try_number in (1, 2))
    create(clusters["cpu"].core, "work", older)
    create(clusters["gpu"].core, "work", newer)
    for name in clusters:
        assert airflow_runs.states(airflow_runs.run(f"kpo_cleanup_{name}"))["reap"] == "skipped"
    airflow_runs.set_try(collisions, "a_1", 2)
    airflow_runs.record_pod(collisions, "a_1", NAMESPACE, "work-of-the-retry")
    wait_until(lambda: age_of(clusters["cpu"], "work") > timedelta(seconds=2))
    create(clusters["cpu"].core, "work-of-the-retry", newer)
    assert outcomes(airflow_runs.run("kpo_cleanup_cpu")) == {"airflow/work": ("superseded", "deleted")}
    assert {name: cluster.names() for name, cluster in clusters.items()} == {
        "cpu": {"work-of-the-retry"},
        "gpu": {"work"},
    }


def test_one_cluster_is_cleaned_while_the_other_is_down(clusters: dict[str, OneCluster], collisions: DagRun) -> None:
    airflow_runs.set_state(collisions, "a_1", "failed")
    create(clusters["cpu"].core, "zombie", labels_of("collisions", "a_1", collisions.run_id))
    airflow_runs.record_pod(collisions, "a_1", NAMESPACE, "zombie")
    airflow_runs.set_end_date("collisions")
    clusters["gpu"].go_down()
    assert airflow_runs.states(airflow_runs.run("kpo_cleanup_gpu"))["list_pods"] == "failed"
    assert outcomes(airflow_runs.run("kpo_cleanup_cpu")) == {"airflow/zombie": ("orphaned", "deleted")}
    assert clusters["cpu"].names() == set()
