"""Who may import what, and what importing the DAG costs."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
PACKAGE = REPO / "include" / "kpo_cleanup"
MODULES = {path.stem: ast.parse(path.read_text()) for path in sorted(PACKAGE.glob("*.py"))}
PURE = ["classify", "collector", "errors", "evidence", "identity", "pod", "settings", "task_instances", "vocabulary"]
KUBERNETES = ("kubernetes", "airflow.providers", "urllib3")

IMPORT_LIMIT = 1.0  # seconds of CPU time; the DAG processor does this every time it parses the file


def imports_of(tree: ast.AST) -> Iterator[str]:
    """All that is imported anywhere in a module at run time, functions included."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            yield from (name for child in node.orelse for name in imports_of(child))
        else:
            yield from imports_of(node)


def importers_of(*packages: str) -> set[str]:
    def is_one(name: str) -> bool:
        return any(name == package or name.startswith(f"{package}.") for package in packages)

    return {module for module, tree in MODULES.items() if any(map(is_one, imports_of(tree)))}


class TestImports:
    def test_of_the_kubernetes_client_and_provider_are_in_one_module(self) -> None:
        assert importers_of(*KUBERNETES) == {"kube"}

    def test_of_airflow_are_in_its_compatibility_layer_and_the_sources(self) -> None:
        assert importers_of("airflow") - importers_of("airflow.providers") == {"airflow_compat", "sql_source"}

    def test_of_sqlalchemy_are_in_one_source(self) -> None:
        assert importers_of("sqlalchemy") == {"sql_source"}

    @pytest.mark.parametrize("module", PURE)
    def test_of_a_pure_module_are_the_standard_library_and_pure_modules(self, module: str) -> None:
        foreign = {
            name
            for name in imports_of(MODULES[module])
            if name.partition(".")[0] not in sys.stdlib_module_names
            and not {name, name.rpartition(".")[0]} & {f"include.kpo_cleanup.{other}" for other in PURE}
        }
        assert foreign == set()

    @pytest.mark.parametrize("module", sorted(MODULES))
    def test_do_not_reach_into_other_modules(self, module: str) -> None:
        private = [
            name
            for name in imports_of(MODULES[module])
            if name.startswith("include.") and name.rpartition(".")[2].startswith("_")
        ]
        assert private == []

    @pytest.mark.parametrize("module", ["classify", "evidence", "identity", "task_instances", "vocabulary"])
    def test_of_clocks_logs_and_chance_are_not_in_the_verdict(self, module: str) -> None:
        roots = {name.partition(".")[0] for name in imports_of(MODULES[module])}
        assert roots & {"time", "datetime", "logging", "random", "os", "socket", "threading"} == set()

    def test_of_the_tests_name_every_module(self) -> None:
        assert set(PURE) <= set(MODULES)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_every_module_says_its_job(module: str) -> None:
    docstring = ast.get_docstring(MODULES[module])
    assert docstring
    assert docstring.splitlines()[0].endswith((".", ";"))


# Audit events see every connection and process, whatever library makes it.
IMPORT_THE_DAG = f"""
import importlib.util, sys, time
from datetime import datetime

events = []
WATCHED = ("socket.connect", "socket.getaddrinfo", "sqlite3.connect", "subprocess.Popen")
sys.addaudithook(lambda event, args: events.append(event) if event in WATCHED else None)

try:
    from airflow.sdk import dag, task
except ImportError:
    from airflow.decorators import dag, task

@dag(schedule=None, start_date=datetime(2024, 1, 1))
def trivial():
    @task
    def nothing():
        pass
    nothing()

trivial()
events.clear()
started = time.process_time()
spec = importlib.util.spec_from_file_location("dag_file", {str(REPO / "dags" / "kpo_cleanup.py")!r})
spec.loader.exec_module(importlib.util.module_from_spec(spec))
print("SECONDS", time.process_time() - started)
print("EVENTS", *events)
"""


@pytest.fixture(scope="module")
def import_of_the_dag(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What is seen while a fresh process that has a trivial DAG imports ours, with no database to be reached."""
    environment = {
        **os.environ,
        "AIRFLOW_HOME": str(tmp_path_factory.mktemp("home")),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "sqlite:////nonexistent/airflow.db",
        "PYTHONPATH": str(REPO),
    }
    command = [sys.executable, "-W", "ignore", "-c", IMPORT_THE_DAG]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert process.returncode == 0, process.stderr
    lines = [line.split() for line in process.stdout.splitlines() if line.startswith(("SECONDS", "EVENTS"))]
    return {name: values for name, *values in lines}


class TestImportingTheDag:
    def test_makes_no_connection_and_starts_no_process(self, import_of_the_dag: dict[str, list[str]]) -> None:
        assert import_of_the_dag["EVENTS"] == []

    def test_is_quick(self, import_of_the_dag: dict[str, list[str]]) -> None:
        assert float(import_of_the_dag["SECONDS"][0]) < IMPORT_LIMIT
