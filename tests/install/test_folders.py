"""The DAG in a dags folder: copied into it, synchronized by git-sync, and this repository as the dags folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from demo.airflow import Airflow
from demo.terminal import DemoError
from tests.conftest import REPO
from tests.install.conftest import MakeAirflow, Pods
from tests.install.steps import INSTALL, clean_up, clean_up_output, copy_repository, follow_guide, listed_dags, own_dag

PLAIN = "Plain Airflow"


def test_the_dag_copied_into_a_dags_folder_runs_next_to_other_dags(airflow: Airflow, pods: Pods) -> None:
    loaded = own_dag(airflow.dags, airflow.dags / "include")
    follow_guide(PLAIN, AIRFLOW_HOME=airflow.dags.parent)
    clean_up(airflow)
    assert pods() == {"protected"}
    assert loaded.exists()


@pytest.mark.parametrize("syntax", ["regexp", "glob"])
def test_the_modules_of_the_package_are_not_parsed_as_dag_files(make_airflow: MakeAirflow, syntax: str) -> None:
    airflow = make_airflow({"core": {"dag_ignore_file_syntax": syntax}})
    follow_guide(PLAIN, AIRFLOW_HOME=airflow.dags.parent)
    listed = listed_dags(airflow)
    assert "kpo_cleanup_dry_run" in listed
    assert "rror" not in listed


def test_another_include_on_the_python_path_causes_the_error_that_the_guide_explains(
    make_airflow: MakeAirflow, tmp_path: Path, pods: Pods
) -> None:
    other_include = tmp_path / "elsewhere" / "include"
    other_include.mkdir(parents=True)
    (other_include / "__init__.py").touch()
    airflow = make_airflow(variables={"PYTHONPATH": str(other_include.parent)})
    follow_guide(PLAIN, AIRFLOW_HOME=airflow.dags.parent)
    with pytest.raises(DemoError):
        clean_up(airflow)
    message = "No module named 'include.kpo_cleanup'"
    assert message in clean_up_output(airflow)
    assert message in INSTALL
    shutil.copytree(REPO / "include" / "kpo_cleanup", other_include / "kpo_cleanup")  # the guide's remedy
    clean_up(airflow)
    assert pods() == {"protected"}


def test_the_dag_in_a_subfolder_follows_git_sync_to_a_new_revision(
    make_airflow: MakeAirflow, tmp_path: Path, pods: Pods
) -> None:
    """Imitate git-sync: check out each revision into a new folder, move a symbolic link, and delete the old folder."""
    git = tmp_path / "git"
    airflow = make_airflow({"core": {"dags_folder": git / "repo" / "airflow" / "dags"}})

    def publish(revision: str) -> Path:
        dags = git / ".worktrees" / revision / "airflow" / "dags"
        dags.mkdir(parents=True)
        follow_guide(PLAIN, AIRFLOW_HOME=dags.parent)
        (git / "next").symlink_to(Path(".worktrees") / revision)
        (git / "next").rename(git / "repo")
        return git / ".worktrees" / revision

    old = publish("1" * 40)
    clean_up(airflow)
    assert pods() == {"protected"}
    new = publish("2" * 40)
    shutil.rmtree(old)
    (new / "airflow" / "dags" / "include" / "kpo_cleanup" / "tasks.py").write_text("raise OSError('the new revision')")
    with pytest.raises(DemoError):
        clean_up(airflow)
    assert "the new revision" in clean_up_output(airflow)


def test_this_repository_can_be_used_as_a_dags_folder(make_airflow: MakeAirflow, tmp_path: Path, pods: Pods) -> None:
    airflow = make_airflow({"core": {"dags_folder": copy_repository(tmp_path / "clone")}})
    clean_up(airflow)
    assert pods() == {"protected"}
    listed = listed_dags(airflow)
    assert "kpo_cleanup" in listed
    assert not any(other in listed for other in ("kpo_zombies", "workload", "rror"))
