"""The import rules of the package, as DESIGN section 9 states them."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
PACKAGE = REPO / "include" / "kpo_cleanup"
NAME = "kpo_cleanup"  # stands for the relative imports by which the package imports itself


def modules_in(package: Path) -> dict[str, ast.Module]:
    """Return all modules by their dotted names within the package; a folder has its own name."""
    paths = {path.relative_to(package).with_suffix(""): path for path in sorted(package.rglob("*.py"))}
    names = {relative: ".".join(part for part in relative.parts if part != "__init__") for relative in paths}
    return {names[relative]: ast.parse(path.read_text()) for relative, path in paths.items() if names[relative]}


MODULES = modules_in(PACKAGE)
FOLDERS = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
WORKLOADS = {module for module in MODULES if module.startswith("workloads.")}
VALUES = {"constants", "errors", "identity", "task_instance", "text", *WORKLOADS}
INTERFACES = {
    "kube.interface",
    "task_instances.interface",
    *(f"workloads.{name}" for name in ("kind", "registry", "workload")),
}
PURE = {*VALUES, *INTERFACES, "classify", "diagnosis", "evidence", "results", "settings", "verdict"}
COMPOSITION = "tasks"  # the only module that sees the implementations in both folders


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


IMPORTS = {module: [*imports_of(module, tree)] for module, tree in MODULES.items()}


def own_imports_of(module: str) -> set[str]:
    """Return the modules of the package that a module imports."""
    own = {name.removeprefix(f"{NAME}.") for name in IMPORTS[module] if name.startswith(NAME)}
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

    return {module for module, names in IMPORTS.items() if any(map(is_one, names))}


def folder_of(module: str) -> str | None:
    folder = module.partition(".")[0]
    return folder if folder in FOLDERS else None


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

    @pytest.mark.parametrize("module", [module for module in MODULES if folder_of(module)])
    def test_a_module_in_a_folder_imports_only_values_and_its_own_folder(self, module: str) -> None:
        own_folder = {other for other in MODULES if folder_of(other) == folder_of(module)}
        assert own_imports_of(module) - {*VALUES, *own_folder, "airflow_compat", "retry", "termination"} == set()

    @pytest.mark.parametrize("module", [m for m in MODULES if not folder_of(m) and m != COMPOSITION])
    def test_a_module_outside_the_folders_imports_only_their_interfaces(self, module: str) -> None:
        assert {name for name in own_imports_of(module) if folder_of(name)} <= INTERFACES

    def test_only_the_tasks_import_the_module_with_the_thread_pool(self) -> None:
        assert {module for module in MODULES if "reap" in own_imports_of(module)} == {"tasks"}

    @pytest.mark.parametrize("module", sorted(PURE))
    def test_a_pure_module_imports_only_the_standard_library_and_pure_modules(self, module: str) -> None:
        foreign = {name for name in IMPORTS[module] if not name.startswith(NAME)}
        assert {name for name in foreign if name.partition(".")[0] not in sys.stdlib_module_names} == set()
        assert own_imports_of(module) - PURE == set()

    @pytest.mark.parametrize("module", ["metrics", "report", "xcom"])
    def test_a_module_that_presents_results_does_not_import_the_one_with_the_threads(self, module: str) -> None:
        assert "reap" not in all_own_imports_of(module)

    def test_classification_does_not_import_what_renders_it(self) -> None:
        assert all_own_imports_of("classify") & {"evidence", "diagnosis", "report"} == set()

    @pytest.mark.parametrize("module", sorted(PURE - INTERFACES - {"workloads.parse"}))  # which parses times
    def test_a_verdict_depends_on_no_clock_log_or_randomness(self, module: str) -> None:
        roots = {name.partition(".")[0] for name in IMPORTS[module]}
        assert roots & {"time", "datetime", "logging", "random", "os", "socket", "threading"} == set()

    @pytest.mark.parametrize("module", sorted(MODULES))
    def test_a_module_imports_no_private_name_of_another(self, module: str) -> None:
        last_parts = [name.rpartition(".")[2] for name in IMPORTS[module] if name.startswith(NAME)]
        assert [name for name in last_parts if name.startswith("_") and name != "__version__"] == []

    @pytest.mark.parametrize("module", sorted(MODULES))
    def test_a_module_imports_the_package_by_relative_imports(self, module: str) -> None:
        """The zip contains the package under another name."""
        assert "include" not in {name.partition(".")[0] for name in IMPORTS[module]}

    def test_modules_in_new_folders_are_found(self, tmp_path: Path) -> None:
        (tmp_path / "cloud" / "deep").mkdir(parents=True)
        for folder in (tmp_path, tmp_path / "cloud", tmp_path / "cloud" / "deep"):
            (folder / "__init__.py").write_text("")
        (tmp_path / "cloud" / "deep" / "client.py").write_text("import kubernetes")
        assert set(modules_in(tmp_path)) == {"cloud", "cloud.deep", "cloud.deep.client"}


def test_the_map_of_modules_is_complete() -> None:
    described = ast.get_docstring(ast.parse((PACKAGE / "__init__.py").read_text())) or ""
    assert set(re.findall(r"^``([\w.]+)``", described, re.MULTILINE)) == set(MODULES)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_every_module_has_a_docstring_that_states_its_job(module: str) -> None:
    docstring = ast.get_docstring(MODULES[module])
    assert docstring
    assert docstring.splitlines()[0].endswith((".", ";"))
