"""Values that describe task instances as Airflow knows them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from .constants import FINISHED_STATES
from .identity import TaskInstanceKey


class TaskInstance(NamedTuple):
    """A task instance as a source reports it; fields that the source does not know are None."""

    state: str | None  # None is a state as well: the task instance was just cleared
    try_number: int | None = None
    ended: int | None = None  # epoch seconds
    operator: str | None = None  # the class name, for display only: it proves nothing about a pod

    @property
    def is_active(self) -> bool:
        """Return whether it has not finished. Unknown states count as active."""
        return self.state not in FINISHED_STATES


class RawIds(NamedTuple):
    """The ids of a task instance as Airflow stores them; labels may hold them hashed."""

    dag_id: str
    task_id: str
    run_id: str


class CallerTaskInstance(NamedTuple):
    """The cleanup's own task instance. A source that does not show it as running is stale or of another Airflow."""

    dag_id: str
    task_id: str
    run_id: str
    map_index: int
    id: str | None = None  # Airflow 3 assigns a new one to each try


Found = tuple[TaskInstanceKey, RawIds, TaskInstance]  # what a source found for a key


@dataclass(frozen=True)
class TaskInstances:
    """What a source found for the requested keys, and why it cannot resolve the others.

    A key that is neither found nor unresolved has no task instance.
    """

    found: Mapping[TaskInstanceKey, TaskInstance] = field(default_factory=dict)
    unresolved: Mapping[TaskInstanceKey, str] = field(default_factory=dict)
    raw_ids: Mapping[TaskInstanceKey, tuple[RawIds, ...]] = field(default_factory=dict)  # the ids behind the keys
    try_number_may_lag: bool = False  # whether it is too low by 1 if marked failed while deferred

    @classmethod
    def from_found(
        cls, found: Iterable[Found], unresolved: Mapping[TaskInstanceKey, str], *, try_number_may_lag: bool = False
    ) -> TaskInstances:
        """Combine what a source found. Several task instances may share a key, and one may be found twice."""
        task_instances: dict[TaskInstanceKey, TaskInstance] = {}
        raw_ids: dict[TaskInstanceKey, tuple[RawIds, ...]] = {}
        for key, ids, ti in found:
            if key in task_instances:
                task_instances[key] = prefer_active(task_instances[key], ti)
                raw_ids[key] = tuple(sorted({*raw_ids[key], ids}))
            else:
                task_instances[key], raw_ids[key] = ti, (ids,)
        return cls(task_instances, unresolved, raw_ids, try_number_may_lag)


class RecordKeys(NamedTuple):
    """The keys of the XComs in which an operator records its workload."""

    name: str
    namespace: str
    result: str = ""  # holds the object as the operator last saw it: without a status if the operator did not wait
    prefix: str = ""  # of the names in a ``Record``, such as "Job "; the same as in ``str(workload)``

    @property
    def xcoms(self) -> list[str]:
        """Return the keys of the XComs."""
        return [key for key in (self.name, self.namespace, self.result) if key]


POD_RECORD = RecordKeys("pod_name", "pod_namespace")


@dataclass(frozen=True)
class Record:
    """The workloads that the operator recorded for a task instance in its XComs, such as ``pod_name``."""

    workloads: frozenset[str] = frozenset()  # prefix and namespace/name, or without the namespace if none was recorded
    problem: str = ""  # why the record could not be read
    is_detached: bool = False  # whether the operator ended without waiting for its workload


def prefer_active(one: TaskInstance, other: TaskInstance) -> TaskInstance:
    """Return which of two task instances with the same key counts: an active one, else the one that ended last."""
    return max(one, other, key=lambda ti: (ti.is_active, ti.ended or 0))
