"""A temporary Airflow for the test session. Its home is set before any module imports Airflow."""

from __future__ import annotations

import atexit
import gc
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

REPO = Path(__file__).parent.parent
HOME = Path(tempfile.mkdtemp(prefix="kpo-cleanup-tests-"))
TEST_DAGS = HOME / "test-dags"
atexit.register(shutil.rmtree, HOME, ignore_errors=True)

for name in [name for name in os.environ if name.startswith("AIRFLOW_")]:
    del os.environ[name]  # a developer's own settings must not change the tests
LOCAL_BUNDLE = "airflow.dag_processing.bundles.local.LocalDagBundle"
BUNDLES = {"dags-folder": str(HOME / "dags"), "test-dags": str(TEST_DAGS)}
os.environ.update(
    AIRFLOW_HOME=str(HOME),
    AIRFLOW__CORE__DAGS_FOLDER=str(HOME / "dags"),
    AIRFLOW__CORE__LOAD_EXAMPLES="False",
    AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST=json.dumps(
        [{"name": name, "classpath": LOCAL_BUNDLE, "kwargs": {"path": path}} for name, path in BUNDLES.items()]
    ),
    AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=f"sqlite:///{HOME}/airflow.db",
    AIRFLOW__LOGGING__BASE_LOG_FOLDER=str(HOME / "logs"),
    AIRFLOW__WORKERS__EXECUTION_API_RETRIES="1",  # tests stop a source on purpose, and must not retry for a minute
    AIRFLOW__USAGE_DATA_COLLECTION__ENABLED="False",
)

pytest_plugins = ["tests.control_plane_fixture", "tests.profiles"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the files that take minutes first: one that began last would run alone at the end."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


def pytest_collection_finish() -> None:
    """Exempt modules and collected tests from garbage collection, which would traverse them again and again."""
    gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show why a first attempt failed, as the option of newer pytest-rerunfailures does."""
    for report in terminalreporter.stats.get("rerun", []):
        terminalreporter.section(f"first attempt of {report.nodeid}")
        terminalreporter.line(report.longreprtext)


@pytest.fixture(params=["msgspec", "json"])
def decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Decode pages with msgspec, or with json as if msgspec were not installed."""
    if request.param == "msgspec":
        pytest.importorskip("msgspec")
    else:
        monkeypatch.setitem(sys.modules, "msgspec.json", None)
    return str(request.param)
