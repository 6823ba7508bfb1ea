"""The pods that the UI tests show: what two nights leave in a cluster, hours old, put there as they are."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

from demo.cluster import EmbeddedCluster
from tests.dag.pods import labels_of

NAMESPACES = ("airflow", "team-reporting")
PAUSED_NAMESPACE = "team-paused"  # its cleanup is paused
FINISHED = {
    "nightly_orders": ("extract_orders", "load_warehouse", "export_report"),
    "ml_feature_refresh_for_recommendations": ("compute_customer_lifetime_value_with_full_history",),
}
RETRYING = "hourly_events"
HOUR = timedelta(hours=1)

Json = dict[str, Any]


class FrozenCluster(EmbeddedCluster):
    """Has no kubelet: its pods stay as they were put there, whatever their age."""

    def __init__(self) -> None:
        super().__init__((*NAMESPACES, PAUSED_NAMESPACE), kubelet=False)

    def put(self, pods: Iterable[Json]) -> None:
        self._background.run(self._put(list(pods)))

    def names(self) -> set[str]:
        """The pods that are there, as namespace/name."""
        return set(self._store.tables["pods"].objects)

    async def _put(self, pods: list[Json]) -> None:
        for pod in pods:
            metadata = pod["metadata"]
            self._store.put("pods", f"{metadata['namespace']}/{metadata['name']}", pod)


def zombies(runs: Mapping[str, list[str]]) -> Iterator[Json]:
    """The pods of finished tasks, each with a sidecar that goes on; and one that a retry does not use any more.

    :param runs: the run_ids of each DAG.
    """
    age = 31 * HOUR
    for dag_id, task_ids in FINISHED.items():
        for run_id in runs[dag_id]:
            for task_id in task_ids:
                yield make_pod(dag_id, task_id, run_id, age, ended="1" if task_id == "load_warehouse" else "0")
                age -= 2 * HOUR
    yield make_pod("nightly_orders", "extract_orders", runs["nightly_orders"][0], 5 * HOUR, namespace="team-reporting")
    yield make_pod(RETRYING, "ingest_clickstream", runs[RETRYING][0], 3 * HOUR, sidecar="")


def kept(runs: Mapping[str, list[str]]) -> Iterator[Json]:
    """One pod for each of several reasons to keep it."""
    [hourly], nightly = runs[RETRYING], runs["nightly_orders"][0]
    yield make_pod(RETRYING, "ingest_clickstream", hourly, HOUR, sidecar="", try_number=2)
    yield make_pod(RETRYING, "publish_metrics", hourly, 2 * HOUR, ended="0", sidecar="istio-proxy")
    yield make_pod("nightly_orders", "export_report", "manual__of_another_airflow", 7 * HOUR)
    for_debugging = make_pod(
        "nightly_orders", "load_warehouse", nightly, 8 * HOUR, ended="1", sidecar="", phase="Failed"
    )
    yield for_debugging
    job = make_pod("nightly_orders", "export_report", nightly, 9 * HOUR)
    job["metadata"]["ownerReferences"] = [{"kind": "Job", "name": "export-report", "controller": True}]
    yield job


def make_pod(
    dag_id: str,
    task_id: str,
    run_id: str,
    age: timedelta,
    *,
    ended: str = "",
    sidecar: str = "airflow-xcom-sidecar",
    phase: str = "Running",
    try_number: int = 1,
    namespace: str = "airflow",
) -> Json:
    """A pod as the operator makes it and a kubelet reports it.

    :param ended: the exit code of its base container, which else still runs.
    """
    unique = sha256(repr((dag_id, task_id, run_id, age, try_number, namespace)).encode()).hexdigest()
    born = datetime.now(UTC) - age
    base: Json = {"running": {"startedAt": _timestamp(born)}}
    if ended:
        base = {"terminated": {"exitCode": int(ended), "finishedAt": _timestamp(born + age / 3)}}
    states = {"base": base, **({sidecar: {"running": {"startedAt": _timestamp(born)}}} if sidecar else {})}
    requests = {"cpu": "500m", "memory": "1Gi"}
    return {
        "metadata": {
            "name": f"{task_id.replace('_', '-')}-{unique[:8]}",
            "namespace": namespace,
            "uid": str(uuid.UUID(unique[:32])),
            "generation": 1,
            "creationTimestamp": _timestamp(born),
            "labels": labels_of(dag_id, task_id, run_id, try_number),
        },
        "spec": {"containers": [{"name": "base", "image": "busybox", "resources": {"requests": requests}}]},
        "status": {
            "phase": phase,
            "containerStatuses": [{"name": name, "state": state} for name, state in states.items()],
        },
    }


def _timestamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
