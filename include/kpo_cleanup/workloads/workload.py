"""A workload, reduced to what classification and reports need, in plain types."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..identity import TaskInstanceKey

MAIN_CONTAINER = "base"  # KubernetesPodOperator.BASE_CONTAINER_NAME
DRIVER_CONTAINER = "spark-kubernetes-driver"  # Spark's name of the driver's container
XCOM_SIDECAR = "airflow-xcom-sidecar"  # PodDefaults.SIDECAR_CONTAINER_NAME
POD = "Pod"  # the kind of most workloads
NO_KEY = TaskInstanceKey("", "", "")
IDS = ("dag_id", "task_id", "map_index", "try_number", "run_id")  # the parts by which people name a task instance


class Owner(NamedTuple):
    """The controller of an object."""

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
    reason: str = ""  # why it is waiting or has ended, if that adds to its exit code
    is_init: bool = False  # runs before the others, which wait for it; a native sidecar does not count as one
    is_native: bool = False  # a native sidecar, which the kubelet stops once the others have ended
    message: str = ""  # the kubelet's message on why it is waiting
    restarts: int = 0
    last_end: str = ""  # why it ended before its last restart: a reason or an exit code

    @property
    def has_run(self) -> bool:
        """Return whether it is running or has run before."""
        return self.state != "waiting" or self.restarts > 0 or bool(self.last_end)


class Links(NamedTuple):
    """How a workload is linked to other objects, apart from its controller."""

    labelled_owner: Owner | None = None  # owner named by its labels; the controller may have been lost
    lost_owner: Owner | None = None  # workload that controlled it and no longer exists
    owner_problem: str = ""  # why its controller, which may be a workload, could not be read
    recorded_as: str = ""  # name in its operator's record, if not its own
    pods: int = 0  # number of pods that it controls
    main_pod: str = ""  # name of the one that represents them in reports


NO_LINKS = Links()


@dataclass(frozen=True)
class Workload:
    """One workload. Times are epoch seconds; ids are label values as the operator wrote them.

    For other kinds, the fields of a pod are those of the main pod; `requests` is what the listed pods hold in total.
    Python keeps 50,000 workloads in a quarter of the memory as long as they have no more than 29 attributes.
    """

    namespace: str
    name: str
    uid: str
    created: int
    phase: str
    resource_version: str = ""
    key: TaskInstanceKey = NO_KEY  # of its task instance; only meaningful without a ``label_problem``
    try_number: int = 0
    labels: tuple[tuple[str, str], ...] = ()  # labels that the DAG's author or a webhook added, sorted
    label_problem: str = ""  # what is wrong with its labels
    protected_by: str = ""  # the annotation or label that protects it, as key=value
    controller: Owner | None = None
    phase_reason: str = ""  # for example Evicted, or Unschedulable for a pending pod
    phase_message: str = ""  # the cluster's explanation
    node: str = ""
    image: str = ""  # image of the main container
    already_checked: bool = False  # the operator has finished with it, and no later try will adopt it
    grace_period: int = 30  # seconds, as in its spec
    deletion_deadline: int | None = None
    finalizers: tuple[str, ...] = ()
    main_container: str = MAIN_CONTAINER  # empty if several containers may be the operator's
    conditions_changed: int | None = None  # the latest change of a condition that the end of a pod changes
    containers: tuple[Container, ...] = ()
    requests: tuple[tuple[str, float], ...] = ()  # resource name and amount: cores, bytes, pieces
    kind: str = POD  # kind in the API
    links: Links = NO_LINKS

    def __str__(self) -> str:
        return self.place if self.kind == POD else f"{self.kind} {self.place}"

    @property
    def place(self) -> str:
        """Return its namespace and name."""
        return f"{self.namespace}/{self.name}"

    @property
    def noun(self) -> str:
        """Return the common noun for its kind, such as ``pod``."""
        return "pod" if self.kind == POD else self.kind

    @property
    def reference(self) -> dict[str, str]:
        """Return its kind and name as the rows of XComs have them."""
        return {"pod": self.place} if self.kind == POD else {"kind": self.kind, "name": self.place}

    @property
    def record_name(self) -> str:
        """Return the name by which its operator's record names it."""
        return self.links.recorded_as or str(self)

    @property
    def ids(self) -> dict[str, Any]:
        """Return the ids of its task instance, for reports."""
        return {name: getattr(self, name) for name in IDS}

    @property
    def dag_id(self) -> str:
        return self.key.dag_id

    @property
    def task_id(self) -> str:
        return self.key.task_id

    @property
    def run_id(self) -> str:
        return self.key.run_id

    @property
    def map_index(self) -> int:
        return self.key.map_index

    @property
    def adoption_key(self) -> tuple[str, str, TaskInstanceKey, tuple[tuple[str, str], ...]]:
        """Return the key by which ``find_pod`` searches: workloads whose keys differ never replace each other.

        It searches by the operator's own labels, a subset of the pod's; nothing on a pod shows which ones they are.
        """
        return self.kind, self.namespace, self.key, self.labels

    @property
    def is_owned(self) -> bool:
        """Return whether something other than the operator manages it: a controller, or a Job by its labels."""
        has_owner = self.controller is not None or self.links.labelled_owner is not None
        return has_owner and self.links.lost_owner is None

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


def common_noun(workloads: Iterable[Workload]) -> str:
    """Return the common noun for all of these workloads, which may be of different kinds."""
    nouns = {workload.noun for workload in workloads}
    return "workload" if len(nouns) > 1 else next(iter(nouns), "pod")
