"""The Task SDK as a source: its questions to the API server, and its true answers."""

from __future__ import annotations

import time
from random import Random
from typing import Any
from urllib.parse import quote_plus

import pytest
from hypothesis import given

from include.kpo_cleanup.errors import TaskInstanceSourceError
from include.kpo_cleanup.identity import UNMAPPED, TaskInstanceKey, make_key, to_label_value
from include.kpo_cleanup.task_instance import CallerTaskInstance, RawIds, Record, TaskInstance, TaskInstances
from include.kpo_cleanup.task_instances.task_sdk import MAX_QUERY, PATIENCE, TaskSdkSource
from tests.unit.worlds import LONG_ID, ODD_ID, SCHEDULED, Row, World, api_server, assert_true_answer, worlds

Questions = list[dict[str, Any]]


OWN = CallerTaskInstance("cleanup", "reap", "now", UNMAPPED)
OWN_ROW = Row(*OWN[:4], "running")
OWN_QUESTION = {"dag_id": "cleanup", "task_ids": ["reap"], "run_ids": ["now"]}


class XComs:
    """The XComs that operators pushed, as Airflow 3's supervisor gives them; a value may be an error to raise."""

    def __init__(self, *pushed: tuple[Row, str, Any]) -> None:
        self._values = {(row[:4], key): value for row, key, value in pushed}
        self.misses = 0  # which are logged
        self.calls = 0

    def get_all(self, *, key: str, dag_id: str, task_id: str, run_id: str) -> list[Any] | None:
        self.calls += 1
        place = (dag_id, task_id, run_id)
        found = sorted(
            (there[3], value) for (there, name), value in self._values.items() if there[:3] == place and name == key
        )
        return [self._read(value) for _, value in found] or None

    def get_one(self, *, key: str, dag_id: str, task_id: str, run_id: str, map_index: int | None) -> Any:
        self.calls += 1
        place = (dag_id, task_id, run_id, UNMAPPED if map_index is None else map_index)
        if (place, key) not in self._values:
            self.misses += 1
            return None
        return self._read(self._values[place, key])

    def _read(self, value: Any) -> Any:
        if isinstance(value, Exception):
            raise value
        return value


def source_of(get_task_states: Any, xcoms: XComs | None = None, patience: float = PATIENCE) -> TaskSdkSource:
    return TaskSdkSource(get_task_states, xcoms or XComs(), OWN, "test", patience)


def asked_by(questions: Questions) -> Questions:
    """List the questions, without those by which the source proves itself."""
    return [question for question in questions if question != OWN_QUESTION]


def ask(rows: list[Row], *keys: TaskInstanceKey, seed: int = 0) -> tuple[TaskInstances, Questions]:
    """Return the source's answer, and the questions that it asked."""
    questions: Questions = []
    source = source_of(api_server([OWN_ROW, *rows], Random(seed), questions))
    return source.fetch(keys), asked_by(questions)


def row(task_id: str = "a", map_index: int = UNMAPPED, state: str | None = "running", **ids: str) -> Row:
    return Row(ids.get("dag_id", "orders"), task_id, ids.get("run_id", SCHEDULED), map_index, state)


@given(worlds())
def test_the_answer_is_true_in_any_world(world: World) -> None:
    source = source_of(api_server([OWN_ROW, *world.rows], world.random))
    for _look in (1, 2):  # the second asks for what the first has found
        assert_true_answer(world, source.fetch(world.keys), is_task_sdk=True)


