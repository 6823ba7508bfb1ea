"""A migrated SQLite database for each Airflow of the demo and the tests, which takes 10 s of CPU time only once."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path


def copy_or_migrate(path: Path, migrate: Callable[[], object]) -> None:
    """Create a metadata database at `path`: a copy of the one that was migrated first in this Python environment.

    :param migrate: runs `airflow db migrate` for that path.
    """
    first = Path(sys.prefix) / "airflow.db"
    if first.exists():
        shutil.copy(first, path)
        return
    migrate()
    incomplete = first.with_suffix(f".{os.getpid()}")
    shutil.copy(path, incomplete)
    incomplete.replace(first)
