"""What people read: the table, the warnings, the report."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.kpo_cleanup.classify import Verdict
from include.kpo_cleanup.constants import Outcome, Reason
from include.kpo_cleanup.errors import KpoCleanupError
from include.kpo_cleanup.pod import Container
from include.kpo_cleanup.report import (
    MAX_DAGS,
    MAX_NAMES,
    MAX_PROBLEMS,
    MAX_ROWS,
    classification_lines,
    classification_summary,
    due_lines,
    failure_lines,
    failures,
    reap_lines,
    reap_report,
    reap_summary,
    result_lines,
    warning_lines,
    zombie_lines,
)
from include.kpo_cleanup.results import Result
from include.kpo_cleanup.settings import Settings
from include.kpo_cleanup.text import LINE
from tests.unit.builders import DAY, HOUR, NOW, make_pod, make_verdict

SIDECAR = (Container("base", "terminated", ended=NOW - HOUR, exit_code=0), Container("proxy", "running", NOW - DAY))
DRY_RUN = Settings(dry_run=True)


def kept(reason: Reason, **pod: Any) -> Verdict:
    return make_verdict(pod=make_pod(**pod), is_zombie=False, reason=reason, evidence="task instance running (try 1)")


def make_result(outcome: Outcome, detail: str = "", **pod: Any) -> Result:
    return Result(make_verdict(pod=make_pod(**pod)), outcome, detail)


def freeing(outcome: Outcome, cpu: float, memory: float) -> Result:
    return make_result(outcome, requests=(("cpu", cpu), ("memory", memory)))


class TestZombies:
    def test_are_listed_by_cause_with_advice_whose_they_were_and_the_evidence(self) -> None:
        mapped = make_pod(name="extract-1", map_index=12, try_number=2, created=NOW - 3 * DAY)
        hanging = {"name": "load-1", "dag_id": "sales", "task_id": "load", "containers": SIDECAR}
        verdicts = [
            make_verdict(pod=mapped),
            make_verdict(pod=make_pod(**hanging), evidence="task instance success 1 h ago"),
            make_verdict(pod=make_pod(**{**hanging, "name": "load-2", "run_id": "run_2"})),
            kept(Reason.ACTIVE),
        ]
        lines = zombie_lines(verdicts, NOW)
        assert [line for line in lines if "advice" not in line] == [
            "1 zombie: base works on, but its operator is gone",
            "    3 d, orphaned: orders.extract[12] try 2 of run run_1",
            "        pod airflow/extract-1",
            "        task instance failed 1 h ago",
            "2 zombies: proxy runs on after base ended",
            "    2 h, orphaned: sales.load try 1 of run run_1",
            "        pod airflow/load-1",
            "        task instance success 1 h ago",
            "    2 h, orphaned: sales.load try 1 of run run_2",
            "        pod airflow/load-2",
            "        task instance failed 1 h ago",
        ]
        assert [number for number, line in enumerate(lines) if line.startswith("    advice: ")] == [1, 6]

    def test_are_the_first_of_very_many_and_it_says_so(self) -> None:
        lines = zombie_lines([make_verdict(pod=make_pod(name=f"z{n:04d}")) for n in range(MAX_ROWS + 7)], NOW)
        assert lines[0].startswith(f"{MAX_ROWS + 7} zombies: ")
        assert sum("pod airflow/z0" in line for line in lines) == MAX_ROWS
        assert lines[-1] == "... and 7 more; all are in the XCom of this task"

    def test_of_many_causes_are_no_more_than_of_one(self) -> None:
        late = [make_verdict(pod=make_pod(containers=SIDECAR)) for _ in range(9)]
        lines = zombie_lines([*(make_verdict() for _ in range(MAX_ROWS - 1)), *late], NOW)
        assert sum("pod airflow/" in line for line in lines) == MAX_ROWS
        assert "9 zombies: proxy runs on after base ended" in lines

    def test_of_exactly_that_many_leave_none_out(self) -> None:
        lines = zombie_lines([make_verdict() for _ in range(MAX_ROWS)], NOW)
        assert not any("more" in line for line in lines)

    def test_are_not_there_if_there_are_none(self) -> None:
        assert zombie_lines([kept(Reason.ACTIVE)], NOW) == []


ZOMBIES_OF_TWO_DAGS = [*(make_verdict(pod=make_pod(dag_id=dag_id)) for dag_id in ("sales", "orders", "orders"))]
ZOMBIES_OF_MANY_DAGS = [make_verdict(pod=make_pod(dag_id=f"dag_{n}")) for n in range(MAX_DAGS + 2)]


@pytest.mark.parametrize(
    ("settings", "verdicts", "summary"),
    [
        pytest.param({}, [], "nothing to delete among 0 pods", id="no pods"),
        pytest.param({}, [kept(Reason.ACTIVE)], "nothing to delete among 1 pod", id="no zombies"),
        pytest.param({}, [make_verdict()], "1 zombie of 1 pod: orders 1", id="nothing else"),
        pytest.param(
            {},
            [*ZOMBIES_OF_TWO_DAGS, kept(Reason.ACTIVE)],
            "3 zombies of 4 pods: orders 2, sales 1",
            id="the DAG with most zombies first",
        ),
        pytest.param(
            {},
            ZOMBIES_OF_MANY_DAGS,
            "7 zombies of 7 pods: dag_0 1, dag_1 1, dag_2 1, dag_3 1, dag_4 1, and 2 more DAGs",
            id="many DAGs",
        ),
        pytest.param(
            {"max_deletes": 2},
            ZOMBIES_OF_TWO_DAGS,
            "3 zombies of 3 pods: orders 2, sales 1; 2 a run (max_deletes)",
            id="more than one run may delete",
        ),
        pytest.param(
            {"dry_run": True},
            ZOMBIES_OF_TWO_DAGS,
            "DRY RUN: would delete 3 of 3 pods: orders 2, sales 1",
            id="a dry run",
        ),
        pytest.param({"dry_run": True}, [], "DRY RUN: nothing to delete among 0 pods", id="a dry run of nothing"),
    ],
)
def test_a_classification_is_summed_up_in_one_line(
    settings: dict[str, Any], verdicts: list[Verdict], summary: str
) -> None:
    assert classification_summary(verdicts, Settings(**settings)) == summary


def test_the_log_sums_up_by_topic_and_the_summary_comes_last() -> None:
    reasons = (Reason.ACTIVE, Reason.OWNED, Reason.ACTIVE)
    verdicts = [make_verdict(), make_verdict(reason=Reason.SUPERSEDED), *map(kept, reasons)]
    assert classification_lines(verdicts, "2 zombies of 5 pods") == [
        "zombies by reason: superseded=1 orphaned=1",
        "kept: owned=1 active=2",
        "2 zombies of 5 pods",
    ]
    assert classification_lines([], "nothing") == ["kept: none", "nothing"]


class TestWarnings:
    def test_are_none_if_all_is_well(self) -> None:
        assert warning_lines([*map(kept, Reason), make_verdict()]) == []

    def test_say_each_kind_once_with_the_remedy_and_whose_pods_they_are(self) -> None:
        def stalled(container: str, name: str) -> Verdict:
            verdict = kept(Reason.STALLED, name=name, map_index=3)
            return replace(verdict, warning=f"{container} keeps its task waiting", remedy=f"end {container}")

        assert warning_lines([stalled("x", "a"), stalled("y", "b"), stalled("x", "c")]) == [
            "kept 2 stalled pods: x keeps its task waiting",
            "    end x",
            "        airflow/a: orders.extract[3] try 1 of run run_1",
            "        airflow/c: orders.extract[3] try 1 of run run_1",
            "kept 1 stalled pod: y keeps its task waiting",
            "    end y",
            "        airflow/b: orders.extract[3] try 1 of run run_1",
        ]

    def test_name_no_more_than_some(self) -> None:
        verdicts = [replace(kept(Reason.UNRESOLVED), warning="it is pickled") for _ in range(MAX_NAMES + 3)]
        lines = warning_lines(verdicts)
        assert lines[0] == "kept 8 unresolved pods: it is pickled"
        assert len(lines) == 1 + MAX_NAMES + 1
        assert lines[-1] == "        and 3 more pods"

    def test_break_a_reason_at_its_clauses(self) -> None:
        verdict = replace(kept(Reason.UNRESOLVED), warning="no DAG id; set airflow_conn_id")
        assert warning_lines([verdict])[:2] == ["kept 1 unresolved pod: no DAG id", "    set airflow_conn_id"]


class TestDue:
    def test_says_when_the_last_of_them_will_go(self) -> None:
        noon = replace(kept(Reason.SETTLING), eligible_at=NOW)
        verdicts = [
            noon,
            replace(noon, eligible_at=NOW + 61),
            kept(Reason.SETTLING),
            replace(noon, reason=Reason.TERMINATING),
        ]
        assert due_lines(verdicts) == [
            "2 settling: a run after 12:01:01 UTC deletes them; settle_seconds=0 deletes them now",
            "1 terminating: a run after 12:00:00 UTC deletes them",
        ]

    def test_says_nothing_of_what_stays(self) -> None:
        assert due_lines([kept(Reason.SETTLING), kept(Reason.ACTIVE), make_verdict()]) == []


class TestReaping:
    def test_lists_what_a_dry_run_would_delete(self) -> None:
        results = [make_result(Outcome.WOULD_DELETE, name="a"), make_result(Outcome.WOULD_DELETE, name="b")]
        assert reap_lines(results, DRY_RUN) == [
            "would_delete airflow/a: orders.extract try 1 of run run_1",
            "    orphaned: task instance failed 1 h ago",
            "would_delete airflow/b: orders.extract try 1 of run run_1",
            "    orphaned: task instance failed 1 h ago",
        ]

    def test_says_how_many_are_left_and_why(self) -> None:
        results = [
            make_result(Outcome.DELETED),
            make_result(Outcome.LEFT_FOR_NEXT_RUN, "max_deletes=1 was reached"),
            make_result(Outcome.LEFT_FOR_NEXT_RUN, "max_deletes=1 was reached"),
        ]
        assert reap_lines(results, Settings()) == ["left for the next run: 2 zombies, for max_deletes=1 was reached"]

    def test_says_what_the_pods_of_each_dag_had_requested(self) -> None:
        results = [
            make_result(Outcome.DELETED, dag_id="sales", requests=(("cpu", 0.5), ("nvidia.com/gpu", 2.0))),
            freeing(Outcome.DELETED, 1, 2**30),
            freeing(Outcome.DELETED, 1, 2**29),
            freeing(Outcome.FAILED, 1, 2**29),
        ]
        lines = ["freed by pods of sales: cpu=0.5 nvidia.com/gpu=2", "freed by pods of orders: cpu=2 memory=1.5Gi"]
        assert reap_lines(results, Settings()) == lines

    def test_adds_nothing_if_all_was_said(self) -> None:
        assert reap_lines([make_result(Outcome.DELETED), make_result(Outcome.FAILED, "403")], Settings()) == []

    def test_reports_every_pod_with_its_outcome_and_whose_it_was(self) -> None:
        results = [
            make_result(Outcome.SPARED, "active now: task instance running", name="a"),
            make_result(Outcome.DELETED, name="b", requests=(("cpu", 1.0), ("memory", 512 * 2.0**20))),
            make_result(Outcome.DELETED, name="c", dag_id="sales", requests=(("cpu", 0.5),)),
        ]
        ids = {"task_id": "extract", "map_index": -1, "try_number": 1, "run_id": "run_1"}
        common = {"reason": "orphaned", "evidence": "task instance failed 1 h ago", **ids}
        spared = {"detail": "active now: task instance running"}
        assert reap_report(results, "all went well") == {
            "summary": "all went well",
            "outcomes": {"deleted": 2, "spared": 1},
            "freed": {"cpu": 1.5, "memory": 512 * 2.0**20},
            "totals_by_dag": {
                "orders": {"outcomes": {"deleted": 1, "spared": 1}, "freed": {"cpu": 1.0, "memory": 512 * 2.0**20}},
                "sales": {"outcomes": {"deleted": 1}, "freed": {"cpu": 0.5}},
            },
            "zombies": [
                {"pod": "airflow/a", "outcome": "spared", **common, **spared, "dag_id": "orders"},
                {"pod": "airflow/b", "outcome": "deleted", **common, "dag_id": "orders"},
                {"pod": "airflow/c", "outcome": "deleted", **common, "dag_id": "sales"},
            ],
        }

    def test_counts_all_outcomes_in_the_order_of_the_vocabulary(self) -> None:
        results = [make_result(outcome) for outcome in reversed(Outcome)]
        counts = reap_report(results, "")["outcomes"]
        assert list(counts.items()) == [(outcome.value, 1) for outcome in Outcome]

    def test_has_what_went_wrong_next_to_the_summary(self) -> None:
        report = reap_report([], "", ["namespace 'x' is forbidden"])
        assert list(report)[:2] == ["summary", "undone"]
        assert report["undone"] == ["namespace 'x' is forbidden"]

    def test_names_each_cause_of_failures_once(self) -> None:
        def failed(name: str, status: str) -> Result:
            message = f'pods "{name}"' if status.startswith("403") else ""
            error = KpoCleanupError("deleting the pod", cause=status, server_message=message)
            return Result(make_verdict(pod=make_pod(name=name)), Outcome.FAILED, error=error)

        results = [
            make_result(Outcome.DELETED),
            failed("pod-1", "403 Forbidden"),
            failed("pod-2", "500 Internal Server Error"),
            failed("pod-3", "403 Forbidden"),
        ]
        assert failures(results) == [
            '2 pods not deleted: deleting the pod: 403 Forbidden; server message: pods "pod-1"; such as airflow/pod-1',
            "1 pod not deleted: deleting the pod: 500 Internal Server Error; such as airflow/pod-2",
        ]

    @pytest.mark.parametrize("outcome", Outcome)
    def test_says_what_was_freed_by_resource(self, outcome: Outcome) -> None:
        requests = [(("cpu", 0.5), ("memory", 2.0**20)), (("memory", 2.0**20), ("nvidia.com/gpu", 1.0)), ()]
        freed = reap_report([make_result(outcome, requests=each) for each in requests], "")["freed"]
        has_gone = outcome in (Outcome.DELETED, Outcome.WOULD_DELETE)
        assert freed == ({"cpu": 0.5, "memory": 2.0**21, "nvidia.com/gpu": 1} if has_gone else {})


@pytest.mark.parametrize(
    ("settings", "results", "summary"),
    [
        pytest.param(Settings(), [], "deleted 0 of 0 zombies", id="nothing"),
        pytest.param(
            Settings(),
            [freeing(Outcome.DELETED, 1, 2**29), make_result(Outcome.FAILED), make_result(Outcome.LEFT_FOR_NEXT_RUN)],
            "deleted 1 of 3 zombies: orders 1; failed=1 left_for_next_run=1; freed cpu=1 memory=512Mi",
            id="not all",
        ),
        pytest.param(
            DRY_RUN,
            [freeing(Outcome.WOULD_DELETE, 2, 2**30), make_result(Outcome.WOULD_DELETE, dag_id="sales")],
            "DRY RUN: would delete 2 of 15 pods: orders 1, sales 1; would free cpu=2 memory=1Gi",
            id="a dry run, which frees nothing",
        ),
        *(
            pytest.param(
                Settings(),
                [freeing(Outcome.DELETED, 1, size)],
                f"deleted 1 of 1 zombie: orders 1; freed cpu=1 memory={words}",
                id=f"memory of {words}",
            )
            for size, words in [
                (2**30 - 2**20, "1023Mi"),
                (2**30, "1Gi"),
                (3 * 2**29, "1.5Gi"),
                (5_000 * 2**30, "5000Gi"),
            ]
        ),
    ],
)
def test_a_reaping_is_summed_up_in_one_line(settings: Settings, results: list[Result], summary: str) -> None:
    assert reap_summary(results, settings, 15) == summary


def test_the_end_of_a_failed_run_stays_short_and_has_a_line_for_each_remedy() -> None:
    assert failure_lines("deleted 1 of 2 zombies; failed=1", ["a: 403; allow it", "b"]) == [
        "2 problems; all else was done",
        "- a: 403",
        "    allow it",
        "- b",
        "deleted 1 of 2 zombies",
        "    failed=1",
    ]
    many = failure_lines("deleted 1 of 2", [f"pod-{number}" for number in range(MAX_PROBLEMS + 995)])
    assert many[-3:] == [f"- pod-{MAX_PROBLEMS - 1}", "- and 995 more problems", "deleted 1 of 2"]


_ids = st.text("ab_-.1", min_size=1, max_size=63)


@given(
    st.builds(make_pod, name=_ids, namespace=_ids, dag_id=_ids, task_id=_ids, run_id=_ids),
    st.text("ab ;,", min_size=1, max_size=300),
)
def test_no_line_is_too_long_whatever_the_ids_and_nothing_is_lost(pod: Any, evidence: str) -> None:
    verdict = make_verdict(pod=pod, evidence=evidence)
    result = Result(verdict, Outcome.FAILED, error=KpoCleanupError(evidence))
    warned = replace(verdict, is_zombie=False, warning=evidence, remedy=evidence)
    for lines in (zombie_lines([verdict], NOW), warning_lines([warned]), result_lines(result)):
        assert [line for line in lines if len(line) > LINE] == []
        assert "".join(pod.run_id.split()) in "".join("".join(lines).split())
