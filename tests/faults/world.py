"""A small model of Airflow and its pods: task instances in memory, pods in an API server, and one clock.

It states again which pods must be kept and which deleted, as simply as possible and independently of the product.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from include.kpo_cleanup.constants import Outcome
from include.kpo_cleanup.errors import TaskInstanceSourceError
from include.kpo_cleanup.identity import UNMAPPED, TaskInstanceKey
from include.kpo_cleanup.settings import Settings
from include.kpo_cleanup.task_instance import POD_RECORD, RawIds, Record, RecordKeys, TaskInstance, TaskInstances
from include.kpo_cleanup.task_instances.interface import TaskInstanceSource
from include.kpo_cleanup.workloads.registry import KINDS
from tests.faults.servers import Server

Json = dict[str, Any]
FINISHED = ("success", "failed", "skipped", "upstream_failed", "removed")
START = int(datetime(2026, 11, 24, 12, tzinfo=UTC).timestamp())
SOURCE_DOWN = "the database of Airflow is down"
LAGGING = "the caller's task instance is missing"
DAG_FAILS = "the states of this DAG cannot be read"
SECONDS_PER_KEY = 1.1  # of a slow DAG: three of its task instances and their plain task can be verified at once
DAY = 24 * 3600
UNREADABLE = "its XCom pod_name is a dict, not a name in Kubernetes"
NOT_EXCLUDED, OURS = "env!=excluded", "env=production"  # label selectors of the cleanup
NOT_SELECTED_BY = {
    *("dag_id", "task_id", "run_id", "map_index", "kubernetes_pod_operator"),
    *("try_number", "already_checked", "airflow_version", "airflow_kpo_in_cluster"),
}
TALLY: Counter[str] = Counter()  # of events in all histories, for ``explore``


@dataclass
class Operator:
    """One operator of a task."""

    labels: dict[str, str] = field(default_factory=dict)  # its own
    pod: str | None = None  # the uid of the pod that it uses
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
    kind: str = "Pod"  # of the workloads of its operators
    is_ours: bool = True  # and not the other Airflow's
    state: str | None = "running"
    try_number: int = 1
    ended: int | None = None
    record: Record | None = None  # the XComs pod_name and pod_namespace
    on_finish_action: str = "delete_pod"
    on_kill_action: str = "delete_pod"
    is_deferrable: bool = False
    store: dict[str, Any] = field(default_factory=dict)  # the operator's task state store, from Airflow 3.3

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
        return {**ids, **mapped, "kubernetes_pod_operator": "True"}


class MemorySource(TaskInstanceSource):
    """A source that returns the truth, or fails.

    :param knows_all: whether it knows try numbers and end times, like SQL and unlike the Task SDK of Airflow 3.0.
    :param states_first: whether it returns them only for single task instances, like the Task SDK of later releases.
    """

    description = "the memory of the test"

    def __init__(self, tasks: dict[TaskInstanceKey, Task], knows_all: bool = True, states_first: bool = False) -> None:
        self.tasks, self.knows_all, self._states_first = tasks, knows_all, states_first
        self.caller = 0  # the number of the step in which the cleanup is
        self.before_fetch: Callable[[], object] = lambda: None
        self.wait: Callable[[float], object] = lambda _: None
        self.unresolved_dag = self.failing_dag = self.slow_dag = ""
        self._past: tuple[int, dict[TaskInstanceKey, Task]] | None = None
        self._fails: tuple[int, Callable[[], None]] | None = None

    def fail_after(self, queries: int, fail: Callable[[], None]) -> None:
        """Call `fail` in each query after so many more queries."""
        self._fails = queries, fail

    def lag(self) -> None:
        """Return the past from now on, like a replica that was cut off."""
        self._past = self._past or (self.caller, {key: replace(task) for key, task in self.tasks.items()})

    @property
    def is_trusted(self) -> bool:
        """Return whether it lags since this step only, so that its answers still have the caller's task instance."""
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


def timestamp(epoch: float) -> str:
    return datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def epoch(text: str) -> int:
    return int(datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp())


def uid(pod: Json) -> str:
    return str(pod["metadata"]["uid"])


def name(pod: Json) -> str:
    return f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"


def already_checked(pod: Json) -> bool:
    return bool(pod["metadata"]["labels"].get("already_checked") == "True")


def is_terminating(pod: Json) -> bool:
    return "deletionTimestamp" in pod["metadata"]


def is_owned(pod: Json) -> bool:
    return any(owner.get("controller") for owner in pod["metadata"].get("ownerReferences", []))


def is_completed(pod: Json) -> bool:
    return pod["status"]["phase"] in ("Succeeded", "Failed")


def find_pods(server: Server, task: Task, operator: Operator) -> list[Json]:
    """Return the pods that ``KubernetesPodOperator.find_pod`` finds, oldest first."""
    return matching_pods(server.pods(task.namespace).values(), task, operator)


