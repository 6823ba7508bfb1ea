"""Read task instances with SQL: from Airflow 2's session, or through an Airflow connection to the metadata database."""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime, timezone
from functools import cache, partial
from itertools import groupby
from operator import itemgetter
from typing import Any

from sqlalchemy import ARRAY, String, and_, any_, bindparam, cast, column, func, or_, select, table, text, true, tuple_
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from ..airflow_compat import (
    IS_AIRFLOW_3,
    TRY_NUMBER_MAY_LAG,
    AirflowException,
    BaseHook,
    current_try,
    deserialize_xcom,
)
from ..errors import SourceUnusable, TaskInstanceSourceError, safe_message
from ..identity import TaskInstanceKey, make_key
from ..task_instance import (
    POD_RECORD,
    CallerTaskInstance,
    Found,
    RawIds,
    Record,
    RecordKeys,
    TaskInstance,
    TaskInstances,
)
from .interface import TaskInstanceSource
from .isolation import fetch_isolated
from .label_decoding import find_runs, may_be_hashed
from .records import XComReader, build_records, decode_json
from .verification import verify_caller

log = logging.getLogger(__name__)

STATEMENT_TIMEOUT = 120  # seconds
CHUNK = 250  # runs in one list: with more, MariaDB scans the whole table, and SQLite has a limit
MAX_TASKS = 1_000  # for more tasks, reading all tasks of a run is faster than comparing their ids

_IDS = ("dag_id", "task_id", "run_id", "map_index")


def _table(name: str, *columns: str) -> Any:
    return table(name, *map(column, columns))


# The tables and columns that are read; a database role needs SELECT on these tables only. They are declared here
# because tasks of Airflow 3 must not import Airflow's models.
TASK_INSTANCE = _table("task_instance", *_IDS, "state", "try_number", "end_date", "operator")
DAG_RUN = _table("dag_run", "dag_id", "run_id")
XCOM = _table("xcom", *_IDS, "key", "value")
TABLES = (TASK_INSTANCE, DAG_RUN, XCOM)


class SqlSource(TaskInstanceSource):
    """A source that reads all task instances with one batch query, restricted to the runs of the pods.

    The query names runs and tasks, so that a backfill of thousands of runs is not read for the pods of a few of them. A
    hashed label hides no run, because all runs of its DAG are compared with it.

    :param caller: the cleanup's own task instance, to verify that the database is this Airflow's and current.
    """

    def __init__(
        self, connect: Callable[[], AbstractContextManager[Connection]], caller: CallerTaskInstance, description: str
    ) -> None:
        self._connect = connect
        self._caller = caller
        self._reader = XComReader(description)
        self.description = description

    def fetch(self, keys: Collection[TaskInstanceKey]) -> TaskInstances:
        """Implement :class:`~.interface.TaskInstanceSource`."""
        if not keys:
            return TaskInstances()
        return fetch_isolated(self._fetch, keys, lambda: self._fetch([]))

    def _fetch(self, keys: list[TaskInstanceKey]) -> TaskInstances:
        with self._open() as connection:
            self._verify_source(connection)
            found = _find(connection, frozenset(keys))
            return TaskInstances.from_found(found, {}, try_number_may_lag=TRY_NUMBER_MAY_LAG)

    def read_records(
        self,
        task_instances: TaskInstances,
        keys: Collection[TaskInstanceKey],
        record_keys: RecordKeys = POD_RECORD,
    ) -> Mapping[TaskInstanceKey, Record]:
        """Implement :class:`~.interface.TaskInstanceSource`."""
        requested = {(*ids, key.map_index): key for key in keys for ids in task_instances.raw_ids.get(key, ())}
        xcoms: dict[tuple[Any, ...], dict[str, Any]] = defaultdict(dict)  # by task instance and XCom key
        with self._open() as connection:
            try:
                for row in _find_xcoms(connection, sorted(requested), record_keys):
                    *ids, name, _ = row
                    xcoms[tuple(ids)][name] = self._reader.read(row.dag_id, partial(_read_xcom, row._mapping))
            except SQLAlchemyError as error:
                if not _is_permission_denied(error):
                    raise
                problem = f"reading {XCOM.name} from {self.description} was denied (grant SELECT on it)"
                return dict.fromkeys(keys, Record(problem=problem))
        by_key: dict[TaskInstanceKey, list[dict[str, Any]]] = defaultdict(list)
        for task_instance, values in xcoms.items():
            by_key[requested[task_instance]].append(values)
        return build_records(by_key, record_keys)

    @contextmanager
    def _open(self) -> Iterator[Connection]:
        try:
            with self._connect() as connection:
                yield connection
        except SQLAlchemyError as error:
            tables = ", ".join(each.name for each in TABLES)
            raise TaskInstanceSourceError(
                f"task instances could not be read from {self.description}",
                cause=str(error),
                remedy=f"the database must be reachable and grant SELECT on {tables}",
            ) from error

    def _verify_source(self, connection: Connection) -> None:
        """Check that the server is a primary and has the cleanup's own task instance as it is now.

        :raises SourceUnusable: if not.
        """
        evidence = _evidence_of_replica(connection)
        if evidence:
            raise SourceUnusable(
                f"{self.description} is a read-only replica ({evidence}), which may lag behind",
                remedy="point the connection to the primary server",
            )
        caller, ti = self._caller, TASK_INSTANCE.c
        columns = [ti.state] if caller.id is None else [ti.state, column("id")]
        statement = select(*columns).select_from(TASK_INSTANCE).where(*(ti[name] == bindparam(name) for name in _IDS))
        row = connection.execute(statement, caller._asdict()).first()
        verify_caller(
            self.description,
            caller,
            (row[0], None if caller.id is None else str(row[1])) if row else None,
            "point the connection to the primary server of this Airflow's database",
        )


