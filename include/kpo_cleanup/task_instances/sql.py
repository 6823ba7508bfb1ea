"""Task instances by SQL: from Airflow 2's session, or over an Airflow connection to the metadata database."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from datetime import datetime, timezone
from functools import cache
from typing import Any

from sqlalchemy import ARRAY, String, any_, bindparam, column, func, or_, select, table, text, true, tuple_, union_all
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from ..airflow_compat import TRY_NUMBER_MAY_LAG, AirflowException, BaseHook, current_try
from ..constants import FINISHED_STATES
from ..errors import TaskInstanceSourceError
from ..identity import TaskInstanceKey, make_key
from ..task_instance import CallerTaskInstance, RawIds, Record, TaskInstance, TaskInstances
from .label_decoding import collect, may_be_hashed, raw_runs
from .records import KEYS, Unreadable, record_of, unquoted

log = logging.getLogger(__name__)

STATEMENT_TIMEOUT = 120  # seconds
CHUNK = 250  # runs in one list: with more, MariaDB reads the whole table, and SQLite has a limit
MAX_TASKS = 1_000  # with more names to compare, it is quicker to read rows that are not needed

# The tables and columns that are read. A database role needs no more than SELECT on them. They are written out here,
# and not taken from Airflow's models, because tasks of Airflow 3 must not import those.
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
XCOM = table(
    "xcom",
    column("dag_id"),
    column("task_id"),
    column("run_id"),
    column("map_index"),
    column("key"),
    column("value"),
)
TABLES = (TASK_INSTANCE, DAG_RUN, XCOM)


class SqlSource:
    """A source that asks one batch query for all pods, scoped by the DAGs that they name.

    It finds all active task instances of those DAGs, whatever their run_id. So a label that hides the raw id
    hides none of them. It finds those that are over if they belong to a run that a pod names.

    :param own: of this task, which proves that the database is this Airflow's, and up to date.
    """

    def __init__(
        self, connect: Callable[[], AbstractContextManager[Connection]], own: CallerTaskInstance, description: str
    ) -> None:
        self._connect = connect
        self._own = own
        self.description = description

    def fetch(self, keys: Collection[TaskInstanceKey]) -> TaskInstances:
        """See :class:`~.TaskInstanceSource`."""
        if not keys:
            return TaskInstances()
        with self._connected() as connection:
            self._prove(connection)
            answer = collect(_find(connection, frozenset(keys)), {})
        return replace(answer, try_number_may_lag=TRY_NUMBER_MAY_LAG)

    def read_records(
        self, task_instances: TaskInstances, keys: Collection[TaskInstanceKey]
    ) -> Mapping[TaskInstanceKey, Record]:
        """See :class:`~.TaskInstanceSource`."""
        asked = {(*ids, key.map_index): key for key in keys for ids in task_instances.raw_ids.get(key, ())}
        # For each key, the task instances that share it; for each of these, the values of its XComs.
        values: dict[TaskInstanceKey, Any] = defaultdict(lambda: defaultdict(dict))
        with self._connected() as connection:
            try:
                for *place, name, value in _find_xcoms(connection, sorted(asked)):
                    values[asked[tuple(place)]][tuple(place)][name] = _decoded(value)
            except SQLAlchemyError as error:
                if not _is_denied(error):
                    raise
                problem = f"the role of {self.description} has no SELECT on {XCOM.name}; grant it"
                return dict.fromkeys(keys, Record(problem=problem))
        records = {key: record_of(sharing.values()) for key, sharing in values.items()}
        return {key: record for key, record in records.items() if record}

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        try:
            with self._connect() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise TaskInstanceSourceError(
                f"task instances could not be read ({self.description}): {error}; the database must be reachable "
                f"and allow SELECT on {_and(each.name for each in TABLES)}"
            ) from error

    def _prove(self, connection: Connection) -> None:
        """Look for our own task instance, on the primary server.

        :raises TaskInstanceSourceError: if it is missing, not running, or has another id.
        """
        sign = _sign_of_a_replica(connection)
        if sign:
            raise TaskInstanceSourceError(
                f"{self.description} leads to a read-only replica ({sign}), which may lag behind; let it lead to the "
                "primary server"
            )
        own = self._own
        row = connection.execute(_own_row(has_id=own.id is not None), own._asdict()).first()
        if row is None:
            wrong = "is not there"
        # Under `airflow dags test`, Airflow 2 does not say that it runs.
        elif row[0] in FINISHED_STATES if own.id is None else row[0] != "running":
            wrong = f"is {row[0]!r} there, and not running"
        elif own.id is not None and _plain(row[1]) != _plain(own.id):
            wrong = f"has another id there: {row[1]}, and not {own.id}"
        else:
            return
        raise TaskInstanceSourceError(
            f"the task instances of {self.description} are not to be trusted: this very task, "
            f"{own.dag_id}.{own.task_id} of run {own.run_id!r}, {wrong}. Either it is another Airflow's database, "
            "or a copy or replica that lags behind: correct the connection. Or somebody ended or cleared this task "
            "meanwhile: run it again"
        )


def _find(
    connection: Connection, keys: frozenset[TaskInstanceKey]
) -> Iterator[tuple[TaskInstanceKey, RawIds, TaskInstance]]:
    runs = _raw_runs(connection, {(key.dag_id, key.run_id) for key in keys})
    task_ids = _raw_task_ids(keys)
    at_once = len(runs) if connection.dialect.name == "postgresql" else CHUNK
    for start in range(0, len(runs), at_once):
        result = _select(connection, runs[start : start + at_once], task_ids)
        # Fetch all at once, and unpack: to fetch each row and look up each name costs more than the query.
        for dag_id, task_id, run_id, map_index, state, try_number, end_date, operator in result.all():
            key = make_key(dag_id, task_id, run_id, map_index)
            if key in keys:
                ti = TaskInstance(state, current_try(state, try_number), _epoch(end_date), operator)
                yield key, RawIds(dag_id, task_id, run_id), ti


def _select(connection: Connection, runs: list[tuple[str, str]], task_ids: list[str] | None) -> Any:
    """Select the active task instances of these DAGs, and those of these runs that are over.

    :param task_ids: the only tasks that are needed; None if the raw ids are not known.
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
    """Make the query of two halves, each of which uses an index."""
    ti = TASK_INSTANCE.c
    rows = select(*ti)
    # The index needs the states by name. The other half finds states that only a newer Airflow knows.
    active = rows.where(or_(ti.state.is_(None), ti.state.in_(_active_states())))
    over = rows.where(ti.state.is_not(None), ti.state.not_in(_active_states()))
    if dialect != "postgresql":
        return union_all(
            active.where(ti.dag_id.in_(bindparam("dag_ids", expanding=True))),
            over.where(tuple_(ti.dag_id, ti.run_id).in_(bindparam("runs", expanding=True))),
        )
    # For a list of pairs, PostgreSQL makes an index scan for each one. To plan these takes longer than to read the
    # rows. So it gets a table of pairs. The OFFSET prevents that it reads all rows and joins them.
    names = ("dag_ids", "dags_of_runs", "run_ids", "task_ids")
    dag_ids, dags_of_runs, run_ids, task_ids = (bindparam(name, type_=ARRAY(String)) for name in names)
    asked = func.unnest(dags_of_runs, run_ids).table_valued("dag_id", "run_id").render_derived("asked")
    of_run = over.where(ti.dag_id == asked.c.dag_id, ti.run_id == asked.c.run_id).offset(0).lateral("of_run")
    of_runs = select(*of_run.c).select_from(asked.join(of_run, true()))
    return union_all(
        active.where(ti.dag_id == any_(dag_ids), or_(task_ids.is_(None), ti.task_id == any_(task_ids))),
        of_runs.where(or_(task_ids.is_(None), of_run.c.task_id == any_(task_ids))),
    )


