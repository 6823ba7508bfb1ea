"""Run DAGs in this process, as ``airflow dags test`` does, and change what they leave in the database."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from demo.database import copy_or_migrate
from tests.conftest import HOME, REPO, TEST_DAGS

try:
    from airflow.dag_processing.dagbag import DagBag  # since Airflow 3.2
except ImportError:
    from airflow.models.dagbag import DagBag
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance, clear_task_instances
from airflow.utils.session import create_session

from include.kpo_cleanup.airflow_compat import AIRFLOW_RELEASE, IS_AIRFLOW_3
from include.kpo_cleanup.constants import FINISHED_STATES

if AIRFLOW_RELEASE < (2, 10):
    from airflow.models import dag as dag_module

    def _run_as_worker(ti: Any, session: Any, **_: Any) -> None:
        ti.run(ignore_ti_state=True, session=session)

    # In these releases, dag.test() neither counts tries nor sets the state to running, so a retry would never end.
    dag_module._run_task = _run_as_worker
elif (3, 0) <= AIRFLOW_RELEASE < (3, 3):
    import structlog
    from airflow.sdk.execution_time import supervisor

    # As in 3.3. Earlier releases build an API server for each task of dag.test(), and render the traceback of a failed
    # task with all local variables; each takes seconds.
    supervisor.in_process_api_server = cache(supervisor.in_process_api_server)
    structlog.dev.RichTracebackFormatter.__call__ = staticmethod(structlog.dev.plain_traceback)  # type: ignore[method-assign,assignment]

_check_schema, _checked = Draft202012Validator.check_schema, set[str]()


def _check_schema_once(schema: Any) -> None:
    """Check a schema. Airflow checks that of each param whenever it reads or stores it: a third of a run's time."""
    text = json.dumps(schema, sort_keys=True, default=repr)
    if text not in _checked:
        _check_schema(schema)
        _checked.add(text)


Draft202012Validator.check_schema = _check_schema_once


