"""Task instances by Airflow's REST API v2, for an Airflow 3 whose database cannot be reached.

Its one batch question takes lists of DAGs, runs and tasks, and answers with all that any combination of them names.
It leaves out what the user may not read, without a word. So an absence has to be proved.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping
from datetime import datetime
from functools import cache
from itertools import groupby
from math import ceil
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote

from ..errors import TaskInstanceSourceError
from ..identity import TaskInstanceKey, make_key, to_label_value
from ..task_instance import CallerTaskInstance, RawIds, Record, TaskInstance, TaskInstances
from .label_decoding import collect, may_be_hashed, raw_runs
from .records import KEYS, Unreadable, record_of, unquoted
from .rest_api import AirflowRefused, RestApi

BATCH = "/dags/~/dagRuns/~/taskInstances/list"
MAX_ROWS = 5_000  # in one answer: some 4 MB, and seconds of the API server's time
ROWS_EACH = 4  # accepted for each that is wanted, for the combinations that nobody wants come along
# Characters of a question. Airflow writes each into its audit log, whose column holds 65,535 bytes on MySQL.
MAX_QUESTION = 50_000
PAGE = 1_000  # rows of what is read page by page; newer servers give 100 at most
RESTARTS = 3  # of such a reading, if what is read changes meanwhile
NO_SUCH_DAG = "no-such-dag!"  # no DAG can have this id

_Item = TypeVar("_Item")


class _Wanted(NamedTuple):
    """Raw ids to ask for."""

    dag_id: str
    run_id: str
    task_id: str  # empty if it cannot be known: all tasks of the run


class _Row(NamedTuple):
    """A task instance of an answer."""

    raw_ids: RawIds
    map_index: int
    id: str
    task_instance: TaskInstance

    @property
    def key(self) -> TaskInstanceKey:
        return make_key(*self.raw_ids, self.map_index)


class RestSource:
    """Asks for DAGs, runs and tasks at once, and splits a question until its answer is whole."""

    def __init__(self, api: RestApi, own: CallerTaskInstance, description: str) -> None:
        self._api = api
        self._own = own
        self.description = description

    def fetch(self, keys: Collection[TaskInstanceKey]) -> TaskInstances:
        """See :class:`~.TaskInstanceSource`."""
        if not keys:
            return TaskInstances()
        wanted = self._wanted(keys)
        rows: list[_Row] = []
        too_many: set[_Wanted] = set()
        # A part that names its tasks is asked apart from one that does not, for the latter takes all tasks.
        for _, group in groupby(
            sorted(wanted, key=lambda each: (not each.task_id, each)), lambda each: not each.task_id
        ):
            rows += self._ask(list(group), too_many)

        unresolved = {
            key: "the REST API does not give all task instances of its run in one answer, and its task_id is not known"
            for each in too_many
            for key in wanted[each]
        }
        asked = set(keys) - unresolved.keys()
        found = {row.key: row for row in rows if row.key in asked}
        has_rows = {row.raw_ids.dag_id for row in rows}
        why_hidden = cache(self._why_hidden)
        for key in sorted(asked - found.keys()):
            is_cleaned = may_be_hashed(key.dag_id)
            if is_cleaned or key.dag_id not in has_rows:
                why = why_hidden(NO_SUCH_DAG if is_cleaned else key.dag_id)
                if why:
                    unresolved[key] = why
        return collect(((row.key, row.raw_ids, row.task_instance) for row in rows if row.key in asked), unresolved)

    def read_records(
        self, task_instances: TaskInstances, keys: Collection[TaskInstanceKey]
    ) -> Mapping[TaskInstanceKey, Record]:
        """See :class:`~.TaskInstanceSource`."""
        records = {
            key: record_of(self._xcoms(ids, key.map_index) for ids in task_instances.raw_ids.get(key, ()))
            for key in keys
        }
        return {key: record for key, record in records.items() if record}

    def _wanted(self, keys: Collection[TaskInstanceKey]) -> Mapping[_Wanted, list[TaskInstanceKey]]:
        """Find what to ask for, and for which keys."""
        runs: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
        for dag_id, run_id in raw_runs({(key.dag_id, key.run_id) for key in keys}, self._dag_ids, self._runs_of):
            runs[to_label_value(dag_id), to_label_value(run_id)].append((dag_id, run_id))
        wanted: dict[_Wanted, list[TaskInstanceKey]] = defaultdict(list)
        for key in set(keys):
            for dag_id, run_id in runs[key.dag_id, key.run_id]:
                wanted[_Wanted(dag_id, run_id, "" if may_be_hashed(key.task_id) else key.task_id)].append(key)
        return wanted

    def _dag_ids(self) -> list[str]:
        """All DAGs that the user may read, those whose file is gone included."""

        def read(offset: int) -> tuple[list[str], int]:
            query = {"exclude_stale": "false", "order_by": "dag_id", "limit": PAGE, "offset": offset}
            return _read_list(self._api.get("/dags", **query), "dags", lambda item: str(item["dag_id"]))

        return _read_pages("DAGs", read)

    def _runs_of(self, dag_ids: list[str]) -> list[tuple[str, str]]:
        def read(offset: int) -> tuple[list[tuple[str, str]], int]:
            body = {"dag_ids": dag_ids, "order_by": "id", "page_limit": PAGE, "page_offset": offset}
            answer = self._api.post("/dags/~/dagRuns/list", body)
            return _read_list(answer, "dag_runs", lambda item: (str(item["dag_id"]), str(item["dag_run_id"])))

        return _read_pages("DAG runs", read)

    def _ask(self, wanted: list[_Wanted], too_many: set[_Wanted]) -> Iterator[_Row]:
        """Give the rows of these and of what came along.

        :param too_many: gets what the API does not give whole.
        """
        question, pieces = self._question(wanted), 2
        if len(json.dumps(question)) <= MAX_QUESTION and len(wanted) <= MAX_ROWS:
            is_small = len(wanted) == 1 or not wanted[0].task_id
            limit = MAX_ROWS if is_small else min(MAX_ROWS, ROWS_EACH * len(wanted) + 100)
            rows, total = self._answer({**question, "page_limit": limit})
            if len(rows) >= total:
                self._prove(rows)
                yield from rows
                return
            pieces = ceil(total / max(len(rows), 1))
        parts = _split(wanted, pieces)
        for part in parts:
            yield from self._ask(part, too_many)
        if not parts and wanted[0].task_id:
            yield from self._read_mapped(wanted[0])
        elif not parts:
            too_many.add(wanted[0])

    def _question(self, wanted: Collection[_Wanted]) -> dict[str, list[str]]:
        """Word a question, whose lists are never empty: an empty one means "all"."""
        own = self._own
        question = {
            "dag_ids": sorted({own.dag_id, *(each.dag_id for each in wanted)}),
            "dag_run_ids": sorted({own.run_id, *(each.run_id for each in wanted)}),
            "task_ids": sorted({own.task_id, *(each.task_id for each in wanted)}),
        }
        if not all(question["task_ids"]):
            del question["task_ids"]
        return question

    def _answer(self, question: Mapping[str, Any]) -> tuple[list[_Row], int]:
        return _read_list(self._api.post(BATCH, question), "task_instances", _read_row)

    def _read_mapped(self, wanted: _Wanted) -> list[_Row]:
        """Read one mapped task page by page. A retry changes a row's `id`, but not its `map_index`."""
        question = {"dag_ids": [wanted.dag_id], "dag_run_ids": [wanted.run_id], "task_ids": [wanted.task_id]}

        def read(offset: int) -> tuple[list[_Row], int]:
            return self._answer({**question, "order_by": "map_index", "page_limit": MAX_ROWS, "page_offset": offset})

        rows = _read_pages("task instances", read, lambda row: row.map_index)
        self._prove(self._answer(self._question([]))[0])  # it is on none of these pages
        return rows

    def _prove(self, rows: Collection[_Row]) -> None:
        """Find our own task instance in an answer, as it is now.

        :raises TaskInstanceSourceError: if it is not there.
        """
        own = self._own
        name = f"the task instance that asks, {own.dag_id}.{own.task_id} of run {own.run_id},"
        states = {row.id: row.task_instance.state for row in rows if (*row.raw_ids, row.map_index) == own[:4]}
        if not states:
            raise TaskInstanceSourceError(
                f"{name} is not in the answer of Airflow's API at {self._api.url}: either this is another Airflow, and "
                f"the connection's host must be corrected, or its user may not read DAG {own.dag_id!r}"
            )
        if states != {own.id: "running"}:
            raise TaskInstanceSourceError(
                f"{name} is running and has id {own.id}, but Airflow's API at {self._api.url} has {states}: "
                "it is another Airflow's, or its answers are old; correct the connection's host"
            )

    def _why_hidden(self, dag_id: str) -> str:
        """Say why task instances of a DAG may be hidden from us; empty if we would see them."""
        try:
            answer = self._api.get(f"/dags/{quote(dag_id, safe='')}")
        except AirflowRefused as refusal:
            if refusal.status == 404 and dag_id in refusal.said:
                return ""  # Airflow says this only to who may read the DAG, if it were there
            if refusal.status != 403:
                raise
            missing = (
                "all DAGs, and its dag_id is not to be read from the label" if dag_id == NO_SUCH_DAG else "its DAG"
            )
            return f"the user of the REST API may not read {missing}"
        if answer.get("dag_id") != dag_id:
            raise TaskInstanceSourceError(
                f"Airflow's API answers an object of {sorted(answer)} to the question for DAG {dag_id!r}"
            )
        return ""

    def _xcoms(self, ids: RawIds, map_index: int) -> Mapping[str, Any]:
        """Read the XComs about its pod that a task instance has."""
        dag_id, task_id, run_id = (quote(value, safe="") for value in ids)
        values: dict[str, Any] = {}
        for key in KEYS:
            path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/{key}"
            try:
                values[key] = unquoted(self._api.get(path, map_index=map_index)["value"])
            except AirflowRefused as refusal:
                if refusal.status == 401:
                    raise
                if not (refusal.status == 404 and f"`{key}`" in refusal.said):
                    values[key] = Unreadable(str(refusal))
            except (KeyError, ValueError) as error:
                values[key] = Unreadable(f"the REST API answers something else ({type(error).__name__})")
        return values


