"""`python -m bench [--sizes 1000,10000] [--rows 10000] [part …]`: measure, print the table, write docs/benchmarks/."""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
import traceback
import warnings
from contextlib import ExitStack
from pathlib import Path

import tests.conftest  # noqa: F401  sets up a temporary AIRFLOW_HOME before anything imports Airflow
from bench.context import POD_SIZES, ROW_SIZES, Bench
from bench.page import table, write_page
from bench.plots import draw
from bench.results import Figure, Point

PARTS = {
    "listing": "bench.listing",
    "memory": "bench.listing_memory",
    "task-instances": "bench.task_instances",
    "sources": "bench.sources",
    "classify": "bench.classification",
    "reap": "bench.reaping",
    "reap-baseline": "bench.reap_baseline",
    "sigterm": "bench.termination",
    "xcom": "bench.xcom_size",
    "dag": "bench.whole_dag",
    "run": "bench.real_run",
    "xcom-growth": "bench.xcom_growth",
    "task-memory": "bench.task_memory",
    "paired": "bench.paired",
}
"""Maps the part names on the command line to modules, in the order of the table on the page."""

DOCS = Path(__file__).parent.parent / "docs" / "benchmarks"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"any of {', '.join(PARTS)}; all by default")
    parser.add_argument("--sizes", type=_sizes, default=POD_SIZES, help="comma-separated numbers of pods")
    parser.add_argument("--rows", type=_sizes, default=ROW_SIZES, help="comma-separated numbers of task instance rows")
    parser.add_argument("--repetitions", type=int, default=5, help="repetitions; the median is reported")
    parser.add_argument("--airflow-2", type=Path, help="Python executable of an environment with Airflow 2")
    parser.add_argument("--out", type=Path, default=DOCS, help="folder for the page and the plots")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"unknown part {', '.join(sorted(unknown))}; choose from {', '.join(PARTS)}")

    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)  # otherwise logging thousands of pods would be part of every measurement
    figures: list[Figure] = []
    points: list[Point] = []
    failed: list[str] = []
    with ExitStack() as stack:
        bench = Bench(stack, options.sizes, options.rows, options.repetitions, options.airflow_2)
        for name in options.parts or PARTS:
            bench.progress(f"{name} …")
            try:
                for result in importlib.import_module(PARTS[name]).measure(bench):
                    if isinstance(result, Point):
                        points.append(result)
                    else:
                        figures.append(result)
                        bench.progress(str(result))
            except Exception:  # the figures of the other parts, which take most of an hour, must not be lost
                traceback.print_exc()
                failed.append(name)
        pictures = draw(points, options.out)
        write_page(options.out / "README.md", figures, pictures, bench)
        bench.progress(f"wrote {options.out}")
    print(table(figures))
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(sorted(int(number) for number in text.split(",")))


if __name__ == "__main__":
    main()
