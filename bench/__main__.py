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

import tests.conftest  # noqa: F401  a scratch Airflow, before anything imports Airflow
from bench.page import table, write_page
from bench.plots import draw
from bench.results import Figure, Point
from bench.setting import POD_SIZES, ROW_SIZES, Bench

PARTS = {
    "listing": "bench.listing",
    "memory": "bench.listing_memory",
    "task-instances": "bench.task_instances",
    "sources": "bench.sources",
    "classify": "bench.classifying",
    "reap": "bench.reaping",
    "reap-before": "bench.reaping_before",
    "xcom": "bench.xcom_size",
    "dag": "bench.whole_dag",
    "run": "bench.real_run",
    "leftovers": "bench.leftovers",
    "process-memory": "bench.whole_memory",
}
"""By the name that is given on the command line, the module that measures; in the order of the table."""

DOCS = Path(__file__).parent.parent / "docs" / "benchmarks"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(PARTS)}; all if none is named")
    parser.add_argument("--sizes", type=_sizes, default=POD_SIZES, help="numbers of pods, with commas")
    parser.add_argument("--rows", type=_sizes, default=ROW_SIZES, help="numbers of task instance rows, with commas")
    parser.add_argument("--repetitions", type=int, default=5, help="of each measurement, of which the median counts")
    parser.add_argument("--airflow-2", type=Path, help="the Python of an environment with Airflow 2")
    parser.add_argument("--out", type=Path, default=DOCS, help="where the page and the plots go")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")

    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)  # the product's log of thousands of pods costs the same in any measurement
    figures: list[Figure] = []
    points: list[Point] = []
    failed: list[str] = []
    with ExitStack() as stack:
        bench = Bench(stack, options.sizes, options.rows, options.repetitions, options.airflow_2)
        for name in options.parts or PARTS:
            bench.say(f"{name} …")
            try:
                for result in importlib.import_module(PARTS[name]).measure(bench):
                    if isinstance(result, Point):
                        points.append(result)
                    else:
                        figures.append(result)
                        bench.say(str(result))
            except Exception:  # the other parts take most of an hour, and their figures are to be kept
                traceback.print_exc()
                failed.append(name)
        pictures = draw(points, options.out)
        write_page(options.out / "README.md", figures, pictures, bench)
        bench.say(f"written to {options.out}")
    print(table(figures))
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(sorted(int(number) for number in text.split(",")))


if __name__ == "__main__":
    main()
