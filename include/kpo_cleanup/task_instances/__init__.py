"""Where task instances are looked up: the interface. ``choice`` says which of the sources beside it a run takes."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from ..identity import TaskInstanceKey
from ..task_instance import TaskInstances


class TaskInstanceSource(Protocol):
    """One place where Airflow's task instances are on record."""

    description: str  # which source it is and why it was chosen, for the log

    def fetch(self, keys: Collection[TaskInstanceKey]) -> TaskInstances:
        """Look up the task instances of these keys.

        :raises TaskInstanceSourceError: if the question could not be answered for all of them.
        """
