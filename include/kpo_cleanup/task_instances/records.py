"""Records of pods: the XComs that the operator pushes about its pod. Others may have written them, too."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ..task_instance import Record

KEYS = ("pod_name", "pod_namespace")  # of the XComs

_NAME = re.compile(r"[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?")  # of a pod or a namespace
_SHOWN = 12  # characters of a value that is no name: enough to recognise a reference, too few to show a secret


class Unreadable(NamedTuple):
    """A value that exists but cannot be read."""

    why: str


def unquoted(value: Any) -> Any:
    """Decode a text of JSON, again if its writers encoded it twice; no name begins with a quotation mark.

    :raises ValueError: if it is no JSON.
    """
    while isinstance(value, str) and value.startswith('"'):
        value = json.loads(value)
    return value


def record_of(task_instances: Iterable[Mapping[str, Any]]) -> Record | None:
    """Make the record of the task instances that share a key; None if none of them has one.

    :param task_instances: the values of each one's XComs, by XCom key; one or both may be missing.
    """
    pods, problems = set(), []
    for values in task_instances:
        problem = _problem_of(values)
        if problem:
            problems.append(problem)
        elif values:
            pods.add("{pod_namespace}/{pod_name}".format_map(values))
    return Record(frozenset(pods), problems[0] if problems else "") if pods or problems else None


def _problem_of(values: Mapping[str, Any]) -> str:
    for key, value in values.items():
        if isinstance(value, Unreadable):
            return f"its XCom {key} cannot be read: {value.why}"
        if not isinstance(value, str):
            return f"its XCom {key} is no name in Kubernetes but a {type(value).__name__}"
        if not _NAME.fullmatch(value):
            shown = value if len(value) <= _SHOWN else f"{value[:_SHOWN]}…"
            return f"its XCom {key} is no name in Kubernetes: {shown!r}"
    missing = [key for key in KEYS if key not in values]
    return f"it has no XCom {missing[0]} beside the other one" if len(missing) == 1 else ""
