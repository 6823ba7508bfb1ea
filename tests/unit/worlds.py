"""Random worlds of DAG runs and task instances, and the correct answers about them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from datetime import datetime
from random import Random
from typing import Any, NamedTuple

import pytest
from hypothesis import strategies as st

from include.kpo_cleanup.constants import FINISHED_STATES
from include.kpo_cleanup.identity import UNMAPPED, TaskInstanceKey, make_key, to_label_value
from include.kpo_cleanup.task_instance import RawIds, TaskInstance, TaskInstances
from include.kpo_cleanup.task_instances.label_decoding import rebuild_run_id

STATES = [
    None,
    "running",
    "up_for_retry",
    "deferred",
    "a_state_of_a_later_airflow",
    *sorted(FINISHED_STATES),
]

# An id whose label is hashed, and an id that equals that label: two task instances with one key.
ODD_ID = "tâche à faire"
LONG_ID = "l" * 248  # short enough for Airflow with a map index or a digit appended
TASK_IDS = [
    "a",
    "a_1",
    "a_1_2",
    "a_2",
    "a_01",
    "group.a",
    ODD_ID,
    f"{ODD_ID}_1",
    to_label_value(ODD_ID),
    f"{to_label_value(ODD_ID)}_1",
    "a-0123456ab",
    LONG_ID,
    f"{LONG_ID}_1",
    to_label_value(LONG_ID),
    "_a_",
]

SCHEDULED = "scheduled__2026-11-24T00:00:00+00:00"
RUN_IDS = [
    "run_1",
    "run-0123456ab",
    "my run!",
    to_label_value("my run!"),
    "r" * 250,
    SCHEDULED,
    to_label_value(SCHEDULED),
    "manual__2026-11-24T02:13:14.123456-05:00",
    "asset_triggered__2026-11-24T02:13:14.123456+00:00_AbCdEfGh",  # its label is one character shorter
    "asset_materialization__2026-11-24T02:13:14.123456+00:00_AbCdEfGh",  # and this one seven
]

# The ways in which a row differs from a plain one, whose labels are its ids.
HOSTILE_IDS = [
    pytest.param({}, id="the run_id has the default format"),
    pytest.param({"run_id": "run_1"}, id="the run_id is its own label"),
    pytest.param({"run_id": "my run!"}, id="the run_id is a custom one with a hashed label"),
    pytest.param({"run_id": "r" * 250}, id="the run_id has 250 characters"),
    pytest.param({"run_id": "run-0123456ab"}, id="the run_id ends with what looks like a hash"),
    pytest.param({"run_id": to_label_value(SCHEDULED)}, id="the run_id equals a hashed label"),
    pytest.param({"task_id": ODD_ID}, id="the label of the task_id is hashed"),
    pytest.param({"task_id": LONG_ID, "map_index": 3}, id="the task is mapped and the label of its task_id is cut"),
    pytest.param({"dag_id": "commandes_à_faire"}, id="the label of the dag_id is hashed"),
    pytest.param(
        {"dag_id": "d" * 250, "task_id": "t" * 250, "run_id": "r" * 250}, id="all ids have their maximum length"
    ),
    pytest.param({"dag_id": "orders-0123456ab"}, id="the dag_id ends with what looks like a hash"),
]

PLAIN_DAG_IDS = ["orders", "orders-0123456ab"]
HASHED_DAG_IDS = ["commandes_à_faire", "d" * 250]


class Row(NamedTuple):
    """A task instance as it is in Airflow's database."""

    dag_id: str
    task_id: str
    run_id: str
    map_index: int
    state: str | None
    try_number: int = 1
    end_date: datetime | None = None

    @property
    def key(self) -> TaskInstanceKey:
        return make_key(*self[:4])

    @property
    def is_active(self) -> bool:
        return TaskInstance(self.state).is_active


class World(NamedTuple):
    """A world, and the keys to look up in it."""

    rows: list[Row]
    keys: frozenset[TaskInstanceKey]
    random: Random


