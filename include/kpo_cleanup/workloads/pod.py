"""Pods: those of the KubernetesPodOperator, and those through which the other kinds are found."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from sys import intern
from typing import Any

from ..text import printable
from .kind import WorkloadKind
from .labels import KPO_LABEL, PROTECT_KEY, protection, task_fields
from .parse import MAX_ITEMS, controller_of, epoch, identity, mapping, shared
from .workload import DRIVER_CONTAINER, MAIN_CONTAINER, NO_LINKS, POD, XCOM_SIDECAR, Container, Links, Owner, Workload

DEFAULT_CONTAINER_KEY = "kubectl.kubernetes.io/default-container"  # annotation

# The fields of a pod that are decoded. Any of them may be missing. A list has the fields of each of its items.
_RESOURCES = {"requests": Any}
_STATUSES = [{"name": Any, "state": Any, "lastState": Any, "restartCount": Any}]
SHAPE = {
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
_UNITS = {
    **{unit: 1000.0 ** (power - 3) for power, unit in enumerate(("n", "u", "m", "", "k", "M", "G", "T", "P", "E"))},
    **{unit: 1024.0 ** (power + 1) for power, unit in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"))},
}
_QUANTITY = re.compile(r"(?P<number>[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?)(?P<unit>[numkMGTPE]?|[KMGTPE]i)")
_OBVIOUS = ("Completed", "Error")  # reasons that add nothing to the exit code
_END_CONDITIONS = ("Ready", "ContainersReady", "DisruptionTarget")  # change when a pod ends or is evicted


class PodKind(WorkloadKind):
    """The pods of the KubernetesPodOperator."""

    api_kind = POD
    plural = "pods"
    is_adopted = True
    has_completion_options = True
    has_grace_period = True


def parse_pod(item: Mapping[str, Any], marker: str = KPO_LABEL) -> Workload:
    """Parse one item of a pod list. A pod with malformed labels has a ``label_problem``.

    :param marker: the label that its operator sets to ``True``.
    :raises ValueError: if it is not a pod, because it has no name, namespace, uid or creation time.
    """
    metadata, status, spec = mapping(item.get("metadata")), mapping(item.get("status")), mapping(item.get("spec"))
    fields = identity(metadata)
    labels, annotations = mapping(metadata.get("labels")), mapping(metadata.get("annotations"))
    containers = [mapping(container) for container in spec.get("containers") or ()]
    init_containers = [mapping(container) for container in spec.get("initContainers") or ()]
    sidecars = [container for container in init_containers if container.get("restartPolicy") == "Always"]
    phase_reason, phase_message = _phase_reason(status)
    main_container = _main_container(containers, annotations)
    return Workload(
        **fields,
        **task_fields(labels, marker),
        phase=shared(status.get("phase") or "Unknown"),
        protected_by=protection(labels, annotations),
        controller=controller_of(metadata),
        links=_links(labels),
        phase_reason=phase_reason,
        phase_message=phase_message,
        node=shared(spec.get("nodeName") or ""),
        image=shared(next((c.get("image") for c in containers if c.get("name") == main_container), None) or ""),
        grace_period=_grace_period(spec),
        main_container=main_container,
        conditions_changed=_conditions_changed(status),
        containers=(*_init_containers(status, sidecars), *map(_container, status.get("containerStatuses") or ())),
        requests=_total_requests(
            tuple(_container_requests([*containers, *sidecars])),
            tuple(_quantities(mapping(spec.get("resources")).get("requests"))),
            tuple(_quantities(spec.get("overhead"))),
        ),
    )


def _links(labels: Mapping[str, Any]) -> Links:
    """Return the link to the Job that its labels name. ``job-name`` alone may be a user's own label."""
    name = labels.get("batch.kubernetes.io/job-name")
    uid = labels.get("batch.kubernetes.io/controller-uid", labels.get("controller-uid"))
    if name is None and uid is not None:
        name = labels.get("job-name")
    return NO_LINKS if name is None else Links(Owner("Job", printable(name), printable(uid or ""), "batch/v1"))


def _phase_reason(status: Mapping[str, Any]) -> tuple[str, str]:
    """Return why the pod is in its phase, and the cluster's message: from its status, or a condition that explains it.

    Whatever disrupts a pod sets ``DisruptionTarget``, and the scheduler sets ``PodScheduled`` to false.
    """
    conditions = [mapping(condition) for condition in status.get("conditions") or ()]
    by_state = {(condition.get("type"), condition.get("status")): condition for condition in conditions}
    for source in (status, by_state.get(("DisruptionTarget", "True")), by_state.get(("PodScheduled", "False"))):
        if source and source.get("reason"):
            return shared(source["reason"]), printable(source.get("message") or "")
    return "", ""


