"""`make dist`: one zip that Airflow loads as a packaged DAG, the same bytes for the same tree."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import zipfile
from pathlib import Path

from tests.conftest import REPO
from tests.install.conftest import MakeAirflow, Pods
from tests.install.steps import INSTALL, clean_up, copy_repository, own_dag


def pack(folder: Path, repo: Path = REPO) -> Path:
    command = [sys.executable, str(repo / "scripts" / "dist.py"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return Path(done.stdout.strip())


def test_the_zip_runs_where_an_include_is_imported_already(
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


def test_the_zip_has_the_dag_at_its_root_and_the_package(tmp_path: Path) -> None:
    archive = pack(tmp_path)
    assert f"`dist/{archive.name}`" in INSTALL
    modules = {f"_kpo_cleanup/{path.name}" for path in (REPO / "include" / "kpo_cleanup").glob("*.py")}
    with zipfile.ZipFile(archive) as opened:
        assert set(opened.namelist()) == {"LICENSE", "kpo_cleanup.py", *modules}
        for name in (*modules, "kpo_cleanup.py"):
            tree = ast.parse(opened.read(name))
            imported = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
            assert not any(module and module.startswith("include") for module in imported)


def test_the_same_tree_gives_the_same_bytes(tmp_path: Path) -> None:
    clone = copy_repository(tmp_path / "clone")
    for path in clone.rglob("*.py"):  # made at another time, by somebody with another umask
        path.chmod(0o600)
        os.utime(path, (1_000_000_000, 1_000_000_000))
    assert pack(tmp_path / "one", clone).read_bytes() == pack(tmp_path / "two").read_bytes()
