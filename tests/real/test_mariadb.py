"""The SQL queries on MariaDB, through an Airflow connection, on tables that Airflow created."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import Connection

from include.kpo_cleanup.airflow_compat import IS_AIRFLOW_3
from include.kpo_cleanup.errors import TaskInstanceSourceError
from include.kpo_cleanup.identity import make_key
from include.kpo_cleanup.task_instance import CallerTaskInstance, Record, TaskInstance
from include.kpo_cleanup.task_instances.sql import SqlSource, metadata_connection
from tests.databases import HOST, Database, mariadb

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

READER = "kpo_cleanup"
HIDDEN = f"my run {'x' * 80}"  # its label value does not reveal it
SCHEDULED = "scheduled__2026-11-24T00:00:00+00:00"  # its label value does
ENDED, ENDED_EPOCH = "2026-11-24 11:30:15.500000", 1_795_519_815

# task_id, run_id, map_index, state, try_number, end_date; and what the source returns
ROWS: list[tuple[tuple[Any, ...], TaskInstance]] = [
    (("running", SCHEDULED, -1, "running", 2, None), TaskInstance("running", 2, None, "Operator")),
    (("cleared", SCHEDULED, -1, None, 1, ENDED), TaskInstance(None, 1, ENDED_EPOCH, "Operator")),
    (("failed", SCHEDULED, -1, "failed", 1, ENDED), TaskInstance("failed", 1, ENDED_EPOCH, "Operator")),
    (("mapped", HIDDEN, 0, "success", 1, ENDED), TaskInstance("success", 1, ENDED_EPOCH, "Operator")),
    (("mapped", HIDDEN, 1, "deferred", 1, None), TaskInstance("deferred", 1, None, "Operator")),
]

CALLER = CallerTaskInstance("kpo_cleanup", "reap", "now", -1, str(uuid4()) if IS_AIRFLOW_3 else None)
TABLES = ("task_instance", "dag_run", "xcom")


@pytest.fixture(scope="module", params=["+00:00", "-05:00", "+09:30"])
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    """Create Airflow's schema with these rows and a user who may read three tables, on a server in this time zone."""
    with mariadb(["--explicit-defaults-for-timestamp=1", f"--default-time-zone={request.param}"]) as database:
        environment = {**os.environ, "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database.url("mysqldb")}
        migrate = [sys.executable, "-m", "airflow", "db", "migrate"]
        subprocess.run(migrate, env=environment, check=True, capture_output=True, timeout=300)
        with _connected(database) as connection:
            # Columns that are not read may be empty and violate foreign keys. Airflow writes in UTC.
            connection.execute(text("SET SESSION sql_mode = '', foreign_key_checks = 0, time_zone = '+00:00'"))
            for day, run_id in enumerate((SCHEDULED, HIDDEN), start=1):
                _insert(connection, "dag_run", dag_id="dag", run_id=run_id, execution_date=f"2026-11-{day:02}")
            caller = {**CALLER._asdict(), "id": CALLER.id and CALLER.id.replace("-", "")}
            _insert(connection, "task_instance", **caller, state="running")
            for map_index, name in ((0, "mapped-0"), (1, "mapped-1")):
                for key, value in (("pod_name", name), ("pod_namespace", "airflow"), ("return_value", "other")):
                    _insert(
                        connection, "xcom", dag_run_id=2, dag_id="dag", task_id="mapped", run_id=HIDDEN,
                        map_index=map_index, key=key, value=json.dumps(value),
                    )  # fmt: skip
            for (task_id, run_id, map_index, state, try_number, end_date), _ in ROWS:
                _insert(
                    connection, "task_instance", id=str(uuid4()), dag_id="dag", task_id=task_id, run_id=run_id,
                    map_index=map_index, state=state, try_number=try_number, end_date=end_date, operator="Operator",
                )  # fmt: skip
            connection.execute(text(f"CREATE USER '{READER}'@'{HOST}'"))
            for table in TABLES:
                connection.execute(text(f"GRANT SELECT ON airflow.{table} TO '{READER}'@'{HOST}'"))
        yield database


@contextmanager
def _connected(database: Database, user: str = "airflow") -> Iterator[Connection]:
    engine = create_engine(database.url("mysqldb", user=user))
    with engine.begin() as connection:
        yield connection
    engine.dispose()


def _insert(connection: Connection, table: str, **values: Any) -> None:
    """Insert a row, leaving out columns that this Airflow does not have."""
    existing = {row[0] for row in connection.execute(text(f"SHOW COLUMNS FROM {table}"))}
    names = [name for name in values if name in existing]
    columns = ", ".join(f"`{name}`" for name in names)
    sql = f"INSERT INTO {table} ({columns}) VALUES ({', '.join(f':{name}' for name in names)})"
    connection.execute(text(sql), {name: values[name] for name in names})


def test_the_query_finds_all_task_instances_and_no_others(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_METADATA", database.url(user=READER))
    expected = {make_key("dag", row[0], row[1], row[2]): ti for row, ti in ROWS}
    keys = [*expected, make_key("dag", "never", SCHEDULED, -1), make_key("other", "running", SCHEDULED, -1)]
    found = SqlSource(metadata_connection("metadata"), CALLER, "MariaDB").fetch(keys)
    assert found.found == expected
    assert not found.unresolved


def test_the_records_are_the_xcoms_of_the_operators(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_METADATA", database.url(user=READER))
    source = SqlSource(metadata_connection("metadata"), CALLER, "MariaDB")
    keys = [make_key("dag", row[0], row[1], row[2]) for row, _ in ROWS]
    assert source.read_records(source.fetch(keys), keys) == {
        keys[3]: Record(frozenset({"airflow/mapped-0"})),
        keys[4]: Record(frozenset({"airflow/mapped-1"})),
    }


def test_every_record_has_a_problem_without_the_privilege_to_read_xcoms(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with _connected(database) as connection:
        connection.execute(text(f"CREATE USER 'half'@'{HOST}'"))
        for table in ("task_instance", "dag_run"):
            connection.execute(text(f"GRANT SELECT ON airflow.{table} TO 'half'@'{HOST}'"))
    monkeypatch.setenv("AIRFLOW_CONN_METADATA", database.url(user="half"))
    source = SqlSource(metadata_connection("metadata"), CALLER, "MariaDB")
    keys = [make_key("dag", "mapped", HIDDEN, 0), make_key("dag", "failed", SCHEDULED, -1)]
    problem = "reading xcom from MariaDB was denied (grant SELECT on it)"
    assert source.read_records(source.fetch(keys), keys) == dict.fromkeys(keys, Record(problem=problem))


def test_a_read_only_server_is_rejected(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_METADATA", database.url(user=READER))
    source, key = (
        SqlSource(metadata_connection("metadata"), CALLER, "MariaDB"),
        make_key("dag", "failed", SCHEDULED, -1),
    )
    assert source.fetch([key]).found
    with _connected(database, user="root") as connection:
        connection.execute(text("SET GLOBAL read_only = 1"))
        try:
            with pytest.raises(TaskInstanceSourceError, match=r"a read-only replica \(read_only=ON\)"):
                source.fetch([key])
        finally:
            connection.execute(text("SET GLOBAL read_only = 0"))


def test_a_missing_privilege_is_an_error_and_not_an_empty_answer(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with _connected(database) as connection:
        connection.execute(text(f"CREATE USER 'nobody'@'{HOST}'"))
        connection.execute(text(f"GRANT SELECT ON airflow.dag_run TO 'nobody'@'{HOST}'"))
    monkeypatch.setenv("AIRFLOW_CONN_METADATA", database.url(user="nobody"))
    with pytest.raises(TaskInstanceSourceError, match="grant SELECT on task_instance, dag_run, xcom"):
        SqlSource(metadata_connection("metadata"), CALLER, "MariaDB").fetch([make_key("dag", "running", SCHEDULED, -1)])


def test_a_second_query_returns_the_current_states(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_METADATA", database.url(user=READER))
    source, key = (
        SqlSource(metadata_connection("metadata"), CALLER, "MariaDB"),
        make_key("dag", "failed", SCHEDULED, -1),
    )
    assert not source.fetch([key]).found[key].is_active
    try:
        _set_state(database, "failed", None)
        assert source.fetch([key]).found[key].is_active
    finally:
        _set_state(database, "failed", "failed")


def test_a_connection_that_the_server_has_closed_is_reopened(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_METADATA", database.url(user=READER))
    source, key = (
        SqlSource(metadata_connection("metadata"), CALLER, "MariaDB"),
        make_key("dag", "running", SCHEDULED, -1),
    )
    source.fetch([key])
    with _connected(database, user=READER) as connection:
        mine = connection.execute(text("SELECT connection_id()")).scalar()
        others = [row[0] for row in connection.execute(text("SHOW PROCESSLIST")) if row[0] != mine]
        assert others
        for other in others:
            connection.execute(text(f"KILL {other}"))
    assert source.fetch([key]).found[key].is_active


def _set_state(database: Database, task_id: str, state: str | None) -> None:
    with _connected(database) as connection:
        sql = "UPDATE task_instance SET state = :state WHERE task_id = :task_id"
        connection.execute(text(sql), {"state": state, "task_id": task_id})
