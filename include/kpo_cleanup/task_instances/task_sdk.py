"""Read task instances with the Task SDK of Airflow 3, which needs no credentials and no configuration."""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import quote_plus

from ..identity import UNMAPPED, TaskInstanceKey, to_label_value
from ..task_instance import (
    POD_RECORD,
    CallerTaskInstance,
    Found,
    RawIds,
    Record,
    RecordKeys,
    TaskInstance,
    TaskInstances,
)
from ..termination import without_sigterm
from ..text import INDENT, fill, pluralize, printable, wrap
from .dag_files import find_dag_ids
from .interface import TaskInstanceSource
from .isolation import fetch_isolated
from .label_decoding import may_be_hashed, rebuild_run_id
from .records import MAX_FAILING_SECONDS, Unreadable, XComReader, build_records
from .sdk_queries import SdkQueries, States
from .verification import verify_caller

log = logging.getLogger(__name__)

# Characters of ids in one request. They are sent in the URL, which common reverse proxies limit to 8,190 characters;
# Airflow's own server does not.
MAX_QUERY = 7_500
# Task instances among which a raw run_id is searched: the API server needs up to 0.9 ms for each, and has 5 seconds.
MAX_SEARCHED = 5_000
MAX_LISTED = 500  # dag_ids in a warning
UNKNOWN_DAG = "its dag_id is not known, because the label has only a hash (see the log of fetch_active_tis)"

_Item = TypeVar("_Item")
_MAPPED = re.compile(r"(.*)_(0|[1-9][0-9]*)\Z", re.DOTALL)


class XComs(Protocol):
    """The part of Airflow's XCom class that is used."""

    def get_all(self, *, key: str, dag_id: str, task_id: str, run_id: str) -> list[Any] | None:
        """Return the values of all map indexes that have one, in order. A miss is not logged."""

    def get_one(self, *, key: str, dag_id: str, task_id: str, run_id: str, map_index: int | None) -> Any:
        """Return one value. A miss is logged as an error."""


