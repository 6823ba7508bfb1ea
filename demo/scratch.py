"""A temporary folder for one demo; the next demo removes it if this one was killed."""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from demo.processes import end_processes_of

# Resolved, because processes are found by their working directory and `.work` may be a symbolic link.
ROOT = (Path(__file__).parent.parent / ".work" / "demo").resolve()


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Remove abandoned folders and create a new one in `ROOT`; at the end, kill its processes and remove it."""
    ROOT.mkdir(parents=True, exist_ok=True)
    for folder in ROOT.iterdir():
        _remove_if_abandoned(folder)
    folder = Path(tempfile.mkdtemp(dir=ROOT, prefix="run-"))
    lock = _lock(folder)
    try:
        yield folder
    finally:
        _remove(folder)
        if lock:
            lock.close()


def _lock(folder: Path) -> IO[str] | None:
    """Lock a folder until the returned file is closed or this process exits; return None if it is already locked."""
    lock = (folder / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        return None
    return lock


def _remove_if_abandoned(folder: Path) -> None:
    lock = _lock(folder)
    if lock:
        _remove(folder)
        lock.close()


def _remove(folder: Path) -> None:
    end_processes_of(folder)
    shutil.rmtree(folder, ignore_errors=True)
