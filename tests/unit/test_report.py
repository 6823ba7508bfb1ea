"""What people read: the table, the warnings, the report."""

from __future__ import annotations

from typing import Any

import pytest

from include.kpo_cleanup.classify import Verdict
from include.kpo_cleanup.kube import total_requests
from include.kpo_cleanup.reap import Result
from include.kpo_cleanup.report import (
    MAX_PROBLEMS,
    MAX_ROWS,
    classification_lines,
    failure_message,
    failures,
    reap_lines,
    reap_report,
    warnings_of,
)
from include.kpo_cleanup.settings import Settings
from include.kpo_cleanup.vocabulary import Outcome, Reason
from tests.unit.builders import DAY, NOW, make_pod, make_verdict


def kept(reason: Reason, **pod: Any) -> Verdict:
    return make_verdict(pod=make_pod(**pod), is_zombie=False, reason=reason, evidence="TI running (try 1)")


def make_result(outcome: Outcome, detail: str = "", **pod: Any) -> Result:
    return Result(make_verdict(pod=make_pod(**pod)), outcome, detail)


class TestClassification:
    def test_is_a_table_of_the_zombies_and_a_count_of_the_rest(self) -> None:
        mapped = make_pod(name="extract-1", map_index=12, try_number=2, created=NOW - 3 * DAY)
        single = make_pod(name="load-1", namespace="team-a", dag_id="sales", task_id="load", phase="Succeeded")
        verdicts = [
            make_verdict(pod=mapped),
            make_verdict(pod=single, reason=Reason.COMPLETED, evidence="pod Succeeded"),
            kept(Reason.ACTIVE),
            kept(Reason.OWNED),
            kept(Reason.ACTIVE),
        ]
        lines = classification_lines(verdicts, NOW)
        assert [" ".join(line.split()) for line in lines if not line.startswith("---")] == [
            "2 zombies among 5 pods",
            "pod namespace DAG task map try phase age reason",
            "extract-1 airflow orders extract 12 2 Running 3 d finished",
            "load-1 team-a sales load 1 Succeeded 2 h completed",
            "why extract-1: finished: TI failed 1 h ago",
            "why load-1: completed: pod Succeeded",
            "kept: owned=1 active=2",
        ]

    def test_writes_ids_that_look_like_numbers_as_they_are(self) -> None:
        lines = classification_lines([make_verdict(pod=make_pod(dag_id="1e5", task_id="007", name="0x1"))], NOW)
        assert lines[3].split()[:4] == ["0x1", "airflow", "1e5", "007"]

    def test_shows_the_first_of_very_many_and_says_so(self) -> None:
        verdicts = [make_verdict(pod=make_pod(name=f"z{number:04d}")) for number in range(MAX_ROWS + 7)]
        lines = classification_lines(verdicts, NOW)
        assert lines[0] == f"{MAX_ROWS + 7} zombies among {MAX_ROWS + 7} pods"
        assert sum(line.startswith("z") for line in lines) == MAX_ROWS
        assert sum(line.startswith("why z") for line in lines) == MAX_ROWS
        assert lines[-2:] == ["... and 7 more; all are in the XCom of this task", "kept: none"]

    def test_of_exactly_that_many_leaves_none_out(self) -> None:
        lines = classification_lines([make_verdict() for _ in range(MAX_ROWS)], NOW)
        assert not any("more" in line for line in lines)

    @pytest.mark.parametrize(
        ("verdicts", "expected"),
        [
            pytest.param([], ["0 zombies among 0 pods", "kept: none"], id="no pods"),
            pytest.param([kept(Reason.ACTIVE)], ["0 zombies among 1 pod", "kept: active=1"], id="no zombies"),
        ],
    )
    def test_has_no_table_where_there_are(self, verdicts: list[Verdict], expected: list[str]) -> None:
        assert classification_lines(verdicts, NOW) == expected


class TestWarnings:
    def test_are_none_where_all_is_well(self) -> None:
        reasons = set(Reason) - {Reason.STALLED, Reason.UNKNOWN, Reason.UNRESOLVED}
        assert warnings_of([kept(reason) for reason in reasons] + [make_verdict()], Settings()) == []

    def test_name_each_stalled_task(self) -> None:
        verdicts = [kept(Reason.STALLED, name="a"), kept(Reason.STALLED, name="b")]
        assert warnings_of(verdicts, Settings()) == [
            "stalled: airflow/a of orders.extract: TI running (try 1)",
            "stalled: airflow/b of orders.extract: TI running (try 1)",
        ]

    def test_count_unknown_pods_and_say_what_removes_them(self) -> None:
        (line,) = warnings_of([kept(Reason.UNKNOWN), kept(Reason.UNKNOWN)], Settings())
        assert line.startswith("kept 2 unknown pods:")
        assert "delete_unknown_pods=True" in line

    def test_do_not_count_unknown_pods_that_are_zombies_or_only_too_young(self) -> None:
        verdicts = [make_verdict(reason=Reason.UNKNOWN), kept(Reason.UNKNOWN)]
        assert warnings_of(verdicts, Settings(delete_unknown_pods=True)) == []

    def test_count_unresolved_pods_and_say_what_finds_them(self) -> None:
        (line,) = warnings_of([kept(Reason.UNRESOLVED)], Settings())
        assert line.startswith("kept 1 unresolved pod:")
        assert "metadata_conn_id" in line


