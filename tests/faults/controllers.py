"""The Job controller, the Spark operator and the garbage collector of the random histories.

They act when they are called, and not on their own, so that a history is the same each time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import count

from demo.cluster.spark_application import DRIVER
from tests.faults import objects
from tests.faults.objects import APPLICATION, JOB, MARKERS, POD, Json, controller_uid, kind, name, path_of, uid
from tests.faults.servers import Server

MERGE = "application/merge-patch+json"
API_VERSIONS = {JOB: "batch/v1", APPLICATION: "sparkoperator.k8s.io/v1beta2", POD: "v1"}
GARBAGE_FINALIZERS = ("orphan", "foregroundDeletion")
STATES = {"running": "RUNNING", "sidecar": "COMPLETED", "Succeeded": "COMPLETED", "Failed": "FAILED"}


class Controllers:
    """What runs Jobs and SparkApplications in a server that only stores them.

    :param clock: returns the time to date conditions with.
    """

    def __init__(self, server: Server, clock: Callable[[], float]) -> None:
        self._server, self._clock = server, clock
        self._numbers = count(1)
        self.kinds = {POD}  # kinds that exist so far; no others have to be listed

    def create(self, of_kind: str, namespace: str, name: str, labels: dict[str, str], pods: int = 1) -> Json:
        """Create a Job or a SparkApplication whose pods have these labels, and start it."""
        if of_kind == JOB:
            container = {"name": "base", "image": "busybox"}
            template = {"metadata": {"labels": labels}, "spec": {"containers": [container], "restartPolicy": "Never"}}
            spec: Json = {"parallelism": pods, "template": template}
        else:
            spec = {"driver": {"labels": labels}}
        body = {
            "apiVersion": API_VERSIONS[of_kind],
            "kind": of_kind,
            "metadata": {"name": name},
            "spec": spec,
        }
        return self.start(self._server.call("POST", objects.PATHS[of_kind].format(namespace), body))

    def start(self, owner: Json) -> Json:
        """Create the pods of a Job, or the driver and an executor of a SparkApplication; return the owner."""
        self.kinds.add(kind(owner))
        if kind(owner) == JOB:
            for _ in range(owner["spec"]["parallelism"]):
                self.start_pod(owner)
        else:
            self._set_state(owner, "RUNNING")
            self.start_pod(owner)
        return objects.labelled(owner)

    def start_pod(self, owner: Json) -> Json:
        """Create another pod of a Job, or the driver and an executor of an application; return the first one."""
        if kind(owner) == APPLICATION:
            return self._start_driver(owner)
        labels = objects.labelled(owner)["metadata"]["labels"]
        return self._create_pod(owner, f"{owner['metadata']['name']}-{next(self._numbers)}", labels)

    def has_driver(self, namespace: str, app_name: str) -> bool:
        """Return whether a pod has the name of the application's driver."""
        path = f"{objects.PATHS[POD].format(namespace)}/{_driver_name(app_name)}"
        return objects.find_at(self._server, path) is not None

    def _start_driver(self, app: Json) -> Json:
        labels, app_name = app["spec"]["driver"].get("labels", {}), app["metadata"]["name"]
        driver = self._create_pod(app, _driver_name(app_name), {**labels, "spark-role": "driver"}, DRIVER)
        of_executor = {label: value for label, value in labels.items() if label != MARKERS[POD]}
        executor = f"{app_name}-exec-{next(self._numbers)}"
        self._create_pod(driver, executor, {**of_executor, "spark-role": "executor"}, "executor")
        return driver

    def _create_pod(self, owner: Json, pod_name: str, labels: dict[str, str], container: str = "base") -> Json:
        about = owner["metadata"]
        reference = {"apiVersion": API_VERSIONS[kind(owner)], "kind": kind(owner), "name": about["name"]}
        references = [{**reference, "uid": about["uid"], "controller": True}]
        return self._server.create_pod(
            about["namespace"], pod_name, labels, container=container, ownerReferences=references
        )

    def finish(self, owner: Json, what: str) -> None:
        """Write the status that a Job or an application has after its pods have changed in this way."""
        now = objects.timestamp(self._clock())
        if kind(owner) == APPLICATION:
            ended = {"terminationTime": now} if STATES.get(what) in ("COMPLETED", "FAILED") else {}
            self._set_state(owner, STATES.get(what, "UNKNOWN"), **ended)
        elif what in ("Succeeded", "Failed"):
            condition = {"type": {"Succeeded": "Complete"}.get(what, what), "status": "True", "lastTransitionTime": now}
            self._set_status(owner, conditions=[condition])

    def _set_state(self, app: Json, state: str, **status: str) -> None:
        self._set_status(app, applicationState={"state": state}, **status)

    def _set_status(self, owner: Json, **status: object) -> None:
        self._server.call("PATCH", f"{path_of(owner)}/status", {"status": status}, MERGE)

    def delete(self, owner: Json, policy: str = "Background") -> None:
        """Delete a Job or an application, and delete or orphan its pods."""
        self._server.call("DELETE", path_of(owner), {"propagationPolicy": policy})
        self.collect_garbage([owner["metadata"]["namespace"]])

    def collect_garbage(self, namespaces: Iterable[str]) -> None:
        """Orphan the pods of owners that wait for it, and delete those whose owners are gone."""
        for namespace in namespaces:
            found = objects.by_uid(objects.objects(self._server, namespace, self.kinds))
            for owner in [obj for obj in found.values() if kind(obj) != POD and _awaited(obj)]:
                if "orphan" in _awaited(owner):
                    for pod in [pod for pod in found.values() if controller_uid(pod) == uid(owner)]:
                        self._patch(pod, ownerReferences=None)
                        del pod["metadata"]["ownerReferences"]
                others = [each for each in owner["metadata"]["finalizers"] if each not in GARBAGE_FINALIZERS]
                self._patch(owner, finalizers=others)
                if not others:
                    del found[uid(owner)]
            while lost := [pod for pod in found.values() if _has_lost_owner(pod, found)]:
                for pod in lost:
                    self._server.delete(*name(pod).split("/"))
                    del found[uid(pod)]

    def _patch(self, obj: Json, **metadata: object) -> None:
        self._server.call("PATCH", path_of(obj), {"metadata": metadata}, MERGE)


def _driver_name(app_name: str) -> str:
    return f"{app_name}-driver"


def _awaited(owner: Json) -> list[str]:
    """Return the finalizers that the garbage collector has to remove."""
    return [each for each in owner["metadata"].get("finalizers", []) if each in GARBAGE_FINALIZERS]


def _has_lost_owner(pod: Json, found: dict[str, Json]) -> bool:
    controller = objects.controller_of(pod)
    return bool(controller and controller["kind"] in API_VERSIONS and controller["uid"] not in found)
