"""Rules for all sources: which states are finished, and which of two task instances with the same key decides."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import pytest
from airflow.utils.state import State

from include.kpo_cleanup.constants import FINISHED_STATES
from include.kpo_cleanup.identity import TaskInstanceKey
from include.kpo_cleanup.task_instance import RawIds, TaskInstance, TaskInstances
from tests.unit.builders import NOW

KEY = TaskInstanceKey("orders", "extract", "run_1")
OTHER = TaskInstanceKey("orders", "extract", "run_1", 0)
RAW = RawIds("orders", "extract", "run_1")
RUNNING, CLEARED = TaskInstance("running"), TaskInstance(None)
FAILED, SUCCEEDED_LATER = TaskInstance("failed", ended=NOW - 10), TaskInstance("success", ended=NOW)


def combine(task_instances: Iterable[TaskInstance]) -> TaskInstance:
    """Return the task instance that decides among those that share a key."""
    return TaskInstances.from_found([(KEY, RAW, ti) for ti in task_instances], {}).found[KEY]


def test_the_finished_states_are_airflows() -> None:
    assert {str(state.value) for state in State.finished if state is not None} == FINISHED_STATES


def test_every_other_state_of_this_airflow_is_active() -> None:
    unfinished = {None if state is None else str(state.value) for state in State.unfinished}
    assert None in unfinished
    assert all(TaskInstance(state).is_active for state in unfinished)


@pytest.mark.parametrize(
    ("winner", "other"),
    [
        pytest.param(RUNNING, FAILED, id="it is active and the other has finished"),
        pytest.param(CLEARED, SUCCEEDED_LATER, id="it was cleared and the other has finished"),
        pytest.param(TaskInstance("running", ended=1), SUCCEEDED_LATER, id="it is active and has an earlier end"),
        pytest.param(SUCCEEDED_LATER, FAILED, id="both have finished and it ended later"),
        pytest.param(FAILED, TaskInstance("failed"), id="both have finished and only its end is known"),
    ],
)
def test_a_task_instance_decides_in_either_order_if(winner: TaskInstance, other: TaskInstance) -> None:
    assert combine([winner, other]) == winner
    assert combine([other, winner]) == winner


def test_the_active_task_instance_decides_in_every_order_of_three() -> None:
    for order in itertools.permutations([FAILED, RUNNING, SUCCEEDED_LATER]):
        assert combine(order) == RUNNING


def test_task_instances_with_different_keys_are_separate() -> None:
    found = [(KEY, RAW, RUNNING), (OTHER, RAW, FAILED)]
    assert TaskInstances.from_found(found, {}).found == {KEY: RUNNING, OTHER: FAILED}


def test_each_key_has_the_raw_ids_of_all_its_task_instances_once() -> None:
    longer = RawIds("orders!", "extract", "run_1")
    found = [(KEY, longer, FAILED), (KEY, RAW, RUNNING), (KEY, longer, FAILED), (OTHER, RAW, FAILED)]
    assert TaskInstances.from_found(found, {}).raw_ids == {KEY: (RAW, longer), OTHER: (RAW,)}
