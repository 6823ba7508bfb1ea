"""Compare the README with the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from airflow.dag_processing.dagbag import DagBag

from include.kpo_cleanup.constants import Outcome, Reason
from include.kpo_cleanup.pod import CLUSTER_LABEL_PREFIXES
from include.kpo_cleanup.settings import OPTIONS
from include.kpo_cleanup.task_instances.sql import TABLES
from tests.conftest import REPO
from tests.matrix import ROWS
from tests.readme import README, SOURCES

EXAMPLES = [
    {"kpo_cleanup_gpu", "kpo_cleanup_gpu_dry_run"},
    {"kpo_cleanup_research", "kpo_cleanup_reporting"},
]


def test_the_settings_table_is_that_of_the_code() -> None:
    section = README.partition("## Settings")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| a (\w+) \| (.+) \|$", section, re.M)
    assert rows == [
        (name, _default(name), option.metadata["scope"].value, option.metadata["meaning"])
        for name, option in OPTIONS.items()
    ]


def test_the_labels_of_the_cluster_are_those_of_the_code() -> None:
    listed = README.partition("those that start with ")[2].partition(". A pod that")[0]
    assert tuple(re.findall(r"`(\S+)`", listed)) == CLUSTER_LABEL_PREFIXES


def _default(name: str) -> str:
    option = OPTIONS[name]
    default = "empty" if option.default in ("", None) else f"`{option.default}`"
    follows = option.metadata.get("follows")
    return f"Airflow's `{follows}` ({default})" if follows else default


@pytest.mark.parametrize("number", [0, 1])
def test_the_examples_of_dag_files_make_dags_that_airflow_finds(number: int, tmp_path: Path) -> None:
    section = README.partition("## Several teams and clusters")[2].partition("\n## ")[0]
    example = re.findall(r"^```python\n(.*?)```", section, re.M | re.S)[number]
    (tmp_path / "example.py").write_text(example)
    bag = DagBag(str(tmp_path))
    assert bag.import_errors == {}
    assert set(bag.dags) == EXAMPLES[number]
    assert not [dag.dag_id for dag in bag.dags.values() if "Every run fails" in str(dag.description)]


def test_the_verdict_table_has_the_reasons_in_the_order_of_the_rules() -> None:
    section = README.partition("## What is a zombie")[2].partition("\n## ")[0]
    in_readme = re.findall(r"^\| `(\w+)` \|", section, re.M)
    assert in_readme.count("unmatched") == 2  # without a task instance, and with one that is not shown to be its
    assert list(dict.fromkeys(in_readme)) == [reason.value for reason in Reason]


def test_every_outcome_is_explained() -> None:
    section = README.partition("## How to read a run")[2].partition("\n## ")[0]
    assert all(f"`{outcome.value}`" in section for outcome in Outcome)


def test_the_tables_that_need_select_are_named() -> None:
    names = [table.name for table in TABLES]
    *others, last = (f"`{name}`" for name in names)
    assert f"SELECT on {', '.join(others)} and {last}" in README
    assert f"GRANT SELECT ON {', '.join(names)} TO" in SOURCES


def test_the_permissions_are_those_of_the_manifest() -> None:
    section = README.partition("## Permissions")[2].partition("\n## ")[0]
    in_readme = set(re.findall(r"^\| `(\w+)` \| `(\w+)` \|", section, re.M))
    documents = yaml.safe_load_all((REPO / "manifests/rbac.yaml").read_text())
    rules = next(document["rules"] for document in documents if document["kind"] == "Role")
    assert in_readme == {(verb, resource) for rule in rules for verb in rule["verbs"] for resource in rule["resources"]}


def test_the_releases_are_those_of_the_matrix() -> None:
    section = README.partition("## Airflow 2 and Airflow 3")[2].partition("\n## ")[0]
    # The other columns are what a run of the matrix found; it compares them itself.
    assert re.findall(r"^\| (\d+\.\S+) \|", section, re.M) == [row.airflow for row in ROWS]


@pytest.mark.parametrize(
    "document", [REPO / "README.md", *sorted((REPO / "docs").glob("*.md"))], ids=lambda path: path.name
)
def test_every_file_that_is_linked_exists(document: Path) -> None:
    for path in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
        assert (document.parent / path).exists(), path