def _find(connection: Connection, keys: frozenset[TaskInstanceKey]) -> Iterator[Found]:
    runs = _find_runs(connection, {(key.dag_id, key.run_id) for key in keys})
    task_ids = _raw_task_ids(keys)
    size = len(runs) if connection.dialect.name == "postgresql" else CHUNK
    for start in range(0, len(runs), size):
        result = _select(connection, runs[start : start + size], task_ids)
        # Fetching all rows at once and unpacking them costs far less than fetching each and accessing it by name.
        for dag_id, task_id, run_id, map_index, state, try_number, end_date, operator in result.all():
            key = make_key(dag_id, task_id, run_id, map_index)
            if key in keys:
                ti = TaskInstance(state, current_try(state, try_number), _to_epoch(end_date), operator)
                yield key, RawIds(dag_id, task_id, run_id), ti


def _select(connection: Connection, runs: list[tuple[str, str]], task_ids: list[str] | None) -> Any:
    """Select the task instances of these runs, by the index of DAGs and runs.

    :param task_ids: the only tasks that are needed, or None to read all of them.
    """
    ti = TASK_INSTANCE.c
    if connection.dialect.name == "postgresql":
        dag_ids, run_ids = map(list, zip(*runs))
        arrays = {"dag_ids": dag_ids, "run_ids": run_ids, "task_ids": task_ids}
        return connection.execute(_build_postgresql_statement(task_ids is not None), arrays)
    # SQLite reads the whole table for a list of pairs.
    of_dags = [
        and_(ti.dag_id == dag, ti.run_id.in_([run for _, run in of_dag]))
        for dag, of_dag in groupby(runs, itemgetter(0))
    ]
    of_runs = select(*ti).where(or_(*of_dags))
    return connection.execute(of_runs if task_ids is None else of_runs.where(ti.task_id.in_(task_ids)))


@cache
def _build_postgresql_statement(has_tasks: bool) -> Any:
    # PostgreSQL would plan one index scan per pair of a list, and the planning would take longer than reading the rows.
    # With a table of pairs it plans one. The OFFSET keeps it from reading all rows and joining them.
    ti = TASK_INSTANCE.c
    dag_ids, run_ids, task_ids = (bindparam(name, type_=ARRAY(String)) for name in ("dag_ids", "run_ids", "task_ids"))
    pairs = func.unnest(dag_ids, run_ids).table_valued("dag_id", "run_id").render_derived("pairs")
    of_run = select(*ti).where(ti.dag_id == pairs.c.dag_id, ti.run_id == pairs.c.run_id).offset(0).lateral("of_run")
    of_runs = select(*of_run.c).select_from(pairs.join(of_run, true()))
    return of_runs.where(of_run.c.task_id == any_(task_ids)) if has_tasks else of_runs


def _find_xcoms(
    connection: Connection, task_instances: list[tuple[Any, ...]], record_keys: RecordKeys
) -> Iterator[Any]:
    """Select the XComs with a record of these (dag_id, task_id, run_id, map_index), by Airflow's own index."""
    ids = tuple_(*(XCOM.c[name] for name in _IDS))
    # As text, because only some drivers decode the JSON of Airflow 3.
    columns = [cast(each, String) if each is XCOM.c.value and IS_AIRFLOW_3 else each for each in XCOM.c]
    of_task_instances = ids.in_(bindparam("task_instances", expanding=True))
    statement = select(*columns).where(of_task_instances, XCOM.c.key.in_(record_keys.xcoms))
    for start in range(0, len(task_instances), CHUNK):
        yield from connection.execute(statement, {"task_instances": task_instances[start : start + CHUNK]})


def _read_xcom(row: Mapping[str, Any]) -> Any:
    """Return the value behind a row: the column has JSON on Airflow 3, and the backend's own bytes on Airflow 2."""
    value = row["value"]
    if value is not None:
        value = json.loads(value) if IS_AIRFLOW_3 else bytes(value)
    return decode_json(deserialize_xcom({**row, "value": value}))


