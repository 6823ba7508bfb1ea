"""What the rest of the package knows of a kind of workload: where its objects are, and what its operator does."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from ..task_instance import POD_RECORD
from .labels import KPO_LABEL, protection
from .parse import mapping
from .workload import POD, Links, Workload

_OF_MAIN_POD = (
    "phase",
    "phase_reason",
    "phase_message",
    "node",
    "image",
    "grace_period",
    "main_container",
    "containers",
)


class WorkloadKind:
    """A kind of workload. Its objects are found through their pods: by the pods' labels and their controller."""

    api_kind = ""  # the kind in the API, such as Job
    group = ""
    version = "v1"
    plural = ""
    marker = KPO_LABEL  # the label that its operator sets to "True" on its pods
    more_selectors: tuple[str, ...] = ()  # further label selectors of the listed pods
    record_keys = POD_RECORD
    is_adopted = False  # whether a retry may adopt one of an earlier try
    outlives_success = False  # whether an unfinished one is kept although its task instance has succeeded
    may_detach = False  # whether its operator may leave it running on purpose
    has_completion_options = False  # whether settings besides ttl_… decide when a finished one is deleted
    has_grace_period = False  # whether its deletion has a grace period; if not, the garbage collector deletes its pods

    def parse(self, item: Mapping[str, Any], pods: Sequence[Workload]) -> Workload:
        """Parse an object that controls these pods.

        :raises ValueError: if it is not an object of the Kubernetes API.
        """
        raise NotImplementedError

    @property
    def path(self) -> str:
        """Return the path of its API, in which ``{namespace}`` and ``{name}`` stand for those of an object."""
        root = f"/apis/{self.group}" if self.group else "/api"
        return f"{root}/{self.version}/namespaces/{{namespace}}/{self.plural}/{{name}}"

    @property
    def resource(self) -> str:
        """Return its resource as a rule of RBAC names it."""
        return f"{self.plural!r} of API group {self.group!r}" if self.group else f"{self.plural!r}"

    @property
    def pod_selector(self) -> str:
        """Return the label selector of the pods through which its objects are found."""
        return ",".join([f"{self.marker}=True", *self.more_selectors])

    def recorded_name(self, namespace: str, name: str) -> str:
        """Return the name of an object in its operator's record."""
        return f"{self.record_keys.prefix}{namespace}/{name}"

    def is_adoptable(self, workload: Workload) -> bool:
        """Return whether a retry adopts this object, and not an older one."""
        is_free = not (workload.already_checked or workload.controller or workload.links.labelled_owner)
        return self.is_adopted and is_free and workload.deletion_deadline is None

    def delete_options(self, grace_period_seconds: int) -> dict[str, Any]:
        """Return the options of a deletion, besides its preconditions.

        :param grace_period_seconds: negative for the object's own.
        """
        if not self.has_grace_period:
            return {"propagationPolicy": "Background"}  # the default of Jobs orphans the pods
        return {"gracePeriodSeconds": grace_period_seconds} if grace_period_seconds >= 0 else {}


def protection_of(pods: Sequence[Workload], *sources: Mapping[str, Any]) -> str:
    """Return what protects an object: an annotation or label of these sources, or of one of its pods."""
    own = protection(*(mapping(source.get(field)) for source in sources for field in ("labels", "annotations")))
    return own or next((pod.protected_by for pod in pods if pod.protected_by), "")


def main_pod(pods: Sequence[Workload]) -> Workload | None:
    """Return the pod that describes its owner best: one whose main container is running, else the youngest."""
    return max(pods, key=lambda pod: (pod.may_be_working, not pod.is_completed, pod.created), default=None)


def pod_fields(pods: Sequence[Workload]) -> dict[str, Any]:
    """Return the fields of a workload that its pods determine: those of the main pod, and the sums of all of them."""
    requests: dict[str, float] = defaultdict(float)
    for pod in pods:
        for resource, quantity in pod.held_requests:
            requests[resource] += quantity
    fields = {"phase": "Pending", "requests": tuple(sorted(requests.items()))}
    main = main_pod(pods)
    if main is None:
        return fields
    count = sum(1 if pod.kind == POD else pod.links.pods for pod in pods)
    links = Links(pods=count, main_pod=main.name if main.kind == POD else main.links.main_pod)
    return {**fields, "links": links, **{name: getattr(main, name) for name in _OF_MAIN_POD}}