def _find_xcoms(connection: Connection, task_instances: list[tuple[Any, ...]]) -> Iterator[Any]:
    """Read the XComs of these (dag_id, task_id, run_id, map_index), for which Airflow has an index."""
    xcom = XCOM.c
    place = tuple_(xcom.dag_id, xcom.task_id, xcom.run_id, xcom.map_index)
    statement = select(*xcom).where(place.in_(bindparam("places", expanding=True)), xcom.key.in_(KEYS))
    for start in range(0, len(task_instances), CHUNK):
        yield from connection.execute(statement, {"places": task_instances[start : start + CHUNK]})


def _decoded(value: Any) -> Any:
    """Read the value of an XCom: bytes of JSON on Airflow 2; JSON, which some drivers decode, on Airflow 3."""
    try:
        if isinstance(value, (bytes, memoryview)):
            value = bytes(value).decode()
        return unquoted(value)
    except ValueError:
        return Unreadable("it is pickled or encoded in another way")


def _is_denied(error: SQLAlchemyError) -> bool:
    """Tell whether the database says that a right is missing: by PostgreSQL's code, or MySQL's number."""
    original = getattr(error, "orig", None)
    code = getattr(original, "pgcode", None) or getattr(original, "sqlstate", None)
    return code == "42501" or getattr(original, "args", ())[:1] in ((1142,), (1143,))


def _plain(task_instance_id: Any) -> str:
    """Write a UUID without the dashes: not all databases have them."""
    return str(task_instance_id).replace("-", "")


def _and(words: Iterable[str]) -> str:
    *others, last = words
    return f"{', '.join(others)} and {last}"


