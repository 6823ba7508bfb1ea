"""Parse the JSON of a response into pods: the fields that are read, and their meaning.

With msgspec, on which Airflow 3 depends, only these fields are decoded. Most of a pod is not needed, above all its
``managedFields``, and skipping it is much faster than building Python objects of it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from sys import intern
from typing import Any, TypedDict

from ..identity import UNMAPPED
from ..text import pluralize, printable
from ..workloads.workload import (
    CHECKED_LABEL,
    CLUSTER_LABEL_PREFIXES,
    DEFAULT_CONTAINER_KEY,
    ID_LABELS,
    KPO_LABEL,
    MAIN_CONTAINER,
    NOT_SEARCHED_BY,
    PROTECT_KEY,
    XCOM_SIDECAR,
    Container,
    Owner,
    Workload,
)

# The fields that are decoded. Any of them may be missing. A list has the fields of each of its items.
_RESOURCES = {"requests": Any}
_STATUSES = [{"name": Any, "state": Any, "lastState": Any, "restartCount": Any}]
_ITEM = {
    "metadata": {
        "name": Any,
        "namespace": Any,
        "uid": Any,
        "resourceVersion": Any,
        "creationTimestamp": Any,
        "deletionTimestamp": Any,
        "labels": Any,
        "annotations": {PROTECT_KEY: Any, DEFAULT_CONTAINER_KEY: Any},
        "ownerReferences": Any,
        "finalizers": Any,
    },
    "spec": {
        "nodeName": Any,
        "containers": [{"name": Any, "image": Any, "resources": _RESOURCES}],
        "initContainers": [{"name": Any, "restartPolicy": Any, "resources": _RESOURCES}],
        "resources": _RESOURCES,
        "overhead": Any,
        "terminationGracePeriodSeconds": Any,
    },
    "status": {
        "phase": Any,
        "reason": Any,
        "message": Any,
        "conditions": [{"type": Any, "status": Any, "reason": Any, "message": Any, "lastTransitionTime": Any}],
        "containerStatuses": _STATUSES,
        "initContainerStatuses": _STATUSES,
    },
}
_RESPONSE = {
    "kind": Any,
    "metadata": {
        "continue": Any,
        "remainingItemCount": Any,
        "finalizers": Any,
        "deletionTimestamp": Any,
        "deletionGracePeriodSeconds": Any,
    },
    "items": [_ITEM],
}

_REQUIRED = ("namespace", "name", "uid", "creationTimestamp")
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
_NUMBER = re.compile(r"0|[1-9][0-9]{0,9}")
_MAX_NUMBER = 2**31 - 1  # Airflow's columns are 32-bit integers
_MAX_ITEMS = 20  # labels, finalizers or resources of a pod that are kept: its creator may write thousands
_SPARK_LABEL = "spark_kubernetes_operator"
_OBVIOUS = ("Completed", "Error")  # reasons that say no more than the exit code
_END_CONDITIONS = ("Ready", "ContainersReady", "DisruptionTarget")  # they change when a pod ends or is evicted


def make_decoder() -> Callable[[bytes], Any]:
    """Return a decoder of responses, which raises ValueError for what is not JSON.

    It returns at least the fields that are read: the pods of a page, and the kind of any other response.
    """
    try:
        from msgspec.json import Decoder
    except ImportError:
        return json.loads
    decoder = Decoder(_to_type(_RESPONSE))

    def decode(body: bytes) -> Any:
        try:
            return decoder.decode(body)
        except Exception:  # decode everything, so that the error is the same as without msgspec
            return json.loads(body)

    return decode


def _to_type(shape: Any) -> Any:
    if isinstance(shape, dict):
        # The functional form allows any key. Only msgspec's errors show the name.
        return TypedDict("_Shape", {key: _to_type(value) for key, value in shape.items()}, total=False)  # type: ignore[operator]
    return list[_to_type(shape[0])] if isinstance(shape, list) else shape  # type: ignore[misc]


def parse_pod(item: Mapping[str, Any]) -> Workload:
    """Parse one item of a pod list. A pod with malformed labels has a ``label_problem``.

    :raises ValueError: if it is not a pod, because it has no name, namespace, uid or creation time.
    """
    metadata, status, spec = _mapping(item.get("metadata")), _mapping(item.get("status")), _mapping(item.get("spec"))
    namespace, name, uid = metadata.get("namespace"), metadata.get("name"), metadata.get("uid")
    created = _epoch(metadata.get("creationTimestamp"))
    if created is None or not (namespace and name and uid):
        fields = {field: metadata.get(field) for field in _REQUIRED}
        raise ValueError(f"an item lacks {', '.join(_REQUIRED[:-1])} or {_REQUIRED[-1]}: {printable(fields)}")
    labels, annotations = _mapping(metadata.get("labels")), _mapping(metadata.get("annotations"))
    containers = [_mapping(container) for container in spec.get("containers") or ()]
    init_containers = [_mapping(container) for container in spec.get("initContainers") or ()]
    sidecars = [container for container in init_containers if container.get("restartPolicy") == "Always"]
    try_number, map_index = _label_number(labels, "try_number"), _label_number(labels, "map_index")
    phase_reason, phase_message = _phase_reason(status)
    main_container = _main_container(containers, annotations)
    return Workload(
        # Thousands of pods share these values, so that each is kept once.
        namespace=_text(namespace),
        name=printable(name),
        uid=printable(uid),
        resource_version=printable(metadata.get("resourceVersion") or ""),
        created=created,
        phase=_text(status.get("phase") or "Unknown"),
        dag_id=_text(labels.get("dag_id") or ""),
        task_id=_text(labels.get("task_id") or ""),
        run_id=_text(labels.get("run_id") or ""),
        map_index=UNMAPPED if map_index is None else map_index,
        try_number=try_number or 0,
        labels=_searched_labels(labels),
        label_problem=printable(_label_problem(labels, {"try_number": try_number, "map_index": map_index})),
        protected_by=printable(_protection(labels) or _protection(annotations)),
        controller=_controller(metadata.get("ownerReferences")),
        job=_job(labels),
        phase_reason=phase_reason,
        phase_message=phase_message,
        node=_text(spec.get("nodeName") or ""),
        image=_text(next((c.get("image") for c in containers if c.get("name") == main_container), None) or ""),
        already_checked=labels.get(CHECKED_LABEL) == "True",
        grace_period=_grace_period(spec),
        deletion_deadline=_epoch(metadata.get("deletionTimestamp")),
        finalizers=_finalizers(metadata),
        main_container=main_container,
        conditions_changed=_conditions_changed(status),
        containers=(*_init_containers(status, sidecars), *map(_container, status.get("containerStatuses") or ())),
        requests=_total_requests(
            tuple(_container_requests([*containers, *sidecars])),
            tuple(_quantities(_mapping(spec.get("resources")).get("requests"))),
            tuple(_quantities(spec.get("overhead"))),
        ),
    )


def parse_deletion(response: Mapping[str, Any]) -> tuple[tuple[str, ...], int | None]:
    """Parse the response to a deletion: the finalizers of the pod, and its deadline if it has a grace period."""
    metadata = _mapping(response.get("metadata"))
    deadline = _epoch(metadata.get("deletionTimestamp")) if metadata.get("deletionGracePeriodSeconds") else None
    return _finalizers(metadata), deadline


def _finalizers(metadata: Mapping[str, Any]) -> tuple[str, ...]:
    finalizers = [*(metadata.get("finalizers") or ())]
    others = len(finalizers) - _MAX_ITEMS
    return (*map(printable, finalizers[:_MAX_ITEMS]), *([f"{others:,} others"] if others > 0 else []))


def _text(value: Any) -> str:
    return _share_text(str(value))


@lru_cache(maxsize=4096)
def _share_text(text: str) -> str:
    """Return a text that many pods share, once for all of them."""
    return intern(printable(text))


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _epoch(timestamp: Any) -> int | None:
    if not isinstance(timestamp, str) or not _TIME.fullmatch(timestamp):
        return None
    try:  # strptime() is ten times slower, and a pod has several times
        return int(datetime.fromisoformat(f"{timestamp[:-1]}+00:00").timestamp())
    except ValueError:
        return None


def _label_number(labels: Mapping[str, Any], name: str) -> int | None:
    text = str(labels.get(name, ""))
    return int(text) if _NUMBER.fullmatch(text) and int(text) <= _MAX_NUMBER else None


def _label_problem(labels: Mapping[str, Any], numbers: Mapping[str, int | None]) -> str:
    if labels.get(KPO_LABEL) != "True":
        # The executor's worker pods have all other labels in common with the operator's.
        return f"label {KPO_LABEL} is {labels.get(KPO_LABEL)!r}, not 'True'"
    if labels.get(_SPARK_LABEL) == "True":
        return f"label {_SPARK_LABEL}=True: pods of the SparkKubernetesOperator are not supported"
    for name in (*ID_LABELS, "try_number"):
        if not labels.get(name):
            return f"label {name} is missing"
        if printable(labels[name]) != str(labels[name]):
            return f"label {name}={labels[name]!r} is not a label value of Kubernetes"
    for name, number in numbers.items():
        if name in labels and number is None:
            return f"label {name}={labels[name]!r} is not a number that Airflow writes"
    return ""


def _protection(keys: Mapping[str, Any]) -> str:
    value = keys.get(PROTECT_KEY)
    # Somebody who wrote "yes" or nothing meant it, so that anything but "false" protects the pod.
    return "" if value is None or str(value).strip().lower() == "false" else f"{PROTECT_KEY}={value}"


@lru_cache(maxsize=4096)  # of names, which thousands of pods share
def _is_searched_by(label: str) -> bool:
    """Return whether the operator may search its pod by this label."""
    return label not in NOT_SEARCHED_BY and not label.startswith(CLUSTER_LABEL_PREFIXES)


def _searched_labels(labels: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    searched = sorted((printable(name), printable(value)) for name, value in labels.items() if _is_searched_by(name))
    kept, others = searched[:_MAX_ITEMS], searched[_MAX_ITEMS:]
    if others:  # a digest is equal or differs like the labels themselves
        kept.append((pluralize(len(others), "other label"), hashlib.sha256(repr(others).encode()).hexdigest()))
    return _share(tuple(kept))


@lru_cache(maxsize=4096)
def _share(labels: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """Return the first equal labels, so that thousands of pods share one copy."""
    return labels


def _job(labels: Mapping[str, Any]) -> str:
    """Return the Job's name, from the labels of its controller: ``job-name`` alone may be a user's own label."""
    name = labels.get("batch.kubernetes.io/job-name")
    if name is None and "controller-uid" in labels:
        name = labels.get("job-name")
    return "" if name is None else printable(name)


def _phase_reason(status: Mapping[str, Any]) -> tuple[str, str]:
    """Return why the pod is in its phase, and the cluster's message: from its status, or a condition that explains it.

    Whatever disrupts a pod sets ``DisruptionTarget``, and the scheduler sets ``PodScheduled`` to false.
    """
    conditions = [_mapping(condition) for condition in status.get("conditions") or ()]
    by_state = {(condition.get("type"), condition.get("status")): condition for condition in conditions}
    for source in (status, by_state.get(("DisruptionTarget", "True")), by_state.get(("PodScheduled", "False"))):
        if source and source.get("reason"):
            return _text(source["reason"]), printable(source.get("message") or "")
    return "", ""


def _grace_period(spec: Mapping[str, Any]) -> int:
    seconds = spec.get("terminationGracePeriodSeconds")
    return seconds if type(seconds) is int else 30  # the default of Kubernetes


def _controller(owners: Any) -> Owner | None:
    for owner in map(_mapping, owners or ()):
        if owner.get("controller"):
            return Owner(*(printable(owner.get(field)) for field in ("kind", "name", "uid", "apiVersion")))
    return None


def _main_container(containers: list[Mapping[str, Any]], annotations: Mapping[str, Any]) -> str:
    """Return the name of the operator's container, or nothing if several containers may be it.

    ``base_container_name`` may change its name, and a mesh may inject its proxy as the first container.
    """
    names = [_text(container.get("name")) for container in containers]
    if MAIN_CONTAINER in names or not names:
        return MAIN_CONTAINER
    default = annotations.get(DEFAULT_CONTAINER_KEY)
    candidates = [default] if default in names else [name for name in names if name != XCOM_SIDECAR]
    return str(candidates[0]) if len(candidates) == 1 else ""


def _conditions_changed(status: Mapping[str, Any]) -> int | None:
    times = (
        _epoch(condition.get("lastTransitionTime"))
        for condition in map(_mapping, status.get("conditions") or ())
        if condition.get("type") in _END_CONDITIONS
    )
    return max((time for time in times if time is not None), default=None)


def _container(status: Any) -> Container:
    status = _mapping(status)
    name, states = _text(status.get("name")), _mapping(status.get("state"))
    if "terminated" in states:
        end = _mapping(states["terminated"])
        code = end.get("exitCode")
        started, finished = _epoch(end.get("startedAt")), _epoch(end.get("finishedAt"))
        container = Container(name, "terminated", started, finished, code if isinstance(code, int) else None)
        container = container._replace(reason=_end_reason(end))
    elif "running" in states:
        container = Container(name, "running", _epoch(_mapping(states["running"]).get("startedAt")))
    else:
        wait = _mapping(states.get("waiting"))
        message = printable(wait.get("message") or "")
        container = Container(name, "waiting", reason=_text(wait.get("reason") or ""), message=message)
    restarts = status.get("restartCount")
    if not isinstance(restarts, int) or restarts <= 0:
        return container
    last = _mapping(_mapping(status.get("lastState")).get("terminated"))
    code = last.get("exitCode")
    last_end = _end_reason(last) or (f"exit code {code}" if isinstance(code, int) else "")
    return container._replace(restarts=restarts, last_end=last_end)


def _end_reason(end: Mapping[str, Any]) -> str:
    """Return why a container ended, such as OOMKilled."""
    reason = end.get("reason") or ""
    return "" if reason in _OBVIOUS else _text(reason)


def _init_containers(status: Mapping[str, Any], sidecars: list[Mapping[str, Any]]) -> Iterator[Container]:
    """Parse the init containers that matter: native sidecars, and those that have not succeeded."""
    names = {_text(container.get("name")) for container in sidecars}
    for container in map(_container, status.get("initContainerStatuses") or ()):
        if container.name in names:
            yield container._replace(is_native=True)
        elif container.exit_code != 0:
            yield container._replace(is_init=True)


def _container_requests(containers: list[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    for container in containers:
        yield from _quantities(_mapping(container.get("resources")).get("requests"))


def _quantities(by_resource: Any) -> Iterator[tuple[str, str]]:
    return ((printable(resource), str(quantity)) for resource, quantity in _mapping(by_resource).items())


@lru_cache(maxsize=4096)  # the pods of one task have the same requests
def _total_requests(
    of_containers: tuple[tuple[str, str], ...],
    of_pod: tuple[tuple[str, str], ...],
    overhead: tuple[tuple[str, str], ...],
) -> tuple[tuple[str, float], ...]:
    """Return the sum of the requests, as the scheduler computes it: those of the pod replace its containers'."""
    totals = {**_sums(of_containers), **_sums(of_pod)}
    for resource, quantity in _sums(overhead).items():
        totals[resource] = totals.get(resource, 0.0) + quantity
    return tuple((intern(resource), total) for resource, total in sorted(totals.items())[:_MAX_ITEMS])


def _sums(quantities: tuple[tuple[str, str], ...]) -> dict[str, float]:
    from kubernetes.utils.quantity import parse_quantity

    sums: dict[str, float] = {}
    for resource, quantity in quantities:
        with suppress(ValueError):  # no decision depends on the quantities
            sums[resource] = sums.get(resource, 0.0) + float(parse_quantity(quantity))
    return sums
