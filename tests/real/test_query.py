"""The SQL query on the servers that Airflow runs on: its answers are true, and it reads no more than an index finds."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from sqlalchemy import create_engine
from sqlalchemy.engine import Connection

from bench.history import fill, keys_of_pods, own_task_instance
from bench.queries import plan_of, recorded
from include.kpo_cleanup.task_instances.sql import SqlSource
from tests import databases
from tests.unit.test_sql_source import ALL_DAG_IDS, Database
from tests.unit.worlds import World, assert_true_answer, worlds

pytestmark = pytest.mark.real

ROWS = 100_000
# In the plans of the two. SQLite, which is for development only, does scan the table.
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
def test_the_answer_is_true_in_any_world(small: Database, world: World) -> None:
    small.fill(world.rows)
    assert_true_answer(world, small.source.fetch(world.keys))


@pytest.fixture(scope="module", params=SERVERS)
def migrated(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    """A database with Airflow's own schema and a history in it."""
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
        fill(engine, 0, ROWS)
        yield stack.enter_context(engine.connect())


def test_no_table_is_read_as_a_whole(migrated: Connection) -> None:
    keys, own = keys_of_pods(runs=2), own_task_instance(migrated)
    with recorded(migrated) as statements:
        source = SqlSource(lambda: nullcontext(migrated), own, "test")
        answer = source.fetch(keys)
        source.read_records(answer, keys)
    assert set(answer.found) == keys
    plan = plan_of(migrated, statements)
    assert "task_instance" in plan
    assert not [sign for sign in WHOLE_TABLE if sign in plan], plan
