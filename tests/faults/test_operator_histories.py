"""The same random histories with the operator of the installed provider, which creates, finds and deletes the pods.

``python -m tests.faults.explore --machine operator`` runs many more of them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import airflow
import pytest
from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook
from airflow.providers.cncf.kubernetes.operators.pod import FoundMoreThanOnePodFailure, KubernetesPodOperator
from airflow.utils import yaml
from hypothesis import settings
from kubernetes.client import Configuration

from include.kpo_cleanup.airflow_compat import AirflowException
from include.kpo_cleanup.identity import UNMAPPED
from include.kpo_cleanup.task_instance import Record
from tests.faults import world
from tests.faults.test_random_faults import BYPASS, Airflow, run_histories, set_up
from tests.faults.world import Operator, Task, uid

HISTORIES = settings().max_examples // 2  # ``explore`` runs many more
HAS_STORE = tuple(int(part) for part in airflow.__version__.split(".")[:2]) >= (3, 3)


class Detached(Exception):
    """The operator waits for its pod, or its worker has died: the test goes on without it."""


class Process(KubernetesPodOperator):  # type: ignore[misc]
    """The operator in its worker, until it waits for its pod."""

    log = logging.getLogger(__name__)  # Airflow 3 would print its many messages
    dies: str  # when, as in ``Airflow.start_try``
    pushed: dict[str, str]  # its XComs

    def xcom_push(self, key: str, value: str) -> None:
        """Record the XComs that are pushed."""
        if self.dies == "unrecorded":
            raise Detached
        self.pushed[key] = value

    def find_pod(self, *args: Any, **more: Any) -> Any:
        """Find the pods, unless the worker dies before that."""
        if self.dies == "late" and len(self.pushed) == 2:
            raise Detached
        return super().find_pod(*args, **more)

    def await_pod_start(self, pod: Any) -> None:
        """Detach from the operator, which would wait here."""
        raise Detached

    def invoke_defer_method(self, **_: Any) -> None:
        """Detach from the operator, which would defer here."""
        raise Detached

    def post_complete_action(self, **_: Any) -> None:
        """Do nothing, because the operator has not finished with its pod, or is dead."""


class RealAirflow(Airflow):
    """The machine with real operators."""

    @classmethod
    def prepare(cls, patch: pytest.MonkeyPatch) -> None:
        """Skip two things that take half of the time of all histories.

        Each model of the Kubernetes client copies the default configuration, and the operator logs its pod as YAML.
        """
        patch.setattr(Configuration, "get_default_copy", lambda: Configuration._default or Configuration())
        patch.setattr(yaml, "safe_dump", lambda _: "")

    @cached_property
    def hook(self) -> Any:
        return KubernetesHook(conn_id=BYPASS)

    def operator_starts(self, task: Task, operator: Operator, dies: str = "") -> None:
        self.a_moment_passes()
        process = self.process_of(task, operator, dies)
        ids = {"dag_id": task.dag_id, "task_id": task.task_id, "run_id": task.run_id}
        index = -1 if task.map_index == UNMAPPED else task.map_index
        ti = SimpleNamespace(**ids, map_index=index, try_number=task.try_number, xcom_push=process.xcom_push)
        context: dict[str, Any] = {"ti": ti, "run_id": task.run_id, "dag": None}
        if HAS_STORE:
            context["task_state_store"] = SimpleNamespace(get=task.store.get, set=task.store.__setitem__)
        try:
            (process.execute_async if task.is_deferrable else process.execute_sync)(context)
        except (FoundMoreThanOnePodFailure, KeyError):  # the latter if one of several pods lacks the label try_number
            task.state = "up_for_retry"
        except Detached:
            operator.process = process
        if process.pushed:
            task.record = Record(frozenset({f"{process.pushed['pod_namespace']}/{process.pushed['pod_name']}"}))
        pod = process.pod and self.server.pods(task.namespace).get(process.pod.metadata.name)
        operator.pod = uid(pod) if pod else None
        if task.is_deferrable and operator.pod and task.state == "running":
            task.state = "deferred"

    def process_of(self, task: Task, operator: Operator, dies: str) -> Process:
        process = Process(
            task_id=task.task_id,
            name=f"pod-{next(self.numbers)}",
            random_name_suffix=False,
            namespace=task.namespace,
            labels=operator.labels,
            image="busybox",
            schedulername="nobody",
            reattach_on_restart=task.reattaches,
            on_finish_action=task.on_finish_action,
            on_kill_action=task.on_kill_action,
            kubernetes_conn_id=BYPASS,
        )
        process.dies, process.pushed = dies, {}
        # Connecting again each time would take longer than everything else.
        process.__dict__["hook"], process.__dict__["client"] = self.hook, self.hook.core_v1_client
        return process

    def operators_end(self, task: Task, how: str) -> None:
        for pod in self.attached(task):
            process = next(operator.process for operator in task.operators if operator.pod == uid(pod))
            if process is None:
                continue
            if how == "killed":
                process.on_kill()
                continue
            if not world.is_completed(pod):
                self.set_status(pod, "Succeeded" if task.state == "success" else "Failed")
            with suppress(AirflowException):  # because the pod has failed
                process.cleanup(process.pod, self.hook.get_pod(pod["metadata"]["name"], task.namespace))


@pytest.mark.timeout(900)  # a failing example takes a while to shrink
def test_what_is_alive_is_kept_and_what_is_dead_is_deleted(record_property: Callable[[str, object], None]) -> None:
    with set_up(RealAirflow):
        record_property("histories", run_histories(RealAirflow, HISTORIES))
