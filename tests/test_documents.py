"""Compare the documentation with the code, where that needs Airflow."""

from __future__ import annotations

import re
import shlex
from collections import defaultdict
from pathlib import Path

import pytest
from airflow.cli.cli_parser import get_parser
from airflow.dag_processing.dagbag import DagBag

from demo.scenario import TASKS, title
from include.kpo_cleanup.task_instances.sql import TABLES
from tests.conftest import REPO
from tests.documents import DOCUMENTS, document, section

EXAMPLES = [
    ("docs/configuration.md", "More cleanups", 0, {"kpo_cleanup_gpu", "kpo_cleanup_gpu_dry_run"}),
    ("docs/configuration.md", "More cleanups", 1, {"kpo_cleanup_research", "kpo_cleanup_reporting"}),
    ("docs/operating.md", "Choosing a schedule", 0, {"kpo_cleanup_local"}),
]


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


@pytest.mark.parametrize(("name", "heading", "number", "dag_ids"), EXAMPLES)
def test_the_examples_of_dag_files_define_dags_that_airflow_finds(
    name: str, heading: str, number: int, dag_ids: set[str], tmp_path: Path
) -> None:
    example = re.findall(r"^```python\n(.*?)```", section(name, heading), re.M | re.S)[number]
    (tmp_path / "example.py").write_text(example)
    bag = DagBag(str(tmp_path))
    assert bag.import_errors == {}
    assert set(bag.dags) == dag_ids
    assert not [dag.dag_id for dag in bag.dags.values() if "Every run fails" in str(dag.description)]


def test_the_tables_that_need_select_are_named() -> None:
    names = [table.name for table in TABLES]
    *others, last = (f"`{name}`" for name in names)
    assert f"SELECT on {', '.join(others)} and {last}" in document("docs/sources.md")
    assert f"GRANT SELECT ON {', '.join(names)} TO" in document("docs/sources.md")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(REPO)))
def test_airflow_accepts_every_documented_command(path: Path) -> None:
    blocks = "".join(re.findall(r"^```sh\n(.*?)```", path.read_text(), re.M | re.S)).replace("\\\n", "")
    for command in re.findall(r"^airflow (.+)$", re.sub(r"\$\(.*?\)", "2026-11-24", blocks), re.M):
        get_parser().parse_args(shlex.split(command))
