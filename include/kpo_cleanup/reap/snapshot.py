"""What Airflow knows about the task instances of a batch, by which its pods are classified."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ..candidates import read_records
from ..classify import Classifier, incomplete_keys, record_keys, uncertain_workloads, with_plain_tasks
from ..errors import TooSlow
from ..identity import TaskInstanceKey
from ..task_instance import Record, TaskInstances
from ..task_instances.interface import TaskInstanceSource
from .known import KnownWorkloads
from .target import Target

MAX_SNAPSHOT_AGE = 5.0  # seconds; nothing is deleted on older evidence


@dataclass(frozen=True)
class BatchSnapshot:
    """What Airflow knows about the task instances of a batch, and how their pods are classified.

    :param taken_at: when Airflow was queried, by the monotonic clock.
    :param classifiers: one for each task instance, because it is replaced if a pod of the task instance has changed.
    """

    taken_at: float
    batch: Sequence[Target]
    known: KnownWorkloads
    task_instances: TaskInstances
    records: Mapping[TaskInstanceKey, Record]
    classifiers: dict[TaskInstanceKey, Classifier]

    def has_expired(self, now: float) -> bool:
        return now - self.taken_at > MAX_SNAPSHOT_AGE

    def refresh(self, key: TaskInstanceKey) -> None:
        """Replace the classifier of a task instance whose pods have been read again."""
        alike = [target.workload for target in self.batch if target.workload.key == key]
        self.classifiers[key] = Classifier(self.known.combine(alike, self.task_instances, self.records))


def take_snapshot(
    batch: Sequence[Target], known: KnownWorkloads, source: TaskInstanceSource, monotonic: Callable[[], float]
) -> BatchSnapshot:
    """Query Airflow for task instances, and for the records that matter: a retry may use another pod.

    :raises TooSlow: if the answer is too old by the time it arrives.
    """
    workloads = [target.workload for target in batch]
    keys = {workload.key for workload in workloads}
    queried, taken_at = sorted(with_plain_tasks(keys)), monotonic()
    task_instances = source.fetch(queried)
    records: Mapping[TaskInstanceKey, Record] = {}
    combined = known.combine(workloads, task_instances, {})
    uncertain = uncertain_workloads(combined)
    if record_keys(combined, uncertain):
        records = read_records(combined, uncertain, source)
        if monotonic() - taken_at > MAX_SNAPSHOT_AGE / 5:
            taken_at = monotonic()
            task_instances = source.fetch(queried)
    if incomplete_keys(task_instances, workloads):
        uncertain = uncertain_workloads(known.combine(workloads, task_instances, {}))
        task_instances = source.complete(task_instances, incomplete_keys(task_instances, uncertain))
    classifier = Classifier(known.combine(workloads, task_instances, records))
    snapshot = BatchSnapshot(taken_at, batch, known, task_instances, records, dict.fromkeys(keys, classifier))
    if snapshot.has_expired(monotonic()):
        raise TooSlow(
            f"querying {len(keys)} task instances took longer than {MAX_SNAPSHOT_AGE:g} s",
            cause=f"{source.description}; tasks may have been restarted meanwhile",
            remedy="find out why Airflow is slow",
        )
    return snapshot
