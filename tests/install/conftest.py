"""Fixtures of the installation tests: a cluster with two pods, and an Airflow without DAGs that can access it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from kubernetes import client, config

from demo.airflow import Airflow
from demo.airflow_settings import Config
from demo.cluster import EmbeddedCluster
from demo.database import copy_or_migrate
from demo.processes import end_processes_of
from tests.conftest import HOME
from tests.dag.pods import NO_SCHEDULER, create, labels_of
from tests.install.steps import Distributions, build

NAMESPACE = "airflow"
# With delete_unmatched_pods, every pod without a task instance is a zombie, so no tasks are needed to create one.
OPTIONS = {"schedule": "None", "settle_seconds": 0, "delete_unmatched_pods": True}

MakeAirflow = Callable[..., Airflow]
Pods = Callable[[], set[str]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all tests of this folder, which start complete Airflows, for `make test-install`."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.install)


@pytest.fixture(scope="session")
def kubeconfig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with EmbeddedCluster([NAMESPACE]) as cluster:
        yield cluster.write_kubeconfig(tmp_path_factory.mktemp("cluster") / "kubeconfig")


@pytest.fixture
def add_pods(kubeconfig: Path) -> Iterator[Callable[[], Pods]]:
    """Return a function that creates a zombie and a protected pod; it returns a function that lists existing pods."""
    core = client.CoreV1Api(config.new_client_from_config(str(kubeconfig)))
    labels = labels_of("no_such_dag", "task", "manual__1")

    def names() -> set[str]:
        return {pod.metadata.name for pod in core.list_namespaced_pod(NAMESPACE).items}

    def add() -> Pods:
        core.delete_collection_namespaced_pod(NAMESPACE, grace_period_seconds=0)
        create(core, "zombie", labels, NAMESPACE, NO_SCHEDULER)
        create(core, "protected", labels, NAMESPACE, NO_SCHEDULER, annotations={"kpo-cleanup/protect": "true"})
        return names

    yield add
    core.delete_collection_namespaced_pod(NAMESPACE, grace_period_seconds=0)


@pytest.fixture
def pods(add_pods: Callable[[], Pods]) -> Pods:
    return add_pods()


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Distributions:
    return build(tmp_path_factory.mktemp("distributions") / "dist")


@pytest.fixture(scope="session")
def database() -> Path:
    """Create one metadata database for all tests to copy, because a migration takes longer than a run."""
    command, path = [sys.executable, "-m", "airflow", "db", "migrate"], HOME / "airflow.db"
    copy_or_migrate(path, lambda: subprocess.run(command, check=True, capture_output=True, timeout=300))
    return path


@pytest.fixture
def make_airflow(tmp_path: Path, kubeconfig: Path, database: Path) -> Iterator[MakeAirflow]:
    """Return a function that sets up an Airflow without DAGs and without access to this repository."""
    folder = tmp_path / "airflow"
    for path in (folder / "tmp", folder / "dags"):
        path.mkdir(parents=True)
    shutil.copy(database, folder / "airflow.db")

    def make(config: Config | None = None, variables: Mapping[str, str] | None = None) -> Airflow:
        options = {"kpo_cleanup": OPTIONS, **(config or {})}
        return Airflow(folder, kubeconfig, NAMESPACE, config=options, variables=variables)

    yield make
    end_processes_of(folder)


@pytest.fixture
def airflow(make_airflow: MakeAirflow) -> Airflow:
    return make_airflow()
