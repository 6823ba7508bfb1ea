"""The kinds of workload that the cleanup knows: a new kind is one module and one line here."""

from __future__ import annotations

from ..task_instance import RecordKeys
from .job import JobKind
from .kind import WorkloadKind
from .pod import PodKind
from .spark_application import SparkApplicationKind
from .workload import Workload

KINDS: dict[str, WorkloadKind] = {kind.api_kind: kind for kind in (PodKind(), JobKind(), SparkApplicationKind())}


def kind_of(workload: Workload) -> WorkloadKind:
    """Return the kind of a workload."""
    return KINDS[workload.kind]


def record_keys_of(workload: Workload) -> RecordKeys:
    """Return the XComs in which the operator records this workload, or the owner that this pod has lost."""
    owner = workload.links.lost_owner
    return KINDS[owner.kind if owner else workload.kind].record_keys
