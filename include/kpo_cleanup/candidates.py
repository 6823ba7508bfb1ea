"""Read records, tries and ends of the oldest candidates: as many as this run needs, not those of every zombie."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace

from .classify import Snapshot, classify, incomplete_keys, record_keys, sort_key, uncertain_workloads
from .identity import TaskInstanceKey
from .task_instance import Record, RecordKeys
from .task_instances.interface import TaskInstanceSource
from .workloads.registry import record_keys_of
from .workloads.workload import Workload

ROUND = 500  # pods whose records, tries and ends are read before the zombies are counted
MAX_SECONDS = 600.0  # after which no further round starts; the task itself may take half an hour


def with_records(
    snapshot: Snapshot, source: TaskInstanceSource, monotonic: Callable[[], float] = time.monotonic
) -> Snapshot:
    """Return the snapshot with records, tries and ends, oldest pods first, for as many zombies as this run may delete.

    The pods after ``records_until`` are left to later runs: a record that was not read must not count as none.
    """
    workloads, started = uncertain_workloads(snapshot), monotonic()
    records: dict[TaskInstanceKey, Record] = {}
    for start in range(0, len(workloads), ROUND):
        part, is_last = workloads[start : start + ROUND], start + ROUND >= len(workloads)
        records.update(read_records(snapshot, part, source))
        task_instances = source.complete(snapshot.task_instances, incomplete_keys(snapshot.task_instances, part))
        until = None if is_last else sort_key(part[-1])
        snapshot = replace(snapshot, task_instances=task_instances, records=records, records_until=until)
        zombies = sum(verdict.is_zombie for verdict in classify(snapshot))
        if zombies >= snapshot.settings.max_deletes or monotonic() - started > MAX_SECONDS:
            break
    return snapshot


def read_records(
    snapshot: Snapshot, workloads: Iterable[Workload], source: TaskInstanceSource
) -> dict[TaskInstanceKey, Record]:
    """Return the records on which the verdicts on these workloads depend, each from the XComs of its operator."""
    by_record_keys: dict[RecordKeys, list[Workload]] = defaultdict(list)
    for workload in workloads:
        by_record_keys[record_keys_of(workload)].append(workload)
    records: dict[TaskInstanceKey, Record] = {}
    for xcoms, alike in by_record_keys.items():
        keys = record_keys(snapshot, alike)
        records.update(source.read_records(snapshot.task_instances, sorted(keys), xcoms) if keys else {})
    return records
