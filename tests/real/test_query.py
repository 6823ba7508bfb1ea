"""The SQL queries on Airflow's usual servers: the correctness of their answers, and the use of indexes."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from sqlalchemy import create_engine, text
from sqlalchemy.engine import Connection, Engine

from bench.history import add_runs, find_caller, keys_of_pods
from bench.queries import plan_of, recorded
from include.kpo_cleanup.airflow_compat import IS_AIRFLOW_3
from include.kpo_cleanup.errors import TaskInstanceSourceError
from include.kpo_cleanup.identity import TaskInstanceKey, make_key
from include.kpo_cleanup.task_instance import CallerTaskInstance, RawIds, Record
from include.kpo_cleanup.task_instances.sql import SqlSource, metadata_connection
from tests import databases
from tests.airflow.test_sql_source import ALL_DAG_IDS, Database
from tests.unit.worlds import World, assert_correct_answer, worlds

pytestmark = pytest.mark.real

ROWS = 25_000
# How the query plans of the two servers show a scan of a whole table.
WHOLE_TABLE = ["Seq Scan on task_instance", "task_instance ALL", "Seq Scan on xcom", "xcom ALL"]
SERVERS = {"PostgreSQL": databases.postgresql, "MariaDB": databases.mariadb}


@pytest.fixture(scope="module", params=SERVERS)
def small(request: pytest.FixtureRequest) -> Iterator[Database]:
    with SERVERS[request.param]() as server:
        engine = create_engine(server.url())
        yield Database(engine)
        engine.dispose()


@given(world=worlds(dag_ids=ALL_DAG_IDS))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_the_answer_is_correct_in_every_world(small: Database, world: World) -> None:
    small.fill(world.rows)
    assert_correct_answer(world, small.source.fetch(world.keys))


@pytest.fixture(scope="module", params=SERVERS)
def migrated(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    """Return a connection to a database with Airflow's own schema and a history."""
    home = tmp_path_factory.mktemp("airflow")
    with ExitStack() as stack:
        server = stack.enter_context(SERVERS[request.param]())
        url = server.url("psycopg2" if server.dialect == "postgresql" else "")
        environment = {**os.environ, "AIRFLOW_HOME": str(home), "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": url}
        migrate = [str(Path(sys.executable).with_name("airflow")), "db", "migrate"]
        done = subprocess.run(migrate, env=environment, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        engine = create_engine(url)
        stack.callback(engine.dispose)
        add_runs(engine, 0, ROWS)
        push(engine)
        yield stack.enter_context(engine.connect())


def push(engine: Engine) -> None:
    """Store a record of each task instance in Airflow's own table, and as many other XComs."""
    if IS_AIRFLOW_3:
        from airflow.models.xcom import XComModel as XCom
    else:
        from airflow.models.xcom import XCom
    xcom: Any = XCom.__table__
    columns = ("dag_run_id", *RawIds._fields, "map_index")
    ids = "ti.dag_id, ti.task_id, ti.run_id, ti.map_index"
    runs = "dag_run dr ON dr.dag_id = ti.dag_id AND dr.run_id = ti.run_id"
    query = text(f"SELECT dr.id, {ids} FROM task_instance ti JOIN {runs}")
    with engine.begin() as connection:
        rows = [
            {**dict(zip(columns, row, strict=True)), "key": key, "value": value}
            for row in connection.execute(query)
            for key, value in (
                ("pod_name", name_of(make_key(*row[1:]))),
                ("pod_namespace", "airflow"),
                *((f"other_{number}", "pod") for number in range(2)),
            )
        ]
        for each in rows:
            each["timestamp"] = datetime.now(UTC)
            each["value"] = each["value"] if IS_AIRFLOW_3 else json.dumps(each["value"]).encode()
        connection.execute(xcom.insert(), rows)
    with engine.connect() as connection:
        analyze = "ANALYZE TABLE xcom" if engine.dialect.name == "mysql" else "ANALYZE xcom"
        connection.execution_options(isolation_level="AUTOCOMMIT").execute(text(analyze))


def name_of(key: TaskInstanceKey) -> str:
    return f"pod-{hashlib.md5(repr(tuple(key)).encode()).hexdigest()}"


def test_no_table_is_scanned_as_a_whole(migrated: Connection) -> None:
    keys, caller = keys_of_pods(runs=2), find_caller(migrated)
    with recorded(migrated) as statements:
        source = SqlSource(lambda: nullcontext(migrated), caller, "test")
        answer = source.fetch(keys)
        records = source.read_records(answer, keys)
    assert set(answer.found) == keys
    assert records == {key: Record(frozenset({f"airflow/{name_of(key)}"})) for key in keys}
    plan = plan_of(migrated, statements)
    assert "task_instance" in plan
    assert not [sign for sign in WHOLE_TABLE if sign in plan], plan


def test_a_standby_server_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    caller, key = CallerTaskInstance("kpo_cleanup", "reap", "now", -1, "0197"), make_key("dag", "task", "run", -1)
    with databases.postgresql(is_standby=True) as server:
        url = f"postgres://{databases.USER}:@{databases.HOST}:{server.port}/postgres"  # which initdb created
        monkeypatch.setenv("AIRFLOW_CONN_METADATA", url)
        with pytest.raises(TaskInstanceSourceError, match=r"is a read-only replica \(pg_is_in_recovery\(\)\)"):
            SqlSource(metadata_connection("metadata"), caller, "test").fetch([key])
