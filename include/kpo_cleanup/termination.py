"""SIGTERM, which ends ``reap`` early: its task was marked as failed, or the worker is shutting down."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Terminated(BaseException):
    """The process received SIGTERM. Not an ``Exception``, so that it is not taken for a failure of one pod."""


@contextmanager
def raise_on_sigterm() -> Iterator[None]:
    """Raise :class:`Terminated` in the main thread on the first SIGTERM, and ignore later ones.

    Airflow's own handlers are not sufficient: that of Airflow 2 raises different exceptions, depending on the version,
    and that of Airflow 3 lets the task continue until SIGKILL, 5 seconds later.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set a handler, but a user's test may call this in another one
        return
    previous = signal.signal(signal.SIGTERM, _raise)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextmanager
def without_sigterm() -> Iterator[None]:
    """Postpone SIGTERM to the end of the block, which must be short.

    Each request to Airflow 3's supervisor needs it. The SDK takes whatever response comes next: it would take the
    response to an interrupted request for the response to the next one, which stores the report.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    previous = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
        if received:
            signal.raise_signal(signal.SIGTERM)


def _raise(*_: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Terminated
