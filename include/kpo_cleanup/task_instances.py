"""What Airflow knows about task instances: the interface that its three sources fill."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from include.kpo_cleanup.identity import TaskInstanceKey
from include.kpo_cleanup.vocabulary import FINISHED_STATES


class TaskInstance(NamedTuple):
    """A task instance as one source sees it; what the source does not give is None."""

    state: str | None  # None is a state: a task instance that was just cleared has it
    try_number: int | None = None
    ended: int | None = None  # epoch seconds
    operator: str | None = None  # its class name, for people: it does not tell what a pod is

    @property
    def is_active(self) -> bool:
        """Whether it is not over. Any state that is not known to be terminal is active."""
        return self.state not in FINISHED_STATES


@dataclass(frozen=True)
class TaskInstances:
    """The answer of a source: what it found, and for which keys it cannot tell."""

    found: Mapping[TaskInstanceKey, TaskInstance] = field(default_factory=dict)
    unresolved: frozenset[TaskInstanceKey] = frozenset()


class TaskInstanceSource(Protocol):
    """Where task instances are looked up."""

    description: str  # which source it is and why it was chosen, for the log

    def fetch(self, keys: Collection[TaskInstanceKey]) -> TaskInstances:
        """Look up the task instances of these keys.

        :raises TaskInstanceSourceError: where the question could not be answered for all of them.
        """


def merge(pairs: Iterable[tuple[TaskInstanceKey, TaskInstance]]) -> dict[TaskInstanceKey, TaskInstance]:
    """Collect task instances by key; where two share one (ids that clean to the same label), the active one counts.

    Of two that are over, the one that ended last counts, for it settles last.
    """
    found: dict[TaskInstanceKey, TaskInstance] = {}
    for key, ti in pairs:
        other = found.get(key)
        if other is None or (ti.is_active, ti.ended or 0) > (other.is_active, other.ended or 0):
            found[key] = ti
    return found
