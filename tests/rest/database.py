"""The metadata database of the API servers, which tests fill directly."""

from __future__ import annotations

import json
import pickle
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from tests.unit.worlds import Row

# The calling task instance, which is running in every database.
CALLER = Row("kpo_cleanup", "fetch_active_tis", "scheduled__2026-11-24T11:30:00+00:00", -1, "running")

NOW = "2026-11-24 11:30:15.500000"
ENDED = int(datetime(2026, 11, 24, 11, 30, 15, tzinfo=UTC).timestamp())
# Values of mandatory columns that no test depends on.
FILLING = {
    "bundle_name": "dags-folder",
    "executor_config": pickle.dumps({}),
    "fileloc": "dag.py",
    "has_task_concurrency_limits": False,
    "is_paused": False,
    "is_stale": False,
    "max_active_tasks": 1,
    "max_consecutive_failed_dag_runs": 1,
    "partition_mapper_info": "{}",
    "pool": "default_pool",
    "pool_slots": 1,
    "priority_weight": 1,
    "queue": "default",
    "run_after": NOW,
    "run_type": "manual",
    "timestamp": NOW,
    "timetable_type": "",
}


class Database:
    """An SQLite database with the schema of `airflow db migrate`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def fill(self, rows: Iterable[Row], **columns: Any) -> None:
        """Replace the content with these task instances, their DAGs and runs, and the caller."""
        rows = [CALLER, *rows]
        runs = {run: number for number, run in enumerate(sorted({(row.dag_id, row.run_id) for row in rows}), 1)}
        self.execute(*(f"DELETE FROM {table}" for table in ("xcom", "task_instance", "dag_run", "dag", "log")))
        self.execute("INSERT OR IGNORE INTO dag_bundle (name) VALUES ('dags-folder')")
        self.add_dags(*{row.dag_id for row in rows})
        self._insert(
            "dag_run",
            ({"id": number, "dag_id": dag, "run_id": run, "state": "running"} for (dag, run), number in runs.items()),
        )
        self.add(*rows, **columns)

    def add(self, *rows: Row, **columns: Any) -> None:
        """Add task instances of existing runs."""
        values = {"try_number": 2, "max_tries": 3, "end_date": NOW, "operator": "Mine", **columns}
        self._insert("task_instance", ({"id": self._new_id(), **row._asdict(), **values} for row in rows))

    def add_dags(self, *dag_ids: str, **columns: Any) -> None:
        self._insert("dag", ({"dag_id": dag_id, **columns} for dag_id in dag_ids))

    def add_xcom(self, row: Row, key: str, value: Any) -> None:
        """Add an XCom of a task instance in the form in which `xcom_push` stores it."""
        ids = {"dag_id": row.dag_id, "task_id": row.task_id, "run_id": row.run_id, "map_index": row.map_index}
        run = self.query("SELECT id FROM dag_run WHERE dag_id = ? AND run_id = ?", row.dag_id, row.run_id)
        self._insert("xcom", [{**ids, "dag_run_id": run[0][0], "key": key, "value": json.dumps(value)}])

    def retry(self, row: Row) -> None:
        """Start a new try of a task instance, which changes its `id`."""
        self.execute(
            f"UPDATE task_instance SET id = '{self._new_id()}', try_number = try_number + 1 "
            "WHERE dag_id = ? AND task_id = ? AND run_id = ? AND map_index = ?",
            parameters=row[:4],
        )

    def remove(self, row: Row) -> None:
        where = "dag_id = ? AND task_id = ? AND run_id = ? AND map_index = ?"
        self.execute(f"DELETE FROM task_instance WHERE {where}", parameters=row[:4])

    def id_of(self, row: Row) -> str:
        where = "dag_id = ? AND task_id = ? AND run_id = ? AND map_index = ?"
        found = self.query(f"SELECT id FROM task_instance WHERE {where}", *row[:4])[0][0]
        return str(UUID(found))

    def query(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self._path, timeout=60)) as connection:
            return connection.execute(sql, parameters).fetchall()

    def execute(self, *statements: str, parameters: tuple[Any, ...] = ()) -> None:
        with closing(sqlite3.connect(self._path, timeout=60)) as connection, connection:
            for statement in statements:
                connection.execute(statement, parameters)

    def _insert(self, table: str, rows: Iterable[Mapping[str, Any]]) -> None:
        filling = {name: FILLING[name] for name in self._columns[table] if name in FILLING}
        whole = [{**filling, **row} for row in rows]
        if whole:
            names = ", ".join(whole[0])
            places = ", ".join(f":{name}" for name in whole[0])
            with closing(sqlite3.connect(self._path, timeout=60)) as connection, connection:
                connection.executemany(f"INSERT INTO {table} ({names}) VALUES ({places})", whole)

    @cached_property
    def _columns(self) -> dict[str, list[str]]:
        tables = ("dag", "dag_run", "task_instance", "xcom")
        return {table: [name for _, name, *_ in self.query(f"PRAGMA table_info({table})")] for table in tables}

    @cached_property
    def _has_short_ids(self) -> bool:
        return ("CHAR(32)",) in self.query("SELECT type FROM pragma_table_info('task_instance') WHERE name = 'id'")

    def _new_id(self) -> str:
        return uuid4().hex if self._has_short_ids else str(uuid4())
