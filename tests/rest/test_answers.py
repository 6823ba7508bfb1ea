"""The answers of the REST API as a source, over real API servers: the truth table of all sources."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from include.kpo_cleanup.errors import TaskInstanceSourceError
from include.kpo_cleanup.identity import UNMAPPED, make_key, to_label_value
from include.kpo_cleanup.task_instance import RawIds, TaskInstance, TaskInstances
from tests import proxy as faults
from tests.proxy import Fault, FaultProxy
from tests.rest.conftest import Connect
from tests.rest.database import ENDED, OWN, Database
from tests.rest.servers import PATH
from tests.unit.worlds import (
    CLEAN_DAG_IDS,
    CLEANED_DAG_IDS,
    HOSTILE_IDS,
    LONG_ID,
    ODD_ID,
    SCHEDULED,
    Row,
    World,
    assert_true_answer,
    worlds,
)

pytestmark = pytest.mark.rest

# Like SQL, it finds cleaned dag_ids, and even tells one from a dag_id that equals its label.
ALL_DAG_IDS = (*CLEAN_DAG_IDS, *CLEANED_DAG_IDS, *map(to_label_value, CLEANED_DAG_IDS))
# The API itself fails on a state that it does not know.
UNKNOWN_STATE = "a_state_of_a_later_airflow"
BATCH = r"POST .*/taskInstances/list$"
LISTS = rf"{BATCH}|POST .*/dagRuns/list$|GET .*/dags\?"


def row(task_id: str = "a", map_index: int = UNMAPPED, state: str | None = "running", **ids: str) -> Row:
    return Row(ids.get("dag_id", "orders"), task_id, ids.get("run_id", SCHEDULED), map_index, state)


def known(world: World) -> World:
    return world._replace(rows=[row for row in world.rows if row.state != UNKNOWN_STATE])


def capped(rows: int) -> Fault:
    """Limit an answer, as a server that gives no more at once."""

    def cap(answer: dict[str, Any]) -> None:
        for name in ("task_instances", "dag_runs", "dags"):
            if name in answer:
                answer[name] = answer[name][:rows]

    return faults.edited(cap)


def states(answer: TaskInstances) -> dict[Any, str | None]:
    return {key: ti.state for key, ti in answer.found.items()}


@given(world=worlds(dag_ids=ALL_DAG_IDS).map(known))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_answer_is_true_in_any_world(database: Database, connect: Connect, world: World) -> None:
    database.fill(world.rows)
    answer = connect().fetch(world.keys)
    assert_true_answer(world, answer)
    assert not answer.unresolved


class TestFinding:
    @pytest.mark.parametrize("state", [None, "running", "success", "removed"])
    @pytest.mark.parametrize(
        "ids",
        HOSTILE_IDS,
    )
    def test_works_for(self, database: Database, connect: Connect, ids: dict[str, Any], state: str | None) -> None:
        there = row(state=state, **ids)
        database.fill([there, row("b"), row(run_id="another", state="success")])
        assert connect().fetch([there.key]) == TaskInstances(
            {there.key: TaskInstance(state, 2, ENDED, "Mine")},
            {},
            {there.key: (RawIds(there.dag_id, there.task_id, there.run_id),)},
        )

    def test_keeps_what_is_not_on_record_open(self, database: Database, connect: Connect) -> None:
        database.fill([row(state="success")], end_date=None, try_number=0, operator=None)
        assert connect().fetch([row().key]).found == {row().key: TaskInstance("success", 0)}

    def test_gives_nothing_for_what_is_not_there(self, database: Database, connect: Connect) -> None:
        database.fill([row()])
        keys = [
            make_key("orders", "b", SCHEDULED, UNMAPPED),
            make_key("orders", "a", SCHEDULED, 0),
            make_key("orders", "a", "a deleted run", UNMAPPED),
            make_key("commandes_à_faire", "a", SCHEDULED, UNMAPPED),
            make_key("x", "y", "z", 0),
        ]
        assert connect().fetch(keys) == TaskInstances()

    def test_lets_the_active_one_count_if_two_dag_ids_have_one_label(
        self, database: Database, connect: Connect
    ) -> None:
        odd = "commandes_à_faire"
        database.fill([row(dag_id=odd, state="running"), row(dag_id=to_label_value(odd), state="success")])
        answer = connect().fetch([row(dag_id=odd).key])
        assert states(answer) == {row(dag_id=odd).key: "running"}
        assert {ids.dag_id for ids in answer.raw_ids[row(dag_id=odd).key]} == {odd, to_label_value(odd)}

    def test_takes_many_dags_for_a_label(self, database: Database, connect: Connect) -> None:
        database.fill([row(dag_id="commandes_à_faire")])
        database.add_dags(*(f"dag_{number:03d}" for number in range(250)))
        assert states(connect().fetch([row(dag_id="commandes_à_faire").key]))


class TestQuestion:
    def asked(self, database: Database) -> list[dict[str, Any]]:
        """Read the questions from Airflow's audit log."""
        found = database.query("SELECT extra FROM log WHERE event = 'get_task_instances_batch' ORDER BY id")
        return [json.loads(extra) for (extra,) in found]

    def test_is_not_sent_if_nothing_is_asked(self, connect: Connect, database: Database, proxy: FaultProxy) -> None:
        database.fill([row()])
        assert connect(proxy.url + PATH).fetch([]) == TaskInstances()
        assert proxy.requests == []

    def test_is_one_for_many_dags_with_default_run_ids(self, connect: Connect, database: Database) -> None:
        rows = [
            row(f"t{task}", dag_id=f"dag{dag}", state=state)
            for dag in range(20)
            for task, state in enumerate(["success", "running", None])
        ]
        database.fill(rows)
        assert states(connect().fetch([each.key for each in rows])) == {each.key: each.state for each in rows}
        assert len(self.asked(database)) == 1

    def test_has_no_empty_list_and_no_state(self, connect: Connect, database: Database) -> None:
        rows = [row(), row(ODD_ID), row(run_id="my run!"), row(dag_id="commandes_à_faire", task_id=LONG_ID)]
        database.fill(rows)
        assert len(connect().fetch([each.key for each in rows]).found) == len(rows)
        for question in self.asked(database):
            assert set(question) <= {"dag_ids", "dag_run_ids", "task_ids", "page_limit", "method"}
            assert all(question.values())
            assert OWN.dag_id in question["dag_ids"]
            assert OWN.run_id in question["dag_run_ids"]

    def test_fits_into_the_audit_log_of_any_database(self, connect: Connect, database: Database) -> None:
        rows = [row(f"é{'é' * 200}", run_id=f"run_{number:04d}" + "r" * 50) for number in range(1_500)]
        rows += [row("t" * 60, run_id=f"run_{number:04d}" + "r" * 50) for number in range(1_500)]
        database.fill(rows)
        assert len(connect().fetch([each.key for each in rows]).found) == len(rows)
        sizes = [size for (size,) in database.query("SELECT length(extra) FROM log WHERE extra LIKE '%page_limit%'")]
        assert len(sizes) > 2
        assert max(sizes) < 65_535

    def test_does_not_read_the_whole_of_a_long_history(
        self, connect: Connect, database: Database, proxy: FaultProxy
    ) -> None:
        rows = [
            row(f"t{task}", dag_id=f"dag{dag}", run_id=f"run_{run}", state="success")
            for dag in range(10)
            for run in range(30)
            for task in range(10)
        ]
        database.fill(rows)
        wanted = [each.key for number, each in enumerate(rows) if number % 41 == 0]
        read: list[int] = []
        proxy.spoil(BATCH, faults.edited(lambda answer: read.append(len(answer["task_instances"]))))
        assert len(connect(proxy.url + PATH).fetch(wanted).found) == len(wanted)
        assert sum(read) < len(rows)
        assert len(read) < len(wanted) / 2