@cache
def prepare() -> None:
    """Install the DAG into a plain dags folder, as README.md describes, and create the database.

    The other DAGs are in a bundle of their own, because on Airflow 3.3 ``dag.test()`` parses the DAG's whole bundle.
    """
    dags = HOME / "dags"
    shutil.copytree(REPO / "dags", dags, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(REPO / "include", dags / "include", ignore=shutil.ignore_patterns("__pycache__"))
    TEST_DAGS.mkdir()
    for file in ("workload.py", "own_dags.py", "controlled.py"):
        shutil.copy(REPO / "tests" / "dag" / file, TEST_DAGS)
    copy_or_migrate(HOME / "airflow.db", lambda: _command("db", "migrate"))
    with closing(sqlite3.connect(HOME / "airflow.db")) as database:
        # Readers must not block the other processes of a real Airflow.
        database.execute("PRAGMA journal_mode=WAL")


def register_dags() -> None:
    """Add the DAGs to the table of DAGs, without which the API server does not return them.

    Before Airflow 3.3, only the DAG processor does this, and ``dag.test()`` does not.
    """
    if AIRFLOW_RELEASE < (3, 3):
        _command("dags", "reserialize")


def _command(*arguments: str) -> None:
    command = [str(Path(sys.executable).with_name("airflow")), *arguments]
    # The dags folder is on the Python path, as in the DAG processor.
    variables = {**os.environ, "PYTHONPATH": str(HOME / "dags")}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


def load(dag_id: str) -> Any:
    """Parse the DAG again, because a run in this process leaves its conf in the params of the DAG object."""
    prepare()
    folder = HOME / "dags" if dag_id in ("kpo_cleanup", "kpo_cleanup_dry_run") else TEST_DAGS
    bag = DagBag(str(folder))  # the configuration excludes the examples
    assert not bag.import_errors
    return bag.dags[dag_id]


def run(
    dag_id: str,
    before: tuple[str, Callable[[Any], object]] | None = None,
    config: Mapping[str, object] | None = None,
    **conf: Any,
) -> DagRun:
    """Run all tasks of a DAG, and return the run as it is in the database afterwards.

    :param before: a task id, and a function to call with the task's context just before it starts.
    :param config: options of the config section, set as environment variables.
    """
    variables = {f"AIRFLOW__KPO_CLEANUP__{name.upper()}": str(value) for name, value in (config or {}).items()}
    with patch.dict(os.environ, variables):
        dag = load(dag_id)
        if dag_id.startswith("kpo_cleanup"):  # the delay of the other DAGs is 0 already
            for task in dag.tasks:
                task.retry_delay = timedelta(0)
        if before:
            task_id, do = before
            dag.task_dict[task_id]._pre_execute_hook = do
        dag.test(run_conf=conf)
    with create_session() as session:
        last = session.query(DagRun).filter(DagRun.dag_id == dag_id).order_by(DagRun.id.desc()).first()
        assert last is not None
        session.expunge_all()
        return last


def states(dag_run: DagRun) -> dict[str, str | None]:
    """Return the state of each task of a run without mapped tasks."""
    with create_session() as session:
        rows = session.query(TaskInstance.task_id, TaskInstance.state).filter(
            TaskInstance.dag_id == dag_run.dag_id, TaskInstance.run_id == dag_run.run_id
        )
        return {task_id: state and str(state) for task_id, state in rows}


def tries(dag_run: DagRun, task_id: str) -> int:
    """Return how many tries a finished task had; it must not be mapped."""
    with create_session() as session:
        ids = {"dag_id": dag_run.dag_id, "run_id": dag_run.run_id, "task_id": task_id}
        row = session.query(TaskInstance).filter_by(**ids).one()
        # Before Airflow 2.10, the attribute of a finished task is higher by one than the column.
        return int(row._try_number if AIRFLOW_RELEASE < (2, 10) else row.try_number)


def set_state(dag_run: DagRun, task_id: str, state: str | None, map_index: int = -1) -> None:
    """Set the state of a task instance, as the scheduler, a trigger or a user would; None clears it."""
    with create_session() as session:
        ti = (
            session.query(TaskInstance)
            .filter_by(dag_id=dag_run.dag_id, run_id=dag_run.run_id, task_id=task_id, map_index=map_index)
            .one()
        )
        if state is None:
            clear_task_instances([ti], session)
        else:
            ti.set_state(state, session=session)


def set_try(dag_run: DagRun, task_id: str, try_number: int) -> None:
    """Set the try of a task instance in the column, because the attribute differs between the releases."""
    sql = "UPDATE task_instance SET try_number = ? WHERE dag_id = ? AND run_id = ? AND task_id = ?"
    with closing(sqlite3.connect(HOME / "airflow.db", timeout=60)) as database, database:
        database.execute(sql, (try_number, dag_run.dag_id, dag_run.run_id, task_id))


def set_end_date(*dag_ids: str, ago: timedelta = timedelta(0)) -> None:
    """Set the end of all finished task instances of these DAGs to now, which is later than the test's pods.

    :param ago: how long before now.
    """
    with create_session() as session:
        finished = session.query(TaskInstance).filter(
            TaskInstance.dag_id.in_(dag_ids), TaskInstance.state.in_(sorted(FINISHED_STATES))
        )
        finished.update({TaskInstance.end_date: datetime.now(UTC) - ago}, synchronize_session=False)


def record_pod(dag_run: DagRun, task_id: str, namespace: str, name: str, kind: str = "pod") -> None:
    """Store the record of the pod, or of the Job, as the operator does."""
    ids = {"dag_id": dag_run.dag_id, "task_id": task_id, "run_id": dag_run.run_id}
    with create_session() as session:
        for key, value in ((f"{kind}_name", name), (f"{kind}_namespace", namespace)):
            xcom_model().set(key=key, value=value, **ids, session=session)
            if IS_AIRFLOW_3:  # there the task serializes the value, and set() would serialize it again
                session.query(xcom_model()).filter_by(key=key, **ids).update({"value": value})


def delete_xcom(dag_run: DagRun, task_id: str, key: str) -> None:
    """Delete an XCom that a task has pushed."""
    ids = {"dag_id": dag_run.dag_id, "task_id": task_id, "run_id": dag_run.run_id}
    with create_session() as session:
        assert session.query(xcom_model()).filter_by(key=key, **ids).delete() == 1


def xcom_model() -> Any:
    """Return Airflow's model of an XCom, whose name differs between the releases."""
    if IS_AIRFLOW_3:
        from airflow.models.xcom import XComModel

        return XComModel
    from airflow.models.xcom import XCom

    return XCom


def result(dag_run: DagRun, task_id: str, key: str = "return_value") -> Any:
    """Return an XCom of a task: its return value, or the one with another key."""
    with create_session() as session:
        model = xcom_model()
        row = session.query(model).filter_by(dag_id=dag_run.dag_id, run_id=dag_run.run_id, task_id=task_id, key=key)
        # Airflow 2 deserializes a row when it loads it.
        return model.deserialize_value(row.one()) if IS_AIRFLOW_3 else row.one().value


def tasks_with_result(dag_run: DagRun) -> set[str]:
    """List the tasks of a run whose return value is in the database."""
    with create_session() as session:
        rows = session.query(xcom_model().task_id).filter_by(dag_id=dag_run.dag_id, run_id=dag_run.run_id)
        return {task_id for (task_id,) in rows.filter_by(key="return_value")}


def set_run(dag_run: DagRun, run_type: str, state: str) -> None:
    """Set the type and the state of a run."""
    with create_session() as session:
        session.query(DagRun).filter_by(id=dag_run.id).update({"run_type": run_type, "state": state})


@contextmanager
def deletion_of_xcoms_failing(dag_run: DagRun) -> Iterator[None]:
    """Make the database fail when the XComs of a run are deleted."""
    refuse = f"""CREATE TRIGGER keep BEFORE DELETE ON xcom WHEN OLD.run_id = '{dag_run.run_id}'
        BEGIN SELECT RAISE(ABORT, 'deletion is disabled'); END"""
    with closing(sqlite3.connect(HOME / "airflow.db", timeout=60)) as database:
        database.execute(refuse)
        try:
            yield
        finally:
            database.execute("DROP TRIGGER keep")
