"""Task instances by SQL: from Airflow 2's session, or over an Airflow connection to the metadata database."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime, timezone
from functools import cache
from typing import Any

from sqlalchemy import ARRAY, String, any_, bindparam, column, func, or_, select, table, true, tuple_, union_all
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from ..airflow_compat import AirflowException, BaseHook, current_try
from ..errors import TaskInstanceSourceError
from ..identity import TaskInstanceKey, key_of, safe_label
from ..task_instance import TaskInstance, TaskInstances, merge
from ..vocabulary import FINISHED_STATES
from .raw_ids import may_be_cleaned, rebuild_run_id

log = logging.getLogger(__name__)

STATEMENT_TIMEOUT = 120  # seconds
CHUNK = 250  # runs in one list: MariaDB rather reads the whole table than look for more, and SQLite has a limit
MAX_TASKS = 1_000  # with more to compare each row with, it is quicker to read some rows too many

# The tables and columns that are read, SELECT on which is all that a database role needs. They are spelt out
# here, and not taken from Airflow's models, because tasks of Airflow 3 must not import those.
TASK_INSTANCE = table(
    "task_instance",
    column("dag_id"),
    column("task_id"),
    column("run_id"),
    column("map_index"),
    column("state"),
    column("try_number"),
    column("end_date"),
    column("operator"),
)
DAG_RUN = table("dag_run", column("dag_id"), column("run_id"))


class SqlSource:
    """One batch query for all pods, scoped by the DAGs that they name.

    It finds all active task instances of those DAGs, whatever their run_id, so that none can be missed because
    a label hides the raw id; and those that are over where they belong to a run that a pod names.
    """

    def __init__(self, connect: Callable[[], AbstractContextManager[Connection]], description: str) -> None:
        self._connect = connect
        self.description = description

    def fetch(self, keys: Collection[TaskInstanceKey]) -> TaskInstances:
        """See :class:`~.TaskInstanceSource`."""
        if not keys:
            return TaskInstances()
        try:
            with self._connect() as connection:
                return TaskInstances(merge(self._find(connection, frozenset(keys))))
        except SQLAlchemyError as error:
            raise TaskInstanceSourceError(
                f"task instances could not be read ({self.description}): {error}; the database must be reachable "
                f"and allow SELECT on {TASK_INSTANCE.name} and {DAG_RUN.name}"
            ) from error

    def _find(
        self, connection: Connection, keys: frozenset[TaskInstanceKey]
    ) -> Iterator[tuple[TaskInstanceKey, TaskInstance]]:
        runs = _raw_runs(connection, {(key.dag_id, key.run_id) for key in keys})
        task_ids = _raw_task_ids(keys)
        at_once = len(runs) if connection.dialect.name == "postgresql" else CHUNK
        for start in range(0, len(runs), at_once):
            result = _select(connection, runs[start : start + at_once], task_ids)
            # All at once, and unpacked: a fetch for each row and a look-up for each name cost more than the query.
            for dag_id, task_id, run_id, map_index, state, try_number, end_date, operator in result.all():
                key = key_of(dag_id, task_id, run_id, map_index)
                if key in keys:
                    ti = TaskInstance(state, current_try(state, try_number), _epoch(end_date), operator)
                    yield key, ti


def _select(connection: Connection, runs: list[tuple[str, str]], task_ids: list[str] | None) -> Any:
    """Active task instances of these DAGs, and finished ones of these runs; others than of these tasks are not needed.

    :param task_ids: None where the raw ids are not known.
    """
    dialect = connection.dialect.name
    dags_of_runs, run_ids = map(list, zip(*runs))
    dag_ids = sorted(set(dags_of_runs))
    if dialect == "postgresql":
        arrays = {"dag_ids": dag_ids, "dags_of_runs": dags_of_runs, "run_ids": run_ids, "task_ids": task_ids}
        return connection.execute(_statement(dialect), arrays)
    return connection.execute(_statement(dialect), {"dag_ids": dag_ids, "runs": runs})


@cache
def _statement(dialect: str) -> Any:
    """Two halves with an index each."""
    ti = TASK_INSTANCE.c
    rows = select(*ti)
    # The index needs the states by name. A state that only a newer Airflow knows is found by the other half.
    active = rows.where(or_(ti.state.is_(None), ti.state.in_(_active_states())))
    over = rows.where(ti.state.is_not(None), ti.state.not_in(_active_states()))
    if dialect != "postgresql":
        return union_all(
            active.where(ti.dag_id.in_(bindparam("dag_ids", expanding=True))),
            over.where(tuple_(ti.dag_id, ti.run_id).in_(bindparam("runs", expanding=True))),
        )
    # PostgreSQL makes an index scan of its own of each pair in a list, and needs longer to plan and start those than
    # to read the rows. It takes a table of pairs instead; the OFFSET keeps it from scanning all rows beside that.
    names = ("dag_ids", "dags_of_runs", "run_ids", "task_ids")
    dag_ids, dags_of_runs, run_ids, task_ids = (bindparam(name, type_=ARRAY(String)) for name in names)
    asked = func.unnest(dags_of_runs, run_ids).table_valued("dag_id", "run_id").render_derived("asked")
    of_run = over.where(ti.dag_id == asked.c.dag_id, ti.run_id == asked.c.run_id).offset(0).lateral("of_run")
    of_runs = select(*of_run.c).select_from(asked.join(of_run, true()))
    return union_all(
        active.where(ti.dag_id == any_(dag_ids), or_(task_ids.is_(None), ti.task_id == any_(task_ids))),
        of_runs.where(or_(task_ids.is_(None), of_run.c.task_id == any_(task_ids))),
    )


def _active_states() -> list[str]:
    from airflow.utils.state import TaskInstanceState

    return sorted({state.value for state in TaskInstanceState} - FINISHED_STATES)


def _raw_task_ids(keys: Collection[TaskInstanceKey]) -> list[str] | None:
    """The raw ids of the tasks, if their labels tell all of them and they are not too many to compare with."""
    labels = {key.task_id for key in keys}
    return None if len(labels) > MAX_TASKS or any(map(may_be_cleaned, labels)) else sorted(labels)


def _raw_runs(connection: Connection, labels: set[tuple[str, str]]) -> list[tuple[str, str]]:
    """All raw (dag_id, run_id) that these pairs of labels may stand for."""
    cleaned_dags = {dag for dag, _ in labels if may_be_cleaned(dag)}
    raw_dags: dict[str, set[str]] = {dag: {dag} for dag, _ in labels}
    if cleaned_dags:
        for (dag_id,) in connection.execute(select(DAG_RUN.c.dag_id).distinct()):
            if safe_label(dag_id) in cleaned_dags:
                raw_dags[safe_label(dag_id)].add(dag_id)

    runs, hidden = set(), set()
    for dag, run in labels:
        rebuilt = rebuild_run_id(run)
        for dag_id in raw_dags[dag]:
            runs.add((dag_id, run))
            if rebuilt:
                runs.add((dag_id, rebuilt))
            elif may_be_cleaned(run):
                hidden.add((dag_id, run))
    if hidden:
        dag_ids = sorted({dag_id for dag_id, _ in hidden})
        log.debug("Looking up the run_ids of %s DAGs whose pods do not tell theirs", len(dag_ids))
        for dag_id, run_id in connection.execute(select(*DAG_RUN.c).where(DAG_RUN.c.dag_id.in_(dag_ids))):
            if (dag_id, safe_label(run_id)) in hidden:
                runs.add((dag_id, run_id))
    return sorted(runs)


def _epoch(value: datetime | str | None) -> int | None:
    if value is None:
        return None
    if isinstance(value, str):  # SQLite has no type for times
        value = datetime.fromisoformat(value)
    if value.tzinfo is None:  # Airflow stores UTC; MySQL and SQLite lose the offset
        value = value.replace(tzinfo=timezone.utc)
    return int(value.timestamp())


@contextmanager
def airflow_session() -> Iterator[Connection]:
    """Airflow's own session; only Airflow 2 lets a task have it."""
    from airflow.utils.session import create_session

    with create_session() as session:
        connection = session.connection()
        _limit_statements(connection)
        yield connection


