"""The metadata database as a source: the batch query on an SQLite database, and the correctness of its answers."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, given, settings
from sqlalchemy import Column, DateTime, Index, Integer, LargeBinary, MetaData, String, Table, create_engine
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import StaticPool

from bench.queries import plan_of, recorded
from include.kpo_cleanup.airflow_compat import AIRFLOW_RELEASE
from include.kpo_cleanup.errors import TaskInstanceSourceError
from include.kpo_cleanup.identity import UNMAPPED, make_key, to_label_value
from include.kpo_cleanup.task_instance import CallerTaskInstance, RawIds, Record, TaskInstance, TaskInstances
from include.kpo_cleanup.task_instances import sql as sql_source
from include.kpo_cleanup.task_instances.sql import SqlSource
from include.kpo_cleanup.workloads.registry import KINDS
from tests.unit.worlds import (
    HASHED_DAG_IDS,
    HOSTILE_IDS,
    ODD_ID,
    PLAIN_DAG_IDS,
    SCHEDULED,
    Row,
    World,
    assert_correct_answer,
    worlds,
)

METADATA = MetaData()
# Columns of Airflow's own tables: those that are read, one that is not, and Airflow's indexes.
TASK_INSTANCE = Table(
    "task_instance",
    METADATA,
    Column("dag_id", String(250), primary_key=True),
    Column("task_id", String(250), primary_key=True),
    Column("run_id", String(250), primary_key=True),
    Column("map_index", Integer, primary_key=True),
    Column("state", String(50)),  # wide enough for states of a later Airflow
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

CALLER = CallerTaskInstance("cleanup", "reap", "now", UNMAPPED, "0197f0a2-5b1c-7d3e-8f90-a1b2c3d4e5f6")
CALLER_ROW = {**CALLER._asdict(), "state": "running"}

ENDED = datetime(2026, 11, 24, 11, 30, 15, 500_000)
ENDED_EPOCH = int(ENDED.replace(tzinfo=UTC).timestamp())
CALLER_QUERY = "SELECT task_instance.state, id "


class Database:
    """An Airflow metadata database with the rows of a test only."""

    def __init__(self, engine: Engine | None = None) -> None:
        self.engine = engine or create_engine(
            "sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False}
        )
        METADATA.create_all(self.engine)
        self.statements: list[str] = []
        self.rows_read = 0

    def fill(self, rows: Iterable[Row]) -> None:
        rows = list(rows)
        runs = sorted({(row.dag_id, row.run_id) for row in rows})
        with self.engine.begin() as connection:
            connection.execute(TASK_INSTANCE.delete())
            connection.execute(DAG_RUN.delete())
            if rows:
                values = [{**row._asdict(), "try_number": 2, "end_date": ENDED, "operator": "Mine"} for row in rows]
                connection.execute(TASK_INSTANCE.insert(), values)
                connection.execute(DAG_RUN.insert(), [{"dag_id": dag, "run_id": run} for dag, run in runs])
            connection.execute(TASK_INSTANCE.insert(), [CALLER_ROW])
            connection.execute(XCOM.delete())

    def push(self, row: Row, **values: bytes | None) -> None:
        """Store XComs of a task instance."""
        dag_id, task_id, run_id, map_index, *_ = row
        ids = {"dag_id": dag_id, "task_id": task_id, "run_id": run_id, "map_index": map_index}
        with self.engine.begin() as connection:
            for key, value in values.items():
                connection.execute(XCOM.insert(), {**ids, "key": key, "value": value})

    def change_caller(self, **values: Any) -> None:
        """Change the calling task instance."""
        with self.engine.begin() as connection:
            connection.execute(TASK_INSTANCE.update().where(TASK_INSTANCE.c.dag_id == CALLER.dag_id), values)

    def drop(self) -> None:
        METADATA.drop_all(self.engine)

    @contextmanager
    def connect(self) -> Iterator[Any]:
        with self.engine.connect() as connection:

            def execute(statement: Any, *parameters: Any) -> Any:
                result = connection.execute(statement, *parameters).freeze()
                if not str(statement).startswith(CALLER_QUERY):
                    self.statements.append(str(statement))
                    self.rows_read += len(result.data)
                return result()

            yield SimpleNamespace(execute=execute, dialect=connection.dialect)

    @property
    def source(self) -> SqlSource:
        return SqlSource(self.connect, CALLER, "test")


@pytest.fixture
def database() -> Database:
    return Database()


@pytest.fixture(scope="module")
def shared_database() -> Database:
    """Return a database for property tests, which fill it anew for each example."""
    return Database()


def row(task_id: str = "a", map_index: int = UNMAPPED, state: str | None = "running", **ids: str) -> Row:
    return Row(ids.get("dag_id", "orders"), task_id, ids.get("run_id", SCHEDULED), map_index, state)


def states(answer: TaskInstances) -> dict[Any, str | None]:
    return {key: ti.state for key, ti in answer.found.items()}


# Unlike the Task SDK, SQL finds hashed dag_ids, even if another dag_id equals the label value.
ALL_DAG_IDS = (*PLAIN_DAG_IDS, *HASHED_DAG_IDS, *map(to_label_value, HASHED_DAG_IDS))


@given(world=worlds(dag_ids=ALL_DAG_IDS))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_answer_is_correct_in_every_world(shared_database: Database, world: World) -> None:
    shared_database.fill(world.rows)
    answer = shared_database.source.fetch(world.keys)
    assert_correct_answer(world, answer)
    assert not answer.unresolved


class TestFetch:
    @pytest.mark.parametrize("state", [None, "running", "success", "removed", "a_state_of_a_later_airflow"])
    @pytest.mark.parametrize("ids", HOSTILE_IDS)
    def test_a_task_instance_is_found_in_any_state_if(
        self, database: Database, ids: dict[str, Any], state: str | None
    ) -> None:
        existing = row(state=state, **ids)
        database.fill([existing, row("b"), row(run_id="another", state="success")])
        answer = database.source.fetch([existing.key])
        ti = TaskInstance(state, 2, ENDED_EPOCH, "Mine")
        raw_ids = {existing.key: (RawIds(*existing[:3]),)}
        assert answer == TaskInstances({existing.key: ti}, {}, raw_ids, try_number_may_lag=AIRFLOW_RELEASE < (2, 10))

    def test_a_cleared_task_instance_is_active(self, database: Database) -> None:
        database.fill([row(state=None)])
        assert database.source.fetch([row().key]).found[row().key].is_active

    def test_columns_without_a_value_are_unknown(self, database: Database) -> None:
        database.fill([row(state="success")])
        with database.engine.begin() as connection:
            connection.execute(TASK_INSTANCE.update().values(end_date=None, try_number=None, operator=None))
        assert database.source.fetch([row().key]).found == {row().key: TaskInstance("success")}

    @pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Asia/Tokyo"])
    def test_a_time_is_utc_whatever_the_time_zone_of_the_worker_is(
        self, database: Database, monkeypatch: pytest.MonkeyPatch, zone: str
    ) -> None:
        database.fill([row(state="failed")])
        with monkeypatch.context() as environment:
            environment.setenv("TZ", zone)
            time.tzset()
            answer = database.source.fetch([row().key])
        time.tzset()
        assert answer.found[row().key].ended == ENDED_EPOCH

    @pytest.mark.parametrize(("state", "is_between_tries"), [("running", False), ("deferred", True), ("queued", True)])
    def test_the_try_of_an_active_task_instance_is_the_current_one(
        self, database: Database, state: str, is_between_tries: bool
    ) -> None:
        database.fill([row(state=state)])
        expected = 3 if is_between_tries and AIRFLOW_RELEASE < (2, 10) else 2
        assert database.source.fetch([row().key]).found[row().key].try_number == expected

    def test_a_task_instance_that_does_not_exist_is_absent(self, database: Database) -> None:
        database.fill([row()])
        keys = [
            make_key("orders", "b", SCHEDULED, UNMAPPED),
            make_key("orders", "a", SCHEDULED, 0),
            make_key("x", "y", "z", 0),
        ]
        answer = database.source.fetch(keys)
        assert (answer.found, answer.unresolved, answer.raw_ids) == ({}, {}, {})

    def test_the_active_one_decides_if_two_dag_ids_have_the_same_label_value(self, database: Database) -> None:
        odd = "commandes_à_faire"
        database.fill([row(dag_id=odd, state="running"), row(dag_id=to_label_value(odd), state="success")])
        key = row(dag_id=odd).key
        answer = database.source.fetch([key])
        assert states(answer) == {key: "running"}
        assert [ids.dag_id for ids in answer.raw_ids[key]] == [to_label_value(odd), odd]


class TestQuery:
    def test_no_query_is_sent_if_there_are_no_keys(self, database: Database) -> None:
        assert database.source.fetch([]) == TaskInstances()
        assert database.statements == []

    def test_one_query_is_sent_for_many_dags_if_the_run_ids_are_default_ones(self, database: Database) -> None:
        rows = [
            row(f"t{task}", dag_id=f"dag{dag}", state=state)
            for dag in range(20)
            for task, state in enumerate(["success", "running", None])
        ]
        database.fill(rows)
        assert states(database.source.fetch([each.key for each in rows])) == {each.key: each.state for each in rows}
        assert len(database.statements) == 1

    def test_only_the_tasks_and_runs_of_the_keys_are_read(self, database: Database) -> None:
        backfill = [
            row(task, run_id=f"scheduled__2025-01-{day:02d}T00:00:00+00:00", state=state)
            for day in range(1, 29)
            for task, state in (("a", "running"), ("b", None), ("c", "success"))
        ]
        database.fill([*backfill, row("b"), row(state="failed"), row(dag_id="invoices")])
        assert states(database.source.fetch([row().key])) == {row().key: "failed"}
        assert database.rows_read == 1

    @pytest.mark.parametrize("task_id", ["a", ODD_ID])
    def test_the_index_of_runs_is_used(self, database: Database, task_id: str) -> None:
        database.fill([row(task_id)])
        with database.engine.connect() as connection, recorded(connection) as statements:
            SqlSource(lambda: nullcontext(connection), CALLER, "test").fetch([row(task_id).key])
            plan = plan_of(connection, statements)
        for line in plan.splitlines():
            assert re.search(r"SEARCH task_instance USING INDEX .*\(dag_id=\? AND (task_id=\? AND )?run_id=\?", line)

    def test_two_tables_are_read_and_none_is_written(self, database: Database) -> None:
        database.fill([row(run_id="my run!", dag_id="commandes_à_faire")])
        database.source.fetch([row(run_id="my run!", dag_id="commandes_à_faire").key])
        words = " ".join(database.statements).replace("\n", " ").split()
        tables = {after for before, after in itertools.pairwise(words) if before == "FROM"}
        assert tables == {"task_instance", "dag_run"}
        assert not {"INSERT", "UPDATE", "DELETE", "LOCK"} & set(words)

    @pytest.mark.parametrize("beyond", [0, 1])
    def test_many_runs_are_read_in_chunks(self, database: Database, beyond: int) -> None:
        count = 2 * (sql_source.CHUNK // 2) + beyond  # each rebuilt run_id is queried along with its label value
        rows = [
            row(run_id=f"scheduled__2026-11-24T00:00:00.{number:06d}+00:00", state="success" if number % 2 else None)
            for number in range(1, count + 1)
        ]
        database.fill(rows)
        assert states(database.source.fetch([each.key for each in rows])) == {each.key: each.state for each in rows}
        assert len(database.statements) == 2 + beyond


class TestErrors:
    def test_a_failed_query_is_an_error_with_the_privileges_that_are_needed(self, database: Database) -> None:
        database.drop()
        with pytest.raises(TaskInstanceSourceError) as caught:
            database.source.fetch([row().key])
        assert caught.value.summary == "task instances could not be read from test"
        assert "no such table: task_instance" in caught.value.cause
        assert caught.value.remedy.endswith("grant SELECT on task_instance, dag_run, xcom")

    def test_a_database_that_does_not_exist_is_an_error(self) -> None:
        engine = create_engine("sqlite:////nonexistent/airflow.db")

        @contextmanager
        def connect() -> Iterator[Connection]:
            with engine.connect() as connection:
                yield connection

        with pytest.raises(TaskInstanceSourceError, match="could not be read"):
            SqlSource(connect, CALLER, "test").fetch([row().key])

    def test_the_whole_answer_is_an_error_if_a_later_query_fails(self, database: Database) -> None:
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
            SqlSource(connect, CALLER, "test").fetch([each.key for each in rows])


class TestFailingDags:
    """Three DAGs, and the queries for some of them fail."""

    ROWS: ClassVar = [row(dag_id=dag_id) for dag_id in "abc"]

    def fetch(self, database: Database, *failing: str) -> TaskInstances:
        database.fill(self.ROWS)

        @contextmanager
        def connect() -> Iterator[Any]:
            with database.connect() as connection:

                def execute(statement: Any, *parameters: Any) -> Any:
                    if any(value in failing for value in statement.compile().params.values()):
                        raise OperationalError("SELECT", {}, Exception("statement timeout"))
                    return connection.execute(statement, *parameters)

                yield SimpleNamespace(execute=execute, dialect=connection.dialect)

        return SqlSource(connect, CALLER, "test").fetch([each.key for each in self.ROWS])

    @pytest.mark.parametrize("failing", ["a", "b", "c"])
    def test_the_keys_of_a_failing_dag_are_unresolved_with_the_reason(self, database: Database, failing: str) -> None:
        answer = self.fetch(database, failing)
        [unresolved] = [each.key for each in self.ROWS if each.dag_id == failing]
        assert set(answer.found) == set(answer.raw_ids) == {each.key for each in self.ROWS} - {unresolved}
        assert set(answer.unresolved) == {unresolved}
        assert "its DAG could not be queried: (builtins.Exception) statement timeout" in answer.unresolved[unresolved]

    def test_the_query_fails_if_it_fails_for_all_dags(self, database: Database) -> None:
        with pytest.raises(TaskInstanceSourceError, match="statement timeout"):
            self.fetch(database, "a", "b", "c")

    def test_a_caller_that_was_rejected_once_is_not_verified_again(self, database: Database) -> None:
        database.fill(self.ROWS)
        database.change_caller(state="queued")

        @contextmanager
        def connect() -> Iterator[Any]:
            try:
                with database.connect() as connection:
                    yield connection
            finally:
                database.change_caller(state="running")

        with pytest.raises(TaskInstanceSourceError, match="the answers of test were rejected"):
            SqlSource(connect, CALLER, "test").fetch([each.key for each in self.ROWS])


class TestVerification:
    @pytest.mark.parametrize(
        ("changed", "wrong"),
        [
            pytest.param({"dag_id": "other"}, "is missing there", id="does not exist"),
            pytest.param({"run_id": "yesterday"}, "is missing there", id="is that of an earlier run"),
            pytest.param({"map_index": 0}, "is missing there", id="is mapped"),
            pytest.param({"state": "queued"}, "is 'queued' there instead of 'running'", id="is queued"),
            pytest.param({"state": "failed"}, "is 'failed' there instead of 'running'", id="has failed"),
            pytest.param({"state": None}, "is None there instead of 'running'", id="was cleared"),
            pytest.param({"id": "0197"}, f"has id 0197 there instead of {CALLER.id}", id="is that of another try"),
        ],
    )
    def test_answers_are_rejected_if_the_calling_task_instance(
        self, database: Database, changed: dict[str, Any], wrong: str
    ) -> None:
        database.fill([row(state="failed")])
        source = database.source
        assert source.fetch([row().key]).found
        database.change_caller(**changed)
        with pytest.raises(TaskInstanceSourceError, match="the answers of test were rejected") as caught:
            source.fetch([row().key])
        assert caught.value.cause == f"this task, cleanup.reap of run 'now', {wrong}"

    def test_answers_of_an_empty_database_are_rejected(self, database: Database) -> None:
        with pytest.raises(TaskInstanceSourceError, match="is missing there"):
            database.source.fetch([row().key])

    @pytest.mark.parametrize(
        ("variables", "evidence"),
        [
            pytest.param([("read_only", "OFF")], "", id="it is writable"),
            pytest.param([("read_only", "ON")], "read_only=ON", id="it is read-only"),
            pytest.param([("read_only", "NO_LOCK")], "read_only=NO_LOCK", id="it rejects locks as well"),
            pytest.param(
                [("read_only", "OFF"), ("innodb_read_only", "ON")], "innodb_read_only=ON", id="its storage is read-only"
            ),
        ],
    )
    def test_answers_of_mysql_are_accepted_only_if(
        self, database: Database, variables: list[tuple[str, str]], evidence: str
    ) -> None:
        database.fill([row()])

        @contextmanager
        def connect() -> Iterator[Any]:
            with database.connect() as connection:

                def execute(statement: Any, *parameters: Any) -> Any:
                    if str(statement).startswith("SHOW GLOBAL VARIABLES"):
                        return variables
                    return connection.execute(statement, *parameters)

                yield SimpleNamespace(execute=execute, dialect=SimpleNamespace(name="mysql"))

        source = SqlSource(connect, CALLER, "test")
        if not evidence:
            assert source.fetch([row().key]).found
            return
        with pytest.raises(TaskInstanceSourceError, match=rf"test is a read-only replica \({evidence}\)"):
            source.fetch([row().key])

    def test_an_id_that_is_stored_without_dashes_is_accepted(self, database: Database) -> None:
        database.fill([row()])
        database.change_caller(id=str(CALLER.id).replace("-", ""))
        assert database.source.fetch([row().key]).found

    @pytest.mark.parametrize("state", [None, "scheduled", "queued", "running"])
    def test_every_active_state_is_accepted_on_airflow_2(self, database: Database, state: str | None) -> None:
        database.fill([row()])
        database.change_caller(state=state, id=None)
        assert SqlSource(database.connect, CALLER._replace(id=None), "test").fetch([row().key]).found

    @pytest.mark.parametrize("state", ["success", "failed", "removed"])
    def test_finished_states_are_rejected_on_airflow_2(self, database: Database, state: str) -> None:
        database.fill([row()])
        database.change_caller(state=state)
        with pytest.raises(TaskInstanceSourceError, match=f"is '{state}' there instead of 'running'"):
            SqlSource(database.connect, CALLER._replace(id=None), "test").fetch([row().key])


def read_record(database: Database, *rows: Row) -> Record | None:
    """Return the record of the key that these rows share."""
    source, [key] = database.source, {each.key for each in rows}
    return source.read_records(source.fetch([key]), [key]).get(key)


def driver_error(*arguments: Any, **attributes: str) -> Exception:
    """Return an exception of a database driver."""
    error = Exception(*arguments)
    vars(error).update(attributes)
    return error


class TestRecords:
    @pytest.mark.parametrize(
        "ids",
        [
            pytest.param({}, id="is not mapped"),
            pytest.param({"map_index": 3}, id="is mapped"),
            pytest.param({"run_id": "my run!", "task_id": ODD_ID, "dag_id": "commandes_à_faire"}, id="has hashed ids"),
        ],
    )
    def test_a_record_is_read_if_the_task_instance(self, database: Database, ids: dict[str, Any]) -> None:
        existing, sibling = row(state="failed", **ids), row(state="failed", **{**ids, "map_index": 4})
        database.fill([existing, sibling])
        database.push(existing, pod_name=b'"load-x1"', pod_namespace=b'"airflow"', return_value=b"1")
        database.push(sibling, pod_name=b'"load-x2"', pod_namespace=b'"airflow"')
        assert read_record(database, existing) == Record(frozenset({"airflow/load-x1"}))

    @pytest.mark.parametrize(
        "values", [{}, {"return_value": b'"load-x1"'}], ids=["it has no XCom", "it has another XCom"]
    )
    def test_there_is_no_record_if(self, database: Database, values: dict[str, bytes]) -> None:
        database.fill([row()])
        database.push(row(), **values)
        assert read_record(database, row()) is None

    @pytest.mark.parametrize(
        "value",
        [
            pytest.param(b'"load-x1"', id="it is stored as bytes of JSON"),
            pytest.param(b'"\\"load-x1\\""', id="it was encoded twice"),
        ],
    )
    def test_a_record_is_decoded_if(self, database: Database, value: bytes) -> None:
        database.fill([row()])
        database.push(row(), pod_name=value, pod_namespace=b'"airflow"')
        assert read_record(database, row()) == Record(frozenset({"airflow/load-x1"}))

    @pytest.mark.parametrize(
        ("values", "problem"),
        [
            pytest.param({"pod_namespace": b'"a"'}, "its XCom pod_name is missing", id="the name is missing"),
            pytest.param(
                {"pod_name": b'"s3://xcoms/token=SECRET"', "pod_namespace": b'"airflow"'},
                "its XCom pod_name is not a valid Kubernetes name: 's3://xcoms/t…'",
                id="a custom backend stored a reference",
            ),
            pytest.param(
                {"pod_name": b'"Load"', "pod_namespace": b'"airflow"'},
                "its XCom pod_name is not a valid Kubernetes name: 'Load'",
                id="the name has uppercase letters",
            ),
            pytest.param(
                {"pod_name": b'"a"', "pod_namespace": b'""'},
                "its XCom pod_namespace is not a valid Kubernetes name: ''",
                id="the namespace is empty",
            ),
            pytest.param(
                {"pod_name": None, "pod_namespace": b'"a"'},
                "its XCom pod_name is a NoneType, not a Kubernetes name",
                id="the name is null",
            ),
        ],
    )
    def test_a_record_has_a_problem_if(self, database: Database, values: dict[str, bytes | None], problem: str) -> None:
        database.fill([row()])
        database.push(row(), **values)
        assert read_record(database, row()) == Record(problem=problem)

    def test_a_record_has_a_problem_if_its_json_is_incomplete(self, database: Database) -> None:
        database.fill([row()])
        database.push(row(), pod_name=b'"load-x1', pod_namespace=b'"airflow"')
        record = read_record(database, row())
        assert record is not None
        # Airflow 2.7 tries to unpickle it.
        assert re.match("its XCom pod_name cannot be read: (Unterminated string|invalid load key)", record.problem)

    def test_the_record_of_a_job_is_read_from_its_own_xcoms(self, database: Database) -> None:
        database.fill([row()])
        database.push(row(), pod_name=b'"load-x1"', job_name=b'"job-x1"', job_namespace=b'"airflow"', job=b"{}")
        task_instances = database.source.fetch([row().key])
        records = database.source.read_records(task_instances, [row().key], KINDS["Job"].record_keys)
        assert records == {row().key: Record(frozenset({"Job airflow/job-x1"}), is_detached=True)}

    def test_a_record_may_have_no_namespace(self, database: Database) -> None:
        database.fill([row()])
        database.push(row(), pod_name=b'"load-x1"')
        assert read_record(database, row()) == Record(frozenset({"load-x1"}))

    def test_a_record_has_the_pods_of_all_task_instances_that_share_a_key(self, database: Database) -> None:
        odd, label = row(ODD_ID), row(to_label_value(ODD_ID))
        database.fill([odd, label])
        database.push(odd, pod_name=b'"odd"', pod_namespace=b'"airflow"')
        assert read_record(database, odd, label) == Record(frozenset({"airflow/odd"}))
        database.push(label, pod_name=b'"label"', pod_namespace=b'"other"')
        assert read_record(database, odd, label) == Record(frozenset({"airflow/odd", "other/label"}))

    def test_many_records_are_read_in_chunks(self, database: Database) -> None:
        rows = [row(map_index=index) for index in range(sql_source.CHUNK + 1)]
        database.fill(rows)
        for each in rows:
            database.push(each, pod_name=f'"pod-{each.map_index}"'.encode(), pod_namespace=b'"airflow"')
        answer = database.source.fetch([each.key for each in rows])
        database.statements.clear()
        records = database.source.read_records(answer, list(answer.found))
        assert records == {each.key: Record(frozenset({f"airflow/pod-{each.map_index}"})) for each in rows}
        assert len(database.statements) == 2

    @pytest.mark.parametrize(
        ("raised", "is_denied"),
        [
            pytest.param(driver_error(pgcode="42501"), True, id="psycopg2 if the privilege is missing"),
            pytest.param(driver_error(sqlstate="42501"), True, id="psycopg 3 if the privilege is missing"),
            pytest.param(driver_error(1142, "denied"), True, id="a MySQL driver if the privilege is missing"),
            pytest.param(driver_error(1143, "denied"), True, id="a MySQL driver if that of a column is missing"),
            pytest.param(driver_error(pgcode="57014"), False, id="psycopg2 after a timeout"),
            pytest.param(driver_error(2013, "lost"), False, id="a MySQL driver after a lost connection"),
        ],
    )
    def test_only_a_missing_privilege_for_xcoms_is_a_problem_of_each_record_as_reported_by(
        self, database: Database, raised: Exception, is_denied: bool
    ) -> None:
        database.fill([row()])
        answer = database.source.fetch([row().key])

        def execute(*_: Any) -> Any:
            raise OperationalError("SELECT", {}, raised)

        source = SqlSource(lambda: nullcontext(SimpleNamespace(execute=execute)), CALLER, "test")  # type: ignore[arg-type]
        if is_denied:
            problem = "reading xcom from test was denied (grant SELECT on it)"
            assert source.read_records(answer, [row().key]) == {row().key: Record(problem=problem)}
            return
        with pytest.raises(TaskInstanceSourceError, match="could not be read from test"):
            source.read_records(answer, [row().key])

    def test_a_missing_table_is_an_error(self, database: Database) -> None:
        database.fill([row()])
        answer = database.source.fetch([row().key])
        database.drop()
        with pytest.raises(TaskInstanceSourceError, match="no such table: xcom"):
            database.source.read_records(answer, [row().key])
