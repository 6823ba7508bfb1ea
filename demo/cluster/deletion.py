"""DELETE: preconditions, propagation policies, grace periods and finalizers, as in `registry.Store.Delete`."""

from __future__ import annotations

from datetime import datetime, timedelta

from .errors import Cause, bad_request, conflict, invalid
from .resources import Json, Resource
from .store import Store, StoredObject, timestamp
from .strategies import strategy_of

ORPHAN, FOREGROUND = "orphan", "foregroundDeletion"  # the garbage collector's finalizers
_FINALIZER_OF = {"Foreground": FOREGROUND, "Background": "", "Orphan": ORPHAN}


def delete(store: Store, resource: Resource, stored: StoredObject, options: Json) -> StoredObject | None:
    """Delete an object, or mark it as terminating if it has to wait for a kubelet or for finalizers.

    Return its new state if it still exists, otherwise its last state if the resource's DELETE returns it, or None.
    """
    metadata = stored.object["metadata"]
    _check(resource, metadata, options)
    strategy = strategy_of(resource)
    left = metadata.get("deletionGracePeriodSeconds")
    if left is None:
        own = strategy.grace_period(stored.object)
        grace = 0 if own is None else _grace(options, own)
        deadline = store.now() + timedelta(seconds=grace)
    elif left == 0:
        grace, deadline = 0, datetime.fromisoformat(metadata["deletionTimestamp"])
    else:
        grace = _grace(options, left)
        if grace >= left:
            return stored  # a second DELETE may shorten the grace period but not extend it
        deadline = datetime.fromisoformat(metadata["deletionTimestamp"]) + timedelta(seconds=grace - left)
        if deadline < store.now():
            deadline, grace = store.now(), min(grace, 1)
    finalizers = _finalizers(metadata, options, strategy.default_propagation)
    if finalizers or strategy.is_graceful:
        # Watchers see the deletion timestamp first, even if the removal follows immediately.
        mark: Json = {"deletionTimestamp": timestamp(deadline), "deletionGracePeriodSeconds": grace}
        if left is None and "generation" in metadata:
            mark["generation"] = metadata["generation"] + 1
        marked = {**{key: value for key, value in metadata.items() if key != "finalizers"}, **mark}
        marked |= {"finalizers": finalizers} if finalizers else {}
        if marked != metadata:
            stored = store.put(resource.name, stored.key, {**stored.object, "metadata": marked})
        if grace or finalizers:
            return stored
    last = remove(store, resource, stored)
    return last if strategy.is_graceful else None


def remove(store: Store, resource: Resource, stored: StoredObject) -> StoredObject:
    """Remove an object from the store, and return its last state."""
    last = store.remove(resource.name, stored.key)
    strategy_of(resource).after_delete(store, last.object)
    return last


def is_removable(obj: Json) -> bool:
    """Return whether a terminating object can be removed: its grace period is over and no finalizer is left."""
    return obj["metadata"].get("deletionGracePeriodSeconds") == 0 and not obj["metadata"].get("finalizers")


def _check(resource: Resource, metadata: Json, options: Json) -> None:
    """Raise an error if the options are invalid or the preconditions do not hold."""
    if options.get("orphanDependents") is not None:
        raise bad_request("orphanDependents is not simulated, use propagationPolicy")
    policy = options.get("propagationPolicy")
    if policy is not None and policy not in _FINALIZER_OF:
        cause = Cause.unsupported("propagationPolicy", policy, (*_FINALIZER_OF, "nil"))
        raise invalid("DeleteOptions.meta.k8s.io", "", [cause])
    wanted = options.get("preconditions") or {}
    why = ""
    if wanted.get("uid") not in (None, metadata["uid"]):
        why = (
            f"the UID in the precondition ({wanted['uid']}) does not match the UID in record "
            f"({metadata['uid']}). The object might have been deleted and then recreated"
        )
    elif wanted.get("resourceVersion") not in (None, metadata["resourceVersion"]):
        why = (
            f"the ResourceVersion in the precondition ({wanted['resourceVersion']}) does not match the "
            f"ResourceVersion in record ({metadata['resourceVersion']}). The object might have been modified"
        )
    if why:
        # Other errors name the resource ("pods"); for this one, the API server names the kind.
        raise conflict(resource.qualified_kind, metadata["name"], why)


def _finalizers(metadata: Json, options: Json, default_propagation: str) -> list[str]:
    """Return the object's finalizers, including that of the garbage collector if the propagation policy requires it.

    Without a policy, the finalizer of an earlier DELETE is kept.
    """
    present = metadata.get("finalizers") or []
    chosen = next((one for one in present if one in (ORPHAN, FOREGROUND)), _FINALIZER_OF[default_propagation])
    if policy := options.get("propagationPolicy"):
        chosen = _FINALIZER_OF[policy]
    others = [one for one in present if one not in (ORPHAN, FOREGROUND)]
    return [*others, chosen] if chosen else others


def _grace(options: Json, default: int) -> int:
    grace = options.get("gracePeriodSeconds")
    seconds = int(default if grace is None else grace)
    return 1 if seconds < 0 else seconds
