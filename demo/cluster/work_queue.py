"""A queue of the keys that a controller has yet to reconcile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

Key = TypeVar("Key")


class WorkQueue(Generic[Key]):
    """A queue in the API server's event loop that holds each key once.

    The keys that a request adds are reconciled before the next request is processed, so that the cluster behaves
    deterministically.
    """

    def __init__(self, reconcile: Callable[[Key], None]) -> None:
        self._reconcile = reconcile
        self._keys: dict[Key, None] = {}
        self._is_scheduled = False

    def add(self, key: Key) -> None:
        self._keys[key] = None
        if not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._run)

    def add_all(self, keys: Iterable[Key]) -> None:
        for key in keys:
            self.add(key)

    def add_after(self, key: Key, seconds: float) -> None:
        asyncio.get_running_loop().call_later(seconds, self.add, key)

    def _run(self) -> None:
        self._is_scheduled = False
        while self._keys:
            key = next(iter(self._keys))
            del self._keys[key]
            self._reconcile(key)
