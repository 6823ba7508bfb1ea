#!/usr/bin/env python3
"""Pack the DAG and its package into a zip that Airflow loads as a packaged DAG, and print its path.

The zip is reproducible: its entries are sorted and have no times, owners or permissions of the files, and it is not
compressed, because the output of zlib differs between versions.
"""

from __future__ import annotations

import re
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip can hold
READABLE = 0o100644 << 16  # the mode of a regular file, in the bits that a zip uses

# The package has a unique name in the zip; see dags/kpo_cleanup.py.
PACKAGE = "_kpo_cleanup"


def contents(repo: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the name and the bytes of each file in the zip, with the DAG file at the root."""
    yield "LICENSE", (repo / "LICENSE").read_bytes()
    package = repo / "include" / "kpo_cleanup"
    for path in sorted(package.rglob("*.py")):
        yield f"{PACKAGE}/{path.relative_to(package).as_posix()}", path.read_bytes()
    yield "kpo_cleanup.py", (repo / "dags" / "kpo_cleanup.py").read_bytes()


def version(repo: Path) -> str:
    """Return the version of the package without importing it, which requires an Airflow."""
    path = repo / "include" / "kpo_cleanup" / "__init__.py"
    found = re.search(r'^__version__ = "(.+)"$', path.read_text(), re.MULTILINE)
    if found is None:
        raise ValueError(f'{path} needs a line __version__ = "…"')
    return found[1]


def pack(repo: Path, folder: Path) -> Path:
    """Write the zip into a folder and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"kpo_cleanup-{version(repo)}.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in contents(repo):
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.create_system, entry.external_attr = 3, READABLE  # on every system
            archive.writestr(entry, data)
    return path


if __name__ == "__main__":
    print(pack(REPO, Path(sys.argv[1]) if len(sys.argv) > 1 else REPO / "dist"))
