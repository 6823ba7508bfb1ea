"""Database rows for pods in Airflow 2 or 3: runs, task instances, and records (the operator's XComs)."""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import MetaData, Table, create_engine, insert, select, text
from sqlalchemy.engine import Connection

from bench.pod_template import ids_of, name_of
from demo.airflow_settings import IS_AIRFLOW_3
from include.kpo_cleanup.identity import UNMAPPED

TABLES = ("dag_run", "task_instance", "xcom")


def insert_rows(database_url: str, namespace: str, numbers: Iterable[int], failed: Collection[int]) -> None:
    """Insert the rows for the pods with these numbers; their task instances are running, or have just failed."""
    engine, numbers = create_engine(database_url), list(numbers)
    metadata = MetaData()
    metadata.reflect(engine, only=TABLES)
    runs, task_instances, xcoms = (metadata.tables[name] for name in TABLES)
    with engine.begin() as connection:
        _insert(connection, runs, map(_run, numbers))
        _insert(connection, task_instances, (_task_instance(number, number in failed) for number in numbers))
        found = connection.execute(select(runs.c.dag_id, runs.c.run_id, runs.c.id))
        run_ids = {(dag_id, run_id): number for dag_id, run_id, number in found}
        _insert(connection, xcoms, (row for number in numbers for row in _records(number, namespace, run_ids)))
        connection.execute(text("ANALYZE"))
    engine.dispose()


def _run(number: int) -> dict[str, Any]:
    ids = ids_of(number)
    date = datetime.fromisoformat(ids["run_id"].partition("__")[2])
    return {
        "dag_id": ids["dag_id"],
        "run_id": ids["run_id"],
        "run_type": "scheduled",
        "state": "running",
        "execution_date": date,  # Airflow 2
        "logical_date": date,  # Airflow 3
        "run_after": date,  # Airflow 3
        "clear_number": 0,
    }


def _task_instance(number: int, has_failed: bool) -> dict[str, Any]:
    return {
        **ids_of(number),
        "id": uuid.uuid4(),  # Airflow 3
        "map_index": UNMAPPED,
        "state": "failed" if has_failed else "running",
        "try_number": 1,
        "max_tries": 0,
        "end_date": datetime.now(UTC) if has_failed else None,
        "operator": "KubernetesPodOperator",
        "pool": "pods",  # not the default pool, whose slots the cleanup's own tasks need
        "pool_slots": 1,
        "hostname": "worker-0",
        "span_status": "not_started",  # Airflow 3
    }


def _records(number: int, namespace: str, run_ids: Mapping[tuple[str, str], int]) -> Iterator[dict[str, Any]]:
    ids = ids_of(number)
    for key, value in (("pod_name", name_of(number)), ("pod_namespace", namespace)):
        yield {
            **ids,
            "dag_run_id": run_ids[ids["dag_id"], ids["run_id"]],
            "map_index": UNMAPPED,
            "key": key,
            "value": value if IS_AIRFLOW_3 else json.dumps(value).encode(),
            "timestamp": datetime.now(UTC),
        }


def _insert(connection: Connection, table: Table, rows: Iterable[Mapping[str, Any]]) -> None:
    """Insert rows, leaving out columns that this Airflow version does not have."""
    connection.execute(insert(table), [{name: row[name] for name in row if name in table.c} for row in rows])
