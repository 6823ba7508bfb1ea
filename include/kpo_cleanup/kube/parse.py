"""The way from the JSON of an answer to pods: the fields that are read, and their meaning.

If msgspec is installed, only these fields are decoded; if not, all are. The verdict does not need most of a pod,
``managedFields`` above all. To skip it is some fifteen times as fast as to make Python objects of it.
Airflow 3 depends on msgspec.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from sys import intern
from typing import Any, TypedDict

from ..identity import UNMAPPED
from ..pod import (
    CHECKED_LABEL,
    ID_LABELS,
    KPO_LABEL,
    MAIN_CONTAINER,
    NOT_SEARCHED_BY,
    PROTECT_KEY,
    Container,
    Owner,
    Pod,
)

# A key may be missing, as in the API. A list holds the fields of each of its items.
_RESOURCES = {"requests": Any}
_STATUSES = [{"name": Any, "state": Any}]
_ITEM = {
    "metadata": {
        "name": Any,
        "namespace": Any,
        "uid": Any,
        "resourceVersion": Any,
        "creationTimestamp": Any,
        "deletionTimestamp": Any,
        "labels": Any,
        "annotations": {PROTECT_KEY: Any},
        "ownerReferences": Any,
        "finalizers": Any,
    },
    "spec": {
        "containers": [{"name": Any, "resources": _RESOURCES}],
        "initContainers": [{"name": Any, "restartPolicy": Any, "resources": _RESOURCES}],
        "resources": _RESOURCES,
        "overhead": Any,
        "terminationGracePeriodSeconds": Any,
    },
    "status": {
        "phase": Any,
        "reason": Any,
        "conditions": [{"type": Any, "status": Any, "reason": Any}],
        "containerStatuses": _STATUSES,
        "initContainerStatuses": _STATUSES,
    },
}
_ANSWER = {
    "kind": Any,
    "metadata": {"continue": Any, "remainingItemCount": Any, "finalizers": Any},
    "items": [_ITEM],
}

_REQUIRED = ("namespace", "name", "uid", "creationTimestamp")
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
_NUMBER = re.compile(r"0|[1-9][0-9]{0,9}")
_MAX_NUMBER = 2**31 - 1  # Airflow's columns are 32-bit integers
_SPARK_LABEL = "spark_kubernetes_operator"


def answer_decoder() -> Callable[[bytes], Any]:
    """Make a decoder. It gives at least the fields that are read: of a page, its pods; of another answer, its kind.

    The decoder raises ValueError if the answer is not JSON.
    """
    try:
        from msgspec.json import Decoder
    except ImportError:
        return json.loads
    decoder = Decoder(_as_type(_ANSWER))

    def decode(body: bytes) -> Any:
        try:
            return decoder.decode(body)
        except Exception:  # decode all of it, so that the error is the same as without msgspec
            return json.loads(body)

    return decode


def _as_type(shape: Any) -> Any:
    if isinstance(shape, dict):
        # The functional form takes any key. Its name is seen only in msgspec's errors.
        return TypedDict("_Shape", {key: _as_type(value) for key, value in shape.items()}, total=False)  # type: ignore[operator]
    return list[_as_type(shape[0])] if isinstance(shape, list) else shape  # type: ignore[misc]


def read_pod(item: Mapping[str, Any]) -> Pod:
    """Read one item of a pod list.

    :raises ValueError: if it has no name, namespace, uid or creation time, and so is no pod at all.
        Other absurd values (labels above all) make a pod with a ``label_problem``.
    """
    metadata, status, spec = _mapping(item.get("metadata")), _mapping(item.get("status")), _mapping(item.get("spec"))
    namespace, name, uid = metadata.get("namespace"), metadata.get("name"), metadata.get("uid")
    created = _epoch(metadata.get("creationTimestamp"))
    if created is None or not (namespace and name and uid):
        told = {field: metadata.get(field) for field in _REQUIRED}
        raise ValueError(f"an item without {', '.join(_REQUIRED[:-1])} or {_REQUIRED[-1]}: {str(told)[:200]}")
    labels, annotations = _mapping(metadata.get("labels")), _mapping(metadata.get("annotations"))
    containers = [_mapping(container) for container in spec.get("containers") or ()]
    init_containers = [_mapping(container) for container in spec.get("initContainers") or ()]
    sidecars = [container for container in init_containers if container.get("restartPolicy") == "Always"]
    try_number, map_index = _label_number(labels, "try_number"), _label_number(labels, "map_index")
    return Pod(
        # Thousands of pods have these in common; each text is kept once.
        namespace=intern(str(namespace)),
        name=str(name),
        uid=str(uid),
        resource_version=str(metadata.get("resourceVersion") or ""),
        created=created,
        phase=intern(str(status.get("phase") or "Unknown")),
        dag_id=intern(str(labels.get("dag_id") or "")),
        task_id=intern(str(labels.get("task_id") or "")),
        run_id=intern(str(labels.get("run_id") or "")),
        map_index=UNMAPPED if map_index is None else map_index,
        try_number=try_number or 0,
        labels=_kept_once(tuple(sorted((n, str(value)) for n, value in labels.items() if n not in NOT_SEARCHED_BY))),
        label_problem=_label_problem(labels, {"try_number": try_number, "map_index": map_index}),
        protected_by=_protection(labels) or _protection(annotations),
        controller=_controller(metadata.get("ownerReferences")),
        job=_job(labels),
        phase_reason=_phase_reason(status),
        already_checked=labels.get(CHECKED_LABEL) == "True",
        grace_period=_grace_period(spec),
        deletion_deadline=_epoch(metadata.get("deletionTimestamp")),
        finalizers=finalizers_of(item),
        main_container=_main_container(containers),
        containers=(*_init_containers(status, sidecars), *map(_container, status.get("containerStatuses") or ())),
        requests=_total(
            tuple(_requests([*containers, *sidecars])),
            tuple(_quantities(_mapping(spec.get("resources")).get("requests"))),
            tuple(_quantities(spec.get("overhead"))),
        ),
    )


def finalizers_of(answer: Mapping[str, Any]) -> tuple[str, ...]:
    """Read the finalizers that hold a pod, from the answer to its deletion."""
    return tuple(map(str, _mapping(answer.get("metadata")).get("finalizers") or ()))


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}  # a number from JSON, and no bool


def _epoch(timestamp: Any) -> int | None:
    if not isinstance(timestamp, str) or not _TIME.fullmatch(timestamp):
        return None
    try:  # strptime() takes ten times as long, and each pod has several times
        return int(datetime.fromisoformat(f"{timestamp[:-1]}+00:00").timestamp())
    except ValueError:
        return None


def _label_number(labels: Mapping[str, Any], name: str) -> int | None:
    text = str(labels.get(name, ""))
    return int(text) if _NUMBER.fullmatch(text) and int(text) <= _MAX_NUMBER else None


def _label_problem(labels: Mapping[str, Any], numbers: Mapping[str, int | None]) -> str:
    if labels.get(KPO_LABEL) != "True":
        # The executor's worker pods have the same labels but for this one.
        return f"label {KPO_LABEL} is {labels.get(KPO_LABEL)!r}, not 'True'"
    if labels.get(_SPARK_LABEL) == "True":
        return f"label {_SPARK_LABEL}=True: pods of the SparkKubernetesOperator are not supported"
    for name in (*ID_LABELS, "try_number"):
        if not labels.get(name):
            return f"label {name} is missing"
    for name, number in numbers.items():
        if name in labels and number is None:
            return f"label {name}={labels[name]!r} is not a number that Airflow writes"
    return ""


def _protection(keys: Mapping[str, Any]) -> str:
    value = keys.get(PROTECT_KEY)
    # A person who wrote "yes" meant it: all but a clear "false" protects.
    return "" if value is None or str(value).strip().lower() == "false" else f"{PROTECT_KEY}={value}"


@lru_cache(maxsize=4096)
def _kept_once(labels: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """Return one copy for thousands of pods that have the same."""
    return labels


def _job(labels: Mapping[str, Any]) -> str:
    """Read the Job's name from its controller's labels; ``job-name`` alone may be a user's own label."""
    name = labels.get("batch.kubernetes.io/job-name")
    if name is None and "controller-uid" in labels:
        name = labels.get("job-name")
    return "" if name is None else str(name)


