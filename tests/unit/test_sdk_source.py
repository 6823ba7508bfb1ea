"""The Task SDK as a source: its requests to the API server, and the correctness of its answers."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any, ClassVar
from urllib.parse import quote_plus

import pytest
from hypothesis import given

from include.kpo_cleanup.errors import TaskInstanceSourceError
from include.kpo_cleanup.identity import UNMAPPED, TaskInstanceKey, make_key, to_label_value
from include.kpo_cleanup.task_instance import CallerTaskInstance, RawIds, Record, TaskInstance, TaskInstances
from include.kpo_cleanup.task_instances.records import MAX_FAILING_SECONDS
from include.kpo_cleanup.task_instances.sdk_queries import SdkQueries
from include.kpo_cleanup.task_instances.task_sdk import (
    MAX_LISTED,
    MAX_QUERY,
    MAX_SEARCHED,
    UNKNOWN_DAG,
    TaskSdkSource,
)
from include.kpo_cleanup.termination import Terminated, raise_on_sigterm
from include.kpo_cleanup.workloads.registry import KINDS
from tests.unit.sdk import MICROSECOND, Refusal, StatesOnly, TaskSdk
from tests.unit.worlds import LONG_ID, ODD_ID, SCHEDULED, Row, World, api_server, assert_correct_answer, worlds

Requests = list[dict[str, Any]]

NO_DAGS: list[Path] = []

CALLER = CallerTaskInstance("cleanup", "reap", "now", UNMAPPED, "0197f0a2-5b1c-7d3e-8f90-a1b2c3d4e5f6")
CALLER_ROW = Row(*CALLER[:4], "running")
CALLER_REQUEST = {"dag_id": "cleanup", "task_ids": ["reap"], "run_ids": ["now"]}


class XComs:
    """The XComs that operators pushed, as Airflow 3's supervisor returns them; a value may be an error to raise,
    or a function that returns one.
    """

    def __init__(self, *pushed: tuple[Row, str, Any]) -> None:
        self._values = {(row[:4], key): value for row, key, value in pushed}
        self.misses = 0  # which Airflow logs
        self.calls = 0

    def get_all(self, *, key: str, dag_id: str, task_id: str, run_id: str) -> list[Any] | None:
        self.calls += 1
        found = sorted(
            (ids[3], value)
            for (ids, name), value in self._values.items()
            if ids[:3] == (dag_id, task_id, run_id) and name == key
        )
        return [self._read(value) for _, value in found] or None

    def get_one(self, *, key: str, dag_id: str, task_id: str, run_id: str, map_index: int | None) -> Any:
        self.calls += 1
        ids = (dag_id, task_id, run_id, UNMAPPED if map_index is None else map_index)
        if (ids, key) not in self._values:
            self.misses += 1
            return None
        return self._read(self._values[ids, key])

    def _read(self, value: Any) -> Any:
        value = value() if callable(value) else value
        if isinstance(value, Exception):
            raise value
        return value


def no_run(dag_id: str, run_id: str) -> Any:
    raise Refusal(404)


def source_of(
    get_task_states: Any, xcoms: XComs | None = None, max_failing_seconds: float = MAX_FAILING_SECONDS
) -> TaskSdkSource:
    queries = SdkQueries(
        SimpleNamespace(get_task_states=get_task_states, get_ti_count=StatesOnly([]).get_ti_count), no_run
    )
    return TaskSdkSource(queries, xcoms or XComs(), CALLER, "test", NO_DAGS, max_failing_seconds)


def without_verification(requests: Requests) -> Requests:
    return [request for request in requests if request != CALLER_REQUEST]


def fetch(rows: list[Row], *keys: TaskInstanceKey, seed: int = 0) -> tuple[TaskInstances, Requests]:
    """Return the source's answer and the requests that it sent."""
    requests: Requests = []
    sdk = StatesOnly([CALLER_ROW, *rows], Random(seed), requests)
    source = TaskSdkSource(SdkQueries(sdk, no_run), XComs(), CALLER, "test", NO_DAGS)
    return source.fetch(keys), without_verification(requests)


def row(task_id: str = "a", map_index: int = UNMAPPED, state: str | None = "running", **ids: str) -> Row:
    return Row(ids.get("dag_id", "orders"), task_id, ids.get("run_id", SCHEDULED), map_index, state)


@given(worlds())
def test_the_answer_is_correct_in_every_world(world: World) -> None:
    source = source_of(api_server([CALLER_ROW, *world.rows], world.random))
    for _attempt in (1, 2):  # the second uses the raw ids that the first has found
        assert_correct_answer(world, source.fetch(world.keys), is_task_sdk=True)