class TestFinding:
    @pytest.mark.parametrize(
        ("found", "ids"),
        [
            pytest.param(row(), {}, id="a default run_id"),
            pytest.param(row(run_id="run_1"), {}, id="a raw run_id"),
            pytest.param(row(run_id="my run!"), {}, id="a cleaned run_id of one's own"),
            pytest.param(row(run_id="run-0123456ab"), {}, id="a raw run_id that ends like a hash"),
            pytest.param(row(run_id=to_label_value(SCHEDULED)), {}, id="a raw run_id that looks like a cleaned one"),
            pytest.param(row(task_id=ODD_ID), {}, id="a cleaned task_id"),
            pytest.param(row(task_id=LONG_ID), {}, id="a task_id that was cut"),
            pytest.param(row(task_id=LONG_ID, map_index=7), {}, id="a mapped task_id that was cut"),
            pytest.param(row(task_id=ODD_ID, run_id="my run!"), {}, id="both of them cleaned"),
            pytest.param(row(task_id="a-0123456ab"), {}, id="a raw task_id that ends like a hash"),
            pytest.param(row(dag_id="orders-0123456ab"), {}, id="a raw dag_id that ends like a hash"),
            pytest.param(row(map_index=0), {}, id="the first of a mapped task"),
            pytest.param(row(map_index=4_711), {}, id="a late one of a mapped task"),
            pytest.param(row(state=None), {}, id="a cleared task"),
            pytest.param(row(state="a_state_of_a_later_airflow"), {}, id="a state that nobody knows yet"),
        ],
    )
    def test_works_for(self, found: Row, ids: dict[str, str]) -> None:
        others = [row("b"), row("a", 3, "success"), row(run_id="another", state="success")]
        answer, _ = ask([found, *others], found.key)
        ti = TaskInstance(found.state)
        assert answer == TaskInstances({found.key: ti}, {}, {found.key: (RawIds(*found[:3]),)})

    @pytest.mark.parametrize("seed", range(8))
    def test_tells_a_mapped_task_from_one_whose_id_ends_like_a_map_index(self, seed: int) -> None:
        rows = [row("a", 1, "running"), row("a_1", UNMAPPED, "success")]
        answer, _ = ask(rows, *(each.key for each in rows), seed=seed)
        assert {key.task_id: ti.state for key, ti in answer.found.items()} == {"a": "running", "a_1": "success"}

    @pytest.mark.parametrize("seed", range(8))
    def test_tells_three_of_a_kind_apart(self, seed: int) -> None:
        rows = [
            row("a", 1, "queued"),
            row("a_1", UNMAPPED, "failed"),
            row("a_1", 2, None),
            row("a_1_2", state="success"),
        ]
        answer, _ = ask(rows, *(each.key for each in rows), seed=seed)
        assert {key: ti.state for key, ti in answer.found.items()} == {each.key: each.state for each in rows}

    @pytest.mark.parametrize("seed", range(8))
    def test_tells_cleaned_ids_that_collide_apart(self, seed: int) -> None:
        rows = [row(ODD_ID, 1, "running"), row(f"{ODD_ID}_1", UNMAPPED, "success")]
        answer, _ = ask(rows, *(each.key for each in rows), seed=seed)
        assert {key: ti.state for key, ti in answer.found.items()} == {each.key: each.state for each in rows}

    @pytest.mark.parametrize("states", [("running", "success"), ("success", "running")])
    def test_lets_the_active_one_count_where_two_ids_have_one_label(self, states: tuple[str, str]) -> None:
        rows = [row(ODD_ID, state=states[0]), row(to_label_value(ODD_ID), state=states[1])]
        answer, _ = ask(rows, rows[0].key)
        assert answer.found == {rows[0].key: TaskInstance("running")}

    def test_gives_nothing_for_what_is_not_there(self) -> None:
        answer, _ = ask([row()], make_key("orders", "b", SCHEDULED, UNMAPPED), make_key("orders", "a", SCHEDULED, 0))
        assert answer == TaskInstances()

    @pytest.mark.parametrize("dag_id", ["commandes_à_faire", "d" * 250])
    def test_is_unresolved_for_a_cleaned_dag_id(self, dag_id: str) -> None:
        there = row(dag_id=dag_id, state="success")
        answer, _ = ask([there], there.key)
        why = f"the raw dag_id behind {there.key.dag_id!r} is not known to the Task SDK; set airflow_conn_id"
        assert answer == TaskInstances({}, {there.key: why})

    def test_is_unresolved_for_a_dag_id_that_ends_like_a_hash_and_is_not_there(self) -> None:
        key = make_key("orders-0123456ab", "a", SCHEDULED, UNMAPPED)
        assert list(ask([row()], key)[0].unresolved) == [key]


