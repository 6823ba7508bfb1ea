"""The SQLite databases of the Airflows that the demo and the tests start; migrating one takes 10 s of CPU time."""

from __future__ import annotations

import fcntl
import shutil
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path


def copy_or_migrate(path: Path, migrate: Callable[[], object]) -> None:
    """Create a metadata database at `path`, by copying the first one of this Python environment if there is one.

    :param migrate: a function that runs `airflow db migrate` for `path`.
    """
    first = Path(sys.prefix) / f"airflow-{version('apache-airflow')}.db"
    with first.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the other test processes wait for the migration
        if not first.exists():
            migrate()
            incomplete = first.with_suffix(".incomplete")
            shutil.copy(path, incomplete)
            incomplete.rename(first)
        shutil.copy(first, path)
