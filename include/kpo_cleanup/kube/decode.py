"""Decode the JSON of a response: only the fields that are read.

With msgspec, on which Airflow 3 depends, the others are skipped. Most of a pod is not needed, above all its
``managedFields``, and skipping it is much faster than building Python objects from it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, TypedDict

from ..workloads.parse import epoch, finalizers_of, mapping
from ..workloads.pod import SHAPE

_RESPONSE = {
    "kind": Any,
    "metadata": {
        "continue": Any,
        "remainingItemCount": Any,
        "finalizers": Any,
        "deletionTimestamp": Any,
        "deletionGracePeriodSeconds": Any,
    },
    "items": [SHAPE],
}


def make_decoder() -> Callable[[bytes], Any]:
    """Return a decoder of responses, which raises ValueError for what is not JSON.

    It returns at least the fields that are read: the pods of a page, and the kind of any other response.
    """
    try:
        from msgspec.json import Decoder
    except ImportError:
        return json.loads
    decoder = Decoder(_to_type(_RESPONSE))

    def decode(body: bytes) -> Any:
        try:
            return decoder.decode(body)
        except Exception:  # decode everything, so that the error is the same as without msgspec
            return json.loads(body)

    return decode


def parse_deletion(response: Mapping[str, Any]) -> tuple[tuple[str, ...], int | None]:
    """Parse the response to a deletion: the finalizers of the object, and its deadline if it has a grace period."""
    metadata = mapping(response.get("metadata"))
    deadline = epoch(metadata.get("deletionTimestamp")) if metadata.get("deletionGracePeriodSeconds") else None
    return finalizers_of(metadata), deadline


def _to_type(shape: Any) -> Any:
    if isinstance(shape, dict):
        # The functional form allows any key. Only msgspec's errors show the name.
        return TypedDict("_Shape", {key: _to_type(value) for key, value in shape.items()}, total=False)  # type: ignore[operator]
    return list[_to_type(shape[0])] if isinstance(shape, list) else shape  # type: ignore[misc]
