"""Parse records: the XComs in which an operator stores the name of its workload. Users may write them as well."""

from __future__ import annotations

import json
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from ..errors import KpoCleanupError, SourceUnusable, TaskInstanceSourceError, without_credentials
from ..identity import TaskInstanceKey
from ..task_instance import Record, RecordKeys
from ..text import printable

MAX_REASON = 200  # characters of the reason why a record cannot be read
# Seconds that failing requests may take in a row; each of them is retried. One DAG may take a sixth of this time.
MAX_FAILING_SECONDS = 60.0

_NAME = re.compile(r"[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?")  # name of a pod or a namespace
_SHOWN_CHARACTERS = 12  # shown of an invalid name: enough to recognize a reference, too few to leak a secret


class Unreadable(NamedTuple):
    """A value that exists but cannot be read."""

    cause: str


class XComReader:
    """Reads XComs, tries and ends one by one. A failure concerns one of them, unless the source answers nothing at all.

    :param source: the description of the source.
    """

    def __init__(self, source: str, max_failing_seconds: float = MAX_FAILING_SECONDS) -> None:
        self._source, self._max_failing_seconds = source, max_failing_seconds
        self._failing_seconds = 0.0  # duration of consecutive failures
        self._by_dag: dict[str, float] = defaultdict(float)  # total duration of failures, by DAG
        self._latest: dict[str, Unreadable] = {}  # latest failure by DAG

    def read(self, dag_id: str, request: Callable[[], Any]) -> Any:
        """Return what a request about a DAG returns, or an :class:`Unreadable` if it fails.

        :raises TaskInstanceSourceError: if the source is unusable, or if requests have been failing for too long.
        """
        if self._by_dag[dag_id] > self._max_failing_seconds / 6:
            return self._latest[dag_id]
        started = time.monotonic()
        try:
            value = request()
        except SourceUnusable:
            raise
        except Exception as error:  # a client of Airflow or a custom XCom backend can raise anything
            seconds = time.monotonic() - started
            self._by_dag[dag_id] += seconds
            self._failing_seconds += seconds
            self._latest[dag_id] = Unreadable(describe(error))
            if self._failing_seconds > self._max_failing_seconds:
                raise TaskInstanceSourceError(
                    f"{self._source} has failed to answer for {self._failing_seconds:.0f} s",
                    cause=describe(error),
                    remedy="see the logs of Airflow's API server and of the XCom backend",
                ) from error
            return self._latest[dag_id]
        self._failing_seconds = 0.0
        return value


def describe(error: Exception) -> str:
    """Return why something failed, in one short line."""
    if isinstance(error, KpoCleanupError):
        text = "; ".join(filter(None, [error.cause or error.summary, error.remedy, error.server_message]))
    else:
        text = str(error)
    return without_credentials(" ".join(text.split()), MAX_REASON) or type(error).__name__


def decode_json(value: Any) -> Any:
    """Decode a JSON string, repeatedly if it was encoded more than once; no name starts with a quotation mark.

    :raises ValueError: if it is not valid JSON.
    """
    while isinstance(value, str) and value.startswith('"'):
        value = json.loads(value)
    return value


def build_records(
    xcoms: Mapping[TaskInstanceKey, Iterable[Mapping[str, Any]]], record_keys: RecordKeys
) -> dict[TaskInstanceKey, Record]:
    """Return the record of each key that has one.

    :param xcoms: for each key the XComs, by XCom key, of each task instance that shares it; some or all may be missing.
    """
    records = {}
    for key, task_instances in xcoms.items():
        names, problems, detached = set(), [], False
        for values in filter(None, task_instances):
            problem = _find_problem(values, record_keys)
            if problem:
                problems.append(problem)
            else:
                place = [values[name] for name in (record_keys.namespace, record_keys.name) if name in values]
                names.add(f"{record_keys.prefix}{'/'.join(place)}")
                detached |= record_keys.result in values and not values[record_keys.result].get("status")
        if names or problems:
            records[key] = Record(frozenset(names), printable(problems[0]) if problems else "", detached)
    return records


def _find_problem(values: Mapping[str, Any], record_keys: RecordKeys) -> str:
    """Return why these XComs do not name a workload, or an empty string."""
    for key, value in values.items():
        if isinstance(value, Unreadable):
            return f"its XCom {key} cannot be read: {value.cause}"
        if key == record_keys.result:
            if not isinstance(value, dict):
                return f"its XCom {key} is a {type(value).__name__}, not an object"
        elif not isinstance(value, str):
            return f"its XCom {key} is a {type(value).__name__}, not a Kubernetes name"
        elif not _NAME.fullmatch(value):
            shown = value if len(value) <= _SHOWN_CHARACTERS else f"{value[:_SHOWN_CHARACTERS]}…"
            return f"its XCom {key} is not a valid Kubernetes name: {shown!r}"
    return "" if record_keys.name in values else f"its XCom {record_keys.name} is missing"