def metadata_connection(conn_id: str) -> Callable[[], AbstractContextManager[Connection]]:
    """An Airflow connection to the metadata database, by the hook of its own provider."""

    @cache  # one for all questions of a task: opening a connection takes longer than a second look
    def engine() -> Engine:
        try:
            hook = BaseHook.get_hook(conn_id)
            if not hasattr(hook, "get_sqlalchemy_engine"):
                raise TypeError(f"its type is {BaseHook.get_connection(conn_id).conn_type!r}")
            # The server, or a proxy before it, may close what is idle between two questions.
            made: Engine = hook.get_sqlalchemy_engine({"pool_pre_ping": True})
        except Exception as error:  # whatever a missing connection, a missing provider or a driver raises
            problem = TaskInstanceSourceError(
                f"airflow_conn_id={conn_id!r} gives no database connection: {error}; it must name an Airflow "
                "connection to the metadata database whose provider (postgres or mysql) is installed"
            )
            problem.is_passing = not isinstance(error, (AirflowException, ImportError, TypeError))
            raise problem from error
        return made

    @contextmanager
    def connect() -> Iterator[Connection]:
        with engine().connect() as connection:
            _limit_statements(connection)
            yield connection

    return connect


def _limit_statements(connection: Connection) -> None:
    """Have the database itself give up: a driver that waits in C does not see the task's execution_timeout."""
    from sqlalchemy import text

    limits = {
        "postgresql": f"SET LOCAL statement_timeout = {STATEMENT_TIMEOUT * 1000}",
        "mysql": f"SET SESSION max_execution_time = {STATEMENT_TIMEOUT * 1000}",
        "mariadb": f"SET SESSION max_statement_time = {STATEMENT_TIMEOUT}",
    }
    dialect = connection.dialect
    name = "mariadb" if getattr(dialect, "is_mariadb", False) else dialect.name
    if name in limits:
        connection.execute(text(limits[name]))
