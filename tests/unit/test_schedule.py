"""How the next pods are selected, depending on what has failed so far; `test_reap.py` tests the same with requests."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from include.kpo_cleanup.errors import KpoCleanupError, KubernetesError, TaskInstanceSourceError, TooSlow
from include.kpo_cleanup.kube.interface import CONCURRENT_DELETES
from include.kpo_cleanup.reap.schedule import (
    BATCH,
    MAX_FAILURES,
    MAX_NAMESPACES,
    MAX_PROBES,
    MAX_QUERY_FAILURES,
    MAX_QUERY_SECONDS,
    MAX_SILENT,
    Schedule,
)
from include.kpo_cleanup.reap.target import Target
from tests.unit.test_reap import DENIED, FORBIDDEN, LOST, WEBHOOK_DOWN, make_zombies

NOW = 1_000.0
ALL = 10 * BATCH  # max_deletes
SLOW, FAILED = TooSlow("slow"), TaskInstanceSourceError("500")


def make_targets(count: int, **labels: str) -> list[Target]:
    return [Target(zombie) for zombie in make_zombies(count, **labels)]


def fail(schedule: Schedule, targets: Sequence[Target], error: KubernetesError) -> None:
    for target in targets:
        schedule.record_failure(target, error, is_final=True)


class TestMaxDeletes:
    def test_a_batch_is_no_larger_than_the_room(self) -> None:
        targets, schedule = make_targets(5), Schedule(3, BATCH)
        assert schedule.next_batch(targets, NOW) == (targets[:3], False)

    def test_a_pod_that_counts_already_needs_no_room(self) -> None:
        first, second, third = make_targets(3)
        schedule = Schedule(2, BATCH)
        for _attempt in range(2):
            schedule.count(third)
        assert schedule.next_batch([first, second, third], NOW) == ([first, third], False)

    def test_the_rest_is_left_when_there_is_no_room(self) -> None:
        first, second = make_targets(2)
        schedule = Schedule(1, BATCH)
        schedule.count(first)
        assert schedule.next_batch([second], NOW)[0] == []
        assert schedule.next_due([second]) is None
        assert schedule.why_left(second) == "max_deletes=1 was reached"

    def test_a_pod_whose_deletion_was_not_carried_out_no_longer_counts(self) -> None:
        first, second = make_targets(2)
        schedule = Schedule(1, BATCH)
        schedule.count(first)
        schedule.release(first)
        assert schedule.next_batch([second], NOW) == ([second], False)


def test_a_pod_is_tried_again_when_its_delay_is_over() -> None:
    (target,) = make_targets(1)
    target.not_before = NOW + 1
    schedule = Schedule(ALL, BATCH)
    assert schedule.next_batch([target], NOW)[0] == []
    assert schedule.next_due([target]) == NOW + 1
    assert schedule.next_batch([target], NOW + 1)[0] == [target]


class TestNamespaces:
    """Namespaces whose next pods are only probed."""

    @pytest.mark.parametrize(
        ("error", "failures", "is_probing", "size"),
        [
            (WEBHOOK_DOWN, MAX_FAILURES - 1, False, BATCH),
            (WEBHOOK_DOWN, MAX_FAILURES, True, CONCURRENT_DELETES),
            (DENIED, 2 * MAX_FAILURES, False, BATCH),
        ],
    )
    def test_a_namespace_is_only_probed_after_several_failures_other_than_denials(
        self, error: KubernetesError, failures: int, is_probing: bool, size: int
    ) -> None:
        targets, schedule = make_targets(2 * BATCH), Schedule(ALL, BATCH)
        fail(schedule, targets[:failures], error)
        batch, probing = schedule.next_batch(targets[failures:], NOW)
        assert (probing, len(batch)) == (is_probing, size)

    @pytest.mark.parametrize(
        ("error", "most"), [(FORBIDDEN, CONCURRENT_DELETES), (LOST, CONCURRENT_DELETES), (WEBHOOK_DOWN, MAX_PROBES)]
    )
    def test_more_pods_are_probed_if_some_of_them_may_succeed(self, error: KubernetesError, most: int) -> None:
        targets, schedule = make_targets(BATCH), Schedule(ALL, BATCH)
        fail(schedule, targets[:MAX_FAILURES], error)
        pending, probed = targets[MAX_FAILURES:], 0
        while batch := schedule.next_batch(pending, NOW)[0]:
            assert all(schedule.begin(target, is_probing=True) for target in batch)
            fail(schedule, batch, error)
            probed += len(batch)
            pending = [target for target in pending if target not in batch]
        assert probed == most
        assert schedule.next_due(pending) is None
        assert schedule.why_left(pending[0]) == f"deletions in the same namespace fail: {error.cause}"

    def test_the_rest_of_a_batch_is_not_tried_once_its_namespace_fails_unless_it_probes(self) -> None:
        targets, schedule = make_targets(MAX_FAILURES + 1), Schedule(ALL, BATCH)
        assert schedule.begin(targets[-1], is_probing=False)
        fail(schedule, targets[:MAX_FAILURES], FORBIDDEN)
        assert not schedule.begin(targets[-1], is_probing=False)
        assert schedule.begin(targets[-1], is_probing=True)

    def test_one_success_ends_the_trouble(self) -> None:
        targets, schedule = make_targets(BATCH), Schedule(ALL, BATCH)
        fail(schedule, targets[:MAX_FAILURES], FORBIDDEN)
        schedule.record_success(targets[MAX_FAILURES])
        assert schedule.next_batch(targets, NOW) == (targets, False)

    @pytest.mark.parametrize(
        ("namespaces", "error", "is_probing"),
        [
            (MAX_NAMESPACES, FORBIDDEN, True),
            (MAX_NAMESPACES - 1, FORBIDDEN, False),
            (MAX_NAMESPACES, WEBHOOK_DOWN, False),  # another failure
        ],
    )
    def test_one_failure_is_enough_if_several_other_namespaces_have_the_same(
        self, namespaces: int, error: KubernetesError, is_probing: bool
    ) -> None:
        schedule = Schedule(ALL, BATCH)
        for number in range(namespaces):
            fail(schedule, make_targets(MAX_FAILURES, namespace=f"ns-{number}"), FORBIDDEN)
        first, second = make_targets(2, namespace="another")
        fail(schedule, [first], error)
        assert schedule.next_batch([second], NOW) == ([second], is_probing)


class TestTheApiServer:
    @pytest.mark.parametrize(
        ("silent", "is_responding", "is_dead"),
        [
            (CONCURRENT_DELETES - 1, True, False),
            (CONCURRENT_DELETES, False, False),
            (MAX_SILENT, False, True),
        ],
    )
    def test_the_api_server_counts_as_dead_after_many_pods_without_a_response(
        self, silent: int, is_responding: bool, is_dead: bool
    ) -> None:
        schedule = Schedule(ALL, BATCH)
        fail(schedule, make_targets(silent), LOST)
        assert (schedule.is_responding, schedule.is_api_server_dead) == (is_responding, is_dead)

    def test_attempts_that_are_repeated_do_not_end_the_run_but_wait_for_another_query(self) -> None:
        schedule = Schedule(ALL, BATCH)
        for target in make_targets(MAX_SILENT):
            schedule.record_failure(target, LOST, is_final=False)
        assert (schedule.is_responding, schedule.is_api_server_dead) == (False, False)
        schedule.record_query(was_fast=True)
        assert schedule.is_responding


class TestTheSource:
    @pytest.mark.parametrize(
        ("durations", "is_dead"),
        [
            ([0.0] * (MAX_QUERY_FAILURES - 1), False),
            ([0.0] * MAX_QUERY_FAILURES, True),
            ([MAX_QUERY_SECONDS] * 2, False),
            ([MAX_QUERY_SECONDS / 3] * 3, False),
            ([MAX_QUERY_SECONDS / 3 + 1] * 3, True),
        ],
    )
    def test_it_is_dead_after_consecutive_failures_of_single_pods(self, durations: list[float], is_dead: bool) -> None:
        schedule = Schedule(ALL, BATCH)
        for seconds in durations:
            assert not schedule.record_failed_query(make_targets(1), FAILED, seconds)
        assert schedule.is_source_dead == is_dead
        schedule.record_query(was_fast=False)
        assert not schedule.is_source_dead

    @pytest.mark.parametrize(
        ("error", "queries", "size"),
        [
            (SLOW, [], BATCH // 2),
            (FAILED, [], 1),
            (FAILED, ["fast", "fast"], 4),
            (FAILED, ["slow"], 1),
            (SLOW, ["fast", "fast"], BATCH),
        ],
    )
    def test_the_size_of_the_next_batch_depends_on_the_last_queries(
        self, error: KpoCleanupError, queries: list[str], size: int
    ) -> None:
        targets, schedule = make_targets(2 * BATCH), Schedule(ALL, BATCH)
        assert schedule.record_failed_query(targets[:BATCH], error, seconds=6.0)
        for query in queries:
            schedule.record_query(was_fast=query == "fast")
        assert schedule.next_batch(targets, NOW) == (targets[:size], False)

    def test_the_pods_of_a_dag_whose_query_failed_come_last(self) -> None:
        (broken,), others, schedule = make_targets(1, dag_id="broken"), make_targets(2), Schedule(ALL, BATCH)
        schedule.record_failed_query([broken], FAILED, seconds=0.0)
        assert schedule.next_batch([broken, *others], NOW) == ([*others, broken], False)
