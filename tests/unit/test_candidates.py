"""Reading records: only those of the oldest candidates; a record that was not read never counts as missing."""

from __future__ import annotations

import itertools
import json
from functools import partial
from typing import Any

import pytest

from include.kpo_cleanup.candidates import MAX_SECONDS, with_records
from include.kpo_cleanup.classify import Snapshot, classify
from include.kpo_cleanup.constants import Reason
from include.kpo_cleanup.identity import UNMAPPED
from include.kpo_cleanup.settings import Settings
from include.kpo_cleanup.task_instance import Record, TaskInstance
from include.kpo_cleanup.verdict import Rule
from include.kpo_cleanup.workloads.workload import Workload
from tests.unit.builders import DAY, FINISHED, HOUR, NOW, answer, make_pod, make_ti
from tests.unit.test_reap import FakeSource, StatesFirst

ANOTHER = Record(frozenset({"airflow/another"}))
ROUND = 10  # far fewer pods than in production, so that the tests are fast
read_rounds = partial(with_records, round_size=ROUND)


def make_pods(count: int) -> list[Workload]:
    """Return pods of finished task instances, the youngest first."""
    pods = [make_pod(map_index=number, created=NOW - DAY + number) for number in range(count)]
    return pods[::-1]


def snapshot_of(pods: list[Workload], **settings: Any) -> Snapshot:
    return Snapshot(pods, answer({pod.key: FINISHED for pod in pods}), Settings(**settings), NOW)


def zombies(snapshot: Snapshot) -> list[Workload]:
    return [verdict.workload for verdict in classify(snapshot) if verdict.is_zombie]


def candidates(snapshot: Snapshot) -> list[Workload]:
    return [verdict.workload for verdict in classify(snapshot) if verdict.awaits_record]


@pytest.mark.parametrize("limit", [1, ROUND])
def test_only_the_records_of_the_oldest_pods_and_of_one_more_round_are_read_if_they_are_enough(limit: int) -> None:
    pods, source = make_pods(4 * ROUND), FakeSource({})
    snapshot = read_rounds(snapshot_of(pods, max_deletes=limit), source)
    oldest_first = pods[::-1]
    assert {*source.records_read[:ROUND]} == {pod.key for pod in oldest_first[:ROUND]}
    assert {pod.key for pod in zombies(snapshot)} == {*source.records_read}
    assert len(zombies(snapshot)) == 2 * ROUND
    assert candidates(snapshot) == [pod for pod in oldest_first if pod not in zombies(snapshot)]


def test_a_zombie_behind_more_zombies_than_a_run_reads_is_found_within_some_runs() -> None:
    pods = make_pods(5 * ROUND)

    def is_found() -> bool:
        return pods[0] in zombies(read_rounds(snapshot_of(pods, max_deletes=1), FakeSource({})))

    assert any(is_found() for _run in range(100))


def test_only_the_tries_and_ends_of_the_oldest_pods_and_of_one_more_round_are_read_if_they_are_enough() -> None:
    pods = make_pods(3 * ROUND)
    states = answer({pod.key: TaskInstance(FINISHED.state) for pod in pods})
    source = StatesFirst({pod.key: FINISHED for pod in pods})
    snapshot = read_rounds(Snapshot(pods, states, Settings(max_deletes=1), NOW), source)
    complete = {key for key, ti in snapshot.task_instances.found.items() if ti == FINISHED}
    assert len(complete) == 2 * ROUND
    assert complete > {pod.key for pod in pods[2 * ROUND :]}


def test_more_records_are_read_if_the_limit_is_higher() -> None:
    pods, source = make_pods(4 * ROUND), FakeSource({})
    snapshot = read_rounds(snapshot_of(pods, max_deletes=ROUND + 1), source)
    assert len(source.records_read) == len(set(source.records_read)) == len(zombies(snapshot)) == 3 * ROUND


