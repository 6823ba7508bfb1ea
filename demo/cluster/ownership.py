"""Owner references: how they are read and written, and an index of the dependents of each owner."""

from __future__ import annotations

from collections import defaultdict

from .resources import Json, Resource
from .store import Change, Store, StoredObject


def owner_references(obj: Json) -> list[Json]:
    """Return the object's owner references."""
    return obj["metadata"].get("ownerReferences") or []


def controller_of(obj: Json) -> Json | None:
    """Return the reference to the object's controller, if it has one."""
    return next((one for one in owner_references(obj) if one.get("controller")), None)


def controller_reference(resource: Resource, owner: Json) -> Json:
    """Return a reference to `owner` as the controller of a new object."""
    metadata = owner["metadata"]
    about = {"apiVersion": resource.api_version, "kind": resource.kind, "name": metadata["name"]}
    return {**about, "uid": metadata["uid"], "controller": True, "blockOwnerDeletion": True}


class Ownership:
    """An index of a store: which objects refer to an owner, by the owner's uid."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._dependents: defaultdict[str, set[tuple[str, str]]] = defaultdict(set)
        store.observers.append(self._observe)

    def dependents(self, uid: str) -> list[tuple[str, StoredObject]]:
        """Return the dependents of an owner with the names of their resources."""
        found = ((resource, self._store.get(resource, key)) for resource, key in sorted(self._dependents.get(uid, ())))
        return [(resource, stored) for resource, stored in found if stored]

    def _observe(self, resource: str, change: Change) -> None:
        for stored in filter(None, (change.before, change.after)):
            for reference in owner_references(stored.object):
                if stored is change.after:
                    self._dependents[reference["uid"]].add((resource, stored.key))
                else:
                    self._dependents[reference["uid"]].discard((resource, stored.key))
