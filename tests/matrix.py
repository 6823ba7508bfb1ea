"""Run the DAG tests on every supported Airflow, with dependencies of its time: `python -m tests.matrix [RELEASE…]`.

Print the versions of each row, and fail if the table in docs/installation.md differs. Only the standard library is
used, because this runs before any environment exists.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).parent.parent
TABLE = REPO / "docs" / "installation.md"
LOGS = REPO / ".work" / "matrix"
TESTS = ["tests/airflow", "tests/dag", "tests/test_metrics.py"]
# These need a real scheduler, which takes long; `make test` runs them on Airflow 2 and 3.
FIRST_DRY_RUNS = "test_a_first_dry_run_deletes_nothing"
# The longest part of a row, so the releases between the oldest and the newest of a generation leave it out.
FAILURES = "tests/dag/test_failures.py"
OLDEST = ("2.7.3", "3.0.6")
PACKAGES = ("apache-airflow", "apache-airflow-providers-cncf-kubernetes", "kubernetes")
TAIL = 200  # lines to print of the log of a row with a failed or retried test
# The date of the newest dependencies; the Makefile uses it for all environments.
NEWEST = "2026-11-20"


@dataclass(frozen=True)
class Row:
    """A release of Airflow, and the date of its dependencies, above all of the provider."""

    airflow: str
    date: str

    @property
    def name(self) -> str:
        return f"{self.airflow} as of {self.date}"


# Each date is a few weeks after the release; the last releases of 2 and 3 run with the newest dependencies as well.
ROWS = (
    Row("2.7.3", "2023-12-15"),
    Row("2.8.4", "2024-04-15"),
    Row("2.9.3", "2024-08-10"),
    Row("2.10.5", "2025-03-10"),
    Row("2.11.2", "2026-04-05"),
    Row("2.11.2", NEWEST),
    Row("3.0.6", "2025-09-15"),
    Row("3.1.8", "2026-04-01"),
    Row("3.2.2", "2026-06-30"),
    Row("3.3.2", "2026-10-01"),
    Row("3.3.2", NEWEST),
)


def main(releases: list[str]) -> int:
    """Run the rows of these releases, or all rows.

    One more row than there are cores runs at a time, because a row spends half of its time waiting. If all rows run,
    those with the newest dependencies are only compared with the table: `make test` tests these environments.
    """
    rows = [row for row in ROWS if not releases or row.airflow in releases]
    if unknown := set(releases) - {row.airflow for row in ROWS}:
        sys.exit(f"no such row: {', '.join(sorted(unknown))}; there are {', '.join(row.airflow for row in ROWS)}")
    LOGS.mkdir(parents=True, exist_ok=True)
    pythons = {row: _environment(row) for row in rows}  # not in parallel: they share a download cache
    tested = [row for row in rows if releases or row.date != NEWEST]
    tested.sort(key=lambda row: row.airflow not in OLDEST)  # the longest first: they would end last
    with ThreadPoolExecutor((os.cpu_count() or 1) + 1) as pool:
        passed = list(pool.map(lambda row: _test(row, pythons[row]), tested))
    lines = [_table_line(python) for python in pythons.values()]
    print("\n".join(["", "Tested with:", *lines]), flush=True)
    missing = [line for line in lines if line not in TABLE.read_text().splitlines()]
    if missing:
        print("\n".join(["", "docs/installation.md does not have these lines:", *missing]), flush=True)
    print(f"\n{passed.count(True)} passed, {passed.count(False)} failed", flush=True)
    return 0 if all(passed) and not missing else 1


def _environment(row: Row) -> str:
    # Airflow 2 includes the SQLite provider; the metadata connection of Airflow 3 needs it.
    providers = ["apache-airflow-providers-sqlite"] if row.airflow.startswith("3.") else []
    done = subprocess.run(
        ["scripts/airflow-env", row.airflow, row.date, *providers],
        cwd=REPO,
        env={**os.environ, "ENV_SUFFIX": f"-{row.date}"},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"could not create an environment for Airflow {row.name}")
    return done.stdout.strip()


def _test(row: Row, python: str) -> bool:
    print(f"{row.name}: testing", flush=True)
    log, started = LOGS / f"{row.airflow}-{row.date}.log", time.monotonic()
    with log.open("w") as output:
        ignored = [] if row.airflow in OLDEST else ["--ignore", FAILURES]
        command = [python, "-m", "pytest", *TESTS, "-k", f"not {FIRST_DRY_RUNS}", *ignored]
        done = subprocess.run(command, cwd=REPO, stdout=output, stderr=output, check=False)
    lines = log.read_text(errors="replace").splitlines()
    print(f"{row.name}: {lines[-1].strip('= ')} ({time.monotonic() - started:.0f} s)", flush=True)
    if done.returncode or "rerun" in lines[-1]:
        print("\n".join(f"    {line}" for line in lines[-TAIL:]), f"    complete log: {log}", sep="\n", flush=True)
    return done.returncode == 0


def _table_line(python: str) -> str:
    code = f"import importlib.metadata as m; print('| ' + ' | '.join(map(m.version, {PACKAGES})) + ' |')"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
