"""Create, update and bind: what the API server validates and changes before it stores an object."""

from __future__ import annotations

import secrets
import uuid
from typing import Any

from . import deletion
from .errors import Cause, already_exists, bad_request, conflict, invalid, not_found
from .resources import Json, Resource, Target
from .store import Store, StoredObject, timestamp
from .strategies import strategy_of
from .validation import metadata_problems

# The API server's alphabet for generated names: without vowels, so that they do not form words.
_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
# Set by the API server; clients cannot change them.
_SYSTEM_FIELDS = ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation")


def create(store: Store, target: Target, body: Json) -> StoredObject:
    resource = target.resource
    metadata = _metadata(target, body)
    metadata = {key: value for key, value in metadata.items() if key not in _SYSTEM_FIELDS}
    if not metadata.get("name") and metadata.get("generateName"):
        metadata["name"] = _generate_name(store, target, metadata["generateName"])
    metadata |= {"uid": str(uuid.uuid4()), "creationTimestamp": timestamp(store.now())}
    obj = {**_payload(body), "metadata": metadata}
    if resource.namespaced and not store.get("namespaces", target.namespace):
        raise not_found("namespaces", target.namespace)
    causes = metadata_problems(metadata) + strategy_of(resource).prepare_for_create(obj, store.now())
    if causes:
        raise invalid(resource.qualified_kind, metadata.get("name") or "", causes)
    key = Target(resource, target.namespace, metadata["name"]).key
    if store.get(resource.name, key):
        raise already_exists(resource.name, metadata["name"])
    return store.put(resource.name, key, obj)


def update(store: Store, target: Target, old: StoredObject, wanted: Json) -> StoredObject:
    """Update an object or its status, and return the result: the old object if nothing has changed."""
    resource, before = target.resource, old.object
    metadata, old_metadata = _metadata(target, wanted), before["metadata"]
    if metadata.get("name") != target.name:
        raise bad_request(
            f"the name of the object ({metadata.get('name') or ''}) does not match the name on the URL ({target.name})"
        )
    if metadata.get("resourceVersion") not in (None, old_metadata["resourceVersion"]):
        why = "the object has been modified; please apply your changes to the latest version and try again"
        raise conflict(resource.name, target.name, why)
    causes = metadata_problems(metadata)
    if (uid := metadata.get("uid", old_metadata["uid"])) != old_metadata["uid"]:
        causes.append(Cause.invalid("metadata.uid", uid, "field is immutable"))
    system = {key: old_metadata[key] for key in ("resourceVersion", *_SYSTEM_FIELDS) if key in old_metadata}
    after = {**_payload(wanted), "metadata": {**metadata, **system}}
    # The main resource cannot change the status; the status subresource can change only the status and metadata.
    if target.subresource == "status":
        after = {**before, "metadata": after["metadata"], "status": after.get("status")}
    else:
        after.pop("status", None)
        after |= {"status": before["status"]} if "status" in before else {}
        if "generation" in old_metadata and after.get("spec") != before.get("spec"):
            after["metadata"]["generation"] += 1
        causes += strategy_of(resource).validate_update(before, after)
    if causes:
        raise invalid(resource.qualified_kind, target.name, causes)
    if after == before:
        return old  # a no-op update does not change the version
    return write(store, resource, old.key, after)


def write(store: Store, resource: Resource, key: str, obj: Json) -> StoredObject:
    """Store an object, and remove it if it is terminating and its last finalizer is gone."""
    stored = store.put(resource.name, key, obj)
    return deletion.remove(store, resource, stored) if deletion.is_removable(obj) else stored


def without_finalizer(obj: Json, finalizer: str) -> Json:
    """Return an object without one of its finalizers."""
    remaining = [one for one in obj["metadata"].get("finalizers") or [] if one != finalizer]
    return with_metadata(obj, finalizers=remaining)


def with_metadata(obj: Json, **fields: Any) -> Json:
    """Return an object with these fields of its metadata changed; an empty value removes a field."""
    metadata = {**obj["metadata"], **fields}
    return {**obj, "metadata": {key: value for key, value in metadata.items() if key not in fields or value}}


def bind(store: Store, target: Target, old: StoredObject, binding: Json) -> None:
    """Bind a pod to the node that the scheduler chose; a pod is bound only once."""
    pod, wanted = old.object, binding.get("metadata") or {}
    why, uid = "", pod["metadata"]["uid"]
    if wanted.get("uid", uid) != uid:
        why = f"Precondition failed: UID in precondition: {wanted['uid']}, UID in object meta: {uid}"
        storage = f"StorageError: invalid object, Code: 4, Key: /registry/pods/{old.key}, ResourceVersion: 0"
        raise conflict("pods", target.name, f"{storage}, AdditionalErrorMsg: {why}")
    if pod["metadata"].get("deletionTimestamp"):
        why = f"pod {target.name} is being deleted, cannot be assigned to a host"
    elif node := pod["spec"].get("nodeName"):
        why = f'pod {target.name} is already assigned to node "{node}"'
    if why:
        raise conflict("pods/binding", target.name, why)
    store.put("pods", old.key, {**pod, "spec": {**pod["spec"], "nodeName": binding["target"]["name"]}})


def _generate_name(store: Store, target: Target, base: str) -> str:
    name = ""
    for _ in range(8):  # the API server's number of attempts before it fails with AlreadyExists
        name = base[:58] + "".join(secrets.choice(_ALPHABET) for _ in range(5))
        if not store.get(target.resource.name, Target(target.resource, target.namespace, name).key):
            break
    return name


def _metadata(target: Target, body: Json) -> Json:
    metadata = {key: value for key, value in (body.get("metadata") or {}).items() if value not in (None, "")}
    if target.resource.namespaced:
        if metadata.get("namespace", target.namespace) != target.namespace:
            raise bad_request("the namespace of the provided object does not match the namespace sent on the request")
        metadata["namespace"] = target.namespace
    return metadata


def _payload(body: Json) -> Json:
    return {key: value for key, value in body.items() if key not in ("kind", "apiVersion")}
