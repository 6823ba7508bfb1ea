"""Compare the documentation with the code."""

from __future__ import annotations

import re
import shlex
from collections import defaultdict
from pathlib import Path

import pytest
import yaml
from airflow.cli.cli_parser import get_parser
from airflow.dag_processing.dagbag import DagBag

from demo.scenario import TASKS, title
from include.kpo_cleanup.constants import Reason
from include.kpo_cleanup.errors import KpoCleanupError
from include.kpo_cleanup.report import reap_report
from include.kpo_cleanup.settings import OPTIONS
from include.kpo_cleanup.task_instances.sql import TABLES
from include.kpo_cleanup.workloads.labels import CLUSTER_LABEL_PREFIXES
from include.kpo_cleanup.xcom import dump_classification
from tests.conftest import REPO
from tests.documents import block, document, section
from tests.matrix import ROWS

EXAMPLES = [
    ("docs/configuration.md", "More cleanups", 0, {"kpo_cleanup_gpu", "kpo_cleanup_gpu_dry_run"}),
    ("docs/configuration.md", "More cleanups", 1, {"kpo_cleanup_research", "kpo_cleanup_reporting"}),
    ("docs/operating.md", "Choosing a schedule", 0, {"kpo_cleanup_local"}),
]


def test_the_settings_table_is_that_of_the_code() -> None:
    options = section("README.md", "Configuration")
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| a (\w+) \| (.+) \|$", options, re.M)
    assert rows == [
        (name, _default(name), option.metadata["scope"].value, option.metadata["meaning"])
        for name, option in OPTIONS.items()
    ]


def test_the_labels_of_the_cluster_are_those_of_the_code() -> None:
    listed = document("docs/concepts.md").partition("those that start\nwith ")[2].partition(". A pod that")[0]
    assert tuple(re.findall(r"`(\S+)`", listed)) == CLUSTER_LABEL_PREFIXES


def test_the_picture_of_the_demo_has_each_task_with_its_state_and_what_becomes_of_its_workload() -> None:
    rows: dict[str, list[str]] = defaultdict(list)
    for line, text in re.findall(r'<text x="\d+" y="(\d+)".*?>(.+)</text>', document("docs/images/demo.svg")):
        rows[line].append(text)
    _, _, *shown = rows.values()  # without the title and the head of the table
    assert [(task, state, after) for task, state, _, after in shown] == [
        (
            title(task),
            task.expected_state + (f", try {task.expected_try}" if task.expected_try > 1 else ""),
            "deleted" if task.leaves_zombie else "still running",
        )
        for task in TASKS
    ]


def _default(name: str) -> str:
    option = OPTIONS[name]
    default = "empty" if option.default in ("", None) else f"`{option.default}`"
    follows = option.metadata.get("follows")
    return f"Airflow's `{follows}` ({default})" if follows else default


@pytest.mark.parametrize(("name", "heading", "number", "dag_ids"), EXAMPLES)
def test_the_examples_of_dag_files_make_dags_that_airflow_finds(
    name: str, heading: str, number: int, dag_ids: set[str], tmp_path: Path
) -> None:
    example = re.findall(r"^```python\n(.*?)```", section(name, heading), re.M | re.S)[number]
    (tmp_path / "example.py").write_text(example)
    bag = DagBag(str(tmp_path))
    assert bag.import_errors == {}
    assert set(bag.dags) == dag_ids
    assert not [dag.dag_id for dag in bag.dags.values() if "Every run fails" in str(dag.description)]


def test_the_verdict_table_has_the_reasons_in_the_order_of_the_rules() -> None:
    listed = re.findall(r"^\| `(\w+)` \|", section("docs/concepts.md", "Classification"), re.M)
    assert listed.count("unmatched") == 2  # without a task instance, and with one that is not shown to be its
    assert list(dict.fromkeys(listed)) == [reason.value for reason in Reason]


@pytest.mark.parametrize(
    ("task_id", "keys"),
    [
        ("classify", {"summary", "dry_run", *dump_classification([], {})}),
        ("reap", {*reap_report([], "", [KpoCleanupError("it failed")])}),
    ],
)
def test_the_keys_of_the_return_values_are_explained(task_id: str, keys: set[str]) -> None:
    rows = re.findall(r"^\| (.+?) \| (.+?) \|", section("docs/operating.md", "XComs"), re.M)
    listed = [key for names, tasks in rows if f"`{task_id}`" in tasks for key in re.findall(r"`(\w+)`", names)]
    assert sorted(listed) == sorted(keys)


def test_the_tables_that_need_select_are_named() -> None:
    names = [table.name for table in TABLES]
    *others, last = (f"`{name}`" for name in names)
    assert f"SELECT on {', '.join(others)} and {last}" in document("docs/sources.md")
    assert f"GRANT SELECT ON {', '.join(names)} TO" in document("docs/sources.md")


def test_the_permissions_are_those_of_the_manifest() -> None:
    listed = set(re.findall(r"^\| `(\w+)` \| `(\w+)` \|", section("docs/installation.md", "Permissions"), re.M))
    documents = yaml.safe_load_all((REPO / "manifests/rbac.yaml").read_text())
    rules = next(document["rules"] for document in documents if document["kind"] == "Role")
    assert listed == {(verb, resource) for rule in rules for verb in rule["verbs"] for resource in rule["resources"]}


def test_the_releases_are_those_of_the_matrix() -> None:
    versions = section("docs/installation.md", "Supported versions")
    # The other columns are what a run of the matrix found; it compares them itself.
    assert re.findall(r"^\| (\d+\.\S+) \|", versions, re.M) == [row.airflow for row in ROWS]


DOCUMENTS = [REPO / name for name in ("README.md", "CONTRIBUTING.md")] + sorted((REPO / "docs").rglob("*.md"))


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(REPO)))
def test_every_link_leads_to_a_file_and_a_heading_that_exist(path: Path) -> None:
    for target, heading in re.findall(r"\]\(([^)#:]*)(?:#([^)]+))?\)", path.read_text()):
        linked = path.parent / target if target else path
        assert linked.exists(), target
        if heading:
            assert heading in anchors(linked), f"{target}#{heading}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(REPO)))
def test_every_airflow_command_is_one_that_its_command_line_accepts(path: Path) -> None:
    blocks = "".join(re.findall(r"^```sh\n(.*?)```", path.read_text(), re.M | re.S)).replace("\\\n", "")
    for command in re.findall(r"^airflow (.+)$", re.sub(r"\$\(.*?\)", "2026-11-24", blocks), re.M):
        get_parser().parse_args(shlex.split(command))


def anchors(path: Path) -> set[str]:
    """Return the anchors that GitHub makes of a document's headings."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.M)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def test_the_readme_can_be_read_in_three_minutes() -> None:
    assert len(document("README.md").split()) <= 1300


def test_every_document_is_reached_from_the_readme() -> None:
    linked = {target.partition("#")[0] for target in re.findall(r"\]\((docs/[^)]+)\)", document("README.md"))}
    assert {str(path.relative_to(REPO)) for path in DOCUMENTS} - linked <= {
        "README.md",
        "CONTRIBUTING.md",
    }


def test_the_quick_start_installs_as_the_guide_does() -> None:
    guide = block("docs/installation.md", "Ways to install", paragraph="Plain Airflow")
    assert block("README.md", "Quick start", paragraph="1. Install") == guide
