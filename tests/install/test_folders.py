"""Files copied into a dags folder, also served by git-sync, and this repository itself as a dags folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from demo.airflow import Airflow
from demo.terminal import DemoError
from tests.conftest import REPO
from tests.install.conftest import MakeAirflow, Pods
from tests.install.steps import INSTALL, clean_up, copy_repository, follow_readme, listed_dags, own_dag, said

PLAIN = "Plain Airflow"


def test_copied_into_a_dags_folder_it_runs_beside_other_dags(airflow: Airflow, pods: Pods) -> None:
    loaded = own_dag(airflow.dags, airflow.dags / "include")
    follow_readme(PLAIN, AIRFLOW_HOME=airflow.dags.parent)
    clean_up(airflow)
    assert pods() == {"protected"}
    assert loaded.exists()


@pytest.mark.parametrize("syntax", ["regexp", "glob"])
def test_its_modules_are_not_parsed_as_dag_files(make_airflow: MakeAirflow, syntax: str) -> None:
    airflow = make_airflow({"core": {"dag_ignore_file_syntax": syntax}})
    follow_readme(PLAIN, AIRFLOW_HOME=airflow.dags.parent)
    listed = listed_dags(airflow)
    assert "kpo_cleanup_dry_run" in listed
    assert "rror" not in listed


def test_an_include_that_hides_it_makes_an_error_that_the_readme_names(
    make_airflow: MakeAirflow, tmp_path: Path, pods: Pods
) -> None:
    hiding = tmp_path / "elsewhere" / "include"
    hiding.mkdir(parents=True)
    (hiding / "__init__.py").touch()
    airflow = make_airflow(variables={"PYTHONPATH": str(hiding.parent)})
    follow_readme(PLAIN, AIRFLOW_HOME=airflow.dags.parent)
    with pytest.raises(DemoError):
        clean_up(airflow)
    message = "No module named 'include.kpo_cleanup'"
    assert message in said(airflow)
    assert message in INSTALL
    shutil.copytree(REPO / "include" / "kpo_cleanup", hiding / "kpo_cleanup")  # the README's remedy
    clean_up(airflow)
    assert pods() == {"protected"}


def test_git_sync_serves_a_subfolder_and_swaps_its_revision(
    make_airflow: MakeAirflow, tmp_path: Path, pods: Pods
) -> None:
    """Act as git-sync: it checks out each revision anew, turns a link to it and deletes the old one."""
    git = tmp_path / "git"
    airflow = make_airflow({"core": {"dags_folder": git / "repo" / "airflow" / "dags"}})

    def publish(revision: str) -> Path:
        dags = git / ".worktrees" / revision / "airflow" / "dags"
        dags.mkdir(parents=True)
        follow_readme(PLAIN, AIRFLOW_HOME=dags.parent)
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
    assert "the new revision" in said(airflow)


def test_this_repository_is_a_dags_folder(make_airflow: MakeAirflow, tmp_path: Path, pods: Pods) -> None:
    airflow = make_airflow({"core": {"dags_folder": copy_repository(tmp_path / "clone")}})
    clean_up(airflow)
    assert pods() == {"protected"}
    listed = listed_dags(airflow)
    assert "kpo_cleanup" in listed
    assert not any(other in listed for other in ("kpo_zombies", "workload", "rror"))
