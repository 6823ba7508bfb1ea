"""PATCH bodies of two types: merge patch, and the strategic merge patch that the Python clients send for pods."""

from __future__ import annotations

import json
from typing import Any

from .errors import ApiError, bad_request
from .resources import Json

_MERGE = "application/merge-patch+json"
_STRATEGIC = "application/strategic-merge-patch+json"


def apply(content_type: str, body: bytes, target: Json, *, custom: bool) -> Json:
    """Return a patched copy of `target`, which may be a custom resource."""
    if custom and content_type != _MERGE:
        accepted = f"application/json-patch+json, {_MERGE}, application/apply-patch+yaml"
        why = f"the body of the request was in an unknown format - accepted media types include: {accepted}"
        raise ApiError(415, "UnsupportedMediaType", why)
    if content_type not in (_MERGE, _STRATEGIC):
        raise ApiError(415, "UnsupportedMediaType", "415: Unsupported Media Type", {})
    try:
        patch = json.loads(body)
    except ValueError as error:
        raise bad_request(f"error decoding patch: {error}") from error
    if not isinstance(patch, dict):
        raise bad_request("error decoding patch: not an object")
    merged: Json = _merge(target, patch, strategic=content_type == _STRATEGIC)
    return merged


def _merge(target: Any, patch: Any, *, strategic: bool) -> Any:
    """Merge as in RFC 7386. A strategic patch also merges lists; here only `finalizers`, which our clients patch."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        elif strategic and key.startswith("$"):
            continue  # kubectl's `$setElementOrder/…` only orders elements that are in the patch anyway
        elif strategic and key == "finalizers":
            known = merged.get(key) or []
            merged[key] = [*(item for item in value if item not in known), *known]
        else:
            merged[key] = _merge(merged.get(key), value, strategic=strategic)
    return merged
