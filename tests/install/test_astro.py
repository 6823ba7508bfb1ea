"""This repository as an Astro project, and the DAG added to a user's own Astro project.

Astro's image cannot be pulled here, so the tests imitate it: it copies the project into a folder, and sets PYTHONPATH
and AIRFLOW_HOME to that folder (https://github.com/astronomer/astro-cli/pull/2155). How Astro CLI reads the files of a
project can be seen in its source (airflow/airflow.go and settings/types.go of astronomer/astro-cli).
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml

from demo.airflow import Airflow
from tests.conftest import REPO
from tests.install.conftest import MakeAirflow, Pods
from tests.install.steps import clean_up, copy_repository, follow_guide, own_dag

CONNECTION_KEYS = {"id", "type", "host", "schema", "login", "password", "port", "uri", "extra"}


@pytest.fixture
def airflow_in(make_airflow: MakeAirflow, kubeconfig: Path) -> Callable[[Path], Airflow]:
    """Return a function that sets up an Airflow like the image's, with the connection of airflow_settings.yaml."""
    (entry,) = yaml.safe_load((REPO / "airflow_settings.yaml").read_text())["airflow"]["connections"]
    connection = {name.removeprefix("conn_"): value for name, value in entry.items()}
    assert set(connection) <= CONNECTION_KEYS
    fields = {"conn_type": connection["type"], "extra": connection["extra"]}
    assert not [name for name, value in connection.items() if value and name not in ("id", "type", "extra")]

    def make(project: Path) -> Airflow:
        variables = {
            "AIRFLOW_HOME": str(project),
            "PYTHONPATH": str(project),
            f"AIRFLOW_CONN_{connection['id'].upper()}": json.dumps(fields),
            "KUBECONFIG": str(kubeconfig),
        }
        return make_airflow({"core": {"dags_folder": project / "dags"}}, variables)

    return make


def build_context(target: Path) -> Path:
    """Copy this repository without the files that .dockerignore excludes, as `COPY . .` does."""
    copy_repository(target)
    patterns = [line for line in (REPO / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    for path in target.iterdir():
        if any(fnmatch(path.name, pattern) for pattern in patterns):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return target


def test_the_image_contains_and_runs_the_dag(airflow_in: Callable[[Path], Airflow], tmp_path: Path, pods: Pods) -> None:
    project = build_context(tmp_path / "astro")
    assert {path.name for path in project.iterdir() if path.is_dir()} == {".astro", "dags", "include"}
    clean_up(airflow_in(project))
    assert pods() == {"protected"}


def test_the_dag_added_to_a_project_runs_next_to_the_projects_own_dags(
    airflow_in: Callable[[Path], Airflow], tmp_path: Path, pods: Pods
) -> None:
    project = tmp_path / "astro"
    (project / "dags").mkdir(parents=True)
    loaded = own_dag(project / "dags", project / "include")
    (project / "include" / "__init__.py").touch()  # a regular package, as in some projects
    (project / "requirements.txt").write_text("pandas\n")
    follow_guide("Astro CLI", PROJECT=project)
    clean_up(airflow_in(project))
    assert pods() == {"protected"}
    assert loaded.exists()
    assert (project / "requirements.txt").read_text().startswith("pandas\n#")


def test_the_project_files_have_the_format_that_astro_cli_expects() -> None:
    assert yaml.safe_load((REPO / ".astro" / "config.yaml").read_text()) == {"project": {"name": "kpo-cleanup"}}
    settings = yaml.safe_load((REPO / "airflow_settings.yaml").read_text())
    assert set(settings) == {"airflow"}
    assert set(settings["airflow"]) == {"connections", "pools", "variables"}
    for name in ("packages.txt", "requirements.txt", "dags", "include", "tests"):
        assert (REPO / name).exists()  # Astro CLI copies or mounts them, even if they are empty


def test_the_dockerfile_uses_the_runtime_of_the_airflow_version_that_is_tested() -> None:
    lines = (REPO / "Dockerfile").read_text().splitlines()
    (instruction,) = [line for line in lines if not line.startswith("#")]
    image = re.fullmatch(r"FROM astrocrpublic\.azurecr\.io/runtime:(\d+\.\d+-\d+)", instruction)
    assert image
    tested = re.search(r"^AIRFLOW_3 := (.+)$", (REPO / "Makefile").read_text(), re.M)
    assert tested
    assert f"Astro Runtime {image[1]} is Airflow {tested[1]}." in "\n".join(lines)


def test_the_requirements_contain_the_provider_but_not_airflow() -> None:
    """Check for `apache-airflow`, with which the build of the image would fail."""
    lines = (REPO / "requirements.txt").read_text().splitlines()
    names = {re.split(r"[^\w.-]", line)[0] for line in lines if line and line[0] != "#"}
    assert "apache-airflow" not in names
    assert "apache-airflow-providers-cncf-kubernetes" in names
