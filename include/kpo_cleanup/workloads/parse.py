"""Parse what objects of all kinds have in common, from the JSON of a response."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from sys import intern
from typing import Any

from ..text import printable
from .workload import Owner

MAX_ITEMS = 20  # labels, finalizers or resources of an object that are kept: its creator may write thousands

_REQUIRED = ("namespace", "name", "uid", "creationTimestamp")
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")


def identity(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a workload that identify its object, and those that show whether it is being deleted.

    :raises ValueError: if the object has no name, namespace, uid or creation time.
    """
    namespace, name, uid = metadata.get("namespace"), metadata.get("name"), metadata.get("uid")
    created = epoch(metadata.get("creationTimestamp"))
    if created is None or not (namespace and name and uid):
        fields = {field: metadata.get(field) for field in _REQUIRED}
        raise ValueError(f"an item lacks {', '.join(_REQUIRED[:-1])} or {_REQUIRED[-1]}: {printable(fields)}")
    return {
        "namespace": shared(namespace),
        "name": printable(name),
        "uid": printable(uid),
        "resource_version": printable(metadata.get("resourceVersion") or ""),
        "created": created,
        "deletion_deadline": epoch(metadata.get("deletionTimestamp")),
        "finalizers": finalizers_of(metadata),
    }


def finalizers_of(metadata: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the first ``MAX_ITEMS`` finalizers, and how many others there are."""
    finalizers = [*(metadata.get("finalizers") or ())]
    others = len(finalizers) - MAX_ITEMS
    return (*map(printable, finalizers[:MAX_ITEMS]), *([f"{others:,} others"] if others > 0 else []))


def controller_of(metadata: Mapping[str, Any]) -> Owner | None:
    """Return the owner that controls the object."""
    for owner in map(mapping, metadata.get("ownerReferences") or ()):
        if owner.get("controller"):
            return Owner(*(printable(owner.get(field)) for field in ("kind", "name", "uid", "apiVersion")))
    return None


def shared(value: Any) -> str:
    """Return a value as a string that is kept once, because many workloads share it."""
    return _share_text(str(value))


@lru_cache(maxsize=4096)
def _share_text(text: str) -> str:
    return intern(printable(text))


def mapping(value: Any) -> Mapping[str, Any]:
    """Return a value if it is a mapping, and an empty one otherwise."""
    return value if isinstance(value, dict) else {}


def epoch(timestamp: Any) -> int | None:
    """Return a time in epoch seconds, or None if it does not have the format of the Kubernetes API."""
    if not isinstance(timestamp, str) or not _TIME.fullmatch(timestamp):
        return None
    try:  # strptime() is ten times slower, and a pod has several times
        return int(datetime.fromisoformat(f"{timestamp[:-1]}+00:00").timestamp())
    except ValueError:
        return None