class TaskSdkSource(TaskInstanceSource):
    """A source that reads all states, and from Airflow 3.2 on the try and the end of single task instances.

    Requests need raw ids. A label that does not end with what looks like a hash is the raw id. Any other is requested
    as it is, because it may be a raw id as well, and with the raw ids that it may stand for. A hashed default run_id is
    rebuilt from its text. Any other run_id is searched for among the runs of its task, unless there are too many, and a
    task_id among the tasks of its run. A dag_id is searched for in the DAG files on the worker's disk.

    A run whose raw id equals the label value of another run of the same DAG hides that run.

    :param caller: the cleanup's own task instance, to verify that the answers are this Airflow's and current.
    :param dag_folders: folders on the worker's disk that contain DAG files.
    """

    def __init__(
        self,
        queries: SdkQueries,
        xcoms: XComs,
        caller: CallerTaskInstance,
        description: str,
        dag_folders: Sequence[Path],
        max_failing_seconds: float = MAX_FAILING_SECONDS,
    ) -> None:
        self._queries = queries
        self._xcoms = xcoms
        self._caller = caller
        self._dag_folders = dag_folders
        # Raw ids that were found, by label value; those of a DAG by its raw id as well.
        self._dag_ids: dict[str, str | None] = {}  # None if not found
        self._task_ids: dict[tuple[str, str], set[str]] = defaultdict(set)
        self._run_ids: dict[tuple[str, str], set[str]] = defaultdict(set)
        self._reader = XComReader("the Task SDK", max_failing_seconds)
        self.description = description

    def fetch(self, keys: Collection[TaskInstanceKey]) -> TaskInstances:
        """Implement :class:`~.interface.TaskInstanceSource`."""
        if not keys:
            return TaskInstances()
        self._verify_source()
        not_found = self._search_dags({key.dag_id for key in keys if may_be_hashed(key.dag_id)})
        answer = fetch_isolated(self._fetch_dag, keys, self._verify_source, one_by_one=True)
        _warn_of_unknown_dags(sorted({key.dag_id for key in answer.unresolved} & not_found))
        return answer

    def _fetch_dag(self, keys: list[TaskInstanceKey]) -> TaskInstances:
        label, found = keys[0].dag_id, list[Found]()
        unresolved = dict.fromkeys(keys, UNKNOWN_DAG) if may_be_hashed(label) and not self._dag_ids[label] else {}
        for dag_id in {label, self._dag_ids.get(label) or label}:
            found_first = list(self._find(dag_id, keys))
            missing = sorted(set(keys) - {key for key, _, _ in found_first})
            hidden = [key for key in missing if _may_hide_run(key) and not self._run_ids[dag_id, key.run_id]]
            unresolved.update(self._search_runs(dag_id, hidden))
            found += [*found_first, *self._find(dag_id, [key for key in hidden if self._run_ids[dag_id, key.run_id]])]
        for key, _, _ in found:
            unresolved.pop(key, None)
        return TaskInstances.from_found(found, unresolved)

    def complete(self, task_instances: TaskInstances, keys: Collection[TaskInstanceKey]) -> TaskInstances:
        """Implement :class:`~.interface.TaskInstanceSource`.

        A key with the ids of several task instances stays as it is.
        """
        found, unresolved = dict(task_instances.found), dict(task_instances.unresolved)
        for key in keys:
            for ids in task_instances.raw_ids[key] if len(task_instances.raw_ids[key]) == 1 else ():
                request = partial(self._queries.with_try_and_end, ids, key.map_index, found[key])
                ti = self._read(ids.dag_id, request)
                if isinstance(ti, Unreadable):
                    unresolved[key] = f"its try and its end cannot be read: {ti.cause}"
                else:
                    found[key] = ti
        return replace(task_instances, found=found, unresolved=unresolved)

    def read_records(
        self,
        task_instances: TaskInstances,
        keys: Collection[TaskInstanceKey],
        record_keys: RecordKeys = POD_RECORD,
    ) -> Mapping[TaskInstanceKey, Record]:
        """Implement :class:`~.interface.TaskInstanceSource`."""
        get_all = cache(self._get_all_xcoms)  # mapped task instances share their task
        return build_records(
            {
                key: [
                    {
                        name: value
                        for name in record_keys.xcoms
                        for value in self._get_xcom(get_all(ids, name), ids, name, key.map_index)
                    }
                    for ids in task_instances.raw_ids.get(key, ())
                ]
                for key in sorted(set(keys))
            },
            record_keys,
        )

    def _verify_source(self) -> None:
        """Check that the API server has the cleanup's own task instance running.

        :raises TaskInstanceSourceError: if not.
        """
        caller = self._caller
        answer = dict(self._request(caller.dag_id, {caller.task_id}, {caller.run_id})[to_label_value(caller.run_id)])
        states, name = answer.get(caller.run_id, {}), _name(caller.task_id, caller.map_index)
        verify_caller(
            self.description,
            caller,
            (states[name], caller.id) if name in states else None,  # the answer has no ids
            "point Airflow's API server to the primary server of its database (see its configuration)",
        )

    def _find(self, dag_id: str, keys: list[TaskInstanceKey]) -> Iterator[Found]:
        """Find task instances of one DAG."""
        self._search_tasks(dag_id, keys)
        wanted = [(key, task_id) for key in keys for task_id in self._tasks_of(dag_id, key)]
        layers = _layers({task_id for _, task_id in wanted})
        groups: dict[int, list[tuple[TaskInstanceKey, str]]] = defaultdict(list)
        for key, task_id in wanted:
            groups[layers[task_id]].append((key, task_id))
        for _, group in sorted(groups.items()):
            # Neighbors share an id in the URL: sort by the kind of id that has more values, so that each of these is
            # written only once.
            if len({key.run_id for key, _ in group}) > len({task_id for _, task_id in group}):
                group.sort(key=lambda pair: pair[0].run_id)
            for part in _split(group, lambda pair: {pair[1], *self._runs_of(dag_id, pair[0])}):
                run_ids = {run for key, _ in part for run in self._runs_of(dag_id, key)}
                answer = self._request(dag_id, {task_id for _, task_id in part}, run_ids)
                for key, task_id in part:
                    name = _name(task_id, key.map_index)
                    for run_id, states in answer[key.run_id]:
                        if name in states:
                            yield key, RawIds(dag_id, task_id, run_id), TaskInstance(states[name])

    def _search_dags(self, labels: set[str]) -> set[str]:
        """Find the raw dag_ids behind labels that may be hashed among the DAG files, each of them once.

        :returns: the labels that were searched for and not found.
        """
        new = labels - self._dag_ids.keys()
        found = find_dag_ids(self._dag_folders, new) if new else {}
        self._dag_ids.update({label: found.get(label) for label in new})
        return new - found.keys()

    def _search_tasks(self, dag_id: str, keys: list[TaskInstanceKey]) -> None:
        """Find the raw task_ids behind hashed labels among the tasks of their runs, one run after the other.

        Only the names in these answers are used: in an answer with all tasks of a run, a state may be that of another
        task (see :func:`_layers`).
        """
        by_run: dict[str, list[TaskInstanceKey]] = defaultdict(list)
        for key in keys:
            if may_be_hashed(key.task_id):
                by_run[key.run_id].append(key)
        for of_run in by_run.values():
            if all(self._task_ids[dag_id, key.task_id] for key in of_run):
                continue
            for states in self._queries.states(dag_id, (), self._runs_of(dag_id, of_run[0])).values():
                for task_id in {task_id for name in states for task_id in (name, _MAPPED.sub(r"\1", name))}:
                    if to_label_value(task_id) != task_id:
                        self._task_ids[dag_id, to_label_value(task_id)].add(task_id)

    def _search_runs(self, dag_id: str, keys: list[TaskInstanceKey]) -> dict[TaskInstanceKey, str]:
        """Find the raw run_ids behind hashed labels among the runs of their tasks; return why keys are unresolved."""
        counts: dict[frozenset[str], int] = {}
        unresolved = {}
        for key in keys:
            if self._run_ids[dag_id, key.run_id]:
                continue
            # If the raw task_id is not known either, all tasks are searched.
            is_known = self._task_ids[dag_id, key.task_id] or not may_be_hashed(key.task_id)
            task_ids = frozenset(self._tasks_of(dag_id, key) if is_known else ())
            if task_ids not in counts:
                counts[task_ids] = self._queries.count(dag_id, task_ids)
                for run_id in self._queries.states(dag_id, task_ids, ()) if counts[task_ids] <= MAX_SEARCHED else ():
                    if to_label_value(run_id) != run_id:
                        self._run_ids[dag_id, to_label_value(run_id)].add(run_id)
            if counts[task_ids] > MAX_SEARCHED:
                unresolved[key] = (
                    "the run_id behind its label would have to be searched for among more than "
                    f"{MAX_SEARCHED:,} task instances (set airflow_conn_id)"
                )
        return unresolved

    def _tasks_of(self, dag_id: str, key: TaskInstanceKey) -> set[str]:
        """Return the raw task_ids that a key may stand for, as far as they are known."""
        return {key.task_id, *self._task_ids[dag_id, key.task_id]}

    def _runs_of(self, dag_id: str, key: TaskInstanceKey) -> set[str]:
        """Return the raw run_ids that a key may stand for, as far as they are known."""
        return {key.run_id, rebuild_run_id(key.run_id) or key.run_id, *self._run_ids[dag_id, key.run_id]}

    def _get_all_xcoms(self, ids: RawIds, name: str) -> Any:
        return self._read(ids.dag_id, lambda: self._xcoms.get_all(key=name, **ids._asdict()))

    def _get_xcom(self, values: Any, ids: RawIds, name: str, map_index: int) -> list[Any]:
        """Return the one value of a task instance, or an empty list.

        :param values: the values of all map indexes. They cannot be assigned to map indexes, because indexes without a
            value are left out.
        """
        if not values or isinstance(values, Unreadable):
            return [values] if values else []
        if map_index == UNMAPPED and len(values) == 1:
            return list(values)
        index = None if map_index == UNMAPPED else map_index
        value = self._read(ids.dag_id, lambda: self._xcoms.get_one(key=name, **ids._asdict(), map_index=index))
        return [] if value is None else [value]

    def _read(self, dag_id: str, request: Callable[[], Any]) -> Any:
        with without_sigterm():
            return self._reader.read(dag_id, request)

    def _request(self, dag_id: str, task_ids: set[str], run_ids: set[str]) -> dict[str, list[tuple[str, States]]]:
        """Request states; return runs and their states by the label value of the run_id."""
        by_label: dict[str, list[tuple[str, States]]] = defaultdict(list)
        for run_id, states in self._queries.states(dag_id, task_ids, run_ids).items():
            by_label[to_label_value(run_id)].append((run_id, states))
        return by_label