def test_pods_that_are_kept_because_of_their_records_do_not_hide_younger_zombies() -> None:
    pods = make_pods(5 * ROUND)
    kept = pods[3 * ROUND :]
    source = FakeSource({}, records={pod.key: ANOTHER for pod in kept})
    snapshot = read_rounds(snapshot_of(pods, max_deletes=1), source)
    assert zombies(snapshot)[:ROUND] == pods[3 * ROUND - 1 : 2 * ROUND - 1 : -1]
    assert len(zombies(snapshot)) == 2 * ROUND
    assert len(candidates(snapshot)) == ROUND


def test_no_pod_is_a_candidate_if_all_records_were_read() -> None:
    pods = make_pods(ROUND)
    snapshot = read_rounds(snapshot_of(pods, max_deletes=1), FakeSource({}))
    assert len(zombies(snapshot)) == ROUND
    assert not candidates(snapshot)


def test_reading_ends_after_some_minutes() -> None:
    pods = make_pods(4 * ROUND)
    source = FakeSource({}, records={pod.key: ANOTHER for pod in pods})
    clock = itertools.count(0, MAX_SECONDS * 0.6)
    snapshot = read_rounds(snapshot_of(pods), source, lambda: next(clock))
    assert len(source.records_read) == 2 * ROUND
    assert len(candidates(snapshot)) == 2 * ROUND
    assert not zombies(snapshot)


def test_a_zombie_behind_more_pods_than_a_run_has_time_for_is_found_within_some_runs() -> None:
    pods = make_pods(3 * ROUND)
    youngest = pods[0]

    def is_found() -> bool:
        clock = itertools.count(0, MAX_SECONDS * 0.6)  # time for two rounds
        source = FakeSource({}, records={pod.key: ANOTHER for pod in pods if pod is not youngest})
        snapshot = read_rounds(snapshot_of(pods, max_deletes=1), source, lambda: next(clock))
        assert len(source.records_read) == 2 * ROUND
        assert {pod.key for pod in candidates(snapshot)} == {pod.key for pod in pods} - {*source.records_read}
        return zombies(snapshot) == [youngest]

    assert any(is_found() for _run in range(40))


def test_nothing_is_read_if_no_record_matters() -> None:
    kept = make_pod(protected_by="x")
    source = FakeSource({})
    assert not read_rounds(snapshot_of([kept]), source).unread
    assert not source.records_read


def test_a_young_pod_that_needs_no_record_is_a_zombie_at_once() -> None:
    pods = make_pods(2 * ROUND)
    unmatched = make_pod(run_id="deleted", phase="Pending", containers=(), created=NOW - HOUR)
    settings = Settings(max_deletes=1, delete_unmatched_pods=True)
    snapshot = Snapshot([*pods, unmatched], answer({pod.key: FINISHED for pod in pods}), settings, NOW)
    assert zombies(read_rounds(snapshot, FakeSource({})))[-1] == unmatched


def test_a_pod_that_another_task_instance_has_adopted_is_kept_if_it_is_among_the_oldest() -> None:
    pods = make_pods(2 * ROUND)
    oldest = pods[-1]
    plain = oldest.key._replace(map_index=UNMAPPED)
    found = {**{pod.key: FINISHED for pod in pods}, plain: make_ti(state="running", ended=None)}
    source = FakeSource({}, records={plain: Record(frozenset({str(oldest)}))})
    snapshot = read_rounds(Snapshot(pods, answer(found), Settings(max_deletes=1), NOW), source)
    assert {v.workload: v.rule for v in classify(snapshot)}[oldest] is Rule.USED_BY_ANOTHER


def test_a_candidate_keeps_its_reason() -> None:
    pods = make_pods(3 * ROUND)
    snapshot = read_rounds(snapshot_of(pods, max_deletes=1), FakeSource({}))
    assert {verdict.reason for verdict in classify(snapshot)} == {Reason.ORPHANED}
    assert snapshot.unread == [tuple(key) for key in json.loads(json.dumps(snapshot.unread))]