class TestReaping:
    def test_lists_what_a_dry_run_would_delete_and_says_so_loudly(self) -> None:
        results = [make_result(Outcome.DRY_RUN, name="a"), make_result(Outcome.DRY_RUN, name="b")]
        assert reap_lines(results) == [
            "would delete airflow/a, finished: TI failed 1 h ago",
            "would delete airflow/b, finished: TI failed 1 h ago",
            "DRY RUN: 2 pods would be deleted, none was",
        ]

    def test_says_how_many_are_left_and_why(self) -> None:
        results = [
            make_result(Outcome.DELETED),
            make_result(Outcome.LEFT_FOR_NEXT_RUN, "max_deletes=1 was reached"),
            make_result(Outcome.LEFT_FOR_NEXT_RUN, "max_deletes=1 was reached"),
        ]
        assert reap_lines(results) == ["left for the next run: 2 zombies, for max_deletes=1 was reached"]

    def test_adds_nothing_where_all_was_said(self) -> None:
        assert reap_lines([make_result(Outcome.DELETED), make_result(Outcome.FAILED, "403")]) == []

    def test_reports_every_pod_with_its_outcome(self) -> None:
        results = [
            make_result(Outcome.SPARED, "active now: TI running", name="a"),
            make_result(Outcome.DELETED, name="b"),
            make_result(Outcome.DELETED, name="c"),
        ]
        common = {"reason": "finished", "evidence": "TI failed 1 h ago"}
        assert reap_report(results, (1.5, 512 * 2**20)) == {
            "summary": "deleted=2 spared=1; freed cpu=1.5 memory=512Mi",
            "outcomes": {"deleted": 2, "spared": 1},
            "freed": {"cpu_cores": 1.5, "memory_bytes": 512 * 2**20},
            "pods": [
                {"pod": "airflow/a", "outcome": "spared", **common, "detail": "active now: TI running"},
                {"pod": "airflow/b", "outcome": "deleted", **common},
                {"pod": "airflow/c", "outcome": "deleted", **common},
            ],
        }

    def test_counts_all_outcomes_in_the_order_of_the_vocabulary(self) -> None:
        results = [make_result(outcome) for outcome in reversed(Outcome)]
        assert list(reap_report(results, (0, 0))["outcomes"].items()) == [(outcome.value, 1) for outcome in Outcome]

    def test_of_nothing_says_so(self) -> None:
        assert reap_report([], (0, 0))["summary"] == "nothing to do"

    def test_does_not_say_that_a_dry_run_freed_anything(self) -> None:
        summary = reap_report([make_result(Outcome.DRY_RUN)], (2.0, 2**30))["summary"]
        assert summary == "dry_run=1; would free cpu=2 memory=1024Mi"

    def test_names_the_failures(self) -> None:
        results = [make_result(Outcome.DELETED), make_result(Outcome.FAILED, "403 Forbidden", name="a")]
        assert failures(results) == ["airflow/a: 403 Forbidden"]


class TestFreed:
    @pytest.mark.parametrize(
        ("requests", "expected"),
        [
            pytest.param([], (0, 0), id="nothing"),
            pytest.param([("", "")], (0, 0), id="a pod without requests"),
            pytest.param([("250m", "512Mi")], (0.25, 512 * 2**20), id="one container"),
            pytest.param([("250m+1", "1Gi+64Mi")], (1.25, 1088 * 2**20), id="two containers"),
            pytest.param([("100m", "1G"), ("2", "1M"), ("", "")], (2.1, 1_001_000_000), id="several pods"),
            pytest.param([("100u", "1e9")], (0, 10**9), id="odd units"),
            pytest.param([("1.5", "1048576")], (1.5, 2**20), id="plain numbers"),
        ],
    )
    def test_is_the_sum_of_all_requests(self, requests: list[tuple[str, str]], expected: tuple[float, int]) -> None:
        assert total_requests(make_pod(cpu=cpu, memory=memory) for cpu, memory in requests) == expected


def test_the_message_of_a_failed_run_stays_short() -> None:
    assert failure_message("deleted=1", ["a", "b"]) == "deleted=1; problems: a; b"
    many = failure_message("deleted=1", [f"pod-{number}" for number in range(MAX_PROBLEMS + 995)])
    assert many.endswith(f"pod-{MAX_PROBLEMS - 1}; and 995 more, see the log")
