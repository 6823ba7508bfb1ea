"""GitHub's workflows run the same targets as `.ci/run`, and call only targets that exist in the Makefile."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

REPO = Path(__file__).parents[2]
WORKFLOWS = REPO / ".github" / "workflows"
CALLERS = ["ci", "release", "thorough"]


def calls_in(workflow: str) -> Iterator[list[str]]:
    """Yield the arguments of each call of make in a workflow."""
    for job in yaml.safe_load((WORKFLOWS / f"{workflow}.yml").read_text())["jobs"].values():
        matrix = job.get("strategy", {}).get("matrix", {})
        targets = matrix.get("target") or [job["with"]["target"]] if "with" in job else []
        runs = [step["run"] for step in job.get("steps", []) if "run" in step]
        yield from map(shlex.split, [*targets, *(run.removeprefix("make ") for run in runs if run.startswith("make "))])


def test_ci_has_the_steps_of_the_local_run() -> None:
    steps = re.findall(r"^ *((?:\w+=\S+ )*)step (.+)$", (REPO / ".ci" / "run").read_text(), re.M)
    assert [*calls_in("ci")] == [shlex.split(f"{step} {variables}", comments=True) for variables, step in steps]


@pytest.mark.parametrize("workflow", CALLERS)
def test_a_workflow_calls_only_targets_that_exist_in_the_makefile(workflow: str) -> None:
    calls = [*calls_in(workflow)]
    assert calls
    for call in calls:
        subprocess.run(["make", "--dry-run", *call], cwd=REPO, check=True, capture_output=True)


def test_the_calls_of_every_workflow_are_tested() -> None:
    assert {path.stem for path in WORKFLOWS.glob("*.yml")} == {"make", *CALLERS}
