"""The rules of imports."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
PACKAGE = REPO / "include" / "kpo_cleanup"
NAME = "kpo_cleanup"  # the package imports itself by relative imports, which this stands for


def modules_in(package: Path) -> dict[str, ast.Module]:
    """List all modules by their dotted names within the package; a folder has its own name."""
    paths = {path.relative_to(package).with_suffix(""): path for path in sorted(package.rglob("*.py"))}
    names = {relative: ".".join(part for part in relative.parts if part != "__init__") for relative in paths}
    return {names[relative]: ast.parse(path.read_text()) for relative, path in paths.items() if names[relative]}


MODULES = modules_in(PACKAGE)
FOLDERS = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
PLAIN = {"errors", "identity", "pod", "task_instance", "text", "constants"}
INTERFACES = {"kube.interface", "task_instances.interface"}
PURE = {*PLAIN, *INTERFACES, "diagnosis", "classify", "evidence", "results", "settings"}
SEES_BOTH_SIDES = "tasks"


def imports_of(module: str, tree: ast.AST) -> Iterator[str]:
    """List all run-time imports of a module, also those in functions; relative ones are made absolute."""
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


def own_imports_of(module: str) -> set[str]:
    """List the modules of the package that a module imports."""
    own = {name.removeprefix(f"{NAME}.") for name in imports_of(module, MODULES[module]) if name.startswith(NAME)}
    return {name if name in MODULES else name.rpartition(".")[0] for name in own}


def importers_of(*packages: str) -> set[str]:
    def is_one(name: str) -> bool:
        return any(name == package or name.startswith(f"{package}.") for package in packages)

    return {module for module, tree in MODULES.items() if any(map(is_one, imports_of(module, tree)))}


def room_of(module: str) -> str | None:
    folder = module.partition(".")[0]
    return folder if folder in FOLDERS else None


class TestImports:
    def test_of_the_kubernetes_client_and_provider_are_in_one_room(self) -> None:
        importers = importers_of("kubernetes", "airflow.providers", "urllib3")
        assert importers
        assert {room_of(module) for module in importers} == {"kube"}

    def test_of_airflow_are_in_its_compatibility_layer_and_the_sources(self) -> None:
        importers = importers_of("airflow") - importers_of("airflow.providers")
        assert {room_of(module) or module for module in importers} == {"airflow_compat", "task_instances"}

    def test_of_sqlalchemy_are_in_one_source(self) -> None:
        assert importers_of("sqlalchemy") == {"task_instances.sql"}

    @pytest.mark.parametrize("module", [module for module in MODULES if room_of(module)])
    def test_of_a_room_are_values_interfaces_errors_and_its_own_modules(self, module: str) -> None:
        allowed = {
            *PLAIN,
            "airflow_compat",
            "retry",
            *(other for other in MODULES if room_of(other) == room_of(module)),
        }
        assert own_imports_of(module) - allowed == set()

    @pytest.mark.parametrize("module", [m for m in MODULES if not room_of(m) and m != SEES_BOTH_SIDES])
    def test_of_the_middle_name_no_implementation(self, module: str) -> None:
        assert {name for name in own_imports_of(module) if room_of(name)} <= INTERFACES

    def test_of_the_module_with_the_thread_pool_are_in_the_tasks_only(self) -> None:
        assert {module for module in MODULES if "reap" in own_imports_of(module)} == {"tasks"}

    @pytest.mark.parametrize("module", sorted(PURE))
    def test_of_a_pure_module_are_the_standard_library_and_pure_modules(self, module: str) -> None:
        foreign = {name for name in imports_of(module, MODULES[module]) if not name.startswith(NAME)}
        assert {name for name in foreign if name.partition(".")[0] not in sys.stdlib_module_names} == set()
        assert own_imports_of(module) - PURE == set()

    @pytest.mark.parametrize("module", sorted(MODULES))
    def test_do_not_reach_into_other_modules(self, module: str) -> None:
        names = imports_of(module, MODULES[module])
        last_parts = [name.rpartition(".")[2] for name in names if name.startswith(NAME)]
        assert [name for name in last_parts if name.startswith("_") and name != "__version__"] == []

    @pytest.mark.parametrize("module", ["classify", "evidence", "identity", "task_instance", "constants"])
    def test_of_clocks_logs_and_chance_are_not_in_the_verdict(self, module: str) -> None:
        roots = {name.partition(".")[0] for name in imports_of(module, MODULES[module])}
        assert roots & {"time", "datetime", "logging", "random", "os", "socket", "threading"} == set()

    @pytest.mark.parametrize("module", sorted(MODULES))
    def test_of_the_package_itself_are_relative(self, module: str) -> None:
        """Check this, because the zip has the package under another name."""
        assert "include" not in {name.partition(".")[0] for name in imports_of(module, MODULES[module])}

    def test_are_guarded_in_folders_that_are_new(self, tmp_path: Path) -> None:
        (tmp_path / "cloud" / "deep").mkdir(parents=True)
        for folder in (tmp_path, tmp_path / "cloud", tmp_path / "cloud" / "deep"):
            (folder / "__init__.py").write_text("")
        (tmp_path / "cloud" / "deep" / "client.py").write_text("import kubernetes")
        assert set(modules_in(tmp_path)) == {"cloud", "cloud.deep", "cloud.deep.client"}


def test_the_map_of_modules_is_complete() -> None:
    described = ast.get_docstring(ast.parse((PACKAGE / "__init__.py").read_text())) or ""
    assert set(re.findall(r"^``([\w.]+)``", described, re.MULTILINE)) == set(MODULES)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_every_module_says_its_job(module: str) -> None:
    docstring = ast.get_docstring(MODULES[module])
    assert docstring
    assert docstring.splitlines()[0].endswith((".", ";"))
