"""What people read: the log of a classification, and the log and the report of a reaping."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.kpo_cleanup.constants import Outcome, Reason
from include.kpo_cleanup.errors import HIDDEN, KpoCleanupError, RetryableApiError, SettingError, SettingsError
from include.kpo_cleanup.identity import to_label_value
from include.kpo_cleanup.report import (
    MAX_DAGS,
    MAX_NAMES,
    MAX_PODS,
    MAX_PROBLEMS,
    classification_lines,
    classification_summary,
    due_lines,
    error_lines,
    failure_lines,
    failures,
    kept_lines,
    log_lines,
    reap_lines,
    reap_report,
    reap_summary,
    result_lines,
    summary_lines,
    unlisted,
    warning_lines,
    zombie_lines,
)
from include.kpo_cleanup.results import NOT_LISTED, Result
from include.kpo_cleanup.settings import Settings
from include.kpo_cleanup.task_instance import RawIds
from include.kpo_cleanup.text import LINE, pluralize, wrap
from include.kpo_cleanup.verdict import Evidence, Policy, Rule, Verdict
from include.kpo_cleanup.workloads.workload import Container
from tests.unit.builders import DAY, HOUR, NOW, make_pod, make_ti, make_verdict

SIDECAR = (Container("base", "terminated", ended=NOW - HOUR, exit_code=0), Container("proxy", "running", NOW - DAY))
STALLED_BY = {name: (SIDECAR[0], Container(name, "running", NOW - DAY)) for name in ("x", "y")}
RUNNING = make_ti(state="running", ended=None)
DRY_RUN = Settings(dry_run=True)
FORBIDDEN = KpoCleanupError(
    "deleting the pod", cause="403 Forbidden", remedy="allow verb 'delete'", server_message="pods are forbidden"
)
EVIDENCE = "task instance failed (try 1) 60 min ago; base running 2 h"


def kept(rule: Rule = Rule.ACTIVE, problem: str = "", **pod: Any) -> Verdict:
    evidence = Evidence(rule, NOW, RUNNING, problem=problem)
    return make_verdict(workload=make_pod(**pod), is_zombie=False, reason=rule.reason, evidence=evidence)


def make_result(outcome: Outcome, detail: str = "", error: KpoCleanupError | None = None, **pod: Any) -> Result:
    return Result(make_verdict(workload=make_pod(**pod)), outcome, detail, error)


def freeing(outcome: Outcome, cpu: float, memory: float) -> Result:
    return make_result(outcome, requests=(("cpu", cpu), ("memory", memory)))


class TestZombies:
    def test_zombies_are_listed_by_cause_then_by_task_and_run_with_the_evidence_for_each_pod(self) -> None:
        mapped = make_pod(name="extract-1", map_index=12, try_number=2, created=NOW - 3 * DAY)
        hanging = {"name": "load-1", "dag_id": "sales", "task_id": "load", "containers": SIDECAR}
        verdicts = [
            make_verdict(workload=mapped),
            make_verdict(workload=make_pod(**hanging)),
            make_verdict(workload=make_pod(**{**hanging, "name": "load-2", "run_id": "run_2"})),
            make_verdict(workload=make_pod(name="extract-2"), reason=Reason.SUPERSEDED),
            kept(),
        ]
        lines = zombie_lines(verdicts)
        states = "task instance failed (try 1) 60 min ago;"
        containers = "base exited 0 60 min ago, proxy running 24 h"
        assert [line for line in lines if "advice" not in line] == [
            "1 orphaned zombie: base is still running, but its operator is gone",
            "    orders.extract try 2 of run run_1",
            f"        [12] airflow/extract-1: {EVIDENCE}",
            "2 orphaned zombies: proxy is still running after base ended",
            "    sales.load try 1 of run run_1",
            f"        airflow/load-1: {states}",
            f"            {containers}",
            "    sales.load try 1 of run run_2",
            f"        airflow/load-2: {states}",
            f"            {containers}",
            "1 superseded zombie: base is still running, but its operator is gone",
            "    orders.extract try 1 of run run_1",
            f"        airflow/extract-2: {EVIDENCE}",
        ]
        assert [number for number, line in enumerate(lines) if line.startswith("    advice: ")] == [1, 5, 13]

    def test_a_mapped_task_has_one_line_for_each_pod_in_the_order_of_the_map_indexes(self) -> None:
        sidecar = "a-sidecar-with-a-name-of-some-length"
        ended_at = {n: (SIDECAR[0], Container(sidecar, "running", NOW - n * DAY)) for n in (2, 9, 10)}
        pods = [make_pod(name=f"z{n}", map_index=n, containers=ended_at[n]) for n in ended_at]
        assert zombie_lines([make_verdict(workload=pod) for pod in reversed(pods)])[-4:] == [
            "        [2] airflow/z2: task instance failed (try 1) 60 min ago;",
            f"            base exited 0 60 min ago, {sidecar} running 2 d",
            "        [9] airflow/z9: as above",
            "        [10] airflow/z10: as above",
        ]

    def test_a_task_and_its_run_are_shown_with_their_ids_in_airflow_and_a_link_that_is_not_broken(self) -> None:
        raw = RawIds("orders", "load", "scheduled__2026-11-24T03:00:00+00:00")
        link = f"https://airflow.example.com/{'x' * LINE}"
        pods = [make_pod(name=f"z{n}", map_index=n, run_id=to_label_value(raw.run_id)) for n in range(2)]
        verdicts = [make_verdict(workload=pod, raw_ids=raw, link=f"{link}/{pod.map_index}") for pod in pods]
        assert zombie_lines(verdicts)[-4:] == [
            "    orders.load try 1 of run scheduled__2026-11-24T03:00:00+00:00",
            f"        {link}/0",
            f"        [0] airflow/z0: {EVIDENCE}",
            f"        [1] airflow/z1: {EVIDENCE}",
        ]
        row = reap_report([Result(verdicts[0], Outcome.DELETED)], "")["zombies"][0]
        assert row.items() >= {**raw._asdict(), "link": f"{link}/0"}.items()

    def test_thirty_zombies_of_a_mapped_task_fit_on_a_screen(self) -> None:
        verdicts = [make_verdict(workload=make_pod(map_index=n % 30, containers=SIDECAR)) for n in range(17, 47)]
        assert len([*zombie_lines(verdicts), *classification_lines(verdicts, "30 zombies")]) <= 35

    def test_only_the_first_of_very_many_zombies_with_a_cause_are_listed_and_the_others_counted_by_dag(self) -> None:
        dags = ["orders"] * (MAX_PODS - 1) + ["sales"] * 8 + ["stock"] * 9
        verdicts = [make_verdict(workload=make_pod(name=f"z{n}", dag_id=dag_id)) for n, dag_id in enumerate(dags)]
        lines = zombie_lines([*verdicts, make_verdict(workload=make_pod(containers=SIDECAR))])
        assert lines[0].startswith(f"{len(dags)} orphaned zombies: ")
        assert sum("airflow/z" in line for line in lines) == MAX_PODS
        assert "    and 16 more pods: stock 9, sales 7" in lines
        assert "1 orphaned zombie: proxy is still running after base ended" in lines

    def test_exactly_as_many_zombies_as_the_limit_are_all_listed(self) -> None:
        lines = zombie_lines([make_verdict() for _ in range(MAX_PODS)])
        assert not any("more" in line for line in lines)

    def test_kept_pods_are_not_listed_as_zombies(self) -> None:
        assert zombie_lines([kept()]) == []


ZOMBIES_OF_TWO_DAGS = [*(make_verdict(workload=make_pod(dag_id=dag_id)) for dag_id in ("sales", "orders", "orders"))]
CANDIDATES = [make_verdict(is_zombie=False, awaits_record=True) for _ in range(1_200)]
ZOMBIES_OF_MANY_DAGS = [make_verdict(workload=make_pod(dag_id=f"dag_{n}")) for n in range(MAX_DAGS + 2)]


@pytest.mark.parametrize(
    ("settings", "verdicts", "summary"),
    [
        pytest.param({}, [], "nothing to delete among 0 pods", id="there are no pods"),
        pytest.param({}, [kept()], "nothing to delete among 1 pod", id="there are no zombies"),
        pytest.param({}, [make_verdict()], "1 zombie of 1 pod: orders 1", id="there is only a zombie"),
        pytest.param(
            {},
            [*ZOMBIES_OF_TWO_DAGS, kept()],
            "3 zombies of 4 pods: orders 2, sales 1",
            id="the DAG with most zombies comes first",
        ),
        pytest.param(
            {},
            ZOMBIES_OF_MANY_DAGS,
            "7 zombies of 7 pods: dag_0 1, dag_1 1, dag_2 1, dag_3 1, dag_4 1, and 2 more DAGs",
            id="only some of many DAGs are named",
        ),
        pytest.param(
            {"max_deletes": 2},
            ZOMBIES_OF_TWO_DAGS,
            "3 zombies of 3 pods: orders 2, sales 1; at most 2 per run (max_deletes)",
            id="there are more zombies than one run may delete",
        ),
        pytest.param(
            {"dry_run": True},
            ZOMBIES_OF_TWO_DAGS,
            "DRY RUN: would delete 3 of 3 pods: orders 2, sales 1",
            id="a dry run says so",
        ),
        pytest.param(
            {},
            [make_verdict(), *CANDIDATES],
            "1 zombie of 1,201 pods: orders 1; and 1,200 more candidates for later runs",
            id="records were not read",
        ),
        pytest.param(
            {},
            CANDIDATES[:1],
            "nothing to delete among 1 pod; and 1 more candidate for later runs",
            id="there are only candidates",
        ),
        pytest.param(
            {"dry_run": True}, [], "DRY RUN: nothing to delete among 0 pods", id="a dry run without pods says so"
        ),
    ],
)
def test_a_classification_is_summarized_in_one_line(
    settings: dict[str, Any], verdicts: list[Verdict], summary: str
) -> None:
    assert classification_summary(verdicts, Settings(**settings)) == summary


SOME_VERDICTS = [
    make_verdict(),
    make_verdict(reason=Reason.SUPERSEDED),
    *map(kept, (Rule.ACTIVE, Rule.OWNED, Rule.ACTIVE)),
]


def test_the_log_summarizes_a_classification_by_topic_with_the_summary_last() -> None:
    assert classification_lines(SOME_VERDICTS, "2 zombies of 5 pods") == [
        "zombies by reason: superseded=1 orphaned=1",
        "kept: owned=1 active=2",
        "2 zombies of 5 pods",
    ]
    assert classification_lines([], "nothing") == ["kept: none", "nothing"]


def test_the_end_of_the_log_shows_which_kept_pods_need_attention_and_what_to_do() -> None:
    stalled = kept(Rule.STALLED, containers=SIDECAR)
    verdicts = [kept(Rule.NOT_RESOLVED, "it is pickled"), stalled, stalled, kept()]
    assert classification_lines(verdicts, "nothing") == [
        "kept: unresolved=1 stalled=2 active=1",
        "    2 stalled: proxy keeps the task waiting; stop it, or mark the task as failed; permanent fix:",
        "        make it a native sidecar, or set an execution_timeout",
        "    1 unresolved: it is pickled",
        "nothing",
    ]


def test_the_last_ten_lines_of_the_log_have_the_summary_and_the_warnings_about_the_most_pods() -> None:
    stalled = [kept(Rule.STALLED, containers=STALLED_BY[name]) for name in ("x", "y", "y")]
    unresolved = [kept(Rule.NOT_RESOLVED, "it is pickled " * 90) for _ in range(3)]
    verdicts = [*SOME_VERDICTS, *stalled, *unresolved]
    settling = [kept(Rule.SETTLING)._replace(eligible_at=NOW + n * DAY) for n in range(2)]
    lines = due_lines(settling, NOW) + classification_lines(verdicts, "2 zombies of 5 pods")
    assert len(lines) == 10
    assert lines[-5].endswith("pickled i…")
    assert lines[-4:] == [
        "    2 stalled: y keeps the task waiting; stop it, or mark the task as failed; permanent fix:",
        "        make it a native sidecar, or set an execution_timeout",
        "    and 1 more warning above",
        "2 zombies of 5 pods",
    ]


DAG_ID = "commandes_à_faire"  # whose label has a hash


def test_the_summaries_and_the_report_name_the_dag_as_airflow_does() -> None:
    raw = RawIds(DAG_ID, "load", "run_1")
    zombies = [make_verdict(workload=make_pod(dag_id=to_label_value(DAG_ID)), raw_ids=raw)] * (MAX_PODS + 1)
    results = [Result(zombie, Outcome.DELETED) for zombie in zombies]
    assert classification_summary(zombies, Settings()) == f"26 zombies of 26 pods: {DAG_ID} 26"
    assert zombie_lines(zombies)[-1] == f"    and 1 more pod: {DAG_ID} 1"
    assert reap_summary(results, Settings(), 26)[0] == f"deleted 26 of 26 zombies: {DAG_ID} 26"
    assert [*reap_report(results, "")["totals_by_dag"]] == [DAG_ID]


class TestWarnings:
    def test_pods_that_need_no_attention_have_no_warnings(self) -> None:
        assert warning_lines([kept(), kept(Rule.OWNED), kept(Rule.SETTLING), make_verdict()]) == []

    def test_each_problem_has_one_warning_with_the_remedy_and_the_tasks_of_its_pods(self) -> None:
        def stalled(sidecar: str, name: str) -> Verdict:
            return kept(Rule.STALLED, name=name, map_index=3, containers=STALLED_BY[sidecar])

        states = "task instance running (try 1); base exited 0 60 min ago, {} running 24 h"
        assert warning_lines([stalled("x", "a"), stalled("y", "b"), stalled("x", "c")]) == [
            "kept 2 stalled pods: x keeps the task waiting",
            "    stop it, or mark the task as failed; permanent fix: make it a native sidecar, or set an",
            "        execution_timeout",
            "    orders.extract try 1 of run run_1",
            f"        [3] airflow/a: {states.format('x')}",
            f"        [3] airflow/c: {states.format('x')}",
            "kept 1 stalled pod: y keeps the task waiting",
            "    stop it, or mark the task as failed; permanent fix: make it a native sidecar, or set an",
            "        execution_timeout",
            "    orders.extract try 1 of run run_1",
            f"        [3] airflow/b: {states.format('y')}",
        ]

    def test_a_warning_names_only_some_of_many_pods(self) -> None:
        lines = warning_lines([kept(Rule.NOT_RESOLVED, "it is pickled") for _ in range(MAX_NAMES + 3)])
        assert lines[0] == "kept 8 unresolved pods: it is pickled"
        assert len(lines) == 2 + MAX_NAMES + 1
        assert lines[-1] == "    and 3 more pods: orders 3"

    def test_a_warning_about_unmatched_pods_names_no_reason(self) -> None:
        unmatched = make_verdict(
            is_zombie=False,
            reason=Reason.UNMATCHED,
            evidence=Evidence(Rule.NO_TASK_INSTANCE, NOW, policy=Policy(False, "delete_unmatched_pods", False)),
        )
        assert warning_lines([unmatched])[0] == "kept 1 pod with no matching task instance"

    def test_a_warning_about_malformed_labels_claims_no_id_that_they_do_not_have(self) -> None:
        pod = make_pod(run_id="", try_number=0, label_problem="label try_number is 'one'")
        (_, _, *lines) = warning_lines(
            [make_verdict(workload=pod, is_zombie=False, evidence=Evidence(Rule.BAD_LABELS, NOW))]
        )
        assert lines == [f"    {pod.dag_id}.{pod.task_id} try ? of run ?", f"        {pod}"]


class TestDue:
    @pytest.mark.parametrize(
        ("due", "when"),
        [
            pytest.param([NOW + 61], "after 12:01:01 UTC", id="at one time today"),
            pytest.param([NOW + DAY], "after 2026-11-25 12:00:00 UTC", id="tomorrow, with the date"),
            pytest.param(
                [NOW + DAY, NOW, NOW + 61],
                "between 12:00:00 UTC and 2026-11-25 12:00:00 UTC",
                id="at several times, with the first and the last",
            ),
        ],
    )
    def test_the_log_shows_when_the_pods_that_are_kept_for_now_will_be_deleted(self, due: list[int], when: str) -> None:
        settling = [kept(Rule.SETTLING)._replace(eligible_at=time) for time in due]
        terminating = [verdict._replace(reason=Reason.TERMINATING) for verdict in settling]
        assert due_lines([*settling, *terminating], NOW) == [
            f"{pluralize(len(due), 'terminating pod')}: due for another deletion {when}",
            "    a later run deletes what still exists then",
            f"{pluralize(len(due), 'settling pod')}: due for deletion {when}",
            "    left for a later run, or for one with settle_seconds=0",
        ]

    def test_settling_pods_that_stay_kept_once_they_have_settled_are_not_counted_as_due(self) -> None:
        due = kept(Rule.SETTLING)._replace(eligible_at=NOW + 61)
        assert due_lines([due, kept(Rule.SETTLING)], NOW)[0] == (
            "1 of 2 settling pods: due for deletion after 12:01:01 UTC"
        )

    @pytest.mark.parametrize("rule", [r for r in Rule if r.reason not in (Reason.SETTLING, Reason.TERMINATING)])
    def test_pods_that_are_kept_for_now_are_mentioned_whatever_the_reason(self, rule: Rule) -> None:
        lines = due_lines([kept(rule)._replace(eligible_at=NOW)], NOW)
        assert lines == [
            f"1 {rule.reason.value} pod: due for deletion after 12:00:00 UTC",
            "    left for a later run",
        ]

    def test_pods_that_are_never_eligible_are_not_mentioned(self) -> None:
        assert due_lines([kept(Rule.SETTLING), kept(), make_verdict()], NOW) == []


class TestErrors:
    def test_an_error_has_its_remedy_and_the_message_of_the_server_on_separate_lines(self) -> None:
        assert error_lines(FORBIDDEN) == [
            "deleting the pod: 403 Forbidden",
            "    allow verb 'delete'",
            "    server message: pods are forbidden",
        ]

    def test_an_error_with_a_summary_alone_is_one_line(self) -> None:
        assert error_lines(KpoCleanupError("the database is down"), bullet="- ") == ["- the database is down"]

    def test_a_message_of_several_lines_is_joined(self) -> None:
        error = KpoCleanupError("reading", server_message="no such table\n[SQL: SELECT 1]")
        assert error_lines(error) == ["reading", "    server message: no such table [SQL: SELECT 1]"]

    def test_the_value_of_an_unknown_option_is_hidden_in_the_log(self) -> None:
        error = SettingError("dryrun", HIDDEN, "the DAG file", "did you mean dry_run?")
        assert error_lines(SettingsError("1 invalid setting", errors=[error])) == [
            "1 invalid setting",
            "    - dryrun (the DAG file):",
            "        did you mean dry_run?",
        ]

    def test_each_rejected_setting_has_its_value_its_origin_and_its_remedy(self) -> None:
        errors = [SettingError("dryrun", True, "the DAG file", "did you mean dry_run?")] * 2
        assert error_lines(SettingsError("2 invalid settings", errors=errors)) == [
            "2 invalid settings",
            *["    - dryrun=True (the DAG file):", "        did you mean dry_run?"] * 2,
        ]


TASK = "    orders.extract try 1 of run run_1"


class TestResults:
    def test_pods_that_failed_for_the_same_cause_are_listed_below_it_with_their_evidence(self) -> None:
        error = KpoCleanupError("deleting the pod", cause="7 bytes read")
        other = KpoCleanupError("deleting the pod", cause="17 bytes read")
        results = [make_result(Outcome.FAILED, error=error, name="b", map_index=12)]
        results += [make_result(Outcome.FAILED, "the API server does not respond", other, name="a", map_index=3)]
        results += [make_result(Outcome.FAILED, error=FORBIDDEN, name="c")]
        assert result_lines(results) == [
            "failed: 2 orphaned pods",
            "    7 bytes read",
            TASK,
            f"        [3] airflow/a: {EVIDENCE}",
            f"        [12] airflow/b: {EVIDENCE}",
            "failed: 1 orphaned pod",
            "    403 Forbidden",
            TASK,
            f"        airflow/c: {EVIDENCE}",
        ]

    def test_each_line_of_a_pods_log_is_one_line_and_the_report_has_all_of_it(self) -> None:
        result = replace(make_result(Outcome.DELETED, name="a"), log=("one", "x" * 2 * LINE))
        lines = log_lines(result.verdict.workload, result.log)
        assert lines[:2] == ["last log lines of airflow/a:", "    | one"]
        assert (len(lines), len(lines[2]), lines[2][-1]) == (3, LINE, "…")
        assert reap_report([result], "")["zombies"][0]["log"] == [*result.log]

    def test_a_pod_that_a_finalizer_holds_is_logged_with_the_finalizer(self) -> None:
        assert result_lines([make_result(Outcome.AWAITING_FINALIZER, "held by a/b")])[1] == "    held by a/b"

    @pytest.mark.parametrize(
        ("outcome", "line"),
        [
            (Outcome.TERMINATING, "    asked to end by 2027-01-15 08:00:30 UTC"),
            (Outcome.WOULD_DELETE, "    would be asked to end by 2027-01-15 08:00:30 UTC"),
        ],
        ids=lambda value: value.value if isinstance(value, Outcome) else "",
    )
    def test_pods_with_a_grace_period_have_the_latest_deadline(self, outcome: Outcome, line: str) -> None:
        result = replace(make_result(outcome), deadline=1_800_000_030)
        earlier = replace(result, deadline=1_800_000_029)
        assert result_lines([earlier, result, earlier])[:2] == [f"{outcome.value}: 3 orphaned pods", line]
        assert reap_report([result], "")["zombies"][0]["deadline"] == "2027-01-15 08:00:30 UTC"
        assert reap_report([result], "")["freed"] == {}

    def test_a_spared_pod_is_logged_with_the_reason_that_keeps_it_now(self) -> None:
        assert result_lines([Result(kept(name="a"), Outcome.SPARED)]) == [
            "spared: 1 pod, now active",
            TASK,
            "        airflow/a: task instance running (try 1); base running 2 h",
        ]

    def test_a_pod_that_was_not_classified_again_is_logged_with_the_evidence_of_classify(self) -> None:
        gone = make_verdict(workload=make_pod(name="a"), evidence=("task instance failed", "base running 2 h"))
        assert result_lines([Result(gone, Outcome.ALREADY_GONE)])[1:] == [
            TASK,
            "        airflow/a: task instance failed; base running 2 h",
        ]


class TestReaping:
    def test_the_log_lists_the_pods_that_a_dry_run_would_delete(self) -> None:
        results = [make_result(Outcome.WOULD_DELETE, name="a"), make_result(Outcome.WOULD_DELETE, name="b")]
        assert reap_lines(results, DRY_RUN) == [
            "would_delete: 2 orphaned pods",
            TASK,
            f"        airflow/a: {EVIDENCE}",
            f"        airflow/b: {EVIDENCE}",
        ]

    def test_the_log_shows_how_many_zombies_are_left_and_why(self) -> None:
        results = [
            make_result(Outcome.DELETED),
            make_result(Outcome.LEFT_FOR_NEXT_RUN, "max_deletes=1 was reached"),
            make_result(Outcome.LEFT_FOR_NEXT_RUN, "max_deletes=1 was reached"),
        ]
        assert reap_lines(results, Settings()) == ["left for the next run: 2 zombies (max_deletes=1 was reached)"]

    def test_the_log_shows_what_to_do_about_pods_that_a_finalizer_holds(self) -> None:
        assert reap_lines([make_result(Outcome.AWAITING_FINALIZER, "held by a/b")], Settings()) == [
            "awaiting_finalizer: repair the controllers that set these finalizers, or remove the finalizers"
        ]

    def test_the_log_shows_what_the_deleted_pods_of_each_dag_had_requested(self) -> None:
        results = [
            make_result(Outcome.DELETED, dag_id="sales", requests=(("cpu", 0.5), ("nvidia.com/gpu", 2.0))),
            freeing(Outcome.DELETED, 1, 2**30),
            freeing(Outcome.DELETED, 1, 2**29),
            freeing(Outcome.FAILED, 1, 2**29),
        ]
        lines = ["freed by pods of sales: cpu=0.5 nvidia.com/gpu=2", "freed by pods of orders: cpu=2 memory=1.5Gi"]
        assert reap_lines(results, Settings()) == lines

    def test_the_log_repeats_nothing_that_was_logged_with_each_pod(self) -> None:
        results = [make_result(Outcome.DELETED), make_result(Outcome.FAILED, error=FORBIDDEN)]
        assert reap_lines(results, Settings()) == []

    def test_the_report_has_every_pod_with_its_outcome_and_its_task(self) -> None:
        results = [
            Result(kept(name="a"), Outcome.SPARED),
            make_result(Outcome.AWAITING_FINALIZER, "held by a/b", name="b"),
            make_result(Outcome.DELETED, name="c", requests=(("cpu", 1.0), ("memory", 512 * 2.0**20))),
            make_result(Outcome.FAILED, error=FORBIDDEN, name="d", dag_id="sales"),
            make_result(Outcome.DELETED, name="e", dag_id="sales", requests=(("cpu", 0.5),)),
        ]
        ids = {"task_id": "extract", "map_index": -1, "try_number": 1, "run_id": "run_1"}
        orphaned = {"reason": "orphaned", "evidence": EVIDENCE.split("; "), **ids}
        active = {"reason": "active", "evidence": ["task instance running (try 1)", "base running 2 h"], **ids}
        assert reap_report(results, "all went well") == {
            "summary": "all went well",
            "outcomes": {"deleted": 2, "awaiting_finalizer": 1, "spared": 1, "failed": 1},
            "freed": {"cpu": 1.5, "memory": 512 * 2.0**20},
            "totals_by_dag": {
                "orders": {
                    "outcomes": {"deleted": 1, "awaiting_finalizer": 1, "spared": 1},
                    "freed": {"cpu": 1.0, "memory": 512 * 2.0**20},
                },
                "sales": {"outcomes": {"deleted": 1, "failed": 1}, "freed": {"cpu": 0.5}},
            },
            "zombies": [
                {"pod": "airflow/a", "outcome": "spared", **active, "dag_id": "orders"},
                {
                    "pod": "airflow/b",
                    "outcome": "awaiting_finalizer",
                    **orphaned,
                    "detail": "held by a/b",
                    "dag_id": "orders",
                },
                {"pod": "airflow/c", "outcome": "deleted", **orphaned, "dag_id": "orders"},
                {"pod": "airflow/d", "outcome": "failed", **orphaned, "error": FORBIDDEN.fields, "dag_id": "sales"},
                {"pod": "airflow/e", "outcome": "deleted", **orphaned, "dag_id": "sales"},
            ],
        }

    def test_the_report_counts_all_outcomes_in_the_order_of_the_enumeration(self) -> None:
        results = [make_result(outcome) for outcome in reversed(Outcome)]
        counts = reap_report(results, "")["outcomes"]
        assert list(counts.items()) == [(outcome.value, 1) for outcome in Outcome]

    def test_the_report_has_the_errors_next_to_the_summary(self) -> None:
        report = reap_report([], "", [FORBIDDEN])
        assert list(report)[:2] == ["summary", "undone"]
        assert report["undone"] == [
            {
                "summary": "deleting the pod",
                "cause": "403 Forbidden",
                "remedy": "allow verb 'delete'",
                "server_message": "pods are forbidden",
            }
        ]

    def test_pods_that_failed_for_the_same_cause_are_one_failure(self) -> None:
        internal = KpoCleanupError("deleting the pod", cause="500 Internal Server Error")
        odd = KpoCleanupError("ValueError: odd")
        errors = {"pod-1": FORBIDDEN, "pod-2": internal, "pod-3": FORBIDDEN, "pod-4": odd}
        results = [make_result(Outcome.FAILED, error=error, name=name) for name, error in errors.items()]
        assert [error.fields for error in failures([make_result(Outcome.DELETED), *results])] == [
            {**FORBIDDEN.fields, "summary": "2 pods (such as airflow/pod-1) not deleted"},
            {"summary": "1 pod (airflow/pod-2) not deleted", "cause": "500 Internal Server Error"},
            {"summary": "1 pod (airflow/pod-4) not deleted", "cause": "ValueError: odd"},
        ]

    def test_a_cause_is_one_failure_although_its_numbers_and_the_namespaces_in_its_remedy_differ(self) -> None:
        results = [
            make_result(
                Outcome.FAILED,
                error=KpoCleanupError(
                    "deleting the pod", cause=f"{n} bytes read", remedy=f"allow it in 'team-{n % 3}'"
                ),
                namespace=f"team-{n % 3}",
                name=f"pod-{n}",
            )
            for n in range(2000)
        ]
        assert [error.fields for error in failures(results)] == [
            {
                "summary": "2,000 pods in 3 namespaces (such as team-0/pod-0) not deleted",
                "cause": "0 bytes read",
                "remedy": "allow it in 'team-0'",
            }
        ]

    def test_workloads_that_need_different_rules_are_separate_failures(self) -> None:
        rules = [KpoCleanupError("deleting", cause="403 Forbidden", remedy=f"allow {kind}s") for kind in ("Job", "Pod")]
        found = failures([make_result(Outcome.FAILED, error=rule) for rule in rules])
        assert [error.remedy for error in found] == ["allow Jobs", "allow Pods"]

    def test_a_transient_failure_says_that_the_next_run_tries_again(self) -> None:
        outage = RetryableApiError("deleting the pod", cause="connection refused", remedy="check the network")
        (error,) = failures([make_result(Outcome.FAILED, error=outage)])
        assert error.remedy == "check the network; the next run tries again"

    def test_pods_that_could_not_be_listed_again_say_so_and_that_nothing_was_sent(self) -> None:
        outage = RetryableApiError("listing pods in namespace 'airflow'", cause="500 Internal Server Error")
        results = [
            make_result(Outcome.FAILED, NOT_LISTED, outage, name="a"),
            make_result(Outcome.FAILED, error=outage, name="b"),
        ]
        assert [error.summary for error in failures(results)] == [
            f"1 pod (airflow/a) not deleted: {NOT_LISTED}",
            "1 pod (airflow/b) not deleted",
        ]

    def test_pods_that_may_have_been_deleted_are_a_separate_failure(self) -> None:
        results = [make_result(outcome, error=FORBIDDEN, name="a") for outcome in (Outcome.FAILED, Outcome.UNKNOWN)]
        summaries = ["1 pod (airflow/a) not deleted", "1 pod (airflow/a) may or may not have been deleted"]
        assert [error.summary for error in failures(results)] == summaries

    def test_a_completed_pod_frees_nothing_because_it_had_nothing_reserved(self) -> None:
        completed = make_result(Outcome.DELETED, phase="Succeeded", requests=(("cpu", 1.0),))
        assert reap_report([completed], "")["freed"] == {}

    @pytest.mark.parametrize("outcome", Outcome)
    def test_the_report_adds_up_the_requests_of_deleted_pods_by_resource(self, outcome: Outcome) -> None:
        requests = [(("cpu", 0.5), ("memory", 2.0**20)), (("memory", 2.0**20), ("nvidia.com/gpu", 1.0)), ()]
        freed = reap_report([make_result(outcome, requests=each) for each in requests], "")["freed"]
        is_gone = outcome in (Outcome.DELETED, Outcome.WOULD_DELETE)
        assert freed == ({"cpu": 0.5, "memory": 2.0**21, "nvidia.com/gpu": 1} if is_gone else {})


@pytest.mark.parametrize(
    ("settings", "results", "summary"),
    [
        pytest.param(Settings(), [], ["deleted 0 of 0 zombies"], id="there were no zombies"),
        pytest.param(
            Settings(),
            [freeing(Outcome.DELETED, 1, 2**29), make_result(Outcome.FAILED), make_result(Outcome.LEFT_FOR_NEXT_RUN)],
            ["deleted 1 of 3 zombies: orders 1", "failed=1 left_for_next_run=1", "freed cpu=1 memory=512Mi"],
            id="not all zombies were deleted",
        ),
        pytest.param(
            DRY_RUN,
            [freeing(Outcome.WOULD_DELETE, 2, 2**30), make_result(Outcome.WOULD_DELETE, dag_id="sales")],
            ["DRY RUN: would delete 2 of 15 pods: orders 1, sales 1", "would free cpu=2 memory=1Gi"],
            id="a dry run frees nothing",
        ),
        pytest.param(
            Settings(),
            [make_result(Outcome.TERMINATING, requests=(("cpu", 1.0),))],
            ["deleted 0 of 1 zombie", "terminating=1"],
            id="a pod that ends within its grace period is neither deleted nor freed",
        ),
        pytest.param(
            DRY_RUN,
            [
                freeing(Outcome.WOULD_DELETE, 2, 2**30),
                replace(freeing(Outcome.WOULD_DELETE, 1, 2**30), deadline=NOW + 30),
            ],
            [
                "DRY RUN: would delete 2 of 15 pods: orders 2",
                "1 of them would end within a grace period",
                "would free cpu=2 memory=1Gi",
            ],
            id="a dry run shows which pods would end within a grace period",
        ),
        *(
            pytest.param(
                Settings(),
                [freeing(Outcome.DELETED, 1, size)],
                ["deleted 1 of 1 zombie: orders 1", f"freed cpu=1 memory={amount}"],
                id=f"{size} bytes are {amount}",
            )
            for size, amount in [
                (2**30 - 2**20, "1023Mi"),
                (2**30, "1Gi"),
                (3 * 2**29, "1.5Gi"),
                (5_000 * 2**30, "5000Gi"),
            ]
        ),
    ],
)
def test_a_reaping_is_summarized_by_topic(settings: Settings, results: list[Result], summary: list[str]) -> None:
    assert reap_summary(results, settings, 15) == summary
    assert reap_summary(results, settings, 15, 7) == [*summary, "and 7 more candidates for later runs"]


class TestUnlistedNamespaces:
    def test_namespaces_that_could_not_be_listed_for_the_same_cause_are_one_error(self) -> None:
        missing = KpoCleanupError("namespace 'x' does not exist", remedy="correct namespaces")
        forbidden = {
            name: KpoCleanupError(
                f"listing pods in namespace {name!r}", cause="403 Forbidden", remedy=f"allow {name!r}"
            )
            for name in ("a", "b")
        }
        assert [error.fields for error in unlisted({**forbidden, "x": missing})] == [
            {
                "summary": "listing pods in 2 namespaces (such as a, b)",
                "cause": "403 Forbidden",
                "remedy": "allow 'a'",
            },
            missing.fields,
        ]

    @pytest.mark.parametrize(
        "remedy", ["", "allow verb 'get' on {}s"], ids=["the same remedy", "each needs its own rule"]
    )
    def test_kinds_that_could_not_be_read_are_separate_errors_and_no_namespaces(self, remedy: str) -> None:
        errors = {
            kind: KpoCleanupError(f"reading a {kind}", cause="403 Forbidden", remedy=remedy.format(kind))
            for kind in ("Job", "SparkApplication")
        }
        assert unlisted(errors) == [*errors.values()]

    def test_the_error_of_a_single_namespace_is_not_changed(self) -> None:
        assert unlisted({"a": FORBIDDEN}) == [FORBIDDEN]


def test_a_candidate_does_not_count_as_kept() -> None:
    assert classification_lines(CANDIDATES, "summary") == ["kept: none", "summary"]
    assert list(kept_lines(CANDIDATES)) == []


def test_a_summary_has_a_line_for_each_topic() -> None:
    assert summary_lines(["deleted 1 of 2 zombies", "failed=1"]) == ["deleted 1 of 2 zombies", "    failed=1"]


def test_a_failed_run_ends_with_each_error_and_its_remedy_and_the_summary() -> None:
    errors = [KpoCleanupError("a", cause="403", remedy="allow it"), KpoCleanupError("b")]
    assert failure_lines(["deleted 1 of 2 zombies", "failed=1"], errors) == [
        "2 problems; everything else was processed",
        "- a: 403",
        "    allow it",
        "- b",
        "deleted 1 of 2 zombies",
        "    failed=1",
    ]


def test_a_failed_run_with_many_errors_ends_with_some_of_them() -> None:
    errors = [KpoCleanupError(f"pod-{number}") for number in range(MAX_PROBLEMS + 995)]
    lines = failure_lines(["deleted 1 of 2"], errors)
    assert lines[-3:] == [f"- pod-{MAX_PROBLEMS - 1}", "- and 995 more problems", "deleted 1 of 2"]


def test_a_failed_run_that_left_zombies_does_not_claim_that_everything_else_was_done() -> None:
    lines = failure_lines(["deleted 0 of 4 zombies"], [KpoCleanupError("a")], 3)
    assert lines[0] == "1 problem; 3 zombies left for the next run"


_ids = st.text("ab_-.1", min_size=1, max_size=63)
_texts = st.text("ab ;,\n", min_size=1, max_size=300)


def test_a_dag_is_not_separated_from_its_count_at_the_end_of_a_line() -> None:
    lines = wrap(f"10 zombies of 15 pods: nightly_orders 7, {'x' * 52} 1,200; 3 left")
    assert lines == ["10 zombies of 15 pods: nightly_orders 7,", f"    {'x' * 52} 1,200; 3 left"]


@given(st.builds(make_pod, name=_ids, namespace=_ids, dag_id=_ids, task_id=_ids, run_id=_ids), _texts)
def test_no_line_is_too_long_and_no_id_is_lost_whatever_the_ids_and_texts(pod: Any, text: str) -> None:
    zombie = make_verdict(workload=pod, evidence=(text, text))
    error = KpoCleanupError(text, cause=text, remedy=text, server_message=text)
    warned = make_verdict(
        workload=replace(pod, label_problem=text), is_zombie=False, evidence=Evidence(Rule.BAD_LABELS, NOW)
    )
    result = Result(zombie, Outcome.FAILED, text, error)
    for lines in (zombie_lines([zombie, zombie]), warning_lines([warned]), result_lines([result])):
        assert [line for line in lines if len(line) > LINE] == []
        shown = "".join("".join(lines).split())
        assert all(each in shown for each in (pod.run_id, pod.task_id, pod.dag_id, str(pod)))
    for line in (*failure_lines([text or "x"], [error]), *kept_lines([warned])):
        assert len(line) <= LINE
