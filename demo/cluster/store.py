"""The storage of the API server: objects, a version counter, the history for watches, and snapshots for paging."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from .resources import Json

HISTORY_LENGTH = 20_000  # changes per resource; a watcher that lags further behind gets 410 and must list again
SNAPSHOTS = 50  # paged lists that can be in progress at the same time


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One version of one object. It is immutable, so snapshots and history only hold references."""

    key: str  # `namespace/name`, or `name`
    object: Json
    raw: bytes  # serialized once, on write, so that listing thousands of objects is a join

    @classmethod
    def make(cls, key: str, obj: Json, version: int) -> StoredObject:
        obj = {**obj, "metadata": {**obj["metadata"], "resourceVersion": str(version)}}
        return cls(key, obj, json.dumps(obj, separators=(",", ":")).encode())


@dataclass(frozen=True, slots=True)
class Change:
    version: int
    before: StoredObject | None
    after: StoredObject | None


@dataclass
class Table:
    """The objects of one resource."""

    objects: dict[str, StoredObject] = field(default_factory=dict)
    history: deque[Change] = field(default_factory=lambda: deque(maxlen=HISTORY_LENGTH))
    compacted_version: int = 0  # the newest version that has been dropped from the history
    watchers: set[asyncio.Queue[Change]] = field(default_factory=set)
    snapshots: dict[int, list[StoredObject]] = field(default_factory=dict)  # by version

    def all(self) -> list[StoredObject]:
        """Return all objects ordered by key, as in etcd."""
        return [self.objects[key] for key in sorted(self.objects)]


def utc_now() -> datetime:
    return datetime.now(UTC)


def timestamp(moment: datetime | None = None) -> str:
    """Return a time, by default the present one, as the API writes it."""
    return (moment or utc_now()).strftime("%Y-%m-%dT%H:%M:%SZ")


class Store:
    """All tables, by the name of their resource. The store belongs to one event loop and is not thread-safe."""

    def __init__(self, now: Callable[[], datetime] = utc_now) -> None:
        self.now = now
        self.version = 1
        self.tables: defaultdict[str, Table] = defaultdict(Table)
        self.observers: list[Callable[[str, Change], None]] = []  # called with the resource after each change

    def get(self, resource: str, key: str) -> StoredObject | None:
        return self.tables[resource].objects.get(key)

    def put(self, resource: str, key: str, obj: Json) -> StoredObject:
        table = self.tables[resource]
        before = table.objects.get(key)
        self.version += 1
        stored = table.objects[key] = StoredObject.make(key, obj, self.version)
        self._record(resource, Change(self.version, before, stored))
        return stored

    def remove(self, resource: str, key: str) -> StoredObject:
        """Remove an object and return its last state, with the version of the removal."""
        table = self.tables[resource]
        before = table.objects.pop(key)
        self.version += 1
        self._record(resource, Change(self.version, before, None))
        return StoredObject.make(key, before.object, self.version)

    def remove_all(self, resource: str = "", prefix: str = "") -> None:
        """Remove all objects of a resource, or of all resources, whose keys start with `prefix`."""
        for name in [resource] if resource else list(self.tables):
            for key in [key for key in self.tables[name].objects if key.startswith(prefix)]:
                self.remove(name, key)

    def snapshot(self, resource: str, version: int) -> list[StoredObject] | None:
        """Return all objects as of `version`, or None if that snapshot is no longer available."""
        table = self.tables[resource]
        return table.all() if version == self.version else table.snapshots.get(version)

    def keep_snapshot(self, resource: str, items: list[StoredObject], version: int) -> None:
        snapshots = self.tables[resource].snapshots
        snapshots[version] = items
        if len(snapshots) > SNAPSHOTS:
            del snapshots[min(snapshots)]

    def compact(self) -> None:
        """Drop all versions but the newest, as etcd's compaction does."""
        self.version += 1  # so that no later list makes an expired token valid again
        for table in self.tables.values():
            table.snapshots.clear()
            table.history.clear()
            table.compacted_version = self.version

    def _record(self, resource: str, change: Change) -> None:
        table = self.tables[resource]
        if len(table.history) == HISTORY_LENGTH:
            table.compacted_version = table.history[0].version
        table.history.append(change)
        for queue in table.watchers:
            queue.put_nowait(change)
        for observe in self.observers:
            observe(resource, change)
