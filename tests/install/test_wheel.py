"""The wheel installed into the environment of an Airflow, with the documented DAG file that uses it."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.conftest import REPO
from tests.install.conftest import MakeAirflow, Pods
from tests.install.steps import Distributions, clean_up, follow_guide, listed_dags


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """Create a virtual environment that extends this one without changing it."""
    folder = tmp_path / "environment"
    subprocess.run(
        [REPO / "scripts" / "uv", "venv", "--quiet", "--seed", "--python", sys.executable, folder], check=True
    )
    (site_packages(folder) / "airflow.pth").write_text(sysconfig.get_path("purelib"))
    return folder


def site_packages(environment: Path) -> Path:
    return Path(sysconfig.get_path("purelib", vars={"base": str(environment)}))


def test_the_wheel_installed_with_pip_runs_with_the_documented_dag_file(
    make_airflow: MakeAirflow, environment: Path, pods: Pods, distributions: Distributions
) -> None:
    airflow = make_airflow(variables={"PYTHONPATH": str(site_packages(environment))})
    follow_guide(
        "Wheel",
        cwd=distributions.wheel.parent.parent,
        PATH=f"{environment}/bin:/usr/bin:/bin",
        AIRFLOW_HOME=airflow.dags.parent,
        PIP_NO_INDEX="1",  # this Airflow already has the Kubernetes provider
    )
    clean_up(airflow)
    assert pods() == {"protected"}
    listed = listed_dags(airflow)
    assert "kpo_cleanup_dry_run" in listed
    assert "rror" not in listed
