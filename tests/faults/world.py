"""A small model of Airflow and its pods: task instances in memory, pods in an API server, and one clock.

It says again which pods must live and which must go, as plainly as possible, and independently of the product.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from include.kpo_cleanup.errors import TaskInstanceSourceError
from include.kpo_cleanup.identity import UNMAPPED, TaskInstanceKey
from include.kpo_cleanup.settings import Settings
from include.kpo_cleanup.task_instance import RawIds, Record, TaskInstance, TaskInstances
from tests.faults.servers import Server

Json = dict[str, Any]
OVER = ("success", "failed", "skipped", "upstream_failed", "removed")
START = int(datetime(2026, 11, 24, 12, tzinfo=UTC).timestamp())
SOURCE_DOWN = "the database of Airflow is down"
LAGS = "the cleanup's own task instance is not there"
UNREADABLE = "its XCom pod_name is no name in Kubernetes but a dict"
NOT_LEFT_OUT, OURS = "env!=left-out", "env=production"  # what the cleanup looks for
NEVER_LOOKED_BY = {
    *("dag_id", "task_id", "run_id", "map_index", "kubernetes_pod_operator"),
    *("try_number", "already_checked", "airflow_version", "airflow_kpo_in_cluster"),
}
TALLY: Counter[str] = Counter()  # of the events in all histories, for ``explore``


@dataclass
class Operator:
    """One operator of a task."""

    labels: dict[str, str] = field(default_factory=dict)  # its own
    pod: str | None = None  # the uid of the one that it uses
    process: Any = None  # the real operator, if there is one and its worker lives


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
    is_ours: bool = True  # not of the second Airflow
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
    def is_over(self) -> bool:
        return self.state in OVER

    @property
    def labels(self) -> dict[str, str]:
        """Return the labels that name it. Its operator looks for its pod by these and by its own."""
        ids = {"dag_id": self.dag_id, "task_id": self.task_id, "run_id": self.run_id}
        mapped = {} if self.map_index == UNMAPPED else {"map_index": str(self.map_index)}
        return {**ids, **mapped, "kubernetes_pod_operator": "True"}


class MemorySource:
    """A source that tells the truth, or fails.

    :param tells_all: whether it knows try numbers and ends, as SQL does and the Task SDK does not.
    """

    description = "the memory of the test"

    def __init__(self, tasks: dict[TaskInstanceKey, Task], tells_all: bool = True) -> None:
        self.tasks, self.tells_all = tasks, tells_all
        self.own = 0  # the try of the cleanup that runs now
        self.before_fetch: Callable[[], object] = lambda: None
        self._past: tuple[int, dict[TaskInstanceKey, Task]] | None = None
        self._fails: tuple[int, Callable[[], None]] | None = None

    def fails_in(self, looks: int, how: Callable[[], None]) -> None:
        """Call `how` in each look after so many more looks."""
        self._fails = looks, how

    def lags(self) -> None:
        """Show the past from now on, as a replica does that is cut off."""
        self._past = self._past or (self.own, {key: replace(task) for key, task in self.tasks.items()})

    @property
    def is_believed(self) -> bool:
        """Tell whether it lags only since this step, and so proves itself: the cleanup's own task instance is there."""
        return self._past is not None and self._past[0] == self.own

    def heal(self) -> None:
        self._past = self._fails = None

    def is_down(self) -> None:
        raise TaskInstanceSourceError(SOURCE_DOWN)

    def fetch(self, keys: Collection[TaskInstanceKey]) -> TaskInstances:
        self.before_fetch()
        own, tasks = self._seen()
        if own != self.own:
            raise TaskInstanceSourceError(LAGS)
        there = [key for key in keys if key in tasks]
        raw_ids = {key: (RawIds(*key[:3]),) for key in there}
        return TaskInstances({key: self._told(tasks[key]) for key in there}, raw_ids=raw_ids)

    def read_records(
        self, task_instances: TaskInstances, keys: Collection[TaskInstanceKey]
    ) -> Mapping[TaskInstanceKey, Record]:
        assert set(keys) <= task_instances.found.keys(), "there is no record without a task instance"
        _, tasks = self._seen()
        return {key: record for key in keys if key in tasks and (record := tasks[key].record)}

    def _seen(self) -> tuple[int, dict[TaskInstanceKey, Task]]:
        if self._fails is not None:
            looks, how = self._fails
            self._fails = max(looks - 1, 0), how
            if not looks:
                how()
        return self._past or (self.own, self.tasks)

    def _told(self, task: Task) -> TaskInstance:
        if self.tells_all:
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
    """Find pods as ``KubernetesPodOperator.find_pod``: by labels without try number, unchecked, oldest first."""
    return adoption_key(server.pods(task.namespace).values(), task, operator)


def adoption_key(pods: Iterable[Json], task: Task, operator: Operator) -> list[Json]:
    wanted = {**operator.labels, **task.labels}.items()
    found = [pod for pod in pods if wanted <= pod["metadata"]["labels"].items() and not already_checked(pod)]
    return sorted(
        found, key=lambda pod: (pod["metadata"]["creationTimestamp"], int(pod["metadata"]["resourceVersion"]))
    )


def pods_in_use(server: Server, tasks: Collection[Task]) -> set[str]:
    """List the uids of the pods to which a live task instance is attached, or its next try would attach.

    That is the latest one that ``find_pod`` finds; if it is just being deleted, the one before it, too.
    """
    used = set()
    live = [task for task in tasks if not task.is_over]
    there = {namespace: server.pods(namespace) for namespace in {task.namespace for task in live}}
    for task in live:
        for operator in task.operators:
            found = adoption_key(there[task.namespace].values(), task, operator)
            used |= {uid(pod) for pod in found[-1:]}
            used |= {uid(pod) for pod in [pod for pod in found if not is_terminating(pod)][-1:]}
            used |= {operator.pod} if operator.pod else set()
        stored = [there[task.namespace].get(kept["name"]) for kept in task.store.values() if task.reattaches]
        used |= {uid(pod) for pod in stored if pod and not already_checked(pod)}
    return used


