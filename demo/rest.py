"""A client for the parts of Airflow's REST API, 2 and 3, that the demo and the tests use."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote

import httpx
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_fixed

from demo.airflow_settings import IS_AIRFLOW_3
from demo.terminal import DemoError

API = "/api/v2" if IS_AIRFLOW_3 else "/api/v1"
HEALTH = f"{API}/monitor/health" if IS_AIRFLOW_3 else f"{API}/health"

CLEANUP_LOGGER = "include.kpo_cleanup"


@dataclass(frozen=True)
class TaskInstance:
    """A task instance as returned by the API; `pid` is the process that runs the task itself."""

    task_id: str
    map_index: int
    state: str | None
    try_number: int
    pid: int | None
    end_date: str | None

    def ended_longer_ago_than(self, seconds: float) -> bool:
        return self.end_date is not None and time.time() - datetime.fromisoformat(self.end_date).timestamp() > seconds


class DatabaseBusy(DemoError):
    """Raised when a request failed because another component of Airflow had locked the SQLite database for too long."""


class AirflowApi:
    """A client of the REST API that logs in with its first request."""

    def __init__(self, url: str, user: str, password: str) -> None:
        # trust_env=False ignores proxies, which could not reach a server on loopback.
        self._client = httpx.Client(base_url=url, trust_env=False, timeout=60)  # seconds; a busy machine is slow
        self._login = {"username": user, "password": password}
        if not IS_AIRFLOW_3:
            self._client.auth = (user, password)

    def heartbeats(self) -> dict[str, float] | None:
        """Return the latest heartbeat of each component (epoch seconds), or None if the web server does not respond."""
        try:
            response = self._client.get(HEALTH, timeout=5)
        except httpx.TransportError:
            return None
        if response.is_error:
            return None
        beats = {name: (part or {}).get(f"latest_{name}_heartbeat") for name, part in response.json().items()}
        return {
            name.replace("_", "-"): datetime.fromisoformat(beat).timestamp() for name, beat in beats.items() if beat
        }

    def has_dag(self, dag_id: str) -> bool:
        """Return whether Airflow has parsed a DAG.

        :raises DemoError: if a DAG file has an import error.
        """
        if self.request("GET", f"/dags/{dag_id}", missing_ok=True):
            return True
        for error in self.request("GET", "/importErrors")["import_errors"]:
            raise DemoError(f"import error in {error['filename']}:\n{error['stack_trace']}")
        return False

    def pause(self, dag_id: str, is_paused: bool) -> None:
        self.request("PATCH", f"/dags/{dag_id}", json={"is_paused": is_paused})

    def trigger(self, dag_id: str, conf: dict[str, Any], logical_date: datetime | None = None) -> str:
        """Trigger a DAG run and return its run_id. On Airflow 2, each run has a logical date."""
        date = logical_date and logical_date.isoformat()
        body = {"logical_date": date, "conf": conf} if IS_AIRFLOW_3 else {"conf": conf}
        return str(self.request("POST", f"/dags/{dag_id}/dagRuns", json=body)["dag_run_id"])

    def run_state(self, dag_id: str, run_id: str) -> str:
        return str(self.request("GET", _run(dag_id, run_id))["state"])

    def task_instances(self, dag_id: str, run_id: str) -> list[TaskInstance]:
        task_instances = self.request("GET", f"{_run(dag_id, run_id)}/taskInstances")["task_instances"]
        return [TaskInstance(**{name: ti[name] for name in TaskInstance.__annotations__}) for ti in task_instances]

    def log(self, dag_id: str, run_id: str, task_id: str, try_number: int = 1) -> list[dict[str, Any]]:
        """Return the entries of a task's log."""
        path = f"{_run(dag_id, run_id)}/taskInstances/{task_id}/logs/{try_number}"
        body = self.request("GET", path, params={"full_content": True}, missing_ok=True)
        return [entry for entry in (body or {}).get("content", []) if isinstance(entry, dict)]

    def cleanup_log(self, dag_id: str, run_id: str, task_id: str) -> list[str]:
        """Return the lines of a task's log that kpo_cleanup itself wrote, without Airflow's."""
        entries = self.log(dag_id, run_id, task_id)
        own = (entry for entry in entries if str(entry.get("logger", "")).startswith(CLEANUP_LOGGER))
        return [f"{'' if entry['level'] == 'info' else entry['level'].upper() + ' '}{entry['event']}" for entry in own]

    def return_value(self, dag_id: str, run_id: str, task_id: str) -> Any:
        """Return the return value of a task, or None if there is none."""
        path = f"{_run(dag_id, run_id)}/taskInstances/{task_id}/xcomEntries/return_value"
        return (self.request("GET", path, params={"deserialize": True}, missing_ok=True) or {}).get("value")

    @retry(retry=retry_if_exception_type(DatabaseBusy), stop=stop_after_attempt(8), wait=wait_fixed(1), reraise=True)
    def request(self, method: str, path: str, *, missing_ok: bool = False, **options: Any) -> Any:
        """Send a request and return the response's JSON, or None for a 404 if `missing_ok`.

        :raises DemoError: if the request fails or the response is an error.
        """
        try:
            if IS_AIRFLOW_3 and "Authorization" not in self._client.headers:
                token = self._client.post("/auth/token", json=self._login).raise_for_status().json()["access_token"]
                self._client.headers["Authorization"] = f"Bearer {token}"
            response = self._client.request(method, f"{API}{path}", **options)
        except httpx.HTTPError as error:
            raise DemoError(f"{method} {path} (Airflow REST API) failed: {error}") from error
        if missing_ok and response.status_code == httpx.codes.NOT_FOUND:
            return None
        if response.is_error:
            error_type = DatabaseBusy if "Database error" in response.text else DemoError
            raise error_type(f"{method} {path} (Airflow REST API) returned {response.status_code}: {response.text}")
        return response.json()


def is_up(url: str) -> bool:
    """Return whether an API server responds at this URL."""
    try:
        return httpx.get(f"{url}{HEALTH}", trust_env=False).is_success
    except httpx.TransportError:
        return False


def _run(dag_id: str, run_id: str) -> str:
    return f"/dags/{dag_id}/dagRuns/{quote(run_id, safe='')}"