def _is_permission_denied(error: SQLAlchemyError) -> bool:
    """Return whether a database privilege is missing, by PostgreSQL's error code or MySQL's error number."""
    original = getattr(error, "orig", None)
    code = getattr(original, "pgcode", None) or getattr(original, "sqlstate", None)
    return code == "42501" or getattr(original, "args", ())[:1] in ((1142,), (1143,))


def _raw_task_ids(keys: Collection[TaskInstanceKey]) -> list[str] | None:
    """Return the raw task_ids, or None if one may be hashed or there are too many to compare."""
    labels = {key.task_id for key in keys}
    return None if len(labels) > MAX_TASKS or any(map(may_be_hashed, labels)) else sorted(labels)


def _find_runs(connection: Connection, labels: set[tuple[str, str]]) -> list[tuple[str, str]]:
    def list_dag_ids() -> list[str]:
        return [dag_id for (dag_id,) in connection.execute(select(DAG_RUN.c.dag_id).distinct())]

    def list_runs(dag_ids: list[str]) -> Any:
        log.debug("Reading the run_ids of %s DAGs, because run_ids of their pods are hashed", len(dag_ids))
        return connection.execute(select(*DAG_RUN.c).where(DAG_RUN.c.dag_id.in_(dag_ids)))

    return find_runs(labels, list_dag_ids, list_runs)


def _to_epoch(value: datetime | str | None) -> int | None:
    if value is None:
        return None
    if isinstance(value, str):  # SQLite has no type for times
        value = datetime.fromisoformat(value)
    if value.tzinfo is None:  # Airflow stores UTC; MySQL and SQLite drop the offset
        value = value.replace(tzinfo=timezone.utc)
    return int(value.timestamp())


@contextmanager
def airflow_session() -> Iterator[Connection]:
    """Open Airflow's own session, which is available to tasks on Airflow 2 only."""
    from airflow.utils.session import create_session

    with create_session() as session:
        connection = session.connection()
        _prepare(connection)
        yield connection


def metadata_connection(conn_id: str) -> Callable[[], AbstractContextManager[Connection]]:
    """Return a function that opens an Airflow connection to the metadata database with its provider's hook."""

    @cache  # shared by all queries of a task, because connecting takes longer than a query
    def engine() -> Engine:
        try:
            hook = BaseHook.get_hook(conn_id)
            if not hasattr(hook, "get_sqlalchemy_engine"):
                raise TypeError(f"its type is {BaseHook.get_connection(conn_id).conn_type!r}")
            # The server or a proxy may close a connection that is idle between two queries.
            created: Engine = hook.get_sqlalchemy_engine({"pool_pre_ping": True})
        except Exception as error:  # a missing provider, a secrets backend or a driver can raise anything
            cause, remedy = safe_message(error), "set it to one of type postgres, mysql or http"
            if "Unknown hook type" in cause:
                remedy = "install the provider of this type on the workers, or " + remedy
            problem = TaskInstanceSourceError(
                f"airflow_conn_id={conn_id!r} is not a usable database connection", cause=cause, remedy=remedy
            )
            problem.is_retryable = not isinstance(error, (AirflowException, ImportError, TypeError))
            raise problem from error
        return created

    @contextmanager
    def connect() -> Iterator[Connection]:
        with engine().connect() as connection:
            _prepare(connection)
            yield connection

    return connect


def _prepare(connection: Connection) -> None:
    """Set a statement timeout on the server, and UTC as the session's time zone.

    The task's execution_timeout cannot interrupt a driver that waits in C. MySQL converts times to the session's zone.
    """
    dialect = "mariadb" if getattr(connection.dialect, "is_mariadb", False) else connection.dialect.name
    statement = {
        "postgresql": f"SET LOCAL statement_timeout = {STATEMENT_TIMEOUT * 1000}",
        "mysql": f"SET SESSION max_execution_time = {STATEMENT_TIMEOUT * 1000}, time_zone = '+00:00'",
        "mariadb": f"SET SESSION max_statement_time = {STATEMENT_TIMEOUT}, time_zone = '+00:00'",
    }.get(dialect)
    if statement:
        connection.execute(text(statement))


def _evidence_of_replica(connection: Connection) -> str:
    """Return the server's setting that makes it read-only, or an empty string."""
    if connection.dialect.name == "postgresql":
        return "pg_is_in_recovery()" if connection.execute(text("SELECT pg_is_in_recovery()")).scalar() else ""
    if connection.dialect.name == "mysql":
        # Some servers have only one of them.
        names = "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('read_only', 'innodb_read_only')"
        return ", ".join(f"{name}={value}" for name, value in connection.execute(text(names)) if value != "OFF")
    return ""
