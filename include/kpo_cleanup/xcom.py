"""How pods, task instances and verdicts pass between the tasks: small JSON that a person can read.

Airflow 2 shows keys in alphabetical order; they are named so that the long ones come after the summary there, too.
Ids are keys, nested, so that each is written once however many pods share it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from include.kpo_cleanup import collector
from include.kpo_cleanup.classify import Verdict
from include.kpo_cleanup.identity import TaskInstanceKey
from include.kpo_cleanup.pod import Container, Pod
from include.kpo_cleanup.pods import Listing
from include.kpo_cleanup.task_instances import TaskInstance, TaskInstances
from include.kpo_cleanup.vocabulary import Reason

_POD_COLUMNS = ("name", "uid", "created", "phase", "try_number", "cpu", "memory")
_DEFAULTS = {f.name: f.default for f in fields(Pod)}
# Rarely set, so written by name and only where they are.
_POD_EXTRAS = (
    "map_index",
    "unidentified",
    "protected",
    "owner",
    "checked",
    "deletion_deadline",
    "finalizers",
)


def dump_listing(listing: Listing) -> dict[str, Any]:
    """``tree``: by namespace, dag_id, task_id and run_id (as label values) the rows of that run."""
    tree = _tree()
    for pod in listing.pods:
        row = [getattr(pod, column) for column in _POD_COLUMNS]
        row.append([_dump_container(container, pod.created) for container in pod.containers])
        extras = {name: getattr(pod, name) for name in _POD_EXTRAS if getattr(pod, name) != _DEFAULTS[name]}
        tree[pod.namespace][pod.dag_id][pod.task_id].setdefault(pod.run_id, []).append(
            [*row, extras] if extras else row
        )
    return {
        "summary": f"pods: {len(listing.pods)}, in: {', '.join(tree) or 'no namespace'}",
        "problems": listing.problems,
        "columns": ", ".join([*_POD_COLUMNS, "containers (name/state/seconds after created/detail)", "other"]),
        "tree": tree,
    }


@collector.paused()
def load_listing(data: Mapping[str, Any]) -> Listing:
    """The listing that :func:`dump_listing` wrote."""
    pods = [
        _load_pod(row, namespace=namespace, dag_id=dag_id, task_id=task_id, run_id=run_id)
        for namespace, dags in data["tree"].items()
        for dag_id, tasks in dags.items()
        for task_id, runs in tasks.items()
        for run_id, rows in runs.items()
        for row in rows
    ]
    return Listing(pods, list(data["problems"]))


def dump_task_instances(task_instances: TaskInstances) -> dict[str, Any]:
    """``task_instances``: by dag_id, task_id and run_id, rows of map index, state and what else is known."""
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
        "task_instances": tree,
        "unresolved": sorted(list(key) for key in task_instances.unresolved),
    }


def load_task_instances(data: Mapping[str, Any]) -> TaskInstances:
    """The task instances that :func:`dump_task_instances` wrote."""
    found = {
        TaskInstanceKey(dag_id, task_id, run_id, row[0]): TaskInstance(*row[1:])
        for dag_id, tasks in data["task_instances"].items()
        for task_id, runs in tasks.items()
        for run_id, rows in runs.items()
        for row in rows
    }
    return TaskInstances(found, frozenset(TaskInstanceKey(*key) for key in data["unresolved"]))


def dump_zombies(verdicts: Iterable[Verdict]) -> list[dict[str, str]]:
    """The zombies, in the order in which they are to be deleted."""
    return [
        {
            "pod": f"{verdict.pod.namespace}/{verdict.pod.name}",
            "reason": verdict.reason.value,
            "evidence": verdict.evidence,
            "uid": verdict.pod.uid,
        }
        for verdict in verdicts
        if verdict.is_zombie
    ]


def load_zombies(data: Iterable[Mapping[str, str]], listing: Listing) -> list[Verdict]:
    """The zombies that :func:`dump_zombies` wrote, with their pods from the listing."""
    pods = {pod.uid: pod for pod in listing.pods}
    return [Verdict(pods[row["uid"]], True, Reason(row["reason"]), row["evidence"]) for row in data]


def _tree() -> Any:
    return defaultdict(_tree)


def _dump_container(container: Container, created: int) -> str:
    since = "" if container.since is None else f"{container.since - created:+}"
    text = f"{container.name}/{container.state}/{since}"
    return f"{text}/{container.detail}" if container.detail else text


def _load_container(text: str, created: int) -> Container:
    name, state, since, *detail = text.split("/", 3)
    return Container(name, state, detail[0] if detail else "", created + int(since) if since else None)


def _load_pod(row: list[Any], **ids: str) -> Pod:
    columns = dict(zip(_POD_COLUMNS, row))
    containers = tuple(_load_container(text, columns["created"]) for text in row[len(_POD_COLUMNS)])
    extras = row[len(_POD_COLUMNS) + 1] if len(row) > len(_POD_COLUMNS) + 1 else {}
    return Pod(**{**ids, **columns, **extras}, containers=containers)
