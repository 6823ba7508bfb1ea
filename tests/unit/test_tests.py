"""Rules for tests: they use no private names of our modules, and do not patch our code."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
OURS = ("include", "dags", "demo", "bench", "scripts", "tests")
OF_NAMED_TUPLES = {"_asdict", "_fields", "_make", "_replace"}  # public in spite of their names
PATCHES = {"setattr", "delattr", "setitem", "delitem"}


def is_ours(module: str | None) -> bool:
    return bool(module) and str(module).partition(".")[0] in OURS


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in OF_NAMED_TUPLES


def walk(tree: ast.Module) -> Iterator[ast.AST]:
    """Yield all nodes, in any order; ``ast.walk`` takes twice as long."""
    nodes: list[ast.AST] = [tree]
    while nodes:
        node = nodes.pop()
        yield node
        for value in vars(node).values():
            if isinstance(value, ast.AST):
                nodes.append(value)
            elif isinstance(value, list):
                nodes += [child for child in value if isinstance(child, ast.AST)]


def is_patch(call: ast.Call) -> bool:
    """Return whether a call is ``monkeypatch.setattr`` or similar, or a ``patch`` of ``unittest.mock``."""
    names, function = [], call.func
    while isinstance(function, ast.Attribute):
        names.append(function.attr)
        function = function.value
    return not PATCHES.isdisjoint(names[:1]) or "patch" in (*names, getattr(function, "id", ""))


def violations(tree: ast.Module) -> Iterator[str]:
    nodes = [node for node in walk(tree) if isinstance(node, ast.ImportFrom | ast.Import | ast.Attribute | ast.Call)]
    bound: set[str] = set()  # names imported from our modules
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and is_ours(node.module):
            yield from (f"imports {alias.name}" for alias in node.names if is_private(alias.name))
            bound |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            bound |= {alias.asname or alias.name for alias in node.names if is_ours(alias.name)}

    def refers_to_ours(node: ast.expr) -> bool:
        text = ast.literal_eval(node) if isinstance(node, ast.Constant) else ast.unparse(node)
        return is_ours(str(text)) or str(text).partition(".")[0] in bound

    for node in nodes:
        if isinstance(node, ast.Attribute) and is_private(node.attr) and refers_to_ours(node.value):
            yield f"line {node.lineno} uses {ast.unparse(node)}"
        elif isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load) and refers_to_ours(node.value):
            yield f"line {node.lineno} changes {ast.unparse(node)}"
        elif isinstance(node, ast.Call) and is_patch(node) and any(map(refers_to_ours, node.args[:1])):
            yield f"line {node.lineno} patches {ast.unparse(node.args[0])}"


def test_the_tests_use_no_private_names_and_patch_nothing_of_ours() -> None:
    found = {str(path.relative_to(TESTS)): [*violations(ast.parse(path.read_text()))] for path in TESTS.rglob("*.py")}
    assert {path: lines for path, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    "code",
    [
        pytest.param("from include.kpo_cleanup.kube.client import _wait", id="it imports a private name"),
        pytest.param("from include.kpo_cleanup import reap\nreap._logged", id="it uses a private name of a module"),
        pytest.param("from demo.cluster import Api\nApi._table", id="it uses a private name of a class"),
        pytest.param(
            "import include.kpo_cleanup.reap as r\nr._logged", id="it uses a private name of a renamed module"
        ),
        pytest.param(
            "from include.kpo_cleanup import reap\nmonkeypatch.setattr(reap, 'BATCH', 1)", id="it patches a module"
        ),
        pytest.param("monkeypatch.setattr('include.kpo_cleanup.reap.BATCH', 1)", id="it patches by a dotted name"),
        pytest.param("patch.setitem(include.kpo_cleanup.xcom.TABLE, 1, 2)", id="it patches a table"),
        pytest.param("from include.kpo_cleanup import reap\nreap.BATCH = 1", id="it assigns to a name of a module"),
        pytest.param("from include.kpo_cleanup import reap\ndel reap.BATCH", id="it deletes a name of a module"),
        pytest.param("mock.patch('include.kpo_cleanup.reap.classify')", id="it mocks a function"),
        pytest.param(
            "from include.kpo_cleanup import reap\nmock.patch.object(reap, 'classify')", id="it mocks an object"
        ),
    ],
)
def test_a_test_module_is_rejected_if(code: str) -> None:
    assert len(list(violations(ast.parse(code)))) == 1
