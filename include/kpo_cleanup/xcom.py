"""How pods, task instances and verdicts pass between the tasks: small JSON that a person can read.

Airflow 2 shows keys in alphabetical order; they are named so that the long ones come after the summary there, too.
Ids are keys, nested, so that each is written once however many pods share it. The rows of a DAG are one string of JSON:
Airflow copies what a task returns several times, which for nested lists takes twice the memory of all the rest.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import fields
from itertools import islice
from sys import intern
from typing import Any, NamedTuple

from . import __version__
from .classify import Verdict
from .constants import Reason
from .diagnosis import cause_of
from .errors import KpoCleanupError
from .identity import TaskInstanceKey
from .kube.interface import Listing
from .pod import IDS, Container, Owner, Pod
from .task_instance import Record, TaskInstance, TaskInstances

_LEVELS = ("namespace", "dag_id", "task_id", "run_id")  # of the tree, so that each is written once
_COLUMNS = ("name", "uid", "created", "phase", "try_number", "labels", "requests", "containers")  # of every row
_SHARED = ("labels", "requests")  # a few different ones, which thousands of pods share: a row has the number of one
_LEFT_OUT = ("resource_version",)  # old as soon as it is written; whoever deletes lists again
# All other fields are written by name, and only if they differ from their default.
_DEFAULTS = {f.name: f.default for f in fields(Pod) if f.name not in (*_LEVELS, *_COLUMNS, *_LEFT_OUT)}


def dump_listing(listing: Listing) -> dict[str, Any]:
    """Write a listing; ``tree``: by namespace and dag_id the rows of that DAG, by task_id and run_id.

    The ids are label values.
    """
    of_dags = _tree()
    for pod in listing.pods:
        of_dags[pod.namespace].setdefault(pod.dag_id, []).append(pod)
    shared: dict[str, dict[Any, int]] = {name: {} for name in _SHARED}
    tree = {
        namespace: {dag_id: _dump_rows(pods, shared) for dag_id, pods in dags.items()}
        for namespace, dags in of_dags.items()
    }
    return {
        "summary": f"pods: {len(listing.pods)}, in: {', '.join(tree) or 'no namespace'}",
        "unlisted": _dump_errors(listing.errors_by_namespace),
        "columns": f"{', '.join(_COLUMNS)} ({', '.join(Container._fields)}; times in seconds after created), other",
        **{name: [dict(each) for each in numbers] for name, numbers in shared.items()},
        "tree": tree,
        "version": __version__,
    }


def _dump_rows(pods: Sequence[Pod], shared: Mapping[str, dict[Any, int]]) -> str:
    runs = _tree()
    for pod in pods:
        values = {name: getattr(pod, name) for name in _COLUMNS}
        for name, numbers in shared.items():
            values[name] = numbers.setdefault(values[name], len(numbers))
        values["containers"] = [_dump_container(container, pod.created) for container in pod.containers]
        row = list(values.values())
        others = {name: value for name, default in _DEFAULTS.items() if (value := getattr(pod, name)) != default}
        runs[pod.task_id].setdefault(pod.run_id, []).append([*row, others] if others else row)
    return _text_of(runs)


def load_listing(data: Mapping[str, Any]) -> Listing:
    """Read the listing that :func:`dump_listing` wrote.

    :raises KpoCleanupError: if another version wrote it, before an upgrade in the middle of the run.
    """
    _check_version("list_pods", data)
    shared = {name: [tuple(sorted(each.items())) for each in data[name]] for name in _SHARED}
    pods = [
        _load_pod(dict(zip((*_LEVELS, *_COLUMNS, "others"), (namespace, dag_id, task_id, run_id, *row))), shared)
        for namespace, dags in data["tree"].items()
        for dag_id, text in dags.items()
        for task_id, runs in json.loads(text).items()
        for run_id, rows in runs.items()
        for row in rows
    ]
    return Listing(pods, _load_errors(data["unlisted"]))


def _dump_errors(errors_by_namespace: Mapping[str, KpoCleanupError]) -> dict[str, dict[str, str]]:
    return {namespace: error.fields for namespace, error in errors_by_namespace.items()}


def _load_errors(data: Mapping[str, Mapping[str, str]]) -> dict[str, KpoCleanupError]:
    return {namespace: KpoCleanupError(**fields) for namespace, fields in data.items()}


def _load_pod(values: dict[str, Any], shared: Mapping[str, list[Any]]) -> Pod:
    values.update(values.pop("others", {}))
    values.update({name: shared[name][values[name]] for name in _SHARED})
    values["phase"] = intern(values["phase"])  # of thousands of pods; each text is kept once
    values["containers"] = tuple(_load_container(each, values["created"]) for each in values["containers"])
    values["finalizers"] = tuple(values.get("finalizers", ()))
    if "controller" in values:
        values["controller"] = Owner(*values["controller"])
    return Pod(**values)


def _dump_container(container: Container, created: int) -> list[Any]:
    """Write its fields in their order, without the last ones if they have their defaults."""
    fields = list(_moved(container, -created))
    while fields and fields[-1] == Container._field_defaults.get(Container._fields[len(fields) - 1]):
        fields.pop()
    return fields


def _load_container(fields: list[Any], created: int) -> Container:
    name, state, *others = fields
    return _moved(Container(intern(name), intern(state), *others), created)


def _moved(container: Container, seconds: int) -> Container:
    """Count its times from elsewhere; they are shorter if pluralize from the creation of the pod."""
    started, ended = (None if time is None else time + seconds for time in (container.started, container.ended))
    return container._replace(started=started, ended=ended)


def dump_task_instances(
    task_instances: TaskInstances, records: Mapping[TaskInstanceKey, Record] | None = None
) -> dict[str, Any]:
    """Write an answer; ``task_instances``: by dag_id the rows of that DAG, by task_id and run_id.

    The raw ids are left out: whoever asks again finds them again.
    """
    tree = _tree()
    for key, ti in task_instances.found.items():
        row = [key.map_index, ti.state, ti.try_number, ti.ended, ti.operator]
        while row[-1] is None and len(row) > 2:
            row.pop()
        tree[key.dag_id][key.task_id].setdefault(key.run_id, []).append(row)
    active = sum(ti.is_active for ti in task_instances.found.values())
    return {
        "summary": f"{active} active and {len(task_instances.found) - active} finished task instances of these pods",
        "columns": "map_index, state, try_number, ended, operator",
        "task_instances": {dag_id: _text_of(tasks) for dag_id, tasks in tree.items()},
        "unresolved": sorted([*key, why] for key, why in task_instances.unresolved.items()),
        "records": sorted([*key, sorted(record.pods), record.problem] for key, record in (records or {}).items()),
        "try_number_may_lag": task_instances.try_number_may_lag,
    }


def load_task_instances(data: Mapping[str, Any]) -> tuple[TaskInstances, dict[TaskInstanceKey, Record]]:
    """Read the task instances and the operators' records that :func:`dump_task_instances` wrote."""
    found = {
        TaskInstanceKey(dag_id, task_id, run_id, row[0]): TaskInstance(*row[1:])
        for dag_id, text in data["task_instances"].items()
        for task_id, runs in json.loads(text).items()
        for run_id, rows in runs.items()
        for row in rows
    }
    unresolved = {TaskInstanceKey(*key): why for *key, why in data["unresolved"]}
    records = {TaskInstanceKey(*key): Record(frozenset(pods), problem) for *key, pods, problem in data["records"]}
    return TaskInstances(found, unresolved, try_number_may_lag=data["try_number_may_lag"]), records