class TestQuestions:
    def test_are_none_where_nothing_is_asked(self) -> None:
        assert ask([row()]) == (TaskInstances(), [])

    def test_are_one_for_each_dag_with_default_run_ids(self) -> None:
        rows = [
            row(f"task{task}", map_index, dag_id=f"dag{dag}", run_id=f"scheduled__2026-11-{day:02d}T00:00:00+00:00")
            for dag in range(3)
            for task in range(4)
            for day in (1, 2)
            for map_index in (UNMAPPED, 0, 1)
        ]
        answer, questions = ask(rows, *(each.key for each in rows))
        assert len(answer.found) == len(rows)
        assert [question["dag_id"] for question in questions] == ["dag0", "dag1", "dag2"]

    def test_of_a_later_look_see_what_has_changed(self) -> None:
        rows = [OWN_ROW, row(run_id="my run!", state="failed")]
        source = source_of(lambda **question: api_server(rows, Random(0))(**question))
        key = rows[1].key
        assert not source.fetch([key]).found[key].is_active
        rows[1] = row(run_id="my run!", state=None)
        assert source.fetch([key]).found[key].is_active
        del rows[1]
        assert source.fetch([key]) == TaskInstances()

    def test_name_the_rebuilt_run_and_the_task(self) -> None:
        _, questions = ask([row()], row().key)
        assert questions == [
            {"dag_id": "orders", "task_ids": ["a"], "run_ids": sorted([SCHEDULED, to_label_value(SCHEDULED)])}
        ]

    def test_name_the_task_alone_where_the_run_is_not_known(self) -> None:
        _, questions = ask([], row(run_id="my run!").key)
        assert questions[-1] == {"dag_id": "orders", "task_ids": ["a"], "run_ids": None}

    @pytest.mark.parametrize("run_id", ["deploy-1a2b3c4d5", to_label_value("my run!")])
    def test_name_the_run_where_its_label_is_the_raw_id(self, run_id: str) -> None:
        _, questions = ask([row(run_id=run_id)], row(run_id=run_id).key)
        assert questions == [{"dag_id": "orders", "task_ids": ["a"], "run_ids": [run_id]}]

    def test_name_all_runs_for_the_missing_only(self) -> None:
        there, hidden, plain = row(run_id="deploy-1a2b3c4d5"), row("b", run_id="my run!"), row("c")
        answer, questions = ask([there, hidden], there.key, hidden.key, plain.key)
        assert set(answer.found) == {there.key, hidden.key}
        assert [question["task_ids"] for question in questions if not question["run_ids"]] == [["b"]]

    @pytest.mark.parametrize(
        "found",
        [
            pytest.param(row(run_id="my run!"), id="a run"),
            pytest.param(row(ODD_ID), id="a task"),
            pytest.param(row(ODD_ID, run_id="my run!"), id="both"),
            pytest.param(row(LONG_ID, 7, run_id="my run!"), id="a mapped task"),
        ],
    )
    def test_name_what_was_found_once_behind_the_label_of(self, found: Row) -> None:
        questions: Questions = []
        source = source_of(api_server([OWN_ROW, found, row("b")], Random(0), questions))
        first = source.fetch([found.key])
        questions.clear()
        assert source.fetch([found.key]) == first
        [question] = asked_by(questions)
        assert found.run_id in question["run_ids"]
        assert found.task_id in question["task_ids"]

    @pytest.mark.parametrize(
        ("task_id", "run_id"),
        [
            pytest.param("task_{0:04d}_" + "t" * 40, "run_{1:04d}", id="ids of an ordinary length"),
            pytest.param("task_{0:04d}_" + "t" * 40, SCHEDULED, id="one default run"),
            pytest.param("t{0:04d}" + "é日" * 120, SCHEDULED, id="long ids of characters that a URL writes at length"),
            pytest.param("t{0:04d}" + "t" * 245, "my run! {1}", id="long ids and runs of one's own"),
        ],
    )
    def test_are_no_longer_than_a_proxy_takes(self, task_id: str, run_id: str) -> None:
        rows = [row(task_id.format(number, number), run_id=run_id.format(number, number)) for number in range(150)]
        answer, questions = ask(rows, *(each.key for each in rows))
        assert len(answer.found) == len(rows)
        for question in questions:
            ids = [("task_ids", value) for value in question["task_ids"] or ()]
            ids += [("run_ids", value) for value in question["run_ids"] or ()]
            assert sum(len(f"&{name}={quote_plus(value)}") for name, value in ids) <= MAX_QUERY

    @pytest.mark.parametrize(
        ("kind", "end", "runs", "tasks", "expected"),
        [
            pytest.param("scheduled", "", 50, 1, 1, id="a pod of each of many scheduled runs"),
            pytest.param("manual", "_AbCdEfGh", 50, 1, 1, id="a pod of each of many manual runs"),
            pytest.param("asset_triggered", "_AbCdEfGh", 50, 1, 1, id="a pod of each of many runs by assets"),
            pytest.param("scheduled", "", 1, 50, 1, id="many pods of one run"),
            pytest.param("scheduled", "", 100, 5, 2, id="some pods of more runs than one URL holds"),
            pytest.param("scheduled", "", 2, 400, 2, id="pods of more tasks than one URL holds"),
        ],
    )
    def test_are_few_for_each_dag_with_default_run_ids(
        self, kind: str, end: str, runs: int, tasks: int, expected: int
    ) -> None:
        rows = [
            row(f"transform_{task:03d}", run_id=f"{kind}__2026-11-24T00:00:00.{run:06d}+00:00{end}")
            for run in range(1, runs + 1)
            for task in range(tasks)
        ]
        answer, questions = ask(rows, *(each.key for each in rows))
        assert len(answer.found) == len(rows)
        assert len(questions) == expected

    def test_are_not_split_more_than_their_length_asks_for(self) -> None:
        rows = [row(f"task_{number:04d}") for number in range(400)]  # 20 characters each in the URL
        _, questions = ask(rows, *(each.key for each in rows))
        assert len(questions) == 2

    def test_about_runs_that_are_not_known_are_answered_in_time_with_a_long_history(self) -> None:
        # Airflow 3's own run ids of assets that somebody materializes are cut in a label.
        def run_id(number: int) -> str:
            return f"asset_materialization__2026-11-24T02:13:14.{number:06d}+00:00_AbCdEfGh"

        history = [row(run_id=run_id(number), state="success") for number in range(3_000)]
        started = time.process_time()
        answer, _ = ask(history, *(each.key for each in history[:200]))
        assert len(answer.found) == 200
        assert time.process_time() - started < 1