def _phase_reason(status: Mapping[str, Any]) -> str:
    if status.get("reason"):
        return intern(str(status["reason"]))
    for condition in map(_mapping, status.get("conditions") or ()):
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return intern(str(condition.get("reason") or ""))
    return ""


def _grace_period(spec: Mapping[str, Any]) -> int:
    seconds = spec.get("terminationGracePeriodSeconds")
    return seconds if type(seconds) is int else 30  # Kubernetes' own default


def _controller(owners: Any) -> Owner | None:
    for owner in map(_mapping, owners or ()):
        if owner.get("controller"):
            return Owner(*(str(owner.get(field)) for field in ("kind", "name", "uid", "apiVersion")))
    return None


def _main_container(containers: list[Mapping[str, Any]]) -> str:
    """Find the operator's container; people may give it another name (``base_container_name``)."""
    names = [str(container.get("name")) for container in containers]
    return intern(MAIN_CONTAINER if MAIN_CONTAINER in names or not names else names[0])


def _container(status: Any) -> Container:
    status = _mapping(status)
    name, states = intern(str(status.get("name"))), _mapping(status.get("state"))
    if "terminated" in states:
        ended = _mapping(states["terminated"])
        code = ended.get("exitCode")
        started, finished = _epoch(ended.get("startedAt")), _epoch(ended.get("finishedAt"))
        return Container(name, "terminated", started, finished, code if isinstance(code, int) else None)
    if "running" in states:
        return Container(name, "running", _epoch(_mapping(states["running"]).get("startedAt")))
    return Container(name, "waiting", waiting_reason=str(_mapping(states.get("waiting")).get("reason") or ""))


