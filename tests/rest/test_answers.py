"""The REST API as a source, over real API servers: the correctness of its answers, and its queries."""

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
from tests.rest.database import CALLER, ENDED, Database
from tests.rest.servers import PATH
from tests.unit.worlds import (
    HASHED_DAG_IDS,
    HOSTILE_IDS,
    LONG_ID,
    ODD_ID,
    PLAIN_DAG_IDS,
    SCHEDULED,
    Row,
    World,
    assert_correct_answer,
    worlds,
)

pytestmark = pytest.mark.rest

# Like SQL, the REST API finds hashed dag_ids, even if another dag_id equals the label value.
ALL_DAG_IDS = (*PLAIN_DAG_IDS, *HASHED_DAG_IDS, *map(to_label_value, HASHED_DAG_IDS))
# The API itself fails on an unknown state.
UNKNOWN_STATE = "a_state_of_a_later_airflow"
BATCH = r"POST .*/taskInstances/list$"
LISTS = rf"{BATCH}|POST .*/dagRuns/list$|GET .*/dags\?"


def row(task_id: str = "a", map_index: int = UNMAPPED, state: str | None = "running", **ids: str) -> Row:
    return Row(ids.get("dag_id", "orders"), task_id, ids.get("run_id", SCHEDULED), map_index, state)


def without_unknown_states(world: World) -> World:
    return world._replace(rows=[row for row in world.rows if row.state != UNKNOWN_STATE])


def limited_to(rows: int) -> Fault:
    """Limit the rows of an answer, like a server with a lower limit than the one requested."""

    def cap(answer: dict[str, Any]) -> None:
        for name in ("task_instances", "dag_runs", "dags"):
            if name in answer:
                answer[name] = answer[name][:rows]

    return faults.edited(cap)


def states(answer: TaskInstances) -> dict[Any, str | None]:
    return {key: ti.state for key, ti in answer.found.items()}


@given(world=worlds(dag_ids=ALL_DAG_IDS).map(without_unknown_states))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_answer_is_correct_in_every_world(database: Database, connect: Connect, world: World) -> None:
    database.fill(world.rows)
    answer = connect().fetch(world.keys)
    assert_correct_answer(world, answer)
    assert not answer.unresolved


class TestFetch:
    @pytest.mark.parametrize("state", [None, "running", "success", "removed"])
    @pytest.mark.parametrize("ids", HOSTILE_IDS)
    def test_a_task_instance_is_found_in_any_state_if(
        self, database: Database, connect: Connect, ids: dict[str, Any], state: str | None
    ) -> None:
        existing = row(state=state, **ids)
        database.fill([existing, row("b"), row(run_id="another", state="success")])
        assert connect().fetch([existing.key]) == TaskInstances(
            {existing.key: TaskInstance(state, 2, ENDED, "Mine")},
            {},
            {existing.key: (RawIds(existing.dag_id, existing.task_id, existing.run_id),)},
        )

    def test_columns_without_a_value_are_unknown(self, database: Database, connect: Connect) -> None:
        database.fill([row(state="success")], end_date=None, try_number=0, operator=None)
        assert connect().fetch([row().key]).found == {row().key: TaskInstance("success", 0)}

    def test_a_task_instance_that_does_not_exist_is_absent(self, database: Database, connect: Connect) -> None:
        database.fill([row()])
        keys = [
            make_key("orders", "b", SCHEDULED, UNMAPPED),
            make_key("orders", "a", SCHEDULED, 0),
            make_key("orders", "a", "a deleted run", UNMAPPED),
            make_key("commandes_à_faire", "a", SCHEDULED, UNMAPPED),
            make_key("x", "y", "z", 0),
        ]
        assert connect().fetch(keys) == TaskInstances()

    def test_the_active_one_decides_if_two_dag_ids_have_the_same_label_value(
        self, database: Database, connect: Connect
    ) -> None:
        odd = "commandes_à_faire"
        database.fill([row(dag_id=odd, state="running"), row(dag_id=to_label_value(odd), state="success")])
        answer = connect().fetch([row(dag_id=odd).key])
        assert states(answer) == {row(dag_id=odd).key: "running"}
        assert {ids.dag_id for ids in answer.raw_ids[row(dag_id=odd).key]} == {odd, to_label_value(odd)}

    def test_a_hashed_dag_id_is_found_among_many_dags(self, database: Database, connect: Connect) -> None:
        database.fill([row(dag_id="commandes_à_faire")])
        database.add_dags(*(f"dag_{number:03d}" for number in range(250)))
        assert states(connect().fetch([row(dag_id="commandes_à_faire").key]))


