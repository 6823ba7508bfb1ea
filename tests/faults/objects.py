"""Pods, Jobs and SparkApplications as an API server returns them, and the workloads that they make up."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

from include.kpo_cleanup.settings import Settings
from tests.faults.servers import Server

Json = dict[str, Any]
POD, JOB, APPLICATION = "Pod", "Job", "SparkApplication"
PATHS = {
    POD: "namespaces/{}/pods",
    JOB: "/apis/batch/v1/namespaces/{}/jobs",
    APPLICATION: "/apis/sparkoperator.k8s.io/v1beta2/namespaces/{}/sparkapplications",
}
MARKERS = {POD: "kubernetes_pod_operator", JOB: "kubernetes_pod_operator", APPLICATION: "spark_kubernetes_operator"}
MAIN_CONTAINERS = ("base", "spark-kubernetes-driver")
JOB_UID, JOB_NAME = "batch.kubernetes.io/controller-uid", "batch.kubernetes.io/job-name"  # labels
NOT_EXCLUDED, OURS = "env!=excluded", "env=production"  # label selectors of the cleanup


def timestamp(epoch: float) -> str:
    return datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def epoch(text: str) -> int:
    return int(datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp())


def uid(obj: Json) -> str:
    return str(obj["metadata"]["uid"])


def name(obj: Json) -> str:
    return f"{obj['metadata']['namespace']}/{obj['metadata']['name']}"


def kind(obj: Json) -> str:
    return str(obj.get("kind", POD))  # the items of a list of pods have none


def created(obj: Json) -> int:
    return epoch(obj["metadata"]["creationTimestamp"])


def already_checked(obj: Json) -> bool:
    return bool(obj["metadata"]["labels"].get("already_checked") == "True")


def is_terminating(obj: Json) -> bool:
    return "deletionTimestamp" in obj["metadata"]


def is_protected(obj: Json) -> bool:
    return "kpo-cleanup/protect" in obj["metadata"].get("annotations", {})


def is_driver(pod: Json) -> bool:
    return bool(pod["metadata"]["labels"].get("spark-role") == "driver")


def controller_of(obj: Json) -> Json | None:
    return next((owner for owner in obj["metadata"].get("ownerReferences", []) if owner.get("controller")), None)


def controller_uid(obj: Json) -> str:
    return str((controller_of(obj) or {}).get("uid", ""))


def is_completed(obj: Json) -> bool:
    """Return whether a pod, or an object that :func:`workloads` returns, has ended."""
    return obj["status"]["phase"] in ("Succeeded", "Failed")


def is_finished(owner: Json) -> bool:
    """Return whether a Job or an application has ended, as its own status says."""
    if kind(owner) == JOB:
        return bool(owner["status"].get("conditions"))
    return owner.get("status", {}).get("applicationState", {}).get("state") in ("COMPLETED", "FAILED")


def is_working(pod: Json) -> bool:
    statuses = pod["status"].get("containerStatuses", [])
    return any(container["name"] in MAIN_CONTAINERS and "running" in container["state"] for container in statuses)


def path_of(obj: Json) -> str:
    return f"{PATHS[kind(obj)].format(obj['metadata']['namespace'])}/{obj['metadata']['name']}"


def objects(server: Server, namespace: str, kinds: Iterable[str]) -> list[Json]:
    """Return all objects of these kinds; Jobs and SparkApplications with the labels of their pods as their own."""
    lists = {of_kind: server.call("GET", PATHS[of_kind].format(namespace)) for of_kind in sorted(kinds)}
    return [labelled({**item, "kind": of_kind}) for of_kind, found in lists.items() for item in found["items"]]


def find_at(server: Server, path: str) -> Json | None:
    """Return the object that the path of a request names."""
    collection, _, object_name = path.rpartition("/")
    answer = server.call("GET", f"{collection}?fieldSelector=metadata.name={object_name}")
    return next((labelled({**item, "kind": answer["kind"].removesuffix("List")}) for item in answer["items"]), None)


def labelled(obj: Json) -> Json:
    """Return a Job or an application with the labels of its pods as its own, or a pod as it is."""
    if kind(obj) == POD:
        return obj
    spec = obj["spec"]
    labels = spec["template"]["metadata"]["labels"] if kind(obj) == JOB else spec["driver"].get("labels", {})
    return {**obj, "metadata": {**obj["metadata"], "labels": labels}}


def is_selected(obj: Json, settings: Settings) -> bool:
    """Return whether the cleanup selects a pod by its labels. A Job or an application is found through its pods."""
    if kind(obj) != POD:
        return True
    labels = obj["metadata"]["labels"]
    env = labels.get("env")
    is_matched = {NOT_EXCLUDED: env != "excluded", OURS: env == "production"}[settings.label_selector]
    is_marked = labels.get(MARKERS[APPLICATION]) == "True" if is_driver(obj) else labels.get(MARKERS[POD]) == "True"
    return is_matched and bool(is_marked)


def workloads(found: Collection[Json], settings: Settings) -> list[Json]:
    """Return the workloads that the cleanup selects: pods, and Jobs and applications in place of their pods.

    The latter have the phase and the containers of their main pod.
    """
    by_uid = {uid(obj): obj for obj in found}
    pods_of: dict[str, list[Json]] = defaultdict(list)
    chosen = []
    for pod in found:
        if kind(pod) == POD and is_selected(pod, settings):
            if kind(by_uid.get(controller_uid(pod), {})) != POD:
                pods_of[controller_uid(pod)].append(pod)
            elif not is_driver(pod) or controller_of(pod):
                chosen.append(_with_owner_by_label(pod, by_uid))
    return [*chosen, *(_with_pods(by_uid[owner], pods) for owner, pods in pods_of.items())]


def _with_owner_by_label(pod: Json, by_uid: dict[str, Json]) -> Json:
    """Return a pod with a reference to the Job that its labels name as its controller, if that Job exists."""
    job = by_uid.get(pod["metadata"]["labels"].get(JOB_UID, ""))
    if job is None:
        return pod
    return {**pod, "metadata": {**pod["metadata"], "ownerReferences": [{"controller": True, "uid": uid(job)}]}}


def _with_pods(owner: Json, pods: Collection[Json]) -> Json:
    """Return a Job or an application with what its pods contribute: labels, annotations and status."""
    main = max(pods, key=lambda pod: (is_working(pod), not is_completed(pod), created(pod)))
    metadata, status = owner["metadata"], dict(main["status"])
    if any(map(is_protected, pods)):
        metadata = {**metadata, "annotations": {"kpo-cleanup/protect": "true"}}
    if kind(owner) == APPLICATION and any(map(already_checked, pods)):
        metadata = {**metadata, "labels": {**metadata["labels"], "already_checked": "True"}}
    if is_finished(owner):
        status["phase"] = "Succeeded" if "COMPLETE" in str(owner["status"]).upper() else "Failed"
        status["finished"] = epoch(_finished(owner))
    elif is_completed(main):
        status = {"phase": "Unknown"}
    return {**owner, "metadata": metadata, "status": status}


def _finished(owner: Json) -> str:
    """Return when a finished Job or application ended."""
    status = owner["status"]
    return str(status["conditions"][0]["lastTransitionTime"] if kind(owner) == JOB else status["terminationTime"])


def end_of_main(obj: Json) -> int | None:
    for container in obj["status"].get("containerStatuses", []):
        if container["name"] in MAIN_CONTAINERS and "terminated" in container["state"]:
            return epoch(container["state"]["terminated"]["finishedAt"])
    return None


def finished_at(obj: Json) -> int | None:
    ends = [epoch(state["terminated"]["finishedAt"]) for state in _states(obj) if "terminated" in state]
    ends += [obj["status"]["finished"]] if "finished" in obj["status"] else []
    return max(ends, default=None) if is_completed(obj) else None


def last_activity(obj: Json) -> int:
    ends = [epoch(state["terminated"]["finishedAt"]) for state in _states(obj) if "terminated" in state]
    starts = [epoch(state["running"]["startedAt"]) for state in _states(obj) if "running" in state]
    return max(ends or starts or [created(obj)])


def _states(obj: Json) -> Iterator[Json]:
    return (container["state"] for container in obj["status"].get("containerStatuses", []))


def by_uid(found: Iterable[Json]) -> dict[str, Json]:
    return {uid(obj): obj for obj in found}
