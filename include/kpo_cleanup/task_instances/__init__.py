"""Where task instances are looked up: the interface. ``choice`` says which of the sources beside it a run takes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

from ..identity import TaskInstanceKey
from ..task_instance import Record, TaskInstances


class TaskInstanceSource(Protocol):
    """One place where Airflow's task instances are on record."""

    description: str  # which source it is and why it was chosen, for the log

    def fetch(self, keys: Collection[TaskInstanceKey]) -> TaskInstances:
        """Look up the task instances of these keys, and prove it by the cleanup's own.

        The answer says for every key whether it has a task instance, or why that cannot be told.

        :raises TaskInstanceSourceError: if the question could not be answered, or another Airflow's or an old
            database answered: the cleanup's own task instance is not in the answer, or not running.
        """

    def read_records(
        self, task_instances: TaskInstances, keys: Collection[TaskInstanceKey]
    ) -> Mapping[TaskInstanceKey, Record]:
        """Read what the operators of these task instances left on record about their pods.

        :param task_instances: an answer of :meth:`fetch`, for the raw ids behind the keys.
        :returns: no entry for a key without a record; a record that cannot be read has a ``problem``.
        :raises TaskInstanceSourceError: if the question could not be answered at all.
        """
