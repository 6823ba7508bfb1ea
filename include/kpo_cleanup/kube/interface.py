"""What the rest of the package uses of a Kubernetes cluster: the interface and its values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ..constants import Outcome
from ..errors import KpoCleanupError
from ..workloads.workload import Workload

DELETE_TIMEOUT = 5  # seconds after which the API server drops a deletion: by then a retry may have adopted the pod
CONCURRENT_DELETES = 10  # below what one client may do under the API server's default fairness limits


@dataclass(frozen=True)
class Listing:
    """The workloads that were found, and the namespaces that could not be listed."""

    workloads: list[Workload] = field(default_factory=list)
    errors_by_namespace: Mapping[str, KpoCleanupError] = field(default_factory=dict)


@dataclass(frozen=True)
class DeleteResult:
    """What becomes of a pod whose deletion the API server has accepted."""

    outcome: Outcome
    detail: str = ""
    deadline: int | None = None

    @classmethod
    def from_accepted(cls, finalizers: Sequence[str], deadline: int | None) -> DeleteResult:
        """Return the result for a pod that has these finalizers.

        :param deadline: epoch seconds by which the pod ends; None if it has no grace period.
        """
        if finalizers:
            return cls(Outcome.AWAITING_FINALIZER, f"held by {', '.join(finalizers)}")
        return cls(Outcome.DELETED) if deadline is None else cls(Outcome.TERMINATING, deadline=deadline)


class Cluster(Protocol):
    """The part of the Kubernetes API that the cleanup needs."""

    def list_pods(
        self,
        namespaces: Sequence[str],
        label_selector: str = "",
        excluded: Sequence[str] = (),
        *,
        must_exist: bool = True,
        keep: Callable[[Workload], bool] | None = None,
    ) -> Listing:
        """List the operator's pods. A namespace that cannot be listed does not stop the others.

        :param namespaces: empty for the one in which the operator starts its pods.
        :param label_selector: narrows the listing.
        :param excluded: namespaces to leave out when all are listed.
        :param must_exist: whether a missing namespace is an error, and not an empty one.
        :param keep: returns whether a pod is wanted, so that a large cluster does not fill the memory.
        :raises KubernetesError: if no namespace could be listed.
        :raises SettingsError: if the label selector is invalid.
        """

    def get(self, pod: Workload, label_selector: str) -> Workload | None:
        """Read the pod that has this namespace and name now, or return None if there is none.

        :param label_selector: of the listing. A pod that no longer matches it has a ``label_problem``.
        :raises KubernetesError: if the pod could not be read.
        """

    def delete(self, pod: Workload, grace_period_seconds: int) -> DeleteResult:
        """Send one request to delete the pod. Its uid and resource version are preconditions.

        :param grace_period_seconds: negative for the pod's own.
        :raises Conflict: if the pod has changed, or another one has its name.
        :raises NotFound: if there is no such pod.
        :raises KubernetesError: if the request failed for another reason.
        """
