"""Parse records: the XComs in which an operator stores the name of its pod. Users may have written them as well."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ..identity import TaskInstanceKey
from ..task_instance import Record
from ..text import printable

KEYS = ("pod_name", "pod_namespace")  # of the XComs

_NAME = re.compile(r"[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?")  # of a pod or a namespace
_SHOWN_CHARACTERS = 12  # of an invalid name: enough to recognize a reference, too few to leak a secret


class Unreadable(NamedTuple):
    """A value that exists but cannot be read."""

    cause: str


def decode_json(value: Any) -> Any:
    """Decode a JSON string, repeatedly if it was encoded more than once; no name starts with a quotation mark.

    :raises ValueError: if it is not valid JSON.
    """
    while isinstance(value, str) and value.startswith('"'):
        value = json.loads(value)
    return value


def build_records(
    xcoms: Mapping[TaskInstanceKey, Iterable[Mapping[str, Any]]],
) -> dict[TaskInstanceKey, Record]:
    """Return the record of each key that has one.

    :param xcoms: for each key the XComs, by XCom key, of each task instance that shares it; some or all may be missing.
    """
    records = {}
    for key, task_instances in xcoms.items():
        pods, problems = set(), []
        for values in filter(None, task_instances):
            problem = _find_problem(values)
            if problem:
                problems.append(problem)
            else:
                pods.add("{pod_namespace}/{pod_name}".format_map(values))
        if pods or problems:
            records[key] = Record(frozenset(pods), printable(problems[0]) if problems else "")
    return records


def _find_problem(values: Mapping[str, Any]) -> str:
    """Return why these XComs do not name a pod, or an empty string."""
    for key, value in values.items():
        if isinstance(value, Unreadable):
            return f"its XCom {key} cannot be read: {value.cause}"
        if not isinstance(value, str):
            return f"its XCom {key} is a {type(value).__name__}, not a Kubernetes name"
        if not _NAME.fullmatch(value):
            shown = value if len(value) <= _SHOWN_CHARACTERS else f"{value[:_SHOWN_CHARACTERS]}…"
            return f"its XCom {key} is not a valid Kubernetes name: {shown!r}"
    missing = [key for key in KEYS if key not in values]
    return f"its XCom {missing[0]} is missing" if missing else ""
