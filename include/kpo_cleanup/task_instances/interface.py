"""The interface of the sources of task instances."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

from ..identity import TaskInstanceKey
from ..task_instance import POD_RECORD, Record, RecordKeys, TaskInstances


class TaskInstanceSource(Protocol):
    """One way to read Airflow's task instances."""

    description: str  # name of the source in logs and errors

    def fetch(self, keys: Collection[TaskInstanceKey]) -> TaskInstances:
        """Return the task instances of these keys.

        For each key, the result has the task instance, or shows that there is none, or has the reason why that cannot
        be determined, for example because the query for its DAG failed.

        :raises TaskInstanceSourceError: if the query failed for every DAG, or if the source does not show the cleanup's
            own task instance as running, which means that its answers are stale or of another Airflow.
        """

    def complete(self, task_instances: TaskInstances, keys: Collection[TaskInstanceKey]) -> TaskInstances:
        """Return the task instances, with the tries and ends of these keys if :meth:`fetch` did not return them.

        A key whose task instance is no longer in the same state becomes unresolved.

        :param task_instances: a result of :meth:`fetch`.
        :raises TaskInstanceSourceError: if the query failed as a whole.
        """
        return task_instances

    def read_records(
        self,
        task_instances: TaskInstances,
        keys: Collection[TaskInstanceKey],
        record_keys: RecordKeys = POD_RECORD,
    ) -> Mapping[TaskInstanceKey, Record]:
        """Return the records of workloads that the operators of these task instances stored.

        Keys without a record are left out. A record that cannot be read has a ``problem``.

        :param task_instances: a result of :meth:`fetch`, for the raw ids of the keys.
        :param record_keys: the XComs to read.
        :raises TaskInstanceSourceError: if queries have been failing for too long.
        """
