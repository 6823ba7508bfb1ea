"""The try of a task instance that the source reads from the database after each step of the scheduler and the worker.

The meaning of the column ``try_number`` changed with Airflow 2.10; the verdicts must not differ. For Airflow 3,
`tests/real` covers this, because no worker can run in this process.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from include.kpo_cleanup.airflow_compat import IS_AIRFLOW_3
from include.kpo_cleanup.classify import Snapshot, classify
from include.kpo_cleanup.constants import Reason
from include.kpo_cleanup.identity import UNMAPPED, make_key
from include.kpo_cleanup.settings import Settings
from include.kpo_cleanup.task_instance import CallerTaskInstance, TaskInstance, TaskInstances
from include.kpo_cleanup.task_instances.sql import SqlSource, airflow_session
from tests.dag import airflow_runs
from tests.unit.builders import NOW, make_pod

if IS_AIRFLOW_3:
    pytest.skip("Airflow 3 runs no task in this process", allow_module_level=True)

from airflow.exceptions import AirflowException
from airflow.models.baseoperator import BaseOperator
from airflow.models.dag import DAG
from airflow.models.taskinstance import TaskInstance as TaskInstanceModel
from airflow.models.taskinstance import clear_task_instances
from airflow.triggers.base import BaseTrigger
from airflow.utils.session import create_session
from airflow.utils.types import DagRunType

with suppress(ImportError):  # Airflow's tables refer to its users, which since 2.9 are in this provider
    import airflow.providers.fab.auth_manager.models  # noqa: F401

KEY = make_key("tries", "fails_then_defers", "tries", UNMAPPED)
CALLER = CallerTaskInstance(KEY.dag_id, "cleanup", KEY.run_id, UNMAPPED)
TaskInstanceByStep = dict[str, TaskInstance]


class Never(BaseTrigger):  # type: ignore[misc]
    """A trigger that never fires."""

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return f"{__name__}.Never", {}

    def run(self) -> Any:
        raise NotImplementedError


class FailsThenDefers(BaseOperator):  # type: ignore[misc]
    """An operator that fails in its first try, and waits for a trigger in its second."""

    def execute(self, context: Any) -> None:
        if context["ti"].try_number == 1:
            raise AirflowException("the first try fails")
        self.defer(trigger=Never(), method_name="resume")

    def resume(self, context: Any, event: Any = None) -> None:
        """Succeed."""


@pytest.fixture(scope="module")
def seen() -> TaskInstanceByStep:
    """Query the source after each step: try 1 fails, try 2 defers and resumes, the task is cleared."""
    airflow_runs.prepare()
    start = datetime(2024, 1, 1, tzinfo=UTC)
    with DAG(KEY.dag_id, schedule=None, start_date=start) as dag:
        BaseOperator(task_id=CALLER.task_id)
        task = FailsThenDefers(task_id=KEY.task_id, retries=1, retry_delay=timedelta(0))
    dag.create_dagrun(
        run_id=KEY.run_id,
        run_type=DagRunType.MANUAL,
        state="running",
        execution_date=start,
        data_interval=(start, start),
    )
    seen: TaskInstanceByStep = {}

    def query(step: str) -> None:
        seen[step] = SqlSource(airflow_session, CALLER, "test").fetch([KEY]).found[KEY]

    @contextmanager
    def task_instance() -> Iterator[tuple[TaskInstanceModel, Any]]:
        with create_session() as session:
            ti = session.query(TaskInstanceModel).filter_by(dag_id=KEY.dag_id, task_id=KEY.task_id).one()
            ti.task = task
            yield ti, session

    def schedule(step: str) -> None:
        """Schedule the task as the scheduler does."""
        with task_instance() as (ti, session):
            ti.dag_run.dag = dag
            ti.dag_run.schedule_tis([ti], session)
        query(step)

    def work(while_running: str, then: str) -> None:
        """Run the task as a worker does."""
        task._pre_execute_hook = lambda _context: query(while_running)
        with suppress(AirflowException), task_instance() as (ti, session):
            ti.state = "queued"
            session.commit()
            ti.run(session=session)
        query(then)

    query("new")
    schedule("scheduled for the 1st try")
    work("running the 1st try", "waiting for its retry")
    schedule("scheduled for the 2nd try")
    work("running the 2nd try", "deferred in the 2nd try")
    with task_instance() as (ti, _):
        ti.state = "scheduled"  # as the triggerer does after the event
    query("scheduled to resume the 2nd try")
    work("resuming the 2nd try", "finished in the 2nd try")
    with task_instance() as (ti, session):
        clear_task_instances([ti], session, dag=dag)
    query("cleared after the 2nd try")
    schedule("scheduled for the 3rd try")
    return seen


@pytest.mark.parametrize(
    ("step", "state", "try_number"),
    [
        ("new", None, 0),
        ("scheduled for the 1st try", "scheduled", 1),
        ("running the 1st try", "running", 1),
        ("waiting for its retry", "up_for_retry", 1),
        ("scheduled for the 2nd try", "scheduled", 2),
        ("running the 2nd try", "running", 2),
        ("deferred in the 2nd try", "deferred", 2),
        ("scheduled to resume the 2nd try", "scheduled", 2),
        ("resuming the 2nd try", "running", 2),
        ("finished in the 2nd try", "success", 2),
        ("cleared after the 2nd try", None, 2),
        ("scheduled for the 3rd try", "scheduled", 3),
    ],
)
def test_the_try_is_the_same_in_every_release_after_each_step(
    seen: TaskInstanceByStep, step: str, state: str | None, try_number: int
) -> None:
    assert (seen[step].state, seen[step].try_number) == (state, try_number)


@pytest.mark.parametrize("checked", [True, False], ids=["already checked", "not checked"])
def test_a_pod_of_the_1st_try_is_superseded_once_the_2nd_is_scheduled_only_if_it_is_already_checked(
    seen: TaskInstanceByStep, checked: bool
) -> None:
    pod = make_pod(**KEY._asdict(), try_number=1, already_checked=checked)
    reasons = {
        step: classify(Snapshot([pod], TaskInstances({KEY: ti}), Settings(), NOW))[0].reason
        for step, ti in seen.items()
    }
    later = list(seen)[list(seen).index("scheduled for the 2nd try") :]
    superseded = {step for step in later if checked and seen[step].is_active}
    assert {step for step, reason in reasons.items() if reason is Reason.SUPERSEDED} == superseded
