"""The API server's strategy for Jobs: defaults, the generated selector, validation, and orphaning by default."""

from __future__ import annotations

from datetime import datetime

from .errors import Cause, bad_request
from .pods import spec_problems, with_defaults
from .resources import Json
from .strategy import Strategy

# The simulated Job controller does not support these fields, so they are rejected rather than ignored.
_NOT_SIMULATED = ("activeDeadlineSeconds", "backoffLimitPerIndex", "podFailurePolicy", "selector", "successPolicy")
_MUTABLE = ("backoffLimit", "parallelism", "suspend", "ttlSecondsAfterFinished")
_DEFAULTS: Json = {
    "backoffLimit": 6,
    "completionMode": "NonIndexed",
    "manualSelector": False,
    "podReplacementPolicy": "TerminatingOrFailed",
    "suspend": False,
}


class JobStrategy(Strategy):
    default_propagation = "Orphan"  # batch/v1 keeps this for backward compatibility

    def prepare_for_create(self, obj: Json, now: datetime) -> list[Cause]:
        metadata, given = obj["metadata"], obj.get("spec") or {}
        # Given a parallelism but no completions, the Job completes once one pod has succeeded and none is active.
        counts = {"parallelism": 1, **({} if "parallelism" in given else {"completions": 1})}
        template = given.get("template") or {}
        spec = obj["spec"] = {**counts, **_DEFAULTS, **given}
        for field in _NOT_SIMULATED:
            if given.get(field) is not None:
                raise bad_request(f"spec.{field} of Jobs is not simulated")
        for field in ("completionMode", "manualSelector", "podReplacementPolicy"):
            if spec[field] != _DEFAULTS[field]:
                raise bad_request(f"spec.{field} {spec[field]} of Jobs is not simulated")
        uid, name = metadata["uid"], metadata.get("name", "")
        labels = {
            **((template.get("metadata") or {}).get("labels") or {}),
            "batch.kubernetes.io/controller-uid": uid,
            "batch.kubernetes.io/job-name": name,
            "controller-uid": uid,
            "job-name": name,
        }
        # The API server copies the labels of the template to a Job that has none.
        metadata |= {"generation": 1, "labels": metadata.get("labels") or labels}
        spec["selector"] = {"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}
        spec["template"] = {
            "metadata": {**(template.get("metadata") or {}), "labels": labels},
            "spec": with_defaults(template.get("spec") or {}),
        }
        obj["status"] = {}
        return _problems(spec)

    def validate_update(self, before: Json, after: Json) -> list[Cause]:
        immutable = [field for field in {**before["spec"], **after["spec"]} if field not in _MUTABLE]
        return [
            Cause.invalid(f"spec.{field}", after["spec"].get(field), "field is immutable")
            for field in immutable
            if after["spec"].get(field) != before["spec"].get(field)
        ] + _problems(after["spec"])


def is_finished(job: Json) -> bool:
    """Return whether a Job has completed or failed."""
    conditions = job["status"].get("conditions") or []
    return any(one["type"] in ("Complete", "Failed") and one["status"] == "True" for one in conditions)


def _problems(spec: Json) -> list[Cause]:
    causes = [
        Cause.invalid(f"spec.{field}", spec[field], "must be greater than or equal to 0")
        for field in ("parallelism", "completions", "backoffLimit")
        if spec.get(field, 0) < 0
    ]
    causes += spec_problems(spec["template"]["spec"], "spec.template.spec")
    if spec["template"]["spec"]["restartPolicy"] not in ("OnFailure", "Never"):
        causes.append(Cause.required("spec.template.spec.restartPolicy", 'valid values: "OnFailure", "Never"'))
    return causes
