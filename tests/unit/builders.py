"""Builders of plain, valid values, so that a test names only the fields that matter to it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from include.kpo_cleanup.classify import Snapshot, classify
from include.kpo_cleanup.constants import Reason
from include.kpo_cleanup.identity import TaskInstanceKey
from include.kpo_cleanup.settings import Settings
from include.kpo_cleanup.task_instance import Record, TaskInstance, TaskInstances
from include.kpo_cleanup.verdict import Evidence, Rule, Verdict
from include.kpo_cleanup.workloads.workload import Container, Owner, Workload

NOW = int(datetime(2026, 11, 24, 12, tzinfo=UTC).timestamp())
MINUTE, HOUR, DAY = 60, 3_600, 86_400
SETTLE = Settings().settle_seconds

JOB = Owner("Job", "nightly", "1", "batch/v1")

_serial = itertools.count(1)


def make_pod(**overrides: Any) -> Workload:
    """Return a running pod of try 1, two hours old; one of a later try is some minutes younger."""
    number = next(_serial)
    try_number = overrides.get("try_number", 1)
    values: dict[str, Any] = {
        "namespace": "airflow",
        "name": f"extract-{number:08d}",
        "uid": f"00000000-0000-4000-8000-{number:012d}",
        "created": NOW - 2 * HOUR + MINUTE * (try_number - 1 if try_number < 60 else 0),
        "phase": "Running",
        "key": TaskInstanceKey("orders", "extract", "run_1"),
        "try_number": 1,
        "containers": (Container("base", "running", NOW - 2 * HOUR),),
    }
    ids = {name: overrides.pop(name) for name in TaskInstanceKey._fields if name in overrides}
    values["key"] = values["key"]._replace(**ids)
    return Workload(**{**values, **overrides})


def make_ti(**overrides: Any) -> TaskInstance:
    """Return a task instance that failed an hour ago, in its first try."""
    values: dict[str, Any] = {
        "state": "failed",
        "try_number": 1,
        "ended": NOW - HOUR,
        "operator": "KubernetesPodOperator",
    }
    return TaskInstance(**{**values, **overrides})


def answer(
    found: Mapping[TaskInstanceKey, TaskInstance | None], *unresolved: TaskInstanceKey, try_number_may_lag: bool = False
) -> TaskInstances:
    """Return the answer of a source; a task instance that is None was not found."""
    exist = {key: ti for key, ti in found.items() if ti is not None}
    problems = dict.fromkeys(unresolved, "the source does not know")
    return TaskInstances(exist, problems, try_number_may_lag=try_number_may_lag)


FINISHED = make_ti()
NO_TI = None


def classify_pod(
    pod: Workload,
    ti: TaskInstance | None = FINISHED,
    *others: Workload,
    unresolved: bool = False,
    try_number_may_lag: bool = False,
    record: Record | None = None,
    **settings: Any,
) -> Verdict:
    """Return the verdict on one pod, among others of the same listing.

    :param record: the operator's record; by default, that of an active task instance names the last of the others.
    """
    if record is None and others and ti is not None and ti.is_active:
        record = Record(frozenset({str(others[-1])}))
    task_instances = answer({pod.key: ti}, *([pod.key] if unresolved else []), try_number_may_lag=try_number_may_lag)
    records = {} if record is None else {pod.key: record}
    verdicts = classify(Snapshot([pod, *others], task_instances, Settings(**settings), NOW, records))
    return next(verdict for verdict in verdicts if verdict.workload is pod)


def make_verdict(**overrides: Any) -> Verdict:
    """Return the verdict on an orphaned pod, a zombie."""
    values: dict[str, Any] = {
        "workload": make_pod(),
        "is_zombie": True,
        "reason": Reason.ORPHANED,
        "evidence": Evidence(Rule.ORPHANED, NOW, FINISHED),
    }
    return Verdict(**{**values, **overrides})


def timestamp(epoch: int) -> str:
    """Return a time as the Kubernetes API writes it."""
    return datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def make_item(
    *,
    labels: Any = None,
    metadata: Mapping[str, Any] | None = None,
    spec: Any = None,
    status: Any = None,
) -> dict[str, Any]:
    """Return one item of a pod list, as a real API server returns it for a pod of the operator.

    :param labels: changes to the operator's labels, where None removes one; anything but a mapping replaces them all.
    """
    own_labels: Any = {
        "airflow_kpo_in_cluster": "True",
        "airflow_version": "3.3.2",
        "dag_id": "orders",
        "kubernetes_pod_operator": "True",
        "run_id": "run_1",
        "task_id": "extract",
        "try_number": "1",
    }
    if labels is None or isinstance(labels, Mapping):
        changed = {**own_labels, **(labels or {})}
        own_labels = {name: value for name, value in changed.items() if value is not None}
    else:
        own_labels = labels
    return {
        "metadata": {
            "name": "extract-ab12cd34",
            "namespace": "airflow",
            "uid": "6f9619ff-8b86-4011-b42d-00c04fc964ff",
            "resourceVersion": "4711",
            "creationTimestamp": timestamp(NOW - 2 * HOUR),
            "labels": own_labels,
            "annotations": {},
            **(metadata or {}),
        },
        "spec": {
            "containers": [{"name": "base", "image": "busybox", "resources": {}}],
            "restartPolicy": "Never",
        }
        if spec is None
        else spec,
        "status": {
            "phase": "Running",
            "containerStatuses": [
                {"name": "base", "ready": True, "state": {"running": {"startedAt": timestamp(NOW - HOUR)}}}
            ],
        }
        if status is None
        else status,
    }