class TestNoAnswer:
    def test_is_an_error_that_names_the_question(self) -> None:
        def get_task_states(**question: Any) -> Any:
            if question == OWN_QUESTION:
                return {OWN.run_id: {OWN.task_id: "running"}}
            raise RuntimeError("API_SERVER_ERROR 503")

        with pytest.raises(TaskInstanceSourceError) as caught:
            source_of(get_task_states).fetch([row().key])
        question = {"dag_id": "orders", "task_ids": ["a"], "run_ids": sorted([SCHEDULED, to_label_value(SCHEDULED)])}
        assert str(caught.value) == (
            f"the Task SDK gave no task states for {question}: API_SERVER_ERROR 503; see the API server's log"
        )
        assert isinstance(caught.value.__cause__, RuntimeError)

    @pytest.mark.parametrize("malformed", [None, [], "{}", {"run_1": None}, {"run_1": ["a"]}, 5], ids=repr)
    def test_is_an_answer_that_makes_no_sense(self, malformed: Any) -> None:
        with pytest.raises(TaskInstanceSourceError, match=r"the Task SDK answered .* to \{'dag_id': 'cleanup'"):
            source_of(lambda **question: malformed).fetch([row().key])

    @pytest.mark.parametrize("state", [5, True, ["success"], {"state": "success"}], ids=repr)
    def test_is_an_answer_with_a_state_that_is_no_word(self, state: Any) -> None:
        source = source_of(lambda **question: {OWN.run_id: {OWN.task_id: "running"}, SCHEDULED: {"a": state}})
        try:
            answer = source.fetch([row().key])
        except TaskInstanceSourceError:
            return
        assert answer.found[row().key].is_active

    def test_to_a_later_question_spoils_the_whole(self) -> None:
        answer_of = api_server([OWN_ROW, row(dag_id="a"), row(dag_id="b")], Random(0))

        def get_task_states(**question: Any) -> Any:
            if question["dag_id"] == "b":
                raise TimeoutError("too slow")
            return answer_of(**question)

        with pytest.raises(TaskInstanceSourceError, match="too slow"):
            source_of(get_task_states).fetch([row(dag_id="a").key, row(dag_id="b").key])


