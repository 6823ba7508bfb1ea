"""Read task instances with Airflow's REST API v2, for an Airflow 3 whose metadata database cannot be reached.

Its one batch query takes lists of DAGs, runs and tasks, and returns the task instances of every combination. It
silently leaves out those that the user may not read, so an absence has to be verified.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Mapping
from datetime import datetime
from functools import cache, partial
from http import HTTPStatus
from math import ceil
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote

from ..airflow_compat import deserialize_xcom
from ..errors import TaskInstanceSourceError
from ..identity import TaskInstanceKey, make_key, to_label_value
from ..task_instance import POD_RECORD, CallerTaskInstance, RawIds, Record, RecordKeys, TaskInstance, TaskInstances
from .interface import TaskInstanceSource
from .isolation import fetch_isolated
from .label_decoding import find_runs, may_be_hashed
from .records import XComReader, build_records, decode_json
from .rest_api import AirflowApiError, RestApi
from .verification import verify_caller

BATCH = "/dags/~/dagRuns/~/taskInstances/list"
MAX_ROWS = 5_000  # rows of one answer, to bound its size and the API server's time
MAX_ROWS_PER_ITEM = 4  # rows accepted per item: an answer also has combinations that were not requested
# Characters of a query. Airflow writes each into its audit log, whose column holds 65,535 bytes on MySQL.
MAX_QUERY = 50_000
PAGE_SIZE = 1_000  # rows; newer servers return 100 at most
MAX_RESTARTS = 3  # restarts of a list that changes while it is read
NO_SUCH_DAG = "no-such-dag!"  # not a valid dag_id

_MISSING = object()  # stands for an XCom that does not exist
_Item = TypeVar("_Item")


class _Wanted(NamedTuple):
    """Raw ids to query."""

    dag_id: str
    run_id: str
    task_id: str  # empty to query all tasks of the run, because the raw id is unknown


class _Row(NamedTuple):
    """A task instance of an answer."""

    raw_ids: RawIds
    map_index: int
    id: str
    task_instance: TaskInstance

    @property
    def key(self) -> TaskInstanceKey:
        return make_key(*self.raw_ids, self.map_index)


class RestSource(TaskInstanceSource):
    """A source that queries DAGs, runs and tasks in batches, and splits a query until its answer is complete."""

    def __init__(self, api: RestApi, caller: CallerTaskInstance, description: str) -> None:
        self._api = api
        self._reader = XComReader("the REST API")
        self._caller = caller
        self.description = description

    def fetch(self, keys: Collection[TaskInstanceKey]) -> TaskInstances:
        """Implement :class:`~.interface.TaskInstanceSource`."""
        if not keys:
            return TaskInstances()
        return fetch_isolated(self._fetch, keys, self._verify_alone)

    def _fetch(self, keys: list[TaskInstanceKey]) -> TaskInstances:
        wanted = self._find_wanted(keys)
        rows, incomplete = self._query_all(wanted)
        unresolved = {
            key: "the REST API does not return all task instances of its run in one answer, and its raw task_id is "
            "unknown"
            for each in incomplete
            for key in wanted[each]
        }
        resolved = set(keys) - unresolved.keys()
        found = [(row.key, row.raw_ids, row.task_instance) for row in rows if row.key in resolved]
        readable_dags = {row.raw_ids.dag_id for row in rows}
        why_hidden = cache(self._why_hidden)
        for key in sorted(resolved - {key for key, _, _ in found}):
            is_hashed = may_be_hashed(key.dag_id)
            if is_hashed or key.dag_id not in readable_dags:
                why = why_hidden(NO_SUCH_DAG if is_hashed else key.dag_id)
                if why:
                    unresolved[key] = why
        return TaskInstances.from_found(found, unresolved)

    def read_records(
        self,
        task_instances: TaskInstances,
        keys: Collection[TaskInstanceKey],
        record_keys: RecordKeys = POD_RECORD,
    ) -> Mapping[TaskInstanceKey, Record]:
        """Implement :class:`~.interface.TaskInstanceSource`."""
        return build_records(
            {
                key: [self._read_xcoms(ids, key.map_index, record_keys) for ids in task_instances.raw_ids.get(key, ())]
                for key in set(keys)
            },
            record_keys,
        )

    def _find_wanted(self, keys: Collection[TaskInstanceKey]) -> Mapping[_Wanted, list[TaskInstanceKey]]:
        """Return the raw ids to query, each with the keys that need it."""
        runs: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
        for dag_id, run_id in find_runs({(key.dag_id, key.run_id) for key in keys}, self._list_dags, self._list_runs):
            runs[to_label_value(dag_id), to_label_value(run_id)].append((dag_id, run_id))
        wanted: dict[_Wanted, list[TaskInstanceKey]] = defaultdict(list)
        for key in set(keys):
            for dag_id, run_id in runs[key.dag_id, key.run_id]:
                wanted[_Wanted(dag_id, run_id, "" if may_be_hashed(key.task_id) else key.task_id)].append(key)
        return wanted

    def _list_dags(self) -> list[str]:
        """Return the ids of all DAGs that the user may read, including those whose file was removed."""

        def read(offset: int) -> tuple[list[str], int]:
            query = {"exclude_stale": "false", "order_by": "dag_id", "limit": PAGE_SIZE, "offset": offset}
            return _parse_list(self._api.get("/dags", **query), "dags", lambda item: str(item["dag_id"]))

        return _read_pages("DAGs", read)

    def _list_runs(self, dag_ids: list[str]) -> list[tuple[str, str]]:
        def read(offset: int) -> tuple[list[tuple[str, str]], int]:
            body = {"dag_ids": dag_ids, "order_by": "id", "page_limit": PAGE_SIZE, "page_offset": offset}
            answer = self._api.post("/dags/~/dagRuns/list", body)
            return _parse_list(answer, "dag_runs", lambda item: (str(item["dag_id"]), str(item["dag_run_id"])))

        return _read_pages("DAG runs", read)

    def _query_all(self, wanted: Collection[_Wanted]) -> tuple[list[_Row], list[_Wanted]]:
        """Query task instances; split a query until its answer is complete.

        :returns: the rows, including those of combinations that were not requested; and the queries whose answers
            remain incomplete.
        """
        rows: list[_Row] = []
        incomplete: list[_Wanted] = []
        # Those without a task_id are queried separately, because such a query returns all tasks of its runs.
        groups = (sorted(each for each in wanted if bool(each.task_id) is has_task) for has_task in (True, False))
        pending = [group for group in groups if group]
        while pending:
            part = pending.pop()
            query, pieces = self._build_query(part), 2
            if len(json.dumps(query)) <= MAX_QUERY and len(part) <= MAX_ROWS:
                is_minimal = len(part) == 1 or not part[0].task_id
                limit = MAX_ROWS if is_minimal else min(MAX_ROWS, MAX_ROWS_PER_ITEM * len(part) + 100)
                answer, total = self._query({**query, "page_limit": limit})
                if len(answer) >= total:
                    self._verify_source(answer)
                    rows += answer
                    continue
                pieces = max(pieces, ceil(total / max(len(answer), 1)))
            parts = _split(part, pieces)
            pending += parts
            if not parts and part[0].task_id:
                rows += self._read_mapped(part[0])
            elif not parts:
                incomplete.append(part[0])
        return rows, incomplete

    def _build_query(self, wanted: Collection[_Wanted]) -> dict[str, list[str]]:
        """Build a query that includes the cleanup's own task instance; no list is empty, which would mean "all"."""
        caller = self._caller
        query = {
            "dag_ids": sorted({caller.dag_id, *(each.dag_id for each in wanted)}),
            "dag_run_ids": sorted({caller.run_id, *(each.run_id for each in wanted)}),
            "task_ids": sorted({caller.task_id, *(each.task_id for each in wanted)}),
        }
        if not all(query["task_ids"]):
            del query["task_ids"]
        return query

    def _query(self, query: Mapping[str, Any]) -> tuple[list[_Row], int]:
        return _parse_list(self._api.post(BATCH, query), "task_instances", _parse_row)

    def _read_mapped(self, wanted: _Wanted) -> list[_Row]:
        """Read one mapped task page by page, by ``map_index`` because a retry changes the ``id`` of a row."""
        query = {"dag_ids": [wanted.dag_id], "dag_run_ids": [wanted.run_id], "task_ids": [wanted.task_id]}

        def read(offset: int) -> tuple[list[_Row], int]:
            return self._query({**query, "order_by": "map_index", "page_limit": MAX_ROWS, "page_offset": offset})

        rows = _read_pages("task instances", read, lambda row: row.map_index)
        self._verify_alone()  # no page contains the caller
        return rows

    def _verify_alone(self) -> None:
        self._verify_source(self._query(self._build_query([]))[0])

    def _verify_source(self, rows: Collection[_Row]) -> None:
        """Check that an answer contains the cleanup's own task instance as it is now.

        :raises SourceUnusable: if not.
        """
        caller = self._caller
        found = [(row.task_instance.state, row.id) for row in rows if (*row.raw_ids, row.map_index) == caller[:4]]
        verify_caller(
            self.description,
            caller,
            found[0] if found else None,
            "point the connection's host to the API server of this Airflow, without a cache in front of it, and allow "
            f"the connection's user to read DAG {caller.dag_id!r}",
        )

    def _why_hidden(self, dag_id: str) -> str:
        """Return why task instances of a DAG may be hidden from the user, or an empty string if they are not."""
        try:
            answer = self._api.get(f"/dags/{quote(dag_id, safe='')}")
        except AirflowApiError as error:
            if error.status == HTTPStatus.NOT_FOUND and dag_id in error.server_message:
                return ""  # Airflow answers this only to users who could read the DAG if it existed
            if error.status != HTTPStatus.FORBIDDEN:
                raise
            if dag_id == NO_SUCH_DAG:
                return "the user of the REST API may not read all DAGs, and its dag_id is hashed"
            return "the user of the REST API may not read its DAG"
        if answer.get("dag_id") != dag_id:
            raise TaskInstanceSourceError(
                f"reading DAG {dag_id!r} from Airflow's API", cause=f"unexpected object with keys {sorted(answer)}"
            )
        return ""

    def _read_xcoms(self, ids: RawIds, map_index: int, record_keys: RecordKeys) -> Mapping[str, Any]:
        """Return those XComs of a task instance that name its workload."""
        dag_id, task_id, run_id = (quote(value, safe="") for value in ids)
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries"
        values = {
            key: self._reader.read(ids.dag_id, partial(self._read_xcom, path, key, map_index))
            for key in record_keys.xcoms
        }
        return {key: value for key, value in values.items() if value is not _MISSING}

    def _read_xcom(self, path: str, key: str, map_index: int) -> Any:
        try:
            # The server's own conversions are off by default: only the worker has the backend that stored the value.
            answer = self._api.get(f"{path}/{key}", map_index=map_index)
        except AirflowApiError as error:
            if error.status == HTTPStatus.NOT_FOUND and f"`{key}`" in error.server_message:
                return _MISSING
            raise
        if "value" not in answer:
            raise ValueError(f"the REST API returned an unexpected object with keys {sorted(answer)}")
        return decode_json(deserialize_xcom(answer))


