"""The Job controller: it creates the pods of Jobs and tracks their results, as kube-controller-manager's does.

It runs in the API server's process and reads the store directly, so that its view is never stale.
"""

from __future__ import annotations

import asyncio

from . import deletion, mutations
from .job_plan import TRACKING, is_tracked, make_plan, uncounted
from .jobs import is_finished
from .ownership import Ownership, controller_of, controller_reference
from .resources import JOBS, PODS, Json, Target
from .store import Change, Store, StoredObject, timestamp
from .work_queue import WorkQueue

_MANAGER = "kubernetes.io/job-controller"  # the default of spec.managedBy
_INITIAL_BACKOFF, _MAX_BACKOFF = 10.0, 600.0  # simulated seconds


class JobController:
    """The Job controller of a store. `speed` is the number of simulated seconds per real second."""

    def __init__(self, store: Store, ownership: Ownership, speed: float) -> None:
        self._store = store
        self._ownership = ownership
        self._speed = speed
        self._jobs = WorkQueue(self._sync)
        self._orphans = WorkQueue(self._release_orphan)
        self._failures: dict[str, int] = {}  # since the last success, by the uid of the Job
        self._backoff_until: dict[str, float] = {}  # in the loop's time, by the uid of the Job
        store.observers.append(self._observe)

    def _observe(self, resource: str, change: Change) -> None:
        for stored in filter(None, (change.before, change.after)):
            if resource == JOBS.name:
                self._jobs.add(stored.key)
                if change.after is None:
                    self._orphans.add_all(pod.key for pod in self._pods(stored.object))
            elif resource == PODS.name:
                if reference := _job_reference(stored.object):
                    self._jobs.add(f"{stored.object['metadata']['namespace']}/{reference['name']}")
                if is_tracked(stored.object):
                    self._orphans.add(stored.key)

    def _sync(self, key: str) -> None:
        """Bring the pods and the status of a Job up to date."""
        stored = self._store.get(JOBS.name, key)
        if stored is None or is_finished(stored.object):
            return
        job, uid = stored.object, stored.object["metadata"]["uid"]
        if job["spec"].get("managedBy", _MANAGER) != _MANAGER:
            return
        pods = self._pods(job)
        by_uid = {pod.object["metadata"]["uid"]: pod for pod in pods}
        self._update_backoff(key, uid, [pod.object for pod in pods])
        may_create = asyncio.get_running_loop().time() >= self._backoff_until.get(uid, 0.0)
        now = timestamp(self._store.now())
        steps = make_plan(job, [pod.object for pod in pods], now, may_create=may_create)
        for pod in steps.delete:
            deletion.delete(self._store, PODS, by_uid[pod["metadata"]["uid"]], {})
        for pod in steps.release:
            self._release(by_uid[pod["metadata"]["uid"]].key)
        for _ in range(steps.create):
            self._create_pod(job)
        if steps.status != job["status"]:
            self._store.put(JOBS.name, key, {**job, "status": steps.status})

    def _pods(self, job: Json) -> list[StoredObject]:
        dependents = self._ownership.dependents(job["metadata"]["uid"])
        return [stored for resource, stored in dependents if resource == PODS.name and _job_reference(stored.object)]

    def _update_backoff(self, key: str, uid: str, pods: list[Json]) -> None:
        """Delay the replacement of pods that have failed, twice as long after each failure since the last success."""
        succeeded, failed = uncounted(pods)
        if succeeded:
            self._failures[uid] = 0
        if failed:
            self._failures[uid] = self._failures.get(uid, 0) + len(failed)
            delay = min(_INITIAL_BACKOFF * 2 ** (self._failures[uid] - 1), _MAX_BACKOFF) / self._speed
            self._backoff_until[uid] = asyncio.get_running_loop().time() + delay
            self._jobs.add_after(key, delay)

    def _create_pod(self, job: Json) -> None:
        metadata, template = job["metadata"], job["spec"]["template"]
        body = {
            "metadata": {
                "generateName": f"{metadata['name']}-",
                "labels": template["metadata"]["labels"],
                "annotations": template["metadata"].get("annotations") or {},
                "finalizers": [*(template["metadata"].get("finalizers") or []), TRACKING],
                "ownerReferences": [controller_reference(JOBS, job)],
            },
            "spec": template["spec"],
        }
        mutations.create(self._store, Target(PODS, metadata["namespace"]), body)

    def _release_orphan(self, key: str) -> None:
        """Release a pod from tracking if its Job no longer exists, or has finished, or has been detached from it."""
        stored = self._store.get(PODS.name, key)
        if stored is None:
            return
        if reference := _job_reference(stored.object):
            job = self._store.get(JOBS.name, f"{stored.object['metadata']['namespace']}/{reference['name']}")
            if job and job.object["metadata"]["uid"] == reference["uid"] and not is_finished(job.object):
                return
        elif controller_of(stored.object):
            return
        self._release(key)

    def _release(self, key: str) -> None:
        """Remove the tracking finalizer of a pod, if the pod still exists."""
        stored = self._store.get(PODS.name, key)
        if stored and is_tracked(stored.object):
            mutations.write(self._store, PODS, key, mutations.without_finalizer(stored.object, TRACKING))


def _job_reference(pod: Json) -> Json | None:
    """Return the reference to the pod's controller if that is a Job."""
    reference = controller_of(pod)
    is_job = reference and (reference["apiVersion"], reference["kind"]) == (JOBS.api_version, JOBS.kind)
    return reference if is_job else None
