"""The memory of the API server: objects, one version counter, a history to watch, snapshots to page."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from .resources import Json

HISTORY_LENGTH = 20_000  # changes of one resource; a watcher that lags behind more than these must list again (410)
SNAPSHOTS = 50  # lists that can be paged through at the same time


@dataclass(frozen=True, slots=True)
class Stored:
    """One version of one object. It never changes: snapshots and history only hold references."""

    key: str  # `namespace/name`, or `name`
    object: Json
    raw: bytes  # serialised once, when written: a list of 10,000 objects is then a join

    @classmethod
    def make(cls, key: str, obj: Json, version: int) -> Stored:
        obj = {**obj, "metadata": {**obj["metadata"], "resourceVersion": str(version)}}
        return cls(key, obj, json.dumps(obj, separators=(",", ":")).encode())


@dataclass(frozen=True, slots=True)
class Change:
    version: int
    before: Stored | None
    after: Stored | None


@dataclass
class Table:
    """The objects of one resource."""

    objects: dict[str, Stored] = field(default_factory=dict)
    history: deque[Change] = field(default_factory=lambda: deque(maxlen=HISTORY_LENGTH))
    forgotten: int = 0  # the newest version that is no longer in the history
    watchers: set[asyncio.Queue[Change]] = field(default_factory=set)
    snapshots: dict[int, list[Stored]] = field(default_factory=dict)  # by version

    def all(self) -> list[Stored]:
        """Return all objects in the order of their keys, as etcd has them."""
        return [self.objects[key] for key in sorted(self.objects)]


def utc_now() -> datetime:
    return datetime.now(UTC)


class Store:
    """All tables. The store belongs to one event loop, and is not thread-safe."""

    def __init__(self, resources: tuple[str, ...], now: Callable[[], datetime] = utc_now) -> None:
        self.now = now
        self.version = 1
        self.tables = {resource: Table() for resource in resources}

    def get(self, resource: str, key: str) -> Stored | None:
        return self.tables[resource].objects.get(key)

    def put(self, resource: str, key: str, obj: Json) -> Stored:
        table = self.tables[resource]
        before = table.objects.get(key)
        self.version += 1
        stored = table.objects[key] = Stored.make(key, obj, self.version)
        self._record(table, Change(self.version, before, stored))
        return stored

    def remove(self, resource: str, key: str) -> Stored:
        """Remove an object, and return its last state with the version of its removal."""
        table = self.tables[resource]
        before = table.objects.pop(key)
        self.version += 1
        self._record(table, Change(self.version, before, None))
        return Stored.make(key, before.object, self.version)

    def snapshot(self, resource: str, version: int) -> list[Stored] | None:
        """Return all as it was at `version`; None if that is no longer known."""
        table = self.tables[resource]
        return table.all() if version == self.version else table.snapshots.get(version)

    def keep_snapshot(self, resource: str, items: list[Stored], version: int) -> None:
        snapshots = self.tables[resource].snapshots
        snapshots[version] = items
        if len(snapshots) > SNAPSHOTS:
            del snapshots[min(snapshots)]

    def compact(self) -> None:
        """Forget all versions but the newest, as etcd's compaction does."""
        self.version += 1  # so that no later list makes an old token valid again
        for table in self.tables.values():
            table.snapshots.clear()
            table.history.clear()
            table.forgotten = self.version

    def _record(self, table: Table, change: Change) -> None:
        if len(table.history) == HISTORY_LENGTH:
            table.forgotten = table.history[0].version
        table.history.append(change)
        for queue in table.watchers:
            queue.put_nowait(change)
