"""SparkApplications of the SparkKubernetesOperator, which Kubeflow's Spark operator runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..text import printable
from .kind import WorkloadKind, pod_fields, protection_of
from .labels import SPARK_LABEL, task_fields
from .parse import controller_of, epoch, identity, mapping
from .workload import NO_LINKS, Links, Workload

_TERMINAL = {"COMPLETED": "Succeeded", "FAILED": "Failed"}  # state -> equivalent pod phase


class SparkApplicationKind(WorkloadKind):
    """A retry adopts the driver of an earlier try, and with it the application. Executors are never listed."""

    api_kind = "SparkApplication"
    group = "sparkoperator.k8s.io"
    version = "v1beta2"
    plural = "sparkapplications"
    marker = SPARK_LABEL
    more_selectors = ("spark-role=driver",)
    is_adopted = True
    outlives_success = True

    def parse(self, item: Mapping[str, Any], pods: Sequence[Workload]) -> Workload:
        """See :class:`WorkloadKind`."""
        metadata, spec, status = mapping(item.get("metadata")), mapping(item.get("spec")), mapping(item.get("status"))
        driver = mapping(spec.get("driver"))  # its labels are those of the driver's pod
        fields = {**identity(metadata), **task_fields(mapping(driver.get("labels")), self.marker), **pod_fields(pods)}
        state = mapping(status.get("applicationState"))
        name, message = printable(state.get("state") or "NEW"), printable(state.get("errorMessage") or "")
        if name in _TERMINAL:
            fields.update(phase=_TERMINAL[name], phase_reason="", phase_message=message)
        elif any(pod.deletion_deadline is not None for pod in pods):  # so no retry adopts it
            fields.update(phase="Unknown", phase_reason="the driver is being deleted")
        elif fields["phase"] in _TERMINAL.values():  # the Spark operator may be about to start the driver again
            fields.update(phase="Unknown", phase_reason=name, phase_message=message, containers=())
        named = self.recorded_name(fields["namespace"], fields["name"])
        return Workload(
            **{
                **fields,
                "kind": self.api_kind,
                "protected_by": protection_of(pods, metadata, driver),
                "controller": controller_of(metadata),
                "already_checked": any(pod.already_checked for pod in pods),
                "conditions_changed": epoch(status.get("terminationTime")),
                "links": Links(
                    recorded_as=pods[0].record_name if pods else named,
                    main_pod=fields.get("links", NO_LINKS).main_pod,
                ),
            }
        )

    def recorded_name(self, namespace: str, name: str) -> str:
        """See :class:`WorkloadKind`: the record names the driver."""
        return super().recorded_name(namespace, f"{name}-driver")

    def is_adoptable(self, workload: Workload) -> bool:
        """See :class:`WorkloadKind`: a retry adopts no driver that has failed."""
        return super().is_adoptable(workload) and workload.phase in ("Pending", "Running")
