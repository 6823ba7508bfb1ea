"""The import rules of the package, as CONTRIBUTING.md states them."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
PACKAGE = REPO / "include" / "kpo_cleanup"
NAME = "kpo_cleanup"  # stands for the relative imports by which the package imports itself


def modules_in(package: Path) -> dict[str, Path]:
    """Return the files of all modules by their dotted names within the package; a folder has its own name."""
    paths = {path.relative_to(package).with_suffix(""): path for path in sorted(package.rglob("*.py"))}
    names = {relative: ".".join(part for part in relative.parts if part != "__init__") for relative in paths}
    return {names[relative]: path for relative, path in paths.items() if names[relative]}


MODULES = modules_in(PACKAGE)
FOLDERS = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
REAP = {module for module in MODULES if module.partition(".")[0] == "reap"}  # a folder only because it is large
WORKLOADS = {module for module in MODULES if module.startswith("workloads.")}
VALUES = {"constants", "errors", "identity", "task_instance", "text", *WORKLOADS}
INTERFACES = {
    "kube.interface",
    "task_instances.interface",
    *(f"workloads.{name}" for name in ("kind", "registry", "workload")),
}
PURE = {*VALUES, *INTERFACES, "classify", "diagnosis", "evidence", "results", "settings", "verdict"}
COMPOSITION = "tasks"  # the only module that sees the implementations in both folders


def parse(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text())


def imports_of(module: str, tree: ast.AST) -> Iterator[str]:
    """Yield all run-time imports of a module, including those in functions; relative ones are made absolute."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = [NAME, *module.split(".")] if module in FOLDERS else [NAME, *module.split(".")[:-1]]
            start = base[: len(base) - node.level + 1] if node.level else []
            source = ".".join(filter(None, [*start, node.module]))
            yield from (f"{source}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            yield from (name for child in node.orelse for name in imports_of(module, child))
        else:
            yield from imports_of(module, node)


@cache
def all_imports_of(module: str) -> list[str]:
    return [*imports_of(module, parse(module))]


def own_imports_of(module: str) -> set[str]:
    """Return the modules of the package that a module imports."""
    own = {name.removeprefix(f"{NAME}.") for name in all_imports_of(module) if name.startswith(NAME)}
    return {name if name in MODULES else name.rpartition(".")[0] for name in own}


def all_own_imports_of(module: str) -> set[str]:
    """Return the modules of the package that a module imports, directly or through others."""
    found, new = set[str](), {module}
    while new:
        found |= new
        new = {name for each in new for name in own_imports_of(each) if name in MODULES} - found
    return found - {module}


def importers_of(*packages: str) -> set[str]:
    def is_one(name: str) -> bool:
        return any(name == package or name.startswith(f"{package}.") for package in packages)

    return {module for module in MODULES if any(map(is_one, all_imports_of(module)))}


def roots_of(module: str) -> set[str]:
    return {name.partition(".")[0] for name in all_imports_of(module)}


def only_nonempty(names_by_module: dict[str, set[str]]) -> dict[str, set[str]]:
    return {module: names for module, names in names_by_module.items() if names}


def folder_of(module: str) -> str | None:
    """Return the folder with its own import rules in which a module is, or None."""
    folder = module.partition(".")[0]
    return folder if folder in FOLDERS and module not in REAP else None


class TestImports:
    def test_only_kube_imports_the_kubernetes_client_and_the_provider(self) -> None:
        importers = importers_of("kubernetes", "airflow.providers", "urllib3")
        assert importers
        assert {folder_of(module) for module in importers} == {"kube"}

    def test_only_the_compatibility_layer_and_the_sources_import_airflow(self) -> None:
        importers = importers_of("airflow") - importers_of("airflow.providers")
        assert {folder_of(module) or module for module in importers} == {"airflow_compat", "task_instances"}

    def test_only_the_sql_source_imports_sqlalchemy(self) -> None:
        assert importers_of("sqlalchemy") == {"task_instances.sql"}

    def test_a_module_in_a_folder_imports_only_values_and_its_own_folder(self) -> None:
        shared = {*VALUES, "airflow_compat", "retry", "termination"}
        others = {
            module: {name for name in own_imports_of(module) - shared if folder_of(name) != folder_of(module)}
            for module in MODULES
            if folder_of(module)
        }
        assert only_nonempty(others) == {}

    def test_a_module_outside_the_folders_imports_only_their_interfaces(self) -> None:
        implementations = {
            module: {name for name in own_imports_of(module) - INTERFACES if folder_of(name)}
            for module in MODULES
            if not folder_of(module) and module != COMPOSITION
        }
        assert only_nonempty(implementations) == {}

    def test_only_the_tasks_import_what_deletes(self) -> None:
        assert {module for module in MODULES.keys() - REAP if own_imports_of(module) & REAP} == {"tasks"}
        assert own_imports_of("tasks") & REAP == {"reap"}

    def test_only_the_modules_that_send_requests_concurrently_import_threads(self) -> None:
        assert importers_of("concurrent", "threading") & REAP == {"reap.pod_logs", "reap.steps"}

    def test_what_decides_on_the_next_pods_and_on_verdicts_imports_nothing_that_sends_a_request(self) -> None:
        senders = {"reap.deleter", "reap.pod_logs", "reap.reaper", "reap.snapshot", "reap.steps", "retry"}
        for module in ("reap.target", "reap.known", "reap.schedule"):
            assert all_own_imports_of(module) & senders == set()
            assert roots_of(module) & {"time", "logging"} == set()

    def test_a_pure_module_imports_only_the_standard_library_and_pure_modules(self) -> None:
        others = {module: roots_of(module) - sys.stdlib_module_names - {NAME} for module in PURE}
        assert only_nonempty(others) == {}
        assert only_nonempty({module: own_imports_of(module) - PURE for module in PURE}) == {}

    @pytest.mark.parametrize("module", ["metrics", "report", "xcom"])
    def test_a_module_that_presents_results_does_not_import_what_deletes(self, module: str) -> None:
        assert all_own_imports_of(module) & REAP == set()

    def test_classification_does_not_import_what_renders_it(self) -> None:
        assert all_own_imports_of("classify") & {"evidence", "diagnosis", "report"} == set()

    def test_a_verdict_depends_on_no_clock_log_or_randomness(self) -> None:
        impure = {"time", "datetime", "logging", "random", "os", "socket", "threading"}
        modules = PURE - INTERFACES - {"workloads.parse"}  # which parses times
        assert only_nonempty({module: roots_of(module) & impure for module in modules}) == {}

    def test_a_module_imports_no_private_name_of_another(self) -> None:
        own = {module: {name for name in all_imports_of(module) if name.startswith(NAME)} for module in MODULES}
        last_parts = {module: {name.rpartition(".")[2] for name in names} for module, names in own.items()}
        private = {module: {n for n in names - {"__version__"} if n[0] == "_"} for module, names in last_parts.items()}
        assert only_nonempty(private) == {}

    def test_a_module_imports_the_package_by_relative_imports(self) -> None:
        """The zip contains the package under another name."""
        assert importers_of("include") == set()

    def test_modules_in_new_folders_are_found(self, tmp_path: Path) -> None:
        (tmp_path / "cloud" / "deep").mkdir(parents=True)
        for folder in (tmp_path, tmp_path / "cloud", tmp_path / "cloud" / "deep"):
            (folder / "__init__.py").write_text("")
        (tmp_path / "cloud" / "deep" / "client.py").write_text("import kubernetes")
        assert set(modules_in(tmp_path)) == {"cloud", "cloud.deep", "cloud.deep.client"}


def test_the_map_of_modules_is_complete() -> None:
    described = ast.get_docstring(ast.parse((PACKAGE / "__init__.py").read_text())) or ""
    listed = set(re.findall(r"^``([\w.]+)``", described, re.MULTILINE))
    assert listed == set(MODULES), "edit the docstring of include/kpo_cleanup/__init__.py"


def test_every_module_has_a_docstring_that_states_its_job() -> None:
    first_lines = {module: (ast.get_docstring(parse(module)) or "").partition("\n")[0] for module in MODULES}
    assert {module: line for module, line in first_lines.items() if not line.endswith((".", ";"))} == {}
