"""Task instances by the Task SDK of Airflow 3, which needs no credentials and no configuration."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, Optional, TypeVar
from urllib.parse import quote_plus

from ..errors import TaskInstanceSourceError
from ..identity import UNMAPPED, TaskInstanceKey, safe_label
from ..task_instance import TaskInstance, TaskInstances, merge
from .raw_ids import may_be_cleaned, rebuild_run_id

# Characters of ids in one request. They travel in a URL: Airflow's own server takes any, but common reverse proxies
# accept no more than 8,190. Fifty runs of the longest default run_ids fit, in both spellings.
MAX_QUERY = 7_500

States = dict[str, Optional[str]]  # of one run: state by task_id, or by task_id_mapindex
_Item = TypeVar("_Item")
_MAPPED = re.compile(r"(.*)_(0|[1-9][0-9]*)", re.DOTALL)


class TaskSdkSource:
    """The states of task instances, as ``ti.get_task_states`` gives them: no try number and no end.

    It wants raw ids. A label is the raw id unless it may be cleaned; a cleaned default run_id is rebuilt from its
    text and proved by its hash; behind any other the ids are found by asking for the task's runs, or for the
    run's tasks, and normalising the answers. A cleaned dag_id cannot be found at all: there is nothing to ask.

    :param get_task_states: ``ti.get_task_states`` of the running task.
    """

    def __init__(self, get_task_states: Callable[..., dict[str, States]], description: str) -> None:
        self._get_task_states = get_task_states
        self.description = description

    def fetch(self, keys: Collection[TaskInstanceKey]) -> TaskInstances:
        """See :class:`~.TaskInstanceSource`."""
        by_dag: dict[str, list[TaskInstanceKey]] = defaultdict(list)
        for key in sorted(set(keys)):
            by_dag[key.dag_id].append(key)
        found = merge(pair for dag_id, of_dag in by_dag.items() for pair in self._of_dag(dag_id, of_dag))
        return TaskInstances(
            found,
            {
                key: f"the raw dag_id behind {key.dag_id!r} is not known to the Task SDK"
                for key in keys
                if may_be_cleaned(key.dag_id) and key not in found
            },
        )

    def _of_dag(self, dag_id: str, keys: list[TaskInstanceKey]) -> Iterator[tuple[TaskInstanceKey, TaskInstance]]:
        wanted = [(key, key.task_id) for key in keys]
        wanted += self._hidden_tasks(dag_id, [key for key in keys if may_be_cleaned(key.task_id)])
        layers = _layers({task_id for _, task_id in wanted})
        groups: dict[tuple[bool, int], list[tuple[TaskInstanceKey, str]]] = defaultdict(list)
        for key, task_id in wanted:
            groups[_knows_run(key), layers[task_id]].append((key, task_id))
        for (knows_run, _), group in sorted(groups.items()):
            # Neighbours share an id in the URL: of what there is more, each is to be written once.
            if len({key.run_id for key, _ in group}) > len({task_id for _, task_id in group}):
                group.sort(key=lambda pair: pair[0].run_id)
            for part in _parts(group, lambda pair: {pair[1], *_raw_run_ids(pair[0])}):
                run_ids = {run for key, _ in part for run in _raw_run_ids(key)} if knows_run else set()
                answer = self._ask(dag_id, {task_id for _, task_id in part}, run_ids)
                for key, task_id in part:
                    name = task_id if key.map_index == UNMAPPED else f"{task_id}_{key.map_index}"
                    for states in answer[key.run_id]:
                        if name in states:
                            yield key, TaskInstance(states[name])

    def _hidden_tasks(self, dag_id: str, keys: list[TaskInstanceKey]) -> list[tuple[TaskInstanceKey, str]]:
        """The raw task ids behind cleaned labels, found in what their runs consist of.

        Only the names are taken from these answers: with all tasks of a run in one answer, a state in it may
        belong to another task than its name says (see :func:`_layers`).
        """
        found = []
        for knows_run in (True, False):
            group = [key for key in keys if _knows_run(key) == knows_run]
            for part in _parts(group, _raw_run_ids) if knows_run else filter(None, [group]):
                run_ids = {run for key in part for run in _raw_run_ids(key)} if knows_run else set()
                answer = self._ask(dag_id, set(), run_ids)
                for key in part:
                    names = {name for states in answer[key.run_id] for name in states}
                    found += [(key, task_id) for task_id in sorted(_task_ids(names, key))]
        return found

    def _ask(self, dag_id: str, task_ids: set[str], run_ids: set[str]) -> dict[str, list[States]]:
        """The states of the runs that the answer has, by the label value of their run_id."""
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
        by_label: dict[str, list[States]] = defaultdict(list)
        for run_id, states in answer.items():
            by_label[safe_label(run_id)].append(states)
        return by_label


def _are_states(value: Any) -> bool:
    return isinstance(value, dict) and all(state is None or isinstance(state, str) for state in value.values())


def _knows_run(key: TaskInstanceKey) -> bool:
    return not may_be_cleaned(key.run_id) or rebuild_run_id(key.run_id) is not None


def _raw_run_ids(key: TaskInstanceKey) -> set[str]:
    return {key.run_id, rebuild_run_id(key.run_id) or key.run_id}


def _task_ids(names: Iterable[str], key: TaskInstanceKey) -> set[str]:
    """The raw task ids among the names of an answer that this key's label may stand for."""
    suffix = "" if key.map_index == UNMAPPED else f"_{key.map_index}"
    candidates = (name[: len(name) - len(suffix)] for name in names if name.endswith(suffix))
    return {task_id for task_id in candidates if safe_label(task_id) == key.task_id and task_id != key.task_id}


def _layers(task_ids: Iterable[str]) -> dict[str, int]:
    """Number the task ids so that within one number no answer is ambiguous.

    The answer has task ``a`` mapped 1 and task ``a_1`` under one name, and the second one read replaces the first.
    """
    layers: dict[str, int] = {}
    for task_id in sorted(task_ids, key=len):
        match = _MAPPED.fullmatch(task_id)
        layers[task_id] = layers[match[1]] + 1 if match and match[1] in layers else 0
    return layers


def _parts(items: list[_Item], ids_of: Callable[[_Item], set[str]]) -> Iterator[list[_Item]]:
    """Split what is asked so that no request's URL is too long."""
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
