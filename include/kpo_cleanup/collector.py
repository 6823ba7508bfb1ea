"""Python's garbage collector, paused while many things are made that all stay."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def paused() -> Iterator[None]:
    """Without the collector, also as a decorator.

    What thousands of pods are made of has it run again and again, and each run looks through the pods so far and all
    of Airflow, to find nothing. It was a third of the cost of a listing, and made the verdict's more than linear.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
