"""An event loop in its own thread, so that blocking code can run asynchronous servers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, Self, TypeVar

T = TypeVar("T")


class BackgroundLoop:
    """An event loop that runs in its own thread until `stop`."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T], timeout: float = 60.0) -> T:
        """Run a coroutine in the loop and return its result; `timeout` is in seconds."""
        return self.submit(work).result(timeout)

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Start a coroutine in the loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def stop(self) -> None:
        """Cancel all running tasks and stop the thread."""
        self.run(self._cancel_all())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _cancel_all(self) -> None:
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await asyncio.get_running_loop().shutdown_asyncgens()


class BackgroundServer:
    """A server that runs in its own event loop for the duration of its `with` block."""

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    def __enter__(self) -> Self:
        self._background = BackgroundLoop(type(self).__name__)
        try:
            self._background.run(self.start())
        except BaseException:
            self._background.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._background.run(self.stop())
        self._background.stop()
