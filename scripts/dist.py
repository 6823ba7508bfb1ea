#!/usr/bin/env python3
"""Build the two files of a release, and print their paths: a zip and a wheel.

Airflow loads the zip as a packaged DAG. The wheel installs the package as ``kpo_cleanup``.

The same tree gives the same bytes on every machine. Therefore both are written without the times, owners and
permissions of the files, and are not compressed, because the output of zlib differs between versions.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip can hold
READABLE = 0o100644 << 16  # the mode of a regular file, in the bits that a zip uses

# The package has a unique name in the zip; see dags/kpo_cleanup.py.
PACKAGE = "_kpo_cleanup"

Entries = Iterable[tuple[str, bytes]]


def contents(repo: Path) -> Iterator[tuple[str, bytes]]:
    """Yield name and bytes of each file in the zip, with the DAG file at its root.

    The package's `.airflowignore` is left out: in a zip, Airflow parses the files at the root only.
    """
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


def build_wheel(repo: Path) -> tuple[str, list[tuple[str, bytes]]]:
    """Build the wheel as pyproject.toml describes it; return its name and its entries."""
    with tempfile.TemporaryDirectory() as folder:
        command = [str(repo / "scripts" / "uv"), "build", "--quiet", "--wheel", "--out-dir", folder, str(repo)]
        subprocess.run(command, check=True)
        (built,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(built) as archive:
            return built.name, [(name, archive.read(name)) for name in archive.namelist()]


def write(path: Path, entries: Entries) -> Path:
    """Write entries into an archive, in their order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in entries:
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.create_system, entry.external_attr = 3, READABLE  # on every system
            archive.writestr(entry, data)
    return path


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else REPO / "dist"
    print(write(target / f"kpo_cleanup-{version(REPO)}.zip", contents(REPO)))
    name, entries = build_wheel(REPO)
    print(write(target / name, entries))
