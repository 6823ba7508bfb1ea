"""A small model of Airflow: task instances with their operators, and a source that returns them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from include.kpo_cleanup.errors import TaskInstanceSourceError
from include.kpo_cleanup.identity import UNMAPPED, TaskInstanceKey
from include.kpo_cleanup.task_instance import POD_RECORD, RawIds, Record, RecordKeys, TaskInstance, TaskInstances
from include.kpo_cleanup.task_instances.interface import TaskInstanceSource
from include.kpo_cleanup.workloads.registry import KINDS
from tests.faults.objects import APPLICATION, MARKERS, POD

FINISHED = ("success", "failed", "skipped", "upstream_failed", "removed")
START = int(datetime(2026, 11, 24, 12, tzinfo=UTC).timestamp())
SOURCE_DOWN = "the database of Airflow is down"
LAGGING = "the caller's task instance is missing"
DAG_FAILS = "the states of this DAG cannot be read"
SECONDS_PER_KEY = 1.1  # of a slow DAG: three of its task instances and their plain task can be verified at once
UNREADABLE = "its XCom pod_name is a dict, not a name in Kubernetes"
TALLY: Counter[str] = Counter()  # of events in all histories, for ``explore``


@dataclass
class Operator:
    """One operator of a task."""

    labels: dict[str, str] = field(default_factory=dict)  # its own
    uses: str | None = None  # the uid of the workload that it uses
    process: Any = None  # the real operator, while its worker is alive


@dataclass
class Task:
    """A task instance as it really is."""

    namespace: str
    dag_id: str
    task_id: str
    run_id: str
    map_index: int = UNMAPPED
    reattaches: bool = True
    operators: list[Operator] = field(default_factory=lambda: [Operator()])
    kind: str = POD  # of the workloads of its operators
    is_ours: bool = True  # and not the other Airflow's
    state: str | None = "running"
    try_number: int = 1
    ended: int | None = None
    record: Record | None = None  # the XComs pod_name and pod_namespace, or those of a Job
    on_finish_action: str = "delete_pod"
    on_kill_action: str = "delete_pod"
    is_deferrable: bool = False
    store: dict[str, Any] = field(default_factory=dict)  # the operator's task state store, from Airflow 3.3
    waits: bool = True  # whether its operator waits for the end of its Job
    parallelism: int = 1  # of its Jobs
    detached: set[str] = field(default_factory=set)  # the uids of Jobs that its operator has left running on purpose

    @property
    def key(self) -> TaskInstanceKey:
        return TaskInstanceKey(self.dag_id, self.task_id, self.run_id, self.map_index)

    @property
    def is_finished(self) -> bool:
        return self.state in FINISHED

    @property
    def labels(self) -> dict[str, str]:
        """Return the labels that identify it. Its operator selects its pod by these and its own labels."""
        ids = {"dag_id": self.dag_id, "task_id": self.task_id, "run_id": self.run_id}
        mapped = {} if self.map_index == UNMAPPED else {"map_index": str(self.map_index)}
        return {**ids, **mapped, MARKERS[self.kind]: "True"}

    def labels_by(self, operator: Operator) -> dict[str, str]:
        """Return the labels of a workload that one of its operators creates now."""
        if self.kind == APPLICATION and not self.reattaches:
            return operator.labels
        return {**operator.labels, **self.labels, "try_number": str(self.try_number)}


class MemorySource(TaskInstanceSource):
    """A source that returns the truth, or fails.

    :param knows_all: whether it knows try numbers and end times, like SQL and unlike the Task SDK of Airflow 3.0.
    :param states_first: whether it returns them only for single task instances, like the Task SDK of later releases.
    """

    description = "the memory of the test"

    def __init__(self, tasks: dict[TaskInstanceKey, Task], knows_all: bool = True, states_first: bool = False) -> None:
        self.tasks, self.knows_all, self._states_first = tasks, knows_all, states_first
        self.caller = 0  # the number of the cleanup's current step
        self.before_fetch: Callable[[], object] = lambda: None
        self.wait: Callable[[float], object] = lambda _: None
        self.unresolved_dag = self.failing_dag = self.slow_dag = ""
        self._past: tuple[int, dict[TaskInstanceKey, Task]] | None = None
        self._fails: tuple[int, Callable[[], None]] | None = None

    def fail_after(self, queries: int, fail: Callable[[], None]) -> None:
        """Call `fail` in every query after this number of further queries."""
        self._fails = queries, fail

    def lag(self) -> None:
        """Return the past from now on, like a replica that was cut off."""
        self._past = self._past or (self.caller, {key: replace(task) for key, task in self.tasks.items()})

    @property
    def is_trusted(self) -> bool:
        """Return whether it has lagged only since this step, so that its answers still contain the caller."""
        return self._past is not None and self._past[0] == self.caller

    def heal(self) -> None:
        self._past = self._fails = None
        self.unresolved_dag = self.failing_dag = self.slow_dag = ""

    def be_down(self) -> None:
        raise TaskInstanceSourceError(SOURCE_DOWN)

    def fetch(self, keys: Collection[TaskInstanceKey]) -> TaskInstances:
        self.before_fetch()
        caller, tasks = self._visible(keys)
        if caller != self.caller:
            raise TaskInstanceSourceError(LAGGING)
        if self.failing_dag in {key.dag_id for key in keys}:
            raise TaskInstanceSourceError(DAG_FAILS)
        unresolved = {key: DAG_FAILS for key in keys if key.dag_id == self.unresolved_dag}
        found = [key for key in keys if key in tasks and key not in unresolved]
        raw_ids = {key: (RawIds(*key[:3]),) for key in found}
        knows_all = self.knows_all and not self._states_first
        return TaskInstances({key: _to_task_instance(tasks[key], knows_all) for key in found}, unresolved, raw_ids)

    def complete(self, task_instances: TaskInstances, keys: Collection[TaskInstanceKey]) -> TaskInstances:
        if not self.knows_all:
            return task_instances
        _, tasks = self._visible(keys)
        same = [key for key in keys if key in tasks and tasks[key].state == task_instances.found[key].state]
        completed = {key: _to_task_instance(tasks[key], knows_all=True) for key in same}
        changed = dict.fromkeys(set(keys) - set(same), "its state has changed")
        return replace(
            task_instances,
            found={**task_instances.found, **completed},
            unresolved={**task_instances.unresolved, **changed},
        )

    def read_records(
        self,
        task_instances: TaskInstances,
        keys: Collection[TaskInstanceKey],
        record_keys: RecordKeys = POD_RECORD,
    ) -> Mapping[TaskInstanceKey, Record]:
        assert set(keys) <= task_instances.found.keys(), "there is no record without a task instance"
        _, tasks = self._visible(keys)
        alike = [key for key in keys if key in tasks and KINDS[tasks[key].kind].record_keys == record_keys]
        return {key: record for key in alike if (record := tasks[key].record)}

    def _visible(self, keys: Collection[TaskInstanceKey]) -> tuple[int, dict[TaskInstanceKey, Task]]:
        if seconds := SECONDS_PER_KEY * sum(key.dag_id == self.slow_dag for key in keys):
            self.wait(seconds)
        if self._fails is not None:
            queries, fail = self._fails
            self._fails = max(queries - 1, 0), fail
            if not queries:
                fail()
        return self._past or (self.caller, self.tasks)


def _to_task_instance(task: Task, knows_all: bool) -> TaskInstance:
    if knows_all:
        return TaskInstance(task.state, task.try_number, task.ended, "KubernetesPodOperator")
    return TaskInstance(task.state)
