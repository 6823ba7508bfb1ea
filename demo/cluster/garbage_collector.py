"""The garbage collector: it deletes or orphans the dependents of deleted objects, as kube-controller-manager's does.

It runs in the API server's process and reads the store directly, so that its view is never stale.
"""

from __future__ import annotations

from . import deletion, mutations
from .custom_resources import find_kind, served
from .ownership import Ownership, owner_references
from .resources import Json, Resource, Target
from .store import Change, Store, StoredObject
from .work_queue import WorkQueue


class GarbageCollector:
    """The garbage collector of a store."""

    def __init__(self, store: Store, ownership: Ownership) -> None:
        self._store = store
        self._ownership = ownership
        self._queue = WorkQueue(self._reconcile)
        store.observers.append(self._observe)

    def _observe(self, resource: str, change: Change) -> None:
        if change.after:
            self._queue.add((resource, change.after.key))
        before = change.before.object if change.before else None
        if before and change.after is None:
            for dependent, stored in self._ownership.dependents(before["metadata"]["uid"]):
                self._queue.add((dependent, stored.key))
            # The owners may be waiting for the removal of this dependent.
            for reference in owner_references(before):
                if owner := self._owner(before, reference):
                    self._queue.add((owner[0].name, owner[1].key))

    def _reconcile(self, key: tuple[str, str]) -> None:
        stored = self._store.get(*key)
        resource = next((one for one in served(self._store) if one.name == key[0]), None)
        if stored is None or resource is None:
            return
        metadata = stored.object["metadata"]
        finalizers = metadata.get("finalizers") or []
        if "deletionTimestamp" not in metadata:
            self._collect(resource, stored)
        elif deletion.ORPHAN in finalizers:
            for name, dependent in self._ownership.dependents(metadata["uid"]):
                self._drop_references(name, dependent, {metadata["uid"]})
            mutations.write(
                self._store, resource, stored.key, mutations.without_finalizer(stored.object, deletion.ORPHAN)
            )
        elif deletion.FOREGROUND in finalizers:
            dependents = self._ownership.dependents(metadata["uid"])
            if not any(_blocks(dependent.object, metadata["uid"]) for _, dependent in dependents):
                mutations.write(
                    self._store, resource, stored.key, mutations.without_finalizer(stored.object, deletion.FOREGROUND)
                )
            for name, dependent in dependents:
                self._queue.add((name, dependent.key))

    def _collect(self, resource: Resource, stored: StoredObject) -> None:
        """Delete a dependent unless one of its owners exists and keeps it."""
        absent, waiting, keeping = set(), set(), set()
        for reference in owner_references(stored.object):
            if find_kind(self._store, reference["apiVersion"], reference["kind"]) is None:
                return  # unknown whether the owner exists
            owner = self._owner(stored.object, reference)
            metadata = owner[1].object["metadata"] if owner else {}
            if not metadata:
                absent.add(reference["uid"])
            elif "deletionTimestamp" in metadata and deletion.FOREGROUND in (metadata.get("finalizers") or []):
                waiting.add(reference["uid"])
            else:
                keeping.add(reference["uid"])
        if keeping and (absent or waiting):
            self._drop_references(resource.name, stored, absent | waiting)
        elif not keeping and (absent or waiting):
            # A dependent that has dependents itself is deleted after them if its owner waits for it.
            has_dependents = waiting and self._ownership.dependents(stored.object["metadata"]["uid"])
            policy = "Foreground" if has_dependents else "Background"
            deletion.delete(self._store, resource, stored, {"propagationPolicy": policy})

    def _owner(self, dependent: Json, reference: Json) -> tuple[Resource, StoredObject] | None:
        """Return the owner that a reference names, if it exists and has the same uid."""
        resource = find_kind(self._store, reference["apiVersion"], reference["kind"])
        if resource is None:
            return None
        key = Target(resource, dependent["metadata"].get("namespace", ""), reference["name"]).key
        owner = self._store.get(resource.name, key)
        return (resource, owner) if owner and owner.object["metadata"]["uid"] == reference["uid"] else None

    def _drop_references(self, resource: str, dependent: StoredObject, uids: set[str]) -> None:
        left = [one for one in owner_references(dependent.object) if one["uid"] not in uids]
        self._store.put(resource, dependent.key, mutations.with_metadata(dependent.object, ownerReferences=left))


def _blocks(dependent: Json, uid: str) -> bool:
    return any(one["uid"] == uid and one.get("blockOwnerDeletion") for one in owner_references(dependent))
