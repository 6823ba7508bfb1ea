"""Tries and ends from the real Task SDK, compared with the database: SDK, protocol and API server are Airflow's own.

There is no scheduler, because these are runs of ``airflow dags test``.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from typing import Any, NamedTuple

import pytest
from airflow.models.dagrun import DagRun

from include.kpo_cleanup.airflow_compat import AIRFLOW_RELEASE, IS_AIRFLOW_3
from include.kpo_cleanup.identity import UNMAPPED
from include.kpo_cleanup.task_instance import RawIds, TaskInstance
from include.kpo_cleanup.task_instances.sdk_queries import SdkQueries, fetch_dag_run
from tests.conftest import HOME
from tests.dag import airflow_runs
from tests.proxy import FaultProxy

if not IS_AIRFLOW_3:
    pytest.skip("Airflow 2 has no Task SDK", allow_module_level=True)

DAG_ID = "collisions"  # its tasks are a[0], a[1] and a_1
PLACES = [("a", 0), ("a", 1), ("a_1", UNMAPPED)]
KNOWS_TRIES = AIRFLOW_RELEASE >= (3, 2)


class Runs(NamedTuple):
    earlier: DagRun
    dated: DagRun
    undated: DagRun


class Answers(NamedTuple):
    """What the SDK returned to one task; an exception stands for the answer that it replaced."""

    states: Any
    dated: list[Any]
    counted: list[Any]  # where the history of each task is counted first
    undated: Any
    changed: dict[str, Any]


def in_database(sql: str, *values: Any) -> list[Any]:
    with closing(sqlite3.connect(HOME / "airflow.db", timeout=60)) as database, database:
        return database.execute(sql, values).fetchall()


def task_instance_in_database(task_id: str, run_id: str, map_index: int) -> TaskInstance:
    sql = "SELECT state, try_number, end_date FROM task_instance WHERE task_id = ? AND run_id = ? AND map_index = ?"
    [(state, try_number, end)] = in_database(sql, task_id, run_id, map_index)
    ended = None if end is None else int(datetime.fromisoformat(end).replace(tzinfo=UTC).timestamp())
    return TaskInstance(state, try_number, ended)


@pytest.fixture(scope="module")
def runs(_proxy: FaultProxy) -> Runs:
    """Leave a retried, a cleared and a deferred task instance in one run, and a run that has no logical date."""
    made = Runs(*(airflow_runs.run(DAG_ID) for _ in Runs._fields))
    airflow_runs.set_try(made.dated, "a", 2)
    airflow_runs.set_state(made.dated, "a", None, map_index=1)
    airflow_runs.set_state(made.dated, "a_1", "deferred")
    in_database("UPDATE dag_run SET logical_date = NULL WHERE run_id = ?", made.undated.run_id)
    return made


@pytest.fixture(scope="module")
def answers(runs: Runs) -> Answers:
    """Send all queries from one task, because each run of a DAG takes seconds."""
    returned: list[Answers] = []
    states = [task_instance_in_database(task_id, runs.dated.run_id, index).state for task_id, index in PLACES]

    def ask(context: Any) -> None:
        plain, counting = (SdkQueries(context["ti"], fetch_dag_run, reads_history) for reads_history in (False, True))

        def one(queries: SdkQueries, task_id: str, map_index: int, state: str | None, run: DagRun = runs.dated) -> Any:
            try:
                ids = RawIds(DAG_ID, task_id, run.run_id)
                return queries.with_try_and_end(ids, map_index, TaskInstance(state))
            except Exception as error:  # some tests expect it
                return error

        returned.append(
            Answers(
                plain.states(DAG_ID, ["a"], [runs.dated.run_id]),
                [one(plain, *place, state) for place, state in zip(PLACES, states, strict=True)],
                [one(counting, *place, state) for place, state in zip(PLACES, states, strict=True)],
                one(plain, "a_1", UNMAPPED, "failed", runs.undated),
                {
                    "had another state": one(plain, "a_1", UNMAPPED, "failed"),
                    "has another map index": one(plain, "a", 2, "failed"),
                    "is mapped": one(plain, "a", UNMAPPED, "failed"),
                    "does not exist": one(plain, "gone", UNMAPPED, "failed"),
                },
            )
        )

    airflow_runs.run(DAG_ID, ("a_1", ask))
    return returned[0]


def test_states_match_the_database(runs: Runs, answers: Answers) -> None:
    assert answers.states == {runs.dated.run_id: {"a_0": "failed", "a_1": None}}


def test_tries_and_ends_match_the_database_from_airflow_3_2_on(runs: Runs, answers: Answers) -> None:
    expected = [task_instance_in_database(task_id, runs.dated.run_id, map_index) for task_id, map_index in PLACES]
    assert [(ti.state, ti.try_number) for ti in expected] == [("failed", 2), (None, 2), ("deferred", 1)]
    if not KNOWS_TRIES:
        expected = [TaskInstance(ti.state) for ti in expected]
    assert answers.dated == answers.counted == expected


def test_the_task_instance_of_a_run_without_a_logical_date_stays_as_it_is(answers: Answers) -> None:
    assert answers.undated == TaskInstance("failed")


@pytest.mark.skipif(not KNOWS_TRIES, reason="before Airflow 3.2, the SDK returns states only")
@pytest.mark.parametrize("how", ["had another state", "has another map index", "is mapped", "does not exist"])
def test_no_other_task_instance_is_returned_for_one_that(runs: Runs, answers: Answers, how: str) -> None:
    assert task_instance_in_database("a_1", runs.earlier.run_id, UNMAPPED).state == "failed"  # would be a wrong answer
    assert isinstance(answers.changed[how], LookupError)
