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
    """Return the snapshot with records, try numbers and end times of the oldest pods.

    Reading stops once there are as many zombies as this run may delete.

    Old pods must not keep every run from reaching younger zombies, so the last round, and those in the second half of
    the time, are chosen at random: very many old pods may be kept by their records, or refused by the API server.

    Pods whose round was not reached are left for later runs, because their records may keep them.
    """
    workloads, started, elapsed = uncertain_workloads(snapshot), monotonic(), 0.0
    records: dict[TaskInstanceKey, Record] = {}
    starts = list(range(0, len(workloads), round_size))  # starts of the remaining rounds
    is_last = False
    while starts and elapsed <= MAX_SECONDS:
        start = starts.pop(random.randrange(len(starts)) if is_last or elapsed > MAX_SECONDS / 2 else 0)
        part = workloads[start : start + round_size]
        records.update(read_records(snapshot, part, source))
        task_instances = source.complete(snapshot.task_instances, incomplete_keys(snapshot.task_instances, part))
        # The start and the end of each remaining round. The end of the last one may be missing.
        unread = [sort_key(first) for left in starts for first in workloads[left : left + round_size + 1 : round_size]]
        snapshot = replace(snapshot, task_instances=task_instances, records=records, unread=unread)
        if is_last:
            break
        is_last = sum(verdict.is_zombie for verdict in classify(snapshot)) >= snapshot.settings.max_deletes
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