def _init_containers(status: Mapping[str, Any], sidecars: list[Mapping[str, Any]]) -> Iterator[Container]:
    """Find the init containers that count: native sidecars, and those that have not ended."""
    names = {str(container.get("name")) for container in sidecars}
    for container in map(_container, status.get("initContainerStatuses") or ()):
        if container.name in names:
            yield container
        elif container.exit_code != 0:
            yield container._replace(is_init=True)


def _requests(containers: list[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    for container in containers:
        yield from _quantities(_mapping(container.get("resources")).get("requests"))


def _quantities(by_resource: Any) -> Iterator[tuple[str, str]]:
    return ((str(resource), str(quantity)) for resource, quantity in _mapping(by_resource).items())


@lru_cache(maxsize=4096)  # the pods of one task have the same requests
def _total(
    of_containers: tuple[tuple[str, str], ...],
    of_pod: tuple[tuple[str, str], ...],
    overhead: tuple[tuple[str, str], ...],
) -> tuple[tuple[str, float], ...]:
    """Add up the requests as the scheduler does: those of the pod itself replace its containers' sum."""
    totals = {**_sums(of_containers), **_sums(of_pod)}
    for resource, quantity in _sums(overhead).items():
        totals[resource] = totals.get(resource, 0.0) + quantity
    return tuple((intern(resource), total) for resource, total in sorted(totals.items()))


def _sums(quantities: tuple[tuple[str, str], ...]) -> dict[str, float]:
    from kubernetes.utils.quantity import parse_quantity

    sums: dict[str, float] = {}
    for resource, quantity in quantities:
        with suppress(ValueError):  # for people only: no decision depends on it
            sums[resource] = sums.get(resource, 0.0) + float(parse_quantity(quantity))
    return sums
