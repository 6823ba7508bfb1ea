"""A metadata database with a long history: synthetic DAG runs and task instances in Airflow's own tables."""

from __future__ import annotations

import hashlib
import io
import itertools
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from random import Random
from typing import Any

from sqlalchemy import column, insert, inspect, table, text
from sqlalchemy.engine import Connection, Engine

from include.kpo_cleanup.identity import UNMAPPED, TaskInstanceKey, make_key
from include.kpo_cleanup.task_instance import CallerTaskInstance
from tests.rest.database import FILLING

DAGS = 250
DAGS_WITH_PODS = 200
# The task instances of each run, and those that run in pods.
TASKS = [*((f"transform_{number}", UNMAPPED) for number in range(8)), ("export", 0), ("export", 1)]
POD_TASKS = [*TASKS[:3], *TASKS[-2:]]
ROWS_PER_RUN = DAGS * len(TASKS)  # task instances when every DAG has run once
LATEST = datetime(2026, 11, 20, 6, tzinfo=UTC)
UNFINISHED = ["running", "queued", None, "deferred", "up_for_retry", "running", "scheduled", None, "running", "queued"]
BATCH = 5_000
NAMESPACE = "airflow"  # of all pods


def keys_of_pods(runs: int) -> frozenset[TaskInstanceKey]:
    """Return the keys of the pods in the latest runs of 200 DAGs, five per run; the newest run is still running."""
    return frozenset(
        make_key(_dag_id(dag), task_id, _run_id(run), map_index)
        for dag in range(DAGS_WITH_PODS)
        for run in range(runs)
        for task_id, map_index in POD_TASKS
    )


@dataclass(frozen=True)
class Pod:
    """A pod of the history, which its record names."""

    key: TaskInstanceKey
    name: str
    created: int  # epoch seconds


def pods_of_finished_runs(count: int) -> list[Pod]:
    """Return this many pods of the latest finished runs."""
    every = (
        Pod(
            make_key(dag_id, task_id, _run_id(run), map_index),
            hashlib.md5(f"{dag_id} {task_id} {map_index} {_run_id(run)}".encode()).hexdigest(),  # as in `add_records`
            int(_date(run).timestamp()),
        )
        for run in itertools.count(1)
        for dag_id in map(_dag_id, range(DAGS_WITH_PODS))
        for task_id, map_index in POD_TASKS
    )
    return list(islice(every, count))


def random_keys(count: int, runs: int) -> frozenset[TaskInstanceKey]:
    """Return a random but reproducible sample of the keys of all pods in these runs."""
    return frozenset(Random(0).sample(sorted(keys_of_pods(runs)), count))


def find_caller(connection: Connection) -> CallerTaskInstance:
    """Return a running task instance of the history, to be used as the caller."""
    caller = CallerTaskInstance(_dag_id(0), "transform_0", _run_id(0), UNMAPPED)
    if "id" not in {column["name"] for column in inspect(connection).get_columns("task_instance")}:
        return caller
    query = text("SELECT id FROM task_instance WHERE dag_id = :dag_id AND task_id = :task_id AND run_id = :run_id")
    return caller._replace(id=str(connection.execute(query, caller._asdict()).scalar()))