def _grace_period(spec: Mapping[str, Any]) -> int:
    seconds = spec.get("terminationGracePeriodSeconds")
    return seconds if type(seconds) is int else 30  # the default of Kubernetes


def _main_container(containers: list[Mapping[str, Any]], annotations: Mapping[str, Any]) -> str:
    """Return the name of the operator's container, or nothing if several containers may be it.

    ``base_container_name`` may change its name, and a mesh may inject its proxy as the first container.
    """
    names = [shared(container.get("name")) for container in containers]
    if MAIN_CONTAINER in names or not names:
        return MAIN_CONTAINER
    if DRIVER_CONTAINER in names:
        return DRIVER_CONTAINER
    default = annotations.get(DEFAULT_CONTAINER_KEY)
    candidates = [default] if default in names else [name for name in names if name != XCOM_SIDECAR]
    return str(candidates[0]) if len(candidates) == 1 else ""


def _conditions_changed(status: Mapping[str, Any]) -> int | None:
    times = (
        epoch(condition.get("lastTransitionTime"))
        for condition in map(mapping, status.get("conditions") or ())
        if condition.get("type") in _END_CONDITIONS
    )
    return max((time for time in times if time is not None), default=None)


def _container(status: Any) -> Container:
    status = mapping(status)
    name, states = shared(status.get("name")), mapping(status.get("state"))
    if "terminated" in states:
        end = mapping(states["terminated"])
        code = end.get("exitCode")
        started, finished = epoch(end.get("startedAt")), epoch(end.get("finishedAt"))
        container = Container(name, "terminated", started, finished, code if isinstance(code, int) else None)
        container = container._replace(reason=_end_reason(end))
    elif "running" in states:
        container = Container(name, "running", epoch(mapping(states["running"]).get("startedAt")))
    else:
        wait = mapping(states.get("waiting"))
        message = printable(wait.get("message") or "")
        container = Container(name, "waiting", reason=shared(wait.get("reason") or ""), message=message)
    restarts = status.get("restartCount")
    if not isinstance(restarts, int) or restarts <= 0:
        return container
    last = mapping(mapping(status.get("lastState")).get("terminated"))
    code = last.get("exitCode")
    last_end = _end_reason(last) or (f"exit code {code}" if isinstance(code, int) else "")
    return container._replace(restarts=restarts, last_end=last_end)


def _end_reason(end: Mapping[str, Any]) -> str:
    """Return why a container ended, such as OOMKilled."""
    reason = end.get("reason") or ""
    return "" if reason in _OBVIOUS else shared(reason)


def _init_containers(status: Mapping[str, Any], sidecars: list[Mapping[str, Any]]) -> Iterator[Container]:
    """Parse the init containers that matter: native sidecars, and those that have not succeeded."""
    names = {shared(container.get("name")) for container in sidecars}
    for container in map(_container, status.get("initContainerStatuses") or ()):
        if container.name in names:
            yield container._replace(is_native=True)
        elif container.exit_code != 0:
            yield container._replace(is_init=True)


def _container_requests(containers: list[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    for container in containers:
        yield from _quantities(mapping(container.get("resources")).get("requests"))


def _quantities(by_resource: Any) -> Iterator[tuple[str, str]]:
    return ((printable(resource), str(quantity)) for resource, quantity in mapping(by_resource).items())


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
    return tuple((intern(resource), total) for resource, total in sorted(totals.items())[:MAX_ITEMS])


def _sums(quantities: tuple[tuple[str, str], ...]) -> dict[str, float]:
    sums: dict[str, float] = {}
    for resource, quantity in quantities:
        with suppress(ValueError):  # no decision depends on the quantities
            sums[resource] = sums.get(resource, 0.0) + parse_quantity(quantity)
    return sums


def parse_quantity(text: str) -> float:
    """Return the number that a quantity of Kubernetes stands for, such as 0.5 for ``500m``.

    :raises ValueError: if the text is not a quantity.
    """
    found = _QUANTITY.fullmatch(text)
    if not found:
        raise ValueError(f"not a quantity: {text!r:.80}")
    return float(found["number"]) * _UNITS[found["unit"]]
