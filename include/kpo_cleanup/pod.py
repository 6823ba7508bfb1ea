"""A pod, with just what the verdict and the report need, in plain types."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from .identity import UNMAPPED, TaskInstanceKey

MAIN_CONTAINER = "base"  # KubernetesPodOperator.BASE_CONTAINER_NAME
XCOM_SIDECAR = "airflow-xcom-sidecar"  # PodDefaults.SIDECAR_CONTAINER_NAME
PROTECT_KEY = "kpo-cleanup/protect"
ID_LABELS = ("dag_id", "task_id", "run_id")
IDS = ("dag_id", "task_id", "map_index", "try_number", "run_id")  # as people name a task instance
KPO_LABEL = "kubernetes_pod_operator"
CHECKED_LABEL = "already_checked"  # find_pod passes over pods that carry it
# Written by the operator, too, but not what find_pod looks by; or in the identity of the task instance already.
NOT_SEARCHED_BY = frozenset(
    {*ID_LABELS, "map_index", KPO_LABEL, "try_number", CHECKED_LABEL, "airflow_version", "airflow_kpo_in_cluster"}
)


class Owner(NamedTuple):
    """The controller of a pod."""

    kind: str
    name: str
    uid: str
    api_version: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}"


class Container(NamedTuple):
    """The state of one container; times are epoch seconds."""

    name: str
    state: str  # "running", "waiting" or "terminated", as in the API
    started: int | None = None
    ended: int | None = None
    exit_code: int | None = None
    waiting_reason: str = ""
    is_init: bool = False  # runs before the others, and they wait for it; a native sidecar does not count as one


@dataclass(frozen=True)
class Pod:
    """One pod. Times are epoch seconds; ids are label values, as the operator wrote them."""

    namespace: str
    name: str
    uid: str
    created: int
    phase: str
    resource_version: str = ""
    dag_id: str = ""
    task_id: str = ""
    run_id: str = ""
    map_index: int = UNMAPPED
    try_number: int = 0
    labels: tuple[tuple[str, str], ...] = ()  # those that the operator, its author or a webhook added, sorted
    label_problem: str = ""  # what is wrong with its labels
    protected_by: str = ""  # the annotation or label that protects it, as key=value
    controller: Owner | None = None
    job: str = ""  # the Job that its labels name
    phase_reason: str = ""  # such as Evicted, or Unschedulable of a pod that waits
    already_checked: bool = False  # the operator is through with it, and no later try will reattach
    grace_period: int = 30  # seconds that its spec asks for
    deletion_deadline: int | None = None
    finalizers: tuple[str, ...] = ()
    main_container: str = MAIN_CONTAINER
    containers: tuple[Container, ...] = ()
    requests: tuple[tuple[str, float], ...] = ()  # by resource name: cores, bytes, pieces

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def ids(self) -> dict[str, Any]:
        """Whose pod it is, for reports."""
        return {name: getattr(self, name) for name in IDS}

    @property
    def task_name(self) -> tuple[str, str]:
        """Name the task instance for people: ``orders.load[3] try 2``, ``of run scheduled__2026-11-24…``."""
        index = "" if self.map_index == UNMAPPED else f"[{self.map_index}]"
        return f"{self.dag_id}.{self.task_id}{index} try {self.try_number}", f"of run {self.run_id}"

    @cached_property  # it is asked for some five times a pod, and making it each time is a seventh of judging
    def key(self) -> TaskInstanceKey:
        """Give the task instance that it belongs to; only meaningful if there is no ``label_problem``."""
        return TaskInstanceKey(self.dag_id, self.task_id, self.run_id, self.map_index)

    @property
    def adoption_key(self) -> tuple[str, TaskInstanceKey, tuple[tuple[str, str], ...]]:
        """Give what the operator's ``find_pod`` looks by: pods that differ in it never replace each other.

        It takes the operator's own labels, which are some of the pod's; nothing on a pod tells which.
        """
        return self.namespace, self.key, self.labels

    @property
    def is_owned(self) -> bool:
        """Tell whether something else than the operator looks after it: a controller, or a Job by its labels."""
        return self.controller is not None or bool(self.job)

    @property
    def is_completed(self) -> bool:
        """Tell whether all of its containers are over."""
        return self.phase in ("Succeeded", "Failed")

    @property
    def main(self) -> Container | None:
        """Give the container whose end is the end of the task's work, if it has a status."""
        return next((c for c in self.containers if c.name == self.main_container), None)

    @property
    def last_activity(self) -> int:
        """Give the latest time that the pod itself shows: a container's end, else its start, else its creation.

        The order is that of ``_get_pod_completion_time`` of ``airflow kubernetes cleanup-pods``.
        """
        ends = [c.ended for c in self.containers if c.ended is not None]
        starts = [c.started for c in self.containers if c.state == "running" and c.started is not None]
        return max(ends or starts or [self.created])
