"""The metadata database as a source: the batch query over a real (SQLite) database gives true answers."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from sqlalchemy import Column, DateTime, Index, Integer, LargeBinary, MetaData, String, Table, create_engine
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.pool import StaticPool

from include.kpo_cleanup.airflow_compat import AIRFLOW_RELEASE
from include.kpo_cleanup.errors import TaskInstanceSourceError
from include.kpo_cleanup.identity import UNMAPPED, make_key, to_label_value
from include.kpo_cleanup.task_instance import CallerTaskInstance, RawIds, Record, TaskInstance, TaskInstances
from include.kpo_cleanup.task_instances import sql as sql_source
from include.kpo_cleanup.task_instances.sql import SqlSource
from tests.unit.worlds import (
    CLEAN_DAG_IDS,
    CLEANED_DAG_IDS,
    HOSTILE_IDS,
    ODD_ID,
    SCHEDULED,
    Row,
    World,
    assert_true_answer,
    worlds,
)

METADATA = MetaData()
# The columns of Airflow's own tables that this project reads, and one that it does not read; and Airflow's indexes.
TASK_INSTANCE = Table(
    "task_instance",
    METADATA,
    Column("dag_id", String(250), primary_key=True),
    Column("task_id", String(250), primary_key=True),
    Column("run_id", String(250), primary_key=True),
    Column("map_index", Integer, primary_key=True),
    Column("state", String(50)),  # of a later Airflow, too
    Column("try_number", Integer),
    Column("end_date", DateTime),
    Column("operator", String(1000)),
    Column("hostname", String(1000)),
    Column("id", String(36)),
    Index("ti_dag_state", "dag_id", "state"),
    Index("ti_dag_run", "dag_id", "run_id"),
)
DAG_RUN = Table(
    "dag_run",
    METADATA,
    Column("dag_id", String(250), primary_key=True),
    Column("run_id", String(250), primary_key=True),
    Column("state", String(50)),
)
XCOM = Table(
    "xcom",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("dag_id", String(250)),
    Column("task_id", String(250)),
    Column("run_id", String(250)),
    Column("map_index", Integer),
    Column("key", String(512)),
    Column("value", LargeBinary),
    Index("idx_xcom_task_instance", "dag_id", "task_id", "run_id", "map_index"),
)

OWN = CallerTaskInstance("cleanup", "reap", "now", UNMAPPED, "0197f0a2-5b1c-7d3e-8f90-a1b2c3d4e5f6")
OWN_ROW = {**OWN._asdict(), "state": "running"}

ENDED = datetime(2026, 11, 24, 11, 30, 15, 500_000)
ENDED_EPOCH = int(ENDED.replace(tzinfo=UTC).timestamp())
OWN_QUESTION = "SELECT task_instance.state, id "


class Database:
    """An Airflow metadata database with only what a test puts in."""

    def __init__(self, engine: Engine | None = None) -> None:
        self._engine = engine or create_engine(
            "sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False}
        )
        METADATA.create_all(self._engine)
        self.statements: list[str] = []
        self.rows_read = 0

    def fill(self, rows: Iterable[Row]) -> None:
        rows = list(rows)
        runs = sorted({(row.dag_id, row.run_id) for row in rows})
        with self._engine.begin() as connection:
            connection.execute(TASK_INSTANCE.delete())
            connection.execute(DAG_RUN.delete())
            if rows:
                values = [{**row._asdict(), "try_number": 2, "end_date": ENDED, "operator": "Mine"} for row in rows]
                connection.execute(TASK_INSTANCE.insert(), values)
                connection.execute(DAG_RUN.insert(), [{"dag_id": dag, "run_id": run} for dag, run in runs])
            connection.execute(TASK_INSTANCE.insert(), [OWN_ROW])
            connection.execute(XCOM.delete())

    def push(self, row: Row, **values: bytes | None) -> None:
        """Put XComs on record."""
        dag_id, task_id, run_id, map_index, _ = row
        ids = {"dag_id": dag_id, "task_id": task_id, "run_id": run_id, "map_index": map_index}
        with self._engine.begin() as connection:
            for key, value in values.items():
                connection.execute(XCOM.insert(), {**ids, "key": key, "value": value})

    def change_own(self, **values: Any) -> None:
        """Change the task instance that asks."""
        with self._engine.begin() as connection:
            connection.execute(TASK_INSTANCE.update().where(TASK_INSTANCE.c.dag_id == OWN.dag_id), values)

    def drop(self) -> None:
        METADATA.drop_all(self._engine)

    @contextmanager
    def connect(self) -> Iterator[Any]:
        with self._engine.connect() as connection:

            def execute(statement: Any, *parameters: Any) -> Any:
                result = connection.execute(statement, *parameters).freeze()
                if not str(statement).startswith(OWN_QUESTION):
                    self.statements.append(str(statement))
                    self.rows_read += len(result.data)
                return result()

            yield SimpleNamespace(execute=execute, dialect=connection.dialect)

    @property
    def source(self) -> SqlSource:
        return SqlSource(self.connect, OWN, "test")


@pytest.fixture
def database() -> Database:
    return Database()


@pytest.fixture(scope="module")
def shared_database() -> Database:
    """Make a database for property tests, which fill it anew for each example."""
    return Database()


def row(task_id: str = "a", map_index: int = UNMAPPED, state: str | None = "running", **ids: str) -> Row:
    return Row(ids.get("dag_id", "orders"), task_id, ids.get("run_id", SCHEDULED), map_index, state)


def states(answer: TaskInstances) -> dict[Any, str | None]:
    return {key: ti.state for key, ti in answer.found.items()}


# SQL finds cleaned dag_ids, unlike the Task SDK. It even tells one from a dag_id that equals its label.
ALL_DAG_IDS = (*CLEAN_DAG_IDS, *CLEANED_DAG_IDS, *map(to_label_value, CLEANED_DAG_IDS))


@given(world=worlds(dag_ids=ALL_DAG_IDS))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_answer_is_true_in_any_world(shared_database: Database, world: World) -> None:
    shared_database.fill(world.rows)
    answer = shared_database.source.fetch(world.keys)
    assert_true_answer(world, answer)
    assert not answer.unresolved


class TestFinding:
    @pytest.mark.parametrize("state", [None, "running", "success", "removed", "a_state_of_a_later_airflow"])
    @pytest.mark.parametrize(
        "ids",
        HOSTILE_IDS,
    )
    def test_works_for(self, database: Database, ids: dict[str, Any], state: str | None) -> None:
        there = row(state=state, **ids)
        database.fill([there, row("b"), row(run_id="another", state="success")])
        answer = database.source.fetch([there.key])
        ti = TaskInstance(state, 2, ENDED_EPOCH, "Mine")
        raw_ids = {there.key: (RawIds(*there[:3]),)}
        assert answer == TaskInstances({there.key: ti}, {}, raw_ids, try_number_may_lag=AIRFLOW_RELEASE < (2, 10))

    def test_gives_a_cleared_task_as_active(self, database: Database) -> None:
        database.fill([row(state=None)])
        assert database.source.fetch([row().key]).found[row().key].is_active

    def test_keeps_what_is_not_on_record_open(self, database: Database) -> None:
        database.fill([row(state="success")])
        with database._engine.begin() as connection:
            connection.execute(TASK_INSTANCE.update().values(end_date=None, try_number=None, operator=None))
        assert database.source.fetch([row().key]).found == {row().key: TaskInstance("success")}

    def test_gives_nothing_for_what_is_not_there(self, database: Database) -> None:
        database.fill([row()])
        keys = [
            make_key("orders", "b", SCHEDULED, UNMAPPED),
            make_key("orders", "a", SCHEDULED, 0),
            make_key("x", "y", "z", 0),
        ]
        answer = database.source.fetch(keys)
        assert (answer.found, answer.unresolved, answer.raw_ids) == ({}, {}, {})

    def test_lets_the_active_one_count_where_two_dag_ids_have_one_label(self, database: Database) -> None:
        odd = "commandes_à_faire"
        database.fill([row(dag_id=odd, state="running"), row(dag_id=to_label_value(odd), state="success")])
        key = row(dag_id=odd).key
        answer = database.source.fetch([key])
        assert states(answer) == {key: "running"}
        assert [ids.dag_id for ids in answer.raw_ids[key]] == [to_label_value(odd), odd]


class TestQuery:
    def test_is_not_sent_where_nothing_is_asked(self, database: Database) -> None:
        assert database.source.fetch([]) == TaskInstances()
        assert database.statements == []

    def test_is_one_for_many_dags_with_default_run_ids(self, database: Database) -> None:
        rows = [
            row(f"t{task}", dag_id=f"dag{dag}", state=state)
            for dag in range(20)
            for task, state in enumerate(["success", "running", None])
        ]
        database.fill(rows)
        assert states(database.source.fetch([each.key for each in rows])) == {each.key: each.state for each in rows}
        assert len(database.statements) == 1

    def test_does_not_read_the_finished_task_instances_of_other_runs_or_dags(self, database: Database) -> None:
        history = [row(run_id=f"scheduled__2025-01-{day:02d}T00:00:00+00:00", state="success") for day in range(1, 29)]
        others = [row(dag_id="invoices", state=state) for state in ("running",)]
        database.fill([row(state="failed"), *history, *others])
        assert states(database.source.fetch([row().key])) == {row().key: "failed"}
        assert database.rows_read == 1

    def test_reads_two_tables_only(self, database: Database) -> None:
        database.fill([row(run_id="my run!", dag_id="commandes_à_faire")])
        database.source.fetch([row(run_id="my run!", dag_id="commandes_à_faire").key])
        words = " ".join(database.statements).replace("\n", " ").split()
        tables = {after for before, after in itertools.pairwise(words) if before == "FROM"}
        assert tables == {"task_instance", "dag_run"}
        assert not {"INSERT", "UPDATE", "DELETE", "LOCK"} & set(words)

    @pytest.mark.parametrize("beyond", [0, 1])
    def test_is_sent_in_chunks(self, database: Database, beyond: int) -> None:
        count = 2 * (sql_source.CHUNK // 2) + beyond  # each rebuilt run_id is asked for in both spellings
        rows = [
            row(run_id=f"scheduled__2026-11-24T00:00:00.{number:06d}+00:00", state="success" if number % 2 else None)
            for number in range(1, count + 1)
        ]
        database.fill(rows)
        assert states(database.source.fetch([each.key for each in rows])) == {each.key: each.state for each in rows}
        assert len(database.statements) == 2 + beyond


class TestNoAnswer:
    def test_is_an_error_that_says_what_must_be_allowed(self, database: Database) -> None:
        database.drop()
        with pytest.raises(TaskInstanceSourceError) as caught:
            database.source.fetch([row().key])
        assert str(caught.value).startswith("task instances could not be read (test): ")
        assert "no such table: task_instance" in str(caught.value)
        assert str(caught.value).endswith(
            "; the database must be reachable and allow SELECT on task_instance, dag_run and xcom"
        )

    def test_is_a_database_that_is_not_there(self) -> None:
        engine = create_engine("sqlite:////nonexistent/airflow.db")

        @contextmanager
        def connect() -> Iterator[Connection]:
            with engine.connect() as connection:
                yield connection

        with pytest.raises(TaskInstanceSourceError, match="could not be read"):
            SqlSource(connect, OWN, "test").fetch([row().key])

    def test_to_a_later_statement_spoils_the_whole(self, database: Database) -> None:
        rows = [row(run_id=f"run_{number}", state="success") for number in range(sql_source.CHUNK + 1)]
        database.fill(rows)

        @contextmanager
        def connect() -> Iterator[Any]:
            with database.connect() as connection:

                def fragile(*statement: Any) -> Any:
                    if database.statements:
                        database.drop()
                    return connection.execute(*statement)

                yield SimpleNamespace(execute=fragile, dialect=connection.dialect)

        with pytest.raises(TaskInstanceSourceError):
            SqlSource(connect, OWN, "test").fetch([each.key for each in rows])


class TestProof:
    """Each question also asks for the task instance that asks it."""

    @pytest.mark.parametrize(
        ("changed", "wrong"),
        [
            pytest.param({"dag_id": "other"}, "is not there", id="it is not there"),
            pytest.param({"run_id": "yesterday"}, "is not there", id="an earlier run of it is there"),
            pytest.param({"map_index": 0}, "is not there", id="a mapped one is there"),
            pytest.param({"state": "queued"}, "is 'queued' there, and not running", id="it does not run yet"),
            pytest.param({"state": "failed"}, "is 'failed' there, and not running", id="it has failed"),
            pytest.param({"state": None}, "is None there, and not running", id="it was cleared"),
            pytest.param({"id": "0197"}, f"has another id there: 0197, and not {OWN.id}", id="it is of another try"),
        ],
    )
    def test_fails_where(self, database: Database, changed: dict[str, Any], wrong: str) -> None:
        database.fill([row(state="failed")])
        source = database.source
        assert source.fetch([row().key]).found
        database.change_own(**changed)
        with pytest.raises(TaskInstanceSourceError) as caught:
            source.fetch([row().key])
        assert str(caught.value).startswith(
            f"the task instances of test are not to be trusted: this very task, cleanup.reap of run 'now', {wrong}. "
            "Either it is another Airflow's database, or a copy or replica that lags behind"
        )

    def test_fails_on_an_empty_database(self, database: Database) -> None:
        with pytest.raises(TaskInstanceSourceError, match="is not there"):
            database.source.fetch([row().key])

    def test_takes_an_id_without_dashes(self, database: Database) -> None:
        database.fill([row()])
        database.change_own(id=str(OWN.id).replace("-", ""))
        assert database.source.fetch([row().key]).found

    @pytest.mark.parametrize("state", [None, "scheduled", "queued", "running"])
    def test_takes_any_state_that_is_not_over_on_airflow_2(self, database: Database, state: str | None) -> None:
        database.fill([row()])
        database.change_own(state=state, id=None)
        assert SqlSource(database.connect, OWN._replace(id=None), "test").fetch([row().key]).found

    @pytest.mark.parametrize("state", ["success", "failed", "removed"])
    def test_fails_on_airflow_2_where_it_is_over(self, database: Database, state: str) -> None:
        database.fill([row()])
        database.change_own(state=state)
        with pytest.raises(TaskInstanceSourceError, match=f"is '{state}' there, and not running"):
            SqlSource(database.connect, OWN._replace(id=None), "test").fetch([row().key])


def record(database: Database, *rows: Row) -> Record | None:
    """Return the record of the key that these share."""
    source, [key] = database.source, {each.key for each in rows}
    return source.read_records(source.fetch([key]), [key]).get(key)


class TestRecord:
    @pytest.mark.parametrize(
        "ids",
        [
            pytest.param({}, id="a task that is not mapped"),
            pytest.param({"map_index": 3}, id="a mapped task"),
            pytest.param({"run_id": "my run!", "task_id": ODD_ID, "dag_id": "commandes_à_faire"}, id="cleaned ids"),
        ],
    )
    def test_names_the_pod_of(self, database: Database, ids: dict[str, Any]) -> None:
        there, sibling = row(state="failed", **ids), row(state="failed", **{**ids, "map_index": 4})
        database.fill([there, sibling])
        database.push(there, pod_name=b'"load-x1"', pod_namespace=b'"airflow"', return_value=b"1")
        database.push(sibling, pod_name=b'"load-x2"', pod_namespace=b'"airflow"')
        assert record(database, there) == Record(frozenset({"airflow/load-x1"}))

    @pytest.mark.parametrize("values", [{}, {"return_value": b'"load-x1"'}], ids=["no XCom", "another XCom"])
    def test_is_none_without(self, database: Database, values: dict[str, bytes]) -> None:
        database.fill([row()])
        database.push(row(), **values)
        assert record(database, row()) is None

    @pytest.mark.parametrize(
        "value",
        [
            pytest.param(b'"load-x1"', id="bytes of JSON"),
            pytest.param(b'"\\"load-x1\\""', id="JSON of JSON"),
            pytest.param(b"load-x1", id="what the driver has decoded"),
        ],
    )
    def test_is_read_from(self, database: Database, value: bytes) -> None:
        database.fill([row()])
        database.push(row(), pod_name=value, pod_namespace=b'"airflow"')
        assert record(database, row()) == Record(frozenset({"airflow/load-x1"}))

    @pytest.mark.parametrize(
        ("values", "problem"),
        [
            pytest.param({"pod_name": b'"a"'}, "it has no XCom pod_namespace beside the other one", id="half a pair"),
            pytest.param(
                {"pod_namespace": b'"a"'}, "it has no XCom pod_name beside the other one", id="its other half"
            ),
            pytest.param(
                {"pod_name": pickle.dumps("load-x1"), "pod_namespace": pickle.dumps("airflow")},
                "its XCom pod_name cannot be read: it is pickled or encoded in another way",
                id="pickles",
            ),
            pytest.param(
                {"pod_name": b'"load-x1', "pod_namespace": b'"airflow"'},
                "its XCom pod_name cannot be read: it is pickled or encoded in another way",
                id="half of JSON",
            ),
            pytest.param(
                {"pod_name": b'"s3://xcoms/token=SECRET"', "pod_namespace": b'"airflow"'},
                "its XCom pod_name is no name in Kubernetes: 's3://xcoms/t…'",
                id="a reference of a custom backend",
            ),
            pytest.param(
                {"pod_name": b'"Load"', "pod_namespace": b'"airflow"'},
                "its XCom pod_name is no name in Kubernetes: 'Load'",
                id="capital letters",
            ),
            pytest.param(
                {"pod_name": b'"a"', "pod_namespace": b'""'},
                "its XCom pod_namespace is no name in Kubernetes: ''",
                id="an empty name",
            ),
            pytest.param(
                {"pod_name": None, "pod_namespace": b'"a"'},
                "its XCom pod_name is no name in Kubernetes but a NoneType",
                id="nothing",
            ),
        ],
    )
    def test_has_a_problem_with(self, database: Database, values: dict[str, bytes | None], problem: str) -> None:
        database.fill([row()])
        database.push(row(), **values)
        assert record(database, row()) == Record(problem=problem)

    def test_has_the_pods_of_all_that_share_a_key(self, database: Database) -> None:
        odd, label = row(ODD_ID), row(to_label_value(ODD_ID))
        database.fill([odd, label])
        database.push(odd, pod_name=b'"odd"', pod_namespace=b'"airflow"')
        assert record(database, odd, label) == Record(frozenset({"airflow/odd"}))
        database.push(label, pod_name=b'"label"', pod_namespace=b'"other"')
        assert record(database, odd, label) == Record(frozenset({"airflow/odd", "other/label"}))

    def test_of_many_is_read_in_chunks(self, database: Database) -> None:
        rows = [row(map_index=index) for index in range(sql_source.CHUNK + 1)]
        database.fill(rows)
        for each in rows:
            database.push(each, pod_name=f'"pod-{each.map_index}"'.encode(), pod_namespace=b'"airflow"')
        answer = database.source.fetch([each.key for each in rows])
        database.statements.clear()
        records = database.source.read_records(answer, list(answer.found))
        assert records == {each.key: Record(frozenset({f"airflow/pod-{each.map_index}"})) for each in rows}
        assert len(database.statements) == 2

    def test_is_an_error_where_the_table_is_not_there(self, database: Database) -> None:
        database.fill([row()])
        answer = database.source.fetch([row().key])
        database.drop()
        with pytest.raises(TaskInstanceSourceError, match="no such table: xcom"):
            database.source.read_records(answer, [row().key])
