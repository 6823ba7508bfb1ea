"""A folder for one demo. A later demo wipes it if this one was killed."""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from demo.processes import end_processes_of

# Resolved: processes are found by their folder, and `.work` may be a link.
ROOT = (Path(__file__).parent.parent / ".work" / "demo").resolve()


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Make a new folder below `ROOT`, and wipe it at the end."""
    ROOT.mkdir(parents=True, exist_ok=True)
    for folder in ROOT.iterdir():
        _wipe_if_abandoned(folder)
    folder = Path(tempfile.mkdtemp(dir=ROOT, prefix="run-"))
    lock = _lock(folder)
    try:
        yield folder
    finally:
        _wipe(folder)
        if lock:
            lock.close()


def _lock(folder: Path) -> IO[str] | None:
    """Take the folder's lock, which ends with this process; None if another demo has it."""
    lock = (folder / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        return None
    return lock


def _wipe_if_abandoned(folder: Path) -> None:
    lock = _lock(folder)
    if lock:
        _wipe(folder)
        lock.close()


def _wipe(folder: Path) -> None:
    end_processes_of(folder)
    shutil.rmtree(folder, ignore_errors=True)
