"""A pod, reduced to what classification and reports need, in plain types."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from ..identity import UNMAPPED, TaskInstanceKey

MAIN_CONTAINER = "base"  # KubernetesPodOperator.BASE_CONTAINER_NAME
XCOM_SIDECAR = "airflow-xcom-sidecar"  # PodDefaults.SIDECAR_CONTAINER_NAME
PROTECT_KEY = "kpo-cleanup/protect"
ID_LABELS = ("dag_id", "task_id", "run_id")
IDS = ("dag_id", "task_id", "map_index", "try_number", "run_id")  # as people name a task instance
KPO_LABEL = "kubernetes_pod_operator"
CHECKED_LABEL = "already_checked"  # find_pod skips pods that carry it
DEFAULT_CONTAINER_KEY = "kubectl.kubernetes.io/default-container"  # an annotation
# The operator writes these as well, but find_pod does not search by them, or the task instance key contains them.
NOT_SEARCHED_BY = frozenset(
    {*ID_LABELS, "map_index", KPO_LABEL, "try_number", CHECKED_LABEL, "airflow_version", "airflow_kpo_in_cluster"}
)
# Labels that the cluster or a service mesh writes. They are not the operator's, and two pods of one task may differ in
# them. docs/concepts.md lists them.
CLUSTER_LABEL_PREFIXES = (
    "topology.kubernetes.io/",  # zone and region, stamped when the pod is bound
    "failure-domain.beta.kubernetes.io/",  # the same in old clusters
    "topology.istio.io/",
    "service.istio.io/",
    "security.istio.io/",
    "linkerd.io/",
    "consul.hashicorp.com/",
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
    reason: str = ""  # why it waits or has ended, if that says more than its exit code
    is_init: bool = False  # runs before the others, which wait for it; a native sidecar does not count as one
    is_native: bool = False  # a native sidecar, which the kubelet stops once the others have ended
    message: str = ""  # the kubelet's, on why it waits
    restarts: int = 0
    last_end: str = ""  # why it ended before its last restart: a reason or an exit code

    @property
    def has_run(self) -> bool:
        """Return whether it is running or has run before."""
        return self.state != "waiting" or self.restarts > 0 or bool(self.last_end)


@dataclass(frozen=True)
class Workload:
    """One pod. Times are epoch seconds; ids are label values as the operator wrote them."""

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
    labels: tuple[tuple[str, str], ...] = ()  # those that the DAG's author or a webhook added, sorted
    label_problem: str = ""  # what is wrong with its labels
    protected_by: str = ""  # the annotation or label that protects it, as key=value
    controller: Owner | None = None
    job: str = ""  # the Job that its labels name
    phase_reason: str = ""  # such as Evicted, or Unschedulable for a pending pod
    phase_message: str = ""  # why, in the words of the cluster
    node: str = ""
    image: str = ""  # of the main container
    already_checked: bool = False  # the operator has finished with it, and no later try will adopt it
    grace_period: int = 30  # seconds, from its spec
    deletion_deadline: int | None = None
    finalizers: tuple[str, ...] = ()
    main_container: str = MAIN_CONTAINER  # empty if several containers may be the operator's
    conditions_changed: int | None = None  # the latest change of a condition that the end of a pod changes
    containers: tuple[Container, ...] = ()
    requests: tuple[tuple[str, float], ...] = ()  # by resource name: cores, bytes, pieces

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def ids(self) -> dict[str, Any]:
        """Return the ids of its task instance, for reports."""
        return {name: getattr(self, name) for name in IDS}

    @cached_property  # used some five times per pod
    def key(self) -> TaskInstanceKey:
        """Return the key of its task instance; only meaningful without a ``label_problem``."""
        return TaskInstanceKey(self.dag_id, self.task_id, self.run_id, self.map_index)

    @property
    def adoption_key(self) -> tuple[str, TaskInstanceKey, tuple[tuple[str, str], ...]]:
        """Return what the operator's ``find_pod`` searches by: pods that differ in it never replace each other.

        It searches by the operator's own labels, a subset of the pod's; nothing on a pod shows which ones they are.
        """
        return self.namespace, self.key, self.labels

    @property
    def is_owned(self) -> bool:
        """Return whether something other than the operator manages it: a controller, or a Job by its labels."""
        return self.controller is not None or bool(self.job)

    @property
    def is_completed(self) -> bool:
        """Return whether all of its containers have ended."""
        return self.phase in ("Succeeded", "Failed")

    @property
    def held_requests(self) -> tuple[tuple[str, float], ...]:
        """Return the requests that it still reserves on a node: none if all of its containers have ended."""
        return () if self.is_completed else self.requests

    @property
    def main(self) -> Container | None:
        """Return the status of the container whose end is the end of the task's work, if there is one."""
        return next((c for c in self.containers if c.name == self.main_container), None)

    @property
    def may_be_working(self) -> bool:
        """Return whether the main container is running, or a container that may be the main one."""
        return self.main.state == "running" if self.main else not self.main_container and bool(self.running_containers)

    @property
    def running_containers(self) -> list[str]:
        """Return the names of the containers that are running."""
        return [container.name for container in self.containers if container.state == "running"]

    @property
    def running_sidecars(self) -> list[str]:
        """Return the names of the running containers that keep the pod running after the main container has ended."""
        return [c.name for c in self.containers if c.state == "running" and not c.is_native and c != self.main]

    @property
    def finished_at(self) -> int | None:
        """Return when a completed pod finished, or None if nothing on it shows that.

        Evicted, preempted and lost pods often have no container with an end, but conditions that changed.
        """
        times = [*(c.ended for c in self.containers), self.conditions_changed]
        return max((time for time in times if time is not None), default=None) if self.is_completed else None
