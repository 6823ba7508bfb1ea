"""Rules for all sources: which states are over, and which of two task instances counts."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import pytest
from airflow.utils.state import State

from include.kpo_cleanup.constants import FINISHED_STATES
from include.kpo_cleanup.identity import TaskInstanceKey
from include.kpo_cleanup.task_instance import RawIds, TaskInstance
from include.kpo_cleanup.task_instances.label_decoding import collect
from tests.unit.builders import NOW

KEY = TaskInstanceKey("orders", "extract", "run_1")
OTHER = TaskInstanceKey("orders", "extract", "run_1", 0)
RAW = RawIds("orders", "extract", "run_1")
RUNNING, CLEARED = TaskInstance("running"), TaskInstance(None)
FAILED, FAILED_LATER = TaskInstance("failed", ended=NOW - 10), TaskInstance("success", ended=NOW)


def collected(task_instances: Iterable[TaskInstance]) -> TaskInstance:
    """Give the one that counts of those that share a key."""
    return collect([(KEY, RAW, ti) for ti in task_instances], {}).found[KEY]


def test_the_finished_states_are_airflows() -> None:
    assert {str(state.value) for state in State.finished if state is not None} == FINISHED_STATES


def test_all_other_states_of_this_airflow_are_active() -> None:
    unfinished = {None if state is None else str(state.value) for state in State.unfinished}
    assert None in unfinished
    assert all(TaskInstance(state).is_active for state in unfinished)


@pytest.mark.parametrize(
    ("one", "other", "counts"),
    [
        pytest.param(RUNNING, FAILED, RUNNING, id="an active one before a finished one"),
        pytest.param(CLEARED, FAILED_LATER, CLEARED, id="a cleared one before a finished one"),
        pytest.param(
            TaskInstance("running", ended=1), FAILED_LATER, TaskInstance("running", ended=1), id="in any time"
        ),
        pytest.param(FAILED, FAILED_LATER, FAILED_LATER, id="the one that ended last of two finished ones"),
        pytest.param(TaskInstance("failed"), FAILED, FAILED, id="one with an end before one without"),
    ],
)
def test_of_two_with_one_key_counts(one: TaskInstance, other: TaskInstance, counts: TaskInstance) -> None:
    assert collected([one, other]) == counts
    assert collected([other, one]) == counts


def test_an_active_one_counts_in_every_order_of_many() -> None:
    for order in itertools.permutations([FAILED, RUNNING, FAILED_LATER]):
        assert collected(order) == RUNNING


def test_two_keys_do_not_meet() -> None:
    rows = [(KEY, RAW, RUNNING), (OTHER, RAW, FAILED)]
    assert collect(rows, {}).found == {KEY: RUNNING, OTHER: FAILED}


def test_each_key_has_the_raw_ids_of_all_that_share_it_once() -> None:
    longer = RawIds("orders!", "extract", "run_1")
    rows = [(KEY, longer, FAILED), (KEY, RAW, RUNNING), (KEY, longer, FAILED), (OTHER, RAW, FAILED)]
    assert collect(rows, {}).raw_ids == {KEY: (RAW, longer), OTHER: (RAW,)}