class TestQueries:
    def logged(self, database: Database) -> list[dict[str, Any]]:
        """Return the queries in Airflow's audit log."""
        found = database.query("SELECT extra FROM log WHERE event = 'get_task_instances_batch' ORDER BY id")
        return [json.loads(extra) for (extra,) in found]

    def test_no_query_is_sent_if_there_are_no_keys(
        self, connect: Connect, database: Database, proxy: FaultProxy
    ) -> None:
        database.fill([row()])
        assert connect(proxy.url + PATH).fetch([]) == TaskInstances()
        assert proxy.requests == []

    def test_one_query_is_sent_for_many_dags_if_the_run_ids_are_default_ones(
        self, connect: Connect, database: Database
    ) -> None:
        rows = [
            row(f"t{task}", dag_id=f"dag{dag}", state=state)
            for dag in range(20)
            for task, state in enumerate(["success", "running", None])
        ]
        database.fill(rows)
        assert states(connect().fetch([each.key for each in rows])) == {each.key: each.state for each in rows}
        assert len(self.logged(database)) == 1

    def test_a_query_contains_the_caller_but_no_empty_list_and_no_state(
        self, connect: Connect, database: Database
    ) -> None:
        rows = [row(), row(ODD_ID), row(run_id="my run!"), row(dag_id="commandes_à_faire", task_id=LONG_ID)]
        database.fill(rows)
        assert len(connect().fetch([each.key for each in rows]).found) == len(rows)
        for query in self.logged(database):
            assert set(query) <= {"dag_ids", "dag_run_ids", "task_ids", "page_limit", "method"}
            assert all(query.values())
            assert CALLER.dag_id in query["dag_ids"]
            assert CALLER.run_id in query["dag_run_ids"]

    def test_every_query_fits_into_the_audit_log_of_every_database(self, connect: Connect, database: Database) -> None:
        rows = [row(f"é{'é' * 200}", run_id=f"run_{number:04d}" + "r" * 50) for number in range(1_500)]
        rows += [row("t" * 60, run_id=f"run_{number:04d}" + "r" * 50) for number in range(1_500)]
        database.fill(rows)
        assert len(connect().fetch([each.key for each in rows]).found) == len(rows)
        sizes = [size for (size,) in database.query("SELECT length(extra) FROM log WHERE extra LIKE '%page_limit%'")]
        assert len(sizes) > 2
        assert max(sizes) < 65_535

    def test_only_a_part_of_a_long_history_is_read(
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


class TestLimitedAnswers:
    @given(world=worlds(dag_ids=ALL_DAG_IDS).map(without_unknown_states))
    @settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_limited_answers_are_correct_in_every_world(
        self, database: Database, connect: Connect, proxy: FaultProxy, world: World
    ) -> None:
        database.fill(world.rows)
        proxy.heal()
        proxy.spoil(LISTS, limited_to(4))
        answer = connect(proxy.url + PATH).fetch(world.keys)
        assert_correct_answer(world._replace(keys=world.keys - answer.unresolved.keys()), answer)

    def test_a_mapped_task_is_read_page_by_page(self, database: Database, connect: Connect, proxy: FaultProxy) -> None:
        rows = [row(map_index=index, state="success") for index in range(10)]
        # These share ids with the caller, so that the answers contain them as well.
        others = [row(map_index=index, run_id=CALLER.run_id) for index in range(10)]
        database.fill([*rows, *others])
        proxy.spoil(BATCH, limited_to(4))
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
            pytest.param(lambda database, rows: database.remove(rows[1]), id="a row of the first page is deleted"),
            pytest.param(
                lambda database, rows: (database.remove(rows[1]), database.add(rows[9]._replace(map_index=11))),
                id="a row of the first page is deleted and another is added",
            ),
            pytest.param(
                lambda database, rows: database.add(rows[9]._replace(map_index=-1)),
                id="a row is added before the first one",
            ),
        ],
    )
    def test_no_task_instance_is_missed_if_between_two_pages(
        self, database: Database, connect: Connect, proxy: FaultProxy, change: Callable[[Database, list[Row]], None]
    ) -> None:
        rows = [row(map_index=index, run_id="run_1") for index in range(10)]
        database.fill(rows)
        # The query for all, the first page, and then:
        proxy.spoil(BATCH, limited_to(4), times=2)
        proxy.spoil(BATCH, faults.first(lambda: change(database, rows)), times=1)
        proxy.spoil(BATCH, limited_to(4))
        answer = connect(proxy.url + PATH).fetch([each.key for each in rows[2:]])
        assert set(answer.found) == {each.key for each in rows[2:]}

    def test_a_list_that_changes_between_all_pages_is_an_error(
        self, database: Database, connect: Connect, proxy: FaultProxy
    ) -> None:
        rows = [row(map_index=index) for index in range(40)]
        database.fill(rows)
        left = iter(rows)

        def shrink(answer: dict[str, Any]) -> None:
            database.remove(next(left))
            answer["task_instances"] = answer["task_instances"][:4]

        proxy.spoil(BATCH, faults.edited(shrink))
        with pytest.raises(TaskInstanceSourceError, match="changed during each of the attempts"):
            connect(proxy.url + PATH).fetch([rows[-1].key])

    @pytest.mark.parametrize("rows_per_answer", [0, 1])
    def test_a_total_without_its_rows_is_an_error(
        self, database: Database, connect: Connect, proxy: FaultProxy, rows_per_answer: int
    ) -> None:
        rows = [row(map_index=index) for index in range(2)]
        database.fill(rows)
        proxy.spoil(BATCH, limited_to(rows_per_answer))
        with pytest.raises(TaskInstanceSourceError, match="changed during each of the attempts"):
            connect(proxy.url + PATH).fetch([rows[1].key])

    def test_a_hashed_task_is_unresolved_if_its_run_does_not_fit_into_one_answer(
        self, database: Database, connect: Connect, proxy: FaultProxy
    ) -> None:
        rows = [row(ODD_ID), *(row(f"t{number}") for number in range(10))]
        database.fill(rows)
        proxy.spoil(BATCH, limited_to(4))
        answer = connect(proxy.url + PATH).fetch([each.key for each in rows])
        assert set(answer.unresolved) == {row(ODD_ID).key}
        assert "its raw task_id is unknown" in answer.unresolved[row(ODD_ID).key]
        assert set(answer.found) == {each.key for each in rows[1:]}