def add_runs(engine: Engine, rows_before: int, rows: int) -> None:
    """Add older DAG runs until the history has `rows` task instances.

    :param rows_before: the number of task instances so far; like `rows`, a multiple of `ROWS_PER_RUN`.
    """
    runs = range(rows_before // ROWS_PER_RUN, rows // ROWS_PER_RUN)
    columns = {column["name"] for column in inspect(engine).get_columns("dag_run")}
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SET LOCAL session_replication_role = replica"))  # skips foreign key checks
        _insert(connection, "dag_run", ({k: v for k, v in run.items() if k in columns} for run in _dag_runs(runs)))
        columns = {column["name"] for column in inspect(engine).get_columns("task_instance")}
        _insert(connection, "task_instance", _task_instances(runs, has_id="id" in columns))
    _analyze(engine)


def add_dags(engine: Engine) -> None:
    """Add the DAGs and their bundle, without which the REST API of Airflow 3 returns none of their task instances."""
    columns = [column["name"] for column in inspect(engine).get_columns("dag")]
    defaults = {name: FILLING[name] for name in columns if name in FILLING}
    with engine.begin() as connection:
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        connection.execute(text("INSERT INTO dag_bundle (name) VALUES (:bundle_name)"), FILLING)
        _insert(connection, "dag", ({**defaults, "dag_id": _dag_id(dag)} for dag in range(DAGS)))


def add_records(engine: Engine) -> None:
    """Add a record for every task instance: the operator's two XComs, which name its pod."""
    value_type = next(each["type"] for each in inspect(engine).get_columns("xcom") if each["name"] == "value")
    statement = f"""
        INSERT INTO xcom (dag_run_id, dag_id, task_id, run_id, map_index, key, value, timestamp)
        SELECT run.id, ti.dag_id, ti.task_id, ti.run_id, ti.map_index, record.key,
            CAST('"' || coalesce(
                record.value, md5(concat_ws(' ', ti.dag_id, ti.task_id, ti.map_index, ti.run_id))
            ) || '"' AS {value_type}), now()
        FROM task_instance AS ti JOIN dag_run AS run USING (dag_id, run_id)
        CROSS JOIN (VALUES ('pod_name', NULL), ('pod_namespace', '{NAMESPACE}')) AS record (key, value)
    """
    with engine.begin() as connection:
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        connection.execute(text(statement))
    _analyze(engine)


def _dag_id(dag: int) -> str:
    return f"team_{dag % 16:02d}.orders_to_warehouse_{dag:04d}"


def _date(run: int) -> datetime:
    return LATEST - timedelta(hours=run)


def _run_id(run: int) -> str:
    return f"scheduled__{_date(run).isoformat()}"


def _dag_runs(runs: Iterable[int]) -> Iterator[dict[str, Any]]:
    for run in runs:
        for dag in range(DAGS):
            yield {
                "dag_id": _dag_id(dag),
                "run_id": _run_id(run),
                "run_type": "scheduled",
                "state": "success" if run else "running",
                "execution_date": _date(run),  # Airflow 2
                "logical_date": _date(run),  # Airflow 3
                "run_after": _date(run),  # Airflow 3
                "clear_number": 0,
            }


def _task_instances(runs: Iterable[int], has_id: bool) -> Iterator[dict[str, Any]]:
    for run in runs:
        ended = _date(run) + timedelta(minutes=30)
        for dag in range(DAGS):
            for number, (task_id, map_index) in enumerate(TASKS):
                draw = (31 * dag + 7 * run + number) % 50
                finished = {0: "failed", 1: "skipped", 2: "upstream_failed"}.get(draw, "success")
                yield {
                    "dag_id": _dag_id(dag),
                    "task_id": task_id,
                    "run_id": _run_id(run),
                    "map_index": map_index,
                    "state": finished if run else UNFINISHED[number],
                    "try_number": 1,
                    "end_date": ended if run else None,
                    "operator": "KubernetesPodOperator",
                    "pool": "default_pool",
                    "pool_slots": 1,
                    "max_tries": 2,
                    "hostname": "worker-0.worker.airflow.svc",
                    "start_date": _date(run),
                    **({"id": uuid.uuid4().hex, "span_status": "not_started"} if has_id else {}),
                }


def _analyze(engine: Engine) -> None:
    analyze = "ANALYZE TABLE task_instance, dag_run, xcom" if engine.dialect.name == "mysql" else "ANALYZE"
    with engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").execute(text(analyze))


def _insert(connection: Connection, name: str, rows: Iterator[dict[str, Any]]) -> None:
    while batch := list(islice(rows, BATCH)):
        names = list(batch[0])
        if connection.dialect.driver == "psycopg2":
            lines = "".join("\t".join("\\N" if v is None else str(v) for v in row.values()) + "\n" for row in batch)
            cursor = connection.connection.cursor()
            cursor.copy_expert(f"COPY {name} ({', '.join(names)}) FROM STDIN", io.StringIO(lines))
        else:
            connection.execute(insert(table(name, *map(column, names))), batch)