def _split(wanted: list[_Wanted], pieces: int) -> list[list[_Wanted]]:
    """Split a query by DAG, or by run if it has only one DAG, or else by task; return [] if it cannot be split."""
    for field in _Wanted._fields:
        values = sorted({getattr(each, field) for each in wanted})
        if len(values) > 1:
            size = ceil(len(values) / pieces)
            part_of = {value: number // size for number, value in enumerate(values)}
            parts: dict[int, list[_Wanted]] = defaultdict(list)
            for each in wanted:
                parts[part_of[getattr(each, field)]].append(each)
            return list(parts.values())
    return []


def _read_pages(
    what: str, read: Callable[[int], tuple[list[_Item], int]], identity: Callable[[_Item], Hashable] = lambda item: item
) -> list[_Item]:
    """Read a list page by page; each page repeats the last row of the one before, to detect changes.

    :param read: returns the rows from an offset on, and the total number of rows.
    :raises TaskInstanceSourceError: if the list changes during each attempt.
    """
    for _ in range(MAX_RESTARTS + 1):
        rows, total = read(0)
        while len(rows) < total:
            page, new_total = read(max(len(rows) - 1, 0))
            if new_total != total or len(page) < 2 or identity(page[0]) != identity(rows[-1]):
                break  # a row was added or removed before this page, so rows may have moved past it
            rows += page[1:]
        else:
            return rows
    cause = "the list changed during each of the attempts"
    raise TaskInstanceSourceError(f"reading the list of {what} from Airflow's API", cause=cause)


def _parse_list(answer: Mapping[str, Any], name: str, parse: Callable[[Any], _Item]) -> tuple[list[_Item], int]:
    """Return the parsed rows of an answer, and the total number of rows."""
    try:
        return [parse(item) for item in answer[name]], int(answer["total_entries"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise TaskInstanceSourceError(
            f"reading a list of {name} from Airflow's API",
            cause=f"unexpected object with keys {sorted(answer)} ({type(error).__name__})",
            remedy="if the connection's host is correct, report this as a bug: this Airflow may be too new",
        ) from error


def _parse_row(item: Mapping[str, Any]) -> _Row:
    state, end = item["state"], item["end_date"]
    if not (state is None or isinstance(state, str)):
        raise TypeError(f"state {state!r}")
    ended = int(datetime.fromisoformat(end.replace("Z", "+00:00")).timestamp()) if end else None
    return _Row(
        RawIds(item["dag_id"], item["task_id"], item["dag_run_id"]),
        item["map_index"],
        item["id"],
        TaskInstance(state, item["try_number"], ended, item["operator"]),
    )
