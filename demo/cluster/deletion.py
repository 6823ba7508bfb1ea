"""DELETE: preconditions, grace periods and finalizers, as in the API server's `registry.Store.Delete`."""

from __future__ import annotations

from datetime import datetime, timedelta

from .errors import conflict
from .resources import Json
from .store import Store, StoredObject


def delete(store: Store, pod: StoredObject, options: Json) -> StoredObject:
    """Delete a pod or mark it as terminating, and return its new or last state."""
    metadata = pod.object["metadata"]
    _check_preconditions(metadata, options)
    finalizers, left = metadata.get("finalizers"), metadata.get("deletionGracePeriodSeconds")
    mark: Json
    if left is None:
        grace = _first_grace(pod.object, options)
        mark = {"generation": metadata["generation"] + 1}
        deadline = store.now() + timedelta(seconds=grace)
    else:
        grace = _grace(options, left)
        if left == 0 or grace >= left:
            return pod  # a second DELETE may shorten the grace period but not extend it
        mark = {}
        deadline = datetime.fromisoformat(metadata["deletionTimestamp"]) + timedelta(seconds=grace - left)
        if deadline < store.now():
            deadline, grace = store.now(), min(grace, 1)
    mark |= {"deletionTimestamp": timestamp(deadline), "deletionGracePeriodSeconds": grace}
    # Watchers see the deletion timestamp first, even if the removal follows immediately.
    marked = store.put("pods", pod.key, {**pod.object, "metadata": {**metadata, **mark}})
    return marked if grace or finalizers else store.remove("pods", pod.key)


def delete_namespace(store: Store, namespace: StoredObject) -> StoredObject:
    """Delete a namespace and its content immediately, because there is no namespace controller to empty it."""
    for resource, table in store.tables.items():
        for key in [key for key in table.objects if key.startswith(f"{namespace.key}/")]:
            store.remove(resource, key)
    return store.remove("namespaces", namespace.key)


def is_removable(pod: Json) -> bool:
    """Return whether a terminating pod can be removed: its grace period is over and no finalizer is left."""
    return pod["metadata"].get("deletionGracePeriodSeconds") == 0 and not pod["metadata"].get("finalizers")


def timestamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _check_preconditions(metadata: Json, options: Json) -> None:
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
        raise conflict("Pod", metadata["name"], why)


def _first_grace(pod: Json, options: Json) -> int:
    """Return the grace period of the first DELETE in seconds."""
    # A pod that is not bound to a node, or that has finished, needs no kubelet to stop it.
    if not pod["spec"].get("nodeName") or pod["status"].get("phase") in ("Succeeded", "Failed"):
        return 0
    return _grace(options, pod["spec"]["terminationGracePeriodSeconds"])


def _grace(options: Json, default: int) -> int:
    grace = options.get("gracePeriodSeconds")
    seconds = int(default if grace is None else grace)
    return 1 if seconds < 0 else seconds
