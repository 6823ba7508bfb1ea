"""The Task SDK's own client, calling the code of the execution API in the same process, without a network."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

from airflow.api_fastapi.execution_api.app import InProcessExecutionAPI
from airflow.sdk.api.client import Client


class SdkClient:
    """Provide the calls of the task runner and the XCom class that kpo_cleanup uses, and count them."""

    def __init__(self) -> None:
        transport = InProcessExecutionAPI().transport
        self._client = Client(base_url="http://in-process.invalid./", token="", transport=transport)
        self.calls = 0

    def get_task_states(self, **filters: Any) -> Any:
        self.calls += 1
        return self._client.task_instances.get_task_states(**filters).task_states

    def get_ti_count(self, **filters: Any) -> int:
        self.calls += 1
        return int(self._client.task_instances.get_count(**filters).count)

    def get_previous_ti(self, **filters: Any) -> Any:
        self.calls += 1
        return self._client.task_instances.get_previous(**filters).task_instance

    def model_copy(self, *, update: dict[str, str]) -> Any:
        """Return the task instance of another task."""
        return SimpleNamespace(get_previous_ti=partial(self.get_previous_ti, **update))

    def fetch_dag_run(self, dag_id: str, run_id: str) -> Any:
        self.calls += 1
        return self._client.dag_runs.get_detail(dag_id, run_id)

    def get_all(self, *, key: str, dag_id: str, task_id: str, run_id: str) -> list[Any] | None:
        self.calls += 1
        whole = {"start": None, "stop": None, "step": None}
        return self._client.xcoms.get_sequence_slice(dag_id, run_id, task_id, key, **whole).root or None

    def get_one(self, *, key: str, dag_id: str, task_id: str, run_id: str, map_index: int | None) -> Any:
        self.calls += 1
        return self._client.xcoms.get(dag_id, run_id, task_id, key, map_index).value
