"""The listed workloads, updated with later reads."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping

from ..classify import Snapshot, possible_successors
from ..identity import TaskInstanceKey
from ..settings import Settings
from ..task_instance import Record, TaskInstances
from ..workloads.workload import Workload


class KnownWorkloads:
    """The latest known state of the workloads, and when each was read, by the monotonic clock."""

    def __init__(self, settings: Settings, clock: Callable[[], float]) -> None:
        self._settings, self._clock = settings, clock
        self.listed_at = 0.0
        self._read_at: dict[str, float] = {}  # by uid, if read again after the listing
        self._by_key: dict[TaskInstanceKey, dict[str, Workload]] = defaultdict(dict)  # by uid
        self._by_name: dict[str, Workload] = {}
        self._successors: dict[TaskInstanceKey, list[Workload]] = {}  # possible ones, computed on demand

    def add_listed(self, workloads: Iterable[Workload]) -> None:
        for workload in workloads:
            self._by_key[workload.key][workload.uid] = self._by_name[workload.record_name] = workload

    def replace(self, old: Workload, workload: Workload | None, read_at: float) -> None:
        """Replace a workload with the one that has its name now, if there is one."""
        self._by_key[old.key].pop(old.uid, None)
        self._by_name.pop(old.record_name, None)
        if any(each.uid == old.uid for each in self._successors.get(old.key, ())):
            del self._successors[old.key]
        if workload is not None:
            self.add_listed([workload])
            self._read_at[workload.uid] = read_at
            if workload.key in self._successors:
                self._successors[workload.key] = possible_successors([*self._successors[workload.key], workload])

    def read_at(self, workload: Workload) -> float:
        """Return when a workload was read last."""
        return self._read_at.get(workload.uid, self.listed_at)

    def combine(
        self,
        workloads: Collection[Workload],
        task_instances: TaskInstances,
        records: Mapping[TaskInstanceKey, Record],
    ) -> Snapshot:
        """Return a snapshot of these workloads, if they still exist, and of all that can change their verdicts."""
        combined: dict[str, Workload] = {}
        for workload in workloads:
            siblings = self._by_key[workload.key]
            if workload.uid in siblings:
                combined[workload.uid] = siblings[workload.uid]
        for key in {workload.key for workload in workloads}:
            if key not in self._successors:
                self._successors[key] = possible_successors(self._by_key[key].values())
            combined.update({workload.uid: workload for workload in self._successors[key]})
        named = (self._by_name.get(name) for record in records.values() for name in record.workloads)
        combined.update({workload.uid: workload for workload in named if workload is not None})
        return Snapshot([*combined.values()], task_instances, self._settings, int(self._clock()), records)
