"""A witness between the cleanup and the API server, which records the state of the task instance at each deletion."""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp import web
from kubernetes import client

from include.kpo_cleanup.identity import to_label_value
from tests.dag.pods import role
from tests.proxy import FaultProxy, Forward
from tests.real.records import Records


@dataclass(frozen=True)
class Deletion:
    """A pod whose deletion the cleanup requested, and its task instance at that moment."""

    role: str
    state: str | None
    is_over: bool
    is_replaced: bool  # whether there was a pod of a later try


class Witness:
    """A witness of all deletions that pass through a proxy."""

    def __init__(self, proxy: FaultProxy, core: client.CoreV1Api, records: Records) -> None:
        self.deletions: list[Deletion] = []
        self._core = core
        self._records = records
        proxy.spoil("^DELETE ", self._record)

    async def _record(self, request: web.Request, forward: Forward) -> web.StreamResponse:
        name = request.path.rpartition("/")[2]
        deletion = await request.loop.run_in_executor(None, self._describe, name)
        if deletion:
            self.deletions.append(deletion)
        return await forward()

    def _describe(self, name: str) -> Deletion | None:
        pods = self._core.list_namespaced_pod("airflow").items
        labels = next((pod.metadata.labels for pod in pods if pod.metadata.name == name), None)
        if labels is None:  # the operator has deleted the pod in the meantime
            return None
        [ti] = [
            ti
            for ti in self._records.task_instances(labels["dag_id"])
            if (ti.task_id, ti.map_index) == (labels["task_id"], int(labels.get("map_index", -1)))
            and to_label_value(ti.run_id) == labels["run_id"]
        ]
        ids = ("dag_id", "task_id", "run_id", "map_index")
        replaced = any(
            int(other.metadata.labels["try_number"]) > int(labels["try_number"])
            for other in pods
            if all(other.metadata.labels.get(name) == labels.get(name) for name in ids)
        )
        return Deletion(role(labels, name), ti.state, ti.is_over, replaced)
