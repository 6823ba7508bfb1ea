"""The few requests to Airflow's REST API, of 2 and 3, that the demo and the tests make."""

from __future__ import annotations

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

OUR_LOGGERS = "include.kpo_cleanup"


@dataclass(frozen=True)
class TaskInstance:
    """A task instance as the API shows it. `pid` is the process in which the task itself runs."""

    task_id: str
    map_index: int
    state: str | None
    try_number: int
    pid: int | None


class DatabaseBusy(DemoError):
    """SQLite was locked by another component of Airflow for too long, and the request was not carried out."""


class AirflowApi:
    """A client of the REST API. It logs in with its first request."""

    def __init__(self, url: str, user: str, password: str) -> None:
        # The environment's proxies do not lead to this machine.
        self._client = httpx.Client(base_url=url, trust_env=False, timeout=60)  # seconds; a busy machine is slow
        self._login = {"username": user, "password": password}
        if not IS_AIRFLOW_3:
            self._client.auth = (user, password)

    def heartbeats(self) -> dict[str, float] | None:
        """Return each component's latest heartbeat (epoch seconds); None if the web server does not answer."""
        try:
            answer = self._client.get(HEALTH, timeout=5)
        except httpx.TransportError:
            return None
        if answer.is_error:
            return None
        beats = {name: (part or {}).get(f"latest_{name}_heartbeat") for name, part in answer.json().items()}
        return {
            name.replace("_", "-"): datetime.fromisoformat(beat).timestamp() for name, beat in beats.items() if beat
        }

    def has_dag(self, dag_id: str) -> bool:
        """Tell whether Airflow knows a DAG.

        :raises DemoError: if Airflow could not import a DAG file.
        """
        if self.request("GET", f"/dags/{dag_id}", may_be_missing=True):
            return True
        for error in self.request("GET", "/importErrors")["import_errors"]:
            raise DemoError(f"Airflow cannot import {error['filename']}:\n{error['stack_trace']}")
        return False

    def pause(self, dag_id: str, is_paused: bool) -> None:
        self.request("PATCH", f"/dags/{dag_id}", json={"is_paused": is_paused})

    def trigger(self, dag_id: str, conf: dict[str, Any]) -> str:
        """Start a run now, and return its run_id."""
        body = {"logical_date": None, "conf": conf} if IS_AIRFLOW_3 else {"conf": conf}
        return str(self.request("POST", f"/dags/{dag_id}/dagRuns", json=body)["dag_run_id"])

    def run_state(self, dag_id: str, run_id: str) -> str:
        return str(self.request("GET", _run(dag_id, run_id))["state"])

    def task_instances(self, dag_id: str, run_id: str) -> list[TaskInstance]:
        found = self.request("GET", f"{_run(dag_id, run_id)}/taskInstances")["task_instances"]
        return [TaskInstance(**{name: ti[name] for name in TaskInstance.__annotations__}) for ti in found]

    def log(self, dag_id: str, run_id: str, task_id: str, try_number: int = 1) -> list[dict[str, Any]]:
        """Return the messages in a task's log."""
        path = f"{_run(dag_id, run_id)}/taskInstances/{task_id}/logs/{try_number}"
        answer = self.request("GET", path, params={"full_content": True}, may_be_missing=True)
        return [entry for entry in (answer or {}).get("content", []) if isinstance(entry, dict)]

    def our_log(self, dag_id: str, run_id: str, task_id: str) -> list[str]:
        """Return the lines that the cleanup itself wrote into a task's log, without Airflow's."""
        entries = self.log(dag_id, run_id, task_id)
        ours = (entry for entry in entries if str(entry.get("logger", "")).startswith(OUR_LOGGERS))
        return [f"{'' if entry['level'] == 'info' else entry['level'].upper() + ' '}{entry['event']}" for entry in ours]

    def returned(self, dag_id: str, run_id: str, task_id: str) -> Any:
        """Return a task's return value; None if it returned nothing."""
        path = f"{_run(dag_id, run_id)}/taskInstances/{task_id}/xcomEntries/return_value"
        return (self.request("GET", path, params={"deserialize": True}, may_be_missing=True) or {}).get("value")

    @retry(retry=retry_if_exception_type(DatabaseBusy), stop=stop_after_attempt(8), wait=wait_fixed(1), reraise=True)
    def request(self, method: str, path: str, *, may_be_missing: bool = False, **options: Any) -> Any:
        """Make any other request, and return the answer's JSON.

        :raises DemoError: if Airflow does not answer, or answers with an error.
        """
        try:
            if IS_AIRFLOW_3 and "Authorization" not in self._client.headers:
                token = self._client.post("/auth/token", json=self._login).raise_for_status().json()["access_token"]
                self._client.headers["Authorization"] = f"Bearer {token}"
            answer = self._client.request(method, f"{API}{path}", **options)
        except httpx.HTTPError as error:
            raise DemoError(f"{method} {path} of Airflow's REST API failed: {error}") from error
        if may_be_missing and answer.status_code == httpx.codes.NOT_FOUND:
            return None
        if answer.is_error:
            kind = DatabaseBusy if "Database error" in answer.text else DemoError
            raise kind(f"Airflow answers {answer.status_code} to {method} {path}: {answer.text}")
        return answer.json()


def is_up(url: str) -> bool:
    """Tell whether an API server answers at this URL."""
    try:
        return httpx.get(f"{url}{HEALTH}", trust_env=False).is_success
    except httpx.TransportError:
        return False


def _run(dag_id: str, run_id: str) -> str:
    return f"/dags/{dag_id}/dagRuns/{quote(run_id, safe='')}"
