"""Install the DAG as a user would, and run it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from demo.airflow import Airflow
from demo.airflow_settings import IS_AIRFLOW_3
from tests.conftest import REPO
from tests.documents import block, document


class Distributions(NamedTuple):
    """The files that ``make dist`` builds."""

    archive: Path
    wheel: Path


INSTALL = document("docs/installation.md")


def follow_guide(way: str, cwd: Path = REPO, **variables: Path | str) -> None:
    """Run the commands of docs/installation.md for one way to install, such as ``Plain Airflow``, twice in a row."""
    script = block("docs/installation.md", "Ways to install", paragraph=way)
    environment = {"PATH": "/usr/bin:/bin", **{name: str(value) for name, value in variables.items()}}
    for _ in range(2):
        subprocess.run(["sh", "-euc", script], cwd=cwd, env=environment, check=True)


def build(folder: Path, repo: Path = REPO, **variables: str) -> Distributions:
    """Run ``make dist`` for a repository, with another folder for its files."""
    command = [sys.executable, str(repo / "scripts" / "dist.py"), str(folder)]
    done = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, check=True)
    return Distributions(*map(Path, done.stdout.splitlines()))


def listed_dags(airflow: Airflow) -> str:
    """Return the output of ``airflow dags list``, which mentions an error if a file cannot be imported."""
    parse = ("--local", "--bundle-name", "dags-folder") if IS_AIRFLOW_3 else ()
    airflow.run("dags", "list", "--output", "plain", *parse)
    return (airflow.dags.parent / "dags-list.log").read_text()


def clean_up(airflow: Airflow) -> None:
    """Load the installed DAG and run it, in a new process.

    :raises DemoError: if it cannot be loaded, or its run fails.
    """
    airflow.run("dags", "test", "kpo_cleanup")


def clean_up_output(airflow: Airflow) -> str:
    """Return the complete output of all calls of :func:`clean_up`; a DemoError contains only the last lines."""
    return (airflow.dags.parent / "dags-test.log").read_text()


def own_dag(dags: Path, include: Path) -> Path:
    """Add a user's own DAG, which imports a module in `include`; return the file that it writes when loaded."""
    include.mkdir(parents=True, exist_ok=True)
    (include / "other.py").write_text("LOADED = 'loaded'\n")
    loaded = dags / "own_dag_is.loaded"
    source = f"# an airflow dag\nfrom include import other\nopen({str(loaded)!r}, 'w').write(other.LOADED)\n"
    (dags / "own_dag.py").write_text(source)
    return loaded


def copy_repository(target: Path) -> Path:
    """Copy this repository without ignored files, but with uncommitted changes."""
    ignored = [line.strip("/") for line in (REPO / ".gitignore").read_text().splitlines()]
    shutil.copytree(REPO, target, ignore=shutil.ignore_patterns(".git", *ignored), dirs_exist_ok=True)
    return target
