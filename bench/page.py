"""Render docs/benchmarks/README.md: the machine, the table, the plots and the notes."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from tabulate import tabulate

from bench.context import Bench
from bench.results import Figure

COLUMNS = ("measurement", "baseline", "size", "kpo_cleanup", "baseline value", "ratio", "target", "met")
PACKAGES = ("apache-airflow", "apache-airflow-providers-cncf-kubernetes", "kubernetes", "urllib3", "SQLAlchemy")
NOTES = Path(__file__).with_name("notes.md")


def table(figures: Iterable[Figure], style: str = "simple") -> str:
    """Render a table with one row per figure."""
    rows = [(f.measurement, f.baseline, f.size, f.ours, f.theirs, *f.result()) for f in figures]
    return tabulate(rows, COLUMNS, tablefmt=style, disable_numparse=True)


def write_page(path: Path, figures: Sequence[Figure], pictures: Sequence[Path], bench: Bench) -> None:
    """Write the page: the figures of one run, the machine and versions, and the notes that explain them."""
    versions = {name: version(name) for name in PACKAGES} | bench.versions
    today = datetime.now(UTC).date().isoformat()
    machine = f"{os.cpu_count()} cores, {_memory()} of memory, {platform.system()} {platform.machine()}"
    lines = [
        "# Benchmarks",
        "",
        f"Measured on {today} by `make bench`, which writes this page. {_processor()}, {machine}, "
        f"Python {platform.python_version()}, " + ", ".join(f"{k} {v}" for k, v in versions.items()) + ".",
        "",
        table(figures, "pipe"),
        "",
        *(f"![{picture.stem}]({picture.name})\n" for picture in pictures),
        NOTES.read_text().rstrip(),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def _memory() -> str:
    return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, "unknown processor")
