"""Task instances by the Task SDK of Airflow 3, which needs no credentials and no configuration."""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import cache
from typing import Any, Optional, Protocol, TypeVar
from urllib.parse import quote_plus

from ..errors import TaskInstanceSourceError
from ..identity import UNMAPPED, TaskInstanceKey, to_label_value
from ..task_instance import CallerTaskInstance, RawIds, Record, TaskInstance, TaskInstances
from .label_decoding import collect, may_be_hashed, rebuild_run_id
from .records import KEYS, Unreadable, record_of

# Characters of ids in one request. They are sent in a URL: Airflow's own server takes any, but common reverse proxies
# accept no more than 8,190. Fifty runs with the longest default run_ids fit, in both spellings.
MAX_QUERY = 7_500
PATIENCE = 60  # seconds for failing questions about records; Airflow itself sends each of them several times

_Found = tuple[TaskInstanceKey, RawIds, TaskInstance]
States = dict[str, Optional[str]]  # of one run: state by task_id, or by task_id_mapindex
_Item = TypeVar("_Item")
_MAPPED = re.compile(r"(.*)_(0|[1-9][0-9]*)", re.DOTALL)


class XComs(Protocol):
    """The part of Airflow's XCom class that is used."""

    def get_all(self, *, key: str, dag_id: str, task_id: str, run_id: str) -> list[Any] | None:
        """Return the values of all map indexes that have one, in order; a miss is not logged."""

    def get_one(self, *, key: str, dag_id: str, task_id: str, run_id: str, map_index: int | None) -> Any:
        """Return one value; a miss is logged as an error."""


