"""Pods, task instances and verdicts as XComs: compact JSON that people can read.

Airflow 2 shows keys in alphabetical order; those with the longest values are named so that they come after the summary.
Ids are nested keys, so that each is written once however many pods share it. The rows of a DAG are one string of JSON,
because Airflow copies return values several times, and nested lists would take twice as much memory as all the rest.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import fields
from itertools import islice
from sys import intern
from typing import Any, NamedTuple

from . import __version__
from .constants import Reason
from .diagnosis import diagnose
from .errors import KpoCleanupError
from .evidence import phrases
from .identity import UNMAPPED, TaskInstanceKey, make_key
from .kube.interface import Listing
from .task_instance import RawIds, Record, TaskInstance, TaskInstances
from .text import printable
from .verdict import Verdict, count_reasons
from .workloads.workload import POD, Container, Links, Owner, Workload, common_noun

MAX_KEPT = 200  # kept pods in the XCom of classify, where they are only for people

_LEVELS = ("namespace", "dag_id", "task_id", "run_id")  # levels of the tree, so that each id is written once
_COLUMNS = ("name", "uid", "created", "phase", "try_number", "labels", "requests", "image", "node", "containers")
_SHARED = ("labels", "requests", "image", "node")  # few distinct values: a row refers to them by number
# The key is in the levels and the row. resource_version is left out because reap lists the pods again.
_LEFT_OUT = ("key", "resource_version")
# All other fields are written by name, and only if they differ from their default.
_DEFAULTS = {f.name: f.default for f in fields(Workload) if f.name not in (*_LEVELS, *_COLUMNS, *_LEFT_OUT)}


def dump_listing(listing: Listing) -> dict[str, Any]:
    """Return a listing as JSON. ``tree`` maps namespace and dag_id to a JSON string: rows by task_id and run_id.

    The ids are label values.
    """
    of_dags = _tree()
    for workload in listing.workloads:
        of_dags[workload.namespace].setdefault(workload.dag_id, []).append(workload)
    shared: dict[str, dict[Any, int]] = {name: {} for name in _SHARED}
    tree = {
        namespace: {dag_id: _dump_rows(workloads, shared) for dag_id, workloads in dags.items()}
        for namespace, dags in of_dags.items()
    }
    noun = common_noun(listing.workloads)
    return {
        "summary": f"{noun}s: {len(listing.workloads)}, in: {printable(', '.join(tree)) or 'no namespace'}",
        "unlisted": _dump_errors(listing.errors_by_namespace),
        "columns": f"{', '.join(_COLUMNS)} ({', '.join(Container._fields)}; times in seconds after created), other",
        # Named "tables" so that Airflow 2, which sorts keys, shows it after the summary.
        "tables": {name: [each if isinstance(each, str) else dict(each) for each in shared[name]] for name in _SHARED},
        "tree": tree,
        "version": __version__,
    }


def _dump_rows(workloads: Sequence[Workload], shared: Mapping[str, dict[Any, int]]) -> str:
    runs = _tree()
    for workload in workloads:
        values = {name: getattr(workload, name) for name in _COLUMNS}
        for name, numbers in shared.items():
            values[name] = numbers.setdefault(values[name], len(numbers))
        values["containers"] = [_dump_container(container, workload.created) for container in workload.containers]
        row = list(values.values())
        others = {name: value for name, default in _DEFAULTS.items() if (value := getattr(workload, name)) != default}
        if workload.map_index != UNMAPPED:
            others["map_index"] = workload.map_index
        runs[workload.task_id].setdefault(workload.run_id, []).append([*row, others] if others else row)
    return _to_json(runs)


def load_listing(data: Mapping[str, Any]) -> Listing:
    """Return the listing that :func:`dump_listing` wrote.

    :raises KpoCleanupError: if another version wrote it, because kpo_cleanup was upgraded during the run.
    """
    _check_version("list_pods", data)
    shared = {
        name: [each if isinstance(each, str) else tuple(sorted(each.items())) for each in data["tables"][name]]
        for name in _SHARED
    }
    workloads = [
        _load_workload(dict(zip((*_LEVELS, *_COLUMNS, "others"), (namespace, dag_id, task_id, run_id, *row))), shared)
        for namespace, dags in data["tree"].items()
        for dag_id, text in dags.items()
        for task_id, runs in json.loads(text).items()
        for run_id, rows in runs.items()
        for row in rows
    ]
    return Listing(workloads, _load_errors(data["unlisted"]))


def _dump_errors(errors_by_namespace: Mapping[str, KpoCleanupError]) -> dict[str, dict[str, str]]:
    return {namespace: error.fields for namespace, error in errors_by_namespace.items()}


def _load_errors(data: Mapping[str, Mapping[str, str]]) -> dict[str, KpoCleanupError]:
    return {namespace: KpoCleanupError(**fields) for namespace, fields in data.items()}


def _load_workload(values: dict[str, Any], shared: Mapping[str, list[Any]]) -> Workload:
    values.update(values.pop("others", {}))
    dag_id, task_id, run_id = (values.pop(level) for level in _LEVELS[1:])
    values["key"] = TaskInstanceKey(dag_id, task_id, run_id, values.pop("map_index", UNMAPPED))
    values.update({name: shared[name][values[name]] for name in _SHARED})
    values["phase"] = intern(values["phase"])  # thousands of pods share a few texts
    values["containers"] = tuple(_load_container(each, values["created"]) for each in values["containers"])
    values["finalizers"] = tuple(values.get("finalizers", ()))
    if "controller" in values:
        values["controller"] = Owner(*values["controller"])
    if "links" in values:
        labelled, lost, *others = values["links"]
        values["links"] = Links(labelled and Owner(*labelled), lost and Owner(*lost), *others)
    return Workload(**values)


def _dump_container(container: Container, created: int) -> list[Any]:
    """Return the fields of a container in order, without trailing defaults."""
    fields = list(_shift(container, -created))
    while fields and fields[-1] == Container._field_defaults.get(Container._fields[len(fields) - 1]):
        fields.pop()
    return fields


def _load_container(fields: list[Any], created: int) -> Container:
    name, state, *others = fields
    return _shift(Container(intern(name), intern(state), *others), created)


def _shift(container: Container, seconds: int) -> Container:
    """Shift a container's times by some seconds. XComs hold them relative to the pod's creation, which is shorter."""
    started, ended = (None if time is None else time + seconds for time in (container.started, container.ended))
    return container._replace(started=started, ended=ended)


def dump_task_instances(
    task_instances: TaskInstances, records: Mapping[TaskInstanceKey, Record] | None = None
) -> dict[str, Any]:
    """Return task instances as JSON. ``task_instances`` maps dag_id to a JSON string: rows by task_id and run_id.

    The ids are label values; ``unhashed`` has the raw ids that differ from them.
    """
    tree = _tree()
    for key, ti in task_instances.found.items():
        row = [key.map_index, ti.state, ti.try_number, ti.ended, ti.operator and printable(ti.operator)]
        while row[-1] is None and len(row) > 2:
            row.pop()
        tree[key.dag_id][key.task_id].setdefault(key.run_id, []).append(row)
    raw_ids = ((key, ids[0]) for key, ids in task_instances.raw_ids.items() if len(ids) == 1)
    unhashed = {label: raw for key, ids in raw_ids for label, raw in zip(key, ids) if label != raw}
    active = sum(ti.is_active for ti in task_instances.found.values())
    return {
        "summary": f"{active} active and {len(task_instances.found) - active} finished task instances of the workloads",
        "columns": "map_index, state, try_number, ended, operator",
        "task_instances": {dag_id: _to_json(tasks) for dag_id, tasks in tree.items()},
        "unhashed": unhashed,
        "unresolved": sorted([*key, why] for key, why in task_instances.unresolved.items()),
        "records": sorted(
            [*key, sorted(record.workloads), record.problem, *([True] if record.is_detached else [])]
            for key, record in (records or {}).items()
        ),
        "try_number_may_lag": task_instances.try_number_may_lag,
    }


def load_task_instances(data: Mapping[str, Any]) -> tuple[TaskInstances, dict[TaskInstanceKey, Record]]:
    """Return the task instances and the operators' records that :func:`dump_task_instances` wrote."""
    found = {
        TaskInstanceKey(dag_id, task_id, run_id, row[0]): TaskInstance(*row[1:])
        for dag_id, text in data["task_instances"].items()
        for task_id, runs in json.loads(text).items()
        for run_id, rows in runs.items()
        for row in rows
    }
    unresolved = {TaskInstanceKey(*key): why for *key, why in data["unresolved"]}
    records = {
        TaskInstanceKey(*row[:4]): Record(frozenset(row[4]), *row[5:])  # its problem, and whether it is detached
        for row in data["records"]
    }
    unhashed = data["unhashed"]
    raw_ids = {key: (RawIds(*(unhashed.get(label, label) for label in key[:3])),) for key in found}
    return TaskInstances(found, unresolved, raw_ids, data["try_number_may_lag"]), records


