"""What the rest of the package uses of a Kubernetes cluster: the interface and its values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ..constants import Outcome
from ..errors import KpoCleanupError
from ..workloads.workload import Workload

DELETE_TIMEOUT = 5  # seconds before the API server drops a deletion: by then a retry may have adopted the pod
LOG_TIMEOUT = 2  # seconds per request for a log: its lines are not worth a delay
CONCURRENT_DELETES = 10  # below what one client may do under the API server's default fairness limits


@dataclass(frozen=True)
class Listing:
    """The workloads that were found, and what could not be listed or read.

    :param unread: by uid, the workloads that could not be read although their pods were listed.
    :param errors_by_kind: why workloads of these kinds may be missing, one error for each kind.
    """

    workloads: list[Workload] = field(default_factory=list)
    errors_by_namespace: Mapping[str, KpoCleanupError] = field(default_factory=dict)
    unread: Mapping[str, KpoCleanupError] = field(default_factory=dict)
    errors_by_kind: Mapping[str, KpoCleanupError] = field(default_factory=dict)


@dataclass(frozen=True)
class DeleteResult:
    """What becomes of a workload whose deletion the API server has accepted."""

    outcome: Outcome
    detail: str = ""
    deadline: int | None = None

    @classmethod
    def from_accepted(cls, finalizers: Sequence[str], deadline: int | None) -> DeleteResult:
        """Return the result for a workload that has these finalizers.

        :param deadline: epoch seconds by which it ends; None if it has no grace period.
        """
        if finalizers:
            return cls(Outcome.AWAITING_FINALIZER, f"held by {', '.join(finalizers)}")
        return cls(Outcome.DELETED) if deadline is None else cls(Outcome.TERMINATING, deadline=deadline)


class Cluster(Protocol):
    """The part of the Kubernetes API that the cleanup needs."""

    def list_workloads(
        self,
        namespaces: Sequence[str],
        label_selector: str = "",
        excluded: Sequence[str] = (),
        *,
        must_exist: bool = True,
        keep: Callable[[Workload], bool] | None = None,
        known: Iterable[Workload] = (),
    ) -> Listing:
        """List the operators' workloads. A namespace that cannot be listed does not stop the others.

        :param namespaces: empty for the one in which the operator starts its pods.
        :param label_selector: narrows the listing.
        :param excluded: namespaces to leave out when all are listed.
        :param must_exist: whether a missing namespace is an error; otherwise it counts as empty.
        :param keep: returns whether a pod is wanted, so that a large cluster does not fill the memory.
        :param known: workloads to read although none of their pods may be left.
        :raises KubernetesError: if no namespace could be listed.
        :raises SettingsError: if the label selector is invalid.
        """

    def get(self, workload: Workload, label_selector: str) -> Workload | None:
        """Read the workload that has this kind, namespace and name now, or return None if there is none.

        :param label_selector: the selector of the listing. A pod that no longer matches it has a ``label_problem``.
        :raises KubernetesError: if it could not be read.
        """

    def delete(self, workload: Workload, grace_period_seconds: int) -> DeleteResult:
        """Send one request to delete the workload. Its uid and resource version are preconditions.

        :param grace_period_seconds: negative for the workload's own.
        :raises Conflict: if it has changed, or another one has its name.
        :raises NotFound: if there is no such workload.
        :raises KubernetesError: if the request failed for another reason.
        """

    def read_log(self, workload: Workload, lines: int) -> list[str]:
        """Return the last lines of the log of its main container, without control characters and within bounds.

        Of several pods, only the main one's are returned.

        :raises KubernetesError: if there is no log, or it could not be read within ``LOG_TIMEOUT``.
        """