def _warn_of_unknown_dags(labels: list[str]) -> None:
    if not labels:
        return
    lines = wrap(
        f"{pluralize(len(labels), 'dag_id')} cannot be looked up: the labels of the pods have only a hash, and no DAG "
        "file on this worker contains the dag_id. The pods are kept as unresolved until a DAG file of the cleanup's "
        "own bundle contains it, or airflow_conn_id names a connection to the database or the REST API. The labels:"
    )
    listed, others = labels[:MAX_LISTED], labels[MAX_LISTED:]
    lines += fill([*map(printable, listed), *([f"and {len(others):,} more"] if others else [])], INDENT)
    for line in lines:
        log.warning("%s", line)


def _may_hide_run(key: TaskInstanceKey) -> bool:
    return may_be_hashed(key.run_id) and rebuild_run_id(key.run_id) is None


def _name(task_id: str, map_index: int) -> str:
    """Return the name of a task instance in an answer."""
    return task_id if map_index == UNMAPPED else f"{task_id}_{map_index}"


def _layers(task_ids: Iterable[str]) -> dict[str, int]:
    """Number the task_ids so that no answer about task_ids with the same number is ambiguous.

    Index 1 of the mapped task ``a`` and the task ``a_1`` have the same name in an answer, which holds only one of them.
    """
    layers: dict[str, int] = {}
    for task_id in sorted(task_ids, key=len):
        match = _MAPPED.fullmatch(task_id)
        layers[task_id] = layers[match[1]] + 1 if match and match[1] in layers else 0
    return layers


def _split(items: list[_Item], ids_of: Callable[[_Item], set[str]]) -> Iterator[list[_Item]]:
    """Split the items of a request so that no request's URL is too long."""
    part: list[_Item] = []
    lengths: dict[str, int] = {}  # length of each id in the URL
    for item in items:
        more = {value: len(quote_plus(value)) + len("&task_ids=") for value in ids_of(item)}
        if part and sum((lengths | more).values()) > MAX_QUERY:
            yield part
            part, lengths = [], {}
        part.append(item)
        lengths |= more
    if part:
        yield part
