"""The try and the end of a task instance from a simulated Task SDK; ``tests/dag/`` has the tests of the real one."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from include.kpo_cleanup.identity import UNMAPPED
from include.kpo_cleanup.task_instance import RawIds, TaskInstance
from include.kpo_cleanup.task_instances.sdk_queries import MAX_HISTORY, SdkQueries
from tests.unit.sdk import MICROSECOND, Refusal, StatesOnly, TaskSdk
from tests.unit.worlds import Row

MIDNIGHT = datetime(2026, 11, 24, tzinfo=UTC)
IDS = RawIds("orders", "a", "run_1")
ROW = Row("orders", "a", "run_1", UNMAPPED, "failed", 2, datetime.fromtimestamp(1_000, UTC))
FAILED = TaskInstance("failed")
COMPLETE = TaskInstance("failed", 2, 1_000)


def complete(sdk: TaskSdk, ids: RawIds = IDS, ti: TaskInstance = FAILED, reads_history: bool = False) -> TaskInstance:
    return SdkQueries(sdk, sdk.dag_run, reads_history).with_try_and_end(ids, UNMAPPED, ti)


def test_the_try_and_the_end_are_those_of_the_run_and_never_of_the_one_a_microsecond_before_or_after() -> None:
    others = [ROW._replace(run_id=run_id, try_number=9) for run_id in ("before", "after")]
    dates = {"before": MIDNIGHT - MICROSECOND, "run_1": MIDNIGHT, "after": MIDNIGHT + MICROSECOND}
    assert complete(TaskSdk([ROW, *others], dates)) == COMPLETE


def test_the_class_of_the_operator_is_kept() -> None:
    ti = FAILED._replace(operator="PodOperator")
    assert complete(TaskSdk([ROW], {"run_1": MIDNIGHT}), ti=ti) == COMPLETE._replace(operator="PodOperator")


@pytest.mark.parametrize(
    "now",
    [
        pytest.param(ROW._replace(state=None), id="cleared"),
        pytest.param(ROW._replace(state="running"), id="started again"),
        pytest.param(ROW._replace(run_id="before"), id="deleted, and an earlier run has one"),
        pytest.param(ROW._replace(map_index=0), id="mapped"),
    ],
)
def test_there_is_no_answer_if_in_the_meantime_the_task_instance_was(now: Row) -> None:
    rows = [now, Row("orders", "b", "run_1", UNMAPPED, "failed")]
    with pytest.raises(LookupError):
        complete(TaskSdk(rows, {"before": MIDNIGHT - MICROSECOND, "run_1": MIDNIGHT}))


def test_a_cleared_task_instance_that_has_started_again_has_changed() -> None:
    with pytest.raises(LookupError):
        complete(TaskSdk([ROW._replace(state="running")], {"run_1": MIDNIGHT}), ti=TaskInstance(None))


@pytest.mark.parametrize(
    ("run_id", "sdk"),
    [
        pytest.param("run_1", TaskSdk([ROW], {}), id="its run has no logical date"),
        pytest.param("gone", TaskSdk([ROW], {}), id="the API server responds 404"),
        *(
            pytest.param(run_id, TaskSdk([ROW._replace(run_id=run_id)], {run_id: MIDNIGHT}), id=f"its run is {run_id}")
            for run_id in ("a/state", "a?b", "a#b", "a%2Fb", "..", ".")
        ),
    ],
)
def test_a_task_instance_stays_as_it_is_if(run_id: str, sdk: TaskSdk) -> None:
    assert complete(sdk, IDS._replace(run_id=run_id)) == FAILED


def test_a_task_instance_stays_as_it_is_before_airflow_3_2() -> None:
    sdk = TaskSdk([ROW], {"run_1": MIDNIGHT})
    assert SdkQueries(StatesOnly([ROW]), sdk.dag_run).with_try_and_end(IDS, UNMAPPED, FAILED) == FAILED
    assert sdk.log == []


@pytest.mark.parametrize("status", [None, 500, 503])
def test_an_outage_is_raised_and_does_not_count_as_a_missing_run(status: int | None) -> None:
    def fail(dag_id: str, run_id: str) -> Any:
        raise Refusal(status)

    with pytest.raises(Refusal):
        SdkQueries(TaskSdk([ROW], {}), fail).with_try_and_end(IDS, UNMAPPED, FAILED)


def test_the_logical_date_of_a_run_is_requested_once() -> None:
    rows = [ROW, ROW._replace(task_id="b")]
    sdk = TaskSdk(rows, {"run_1": MIDNIGHT})
    queries = SdkQueries(sdk, sdk.dag_run)
    for row in [*rows, *rows]:
        queries.with_try_and_end(RawIds(*row[:3]), UNMAPPED, FAILED)
    task_instances = [("a", UNMAPPED), ("b", UNMAPPED)]
    assert sdk.log == ["run_1", *task_instances, *task_instances]


@pytest.mark.parametrize(
    ("state", "others", "expected"),
    [
        pytest.param("failed", "failed", FAILED, id="too many have its state"),
        pytest.param("failed", "success", COMPLETE, id="the others have another state"),
        pytest.param(
            None, "success", TaskInstance(None), id="it was cleared, so that the query cannot filter by its state"
        ),
    ],
)
def test_a_long_history_is_not_loaded_by_an_api_server_that_loads_all_of_it(
    state: str | None, others: str, expected: TaskInstance
) -> None:
    history = [ROW._replace(run_id=f"other_{number}", state=others) for number in range(MAX_HISTORY)]
    sdk = TaskSdk([*history, ROW._replace(state=state)], {"run_1": MIDNIGHT})
    assert complete(sdk, ti=TaskInstance(state), reads_history=True) == expected
    assert complete(sdk, ti=TaskInstance(state)).try_number == 2


def test_only_the_history_of_the_same_map_index_counts() -> None:
    mapped = ROW._replace(map_index=3)
    sdk = TaskSdk([*[ROW._replace(run_id=str(number)) for number in range(MAX_HISTORY)], mapped], {"run_1": MIDNIGHT})
    assert SdkQueries(sdk, sdk.dag_run, reads_history=True).with_try_and_end(IDS, 3, FAILED) == COMPLETE
