"""The API server's strategy for pods: defaults, validation and graceful deletion."""

from __future__ import annotations

from datetime import datetime

from .errors import Cause
from .resources import Json
from .strategy import Strategy

_DEFAULTS: Json = {
    "restartPolicy": "Always",
    "terminationGracePeriodSeconds": 30,
    "dnsPolicy": "ClusterFirst",
    "schedulerName": "default-scheduler",
}


class PodStrategy(Strategy):
    is_graceful = True

    def prepare_for_create(self, obj: Json, now: datetime) -> list[Cause]:
        obj["metadata"]["generation"] = 1
        obj |= {"spec": with_defaults(obj.get("spec") or {}), "status": {"phase": "Pending"}}
        policy = obj["spec"]["restartPolicy"]
        supported = ("Always", "OnFailure", "Never")
        causes = spec_problems(obj["spec"], "spec")
        return causes if policy in supported else [*causes, Cause.unsupported("spec.restartPolicy", policy, supported)]

    def validate_update(self, before: Json, after: Json) -> list[Cause]:
        if after["spec"] == before["spec"]:
            return []
        # A real API server allows a few changes, but none that the operator makes.
        return [Cause("FieldValueForbidden", "spec", "Forbidden: pod updates may not change the spec")]

    def grace_period(self, obj: Json) -> int | None:
        # A pod that is not bound to a node, or that has finished, needs no kubelet to stop it.
        if not obj["spec"].get("nodeName") or obj["status"].get("phase") in ("Succeeded", "Failed"):
            return None
        return int(obj["spec"]["terminationGracePeriodSeconds"])


def with_defaults(spec: Json) -> Json:
    """Return a pod's spec with the defaults of the fields that are not set."""
    return {**_DEFAULTS, **spec}


def spec_problems(spec: Json, path: str) -> list[Cause]:
    """Return what is invalid in the containers of a pod's spec; `path` is the path of the spec."""
    causes = [] if spec.get("containers") else [Cause.required(f"{path}.containers")]
    for index, container in enumerate(spec.get("containers") or []):
        missing = (field for field in ("name", "image") if not container.get(field))
        causes += [Cause.required(f"{path}.containers[{index}].{field}") for field in missing]
    return causes
