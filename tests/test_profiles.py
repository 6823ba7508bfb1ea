"""The property tests and the random histories run as often as their profile sets, with the seed that is printed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.conftest import REPO

PROPERTY_TEST = """
from hypothesis import given, strategies as st

@given(st.integers())
def test_property(number):
    print("number", number)
"""


def run_pytest(*arguments: str, **variables: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in ("SEED", "PYTEST_ADDOPTS")}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(
        command, cwd=REPO, env={**environment, **variables}, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_random_histories_run_as_often_as_the_profile_sets_and_a_worker_process_reports_their_number() -> None:
    output = run_pytest("-n", "1", "tests/faults/test_random_faults.py", HYPOTHESIS_PROFILE="brief")
    assert "\n2 random histories ran with the profile 'brief'\n" in output


def test_only_the_thorough_profile_draws_a_seed_and_that_seed_repeats_its_examples(tmp_path: Path) -> None:
    (tmp_path / "test_one.py").write_text(PROPERTY_TEST)

    def run(**variables: str) -> tuple[list[str], list[str]]:
        output = run_pytest("-s", "-p", "tests.profiles", f"--rootdir={tmp_path}", str(tmp_path), **variables)
        return re.findall(r"number (\S+)", output), re.findall(r"SEED=(\d+) repeats", output)

    fixed, seeds = run(HYPOTHESIS_PROFILE="more")
    assert seeds == []
    assert run(HYPOTHESIS_PROFILE="more") == (fixed, [])
    drawn, (seed,) = run(HYPOTHESIS_PROFILE="thorough")
    assert len(drawn) > len(fixed)
    assert run(HYPOTHESIS_PROFILE="thorough", SEED=seed) == (drawn, [seed])
    others, (other_seed,) = run(HYPOTHESIS_PROFILE="thorough")
    assert other_seed != seed
    assert others != drawn
