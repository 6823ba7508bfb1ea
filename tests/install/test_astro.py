"""The Astro project that this repository is, and one of the user's own to which the DAG is added.

Astro's image cannot be had here, but it is known. It copies the project into a folder, and sets PYTHONPATH and
AIRFLOW_HOME to it (https://github.com/astronomer/astro-cli/pull/2155). Astro CLI's source shows how it reads the files
of a project (airflow/airflow.go and settings/types.go of astronomer/astro-cli).
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
from tests.install.steps import clean_up, copy_repository, follow_readme, own_dag

CONNECTION_KEYS = {"id", "type", "host", "schema", "login", "password", "port", "uri", "extra"}


@pytest.fixture
def airflow_in(make_airflow: MakeAirflow, kubeconfig: Path) -> Callable[[Path], Airflow]:
    """Set up an Airflow as in the image, with the connection of airflow_settings.yaml, as Astro CLI adds it."""
    (entry,) = yaml.safe_load((REPO / "airflow_settings.yaml").read_text())["airflow"]["connections"]
    connection = {name.removeprefix("conn_"): value for name, value in entry.items()}
    assert set(connection) <= CONNECTION_KEYS
    given = {"conn_type": connection["type"], "extra": connection["extra"]}
    assert not [name for name, value in connection.items() if value and name not in ("id", "type", "extra")]

    def make(project: Path) -> Airflow:
        variables = {
            "AIRFLOW_HOME": str(project),
            "PYTHONPATH": str(project),
            f"AIRFLOW_CONN_{connection['id'].upper()}": json.dumps(given),
            "KUBECONFIG": str(kubeconfig),
        }
        return make_airflow({"core": {"dags_folder": project / "dags"}}, variables)

    return make


def build_context(target: Path) -> Path:
    """Copy what `COPY . .` copies: this repository without the files that .dockerignore names."""
    copy_repository(target)
    patterns = [line for line in (REPO / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    for path in target.iterdir():
        if any(fnmatch(path.name, pattern) for pattern in patterns):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return target


def test_the_image_has_the_dag_and_runs_it(airflow_in: Callable[[Path], Airflow], tmp_path: Path, pods: Pods) -> None:
    project = build_context(tmp_path / "astro")
    assert {path.name for path in project.iterdir() if path.is_dir()} == {".astro", "dags", "include"}
    clean_up(airflow_in(project))
    assert pods() == {"protected"}


def test_added_to_a_project_it_runs_beside_what_is_there(
    airflow_in: Callable[[Path], Airflow], tmp_path: Path, pods: Pods
) -> None:
    project = tmp_path / "astro"
    (project / "dags").mkdir(parents=True)
    loaded = own_dag(project / "dags", project / "include")
    (project / "include" / "__init__.py").touch()  # a regular package, as some projects have it
    (project / "requirements.txt").write_text("pandas\n")
    follow_readme("Astro CLI", PROJECT=project)
    clean_up(airflow_in(project))
    assert pods() == {"protected"}
    assert loaded.exists()
    assert (project / "requirements.txt").read_text().startswith("pandas\n#")


def test_the_files_are_as_astro_cli_reads_them() -> None:
    assert yaml.safe_load((REPO / ".astro" / "config.yaml").read_text()) == {"project": {"name": "kpo-cleanup"}}
    settings = yaml.safe_load((REPO / "airflow_settings.yaml").read_text())
    assert set(settings) == {"airflow"}
    assert set(settings["airflow"]) == {"connections", "pools", "variables"}
    for name in ("packages.txt", "requirements.txt", "dags", "include", "tests"):
        assert (REPO / name).exists()  # copied or mounted, whatever is in them


def test_the_dockerfile_takes_the_runtime_with_the_airflow_that_is_tested() -> None:
    lines = (REPO / "Dockerfile").read_text().splitlines()
    (instruction,) = [line for line in lines if not line.startswith("#")]
    image = re.fullmatch(r"FROM astrocrpublic\.azurecr\.io/runtime:(\d+\.\d+-\d+)", instruction)
    assert image
    tested = re.search(r"^AIRFLOW_3 := (.+)$", (REPO / "Makefile").read_text(), re.M)
    assert tested
    assert f"Astro Runtime {image[1]} is Airflow {tested[1]}." in "\n".join(lines)


def test_the_requirements_leave_airflow_alone() -> None:
    """Check for apache-airflow: the image's build fails if the requirements name it."""
    lines = (REPO / "requirements.txt").read_text().splitlines()
    names = {re.split(r"[^\w.-]", line)[0] for line in lines if line and line[0] != "#"}
    assert "apache-airflow" not in names
    assert "apache-airflow-providers-cncf-kubernetes" in names
