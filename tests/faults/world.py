"""Airflow and its pods in small: task instances in memory, pods in an API server, one clock for both."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
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


@dataclass
class Task:
    """A task instance as it really is."""

    namespace: str
    dag_id: str
    task_id: str
    run_id: str
    map_index: int = UNMAPPED
    reattaches: bool = True
    state: str | None = "running"
    try_number: int = 1
    ended: int | None = None

    @property
    def key(self) -> TaskInstanceKey:
        return TaskInstanceKey(self.dag_id, self.task_id, self.run_id, self.map_index)

    @property
    def is_over(self) -> bool:
        return self.state in OVER

    @property
    def labels(self) -> dict[str, str]:
        """Those by which the operator finds its pod: without the try number."""
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
        self.fails_in: int | None = None  # after so many more calls
        self.before_fetch: Callable[[], object] = lambda: None

    def fetch(self, keys: Collection[TaskInstanceKey]) -> TaskInstances:
        self.before_fetch()
        if self.fails_in is not None:
            self.fails_in -= 1
            if self.fails_in < 0:
                raise TaskInstanceSourceError(SOURCE_DOWN)
        there = [key for key in keys if key in self.tasks]
        raw_ids = {key: (RawIds(*key[:3]),) for key in there}
        return TaskInstances({key: self._told(self.tasks[key]) for key in there}, raw_ids=raw_ids)

    def read_records(self, *_: object) -> dict[TaskInstanceKey, Record]:
        return {}

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


def is_checked(pod: Json) -> bool:
    return bool(pod["metadata"]["labels"].get("already_checked") == "True")


def is_terminating(pod: Json) -> bool:
    return "deletionTimestamp" in pod["metadata"]


def is_completed(pod: Json) -> bool:
    return pod["status"]["phase"] in ("Succeeded", "Failed")


def find_pods(server: Server, task: Task) -> list[Json]:
    """What ``KubernetesPodOperator.find_pod`` finds: by labels without the try number, not checked; oldest first."""
    wanted = task.labels.items()
    found = [
        pod
        for pod in server.pods(task.namespace).values()
        if wanted <= pod["metadata"]["labels"].items() and not is_checked(pod)
    ]
    return sorted(
        found, key=lambda pod: (pod["metadata"]["creationTimestamp"], int(pod["metadata"]["resourceVersion"]))
    )


def pods_in_use(server: Server, tasks: Collection[Task]) -> set[str]:
    """The uids of the pods to which a live task instance is attached, or its next try would attach.

    That is the latest which ``find_pod`` finds; where that one is just being deleted, the one before it, too.
    """
    used = set()
    for task in tasks:
        if not task.is_over:
            found = find_pods(server, task)
            used |= {uid(pod) for pod in found[-1:]}
            used |= {uid(pod) for pod in [pod for pod in found if not is_terminating(pod)][-1:]}
    return used


def zombies(pods: Collection[Json], source: MemorySource, settings: Settings, now: int) -> set[str]:
    """The uids of what ought to be deleted, said once more and as plainly as possible."""
    return {uid(pod) for pod in pods if _is_zombie(pod, pods, source, settings, now)}


def _is_zombie(pod: Json, pods: Collection[Json], source: MemorySource, settings: Settings, now: int) -> bool:
    metadata, labels = pod["metadata"], pod["metadata"]["labels"]
    key, try_number = key_of(pod), int(labels.get("try_number", "-1"))
    left_alone = (
        key is None
        or "kpo-cleanup/protect" in metadata.get("annotations", {})
        or any(owner.get("controller") for owner in metadata.get("ownerReferences", []))
        or (is_terminating(pod) and now <= epoch(metadata["deletionTimestamp"]) + settings.settle_seconds)
    )
    if key is None or left_alone:
        return False
    task = source.tasks.get(key)
    if task is None:
        return settings.delete_unmatched_pods and now - epoch(metadata["creationTimestamp"]) > settings.settle_seconds
    if not task.is_over:
        has_newer = any(
            key_of(other) == key
            and other["metadata"]["namespace"] == metadata["namespace"]
            and int(other["metadata"]["labels"]["try_number"]) > try_number
            and other["metadata"]["creationTimestamp"] >= metadata["creationTimestamp"]
            and not is_checked(other)
            and not is_terminating(other)
            for other in pods
        )
        is_behind = source.tells_all and is_checked(pod) and task.try_number > try_number
        if not (has_newer or is_behind):
            return False
        over_since = _last_sign(pod)
    else:
        known = source.tells_all and task.ended is not None
        over_since = min(task.ended if known and task.ended is not None else _last_sign(pod), now)
        if now - over_since < settings.settle_seconds:
            return False
    if not is_completed(pod):
        return True
    ttl = settings.ttl_seconds_after_finished
    if ttl is not None and now - over_since > ttl:
        return True
    if pod["status"]["phase"] == "Failed":
        return settings.delete_pods_on_failure
    return settings.delete_completed_pods and not is_checked(pod)


def key_of(pod: Json) -> TaskInstanceKey | None:
    """None where a label is missing."""
    labels = pod["metadata"]["labels"]
    if not {"dag_id", "task_id", "run_id", "try_number"} <= labels.keys():
        return None
    return TaskInstanceKey(
        labels["dag_id"], labels["task_id"], labels["run_id"], int(labels.get("map_index", str(UNMAPPED)))
    )


def _last_sign(pod: Json) -> int:
    states = [container["state"] for container in pod["status"].get("containerStatuses", [])]
    ends = [epoch(state["terminated"]["finishedAt"]) for state in states if "terminated" in state]
    starts = [epoch(state["running"]["startedAt"]) for state in states if "running" in state]
    return max(ends or starts or [epoch(pod["metadata"]["creationTimestamp"])])