class TestProof:
    """Each question also asks for the task instance that asks it."""

    @pytest.mark.parametrize(
        ("own", "wrong"),
        [
            pytest.param([], "is not there", id="it is not there"),
            pytest.param([OWN_ROW._replace(run_id="yesterday")], "is not there", id="an earlier run of it is there"),
            pytest.param([OWN_ROW._replace(map_index=0)], "is not there", id="a mapped one is there"),
            pytest.param([OWN_ROW._replace(state="queued")], "is 'queued' there, and not running", id="it waits"),
            pytest.param([OWN_ROW._replace(state="failed")], "is 'failed' there, and not running", id="it has failed"),
            pytest.param([OWN_ROW._replace(state=None)], "is None there, and not running", id="it was cleared"),
        ],
    )
    def test_fails_where(self, own: list[Row], wrong: str) -> None:
        rows = [OWN_ROW, row(state="failed")]
        source = source_of(lambda **question: api_server(rows, Random(0))(**question))
        assert source.fetch([row().key]).found
        rows[:1] = own
        with pytest.raises(TaskInstanceSourceError) as caught:
            source.fetch([row().key])
        assert str(caught.value).startswith(
            f"the task states of test are not to be trusted: this very task, cleanup.reap of run 'now', {wrong}. "
            "Either the API server has another database, or one that lags behind"
        )

    def test_works_for_a_mapped_task_and_any_run_id(self) -> None:
        own = CallerTaskInstance("cleanup", "reap", "my run!", 3)
        get_task_states = api_server([Row(*own[:4], "running"), row()], Random(0))
        assert TaskSdkSource(get_task_states, XComs(), own, "test").fetch([row().key]).found


def record(xcoms: XComs, *rows: Row) -> Record | None:
    """Return the record of the key that these share."""
    source, [key] = source_of(api_server([OWN_ROW, *rows], Random(0)), xcoms), {each.key for each in rows}
    return source.read_records(source.fetch([key]), [key]).get(key)


def pair(row: Row, name: Any, namespace: Any = "airflow") -> list[tuple[Row, str, Any]]:
    return [(row, "pod_name", name), (row, "pod_namespace", namespace)]