def zombies(pods: Collection[Json], source: MemorySource, settings: Settings, now: int) -> set[str]:
    """List the uids of the pods that the rules have deleted."""
    selected = [pod for pod in pods if is_selected(pod, settings)]
    return {uid(pod) for pod in selected if _is_zombie(pod, selected, source, settings, now)}


def must_go(pods: Collection[Json], source: MemorySource, settings: Settings, now: int) -> set[str]:
    """List the uids of the pods that are really dead, and that the settings let go if all are ours.

    It ignores tries, ends and records, with one exception: a record that cannot be read keeps an unchecked pod.
    """
    return {uid(pod) for pod in pods if _must_go(pod, source.tasks, settings, now)}


def _must_go(pod: Json, tasks: Mapping[TaskInstanceKey, Task], settings: Settings, now: int) -> bool:
    key = make_key(pod)
    if key is None or is_left_alone(pod, settings, now) or is_completed(pod):
        return False
    task, long_ago = tasks.get(key), now - max(settings.settle_seconds, 300)
    if task is None:
        return epoch(pod["metadata"]["creationTimestamp"]) < long_ago
    is_readable = already_checked(pod) or not (task.record and task.record.problem)
    signs = [_last_sign(pod), task.ended or 0]
    return task.is_over and max(signs) < long_ago and is_readable


def is_selected(pod: Json, settings: Settings) -> bool:
    """Tell whether its labels are those that the cleanup looks for."""
    labels = pod["metadata"]["labels"]
    env = labels.get("env")
    is_matched = {NOT_LEFT_OUT: env != "left-out", OURS: env == "production"}[settings.label_selector]
    return is_matched and bool(labels.get("kubernetes_pod_operator") == "True")


def is_left_alone(pod: Json, settings: Settings, now: int) -> bool:
    """Tell whether something on the pod itself keeps it, whatever its task instance is."""
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
    if key is None or is_left_alone(pod, settings, now):
        return False
    task, created = source.tasks.get(key), epoch(pod["metadata"]["creationTimestamp"])
    unmatched = settings.delete_unmatched_pods and now - created > settings.settle_seconds
    if task is None:
        return unmatched
    record = task.record or Record()
    is_named = name(pod) in record.pods
    if not task.is_over:
        if is_named or record.problem or not _is_through_with(pod, task, pods, source.tells_all):
            return False
        over_since = _last_sign(pod)
    else:
        known = task.ended if source.tells_all else None
        tells = known if known is not None else _end_of_main(pod)
        over_since = min(_last_sign(pod) if tells is None else tells, now)
        if (tells is not None or is_completed(pod)) and now - over_since < settings.settle_seconds:
            return False
        if not already_checked(pod):
            if known is not None and created > known + 5:
                return unmatched
            if source.tells_all and try_number > task.try_number:
                return unmatched
            if record.pods and not is_named:
                same_try = try_number == task.try_number
                later = any(name(other) in record.pods and try_of(other) > try_number for other in pods)
                if same_try if source.tells_all else not later:
                    return unmatched
            if record.problem:
                return False
    if not is_completed(pod):
        return True
    ttl = settings.ttl_seconds_after_finished
    if ttl is not None and now - over_since > ttl:
        return True
    if pod["status"]["phase"] == "Failed":
        return settings.delete_pods_on_failure
    return settings.delete_completed_pods and not already_checked(pod)


def _is_through_with(pod: Json, task: Task, pods: Collection[Json], tells_all: bool) -> bool:
    """Tell whether the operator of a live task instance uses a later pod."""
    if tells_all and already_checked(pod) and task.try_number > try_of(pod):
        return True
    return any(
        make_key(other) == task.key
        and other["metadata"]["namespace"] == pod["metadata"]["namespace"]
        and _own_labels(other) == _own_labels(pod)
        and try_of(pod) < try_of(other) <= (task.try_number if tells_all else 10**6)
        and other["metadata"]["creationTimestamp"] > pod["metadata"]["creationTimestamp"]
        and not already_checked(other)
        and not is_terminating(other)
        and not is_owned(other)
        for other in pods
    )


def make_key(pod: Json) -> TaskInstanceKey | None:
    """Return the key; None if a label is missing."""
    labels = pod["metadata"]["labels"]
    if not {"dag_id", "task_id", "run_id", "try_number"} <= labels.keys():
        return None
    return TaskInstanceKey(
        labels["dag_id"], labels["task_id"], labels["run_id"], int(labels.get("map_index", str(UNMAPPED)))
    )


def try_of(pod: Json) -> int:
    return int(pod["metadata"]["labels"].get("try_number", "-1"))


def _own_labels(pod: Json) -> dict[str, str]:
    return {label: value for label, value in pod["metadata"]["labels"].items() if label not in NEVER_LOOKED_BY}


def _end_of_main(pod: Json) -> int | None:
    for container in pod["status"].get("containerStatuses", []):
        if container["name"] == "base" and "terminated" in container["state"]:
            return epoch(container["state"]["terminated"]["finishedAt"])
    return None


def _last_sign(pod: Json) -> int:
    states = [container["state"] for container in pod["status"].get("containerStatuses", [])]
    ends = [epoch(state["terminated"]["finishedAt"]) for state in states if "terminated" in state]
    starts = [epoch(state["running"]["startedAt"]) for state in states if "running" in state]
    return max(ends or starts or [epoch(pod["metadata"]["creationTimestamp"])])