class TestCappedAnswers:
    @given(world=worlds(dag_ids=ALL_DAG_IDS).map(known))
    @settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_are_true_in_any_world(self, database: Database, connect: Connect, proxy: FaultProxy, world: World) -> None:
        database.fill(world.rows)
        proxy.heal()
        proxy.spoil(LISTS, capped(4))
        answer = connect(proxy.url + PATH).fetch(world.keys)
        assert_true_answer(world._replace(keys=world.keys - answer.unresolved.keys()), answer)

    def test_are_read_to_the_end_for_a_mapped_task(
        self, database: Database, connect: Connect, proxy: FaultProxy
    ) -> None:
        rows = [row(map_index=index, state="success") for index in range(10)]
        # Some share ids with our own task instance, so that the answer has them, too.
        others = [row(map_index=index, run_id=OWN.run_id) for index in range(10)]
        database.fill([*rows, *others])
        proxy.spoil(BATCH, capped(4))
        answer = connect(proxy.url + PATH).fetch([each.key for each in rows])
        assert states(answer) == {each.key: "success" for each in rows}

    @pytest.mark.parametrize(
        "change",
        [
            pytest.param(lambda database, rows: database.retry(rows[2]), id="a row of the first page is retried"),
            pytest.param(
                lambda database, rows: database.retry(rows[3]), id="the last row of the first page is retried"
            ),
            pytest.param(lambda database, rows: database.retry(rows[8]), id="a row of a later page is retried"),
            pytest.param(lambda database, rows: database.remove(rows[1]), id="a row of the first page goes"),
            pytest.param(
                lambda database, rows: (database.remove(rows[1]), database.add(rows[9]._replace(map_index=11))),
                id="a row of the first page goes and another comes",
            ),
            pytest.param(lambda database, rows: database.add(rows[9]._replace(map_index=-1)), id="a first row comes"),
        ],
    )
    def test_miss_nothing_if_between_two_pages(
        self, database: Database, connect: Connect, proxy: FaultProxy, change: Callable[[Database, list[Row]], None]
    ) -> None:
        rows = [row(map_index=index) for index in range(10)]
        database.fill(rows)
        # The whole question, the first page, and then:
        proxy.spoil(BATCH, capped(4), times=2)
        proxy.spoil(BATCH, faults.first(lambda: change(database, rows)), times=1)
        proxy.spoil(BATCH, capped(4))
        answer = connect(proxy.url + PATH).fetch([each.key for each in rows[2:]])
        assert set(answer.found) == {each.key for each in rows[2:]}

    def test_that_change_all_the_time_are_an_error(
        self, database: Database, connect: Connect, proxy: FaultProxy
    ) -> None:
        rows = [row(map_index=index) for index in range(40)]
        database.fill(rows)
        left = iter(rows)

        def shrink(answer: dict[str, Any]) -> None:
            database.remove(next(left))
            answer["task_instances"] = answer["task_instances"][:4]

        proxy.spoil(BATCH, faults.edited(shrink))
        with pytest.raises(TaskInstanceSourceError, match="changed while it was read"):
            connect(proxy.url + PATH).fetch([rows[-1].key])

    def test_that_cannot_be_split_leave_it_unresolved(
        self, database: Database, connect: Connect, proxy: FaultProxy
    ) -> None:
        rows = [row(ODD_ID), *(row(f"t{number}") for number in range(10))]
        database.fill(rows)
        proxy.spoil(BATCH, capped(4))
        answer = connect(proxy.url + PATH).fetch([each.key for each in rows])
        assert set(answer.unresolved) == {row(ODD_ID).key}
        assert "its task_id is not known" in answer.unresolved[row(ODD_ID).key]
        assert set(answer.found) == {each.key for each in rows[1:]}