def _split(wanted: list[_Wanted], pieces: int) -> list[list[_Wanted]]:
    """Split a question by its DAGs; if there is but one by its runs, and then by its tasks."""
    for field in _Wanted._fields:
        values = sorted({getattr(each, field) for each in wanted})
        if len(values) > 1:
            size = ceil(len(values) / pieces)
            place = {value: number // size for number, value in enumerate(values)}
            parts: dict[int, list[_Wanted]] = defaultdict(list)
            for each in wanted:
                parts[place[getattr(each, field)]].append(each)
            return list(parts.values())
    return []


def _read_pages(
    what: str, read: Callable[[int], tuple[list[_Item], int]], identity: Callable[[_Item], Hashable] = lambda item: item
) -> list[_Item]:
    """Read a list in pages, each of which begins with the last row of the one before.

    :param read: gives what follows an offset, and how much there is in all.
    :raises TaskInstanceSourceError: if it changes all the time.
    """
    for _ in range(RESTARTS + 1):
        rows, total = read(0)
        while len(rows) < total:
            page, total_now = read(len(rows) - 1)
            if total_now != total or len(page) < 2 or identity(page[0]) != identity(rows[-1]):
                break  # something came or went before this page, and what it moved may be missed
            rows += page[1:]
        else:
            return rows
    raise TaskInstanceSourceError(f"the list of {what} of Airflow's API changed while it was read")


def _read_list(answer: Mapping[str, Any], name: str, read: Callable[[Any], _Item]) -> tuple[list[_Item], int]:
    """Read the rows of an answer, and how many there are in all."""
    try:
        return [read(item) for item in answer[name]], int(answer["total_entries"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise TaskInstanceSourceError(
            f"Airflow's API answers an object of {sorted(answer)} in place of a list of {name} "
            f"({type(error).__name__}); this Airflow may be too new: report it as a bug"
        ) from error


def _read_row(item: Mapping[str, Any]) -> _Row:
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
