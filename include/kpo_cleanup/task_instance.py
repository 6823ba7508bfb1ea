"""Task instances as Airflow knows them, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from .constants import FINISHED_STATES
from .identity import TaskInstanceKey


class TaskInstance(NamedTuple):
    """A task instance as one source sees it; what the source does not give is None."""

    state: str | None  # None is a state: a task instance that was just cleared has it
    try_number: int | None = None
    ended: int | None = None  # epoch seconds
    operator: str | None = None  # its class name, for people: it does not tell what a pod is

    @property
    def is_active(self) -> bool:
        """Tell whether it is not over. Any state that is not known to be terminal is active."""
        return self.state not in FINISHED_STATES


class RawIds(NamedTuple):
    """The ids of a task instance as Airflow has them; labels may hold them shortened."""

    dag_id: str
    task_id: str
    run_id: str


class CallerTaskInstance(NamedTuple):
    """The cleanup's own task instance, which a source must know if it is this Airflow's and up to date."""

    dag_id: str
    task_id: str
    run_id: str
    map_index: int
    id: str | None = None  # Airflow 3 gives each try one of its own


@dataclass(frozen=True)
class TaskInstances:
    """The answer of a source: what it found, and for which keys it cannot tell and why."""

    found: Mapping[TaskInstanceKey, TaskInstance] = field(default_factory=dict)
    unresolved: Mapping[TaskInstanceKey, str] = field(default_factory=dict)
    raw_ids: Mapping[TaskInstanceKey, tuple[RawIds, ...]] = field(default_factory=dict)  # of those found
    try_number_may_lag: bool = False  # before Airflow 2.10 one that is marked failed while deferred keeps a try too low


@dataclass(frozen=True)
class Record:
    """The pods that the operator of a task instance said it uses (its XComs ``pod_name`` and ``pod_namespace``)."""

    pods: frozenset[str] = frozenset()  # as namespace/name
    problem: str = ""  # why it could not be read


def prefer_active(one: TaskInstance, other: TaskInstance) -> TaskInstance:
    """Choose between two task instances that share a key (ids that clean to the same label): the active one counts.

    Of two that are over, the one that ended last counts, for it settles last.
    """
    return max(one, other, key=lambda ti: (ti.is_active, ti.ended or 0))
