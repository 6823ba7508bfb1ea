"""What people read: the table, the warnings, the report."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from include.kpo_cleanup.classify import Verdict
from include.kpo_cleanup.kube import Deletion
from include.kpo_cleanup.reap import Result
from include.kpo_cleanup.report import (
    MAX_PROBLEMS,
    MAX_ROWS,
    NAME_WIDTH,
    due_lines,
    failure_message,
    failures,
    reap_lines,
    reap_report,
    summary_line,
    warnings_of,
    zombie_lines,
)
from include.kpo_cleanup.settings import Settings
from include.kpo_cleanup.vocabulary import Outcome, Reason
from tests.unit.builders import DAY, NOW, make_pod, make_verdict

LOG_VIEW = 101  # characters of a message, on a screen of 1400 pixels


def kept(reason: Reason, **pod: Any) -> Verdict:
    return make_verdict(pod=make_pod(**pod), is_zombie=False, reason=reason, evidence="task instance running (try 1)")


def make_result(outcome: Outcome, detail: str = "", **pod: Any) -> Result:
    return Result(make_verdict(pod=make_pod(**pod)), Deletion(outcome, detail))


def freeing(outcome: Outcome, cpu: float, memory: float) -> Result:
    return make_result(outcome, requests=(("cpu", cpu), ("memory", memory)))


class TestTableOfZombies:
    def test_has_a_line_for_each_and_its_evidence_below(self) -> None:
        mapped = make_pod(name="extract-1", map_index=12, try_number=2, created=NOW - 3 * DAY)
        single = make_pod(name="load-1", dag_id="sales", task_id="load", phase="Succeeded")
        verdicts = [
            make_verdict(pod=mapped),
            make_verdict(pod=single, reason=Reason.COMPLETED, evidence="pod Succeeded"),
            kept(Reason.ACTIVE),
        ]
        assert zombie_lines(verdicts, NOW) == [
            "age    reason     task                      pod",
            "-----  ---------  ------------------------  ---------",
            "3 d    orphaned   orders.extract[12] try 2  extract-1",
            "       task instance failed 1 h ago",
            "2 h    completed  sales.load try 1          load-1",
            "       pod Succeeded",
        ]

    def test_names_the_namespace_where_there_are_several(self) -> None:
        verdicts = [make_verdict(pod=make_pod(name="extract-1")), kept(Reason.ACTIVE, namespace="team-a")]
        assert zombie_lines(verdicts, NOW)[2].endswith("  airflow/extract-1")

    def test_writes_ids_that_look_like_numbers_as_they_are(self) -> None:
        line = zombie_lines([make_verdict(pod=make_pod(dag_id="1e5", task_id="007", name="0x1"))], NOW)[2]
        assert line.split()[-4:] == ["1e5.007", "try", "1", "0x1"]

    @pytest.mark.parametrize(
        ("length", "shown"),
        [
            pytest.param(NAME_WIDTH, "ab" + "b" * 36 + "bc", id="fits"),
            pytest.param(NAME_WIDTH + 1, "a" + "b" * 18 + ".." + "b" * 18 + "c", id="is too long"),
        ],
    )
    def test_shortens_the_middle_of_a_name_that_does_not_fit(self, length: int, shown: str) -> None:
        verdict = make_verdict(pod=make_pod(name="a" + "b" * (length - 2) + "c"))
        assert zombie_lines([verdict], NOW)[2].split()[-1] == shown

    def test_fits_into_the_log_view_of_airflow_whatever_the_ids(self) -> None:
        pod = make_pod(name="p" * 63, namespace="n" * 63, dag_id="d" * 63, task_id="t" * 63, map_index=999)
        verdicts = [make_verdict(pod=pod, reason=Reason.SUPERSEDED), kept(Reason.ACTIVE)]
        header, rule, row, _ = zombie_lines(verdicts, NOW)
        assert max(map(len, (header, rule, row))) <= LOG_VIEW

    def test_shows_the_first_of_very_many_and_says_so(self) -> None:
        lines = zombie_lines([make_verdict(pod=make_pod(name=f"z{n:04d}")) for n in range(MAX_ROWS + 7)], NOW)
        assert sum(" z0" in line for line in lines) == MAX_ROWS
        assert lines[-1] == "... and 7 more; all are in the XCom of this task"

    def test_of_exactly_that_many_leaves_none_out(self) -> None:
        lines = zombie_lines([make_verdict() for _ in range(MAX_ROWS)], NOW)
        assert not any("more" in line for line in lines)

    def test_is_not_there_where_there_are_none(self) -> None:
        assert zombie_lines([kept(Reason.ACTIVE)], NOW) == []


@pytest.mark.parametrize(
    ("verdicts", "line"),
    [
        pytest.param([], "0 zombies among 0 pods; kept: none", id="no pods"),
        pytest.param([kept(Reason.ACTIVE)], "0 zombies among 1 pod; kept: active=1", id="no zombies"),
        pytest.param([make_verdict()], "1 zombie among 1 pod (orphaned=1); kept: none", id="nothing else"),
        pytest.param(
            [
                make_verdict(),
                make_verdict(reason=Reason.SUPERSEDED),
                *map(kept, (Reason.ACTIVE, Reason.OWNED, Reason.ACTIVE)),
            ],
            "2 zombies among 5 pods (superseded=1 orphaned=1); kept: owned=1 active=2",
            id="both",
        ),
    ],
)
def test_a_classification_is_summed_up_in_one_line(verdicts: list[Verdict], line: str) -> None:
    assert summary_line(verdicts) == line


class TestWarnings:
    def test_are_none_where_all_is_well(self) -> None:
        reasons = set(Reason) - {Reason.STALLED, Reason.UNMATCHED, Reason.UNRESOLVED}
        assert warnings_of([kept(reason) for reason in reasons] + [make_verdict()], Settings()) == []

    def test_name_each_pod_that_somebody_should_look_at_and_the_remedy(self) -> None:
        verdicts = [replace(kept(Reason.STALLED, name=name), warning="make x a native sidecar") for name in "ab"]
        assert warnings_of(verdicts, Settings()) == [
            line
            for name in "ab"
            for line in (
                f"stalled: orders.extract try 1: task instance running (try 1); pod airflow/{name}",
                "    make x a native sidecar",
            )
        ]

    def test_count_unknown_pods_and_say_what_removes_them(self) -> None:
        (line,) = warnings_of([kept(Reason.UNMATCHED), kept(Reason.UNMATCHED)], Settings())
        assert line.startswith("kept 2 unmatched pods:")
        assert "delete_unmatched_pods=True" in line

    def test_do_not_count_unknown_pods_that_are_zombies_or_only_too_young(self) -> None:
        verdicts = [make_verdict(reason=Reason.UNMATCHED), kept(Reason.UNMATCHED)]
        assert warnings_of(verdicts, Settings(delete_unmatched_pods=True)) == []

    def test_count_unresolved_pods_by_what_the_source_says(self) -> None:
        def unresolved(why: str) -> Verdict:
            return replace(kept(Reason.UNRESOLVED), evidence=f"{why}; task instance running")

        verdicts = [unresolved("its XCom is pickled"), unresolved("no DAG id"), unresolved("its XCom is pickled")]
        assert warnings_of(verdicts, Settings()) == [
            "kept 2 unresolved pods: its XCom is pickled",
            "kept 1 unresolved pod: no DAG id",
        ]

    def test_count_pods_of_spark_which_is_not_supported(self) -> None:
        spark = replace(kept(Reason.BAD_LABELS), evidence="pods of the SparkKubernetesOperator are not supported")
        (line,) = warnings_of([spark, spark], Settings())
        assert line == "kept 2 pods of the SparkKubernetesOperator, which is not supported"


class TestDue:
    def test_says_when_the_last_of_them_will_go(self) -> None:
        noon = replace(kept(Reason.SETTLING), due=NOW)
        verdicts = [noon, replace(noon, due=NOW + 61), kept(Reason.SETTLING), replace(noon, reason=Reason.TERMINATING)]
        assert due_lines(verdicts) == [
            "2 settling: a run after 12:01:01 UTC deletes them; settle_seconds=0 deletes them now",
            "1 terminating: a run after 12:00:00 UTC deletes them",
        ]

    def test_says_nothing_of_what_stays(self) -> None:
        assert due_lines([kept(Reason.SETTLING), kept(Reason.ACTIVE), make_verdict()]) == []


class TestReaping:
    def test_lists_what_a_dry_run_would_delete_and_says_so_loudly(self) -> None:
        results = [make_result(Outcome.WOULD_DELETE, name="a"), make_result(Outcome.WOULD_DELETE, name="b")]
        assert reap_lines(results) == [
            "would delete airflow/a, orphaned: task instance failed 1 h ago",
            "would delete airflow/b, orphaned: task instance failed 1 h ago",
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
            make_result(Outcome.SPARED, "active now: task instance running", name="a"),
            make_result(Outcome.DELETED, name="b", requests=(("cpu", 1.0), ("memory", 512 * 2.0**20))),
            make_result(Outcome.DELETED, name="c", requests=(("cpu", 0.5),)),
        ]
        common = {"reason": "orphaned", "evidence": "task instance failed 1 h ago"}
        assert reap_report(results) == {
            "summary": "deleted=2 spared=1; freed cpu=1.5 memory=512Mi",
            "outcomes": {"deleted": 2, "spared": 1},
            "freed": {"cpu": 1.5, "memory": 512 * 2.0**20},
            "zombies": [
                {"pod": "airflow/a", "outcome": "spared", **common, "detail": "active now: task instance running"},
                {"pod": "airflow/b", "outcome": "deleted", **common},
                {"pod": "airflow/c", "outcome": "deleted", **common},
            ],
        }

    def test_counts_all_outcomes_in_the_order_of_the_vocabulary(self) -> None:
        results = [make_result(outcome) for outcome in reversed(Outcome)]
        assert list(reap_report(results)["outcomes"].items()) == [(outcome.value, 1) for outcome in Outcome]

    def test_of_nothing_says_so(self) -> None:
        assert reap_report([])["summary"] == "no zombies"

    @pytest.mark.parametrize(
        ("size", "words"),
        [(0, "0Mi"), (2**30 - 2**20, "1023Mi"), (2**30, "1Gi"), (3 * 2**29, "1.5Gi"), (5_000 * 2**30, "5000Gi")],
    )
    def test_says_how_much_memory_in_a_fitting_unit(self, size: int, words: str) -> None:
        assert reap_report([freeing(Outcome.DELETED, 1, size)])["summary"].endswith(f"cpu=1 memory={words}")

    def test_does_not_say_that_a_dry_run_freed_anything(self) -> None:
        summary = reap_report([freeing(Outcome.WOULD_DELETE, 2, 2**30)])["summary"]
        assert summary == "would_delete=1; would free cpu=2 memory=1Gi"

    def test_has_what_went_wrong_next_to_the_summary(self) -> None:
        report = reap_report([], ["namespace 'x' is forbidden"])
        assert list(report)[:2] == ["summary", "problems"]
        assert report["problems"] == ["namespace 'x' is forbidden"]

    def test_names_each_cause_of_failures_once(self) -> None:
        def failed(name: str, status: str) -> Result:
            said = f'pods "{name}"' if status.startswith("403") else ""
            return Result(make_verdict(pod=make_pod(name=name)), Deletion(Outcome.FAILED, status, said=said))

        results = [
            make_result(Outcome.DELETED),
            failed("pod-1", "403 Forbidden"),
            failed("pod-2", "500 Internal Server Error"),
            failed("pod-3", "403 Forbidden"),
        ]
        assert failures(results) == [
            '2 pods not deleted: 403 Forbidden; the server says: pods "pod-1"; such as airflow/pod-1',
            "1 pod not deleted: 500 Internal Server Error; such as airflow/pod-2",
        ]

    @pytest.mark.parametrize("outcome", Outcome)
    def test_says_what_was_freed_by_resource(self, outcome: Outcome) -> None:
        requests = [(("cpu", 0.5), ("memory", 2.0**20)), (("memory", 2.0**20), ("nvidia.com/gpu", 1.0)), ()]
        freed = reap_report([make_result(outcome, requests=each) for each in requests])["freed"]
        has_gone = outcome in (Outcome.DELETED, Outcome.WOULD_DELETE)
        assert freed == ({"cpu": 0.5, "memory": 2.0**21, "nvidia.com/gpu": 1} if has_gone else {})


def test_the_message_of_a_failed_run_stays_short() -> None:
    assert failure_message("deleted=1", ["a", "b"]) == "deleted=1\n- a\n- b"
    many = failure_message("deleted=1", [f"pod-{number}" for number in range(MAX_PROBLEMS + 995)])
    assert many.endswith(f"pod-{MAX_PROBLEMS - 1}\n- and 995 more, see the log")
