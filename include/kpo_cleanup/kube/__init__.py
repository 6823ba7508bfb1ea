"""The pods of one cluster: the interface. ``pods`` fills it, by requests of ``client`` that ``reading`` decodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ..constants import Outcome
from ..pod import Pod

CONCURRENT_DELETES = 10  # below what one client may do under the API server's default fairness limits


@dataclass(frozen=True)
class Listing:
    """The pods that were found, and what went wrong in namespaces that could not be listed."""

    pods: list[Pod] = field(default_factory=list)
    errors_by_namespace: Mapping[str, str] = field(default_factory=dict)  # by namespace, the problem


@dataclass(frozen=True)
class DeleteResult:
    """The result of one deletion, sent or not."""

    outcome: Outcome
    status: str = ""  # what the API server answered, such as "403 Forbidden"
    remedy: str = ""
    said: str = ""  # the API server's own words
    is_retryable: bool = False  # it failed for a reason that has nothing to do with this pod
    retry_after: float | None = None  # seconds, if the API server named them
    outcome_unknown: bool = False  # nobody knows whether it was done
    is_conflict: bool = False  # the pod is not as it was when it was read

    @property
    def cause(self) -> tuple[str, str, str]:
        """Give what deletions that failed alike have in common; the server's words name the pod."""
        return self.outcome.value, self.status, self.remedy

    def __str__(self) -> str:
        said = f"server message: {self.said}" if self.said else ""
        return "; ".join(filter(None, [self.status, self.remedy, said]))


def accepted(finalizers: Sequence[str]) -> DeleteResult:
    """Make what became of a deletion that the API server has accepted."""
    if finalizers:
        return DeleteResult(Outcome.AWAITING_FINALIZER, f"held by {', '.join(finalizers)}")
    return DeleteResult(Outcome.DELETED)


class Cluster(Protocol):
    """The part of the Kubernetes API that reaping needs."""

    def list_pods(
        self,
        namespaces: Sequence[str],
        label_selector: str = "",
        excluded: Sequence[str] = (),
        *,
        must_exist: bool = True,
        keep: Callable[[Pod], bool] | None = None,
    ) -> Listing:
        """List the operator's pods; a namespace that cannot be listed does not stop the others.

        :param must_exist: tell a missing namespace from an empty one.
        :param keep: tells which pods are wanted; all if it is not given.
        :raises KubernetesError: if not one namespace could be listed.
        """

    def get(self, pod: Pod, label_selector: str) -> Pod | None:
        """Read the pod of this namespace and name as it is now; None if there is none.

        :param label_selector: that of the listing; a pod that it does not match any more has a ``label_problem``.
        :raises KubernetesError: if there was no answer.
        """

    def delete(self, pod: Pod, grace_period_seconds: int) -> DeleteResult:
        """Ask once to delete this very pod, as it was read: not another of its name, and not a changed one."""
