"""Read records, tries and ends of the oldest candidates: as many as this run needs, not those of every zombie."""

from __future__ import annotations

import random
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
MAX_SECONDS = 600.0  # no further round starts after that; the task itself may take half an hour


def with_records(
    snapshot: Snapshot,
    source: TaskInstanceSource,
    monotonic: Callable[[], float] = time.monotonic,
    round_size: int = ROUND,
) -> Snapshot:
    """Return the snapshot with records, tries and ends, oldest pods first, for as many zombies as this run may delete.

    In the second half of the time, the rounds are random: otherwise, if the records of very many old pods keep them,
    every run would read these again, and no run the records of younger zombies.

    The pods of other rounds are left to later runs: a record that was not read must not count as none.
    """
    workloads, started, elapsed = uncertain_workloads(snapshot), monotonic(), 0.0
    records: dict[TaskInstanceKey, Record] = {}
    starts = list(range(0, len(workloads), round_size))  # starts of the remaining rounds
    while starts and elapsed <= MAX_SECONDS:
        start = starts.pop(0 if elapsed <= MAX_SECONDS / 2 else random.randrange(len(starts)))
        part = workloads[start : start + round_size]
        records.update(read_records(snapshot, part, source))
        task_instances = source.complete(snapshot.task_instances, incomplete_keys(snapshot.task_instances, part))
        # Each remaining round ends where the next one starts.
        unread = [sort_key(first) for left in starts for first in workloads[left : left + round_size + 1 : round_size]]
        snapshot = replace(snapshot, task_instances=task_instances, records=records, unread=unread)
        if sum(verdict.is_zombie for verdict in classify(snapshot)) >= snapshot.settings.max_deletes:
            break
        elapsed = monotonic() - started
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
