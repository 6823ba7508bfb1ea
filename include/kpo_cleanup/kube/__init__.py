"""The pods of one cluster: the interface. ``pods`` fills it, by requests of ``client`` that ``reading`` decodes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from ..pod import Pod
from ..vocabulary import Outcome

CONCURRENT_DELETES = 10  # below what one client may do under the API server's default fairness limits


@dataclass(frozen=True)
class Listing:
    """The pods that were found, and what went wrong in namespaces that could not be listed."""

    pods: list[Pod] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Deletion:
    """What became of one deletion."""

    outcome: Outcome
    status: str = ""  # what the API server answered, such as "403 Forbidden"
    remedy: str = ""
    said: str = ""  # the API server's own words
    is_passing: bool = False  # it failed for a reason that has nothing to do with this pod

    @property
    def cause(self) -> tuple[str, str, str]:
        """What deletions that failed alike have in common; the server's words name the pod."""
        return self.outcome.value, self.status, self.remedy

    def __str__(self) -> str:
        said = f"the server says: {self.said}" if self.said else ""
        return "; ".join(filter(None, [self.status, self.remedy, said]))


class PodDeleter(Protocol):
    """What reaping needs of the Kubernetes API."""

    def siblings(self, pod: Pod) -> list[Pod]:
        """List the pods of the pod's task instance, as they are now."""

    def delete(self, pod: Pod, grace_period_seconds: int) -> Deletion:
        """Delete this pod, if it still is the same."""