class Classification(NamedTuple):
    """The part of a classification that ``reap`` needs."""

    zombies: list[Verdict]
    errors_by_namespace: dict[str, KpoCleanupError]
    workloads: int  # number of listed workloads
    candidates: int  # number of those that may be zombies, but whose records were not read
    noun: str  # common noun for all of the workloads


def dump_classification(
    verdicts: Sequence[Verdict], errors_by_namespace: Mapping[str, KpoCleanupError]
) -> dict[str, Any]:
    """Return the zombies as JSON, in order of deletion, and up to ``MAX_KEPT`` of the kept pods, for display only.

    Pods of active task instances are counted, but not listed.
    """
    zombies = [verdict for verdict in verdicts if verdict.is_zombie]
    kept = [verdict for verdict in verdicts if not (verdict.is_zombie or verdict.awaits_record)]
    return {
        "zombies_by_reason": count_reasons(zombies),
        "kept_by_reason": count_reasons(kept),
        "zombies_by_dag": dict(Counter(verdict.dag_id for verdict in zombies).most_common()),
        "workloads": len(verdicts),
        "noun": common_noun(verdict.workload for verdict in verdicts),
        "candidates": len(verdicts) - len(zombies) - len(kept),
        "unlisted": _dump_errors(errors_by_namespace),
        "untouched": [_dump_verdict(v) for v in islice((v for v in kept if v.reason is not Reason.ACTIVE), MAX_KEPT)],
        "zombies": [
            {
                **_dump_verdict(v),
                "cause": diagnose(v.workload).problem,
                "node": v.workload.node,
                "image": v.workload.image,
                "uid": v.workload.uid,
                "created": v.workload.created,
            }
            for v in zombies
        ],
        "version": __version__,
    }


