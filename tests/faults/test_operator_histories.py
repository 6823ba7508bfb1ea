"""The random histories again, with the operators of the installed provider, which create, find and delete workloads.

``python -m tests.faults.explore --machine operator`` runs many more of them.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import airflow
import pytest
from airflow.providers.cncf.kubernetes.operators.pod import FoundMoreThanOnePodFailure
from airflow.utils import yaml
from hypothesis import settings
from kubernetes.client import ApiException, Configuration

from include.kpo_cleanup.airflow_compat import AirflowException
from include.kpo_cleanup.identity import UNMAPPED
from include.kpo_cleanup.task_instance import Record
from tests.faults import objects
from tests.faults.histories import run_histories, set_up
from tests.faults.machine import BYPASS, Airflow
from tests.faults.objects import APPLICATION, JOB, PATHS, Json, is_completed, is_finished, kind, uid
from tests.faults.processes import Detached, Hook, process_of
from tests.faults.world import Operator, Task

pytestmark = pytest.mark.long

HISTORIES = settings().max_examples // 2  # ``explore`` runs many more
HAS_STORE = tuple(int(part) for part in airflow.__version__.split(".")[:2]) >= (3, 3)


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
        return Hook(conn_id=BYPASS)

    def operator_starts(self, task: Task, operator: Operator, dies: str = "") -> None:
        self.a_moment_passes()
        process = process_of(
            task,
            operator,
            f"pod-{next(self.numbers)}",
            self.hook,
            lambda name: self.start(task, name),
            dies,
        )
        ids = {"dag_id": task.dag_id, "task_id": task.task_id, "run_id": task.run_id}
        index = -1 if task.map_index == UNMAPPED else task.map_index
        ti = SimpleNamespace(**ids, map_index=index, try_number=task.try_number, xcom_push=process.xcom_push)
        context: dict[str, Any] = {"ti": ti, "run_id": task.run_id, "dag": None}
        if HAS_STORE:
            context["task_state_store"] = SimpleNamespace(get=task.store.get, set=task.store.__setitem__)
        try:
            process.run(context, task.is_deferrable)
        except (FoundMoreThanOnePodFailure, KeyError):  # the latter if one of several pods lacks the label try_number
            task.state = "up_for_retry"
        except Detached:
            operator.process = process
        task.record = record_of(task, process.pushed) or task.record
        self.attach(task, operator, process)

    def start(self, task: Task, name: str) -> None:
        """Let the controllers notice a Job or an application that an operator has created."""
        created = self.at(task, name)
        assert created is not None
        self.controllers.start(created)

    def attach(self, task: Task, operator: Operator, process: Any) -> None:
        """Note which workload the operator uses, and how its task continues."""
        found = process.job if task.kind == JOB else process.pod
        name = found.metadata.name.removesuffix("-driver") if found else ""
        workload = self.at(task, name) if name else None
        operator.uses = uid(workload) if workload else None
        if workload and operator.process and task.is_deferrable and task.waits:
            task.state = "deferred"
        if workload and not task.waits and "job" in process.pushed:
            task.detached.add(uid(workload))
            self.end(task, "success", "")

    def at(self, task: Task, name: str) -> Json | None:
        return objects.find_at(self.server, f"{PATHS[task.kind].format(task.namespace)}/{name}")

    def operators_end(self, task: Task, how: str) -> None:
        for workload in self.attached(task):
            process = next(operator.process for operator in task.operators if operator.uses == uid(workload))
            if process is None:
                continue
            if how == "killed":
                process.on_kill()
            else:
                if not (is_completed(workload) if kind(workload) not in (JOB, APPLICATION) else is_finished(workload)):
                    self.finish(workload, "Succeeded" if task.state == "success" else "Failed")
                for pod in getattr(process, "pods", ()) if task.kind == JOB else [process.pod]:
                    with suppress(AirflowException, ApiException):  # because the pod has failed, or is gone
                        process.cleanup(pod, self.hook.get_pod(pod.metadata.name, task.namespace))
            self.controllers.collect_garbage(self.namespaces)


def record_of(task: Task, pushed: dict[str, Any]) -> Record | None:
    """Return the record that the XComs of an operator make up."""
    if "pod_name" in pushed:
        return Record(frozenset({f"{pushed['pod_namespace']}/{pushed['pod_name']}"}))
    if "job_name" not in pushed:
        return None
    is_detached = "job" in pushed and not pushed["job"]["status"]
    return Record(frozenset({f"{JOB} {pushed['job_namespace']}/{pushed['job_name']}"}), is_detached=is_detached)


@pytest.mark.timeout(900)  # a failing example takes a while to shrink
def test_what_is_alive_is_kept_and_what_is_dead_is_deleted(record_property: Callable[[str, object], None]) -> None:
    with set_up(RealAirflow):
        record_property("histories", run_histories(RealAirflow, HISTORIES))
