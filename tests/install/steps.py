"""Install the DAG as a user would, and run it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from demo.airflow import Airflow
from tests.conftest import REPO
from tests.readme import README, commands

INSTALL = README.partition("## Install\n")[2].partition("\n## ")[0]


def follow_readme(way: str, **variables: Path) -> None:
    """Run the README's shell commands for one way to install, such as ``Plain Airflow``, twice in a row."""
    script = commands("Install", way)
    environment = {"PATH": "/usr/bin:/bin", **{name: str(path) for name, path in variables.items()}}
    for _ in range(2):
        subprocess.run(["sh", "-euc", script], cwd=REPO, env=environment, check=True)


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