class TaskSdkSource:
    """A source that tells states, as ``ti.get_task_states`` gives them: no try number and no end.

    It needs raw ids. A label is the raw id unless it may be cleaned. A cleaned default run_id is rebuilt from its text,
    and its hash proves it. The source first asks for any other run_id as it is, even if it looks cleaned. If the answer
    is empty, it asks for the task's runs, or for the run's tasks, and normalises the answers. It cannot find a cleaned
    dag_id at all: there is nothing to ask.

    One case is not seen: a run whose label is the raw run_id of another run of the same DAG.

    :param get_task_states: ``ti.get_task_states`` of the running task.
    :param own: of this task, which proves that the answers are this Airflow's, and up to date.
    """

    def __init__(
        self,
        get_task_states: Callable[..., dict[str, States]],
        xcoms: XComs,
        own: CallerTaskInstance,
        description: str,
        patience: float = PATIENCE,
    ) -> None:
        self._get_task_states = get_task_states
        self._xcoms = xcoms
        self._own = own
        self._known: dict[TaskInstanceKey, tuple[RawIds, ...]] = {}  # of earlier answers
        self._failing, self._patience = 0.0, patience  # seconds
        self.description = description

    def fetch(self, keys: Collection[TaskInstanceKey]) -> TaskInstances:
        """See :class:`~.TaskInstanceSource`."""
        if not keys:
            return TaskInstances()
        self._prove()
        by_dag: dict[str, list[TaskInstanceKey]] = defaultdict(list)
        for key in sorted(set(keys)):
            by_dag[key.dag_id].append(key)
        found = [each for dag_id, of_dag in by_dag.items() for each in self._of_dag(dag_id, of_dag)]
        there = {key for key, _, _ in found}
        answer = collect(
            found,
            {
                key: f"the raw dag_id behind {key.dag_id!r} is not known to the Task SDK; set airflow_conn_id"
                for key in keys
                if may_be_hashed(key.dag_id) and key not in there
            },
        )
        self._known.update(answer.raw_ids)
        return answer

    def read_records(
        self, task_instances: TaskInstances, keys: Collection[TaskInstanceKey]
    ) -> Mapping[TaskInstanceKey, Record]:
        """See :class:`~.TaskInstanceSource`."""
        all_of = cache(self._all_xcoms)  # mapped task instances share their task
        records = {
            key: record_of(
                {name: value for name in KEYS for value in self._xcom_of(all_of(ids, name), ids, name, key.map_index)}
                for ids in task_instances.raw_ids.get(key, ())
            )
            for key in sorted(set(keys))
        }
        return {key: record for key, record in records.items() if record}

    def _prove(self) -> None:
        """Look for our own task instance.

        :raises TaskInstanceSourceError: if it is not running, as it must be in every try.
        """
        own = self._own
        question: dict[str, Any] = {"dag_id": own.dag_id, "task_ids": {own.task_id}, "run_ids": {own.run_id}}
        answers = dict(self._ask(**question)[to_label_value(own.run_id)])
        states, name = answers.get(own.run_id, {}), _name(own.task_id, own.map_index)
        if states.get(name) != "running":
            wrong = f"is {states[name]!r} there, and not running" if name in states else "is not there"
            raise TaskInstanceSourceError(
                f"the task states of {self.description} are not to be trusted: this very task, "
                f"{own.dag_id}.{own.task_id} of run {own.run_id!r}, {wrong}. Either the API server has another "
                "database, or one that lags behind: see its configuration. Or somebody ended or cleared this task "
                "meanwhile: run it again"
            )

    def _of_dag(self, dag_id: str, keys: list[TaskInstanceKey]) -> list[_Found]:
        found = list(self._of_tasks(dag_id, keys, widely=False))
        there = {key for key, _, _ in found}
        hidden = [key for key in keys if key not in there and _may_hide_run(key)]
        return found + list(self._of_tasks(dag_id, hidden, widely=True))

    def _of_tasks(self, dag_id: str, keys: list[TaskInstanceKey], widely: bool) -> Iterator[_Found]:
        """Find task instances of one DAG.

        :param widely: whether to ask for all of its runs.
        """
        wanted = [(key, task_id) for key in keys for task_id in {key.task_id, *self._known_ids(key, "task_id")}]
        wanted += self._hidden_tasks(dag_id, [key for key in keys if may_be_hashed(key.task_id)], widely)
        layers = _layers({task_id for _, task_id in wanted})
        groups: dict[int, list[tuple[TaskInstanceKey, str]]] = defaultdict(list)
        for key, task_id in wanted:
            groups[layers[task_id]].append((key, task_id))
        for _, group in sorted(groups.items()):
            # Neighbours share an id in the URL. So the ids that are more in number are written once each.
            if len({key.run_id for key, _ in group}) > len({task_id for _, task_id in group}):
                group.sort(key=lambda pair: pair[0].run_id)
            for part in _parts(group, lambda pair: {pair[1], *self._run_ids(pair[0], widely)}):
                run_ids = {run for key, _ in part for run in self._run_ids(key, widely)}
                answer = self._ask(dag_id, {task_id for _, task_id in part}, run_ids)
                for key, task_id in part:
                    name = _name(task_id, key.map_index)
                    for run_id, states in answer[key.run_id]:
                        if name in states:
                            yield key, RawIds(dag_id, task_id, run_id), TaskInstance(states[name])

    def _hidden_tasks(
        self, dag_id: str, keys: list[TaskInstanceKey], widely: bool
    ) -> list[tuple[TaskInstanceKey, str]]:
        """Find the raw task ids behind cleaned labels, among the tasks of their runs.

        These answers give only names. If an answer has all tasks of a run, a state may be another task's (see
        :func:`_layers`).
        """
        found = []
        keys = [key for key in keys if key not in self._known]
        for part in filter(None, [keys]) if widely else _parts(keys, lambda key: self._run_ids(key, widely)):
            answer = self._ask(dag_id, set(), {run for key in part for run in self._run_ids(key, widely)})
            for key in part:
                names = {name for _, states in answer[key.run_id] for name in states}
                found += [(key, task_id) for task_id in sorted(_task_ids(names, key))]
        return found

    def _run_ids(self, key: TaskInstanceKey, widely: bool) -> set[str]:
        """List the raw run_ids to ask for; none means all."""
        if widely:
            return set()
        return {key.run_id, rebuild_run_id(key.run_id) or key.run_id, *self._known_ids(key, "run_id")}

    def _known_ids(self, key: TaskInstanceKey, which: str) -> set[str]:
        return {getattr(ids, which) for ids in self._known.get(key, ())}

    def _all_xcoms(self, ids: RawIds, name: str) -> Any:
        return self._patiently(lambda: self._xcoms.get_all(key=name, **ids._asdict()))

    def _xcom_of(self, values: Any, ids: RawIds, name: str, map_index: int) -> list[Any]:
        """Find the one value of a task instance, or none.

        :param values: of all map indexes. They do not tell their index: those without a value are left out.
        """
        if not values or isinstance(values, Unreadable):
            return [values] if values else []
        if map_index == UNMAPPED and len(values) == 1:
            return list(values)
        index = None if map_index == UNMAPPED else map_index
        value = self._patiently(lambda: self._xcoms.get_one(key=name, **ids._asdict(), map_index=index))
        return [] if value is None else [value]

    def _patiently(self, call: Callable[[], Any]) -> Any:
        """Make a call. Its failure is that of one record only.

        :raises TaskInstanceSourceError: if failing calls take too long.
        """
        started = time.monotonic()
        try:
            return call()
        except Exception as error:  # any class: the API server or a custom XCom backend raises it
            self._failing += time.monotonic() - started
            if self._failing > self._patience:
                raise TaskInstanceSourceError(
                    f"the Task SDK gave no XComs in {self._failing:.0f} s: {error}; see the API server's log"
                ) from error
            return Unreadable(" ".join(str(error).split())[:200] or type(error).__name__)

    def _ask(self, dag_id: str, task_ids: set[str], run_ids: set[str]) -> dict[str, list[tuple[str, States]]]:
        """Ask for states. The answer holds runs and their states, by the label value of the run_id."""
        # An empty list means "all" to the API server, as None does.
        question = {"dag_id": dag_id, "task_ids": sorted(task_ids) or None, "run_ids": sorted(run_ids) or None}
        try:
            answer = self._get_task_states(**question)
        except Exception as error:  # its errors differ between the versions; all of them mean "no answer"
            raise TaskInstanceSourceError(
                f"the Task SDK gave no task states for {question}: {error}; see the API server's log"
            ) from error
        if not isinstance(answer, dict) or not all(map(_are_states, answer.values())):
            raise TaskInstanceSourceError(f"the Task SDK answered {str(answer)[:200]!r} to {question}")
        by_label: dict[str, list[tuple[str, States]]] = defaultdict(list)
        for run_id, states in answer.items():
            by_label[to_label_value(run_id)].append((run_id, states))
        return by_label


