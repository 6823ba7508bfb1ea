#!/usr/bin/env python3
"""Pack the DAG and its package into one zip, which Airflow loads as a packaged DAG; print its path.

The same tree gives the same bytes on every machine. So the zip is sorted, and has no times, owners and permissions of
the files. It is not compressed, for zlib's output differs between versions.
"""

from __future__ import annotations

import re
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can hold
READABLE = 0o100644 << 16  # the mode of a plain file, at its place in a zip

# The package has a name of its own in there; dags/kpo_cleanup.py says why.
PACKAGE = "_kpo_cleanup"


def contents(repo: Path) -> Iterator[tuple[str, bytes]]:
    """Yield name and bytes of each file in the zip, with the DAG file at its root."""
    yield "LICENSE", (repo / "LICENSE").read_bytes()
    package = repo / "include" / "kpo_cleanup"
    for path in sorted(package.rglob("*.py")):
        yield f"{PACKAGE}/{path.relative_to(package).as_posix()}", path.read_bytes()
    yield "kpo_cleanup.py", (repo / "dags" / "kpo_cleanup.py").read_bytes()


def version(repo: Path) -> str:
    """Read the version from the package without an import, which may need an Airflow."""
    path = repo / "include" / "kpo_cleanup" / "__init__.py"
    found = re.search(r'^__version__ = "(.+)"$', path.read_text(), re.MULTILINE)
    if found is None:
        raise ValueError(f'{path} has no line __version__ = "…"; give it one')
    return found[1]


def pack(repo: Path, folder: Path) -> Path:
    """Write the zip into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"kpo_cleanup-{version(repo)}.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in contents(repo):
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.create_system, entry.external_attr = 3, READABLE  # as on Unix, on all systems
            archive.writestr(entry, data)
    return path


if __name__ == "__main__":
    print(pack(REPO, Path(sys.argv[1]) if len(sys.argv) > 1 else REPO / "dist"))