def _active_states() -> list[str]:
    from airflow.utils.state import TaskInstanceState

    return sorted({state.value for state in TaskInstanceState} - FINISHED_STATES)


def _raw_task_ids(keys: Collection[TaskInstanceKey]) -> list[str] | None:
    """List the tasks' raw ids; None if a label may hide one, or if there are too many to compare."""
    labels = {key.task_id for key in keys}
    return None if len(labels) > MAX_TASKS or any(map(may_be_hashed, labels)) else sorted(labels)


def _raw_runs(connection: Connection, labels: set[tuple[str, str]]) -> list[tuple[str, str]]:
    def dag_ids() -> list[str]:
        return [dag_id for (dag_id,) in connection.execute(select(DAG_RUN.c.dag_id).distinct())]

    def runs_of(dag_ids: list[str]) -> Any:
        log.debug("Looking up the run_ids of %s DAGs whose pods do not tell theirs", len(dag_ids))
        return connection.execute(select(*DAG_RUN.c).where(DAG_RUN.c.dag_id.in_(dag_ids)))

    return raw_runs(labels, dag_ids, runs_of)


def _epoch(value: datetime | str | None) -> int | None:
    if value is None:
        return None
    if isinstance(value, str):  # SQLite has no type for times
        value = datetime.fromisoformat(value)
    if value.tzinfo is None:  # Airflow stores UTC; MySQL and SQLite lose the offset
        value = value.replace(tzinfo=timezone.utc)
    return int(value.timestamp())


@cache
def _own_row(has_id: bool) -> Any:
    """Make the query for our own task instance; on Airflow 2 it has no id."""
    ti, ids = TASK_INSTANCE.c, ("dag_id", "task_id", "run_id", "map_index")
    columns = [ti.state, column("id")] if has_id else [ti.state]
    return select(*columns).select_from(TASK_INSTANCE).where(*(ti[name] == bindparam(name) for name in ids))


@contextmanager
def airflow_session() -> Iterator[Connection]:
    """Open Airflow's own session; only Airflow 2 lets a task have it."""
    from airflow.utils.session import create_session

    with create_session() as session:
        connection = session.connection()
        _prepare(connection)
        yield connection


def metadata_connection(conn_id: str) -> Callable[[], AbstractContextManager[Connection]]:
    """Open an Airflow connection to the metadata database, by the hook of its own provider."""

    @cache  # one for all questions of a task: to open a connection takes longer than a second look
    def engine() -> Engine:
        try:
            hook = BaseHook.get_hook(conn_id)
            if not hasattr(hook, "get_sqlalchemy_engine"):
                raise TypeError(f"its type is {BaseHook.get_connection(conn_id).conn_type!r}")
            # The server, or a proxy before it, may close a connection that is idle between two questions.
            made: Engine = hook.get_sqlalchemy_engine({"pool_pre_ping": True})
        except Exception as error:  # a missing connection, a missing provider or a driver can raise anything
            problem = TaskInstanceSourceError(
                f"airflow_conn_id={conn_id!r} gives no database connection: {error}; it must name an Airflow "
                "connection to the metadata database whose provider (postgres or mysql) is installed, or one of type "
                "http to the REST API"
            )
            problem.is_retryable = not isinstance(error, (AirflowException, ImportError, TypeError))
            raise problem from error
        return made

    @contextmanager
    def connect() -> Iterator[Connection]:
        with engine().connect() as connection:
            _prepare(connection)
            yield connection

    return connect


def _server_of(connection: Connection) -> str:
    return "mariadb" if getattr(connection.dialect, "is_mariadb", False) else connection.dialect.name


def _prepare(connection: Connection) -> None:
    """Give the database a time limit of its own, and have its times in UTC.

    A driver that waits in C does not see the task's execution_timeout. MySQL converts times to the session's zone.
    """
    statements = {
        "postgresql": f"SET LOCAL statement_timeout = {STATEMENT_TIMEOUT * 1000}",
        "mysql": f"SET SESSION max_execution_time = {STATEMENT_TIMEOUT * 1000}, time_zone = '+00:00'",
        "mariadb": f"SET SESSION max_statement_time = {STATEMENT_TIMEOUT}, time_zone = '+00:00'",
    }
    statement = statements.get(_server_of(connection))
    if statement:
        connection.execute(text(statement))


def _sign_of_a_replica(connection: Connection) -> str:
    """Name the sign that the server takes no writes; empty if there is none."""
    if connection.dialect.name == "postgresql":
        return "pg_is_in_recovery()" if connection.execute(text("SELECT pg_is_in_recovery()")).scalar() else ""
    if connection.dialect.name == "mysql":
        # Not all servers have both.
        names = "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('read_only', 'innodb_read_only')"
        return ", ".join(f"{name}={value}" for name, value in connection.execute(text(names)) if value != "OFF")
    return ""