class TestRecord:
    @pytest.mark.parametrize(
        "ids",
        [
            pytest.param({}, id="a task that is not mapped"),
            pytest.param({"map_index": 3}, id="a mapped task"),
            pytest.param({"run_id": "my run!", "task_id": ODD_ID}, id="cleaned ids"),
        ],
    )
    def test_names_the_pod_of(self, ids: dict[str, Any]) -> None:
        there, other = row(state="failed", **ids), row("b")
        xcoms = XComs(*pair(there, "load-x1"), *pair(other, "load-x2"))
        assert record(xcoms, there) == Record(frozenset({"airflow/load-x1"}))
        assert not xcoms.misses

    def test_is_none_and_no_line_in_the_log_without_xcoms(self) -> None:
        for there in (row(), row(map_index=3)):
            xcoms = XComs((there, "return_value", "load-x1"))
            assert record(xcoms, there) is None
            assert not xcoms.misses

    def test_of_a_mapped_task_is_never_that_of_another_map_index(self) -> None:
        rows = [row(map_index=index) for index in range(4)]
        xcoms = XComs(*pair(rows[0], "pod-0"), *pair(rows[2], "pod-2"))
        source = source_of(api_server([OWN_ROW, *rows], Random(0)), xcoms)
        keys = [each.key for each in rows]
        assert source.read_records(source.fetch(keys), keys) == {
            keys[0]: Record(frozenset({"airflow/pod-0"})),
            keys[2]: Record(frozenset({"airflow/pod-2"})),
        }

    def test_of_many_mapped_tasks_asks_once_whether_there_are_any(self) -> None:
        rows = [row(map_index=index) for index in range(50)]
        xcoms = XComs()
        source = source_of(api_server([OWN_ROW, *rows], Random(0)), xcoms)
        keys = [each.key for each in rows]
        assert source.read_records(source.fetch(keys), keys) == {}
        assert xcoms.calls == 2

    @pytest.mark.parametrize(
        ("pushed", "problem"),
        [
            pytest.param([(row(), "pod_name", "a")], "it has no XCom pod_namespace beside the other one", id="half"),
            pytest.param(
                pair(row(), "s3://xcoms/token=SECRET"),
                "its XCom pod_name is no name in Kubernetes: 's3://xcoms/t…'",
                id="a reference of a custom backend",
            ),
            pytest.param(pair(row(), ["a"]), "its XCom pod_name is no name in Kubernetes but a list", id="a list"),
            pytest.param(
                pair(row(), PermissionError("access\n denied")),
                "its XCom pod_name cannot be read: access denied",
                id="what a custom backend may not read",
            ),
        ],
    )
    def test_has_a_problem_with(self, pushed: list[tuple[Row, str, Any]], problem: str) -> None:
        assert record(XComs(*pushed), row()) == Record(problem=problem)

    def test_that_cannot_be_read_does_not_spoil_the_others(self) -> None:
        rows = [row("a"), row("b")]
        xcoms = XComs(*pair(rows[0], PermissionError("access denied")), *pair(rows[1], "load-x1"))
        source = source_of(api_server([OWN_ROW, *rows], Random(0)), xcoms)
        keys = [each.key for each in rows]
        records = source.read_records(source.fetch(keys), keys)
        assert records[keys[0]].problem
        assert records[keys[1]] == Record(frozenset({"airflow/load-x1"}))

    def test_is_an_error_where_the_api_server_takes_too_long_to_fail(self) -> None:
        xcoms = XComs(*pair(row(), TimeoutError("no answer")))
        source = source_of(api_server([OWN_ROW, row()], Random(0)), xcoms, patience=-1)
        with pytest.raises(TaskInstanceSourceError, match=r"the Task SDK gave no XComs in .*: no answer; see"):
            source.read_records(source.fetch([row().key]), [row().key])

    def test_has_the_pods_of_all_that_share_a_key(self) -> None:
        odd, label = row(ODD_ID), row(to_label_value(ODD_ID))
        xcoms = XComs(*pair(odd, "odd"), *pair(label, "label", "other"))
        assert record(xcoms, odd, label) == Record(frozenset({"airflow/odd", "other/label"}))