def _are_states(value: Any) -> bool:
    return isinstance(value, dict) and all(state is None or isinstance(state, str) for state in value.values())


def _may_hide_run(key: TaskInstanceKey) -> bool:
    return may_be_hashed(key.run_id) and rebuild_run_id(key.run_id) is None


def _name(task_id: str, map_index: int) -> str:
    """Make the name of a task instance in an answer."""
    return task_id if map_index == UNMAPPED else f"{task_id}_{map_index}"


def _task_ids(names: Iterable[str], key: TaskInstanceKey) -> set[str]:
    """Find the raw task ids, among an answer's names, that this key's label may stand for."""
    suffix = _name("", key.map_index)
    candidates = (name[: len(name) - len(suffix)] for name in names if name.endswith(suffix))
    return {task_id for task_id in candidates if to_label_value(task_id) == key.task_id and task_id != key.task_id}


def _layers(task_ids: Iterable[str]) -> dict[str, int]:
    """Number the task ids so that within one number no answer is ambiguous.

    An answer has index 1 of the mapped task ``a`` and the task ``a_1`` under one name; only one remains.
    """
    layers: dict[str, int] = {}
    for task_id in sorted(task_ids, key=len):
        match = _MAPPED.fullmatch(task_id)
        layers[task_id] = layers[match[1]] + 1 if match and match[1] in layers else 0
    return layers


def _parts(items: list[_Item], ids_of: Callable[[_Item], set[str]]) -> Iterator[list[_Item]]:
    """Split a question, so that no request's URL is too long."""
    part: list[_Item] = []
    asked: dict[str, int] = {}  # the length of each id in the URL
    for item in items:
        more = {value: len(quote_plus(value)) + len("&task_ids=") for value in ids_of(item)}
        if part and sum((asked | more).values()) > MAX_QUERY:
            yield part
            part, asked = [], {}
        part.append(item)
        asked |= more
    if part:
        yield part
