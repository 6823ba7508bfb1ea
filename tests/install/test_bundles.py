"""DAG bundles of Airflow 3: a scheduler and its workers run the DAG from a Git repository."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from demo.airflow import Airflow
from demo.airflow_settings import IS_AIRFLOW_3
from demo.terminal import Terminal
from tests.dag.pods import wait_until
from tests.install.conftest import MakeAirflow, Pods
from tests.install.steps import Distributions, clean_up, copy_repository, follow_guide

pytestmark = pytest.mark.skipif(not IS_AIRFLOW_3, reason="Airflow 2 has no DAG bundles")

SUBDIR = Path("airflow") / "dags"
RUN_SECONDS = 120


class GitRepository:
    """A bare repository, as on a server, and a clone to change its files."""

    def __init__(self, folder: Path) -> None:
        self.bare, self.clone = folder / "bare.git", folder / "clone"
        self.clone.mkdir(parents=True)
        for command in (("init", "--bare", "-b", "main", str(self.bare)), ("clone", str(self.bare), str(self.clone))):
            self._git(*command)

    def push(self) -> None:
        """Commit and push the current files of the clone."""
        config = ("-c", "user.name=test", "-c", "user.email=test@example.com", "-c", "commit.gpgsign=false")
        for command in (("add", "-A"), (*config, "commit", "-m", "change"), ("push", "origin", "HEAD:main")):
            self._git(*command)

    def bundle(self, **options: Any) -> dict[str, dict[str, str]]:
        """Return the Airflow options for a bundle that tracks this repository, as the only bundle."""
        kwargs = {"repo_url": str(self.bare), "tracking_ref": "main", "refresh_interval": 5, **options}
        bundle = {"name": "git", "classpath": "airflow.providers.git.bundles.git.GitDagBundle", "kwargs": kwargs}
        return {"dag_processor": {"dag_bundle_config_list": json.dumps([bundle])}}

    def _git(self, *arguments: str) -> None:
        subprocess.run(["git", *arguments], cwd=self.clone, check=True, capture_output=True)


@pytest.fixture
def git(tmp_path: Path) -> GitRepository:
    return GitRepository(tmp_path / "git")


def dag_file(airflow: Airflow) -> str:
    """Return the file in which Airflow last found the DAG, relative to the bundle's folder."""
    with closing(sqlite3.connect(airflow.dags.parent / "airflow.db")) as database:
        return str(database.execute("SELECT relative_fileloc FROM dag WHERE dag_id = 'kpo_cleanup'").fetchone()[0])


def run_and_read_logs(airflow: Airflow) -> str:
    """Trigger the DAG, wait until its run has succeeded, and return the logs of its tasks."""
    run_id = airflow.healthy_api().trigger("kpo_cleanup", {})
    wait_until(lambda: airflow.healthy_api().run_state("kpo_cleanup", run_id) in ("success", "failed"), RUN_SECONDS)
    assert airflow.api.run_state("kpo_cleanup", run_id) == "success"
    logs = (airflow.dags.parent / "task-logs").glob(f"**/run_id={run_id}/**/*.log")
    return "".join(log.read_text() for log in logs)


def test_workers_run_the_dag_from_a_subfolder_of_a_git_bundle_and_later_from_a_zip(
    git: GitRepository, make_airflow: MakeAirflow, add_pods: Callable[[], Pods], distributions: Distributions
) -> None:
    dags = git.clone / SUBDIR
    dags.mkdir(parents=True)
    follow_guide("Plain Airflow", AIRFLOW_HOME=dags.parent)
    git.push()
    airflow = make_airflow(git.bundle(subdir=str(SUBDIR)))
    airflow.start(Terminal(0), ["kpo_cleanup"])
    pods = add_pods()
    assert '"dag_file":"kpo_cleanup.py"' in run_and_read_logs(airflow)
    assert pods() == {"protected"}

    shutil.rmtree(dags)
    dags.mkdir()
    archive = Path(shutil.copy(distributions.archive, dags))
    git.push()
    wait_until(lambda: dag_file(airflow).startswith(archive.name), RUN_SECONDS)
    pods = add_pods()
    assert f'"dag_file":"{archive.name}/kpo_cleanup.py"' in run_and_read_logs(airflow)
    assert pods() == {"protected"}


def test_this_repository_can_be_used_as_a_git_bundle(git: GitRepository, make_airflow: MakeAirflow, pods: Pods) -> None:
    copy_repository(git.clone)
    git.push()
    clean_up(make_airflow(git.bundle()))
    assert pods() == {"protected"}