@st.composite
def worlds(draw: st.DrawFn, dag_ids: tuple[str, ...] = (*PLAIN_DAG_IDS, *HASHED_DAG_IDS)) -> World:
    """Draw task instances whose names collide in every possible way, and keys of some of them and of none."""
    # Few of each, so that they collide.
    dags = st.sampled_from(draw(st.lists(st.sampled_from(dag_ids), min_size=1, max_size=2, unique=True)))
    tasks = st.sampled_from(draw(st.lists(st.sampled_from(TASK_IDS), min_size=1, max_size=5, unique=True)))
    runs = st.sampled_from(draw(st.lists(st.sampled_from(RUN_IDS), min_size=1, max_size=3, unique=True)))
    map_indexes = st.sampled_from([UNMAPPED, UNMAPPED, 1, 2])
    places = st.tuples(dags, tasks, runs, map_indexes)
    rows = [
        Row(*place, draw(st.sampled_from(STATES)))
        for place in draw(st.lists(places, min_size=1, max_size=12, unique=True))
    ]
    keys = {row.key for row in rows if draw(st.integers(0, 3))}
    keys |= {make_key(*place) for place in draw(st.lists(places, max_size=4))}
    return World(rows, frozenset(keys), draw(st.randoms(use_true_random=False)))


def assert_correct_answer(world: World, answer: TaskInstances, is_task_sdk: bool = False) -> None:
    """Check that no active task instance is reported as finished or absent, and that none is invented.

    :param is_task_sdk: whether the source does not know hashed dag_ids, and takes a run whose raw id equals the label
        for the right one, unless the run_id can be rebuilt from the label.
    """
    by_key: dict[TaskInstanceKey, list[Row]] = defaultdict(list)
    for row in world.rows:
        by_key[row.key].append(row)
    assert set(answer.found) <= world.keys
    for key in world.keys:
        real, found = by_key[key], answer.found.get(key)
        if is_task_sdk and rebuild_run_id(key.run_id) is None:
            real = [row for row in real if row.run_id == key.run_id] or real
        if is_task_sdk and key.dag_id in map(to_label_value, HASHED_DAG_IDS):
            assert found is None, key
            assert key in answer.unresolved, key
        elif not real:
            assert found is None, key
        else:
            assert found is not None, key
            raw_ids = set(answer.raw_ids[key])
            if is_task_sdk and raw_ids != {RawIds(*row[:3]) for row in real}:
                real = by_key[key]  # it may know the other run from an earlier search
            assert raw_ids == {RawIds(*row[:3]) for row in real}, key
            # Ids with the same label share a key, and an active one among them counts.
            counting = [row for row in real if row.is_active] or real
            assert found.state in [row.state for row in counting], key
    assert set(answer.raw_ids) == set(answer.found)


def api_server(
    rows: Iterable[Row], random: Random, log: list[dict[str, Any]] | None = None
) -> Callable[..., dict[str, dict[str, str | None]]]:
    """Return a ``ti.get_task_states`` that answers as ``get_task_instance_states`` of Airflow 3.3's execution API."""
    rows = list(rows)

    def get_task_states(
        dag_id: str, task_ids: list[str] | None = None, run_ids: list[str] | None = None
    ) -> dict[str, dict[str, str | None]]:
        if log is not None:
            log.append({"dag_id": dag_id, "task_ids": task_ids, "run_ids": run_ids})
        selected = [row for row in rows if row.dag_id == dag_id]
        if task_ids:  # an empty list selects all as well
            selected = [row for row in selected if row.task_id in task_ids]
        if run_ids:
            selected = [row for row in selected if row.run_id in run_ids]
        random.shuffle(selected)  # its query has no ORDER BY
        states: dict[str, dict[str, str | None]] = defaultdict(dict)
        for row in selected:
            name = row.task_id if row.map_index < 0 else f"{row.task_id}_{row.map_index}"
            states[row.run_id][name] = row.state  # the later row replaces the earlier one
        return dict(states)

    return get_task_states