def matching_pods(pods: Iterable[Json], task: Task, operator: Operator) -> list[Json]:
    selector = {**operator.labels, **task.labels}.items()
    found = [pod for pod in pods if selector <= pod["metadata"]["labels"].items() and not already_checked(pod)]
    return sorted(
        found, key=lambda pod: (pod["metadata"]["creationTimestamp"], int(pod["metadata"]["resourceVersion"]))
    )


def pods_in_use(server: Server, tasks: Collection[Task]) -> set[str]:
    """Return the uids of the pods to which a live task instance is attached, or which its next try would adopt.

    That is the latest one that ``find_pod`` finds. If that is being deleted, it is the one before it as well.
    """
    used = set()
    live = [task for task in tasks if not task.is_finished]
    by_namespace = {namespace: server.pods(namespace) for namespace in {task.namespace for task in live}}
    for task in live:
        pods = by_namespace[task.namespace]
        by_task = set()
        for operator in task.operators:
            found = matching_pods(pods.values(), task, operator)
            by_task |= {uid(pod) for pod in found[-1:]}
            by_task |= {uid(pod) for pod in [pod for pod in found if not is_terminating(pod)][-1:]}
            by_task |= {operator.pod} if operator.pod else set()
        stored = [pods.get(kept["name"]) for kept in task.store.values() if task.reattaches]
        by_task |= {uid(pod) for pod in stored if pod and not already_checked(pod)}
        used |= by_task - {uid(pod) for pod in pods.values() if _is_of_unrecorded_map_index(pod, task)}
    return used


def _is_of_unrecorded_map_index(pod: Json, task: Task) -> bool:
    """Return whether only a record would show that this task uses the pod, because it was created by a map index."""
    is_other, record = task.map_index == UNMAPPED and "map_index" in pod["metadata"]["labels"], task.record or Record()
    return is_other and not record.problem and name(pod) not in record.workloads


def zombies(pods: Collection[Json], source: MemorySource, settings: Settings, now: int) -> set[str]:
    """Return the uids of the pods that the rules delete."""
    selected = [pod for pod in pods if is_selected(pod, settings)]
    return {uid(pod) for pod in selected if _is_zombie(pod, selected, source, settings, now)}


def must_be_deleted(pods: Collection[Json], source: MemorySource, settings: Settings, now: int) -> set[str]:
    """Return the uids of the pods that are really dead, and that the settings delete if all of them are ours.

    It ignores tries, end times and records, with one exception: an unreadable record keeps an unchecked pod.
    """
    return {uid(pod) for pod in pods if _must_be_deleted(pod, source, settings, now)}


def _must_be_deleted(pod: Json, source: MemorySource, settings: Settings, now: int) -> bool:
    key = make_key(pod)
    if key is None or is_exempt(pod, settings, now) or is_completed(pod):
        return False
    if key.dag_id == source.unresolved_dag or _may_be_used_by_plain_task(pod, source.tasks):
        return False
    task, long_ago = source.tasks.get(key), now - max(settings.settle_seconds, 300)
    if _is_working(pod) and epoch(pod["metadata"]["creationTimestamp"]) >= now - DAY:
        return False  # it goes at once if it is orphaned, and after a day if it is unmatched
    if task is None:
        return epoch(pod["metadata"]["creationTimestamp"]) < long_ago
    is_readable = already_checked(pod) or not (task.record and task.record.problem)
    last_activity = max(_last_activity(pod), task.ended or 0)
    return task.is_finished and last_activity < long_ago and is_readable


def agrees(outcome: Outcome, pod: Json | None, was_deleted: bool, settings: Settings) -> bool:
    """Return whether an outcome is true.

    :param pod: as it is after the run.
    :param was_deleted: whether the API server has carried out a deletion of this run.
    """
    match outcome:
        case Outcome.DELETED:
            return pod is None
        case Outcome.TERMINATING | Outcome.AWAITING_FINALIZER:
            return pod is None or is_terminating(pod)
        case Outcome.ALREADY_GONE:
            return pod is None or not is_selected(pod, settings)
        case Outcome.UNKNOWN:
            return True
        case _:
            return not was_deleted


def is_selected(pod: Json, settings: Settings) -> bool:
    """Return whether the cleanup selects it by its labels."""
    labels = pod["metadata"]["labels"]
    env = labels.get("env")
    is_matched = {NOT_EXCLUDED: env != "excluded", OURS: env == "production"}[settings.label_selector]
    return is_matched and bool(labels.get("kubernetes_pod_operator") == "True")


def is_exempt(pod: Json, settings: Settings, now: int) -> bool:
    """Return whether something on the pod itself keeps it, whatever the state of its task instance."""
    metadata = pod["metadata"]
    return (
        not is_selected(pod, settings)
        or "kpo-cleanup/protect" in metadata.get("annotations", {})
        or is_owned(pod)
        or (is_terminating(pod) and now <= epoch(metadata["deletionTimestamp"]) + settings.settle_seconds)
        or (is_terminating(pod) and bool(metadata.get("finalizers")))
    )


