"""The pods of the UI tests: zombies and kept pods that are hours old, written directly into the cluster's store."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

from demo.cluster import EmbeddedCluster
from tests.dag.pods import labels_of

NAMESPACES = ("airflow", "team-reporting")
PAUSED_NAMESPACE = "team-paused"  # cleaned up by a DAG that is paused
FINISHED_TASKS = {
    "nightly_orders": ("extract_orders", "load_warehouse", "export_report"),
    "ml_feature_refresh_for_recommendations": ("compute_customer_lifetime_value_with_full_history",),
}
RETRYING_DAG = "hourly_events"
HOUR = timedelta(hours=1)

Json = dict[str, Any]


class FrozenCluster(EmbeddedCluster):
    """An embedded cluster without a kubelet, whose pods keep the state and age they were created with."""

    def __init__(self) -> None:
        super().__init__((*NAMESPACES, PAUSED_NAMESPACE), kubelet=False)

    def put(self, pods: Iterable[Json]) -> None:
        self._background.run(self._put(list(pods)))

    def names(self) -> set[str]:
        """Return the names of all pods, as namespace/name."""
        return set(self._store.tables["pods"].objects)

    async def _put(self, pods: list[Json]) -> None:
        for pod in pods:
            metadata = pod["metadata"]
            self._store.put("pods", f"{metadata['namespace']}/{metadata['name']}", pod)


def zombies(runs: Mapping[str, list[str]]) -> Iterator[Json]:
    """Yield pods of finished tasks in which a container is still running, and one that a retry's pod supersedes.

    :param runs: the run_ids of each DAG.
    """
    age = 31 * HOUR
    for dag_id, task_ids in FINISHED_TASKS.items():
        for run_id in runs[dag_id]:
            for task_id in task_ids:
                yield make_pod(dag_id, task_id, run_id, age, exit_code=1 if task_id == "load_warehouse" else 0)
                age -= 2 * HOUR
    yield make_pod("nightly_orders", "extract_orders", runs["nightly_orders"][0], 5 * HOUR, namespace="team-reporting")
    yield make_pod(RETRYING_DAG, "ingest_clickstream", runs[RETRYING_DAG][0], 3 * HOUR, sidecar="")


def kept(runs: Mapping[str, list[str]]) -> Iterator[Json]:
    """Yield pods that are kept, each for a different reason."""
    [hourly], nightly = runs[RETRYING_DAG], runs["nightly_orders"][0]
    retry = make_pod(RETRYING_DAG, "ingest_clickstream", hourly, HOUR, sidecar="", try_number=2)
    retry["metadata"]["name"] = "ingest-clickstream-retry"  # the name in the record of this task instance
    yield retry
    yield make_pod(RETRYING_DAG, "publish_metrics", hourly, 2 * HOUR, exit_code=0, sidecar="istio-proxy")
    yield make_pod("nightly_orders", "export_report", "manual__of_another_airflow", 7 * HOUR)
    failed = make_pod("nightly_orders", "load_warehouse", nightly, 8 * HOUR, exit_code=1, sidecar="", phase="Failed")
    yield failed
    owned = make_pod("nightly_orders", "export_report", nightly, 9 * HOUR)
    owned["metadata"]["ownerReferences"] = [{"kind": "Job", "name": "export-report", "controller": True}]
    yield owned


def make_pod(
    dag_id: str,
    task_id: str,
    run_id: str,
    age: timedelta,
    *,
    exit_code: int | None = None,
    sidecar: str = "airflow-xcom-sidecar",
    phase: str = "Running",
    try_number: int = 1,
    namespace: str = "airflow",
) -> Json:
    """Build a pod as the operator creates it, with the status that a kubelet would report.

    :param exit_code: the exit code of the main container; None if it is still running.
    """
    unique = sha256(repr((dag_id, task_id, run_id, age, try_number, namespace)).encode()).hexdigest()
    created = datetime.now(UTC) - age
    base: Json = {"running": {"startedAt": _timestamp(created)}}
    if exit_code is not None:
        base = {"terminated": {"exitCode": exit_code, "finishedAt": _timestamp(created + age / 3)}}
    states = {"base": base, **({sidecar: {"running": {"startedAt": _timestamp(created)}}} if sidecar else {})}
    requests = {"cpu": "500m", "memory": "1Gi"}
    return {
        "metadata": {
            "name": f"{task_id.replace('_', '-')}-{unique[:8]}",
            "namespace": namespace,
            "uid": str(uuid.UUID(unique[:32])),
            "generation": 1,
            "creationTimestamp": _timestamp(created),
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
