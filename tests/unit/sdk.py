"""The ``ti`` of a running task, with simulated answers of the API server; ``tests/dag`` uses the real one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from random import Random
from types import SimpleNamespace
from typing import Any

from tests.unit.worlds import Row, api_server

MICROSECOND = timedelta(microseconds=1)


class Refusal(Exception):
    """An ``AirflowRuntimeError``: the API server responded with this status, or not at all."""

    def __init__(self, status: int | None) -> None:
        super().__init__(f"API_SERVER_ERROR {status}")
        self.error = SimpleNamespace(detail={"status_code": status})


class StatesOnly:
    """The ``ti`` of Airflow 3.0 and 3.1.

    :param rows: the database, which may change.
    :param requests: is extended by the requests for states.
    """

    def __init__(
        self, rows: Iterable[Row], random: Random | None = None, requests: list[dict[str, Any]] | None = None
    ) -> None:
        self.rows = list(rows)
        self._random, self._requests = random or Random(0), requests

    def get_task_states(self, **query: Any) -> dict[str, dict[str, str | None]]:
        return api_server(self.rows, self._random, self._requests)(**query)

    def get_ti_count(self, dag_id: str, task_ids: list[str] | None, map_index: int, states: list[str] | None) -> int:
        return sum(
            row.dag_id == dag_id
            and (not task_ids or row.task_id in task_ids)
            and (map_index < 0 or row.map_index == map_index)
            and (not states or row.state in states)
            for row in self.rows
        )


class TaskSdk(StatesOnly):
    """The ``ti`` of Airflow 3.2 and later.

    :param logical_dates: by run_id; the other runs have none.
    """

    def __init__(
        self,
        rows: Iterable[Row],
        logical_dates: Mapping[str, datetime],
        random: Random | None = None,
        requests: list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(rows, random, requests)
        self._dates = logical_dates
        self.log: list[Any] = []  # the queries about single task instances and runs

    def model_copy(self, *, update: dict[str, str]) -> Any:
        def get_previous_ti(state: str | None, logical_date: datetime, map_index: int) -> Any:
            self.log.append((update["task_id"], map_index))
            wanted = (update["dag_id"], update["task_id"], map_index)
            earlier = [
                (self._dates[row.run_id], row)
                for row in self.rows
                if (row.dag_id, row.task_id, row.map_index) == wanted and state in (None, row.state)
                if row.run_id in self._dates and self._dates[row.run_id] < logical_date
            ]
            if not earlier:
                return None
            _, row = max(earlier)
            return SimpleNamespace(**row._asdict())

        return SimpleNamespace(get_previous_ti=get_previous_ti)

    get_previous_ti = None  # shows the release

    def dag_run(self, dag_id: str, run_id: str) -> Any:
        """Answer the message ``GetDagRun``."""
        self.log.append(run_id)
        if not any((row.dag_id, row.run_id) == (dag_id, run_id) for row in self.rows):
            raise Refusal(404)
        return SimpleNamespace(logical_date=self._dates.get(run_id))
