"""Jobs of the KubernetesJobOperator and of its variants for GKE and Kueue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..task_instance import RecordKeys
from ..text import printable
from .kind import WorkloadKind, main_pod, pod_fields, protection_of
from .labels import task_fields
from .parse import controller_of, epoch, identity, mapping, shared
from .workload import Owner, Workload

MANAGER = "kubernetes.io/job-controller"  # default of spec.managedBy
ARGO_CD = "argocd.argoproj.io/tracking-id"  # annotation


class JobKind(WorkloadKind):
    """Each try creates a Job of its own. By default, the operator does not wait for its end."""

    api_kind = "Job"
    group = "batch"
    plural = "jobs"
    record_keys = RecordKeys("job_name", "job_namespace", "job", "Job ")
    outlives_success = True
    may_detach = True

    def parse(self, item: Mapping[str, Any], pods: Sequence[Workload]) -> Workload:
        """See :class:`WorkloadKind`."""
        metadata, spec, status = mapping(item.get("metadata")), mapping(item.get("spec")), mapping(item.get("status"))
        template = mapping(mapping(spec.get("template")).get("metadata"))  # has the operator's labels
        return Workload(
            **identity(metadata),
            **task_fields(mapping(template.get("labels"))),
            **{**pod_fields(pods), **_progress(spec, status, pods)},
            kind=self.api_kind,
            protected_by=protection_of(pods, metadata, template),
            controller=_manager(metadata, spec),
        )


def _progress(spec: Mapping[str, Any], status: Mapping[str, Any], pods: Sequence[Workload]) -> dict[str, Any]:
    """Return the fields that show whether the Job has finished, and what it is doing otherwise."""
    conditions = map(mapping, status.get("conditions") or ())
    by_type = {each.get("type"): each for each in conditions if each.get("status") == "True"}
    for name, phase in (("Complete", "Succeeded"), ("Failed", "Failed")):
        if name in by_type:
            why, message = by_type[name].get("reason"), by_type[name].get("message")
            return {
                "phase": phase,
                "phase_reason": shared(why or "") if phase == "Failed" else "",
                "phase_message": printable(message or "") if phase == "Failed" else "",
                "conditions_changed": epoch(by_type[name].get("lastTransitionTime")),
            }
    pod = main_pod(pods)
    if pod is not None and not pod.is_completed:
        return {}
    failed = status.get("failed")
    waits = "Suspended" if spec.get("suspend") else f"pods failed: {failed}" if isinstance(failed, int) else ""
    return {"phase": "Running" if pod else "Pending", "phase_reason": waits, "phase_message": "", "containers": ()}


def _manager(metadata: Mapping[str, Any], spec: Mapping[str, Any]) -> Owner | None:
    """Return what manages the Job besides its operator, or None. A Kueue queue does not count as a manager."""
    controller = controller_of(metadata)
    if controller is not None:
        return controller
    by_other = spec.get("managedBy") or MANAGER
    if by_other != MANAGER:
        return Owner("spec.managedBy", printable(by_other), "", "")
    tracked = mapping(metadata.get("annotations")).get(ARGO_CD)
    return None if tracked is None else Owner("Argo CD application", printable(tracked), "", "")