class TestFetch:
    @pytest.mark.parametrize(
        "found",
        [
            pytest.param(row(), id="its run_id has Airflow's default format"),
            pytest.param(row(run_id="run_1"), id="its run_id is a valid label value"),
            pytest.param(row(run_id="my run!"), id="its run_id is custom and hashed in the label"),
            pytest.param(row(run_id="run-0123456ab"), id="its run_id ends with what looks like a hash"),
            pytest.param(row(run_id=to_label_value(SCHEDULED)), id="its run_id equals the label value of another one"),
            pytest.param(row(task_id=ODD_ID), id="its task_id is hashed"),
            pytest.param(row(task_id=LONG_ID), id="its task_id is truncated"),
            pytest.param(row(task_id=LONG_ID, map_index=7), id="it is mapped and its task_id is truncated"),
            pytest.param(row(task_id=ODD_ID, run_id="my run!"), id="its task_id and its run_id are hashed"),
            pytest.param(row(task_id="a-0123456ab"), id="its task_id ends with what looks like a hash"),
            pytest.param(row(dag_id="orders-0123456ab"), id="its dag_id ends with what looks like a hash"),
            pytest.param(row(map_index=0), id="it is the first of a mapped task"),
            pytest.param(row(map_index=4_711), id="it has a high map index"),
            pytest.param(row(state=None), id="it was cleared"),
            pytest.param(row(state="a_state_of_a_later_airflow"), id="its state is unknown"),
        ],
    )
    def test_a_task_instance_is_found_if(self, found: Row) -> None:
        others = [row("b"), row("a", 3, "success"), row(run_id="another", state="success")]
        answer, _ = fetch([found, *others], found.key)
        ti = TaskInstance(found.state)
        assert answer == TaskInstances({found.key: ti}, {}, {found.key: (RawIds(*found[:3]),)})

    @pytest.mark.parametrize("seed", range(8))
    @pytest.mark.parametrize(
        "rows",
        [
            pytest.param(
                [row("a", 1, "running"), row("a_1", UNMAPPED, "success")],
                id="one is mapped and the other's task_id ends with the same number",
            ),
            pytest.param(
                [row("a", 1, "queued"), row("a_1", state="failed"), row("a_1", 2, None), row("a_1_2", state="success")],
                id="a task_id ends with what looks like two map indexes",
            ),
            pytest.param(
                [row(ODD_ID, 1, "running"), row(f"{ODD_ID}_1", UNMAPPED, "success")],
                id="their task_ids are hashed and one ends with what looks like a map index",
            ),
        ],
    )
    def test_task_instances_with_the_same_name_are_distinguished_if(self, rows: list[Row], seed: int) -> None:
        answer, _ = fetch(rows, *(each.key for each in rows), seed=seed)
        assert {key: ti.state for key, ti in answer.found.items()} == {each.key: each.state for each in rows}

    @pytest.mark.parametrize("states", [("running", "success"), ("success", "running")])
    def test_the_active_task_instance_counts_if_two_share_a_key(self, states: tuple[str, str]) -> None:
        rows = [row(ODD_ID, state=states[0]), row(to_label_value(ODD_ID), state=states[1])]
        answer, _ = fetch(rows, rows[0].key)
        assert answer.found == {rows[0].key: TaskInstance("running")}

    def test_a_task_instance_that_does_not_exist_is_absent(self) -> None:
        answer, _ = fetch([row()], make_key("orders", "b", SCHEDULED, UNMAPPED), make_key("orders", "a", SCHEDULED, 0))
        assert answer == TaskInstances()

    @pytest.mark.parametrize("dag_id", ["commandes_à_faire", "d" * 250])
    def test_a_key_with_a_hashed_dag_id_is_found_if_a_dag_file_contains_the_dag_id(
        self, tmp_path: Path, dag_id: str
    ) -> None:
        existing, absent = row(dag_id=dag_id, state="success"), row("b", dag_id=dag_id)
        (tmp_path / "dag.py").write_text(f'with DAG("{dag_id}"): ...', encoding="utf-8")
        source = TaskSdkSource(
            SdkQueries(StatesOnly([CALLER_ROW, existing]), no_run), XComs(), CALLER, "test", [tmp_path]
        )
        found, ids = TaskInstance("success"), RawIds(*existing[:3])
        expected = TaskInstances({existing.key: found}, {}, {existing.key: (ids,)})
        assert source.fetch([existing.key, absent.key]) == expected
        (tmp_path / "dag.py").unlink()  # the files are searched only once
        assert source.fetch([existing.key, absent.key]) == expected

    @pytest.mark.parametrize("dag_id", ["commandes_à_faire", "d" * 250])
    def test_a_key_with_a_hashed_dag_id_is_unresolved_if_no_dag_file_contains_the_dag_id(self, dag_id: str) -> None:
        existing = row(dag_id=dag_id, state="success")
        answer, _ = fetch([existing], existing.key)
        assert answer == TaskInstances({}, {existing.key: UNKNOWN_DAG})

    def test_all_dag_ids_that_cannot_be_looked_up_are_logged_once(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (tmp_path / "dag.py").write_text(f'DAG("{"f" * 70}")')
        unhashed = row(dag_id="orders-0123456ab")
        unknown = [row(dag_id=f"{number}{'d' * 70}") for number in range(12)]
        found = [row(dag_id="f" * 70), unhashed, row()]
        sdk = StatesOnly([CALLER_ROW, *unknown, *found])
        source = TaskSdkSource(SdkQueries(sdk, no_run), XComs(), CALLER, "test", [tmp_path])
        keys = [each.key for each in (*unknown, *found)]
        for _attempt in (1, 2):
            assert set(source.fetch(keys).unresolved) == {each.key for each in unknown}
        text = " ".join(" ".join(caplog.messages).split())
        assert text.startswith("12 dag_ids cannot be looked up: ")
        assert "airflow_conn_id" in text
        assert text.endswith(f"The labels: {' '.join(sorted(each.key.dag_id for each in unknown))}")

    def test_the_list_of_dag_ids_that_cannot_be_looked_up_is_short_and_printable(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        labels = [f"\x1b{number:04d}-0123456ab" for number in range(MAX_LISTED + 3)]
        fetch([], *(make_key("orders", "a", SCHEDULED, UNMAPPED)._replace(dag_id=label) for label in labels))
        assert all(message.isprintable() for message in caplog.messages)
        assert "\\x1b0000-0123456ab" in caplog.text
        assert caplog.messages[-1].endswith(" and 3 more")

    def test_a_key_without_task_instance_is_unresolved_if_its_dag_id_may_be_hashed(self) -> None:
        key = make_key("orders-0123456ab", "a", SCHEDULED, UNMAPPED)
        assert list(fetch([row()], key)[0].unresolved) == [key]

    def test_a_later_call_returns_the_current_states(self) -> None:
        rows = [CALLER_ROW, row(run_id="my run!", state="failed")]
        source = source_of(lambda **request: api_server(rows, Random(0))(**request))
        key = rows[1].key
        assert not source.fetch([key]).found[key].is_active
        rows[1] = row(run_id="my run!", state=None)
        assert source.fetch([key]).found[key].is_active
        del rows[1]
        assert source.fetch([key]) == TaskInstances()


class TestRequests:
    def test_nothing_is_requested_if_there_are_no_keys(self) -> None:
        assert fetch([row()]) == (TaskInstances(), [])

    def test_one_request_per_dag_is_sent_if_the_run_ids_have_the_default_format(self) -> None:
        rows = [
            row(f"task{task}", map_index, dag_id=f"dag{dag}", run_id=f"scheduled__2026-11-{day:02d}T00:00:00+00:00")
            for dag in range(3)
            for task in range(4)
            for day in (1, 2)
            for map_index in (UNMAPPED, 0, 1)
        ]
        answer, requests = fetch(rows, *(each.key for each in rows))
        assert len(answer.found) == len(rows)
        assert [request["dag_id"] for request in requests] == ["dag0", "dag1", "dag2"]

    def test_the_rebuilt_run_id_and_the_task_are_requested_if_the_run_id_has_the_default_format(self) -> None:
        _, requests = fetch([row()], row().key)
        assert requests == [
            {"dag_id": "orders", "task_ids": ["a"], "run_ids": sorted([SCHEDULED, to_label_value(SCHEDULED)])}
        ]

    def test_the_task_is_requested_in_all_runs_if_the_run_id_is_hashed(self) -> None:
        hidden = row(run_id="my run!")
        _, requests = fetch([hidden], hidden.key)
        assert [(request["task_ids"], request["run_ids"]) for request in requests] == [
            (["a"], [to_label_value("my run!")]),
            (["a"], None),
            (["a"], sorted([to_label_value("my run!"), "my run!"])),
        ]

    @pytest.mark.parametrize("task_id", ["a", ODD_ID], ids=["plain task_id", "hashed task_id"])
    def test_a_hashed_run_id_is_not_searched_for_among_too_many_task_instances(self, task_id: str) -> None:
        hidden = row(task_id, run_id="my run!")
        others = [row(task_id, run_id=str(number)) for number in range(MAX_SEARCHED)]
        answer, requests = fetch([hidden, *others], hidden.key)
        why = (
            "the run_id behind its label would have to be searched for among more than 5,000 task instances (set "
            "airflow_conn_id)"
        )
        assert answer == TaskInstances({}, {hidden.key: why})
        assert [request for request in requests if not request["run_ids"]] == []
        answer, _ = fetch([hidden, *others[1:]], hidden.key)
        assert answer.found

    def test_a_hashed_run_id_that_is_found_for_one_task_is_known_for_tasks_with_too_many_task_instances(self) -> None:
        hidden = [row("a", run_id="my run!"), row("b", run_id="my run!")]
        others = [row("b", run_id=str(number)) for number in range(MAX_SEARCHED)]
        answer, _ = fetch([*hidden, *others], *(each.key for each in hidden))
        assert set(answer.found) == {each.key for each in hidden}

    def test_hashed_task_ids_are_searched_for_in_one_run_only(self) -> None:
        rows = [
            row(task_id, map_index, run_id=run)
            for task_id, map_index in ((ODD_ID, 3), (LONG_ID, UNMAPPED))
            for run in ("run_1", "run_2", "run_3")
        ]
        answer, requests = fetch(rows, *(each.key for each in rows))
        assert set(answer.found) == {each.key for each in rows}
        assert [request["run_ids"] for request in requests if not request["task_ids"]] == [["run_1"]]

    @pytest.mark.parametrize("run_id", ["deploy-1a2b3c4d5", to_label_value("my run!")])
    def test_only_one_run_is_requested_if_the_label_is_the_raw_run_id(self, run_id: str) -> None:
        _, requests = fetch([row(run_id=run_id)], row(run_id=run_id).key)
        assert requests == [{"dag_id": "orders", "task_ids": ["a"], "run_ids": [run_id]}]

    def test_all_runs_are_requested_only_for_tasks_whose_hashed_run_id_was_not_found(self) -> None:
        found, hidden, plain = row(run_id="deploy-1a2b3c4d5"), row("b", run_id="my run!"), row("c")
        answer, requests = fetch([found, hidden], found.key, hidden.key, plain.key)
        assert set(answer.found) == {found.key, hidden.key}
        assert [request["task_ids"] for request in requests if not request["run_ids"]] == [["b"]]

    @pytest.mark.parametrize(
        "found",
        [
            pytest.param(row(run_id="my run!"), id="its run_id was hashed"),
            pytest.param(row(ODD_ID), id="its task_id was hashed"),
            pytest.param(row(ODD_ID, run_id="my run!"), id="both ids were hashed"),
            pytest.param(row(LONG_ID, 7, run_id="my run!"), id="it is mapped and both ids were hashed"),
        ],
    )
    def test_a_task_instance_that_was_found_is_requested_by_its_raw_ids_if(self, found: Row) -> None:
        requests: Requests = []
        source = source_of(api_server([CALLER_ROW, found, row("b")], Random(0), requests))
        first = source.fetch([found.key])
        requests.clear()
        assert source.fetch([found.key]) == first
        [request] = without_verification(requests)
        assert found.run_id in request["run_ids"]
        assert found.task_id in request["task_ids"]

    @pytest.mark.parametrize(
        ("task_id", "run_id"),
        [
            pytest.param("task_{0:04d}_" + "t" * 40, "run_{1:04d}", id="the ids have an ordinary length"),
            pytest.param("task_{0:04d}_" + "t" * 40, SCHEDULED, id="all tasks belong to one run"),
            pytest.param("t{0:04d}" + "é日" * 120, SCHEDULED, id="the task_ids are long and percent-encoded"),
            pytest.param("t{0:04d}" + "t" * 245, "my run! {1}", id="the task_ids are long and the run_ids are hashed"),
        ],
    )
    def test_no_url_is_longer_than_a_proxy_accepts_if(self, task_id: str, run_id: str) -> None:
        rows = [row(task_id.format(number, number), run_id=run_id.format(number, number)) for number in range(150)]
        answer, requests = fetch(rows, *(each.key for each in rows))
        assert len(answer.found) == len(rows)
        for request in requests:
            ids = [("task_ids", value) for value in request["task_ids"] or ()]
            ids += [("run_ids", value) for value in request["run_ids"] or ()]
            assert sum(len(f"&{name}={quote_plus(value)}") for name, value in ids) <= MAX_QUERY

    @pytest.mark.parametrize(
        ("run_type", "suffix", "runs", "tasks", "expected"),
        [
            pytest.param("scheduled", "", 50, 1, 1, id="many scheduled runs have a pod each"),
            pytest.param("manual", "_AbCdEfGh", 50, 1, 1, id="many manual runs have a pod each"),
            pytest.param("asset_triggered", "_AbCdEfGh", 50, 1, 1, id="many asset-triggered runs have a pod each"),
            pytest.param("scheduled", "", 1, 50, 1, id="one run has many pods"),
            pytest.param("scheduled", "", 100, 5, 2, id="there are more runs than fit into one URL"),
            pytest.param("scheduled", "", 2, 400, 2, id="there are more tasks than fit into one URL"),
        ],
    )
    def test_few_requests_per_dag_are_sent_if(
        self, run_type: str, suffix: str, runs: int, tasks: int, expected: int
    ) -> None:
        rows = [
            row(f"transform_{task:03d}", run_id=f"{run_type}__2026-11-24T00:00:00.{run:06d}+00:00{suffix}")
            for run in range(1, runs + 1)
            for task in range(tasks)
        ]
        answer, requests = fetch(rows, *(each.key for each in rows))
        assert len(answer.found) == len(rows)
        assert len(requests) == expected

    def test_requests_are_split_only_as_often_as_their_length_requires(self) -> None:
        rows = [row(f"task_{number:04d}") for number in range(400)]  # 20 characters each in the URL
        _, requests = fetch(rows, *(each.key for each in rows))
        assert len(requests) == 2

    def test_hashed_run_ids_are_found_in_a_long_history_within_a_second(self) -> None:
        # These run_ids of Airflow 3 are truncated in a label.
        def run_id(number: int) -> str:
            return f"asset_materialization__2026-11-24T02:13:14.{number:06d}+00:00_AbCdEfGh"

        history = [row(run_id=run_id(number), state="success") for number in range(3_000)]
        started = time.process_time()
        answer, _ = fetch(history, *(each.key for each in history[:200]))
        assert len(answer.found) == 200
        assert time.process_time() - started < 1


class TestErrors:
    def test_a_failed_request_is_an_error_that_shows_the_request_and_the_cause(self) -> None:
        def get_task_states(**request: Any) -> Any:
            if request == CALLER_REQUEST:
                return {CALLER.run_id: {CALLER.task_id: "running"}}
            raise RuntimeError("API_SERVER_ERROR 503")

        with pytest.raises(TaskInstanceSourceError) as caught:
            source_of(get_task_states).fetch([row().key])
        request = {"dag_id": "orders", "task_ids": ["a"], "run_ids": sorted([SCHEDULED, to_label_value(SCHEDULED)])}
        assert caught.value.summary == f"the Task SDK could not read task states for {request}"
        assert (caught.value.cause, caught.value.remedy) == (
            "API_SERVER_ERROR 503",
            "see the log of Airflow's API server",
        )
        assert isinstance(caught.value.__cause__, RuntimeError)

    @pytest.mark.parametrize("malformed", [None, [], "{}", {"run_1": None}, {"run_1": ["a"]}, 5], ids=repr)
    def test_an_answer_that_is_not_a_mapping_of_states_is_an_error(self, malformed: Any) -> None:
        with pytest.raises(TaskInstanceSourceError, match=r"returned .* as task states for \{'dag_id': 'cleanup'"):
            source_of(lambda **request: malformed).fetch([row().key])

    @pytest.mark.parametrize("state", [5, True, ["success"], {"state": "success"}], ids=repr)
    def test_a_state_that_is_not_a_string_is_an_error_or_active(self, state: Any) -> None:
        source = source_of(lambda **request: {CALLER.run_id: {CALLER.task_id: "running"}, SCHEDULED: {"a": state}})
        try:
            answer = source.fetch([row().key])
        except TaskInstanceSourceError:
            return
        assert answer.found[row().key].is_active


class TestFailingDags:
    """Three DAGs, and requests for some of them fail."""

    ROWS: ClassVar = [row(dag_id=dag_id) for dag_id in "abc"]

    def fetch(self, *failing: str) -> TaskInstances:
        answer_of = api_server([CALLER_ROW, *self.ROWS], Random(0))

        def get_task_states(**request: Any) -> Any:
            if request["dag_id"] in failing and (request != CALLER_REQUEST or requests):
                raise TimeoutError(f"too\n slow {'!' * 300}")
            requests.append(request)
            return answer_of(**request)

        requests: Requests = []
        return source_of(get_task_states).fetch([each.key for each in self.ROWS])

    @pytest.mark.parametrize("failing", ["a", "b", "c"])
    def test_the_keys_of_a_failing_dag_are_unresolved_with_the_reason(self, failing: str) -> None:
        answer = self.fetch(failing)
        [unresolved] = [each.key for each in self.ROWS if each.dag_id == failing]
        assert set(answer.found) == set(answer.raw_ids) == {each.key for each in self.ROWS} - {unresolved}
        assert set(answer.unresolved) == {unresolved}
        assert answer.unresolved[unresolved].startswith("its DAG could not be queried: too slow !!!")
        assert len(answer.unresolved[unresolved]) < 250

    def test_the_query_fails_if_the_requests_for_all_dags_fail(self) -> None:
        with pytest.raises(TaskInstanceSourceError, match="the Task SDK could not read task states"):
            self.fetch("a", "b", "c")

    def test_the_query_fails_if_the_caller_can_no_longer_be_queried(self) -> None:
        with pytest.raises(TaskInstanceSourceError, match=r"could not read task states for \{'dag_id': 'cleanup'"):
            self.fetch("a", CALLER.dag_id)

    def test_the_query_fails_if_the_caller_has_finished_in_the_meantime(self) -> None:
        callers = iter(["running", "failed"])

        def get_task_states(**request: Any) -> Any:
            if request == CALLER_REQUEST:
                return {CALLER.run_id: {CALLER.task_id: next(callers)}}
            raise TimeoutError("too slow")

        with pytest.raises(TaskInstanceSourceError, match="the answers of test were rejected"):
            source_of(get_task_states).fetch([each.key for each in self.ROWS])


class TestVerification:
    @pytest.mark.parametrize(
        ("caller", "wrong"),
        [
            pytest.param([], "is missing there", id="does not exist"),
            pytest.param([CALLER_ROW._replace(run_id="yesterday")], "is missing there", id="is that of an earlier run"),
            pytest.param([CALLER_ROW._replace(map_index=0)], "is missing there", id="is mapped"),
            pytest.param(
                [CALLER_ROW._replace(state="queued")], "is 'queued' there instead of 'running'", id="is queued"
            ),
            pytest.param(
                [CALLER_ROW._replace(state="failed")], "is 'failed' there instead of 'running'", id="has failed"
            ),
            pytest.param([CALLER_ROW._replace(state=None)], "is None there instead of 'running'", id="was cleared"),
        ],
    )
    def test_answers_are_rejected_if_the_calling_task_instance(self, caller: list[Row], wrong: str) -> None:
        rows = [CALLER_ROW, row(state="failed")]
        source = source_of(lambda **request: api_server(rows, Random(0))(**request))
        assert source.fetch([row().key]).found
        rows[:1] = caller
        with pytest.raises(TaskInstanceSourceError, match="the answers of test were rejected") as caught:
            source.fetch([row().key])
        assert caught.value.cause == f"this task, cleanup.reap of run 'now', {wrong}"

    def test_answers_are_accepted_if_the_caller_is_mapped_and_its_run_id_is_hashed(self) -> None:
        caller = CallerTaskInstance("cleanup", "reap", "my run!", 3, CALLER.id)
        queries = SdkQueries(StatesOnly([Row(*caller[:4], "running"), row()]), no_run)
        assert TaskSdkSource(queries, XComs(), caller, "test", NO_DAGS).fetch([row().key]).found


def read_record(xcoms: XComs, *rows: Row) -> Record | None:
    """Return the record of the key that these rows share."""
    source, [key] = source_of(api_server([CALLER_ROW, *rows], Random(0)), xcoms), {each.key for each in rows}
    return source.read_records(source.fetch([key]), [key]).get(key)


def pod_xcoms(row: Row, name: Any, namespace: Any = "airflow") -> list[tuple[Row, str, Any]]:
    return [(row, "pod_name", name), (row, "pod_namespace", namespace)]


class TestRecords:
    @pytest.mark.parametrize(
        "ids",
        [
            pytest.param({}, id="is not mapped"),
            pytest.param({"map_index": 3}, id="is mapped"),
            pytest.param({"run_id": "my run!", "task_id": ODD_ID}, id="has hashed ids"),
        ],
    )
    def test_a_record_is_read_if_the_task_instance(self, ids: dict[str, Any]) -> None:
        existing, other = row(state="failed", **ids), row("b")
        xcoms = XComs(*pod_xcoms(existing, "load-x1"), *pod_xcoms(other, "load-x2"))
        assert read_record(xcoms, existing) == Record(frozenset({"airflow/load-x1"}))
        assert not xcoms.misses

    @pytest.mark.parametrize("map_index", [UNMAPPED, 3])
    def test_there_is_no_record_and_no_line_in_the_log_without_its_xcoms(self, map_index: int) -> None:
        existing = row(map_index=map_index)
        xcoms = XComs((existing, "return_value", "load-x1"))
        assert read_record(xcoms, existing) is None
        assert not xcoms.misses

    def test_the_record_of_a_mapped_task_instance_is_never_that_of_another_map_index(self) -> None:
        rows = [row(map_index=index) for index in range(4)]
        xcoms = XComs(*pod_xcoms(rows[0], "pod-0"), *pod_xcoms(rows[2], "pod-2"))
        source = source_of(api_server([CALLER_ROW, *rows], Random(0)), xcoms)
        keys = [each.key for each in rows]
        assert source.read_records(source.fetch(keys), keys) == {
            keys[0]: Record(frozenset({"airflow/pod-0"})),
            keys[2]: Record(frozenset({"airflow/pod-2"})),
        }

    def test_the_only_record_of_a_mapped_task_is_that_of_one_map_index(self) -> None:
        rows = [row(map_index=index) for index in range(2)]
        xcoms = XComs(*pod_xcoms(rows[0], "pod-0"))
        source, keys = source_of(api_server([CALLER_ROW, *rows], Random(0)), xcoms), [each.key for each in rows]
        assert source.read_records(source.fetch(keys), keys) == {keys[0]: Record(frozenset({"airflow/pod-0"}))}

    def test_the_record_of_a_job_is_read_from_its_own_xcoms(self) -> None:
        pushed = {"job_name": "job-x1", "job_namespace": "airflow", "job": {"status": None}}
        xcoms = XComs(*pod_xcoms(row(), "load-x1"), *((row(), name, value) for name, value in pushed.items()))
        source = source_of(api_server([CALLER_ROW, row()], Random(0)), xcoms)
        records = source.read_records(source.fetch([row().key]), [row().key], KINDS["Job"].record_keys)
        assert records == {row().key: Record(frozenset({"Job airflow/job-x1"}), is_detached=True)}

    def test_missing_records_cost_one_request_per_xcom_key_for_all_map_indexes(self) -> None:
        rows = [row(map_index=index) for index in range(50)]
        xcoms = XComs()
        source = source_of(api_server([CALLER_ROW, *rows], Random(0)), xcoms)
        keys = [each.key for each in rows]
        assert source.read_records(source.fetch(keys), keys) == {}
        assert xcoms.calls == 2

    @pytest.mark.parametrize(
        ("pushed", "problem"),
        [
            pytest.param(
                [(row(), "pod_namespace", "a")], "its XCom pod_name is missing", id="the XCom with the name is missing"
            ),
            pytest.param(
                pod_xcoms(row(), "s3://xcoms/token=SECRET"),
                "its XCom pod_name is not a valid Kubernetes name: 's3://xcoms/t…'",
                id="a custom backend stored a reference",
            ),
            pytest.param(
                pod_xcoms(row(), "Twelve_chars"),
                "its XCom pod_name is not a valid Kubernetes name: 'Twelve_chars'",
                id="its value is short and not a name",
            ),
            pytest.param(
                pod_xcoms(row(), ["a"]), "its XCom pod_name is a list, not a Kubernetes name", id="its value is a list"
            ),
            pytest.param(
                pod_xcoms(row(), PermissionError("access\n denied")),
                "its XCom pod_name cannot be read: access denied",
                id="a custom backend denies access",
            ),
        ],
    )
    def test_a_record_has_a_problem_if(self, pushed: list[tuple[Row, str, Any]], problem: str) -> None:
        assert read_record(XComs(*pushed), row()) == Record(problem=problem)

    def test_a_record_may_have_no_namespace(self) -> None:
        assert read_record(XComs((row(), "pod_name", "load-x1")), row()) == Record(frozenset({"load-x1"}))

    def test_other_records_are_read_if_one_cannot_be_read(self) -> None:
        rows = [row("a"), row("b")]
        xcoms = XComs(*pod_xcoms(rows[0], PermissionError("access denied")), *pod_xcoms(rows[1], "load-x1"))
        source = source_of(api_server([CALLER_ROW, *rows], Random(0)), xcoms)
        keys = [each.key for each in rows]
        records = source.read_records(source.fetch(keys), keys)
        assert records[keys[0]].problem
        assert records[keys[1]] == Record(frozenset({"airflow/load-x1"}))

    def test_the_query_fails_if_requests_fail_in_a_row_for_too_long(self) -> None:
        xcoms = XComs(*pod_xcoms(row(), TimeoutError("no answer")))
        source = source_of(api_server([CALLER_ROW, row()], Random(0)), xcoms, max_failing_seconds=0)
        with pytest.raises(
            TaskInstanceSourceError, match=r"the Task SDK has failed to answer for .* s: no answer; see"
        ):
            source.read_records(source.fetch([row().key]), [row().key])

    def test_a_success_resets_the_time_for_which_requests_have_been_failing(self) -> None:
        def time_out() -> Exception:
            time.sleep(0.02)
            return TimeoutError("no answer")

        rows = [row(dag_id=f"dag_{number:02d}") for number in range(40)]
        xcoms = XComs(
            *(xcom for n, row in enumerate(rows) for xcom in pod_xcoms(row, "load-x1" if n % 2 else time_out))
        )
        source = source_of(api_server([CALLER_ROW, *rows], Random(0)), xcoms, max_failing_seconds=0.3)
        keys = [each.key for each in rows]
        records = source.read_records(source.fetch(keys), keys)
        assert [bool(records[key].problem) for key in keys] == [True, False] * 20

    def test_a_dag_whose_requests_have_failed_for_too_long_is_no_longer_queried(self) -> None:
        rows = [row("a"), row("b"), row(dag_id="other")]

        def time_out() -> Exception:
            time.sleep(0.02)
            return TimeoutError("no answer")

        xcoms = XComs(*pod_xcoms(rows[0], time_out), *pod_xcoms(rows[1], time_out), *pod_xcoms(rows[2], "load-x1"))
        source = source_of(api_server([CALLER_ROW, *rows], Random(0)), xcoms, max_failing_seconds=0.1)
        keys = [each.key for each in rows]
        records = source.read_records(source.fetch(keys), keys)
        assert records == {
            **dict.fromkeys(keys[:2], Record(problem="its XCom pod_name cannot be read: no answer")),
            keys[2]: Record(frozenset({"airflow/load-x1"})),
        }
        assert xcoms.calls == 3

    def test_a_record_has_the_pods_of_all_task_instances_that_share_a_key(self) -> None:
        odd, label = row(ODD_ID), row(to_label_value(ODD_ID))
        xcoms = XComs(*pod_xcoms(odd, "odd"), *pod_xcoms(label, "label", "other"))
        assert read_record(xcoms, odd, label) == Record(frozenset({"airflow/odd", "other/label"}))


NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


def source_with_tries(sdk: TaskSdk) -> TaskSdkSource:
    return TaskSdkSource(SdkQueries(sdk, sdk.dag_run), XComs(), CALLER, "test", NO_DAGS)


@given(worlds())
def test_try_numbers_and_end_times_are_never_those_of_another_task_instance(world: World) -> None:
    rows = [
        row._replace(try_number=number, end_date=NOON + timedelta(seconds=number))
        for number, row in enumerate(world.rows)
    ]
    dates = {run_id: NOON + number * MICROSECOND for number, run_id in enumerate({row.run_id for row in rows})}
    source = source_with_tries(TaskSdk([CALLER_ROW, *rows], dates, world.random))
    fetched = source.fetch(world.keys)
    answer = source.complete(fetched, sorted(fetched.found))
    assert answer.found.keys() == fetched.found.keys()
    for key, ti in answer.found.items():
        real = [row for row in rows if RawIds(*row[:3]) in fetched.raw_ids[key] and row.map_index == key.map_index]
        noon = int(NOON.timestamp())
        expected = [TaskInstance(row.state, row.try_number, noon + row.try_number) for row in real]
        assert [ti] == expected or (len(expected) > 1 and ti == fetched.found[key])
    assert answer.unresolved == fetched.unresolved


class TestComplete:
    def test_only_the_given_keys_are_completed(self) -> None:
        rows = [row("a", state="failed")._replace(end_date=NOON), row("b", state="failed")]
        source = source_with_tries(TaskSdk([CALLER_ROW, *rows], {SCHEDULED: NOON}))
        keys = [each.key for each in rows]
        answer = source.complete(source.fetch(keys), keys[:1])
        assert answer.found == {
            keys[0]: TaskInstance("failed", 1, int(NOON.timestamp())),
            keys[1]: TaskInstance("failed"),
        }

    def test_a_task_instance_that_has_changed_becomes_unresolved(self) -> None:
        sdk = TaskSdk([CALLER_ROW, row("a", state="failed"), row("b", state="failed")], {SCHEDULED: NOON})
        source = source_with_tries(sdk)
        keys = [each.key for each in sdk.rows[1:]]
        fetched = source.fetch(keys)
        sdk.rows[1] = row("a", state="running")
        answer = source.complete(fetched, keys)
        why = "its try and its end cannot be read: its state has changed in the meantime"
        assert answer.unresolved == {keys[0]: why}
        assert answer.found[keys[1]].try_number == 1

    def test_the_query_fails_if_the_api_server_fails_for_too_long(self) -> None:
        sdk = TaskSdk([CALLER_ROW, row(state="failed")], {SCHEDULED: NOON})

        def fail(dag_id: str, run_id: str) -> Any:
            raise Refusal(503)

        source = TaskSdkSource(SdkQueries(sdk, fail), XComs(), CALLER, "test", NO_DAGS, max_failing_seconds=0)
        with pytest.raises(TaskInstanceSourceError, match=r"the Task SDK has failed to answer for .* s: .*503"):
            source.complete(source.fetch([row().key]), [row().key])


@pytest.mark.parametrize("query", ["states", "records", "try numbers and end times"])
def test_a_request_is_completed_before_sigterm_takes_effect_during_a_query_for(query: str) -> None:
    """The supervisor's response to an interrupted request would be mistaken for the response to the next request."""
    completed = list[str]()

    def with_sigterm(name: str, request: Callable[..., Any]) -> Callable[..., Any]:
        def send(*values: Any, **ids: Any) -> Any:
            if name == query:
                os.kill(os.getpid(), signal.SIGTERM)
            completed.append(name)
            return request(*values, **ids)

        return send

    sdk, xcoms = TaskSdk([CALLER_ROW, row(state="failed")], {SCHEDULED: NOON}), XComs()
    sdk.get_task_states = with_sigterm("states", sdk.get_task_states)  # type: ignore[method-assign]
    xcoms.get_all = with_sigterm("records", xcoms.get_all)  # type: ignore[method-assign]
    queries = SdkQueries(sdk, with_sigterm("try numbers and end times", sdk.dag_run))
    source, keys = TaskSdkSource(queries, xcoms, CALLER, "test", NO_DAGS), [row().key]

    def send_all() -> None:
        task_instances = source.fetch(keys)
        source.read_records(task_instances, keys)
        source.complete(task_instances, keys)

    with raise_on_sigterm(), pytest.raises(Terminated):
        send_all()
    assert completed[-1] == query
    assert completed.count(query) == 1
