"""`make dist`: a zip that Airflow loads as a packaged DAG, built reproducibly."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

from include.kpo_cleanup import __version__
from tests.conftest import REPO
from tests.install.conftest import MakeAirflow, Pods
from tests.install.steps import INSTALL, clean_up, copy_repository, own_dag


def pack(folder: Path, repo: Path = REPO) -> Path:
    command = [sys.executable, str(repo / "scripts" / "dist.py"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return Path(done.stdout.strip())


def test_the_zip_runs_even_if_another_include_has_been_imported(
    make_airflow: MakeAirflow, tmp_path: Path, pods: Pods
) -> None:
    elsewhere = tmp_path / "elsewhere"
    airflow = make_airflow(variables={"PYTHONPATH": str(elsewhere)})
    loaded = own_dag(airflow.dags, elsewhere / "include")
    (elsewhere / "include" / "__init__.py").touch()
    (elsewhere / "airflow_local_settings.py").write_text("from include import other\n")  # before any DAG file
    pack(airflow.dags)
    clean_up(airflow)
    assert pods() == {"protected"}
    assert loaded.exists()


def test_the_zip_contains_the_dag_at_its_root_and_the_package_unmodified(tmp_path: Path) -> None:
    archive = pack(tmp_path)
    assert archive.name == f"kpo_cleanup-{__version__}.zip"
    assert f"`dist/{archive.name}`" in INSTALL
    package = REPO / "include" / "kpo_cleanup"
    files = {f"_kpo_cleanup/{path.relative_to(package)}": path for path in package.rglob("*.py")}
    files |= {"kpo_cleanup.py": REPO / "dags" / "kpo_cleanup.py", "LICENSE": REPO / "LICENSE"}
    with zipfile.ZipFile(archive) as opened:
        assert {name: opened.read(name) for name in opened.namelist()} == {
            name: path.read_bytes() for name, path in files.items()
        }


def test_identical_trees_produce_identical_zips(tmp_path: Path) -> None:
    clone = copy_repository(tmp_path / "clone")
    for path in clone.rglob("*.py"):  # a clone has other modification times and permissions
        path.chmod(0o600)
        os.utime(path, (1_000_000_000, 1_000_000_000))
    assert pack(tmp_path / "one", clone).read_bytes() == pack(tmp_path / "two").read_bytes()