def _is_zombie(pod: Json, pods: Collection[Json], source: MemorySource, settings: Settings, now: int) -> bool:
    key, try_number = make_key(pod), try_of(pod)
    if key is None or key.dag_id == source.unresolved_dag or is_exempt(pod, settings, now):
        return False
    if _may_be_used_by_plain_task(pod, source.tasks):
        return False
    task, created = source.tasks.get(key), epoch(pod["metadata"]["creationTimestamp"])
    unmatched = settings.delete_unmatched_pods and now - created > (
        DAY if _is_working(pod) else settings.settle_seconds
    )
    if task is None:
        return unmatched
    record = task.record or Record()
    is_named = name(pod) in record.workloads
    if not task.is_finished:
        if is_named or record.problem or not _is_through_with(pod, task, pods, source.knows_all):
            return False
        over_since = _finished_at(pod)
    else:
        known = task.ended if source.knows_all else None
        end = known if known is not None else _end_of_main(pod)
        over_since = _finished_at(pod) if end is None else end
        if over_since is not None and now - min(over_since, now) < settings.settle_seconds:
            return False
        if not already_checked(pod):
            if known is not None and created > known + 5:
                return unmatched
            if source.knows_all and try_number > task.try_number:
                return unmatched
            if record.workloads and not is_named:
                same_try = try_number == task.try_number
                later = any(name(other) in record.workloads and try_of(other) > try_number for other in pods)
                if same_try if source.knows_all else not later:
                    return unmatched
            if record.problem:
                return False
    if not is_completed(pod):
        return True
    if over_since is None and task.is_finished:
        return False
    ttl = settings.ttl_seconds_after_finished
    if ttl is not None and over_since is not None and now - over_since > ttl:
        return True
    if pod["status"]["phase"] == "Failed":
        return settings.delete_pods_on_failure
    return settings.delete_completed_pods and not already_checked(pod)


def _may_be_used_by_plain_task(pod: Json, tasks: Mapping[TaskInstanceKey, Task]) -> bool:
    """Return whether a task that is no longer mapped has recorded the pod of one of its map indexes, or may yet."""
    key = make_key(pod)
    plain = key and key.map_index != UNMAPPED and tasks.get(key._replace(map_index=UNMAPPED))
    if not plain or plain.is_finished:
        return False
    return plain.record is None or bool(plain.record.problem) or name(pod) in plain.record.workloads


def _is_through_with(pod: Json, task: Task, pods: Collection[Json], knows_all: bool) -> bool:
    """Return whether the operator of a live task instance uses a later pod."""
    if knows_all and already_checked(pod) and task.try_number > try_of(pod):
        return True
    newer = [
        other
        for other in pods
        if make_key(other) == task.key
        and other["metadata"]["namespace"] == pod["metadata"]["namespace"]
        and _own_labels(other) == _own_labels(pod)
        and try_of(pod) < try_of(other) <= (task.try_number if knows_all else 10**6)
        and other["metadata"]["creationTimestamp"] > pod["metadata"]["creationTimestamp"]
        and not already_checked(other)
        and not is_terminating(other)
        and not is_owned(other)
    ]
    newest = max(
        newer, key=lambda other: (other["metadata"]["creationTimestamp"], try_of(other), uid(other)), default=None
    )
    return newest is not None and name(newest) in (task.record or Record()).workloads


def make_key(pod: Json) -> TaskInstanceKey | None:
    """Return the key, or None if a label is missing."""
    labels = pod["metadata"]["labels"]
    if not {"dag_id", "task_id", "run_id", "try_number"} <= labels.keys():
        return None
    return TaskInstanceKey(
        labels["dag_id"], labels["task_id"], labels["run_id"], int(labels.get("map_index", str(UNMAPPED)))
    )


def try_of(pod: Json) -> int:
    return int(pod["metadata"]["labels"].get("try_number", "-1"))


def _own_labels(pod: Json) -> dict[str, str]:
    return {label: value for label, value in pod["metadata"]["labels"].items() if label not in NOT_SELECTED_BY}


def _end_of_main(pod: Json) -> int | None:
    for container in pod["status"].get("containerStatuses", []):
        if container["name"] == "base" and "terminated" in container["state"]:
            return epoch(container["state"]["terminated"]["finishedAt"])
    return None


def _is_working(pod: Json) -> bool:
    statuses = pod["status"].get("containerStatuses", [])
    return any(container["name"] == "base" and "running" in container["state"] for container in statuses)


def _finished_at(pod: Json) -> int | None:
    states = [container["state"] for container in pod["status"].get("containerStatuses", [])]
    ends = [epoch(state["terminated"]["finishedAt"]) for state in states if "terminated" in state]
    return max(ends, default=None) if is_completed(pod) else None


def _last_activity(pod: Json) -> int:
    states = [container["state"] for container in pod["status"].get("containerStatuses", [])]
    ends = [epoch(state["terminated"]["finishedAt"]) for state in states if "terminated" in state]
    starts = [epoch(state["running"]["startedAt"]) for state in states if "running" in state]
    return max(ends or starts or [epoch(pod["metadata"]["creationTimestamp"])])
