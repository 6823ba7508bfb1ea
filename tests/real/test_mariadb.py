"""The one SQL query on MariaDB, over an Airflow connection, on tables that Airflow made there itself."""

from __future__ import annotations

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

from include.kpo_cleanup.errors import TaskInstanceSourceError
from include.kpo_cleanup.identity import key_of
from include.kpo_cleanup.task_instance import TaskInstance
from include.kpo_cleanup.task_instances.sql import SqlSource, metadata_connection
from tests.databases import HOST, Database, mariadb

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

READER = "kpo_cleanup"
HIDDEN = f"my run {'x' * 80}"  # its label does not tell it
SCHEDULED = "scheduled__2026-11-24T00:00:00+00:00"  # its label does
ENDED, ENDED_EPOCH = "2026-11-24 11:30:15.500000", 1_795_519_815

# task_id, run_id, map_index, state, try_number, end_date; what the source is to make of the last four
ROWS: list[tuple[tuple[Any, ...], TaskInstance]] = [
    (("running", SCHEDULED, -1, "running", 2, None), TaskInstance("running", 2, None, "Operator")),
    (("cleared", SCHEDULED, -1, None, 1, ENDED), TaskInstance(None, 1, ENDED_EPOCH, "Operator")),
    (("failed", SCHEDULED, -1, "failed", 1, ENDED), TaskInstance("failed", 1, ENDED_EPOCH, "Operator")),
    (("mapped", HIDDEN, 0, "success", 1, ENDED), TaskInstance("success", 1, ENDED_EPOCH, "Operator")),
    (("mapped", HIDDEN, 1, "deferred", 1, None), TaskInstance("deferred", 1, None, "Operator")),
]


@pytest.fixture(scope="module")
def database() -> Iterator[Database]:
    """With Airflow's schema and these rows, and a user who may read two tables."""
    with mariadb(["--explicit-defaults-for-timestamp=1"]) as database:
        environment = {**os.environ, "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database.url("mysqldb")}
        migrate = [sys.executable, "-m", "airflow", "db", "migrate"]
        subprocess.run(migrate, env=environment, check=True, capture_output=True, timeout=300)
        with _connected(database) as connection:
            # Columns that nobody asks for may stay empty, and refer to nothing.
            connection.execute(text("SET SESSION sql_mode = '', foreign_key_checks = 0"))
            for day, run_id in enumerate((SCHEDULED, HIDDEN), start=1):
                _insert(connection, "dag_run", dag_id="dag", run_id=run_id, execution_date=f"2026-11-{day:02}")
            for (task_id, run_id, map_index, state, try_number, end_date), _ in ROWS:
                _insert(
                    connection, "task_instance", id=str(uuid4()), dag_id="dag", task_id=task_id, run_id=run_id,
                    map_index=map_index, state=state, try_number=try_number, end_date=end_date, operator="Operator",
                )  # fmt: skip
            connection.execute(text(f"CREATE USER '{READER}'@'{HOST}'"))
            for table in ("task_instance", "dag_run"):
                connection.execute(text(f"GRANT SELECT ON airflow.{table} TO '{READER}'@'{HOST}'"))
        yield database


@contextmanager
def _connected(database: Database, user: str = "airflow") -> Iterator[Connection]:
    engine = create_engine(database.url("mysqldb", user=user))
    with engine.begin() as connection:
        yield connection
    engine.dispose()


def _insert(connection: Connection, table: str, **values: Any) -> None:
    """Into those of these columns that this Airflow has."""
    there = {row[0] for row in connection.execute(text(f"SHOW COLUMNS FROM {table}"))}
    names = [name for name in values if name in there]
    sql = f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join(f':{name}' for name in names)})"
    connection.execute(text(sql), {name: values[name] for name in names})


def test_the_query_finds_what_airflow_knows(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_METADATA", database.url(user=READER))
    expected = {key_of("dag", row[0], row[1], row[2]): ti for row, ti in ROWS}
    asked = [*expected, key_of("dag", "never", SCHEDULED, -1), key_of("other", "running", SCHEDULED, -1)]
    found = SqlSource(metadata_connection("metadata"), "MariaDB").fetch(asked)
    assert found.found == expected
    assert not found.unresolved


def test_without_the_right_to_read_it_is_an_error_and_not_an_empty_answer(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with _connected(database) as connection:
        connection.execute(text(f"CREATE USER 'nobody'@'{HOST}'"))
        connection.execute(text(f"GRANT SELECT ON airflow.dag_run TO 'nobody'@'{HOST}'"))
    monkeypatch.setenv("AIRFLOW_CONN_METADATA", database.url(user="nobody"))
    with pytest.raises(TaskInstanceSourceError, match="allow SELECT on task_instance and dag_run"):
        SqlSource(metadata_connection("metadata"), "MariaDB").fetch([key_of("dag", "running", SCHEDULED, -1)])


def test_a_second_look_sees_what_has_changed(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_METADATA", database.url(user=READER))
    source, key = SqlSource(metadata_connection("metadata"), "MariaDB"), key_of("dag", "failed", SCHEDULED, -1)
    assert not source.fetch([key]).found[key].is_active
    try:
        _set_state(database, "failed", None)
        assert source.fetch([key]).found[key].is_active
    finally:
        _set_state(database, "failed", "failed")


def test_a_connection_that_the_server_closed_meanwhile_is_opened_again(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_METADATA", database.url(user=READER))
    source, key = SqlSource(metadata_connection("metadata"), "MariaDB"), key_of("dag", "running", SCHEDULED, -1)
    source.fetch([key])
    with _connected(database, user=READER) as connection:
        mine = connection.execute(text("SELECT connection_id()")).scalar()
        open_ones = [row[0] for row in connection.execute(text("SHOW PROCESSLIST")) if row[0] != mine]
        assert open_ones
        for other in open_ones:
            connection.execute(text(f"KILL {other}"))
    assert source.fetch([key]).found[key].is_active


def _set_state(database: Database, task_id: str, state: str | None) -> None:
    with _connected(database) as connection:
        sql = "UPDATE task_instance SET state = :state WHERE task_id = :task_id"
        connection.execute(text(sql), {"state": state, "task_id": task_id})
