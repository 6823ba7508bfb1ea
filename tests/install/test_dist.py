"""`make dist`: a zip that Airflow loads as a packaged DAG, and a wheel, both built reproducibly."""

from __future__ import annotations

import os
import shutil
import zipfile
from email import message_from_string
from pathlib import Path

from include.kpo_cleanup import __version__
from tests.conftest import REPO
from tests.install.conftest import MakeAirflow, Pods
from tests.install.steps import INSTALL, Distributions, build, clean_up, copy_repository, own_dag

PACKAGE = REPO / "include" / "kpo_cleanup"
METADATA = f"kpo_cleanup-{__version__}.dist-info"


def contents(archive: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(archive) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def test_the_zip_runs_even_if_another_include_has_been_imported(
    make_airflow: MakeAirflow, tmp_path: Path, pods: Pods, distributions: Distributions
) -> None:
    elsewhere = tmp_path / "elsewhere"
    airflow = make_airflow(variables={"PYTHONPATH": str(elsewhere)})
    loaded = own_dag(airflow.dags, elsewhere / "include")
    (elsewhere / "include" / "__init__.py").touch()
    (elsewhere / "airflow_local_settings.py").write_text("from include import other\n")  # before any DAG file
    shutil.copy(distributions.archive, airflow.dags)
    clean_up(airflow)
    assert pods() == {"protected"}
    assert loaded.exists()


def test_the_zip_contains_the_dag_at_its_root_and_the_package_unmodified(distributions: Distributions) -> None:
    assert distributions.archive.name == f"kpo_cleanup-{__version__}.zip"
    assert f"`dist/{distributions.archive.name}`" in INSTALL
    files = {f"_kpo_cleanup/{path.relative_to(PACKAGE)}": path for path in PACKAGE.rglob("*.py")}
    files |= {"kpo_cleanup.py": REPO / "dags" / "kpo_cleanup.py", "LICENSE": REPO / "LICENSE"}
    assert contents(distributions.archive) == {name: path.read_bytes() for name, path in files.items()}


def test_the_wheel_contains_the_package_unmodified_and_nothing_else(distributions: Distributions) -> None:
    files = {f"kpo_cleanup/{path.relative_to(PACKAGE)}": path for path in PACKAGE.rglob("*.py")}
    files |= {"kpo_cleanup/.airflowignore": PACKAGE / ".airflowignore"}
    files |= {f"{METADATA}/licenses/LICENSE": REPO / "LICENSE"}
    found = contents(distributions.wheel)
    assert {name: found.pop(name) for name in files} == {name: path.read_bytes() for name, path in files.items()}
    assert set(found) == {f"{METADATA}/{name}" for name in ("METADATA", "RECORD", "WHEEL")}


def test_the_wheel_requires_what_requirements_txt_lists(distributions: Distributions) -> None:
    metadata = message_from_string(contents(distributions.wheel)[f"{METADATA}/METADATA"].decode())
    lines = (REPO / "requirements.txt").read_text().splitlines()
    assert metadata.get_all("Requires-Dist") == [line for line in lines if not line.startswith("#")]


def test_identical_trees_produce_identical_files(tmp_path: Path, distributions: Distributions) -> None:
    clone = copy_repository(tmp_path / "clone")
    (clone / ".work").symlink_to(REPO / ".work")  # which contains uv
    for path in [
        *(clone / "include").rglob("*.*"),
        clone / "LICENSE",
    ]:
        path.chmod(0o600)
        os.utime(path, (1_000_000_000, 1_000_000_000))
    other = build(tmp_path / "dist", clone, SOURCE_DATE_EPOCH="1000000000", TZ="Pacific/Apia")
    assert [path.name for path in other] == [path.name for path in distributions]
    assert [path.read_bytes() for path in other] == [path.read_bytes() for path in distributions]
