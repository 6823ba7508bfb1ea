"""What the Job controller does next for a Job: a pure function of the Job and its pods, as in `syncJob`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from .resources import Json

# Each pod of a Job carries this finalizer until the controller has counted its result.
TRACKING = "batch.kubernetes.io/job-tracking"

_BACKOFF_LIMIT = {"reason": "BackoffLimitExceeded", "message": "Job has reached the specified backoff limit"}
_COMPLETIONS = {"reason": "CompletionsReached", "message": "Reached expected number of succeeded pods"}
_SUSPENDED = {"reason": "JobSuspended", "message": "Job suspended"}
_RESUMED = {"reason": "JobResumed", "message": "Job resumed"}


@dataclass
class Plan:
    """The next steps for a Job: pods to create, to delete and to release from tracking, and the new status."""

    status: Json
    create: int = 0
    delete: list[Json] = field(default_factory=list)
    release: list[Json] = field(default_factory=list)


def uncounted(pods: Sequence[Json]) -> tuple[list[Json], list[Json]]:
    """Return the pods that have succeeded and those that have failed, without those already counted.

    A terminating pod counts as failed unless it has succeeded.
    """
    tracked = [pod for pod in pods if is_tracked(pod)]
    succeeded = [pod for pod in tracked if _phase(pod) == "Succeeded"]
    failed = [pod for pod in tracked if _phase(pod) == "Failed" or (_is_terminating(pod) and pod not in succeeded)]
    return succeeded, failed


def make_plan(job: Json, pods: Sequence[Json], now: str, *, may_create: bool) -> Plan:
    """Return the next steps. `now` is a timestamp; `may_create` is False during the backoff after a failure."""
    spec, before = job["spec"], job["status"]
    started: str | None = before.get("startTime") or now
    conditions = {one["type"]: one for one in before.get("conditions") or []}
    active = [pod for pod in pods if _is_unfinished(pod) and not _is_terminating(pod)]
    new_successes, new_failures = uncounted(pods)
    succeeded, failed = before.get("succeeded", 0) + len(new_successes), before.get("failed", 0) + len(new_failures)
    steps = Plan({}, release=new_successes + new_failures)

    if failed > spec["backoffLimit"] or _too_many_restarts(spec, active):
        _set(conditions, "FailureTarget", _BACKOFF_LIMIT, now)
    if "FailureTarget" in conditions:
        # Every pod that has not finished counts as failed.
        unfinished = [pod for pod in pods if is_tracked(pod) and pod not in steps.release]
        steps.delete, steps.release, failed = active, [*steps.release, *unfinished], failed + len(unfinished)
    elif "deletionTimestamp" in job["metadata"]:
        steps.release = [pod for pod in pods if is_tracked(pod)]
    elif spec["suspend"]:
        _set(conditions, "Suspended", _SUSPENDED, now)
        steps.delete, steps.release, started = active, [*steps.release, *active], None
    else:
        if conditions.get("Suspended", {}).get("status") == "True":
            _set(conditions, "Suspended", _RESUMED, now, status="False")
            started = now
        wanted = _wanted(spec, succeeded, len(active))
        steps.delete = sorted(active, key=_progress)[: max(len(active) - wanted, 0)]
        steps.release += steps.delete
        steps.create = max(wanted - len(active), 0) if may_create else 0

    remaining = [pod for pod in active if pod not in steps.delete]
    terminating = len(steps.delete) + sum(_is_unfinished(pod) and _is_terminating(pod) for pod in pods)
    if "FailureTarget" not in conditions and _is_complete(spec, succeeded, len(remaining) + steps.create):
        _set(conditions, "SuccessCriteriaMet", _COMPLETIONS, now)
    if not terminating and "FailureTarget" in conditions:
        _set(conditions, "Failed", _BACKOFF_LIMIT, now)
    elif not terminating and "SuccessCriteriaMet" in conditions:
        _set(conditions, "Complete", _COMPLETIONS, now)
    optional = {
        "conditions": list(conditions.values()),
        "startTime": started,
        "completionTime": now if "Complete" in conditions else None,
        "active": len(remaining) + steps.create,
        "succeeded": succeeded,
        "failed": failed,
    }
    steps.status = {
        **{key: value for key, value in optional.items() if value},
        "ready": sum(_is_ready(pod) for pod in remaining),
        "terminating": terminating,
        "uncountedTerminatedPods": {},
    }
    return steps


def is_tracked(pod: Json) -> bool:
    """Return whether the result of a Job's pod has not been counted yet."""
    return TRACKING in (pod["metadata"].get("finalizers") or [])


def _wanted(spec: Json, succeeded: int, active: int) -> int:
    """Return how many pods should be active."""
    parallelism: int = spec["parallelism"]
    if "completions" not in spec:
        return active if succeeded else parallelism
    return max(min(int(spec["completions"]) - succeeded, parallelism), 0)


def _is_complete(spec: Json, succeeded: int, active: int) -> bool:
    """Return whether no pod is active and enough have succeeded: one if `completions` is not set."""
    return not active and bool(succeeded >= spec.get("completions", 1))


def _too_many_restarts(spec: Json, active: list[Json]) -> bool:
    """Return whether in-place container restarts have reached the backoff limit, or 1 if the limit is 0."""
    if spec["template"]["spec"]["restartPolicy"] != "OnFailure":
        return False
    restarts = sum(one["restartCount"] for pod in active for one in pod["status"].get("containerStatuses", []))
    return bool(restarts >= max(spec["backoffLimit"], 1))


def _set(conditions: dict[str, Json], kind: str, why: Json, now: str, *, status: str = "True") -> None:
    """Set a condition, unless it has that status already."""
    if conditions.get(kind, {}).get("status") != status:
        times = {"lastProbeTime": now, "lastTransitionTime": now}
        conditions[kind] = {"type": kind, "status": status, **times, **why}


def _progress(pod: Json) -> tuple[bool, bool, bool]:
    """Return a sort key that puts pods in early stages first, because surplus pods are deleted in this order."""
    return bool(pod["spec"].get("nodeName")), _phase(pod) == "Running", _is_ready(pod)


def _phase(pod: Json) -> str:
    return str(pod["status"].get("phase"))


def _is_unfinished(pod: Json) -> bool:
    return _phase(pod) not in ("Succeeded", "Failed")


def _is_terminating(pod: Json) -> bool:
    return "deletionTimestamp" in pod["metadata"]


def _is_ready(pod: Json) -> bool:
    conditions = pod["status"].get("conditions") or []
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
