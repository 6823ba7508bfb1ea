"""Which workloads are in use, and which must be deleted: the rules, stated again as simply as possible.

They are independent of the product. Their workloads are what ``objects.workloads`` returns.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from include.kpo_cleanup.constants import Outcome
from include.kpo_cleanup.identity import UNMAPPED, TaskInstanceKey
from include.kpo_cleanup.settings import Settings
from include.kpo_cleanup.task_instance import Record
from tests.faults import objects
from tests.faults.objects import (
    APPLICATION,
    JOB,
    JOB_NAME,
    MARKERS,
    POD,
    Json,
    already_checked,
    controller_of,
    controller_uid,
    created,
    epoch,
    is_completed,
    is_driver,
    is_finished,
    is_protected,
    is_selected,
    is_terminating,
    is_working,
    kind,
    name,
    uid,
    workloads,
)
from tests.faults.servers import Server
from tests.faults.world import MemorySource, Operator, Task

DAY = 24 * 3600
NOT_SELECTED_BY = {
    *("dag_id", "task_id", "run_id", "map_index", *MARKERS.values()),
    *("try_number", "already_checked", "airflow_version", "airflow_kpo_in_cluster"),
}


def find_pods(server: Server, task: Task, operator: Operator) -> list[Json]:
    """Return the pods that ``KubernetesPodOperator.find_pod`` finds, oldest first."""
    return matching_pods(server.pods(task.namespace).values(), task, operator)


def matching_pods(found: Iterable[Json], task: Task, operator: Operator) -> list[Json]:
    selector = {**operator.labels, **task.labels}.items()
    pods = (obj for obj in found if kind(obj) == POD)
    matching = [pod for pod in pods if selector <= pod["metadata"]["labels"].items() and not already_checked(pod)]
    return sorted(
        matching, key=lambda pod: (pod["metadata"]["creationTimestamp"], int(pod["metadata"]["resourceVersion"]))
    )


def find_driver(found: Iterable[Json], task: Task, operator: Operator) -> Json | None:
    """Return the driver that ``SparkKubernetesOperator.find_spark_job`` finds."""
    if not task.reattaches:
        return None
    drivers = [pod for pod in matching_pods(found, task, operator) if is_driver(pod)]
    return max(
        (pod for pod in drivers if pod["status"]["phase"] not in ("Failed", "Unknown")),
        key=lambda pod: (
            not is_terminating(pod),
            pod["status"]["phase"] == "Succeeded",
            pod["status"]["phase"] == "Pending",
            pod["metadata"]["creationTimestamp"],
            name(pod),
        ),
        default=None,
    )


def in_use(found: Collection[Json], tasks: Iterable[Task]) -> set[str]:
    """Return the uids of the objects to which a live task instance is attached, or which its next try would adopt.

    A Job that its operator has left running is in use until it has finished, whatever becomes of its task instance.
    """
    used: set[str] = set()
    for task in tasks:
        place = [obj for obj in found if obj["metadata"]["namespace"] == task.namespace]
        used |= {uid(obj) for obj in place if uid(obj) in task.detached and not is_finished(obj)}
        if task.is_finished:
            continue
        by_kind = {POD: _pods_in_use, JOB: _jobs_in_use, APPLICATION: _applications_in_use}
        used |= by_kind[task.kind](place, task) | {each.uses for each in task.operators if each.uses}
    return used


def _pods_in_use(place: Collection[Json], task: Task) -> set[str]:
    """Return the latest pod that ``find_pod`` finds, and if it is being deleted, the latest one that is not."""
    used = set()
    for operator in task.operators:
        matching = matching_pods(place, task, operator)
        used |= {uid(pod) for pod in matching[-1:]}
        used |= {uid(pod) for pod in [pod for pod in matching if not is_terminating(pod)][-1:]}
    stored = {kept["name"] for kept in task.store.values() if task.reattaches}
    pods = [obj for obj in place if kind(obj) == POD]
    used |= {uid(pod) for pod in pods if pod["metadata"]["name"] in stored and not already_checked(pod)}
    return used - {uid(pod) for pod in pods if _is_of_unrecorded_map_index(pod, task)}


def _jobs_in_use(place: Collection[Json], task: Task) -> set[str]:
    """Return the unfinished Jobs of all tries, and their pods, which the operator finds by their labels."""
    selector = {**task.operators[0].labels, **task.labels}.items()
    alike = [obj for obj in place if selector <= obj["metadata"]["labels"].items() and make_key(obj) == task.key]
    jobs = {uid(obj) for obj in alike if kind(obj) == JOB and not is_finished(obj)}
    return jobs | {uid(obj) for obj in alike if kind(obj) == POD and not is_completed(obj) and not already_checked(obj)}


def _applications_in_use(place: Collection[Json], task: Task) -> set[str]:
    """Return the application whose driver a retry adopts, unless it could adopt the recorded driver instead."""
    driver = find_driver(place, task, task.operators[0])
    if driver is None or _is_of_unrecorded_map_index(driver, task):
        return set()
    record = task.record or Record()
    recorded = [
        pod
        for pod in matching_pods(place, task, task.operators[0])
        if name(pod) in record.workloads and pod["status"]["phase"] in ("Pending", "Running")
    ]
    is_spare = any(not is_terminating(pod) and uid(pod) != uid(driver) for pod in recorded)
    return set() if is_spare else {controller_uid(driver)}


def _is_of_unrecorded_map_index(pod: Json, task: Task) -> bool:
    """Return whether only a record would show that this task uses the pod, because it was created by a map index."""
    is_other, record = task.map_index == UNMAPPED and "map_index" in pod["metadata"]["labels"], task.record or Record()
    return is_other and not record.problem and name(pod) not in record.workloads


def zombies(found: Collection[Json], source: MemorySource, settings: Settings, now: int) -> set[str]:
    """Return the uids of the workloads that the rules delete."""
    selected = workloads(found, settings)
    return {uid(obj) for obj in selected if _is_zombie(obj, selected, source, settings, now)}


def must_be_deleted(found: Collection[Json], source: MemorySource, settings: Settings, now: int) -> set[str]:
    """Return the uids of the dead workloads that the settings delete, provided that all belong to this Airflow.

    It ignores tries, end times and records of pods, with one exception: an unreadable record keeps an unchecked pod.
    """
    selected = workloads(found, settings)
    return {uid(obj) for obj in selected if _must_be_deleted(obj, selected, source, settings, now)}


def _must_be_deleted(
    obj: Json, all_selected: Collection[Json], source: MemorySource, settings: Settings, now: int
) -> bool:
    key = make_key(obj)
    if key is None or is_exempt(obj, settings, now) or is_completed(obj):
        return False
    if key.dag_id == source.unresolved_dag or _may_be_used_by_plain_task(obj, all_selected, source.tasks):
        return False
    task, long_ago = source.tasks.get(key), now - max(settings.settle_seconds, 300)
    if kind(obj) != POD:
        return bool(task and _is_dead(obj, task, long_ago))
    if is_working(obj) and created(obj) >= now - DAY:
        return False  # deleted immediately if it is orphaned, but only after a day if it is unmatched
    if task is None:
        return created(obj) < long_ago
    is_readable = already_checked(obj) or not (task.record and task.record.problem)
    last_activity = max(objects.last_activity(obj), task.ended or 0)
    return task.is_finished and last_activity < long_ago and is_readable


def _is_dead(owner: Json, task: Task, long_ago: int) -> bool:
    """Return whether a Job or an application is named by the record of a task that failed while waiting for it."""
    has_failed = task.is_finished and task.state != "success" and task.waits
    is_its_own = record_name(owner) in (task.record or Record()).workloads and try_of(owner) <= task.try_number
    last_activity = objects.last_activity(owner)  # by which a source without end times estimates the end
    ended = last_activity if task.ended is None else task.ended
    has_settled = created(owner) <= ended and max(ended, last_activity) < long_ago
    return has_failed and is_its_own and has_settled and uid(owner) not in task.detached


def agrees(outcome: Outcome, obj: Json | None, was_deleted: bool, settings: Settings) -> bool:
    """Return whether an outcome is true.

    :param obj: the object after the run, or None if it no longer exists.
    :param was_deleted: whether the API server has carried out a deletion of this run.
    """
    match outcome:
        case Outcome.DELETED:
            return obj is None
        case Outcome.TERMINATING | Outcome.AWAITING_FINALIZER:
            return obj is None or is_terminating(obj)
        case Outcome.ALREADY_GONE:
            return obj is None or not is_selected(obj, settings)
        case Outcome.UNKNOWN:
            return True
        case _:
            return not was_deleted


def is_exempt(obj: Json, settings: Settings, now: int) -> bool:
    """Return whether something on the object itself keeps it, whatever the state of its task instance."""
    metadata = obj["metadata"]
    return (
        not is_selected(obj, settings)
        or is_protected(obj)
        or controller_of(obj) is not None
        or (is_terminating(obj) and now <= epoch(metadata["deletionTimestamp"]) + settings.settle_seconds)
        or (is_terminating(obj) and bool(metadata.get("finalizers")))
    )


def _is_zombie(obj: Json, all_selected: Collection[Json], source: MemorySource, settings: Settings, now: int) -> bool:
    key, try_number = make_key(obj), try_of(obj)
    if key is None or key.dag_id == source.unresolved_dag or is_exempt(obj, settings, now):
        return False
    if _may_be_used_by_plain_task(obj, all_selected, source.tasks):
        return False
    task, is_pod = source.tasks.get(key), kind(obj) == POD
    unmatched = (
        is_pod
        and settings.delete_unmatched_pods
        and now - created(obj) > (DAY if is_working(obj) else settings.settle_seconds)
    )
    if task is None:
        return unmatched
    record = _record_of(obj, task)
    is_named = record_name(obj) in record.workloads
    if not task.is_finished:
        if kind(obj) == JOB or is_named or record.problem:
            return False
        if not _is_superseded(obj, task, record, all_selected, source.knows_all):
            return False
        over_since = objects.finished_at(obj)
    else:
        known = task.ended if source.knows_all else None
        end = known if known is not None else objects.end_of_main(obj)
        over_since = objects.finished_at(obj) if end is None else end
        if over_since is not None and now - min(over_since, now) < settings.settle_seconds:
            return False
        if not already_checked(obj):
            if known is not None and created(obj) > known + 5:
                return unmatched
            if source.knows_all and try_number > task.try_number:
                return unmatched
            if record.workloads and not is_named:
                same_try = try_number == task.try_number
                named = [other for other in all_selected if record_name(other) in record.workloads]
                later = any(try_of(other) > try_number for other in named)
                if same_try if source.knows_all else not later:
                    return unmatched
            if record.problem:
                return False
    if not is_completed(obj):
        return not task.is_finished or is_pod or not _may_outlive(obj, task, record)
    if over_since is None and task.is_finished:
        return False
    ttl = settings.ttl_seconds_after_finished
    if ttl is not None and over_since is not None and now - max(over_since, objects.finished_at(obj) or 0) > ttl:
        return True
    if not is_pod:
        return False
    if obj["status"]["phase"] == "Failed":
        return settings.delete_pods_on_failure
    return settings.delete_completed_pods and not already_checked(obj)


def _may_outlive(owner: Json, task: Task, record: Record) -> bool:
    """Return whether a Job or an application may be running on purpose although its task instance has finished."""
    is_detached = record.is_detached or not record.workloads
    return task.state == "success" or (kind(owner) == JOB and is_detached)


def _record_of(obj: Json, task: Task) -> Record:
    """Return the record of the task if its operator creates objects of this kind."""
    is_of_job = JOB in (kind(obj), *record_name(obj).split()[:1])
    return (task.record if is_of_job == (task.kind == JOB) else None) or Record()


def _may_be_used_by_plain_task(
    obj: Json, all_selected: Collection[Json], tasks: Mapping[TaskInstanceKey, Task]
) -> bool:
    """Return whether an operator of a task that is no longer mapped may use the pod of a map index.

    If it uses another one with these labels, that one is recorded.
    """
    key = make_key(obj)
    plain = key and key.map_index != UNMAPPED and tasks.get(key._replace(map_index=UNMAPPED))
    if not plain or plain.is_finished:
        return False
    record = _record_of(obj, plain)
    if record_name(obj) in record.workloads:
        return True
    recorded = [other for other in all_selected if record_name(other) in record.workloads and is_alike(other, obj)]
    return kind(obj) != JOB and not recorded


def _is_superseded(obj: Json, task: Task, record: Record, all_selected: Collection[Json], knows_all: bool) -> bool:
    """Return whether the operator of a live task instance uses a later workload."""
    if knows_all and already_checked(obj) and task.try_number > try_of(obj):
        return True
    newer = [
        other
        for other in all_selected
        if make_key(other) == task.key
        and is_alike(other, obj)
        and try_of(obj) < try_of(other) <= (task.try_number if knows_all else 10**6)
        and other["metadata"]["creationTimestamp"] > obj["metadata"]["creationTimestamp"]
        and not already_checked(other)
        and not is_terminating(other)
        and not controller_of(other)
        and (kind(other) == POD or other["status"]["phase"] in ("Pending", "Running"))
    ]
    newest = max(
        newer, key=lambda other: (other["metadata"]["creationTimestamp"], try_of(other), uid(other)), default=None
    )
    return newest is not None and record_name(newest) in record.workloads


def make_key(obj: Json) -> TaskInstanceKey | None:
    """Return the key, or None if a label is missing."""
    labels = obj["metadata"]["labels"]
    if not {"dag_id", "task_id", "run_id", "try_number"} <= labels.keys():
        return None
    return TaskInstanceKey(
        labels["dag_id"], labels["task_id"], labels["run_id"], int(labels.get("map_index", str(UNMAPPED)))
    )


def try_of(obj: Json) -> int:
    return int(obj["metadata"]["labels"].get("try_number", "-1"))


def record_name(obj: Json) -> str:
    """Return the name of a workload in its operator's record; for a pod whose Job is gone, the name of that Job."""
    if kind(obj) == APPLICATION:
        return f"{name(obj)}-driver"
    if kind(obj) == JOB:
        return f"{JOB} {name(obj)}"
    job = obj["metadata"]["labels"].get(JOB_NAME)
    return name(obj) if job is None or controller_of(obj) else f"{JOB} {obj['metadata']['namespace']}/{job}"


def is_alike(first: Json, second: Json) -> bool:
    """Return whether the same operator could use either of two objects, if they belong to one task."""
    return (
        kind(first) == kind(second)
        and first["metadata"]["namespace"] == second["metadata"]["namespace"]
        and _own_labels(first) == _own_labels(second)
    )


def _own_labels(obj: Json) -> dict[str, str]:
    return {label: value for label, value in obj["metadata"]["labels"].items() if label not in NOT_SELECTED_BY}
