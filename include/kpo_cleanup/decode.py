"""Decode answers about pods: only what is kept of a pod where msgspec is installed, all of it where it is not.

Most of a pod is nothing that the verdict needs, ``managedFields`` above all; passing over it is some fifteen times as
fast as making Python objects of it. Airflow 3 brings msgspec along.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any, TypedDict

# What ``Pod.from_api`` reads. A key may be missing, as it may in the API.
_List = TypedDict("_List", {"continue": Any, "remainingItemCount": Any}, total=False)
_Labels = TypedDict(
    "_Labels",
    {
        "dag_id": Any,
        "task_id": Any,
        "run_id": Any,
        "map_index": Any,
        "try_number": Any,
        "kubernetes_pod_operator": Any,
        "already_checked": Any,
        "kpo-cleanup/protect": Any,
    },
    total=False,
)
_Annotations = TypedDict("_Annotations", {"kpo-cleanup/protect": Any}, total=False)


class _Metadata(TypedDict, total=False):
    name: Any
    namespace: Any
    uid: Any
    creationTimestamp: Any
    deletionTimestamp: Any
    labels: _Labels
    annotations: _Annotations
    ownerReferences: Any
    finalizers: Any


class _Resources(TypedDict, total=False):
    requests: Any


class _Container(TypedDict, total=False):
    resources: _Resources


class _Spec(TypedDict, total=False):
    containers: list[_Container]


class _ContainerStatus(TypedDict, total=False):
    name: Any
    state: Any


class _Status(TypedDict, total=False):
    phase: Any
    containerStatuses: list[_ContainerStatus]


class _Item(TypedDict, total=False):
    metadata: _Metadata
    spec: _Spec
    status: _Status


class _Page(TypedDict, total=False):
    kind: Any
    metadata: _List
    items: list[_Item]


def decode_answer(body: bytes) -> Any:
    """The JSON of a page with at least what is kept of a pod, and of any other answer with at least its kind.

    :raises ValueError: where it is not JSON.
    """
    decoder = _decoder()
    if decoder is not None:
        try:
            return decoder.decode(body)
        except Exception:  # not what a page looks like
            pass  # decoded whole, it is refused in the same words as where there is no msgspec
    return json.loads(body)


def keeps_little() -> bool:
    """Whether what is not needed of a page is gone once it is decoded."""
    return _decoder() is not None


@cache
def _decoder() -> Any:
    try:
        from msgspec.json import Decoder
    except ImportError:
        return None
    return Decoder(_Page)
