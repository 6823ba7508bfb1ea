"""The page with the figures: the table, the plots, the machine, and how to read them."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from tabulate import tabulate

from bench.results import Figure
from bench.setting import Bench

COLUMNS = ("what", "against", "size", "ours", "theirs", "ratio", "reach", "reached")
PACKAGES = ("apache-airflow", "apache-airflow-providers-cncf-kubernetes", "kubernetes", "urllib3", "SQLAlchemy")
NOTES = Path(__file__).with_name("notes.md")


def table(figures: Iterable[Figure], style: str = "simple") -> str:
    """Write one line for each figure."""
    rows = [(f.what, f.against, f.size, f.ours, f.theirs, *f.judged()) for f in figures]
    return tabulate(rows, COLUMNS, tablefmt=style, disable_numparse=True)


def write_page(path: Path, figures: Sequence[Figure], pictures: Sequence[Path], bench: Bench) -> None:
    """Write the figures of one run, what it ran on, and the notes that explain them."""
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
    told = Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "some processor")
