"""Run generators concurrently in the main thread, and send each request that they yield from a worker thread."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any, TypeVar

from ..kube.interface import CONCURRENT_DELETES
from ..termination import Terminated

MAX_TERMINATION = 2  # seconds to wait for responses after SIGTERM: Airflow 3 kills the task after 5

T = TypeVar("T")

Request = Callable[[], Any]
Steps = Generator[Request, Any, T]  # receives the response to each request, or the exception that it raised


@contextmanager
def worker_threads() -> Iterator[ThreadPoolExecutor]:
    """Provide threads for requests. After a termination, those that still wait for a response are not awaited."""
    pool = ThreadPoolExecutor(CONCURRENT_DELETES, thread_name_prefix="reap")
    try:
        yield pool
    finally:
        pool.shutdown(wait=False)


def run_concurrently(pool: ThreadPoolExecutor, processes: Iterable[Steps[None]]) -> None:
    """Run all generators to their ends; at most ``CONCURRENT_DELETES`` of them wait for a response at a time."""
    waiting = iter(processes)
    running: dict[Future[Any], Steps[None]] = {}
    responses: SimpleQueue[Future[Any]] = SimpleQueue()
    try:
        while True:
            if len(running) < CONCURRENT_DELETES and (steps := next(waiting, None)) is not None:
                request = _resume(steps)
            elif running:
                future = responses.get()
                steps = running.pop(future)
                request = _resume(steps, future)
            else:
                return
            if request is not None:
                future = pool.submit(request)
                running[future] = steps
                future.add_done_callback(responses.put)
    except Terminated:
        for future in wait(running, MAX_TERMINATION).done:
            _resume(running[future], future)  # its next request is not sent
        raise


def _resume(steps: Steps[None], future: Future[Any] | None = None) -> Request | None:
    """Continue with the response to the last request, and return the next one, or None at the end."""
    try:
        if future is None:
            return next(steps)
        error = future.exception()
        return steps.throw(error) if error else steps.send(future.result())
    except StopIteration:
        return None