MAX_KEPT = 200  # pods that are written for people alone


class Classification(NamedTuple):
    """The part of a classification that ``reap`` needs."""

    zombies: list[Verdict]
    errors_by_namespace: dict[str, KpoCleanupError]
    pods: int


def dump_classification(
    verdicts: Sequence[Verdict], errors_by_namespace: Mapping[str, KpoCleanupError]
) -> dict[str, Any]:
    """Write the zombies in the order in which they are to be deleted, and for people the kept pods.

    Those of active task instances are left out.
    """
    kept = (v for v in verdicts if not v.is_zombie and v.reason is not Reason.ACTIVE)
    return {
        "pods": len(verdicts),
        "unlisted": _dump_errors(errors_by_namespace),
        "untouched": [_dump_verdict(verdict) for verdict in islice(kept, MAX_KEPT)],
        "zombies": [
            {**_dump_verdict(verdict), "cause": cause_of(verdict.pod).problem, "uid": verdict.pod.uid}
            for verdict in verdicts
            if verdict.is_zombie
        ],
        "version": __version__,
    }


def load_classification(data: Mapping[str, Any]) -> Classification:
    """Read what :func:`dump_classification` wrote; of each zombie no more than its name and whose it was.

    :raises KpoCleanupError: if it is not as this version writes it.
    """
    _check_version("classify", data)
    try:
        return Classification(
            [_load_zombie(row) for row in data["zombies"]], _load_errors(data["unlisted"]), data["pods"]
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise KpoCleanupError(
            f"the XCom of classify cannot be read ({type(error).__name__}: {error}); "
            "clear list_pods with all that follows"
        ) from error


def _dump_verdict(verdict: Verdict) -> dict[str, Any]:
    pod = verdict.pod
    return {"pod": str(pod), "reason": verdict.reason.value, "evidence": verdict.evidence, **pod.ids}


def _load_zombie(row: Mapping[str, Any]) -> Verdict:
    namespace, _, name = row["pod"].partition("/")
    pod = Pod(namespace, name, row["uid"], created=0, phase="", **{name: row[name] for name in IDS})
    return Verdict(pod, True, Reason(row["reason"]), row["evidence"])


def _check_version(task_id: str, data: Mapping[str, Any]) -> None:
    version = data.get("version", "0.1.0")  # the last that did not say
    if version != __version__:
        raise KpoCleanupError(
            f"{task_id} was run by kpo_cleanup {version}, and this is {__version__}: it was upgraded meanwhile; "
            "the next run starts afresh"
        )


def _tree() -> Any:
    return defaultdict(_tree)


def _text_of(rows: Any) -> str:
    return json.dumps(rows, separators=(",", ":"))
