"""What is kept of a pod: just what the verdict and the report need, from the API's JSON and through XCom."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from sys import intern
from typing import Any

from include.kpo_cleanup.identity import UNMAPPED, TaskInstanceKey

BASE_CONTAINER = "base"  # KubernetesPodOperator.BASE_CONTAINER_NAME
PROTECT_KEY = "kpo-cleanup/protect"
ID_LABELS = ("dag_id", "task_id", "run_id")

_KPO_LABEL = "kubernetes_pod_operator"
_CHECKED_LABEL = "already_checked"  # find_pod passes over pods that carry it
_REQUIRED = ("namespace", "name", "uid", "creationTimestamp")
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
_NUMBER = re.compile(r"0|[1-9][0-9]{0,9}")
_MAX_NUMBER = 2**31 - 1  # Airflow's columns are 32-bit integers


@dataclass(frozen=True)
class Container:
    """The state of one container; ``since`` (epoch seconds) is its end, or its start while it runs."""

    name: str
    state: str  # "running", "waiting" or "terminated", as in the API
    detail: str = ""  # exit code of an ended container, reason of a waiting one
    since: int | None = None


@dataclass(frozen=True)
class Pod:
    """One pod. Times are epoch seconds; ids are label values, as the operator wrote them."""

    namespace: str
    name: str
    uid: str
    created: int
    phase: str
    dag_id: str = ""
    task_id: str = ""
    run_id: str = ""
    map_index: int = UNMAPPED
    try_number: int = 0
    unidentified: str = ""  # what is wrong with its labels
    protected: str = ""  # the annotation or label that protects it, as key=value
    owner: str = ""  # its controller, as kind/name
    checked: bool = False  # the operator is through with it, and no later try will reattach
    deletion_deadline: int | None = None
    finalizers: str = ""
    containers: tuple[Container, ...] = ()
    cpu: str = ""  # requests of all containers, as quantities joined by "+"
    memory: str = ""

    @property
    def key(self) -> TaskInstanceKey:
        """The task instance it belongs to. Only meaningful where nothing is ``bad_labels``."""
        return TaskInstanceKey(self.dag_id, self.task_id, self.run_id, self.map_index)

    @property
    def is_completed(self) -> bool:
        """Whether all of its containers are over."""
        return self.phase in ("Succeeded", "Failed")

    @property
    def latest_sign_of_life(self) -> int:
        """The latest time that the pod itself shows: a container's end, else its start, else its creation.

        The order is that of ``_get_pod_completion_time`` of ``airflow kubernetes cleanup-pods``.
        """
        for state in ("terminated", "running"):
            times = [c.since for c in self.containers if c.state == state and c.since is not None]
            if times:
                return max(times)
        return self.created

    @classmethod
    def from_api(cls, item: Mapping[str, Any]) -> Pod:
        """Read one item of a pod list.

        :raises ValueError: where it has no name, namespace, uid or creation time, so that it is no pod at all.
            Anything else that is absurd (labels above all) makes a pod that is ``bad_labels``.
        """
        metadata, status = _mapping(item.get("metadata")), _mapping(item.get("status"))
        namespace, name, uid = metadata.get("namespace"), metadata.get("name"), metadata.get("uid")
        created = _epoch(metadata.get("creationTimestamp"))
        if created is None or not (namespace and name and uid):
            told = {field: metadata.get(field) for field in _REQUIRED}
            raise ValueError(f"an item without {', '.join(_REQUIRED[:-1])} or {_REQUIRED[-1]}: {str(told)[:200]}")
        labels, annotations = _mapping(metadata.get("labels")), _mapping(metadata.get("annotations"))
        requests = _requests(_mapping(item.get("spec")))
        try_number, map_index = _label_number(labels, "try_number"), _label_number(labels, "map_index")
        return cls(
            # Thousands of pods have these in common; each text is kept once.
            namespace=intern(str(namespace)),
            name=str(name),
            uid=str(uid),
            created=created,
            phase=intern(str(status.get("phase") or "Unknown")),
            dag_id=intern(str(labels.get("dag_id") or "")),
            task_id=intern(str(labels.get("task_id") or "")),
            run_id=intern(str(labels.get("run_id") or "")),
            map_index=UNMAPPED if map_index is None else map_index,
            try_number=try_number or 0,
            unidentified=_what_is_wrong(labels, {"try_number": try_number, "map_index": map_index}),
            protected=_protection(labels) or _protection(annotations),
            owner=_controller(metadata.get("ownerReferences")),
            checked=labels.get(_CHECKED_LABEL) == "True",
            deletion_deadline=_epoch(metadata.get("deletionTimestamp")),
            finalizers=", ".join(map(str, metadata.get("finalizers") or ())),
            containers=tuple(_container(s) for s in status.get("containerStatuses") or ()),
            cpu=_sum(requests, "cpu"),
            memory=_sum(requests, "memory"),
        )


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}  # from JSON nothing else is one


def _epoch(timestamp: Any) -> int | None:
    if not isinstance(timestamp, str) or not _TIME.fullmatch(timestamp):
        return None
    try:  # strptime() takes ten times as long, and there are some in each pod
        return int(datetime.fromisoformat(f"{timestamp[:-1]}+00:00").timestamp())
    except ValueError:
        return None


def _label_number(labels: Mapping[str, Any], name: str) -> int | None:
    text = str(labels.get(name, ""))
    return int(text) if _NUMBER.fullmatch(text) and int(text) <= _MAX_NUMBER else None


def _what_is_wrong(labels: Mapping[str, Any], numbers: Mapping[str, int | None]) -> str:
    if labels.get(_KPO_LABEL) != "True":
        # A wider label_selector also finds the executor's worker pods, which have the same other labels.
        return f"label {_KPO_LABEL} is {labels.get(_KPO_LABEL)!r}, not 'True'"
    for name in (*ID_LABELS, "try_number"):
        if not labels.get(name):
            return f"label {name} is missing"
    for name, number in numbers.items():
        if name in labels and number is None:
            return f"label {name}={labels[name]!r} is not a number that Airflow writes"
    return ""


def _protection(keys: Mapping[str, Any]) -> str:
    value = keys.get(PROTECT_KEY)
    # Whoever wrote "yes" meant it: everything but a clear "false" protects.
    return "" if value is None or str(value).strip().lower() == "false" else f"{PROTECT_KEY}={value}"


def _controller(owners: Any) -> str:
    controllers = (owner for owner in owners or () if _mapping(owner).get("controller"))
    return next((f"{owner.get('kind')}/{owner.get('name')}" for owner in controllers), "")


def _container(status: Any) -> Container:
    status = _mapping(status)
    name, states = intern(str(status.get("name"))), _mapping(status.get("state"))
    if "terminated" in states:
        ended = _mapping(states["terminated"])
        return Container(name, "terminated", str(ended.get("exitCode", "?")), _epoch(ended.get("finishedAt")))
    if "running" in states:
        return Container(name, "running", "", _epoch(_mapping(states["running"]).get("startedAt")))
    return Container(name, "waiting", str(_mapping(states.get("waiting")).get("reason") or ""))


def _requests(spec: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    containers = [_mapping(container) for container in spec.get("containers") or ()]
    return [_mapping(_mapping(container.get("resources")).get("requests")) for container in containers]


def _sum(requests: list[Mapping[str, Any]], resource: str) -> str:
    return intern("+".join([str(request[resource]) for request in requests if request.get(resource)]))
