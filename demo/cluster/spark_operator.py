"""A simulated Spark operator: it starts the drivers of SparkApplications and tracks their state.

Like the kubelet, it is a client of any API server, embedded or real. In reality, the driver
starts the executors itself; here, the operator starts them.
"""

from __future__ import annotations

import asyncio
import ssl
import uuid
from typing import Any

from .background import BackgroundServer
from .client import ApiClient
from .resources import CUSTOM_RESOURCE_DEFINITIONS, Json
from .spark_application import (
    DEFINITION,
    SPARK_APPLICATIONS,
    SUBMISSION,
    driver_name,
    driver_pod,
    executor_pods,
    is_restarted,
    retry_delay,
    state_of,
)
from .store import timestamp

_APPLICATIONS = f"/apis/{SPARK_APPLICATIONS.api_version}"
_DEFINITIONS = f"/apis/{CUSTOM_RESOURCE_DEFINITIONS.api_version}/{CUSTOM_RESOURCE_DEFINITIONS.plural}"


class SparkOperator(BackgroundServer):
    """The operator; it installs the definition of SparkApplications.

    `ssl_context` is required for an https URL. `speed` is the number of simulated seconds per real second.
    """

    def __init__(self, url: str, *, ssl_context: ssl.SSLContext | None = None, speed: float = 1.0) -> None:
        self._url, self._ssl, self._speed = url, ssl_context, speed
        self._pending: dict[tuple[str, str], None] = {}  # namespaces and names, to be reconciled
        self._wake_up = asyncio.Event()
        self._submitted: dict[str, float] = {}  # time of submission on the event loop's clock, by uid
        self._tasks: list[asyncio.Task[None]] = []
        self._client: ApiClient

    async def start(self) -> None:
        self._client = ApiClient(self._url, self._ssl)
        await self._client.request("POST", _DEFINITIONS, DEFINITION)
        while await self._client.request("GET", f"{_APPLICATIONS}/{SPARK_APPLICATIONS.plural}") is None:
            await asyncio.sleep(0.05)  # a real API server serves a new resource after a moment
        for work in (self._follow_applications(), self._follow_drivers(), self._reconcile_all()):
            self._tasks.append(asyncio.create_task(work))

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._client.close()

    async def _follow_applications(self) -> None:
        async for event, found in self._client.follow(f"{_APPLICATIONS}/{SPARK_APPLICATIONS.plural}"):
            for app in found["items"] if event == "LISTED" else [found]:
                self._enqueue(app["metadata"]["namespace"], app["metadata"]["name"])

    async def _follow_drivers(self) -> None:
        async for event, found in self._client.follow("/api/v1/pods", "spark-role=driver"):
            for pod in found["items"] if event == "LISTED" else [found]:
                for owner in pod["metadata"].get("ownerReferences") or []:
                    self._enqueue(pod["metadata"]["namespace"], owner["name"])

    def _enqueue(self, namespace: str, name: str) -> None:
        self._pending[namespace, name] = None
        self._wake_up.set()

    async def _reconcile_all(self) -> None:
        while await self._wake_up.wait():
            self._wake_up.clear()
            while self._pending:
                key = next(iter(self._pending))
                del self._pending[key]
                await self._reconcile(*key)

    async def _reconcile(self, namespace: str, name: str) -> None:
        app = await self._client.request("GET", _path(namespace, name))
        if app is None:
            return  # the garbage collector deletes its pods
        driver_path = f"/api/v1/namespaces/{namespace}/pods/{driver_name(app)}"
        driver = await self._client.request("GET", driver_path)
        state = app.get("status", {}).get("applicationState", {}).get("state", "")
        if "deletionTimestamp" in app["metadata"]:
            await self._client.request("DELETE", driver_path)
        elif state == "" or (state == "PENDING_RERUN" and driver is None):
            await self._submit(app)
        elif state in ("SUBMITTED", "RUNNING"):
            reached, error = state_of(driver)
            if driver and (state, reached) == ("SUBMITTED", "RUNNING"):
                for pod in executor_pods(app, driver):
                    await self._client.request("POST", f"/api/v1/namespaces/{namespace}/pods", pod)
            if reached != state:
                await self._set_state(app, reached, error)
        elif state in ("SUCCEEDING", "FAILING"):
            await self._finish(app, state, driver_path)

    async def _submit(self, app: Json) -> None:
        metadata, status = app["metadata"], app.get("status", {})
        submission = str(uuid.uuid4())
        pod = driver_pod(app, submission)
        created = await self._client.request("POST", f"/api/v1/namespaces/{metadata['namespace']}/pods", pod)
        self._submitted[metadata["uid"]] = asyncio.get_running_loop().time()
        counts = {
            "submissionAttempts": status.get("submissionAttempts", 0) + 1,
            "executionAttempts": status.get("executionAttempts", 0) + (1 if created else 0),
        }
        await self._set_state(
            app,
            "SUBMITTED" if created else "FAILED",
            "" if created else f"failed to submit spark application: cannot create pod {pod['metadata']['name']}",
            submissionID=submission,
            driverInfo={"podName": pod["metadata"]["name"]},
            lastSubmissionAttemptTime=timestamp(),
            **counts,
        )

    async def _finish(self, app: Json, state: str, driver_path: str) -> None:
        """Stop the executors, then end the application or start it again."""
        metadata = app["metadata"]
        pods = f"/api/v1/namespaces/{metadata['namespace']}/pods"
        selector = f"spark-role=executor,{SUBMISSION}={app['status']['submissionID']}"
        await self._client.request("DELETE", f"{pods}?labelSelector={selector}")
        if not is_restarted(app):
            await self._set_state(app, "COMPLETED" if state == "SUCCEEDING" else "FAILED", terminationTime=timestamp())
            return
        loop = asyncio.get_running_loop()
        due = self._submitted.get(metadata["uid"], 0.0) + (retry_delay(app) / self._speed if state == "FAILING" else 0)
        if loop.time() < due:
            loop.call_at(due, self._enqueue, metadata["namespace"], metadata["name"])
            return
        await self._client.request("DELETE", driver_path)
        await self._set_state(app, "PENDING_RERUN", "")

    async def _set_state(self, app: Json, state: str, error: str | None = None, **fields: Any) -> None:
        current = {"state": state, **({} if error is None else {"errorMessage": error or None})}
        status = {"applicationState": current, **fields}
        # The uid makes the patch fail if another application has taken the name.
        body = {"metadata": {"uid": app["metadata"]["uid"]}, "status": status}
        await self._client.request(
            "PATCH", f"{_path(app['metadata']['namespace'], app['metadata']['name'])}/status", body
        )


def _path(namespace: str, name: str) -> str:
    return f"{_APPLICATIONS}/namespaces/{namespace}/{SPARK_APPLICATIONS.plural}/{name}"