def load_classification(data: Mapping[str, Any]) -> Classification:
    """Return the part of what :func:`dump_classification` wrote that ``reap`` needs.

    :raises KpoCleanupError: if the format is not the one that this version writes.
    """
    _check_version("classify", data)
    try:
        errors = _load_errors(data["unlisted"])
        zombies = [_load_zombie(row) for row in data["zombies"]]
        return Classification(zombies, errors, data["workloads"], data["candidates"], data["noun"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise KpoCleanupError(
            "the XCom of classify cannot be read",
            cause=f"{type(error).__name__}: {error}",
            remedy="clear list_pods and its downstream tasks",
        ) from error


def _dump_verdict(verdict: Verdict) -> dict[str, Any]:
    workload = verdict.workload
    return {
        **workload.reference,
        "reason": verdict.reason.value,
        "evidence": list(phrases(verdict)),
        **verdict.ids,
        **({"link": verdict.link} if verdict.link else {}),
    }


def _load_zombie(row: Mapping[str, Any]) -> Verdict:
    kind = row.get("kind", POD)
    namespace, _, name = row["pod" if kind == POD else "name"].partition("/")
    raw_ids = RawIds(*(row[name] for name in RawIds._fields))
    key = make_key(*raw_ids, row["map_index"])
    workload = Workload(
        namespace, name, row["uid"], row["created"], phase="", key=key, try_number=row["try_number"], kind=kind
    )
    verdict = Verdict(workload, True, Reason(row["reason"]), tuple(row["evidence"]))
    return verdict._replace(raw_ids=raw_ids, link=row["link"]) if "link" in row else verdict


def _check_version(task_id: str, data: Mapping[str, Any]) -> None:
    version = data.get("version", "0.1.0")  # the last one that did not write its version
    if version != __version__:
        raise KpoCleanupError(
            f"the XCom of {task_id} was written by kpo_cleanup {version}, but this is {__version__}",
            cause="it was upgraded during this run",
            remedy="wait for the next run, or trigger one",
        )


def _tree() -> Any:
    return defaultdict(_tree)


def _to_json(rows: Any) -> str:
    return json.dumps(rows, separators=(",", ":"))
