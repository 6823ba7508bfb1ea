"""The rows of Airflow's own tables, read from PostgreSQL directly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from include.kpo_cleanup.constants import FINISHED_STATES


@dataclass(frozen=True)
class Row:
    """A task instance."""

    task_id: str
    run_id: str
    map_index: int
    state: str | None
    try_number: int
    pid: int | None

    @property
    def name(self) -> str:
        return self.task_id if self.map_index < 0 else f"{self.task_id}[{self.map_index}]"

    @property
    def is_over(self) -> bool:
        return self.state in FINISHED_STATES


@dataclass(frozen=True)
class Run:
    """A DAG run."""

    run_id: str
    run_type: str
    state: str

    @property
    def is_over(self) -> bool:
        return self.state in ("success", "failed")


class Records:
    """A reader of Airflow's tables; each call is a transaction of its own."""

    def __init__(self, url: str) -> None:
        self._engine = create_engine(url, poolclass=NullPool)

    def now(self) -> Any:
        """Return the time of the database."""
        return self.query("SELECT now()")[0][0]

    def task_instances(self, dag_id: str) -> list[Row]:
        columns = ", ".join(Row.__annotations__)
        return [Row(*row) for row in self.query(f"SELECT {columns} FROM task_instance WHERE dag_id = :id", id=dag_id)]

    def runs(self, dag_id: str, since: Any = None) -> list[Run]:
        """Return the runs of a DAG.

        :param since: only those that were created after this time of the database.
        """
        columns = ", ".join(Run.__annotations__)
        after = "queued_at > :since" if since else "true"
        sql = f"SELECT {columns} FROM dag_run WHERE dag_id = :id AND {after}"
        return [Run(*row) for row in self.query(sql, id=dag_id, **({"since": since} if since else {}))]

    def results(self, dag_id: str) -> set[tuple[str, str]]:
        """Return the run and the task of each return value."""
        sql = "SELECT run_id, task_id FROM xcom WHERE dag_id = :id AND key = 'return_value'"
        return {(run_id, task_id) for run_id, task_id in self.query(sql, id=dag_id)}

    def are_idle(self, *dag_ids: str) -> bool:
        """Return whether all runs of these DAGs have finished."""
        return all(run.is_over for dag_id in dag_ids for run in self.runs(dag_id))

    def execute(self, sql: str) -> None:
        with self._engine.begin() as connection:
            connection.execute(text(sql))

    def query(self, sql: str, **values: Any) -> list[Any]:
        with self._engine.connect() as connection:
            return list(connection.execute(text(sql), values))
