"""The specification of classification: each rule, their order, their boundaries, and invariants."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from include.kpo_cleanup.classify import (
    Classifier,
    Snapshot,
    classify,
    find_successors,
    incomplete_keys,
    possible_successors,
    record_keys,
    uncertain_workloads,
    with_plain_tasks,
)
from include.kpo_cleanup.constants import FINISHED_STATES, Reason
from include.kpo_cleanup.evidence import phrases
from include.kpo_cleanup.identity import UNMAPPED, TaskInstanceKey
from include.kpo_cleanup.settings import Settings
from include.kpo_cleanup.task_instance import RawIds, Record, TaskInstance, TaskInstances
from include.kpo_cleanup.verdict import Evidence, Policy, Rule, Verdict, count_reasons
from include.kpo_cleanup.workloads.workload import Container, Links, Workload
from tests.unit.builders import (
    DAY,
    FINISHED,
    HOUR,
    JOB,
    MINUTE,
    NO_TI,
    NOW,
    SETTLE,
    answer,
    classify_pod,
    make_pod,
    make_ti,
)

ACTIVE = make_ti(state="running", ended=None)
SECOND_TRY = ACTIVE._replace(try_number=2)

ACTIVE_STATES = [
    None,
    "scheduled",
    "queued",
    "running",
    "restarting",
    "up_for_retry",
    "up_for_reschedule",
    "deferred",
    "shutdown",
    "awaiting_input",
    "a_state_of_a_later_airflow",
    "",
    "Success",
]


def ended(name: str = "base", since: int | None = NOW - HOUR, code: int = 0) -> Container:
    return Container(name, "terminated", None, since, code)


def running(name: str = "base", since: int | None = NOW - 2 * HOUR) -> Container:
    return Container(name, "running", since)


def waiting(name: str, why: str) -> Container:
    return Container(name, "waiting", reason=why)


def classify_all(
    pods: Sequence[Workload], task_instances: TaskInstances, settings: Settings | None = None, now: int = NOW
) -> list[Verdict]:
    return classify(Snapshot(pods, task_instances, settings or Settings(), now))


def assert_kept(verdict: Verdict, reason: Reason) -> None:
    assert (verdict.reason, verdict.is_zombie) == (reason, False), verdict


def assert_zombie(verdict: Verdict, reason: Reason) -> None:
    assert (verdict.reason, verdict.is_zombie) == (reason, True), verdict


OF_JOB = Record(frozenset({"Job airflow/x"}))
# Each row: a feature that keeps a pod, the same feature of a twin that is deleted, and the twin's reason.
# Everything else is as in a running pod whose task instance failed an hour ago.
KEEP_RULES = [
    pytest.param(
        Reason.BAD_LABELS,
        {"pod": {"label_problem": "label task_id is missing"}},
        {"pod": {"label_problem": ""}},
        Reason.ORPHANED,
        id="a pod without an identifying label is kept",
    ),
    pytest.param(
        Reason.PROTECTED,
        {"pod": {"protected_by": "kpo-cleanup/protect=true"}},
        {"pod": {"protected_by": ""}},
        Reason.ORPHANED,
        id="a protected pod is kept",
    ),
    pytest.param(
        Reason.OWNED,
        {"pod": {"controller": JOB}},
        {"pod": {"controller": None}},
        Reason.ORPHANED,
        id="a pod with a controller is left to the controller",
    ),
    pytest.param(
        Reason.OWNED,
        {"pod": {"links": Links(JOB)}},
        {"pod": {"links": Links()}},
        Reason.ORPHANED,
        id="a pod with the labels of a Job is left to the Job although it has no owner reference",
    ),
    pytest.param(
        Reason.TERMINATING,
        {"pod": {"deletion_deadline": NOW - DAY, "finalizers": ("example.com/hold",)}},
        {"pod": {"deletion_deadline": NOW - DAY, "finalizers": ()}},
        Reason.ORPHANED,
        id="a pod that a finalizer holds is kept however overdue it is",
    ),
    pytest.param(
        Reason.TERMINATING,
        {"pod": {"deletion_deadline": NOW - SETTLE}},
        {"pod": {"deletion_deadline": NOW - SETTLE - 1}},
        Reason.ORPHANED,
        id="a pod that is being deleted is kept until its deadline and settle_seconds have passed",
    ),
    pytest.param(
        Reason.TERMINATING,
        {"pod": {"deletion_deadline": NOW + DAY}},
        {"pod": {"deletion_deadline": None}},
        Reason.ORPHANED,
        id="a pod with a long grace period is kept until it ends",
    ),
    pytest.param(
        Reason.UNRESOLVED,
        {"ti": NO_TI, "unresolved": True, "delete_unmatched_pods": True, "pod": {"containers": ()}},
        {"ti": NO_TI, "unresolved": False, "delete_unmatched_pods": True, "pod": {"containers": ()}},
        Reason.UNMATCHED,
        id="a pod whose task instance could not be looked up is kept even if unmatched pods are deleted",
    ),
    pytest.param(
        Reason.UNMATCHED,
        {"ti": NO_TI},
        {"ti": FINISHED},
        Reason.ORPHANED,
        id="a pod without a task instance on record is kept",
    ),
    pytest.param(
        Reason.UNMATCHED,
        {"ti": NO_TI, "delete_unmatched_pods": False, "pod": {"containers": ()}},
        {"ti": NO_TI, "delete_unmatched_pods": True, "pod": {"containers": ()}},
        Reason.UNMATCHED,
        id="an unmatched pod is kept unless delete_unmatched_pods is set",
    ),
    pytest.param(
        Reason.UNMATCHED,
        {"ti": NO_TI, "delete_unmatched_pods": True, "pod": {"created": NOW - SETTLE, "containers": ()}},
        {"ti": NO_TI, "delete_unmatched_pods": True, "pod": {"created": NOW - SETTLE - 1, "containers": ()}},
        Reason.UNMATCHED,
        id="an unmatched pod is kept until it is older than settle_seconds",
    ),
    pytest.param(
        Reason.UNMATCHED,
        {"ti": NO_TI, "delete_unmatched_pods": True, "pod": {"created": NOW + HOUR, "containers": ()}},
        {"ti": NO_TI, "delete_unmatched_pods": True, "pod": {"created": NOW - HOUR, "containers": ()}},
        Reason.UNMATCHED,
        id="an unmatched pod that was created in the future is kept",
    ),
    pytest.param(
        Reason.UNMATCHED,
        {"ti": make_ti(ended=NOW - HOUR), "pod": {"created": NOW - HOUR + 6}},
        {"ti": make_ti(ended=NOW - HOUR), "pod": {"created": NOW - HOUR + 5}},
        Reason.ORPHANED,
        id="a pod that was created after its task instance ended is kept",
    ),
    pytest.param(
        Reason.UNMATCHED,
        {"ti": make_ti(ended=NOW - HOUR), "pod": {"created": NOW - MINUTE, "already_checked": False}},
        {"ti": make_ti(ended=NOW - HOUR), "pod": {"created": NOW - MINUTE, "already_checked": True}},
        Reason.ORPHANED,
        id="a pod that was created after the end is kept unless its operator has marked it as checked",
    ),
    pytest.param(
        Reason.UNMATCHED,
        {"pod": {"created": NOW - MINUTE, "containers": ()}, "delete_unmatched_pods": True},
        {"pod": {"created": NOW - SETTLE - 1, "containers": ()}, "delete_unmatched_pods": True},
        Reason.UNMATCHED,
        id="a pod that is not proved to be the task instance's is kept until it is older than settle_seconds",
    ),
    pytest.param(
        Reason.UNMATCHED,
        {"ti": NO_TI, "delete_unmatched_pods": True, "pod": {"created": NOW - DAY}},
        {"ti": NO_TI, "delete_unmatched_pods": True, "pod": {"created": NOW - DAY - 1}},
        Reason.UNMATCHED,
        id="an unmatched pod whose main container is running is kept for a day",
    ),
    pytest.param(
        Reason.UNMATCHED,
        {"ti": NO_TI, "delete_unmatched_pods": True, "pod": {"main_container": "", "created": NOW - HOUR}},
        {"ti": NO_TI, "delete_unmatched_pods": True, "pod": {"main_container": "gone", "created": NOW - HOUR}},
        Reason.UNMATCHED,
        id="an unmatched pod is kept for a day if any running container may be its main one",
    ),
    pytest.param(
        Reason.UNMATCHED,
        {"ti": make_ti(try_number=1), "pod": {"try_number": 2}},
        {"ti": make_ti(try_number=2), "pod": {"try_number": 2}},
        Reason.ORPHANED,
        id="a pod of a later try than the task instance had is kept",
    ),
    pytest.param(
        Reason.UNMATCHED,
        {"ti": make_ti(try_number=1), "pod": {"try_number": 3}, "try_number_may_lag": True},
        {"ti": make_ti(try_number=1), "pod": {"try_number": 2}, "try_number_may_lag": True},
        Reason.ORPHANED,
        id="a pod of a try two later is kept even where the try number may lag by one",
    ),
    pytest.param(
        Reason.UNMATCHED,
        {"record": Record(frozenset({"airflow/other"}))},
        {"record": None},
        Reason.ORPHANED,
        id="a pod is kept if the operator's record of the same try names another pod",
    ),
    pytest.param(
        Reason.UNMATCHED,
        {"record": Record(frozenset({"airflow/other"})), "ti": make_ti(try_number=1)},
        {"record": Record(frozenset({"airflow/other"})), "ti": make_ti(try_number=2)},
        Reason.ORPHANED,
        id="a pod is deleted although the record of a later try names another pod",
    ),
    pytest.param(
        Reason.UNMATCHED,
        {"record": Record(frozenset({"airflow/other"})), "ti": TaskInstance("failed")},
        {"record": Record(frozenset({"airflow/it"})), "ti": TaskInstance("failed"), "pod": {"name": "it"}},
        Reason.ORPHANED,
        id="a pod is kept if a record without a try number names another pod",
    ),
    pytest.param(
        Reason.UNMATCHED,
        {
            "record": Record(frozenset({"airflow/other"})),
            "ti": make_ti(try_number=1),
            "pod": {"try_number": 2},
            "try_number_may_lag": True,
        },
        {"record": None, "ti": make_ti(try_number=1), "pod": {"try_number": 2}, "try_number_may_lag": True},
        Reason.ORPHANED,
        id="a pod of the try that the task instance may have had is kept if the record names another pod",
    ),
    pytest.param(
        Reason.UNMATCHED,
        {"record": Record(frozenset({"another"})), "pod": {"name": "it"}},
        {"record": Record(frozenset({"it"})), "pod": {"name": "it"}},
        Reason.ORPHANED,
        id="a pod is kept if a record without a namespace names another pod",
    ),
    pytest.param(
        Reason.UNMATCHED,
        {"record": Record(frozenset({"other/it2"})), "pod": {"name": "it"}},
        {"record": Record(frozenset({"other/it"})), "pod": {"name": "it"}},
        Reason.ORPHANED,
        id="a pod is kept if the record names another one in a namespace without such a pod, as on Composer",
    ),
    pytest.param(
        Reason.UNRESOLVED,
        {"record": Record(problem="XCom pod_name is pickled")},
        {"record": Record()},
        Reason.ORPHANED,
        id="a pod is kept if the operator's record cannot be read",
    ),
    pytest.param(
        Reason.UNRESOLVED,
        {"record": Record(problem="XCom pod_name is pickled"), "pod": {"name": "it"}},
        {"record": Record(frozenset({"airflow/it"}), "XCom pod_name is pickled"), "pod": {"name": "it"}},
        Reason.ORPHANED,
        id="a pod is deleted although one of two records cannot be read if the other one names it",
    ),
    pytest.param(
        Reason.UNRESOLVED,
        {"ti": SECOND_TRY, "record": Record(problem="XCom pod_name is pickled"), "pod": {"already_checked": True}},
        {"ti": SECOND_TRY, "record": Record(), "pod": {"already_checked": True}},
        Reason.SUPERSEDED,
        id="a superseded pod is kept if the operator's record cannot be read",
    ),
    pytest.param(
        Reason.ACTIVE,
        {"ti": SECOND_TRY, "record": Record(frozenset({"airflow/it"})), "pod": {"name": "it", "already_checked": True}},
        {"ti": SECOND_TRY, "record": Record(frozenset({"airflow/x"})), "pod": {"name": "it", "already_checked": True}},
        Reason.SUPERSEDED,
        id="a superseded pod is kept if the operator's record names it",
    ),
    pytest.param(
        Reason.STALLED,
        {"ti": ACTIVE, "pod": {"containers": (ended(), running("sidecar"))}},
        {"ti": FINISHED, "pod": {"containers": (ended(), running("sidecar"))}},
        Reason.ORPHANED,
        id="a pod whose task waits for a sidecar is kept until the task has failed",
    ),
    pytest.param(
        Reason.ACTIVE, {"ti": ACTIVE}, {"ti": FINISHED}, Reason.ORPHANED, id="the pod of an active task is kept"
    ),
    pytest.param(
        Reason.ACTIVE,
        {"ti": ACTIVE._replace(try_number=2), "pod": {"already_checked": False}},
        {"ti": ACTIVE._replace(try_number=2), "pod": {"already_checked": True}},
        Reason.SUPERSEDED,
        id="a pod of an earlier try, which the retry may have adopted, is kept until the operator marks it as checked",
    ),
    pytest.param(
        Reason.ACTIVE,
        {"ti": ACTIVE._replace(try_number=1), "pod": {"already_checked": True}},
        {"ti": ACTIVE._replace(try_number=2), "pod": {"already_checked": True}},
        Reason.SUPERSEDED,
        id="a checked pod is kept until its task instance is at a later try",
    ),
    pytest.param(
        Reason.ACTIVE,
        {"ti": ACTIVE._replace(try_number=1), "pod": {"already_checked": True, "try_number": 2}},
        {"ti": ACTIVE._replace(try_number=3), "pod": {"already_checked": True, "try_number": 2}},
        Reason.SUPERSEDED,
        id="a checked pod of a later try than the task instance's is kept",
    ),
    pytest.param(
        Reason.ACTIVE,
        {"ti": TaskInstance("running"), "pod": {"already_checked": True}},
        {"ti": TaskInstance("running", try_number=2), "pod": {"already_checked": True}},
        Reason.SUPERSEDED,
        id="a checked pod is kept if the source does not know the try number",
    ),
    pytest.param(
        Reason.DETACHED,
        {
            "pod": {"kind": "Job", "name": "x"},
            "ti": make_ti(state="success"),
            "record": OF_JOB,
        },
        {
            "pod": {"kind": "Job", "name": "x"},
            "ti": make_ti(state="failed"),
            "record": OF_JOB,
        },
        Reason.ORPHANED,
        id="a Job is kept if its task succeeded",
    ),
    pytest.param(
        Reason.DETACHED,
        {"pod": {"kind": "Job", "name": "j"}, "record": Record(frozenset({"Job airflow/j"}), is_detached=True)},
        {"pod": {"kind": "Job", "name": "j"}, "record": Record(frozenset({"Job airflow/j"}), is_detached=False)},
        Reason.ORPHANED,
        id="a Job is kept if its operator did not wait for it",
    ),
    pytest.param(
        Reason.SETTLING,
        {"ti": make_ti(ended=NOW - SETTLE + 1)},
        {"ti": make_ti(ended=NOW - SETTLE)},
        Reason.ORPHANED,
        id="a pod is kept until its task instance has settled",
    ),
    pytest.param(
        Reason.SETTLING,
        {"ti": make_ti(ended=NOW)},
        {"ti": make_ti(ended=NOW), "settle_seconds": 0},
        Reason.ORPHANED,
        id="a pod is deleted at once if settle_seconds is zero",
    ),
    pytest.param(
        Reason.SETTLING,
        {"ti": make_ti(ended=NOW + DAY)},
        {"ti": make_ti(ended=NOW - HOUR)},
        Reason.ORPHANED,
        id="a pod whose task instance ended in the future is kept",
    ),
    pytest.param(
        Reason.SETTLING,
        {"ti": TaskInstance("success"), "pod": {"created": NOW - DAY, "containers": (ended(since=NOW - 1),)}},
        {"ti": TaskInstance("success"), "pod": {"created": NOW - DAY, "containers": (ended(since=NOW - SETTLE),)}},
        Reason.ORPHANED,
        id="a pod is kept until its main container has settled if the end of the task is unknown",
    ),
    pytest.param(
        Reason.SETTLING,
        {
            "ti": TaskInstance("success"),
            "pod": {"phase": "Succeeded", "conditions_changed": NOW - SETTLE + 1, "containers": ()},
        },
        {
            "ti": TaskInstance("success"),
            "pod": {"phase": "Succeeded", "conditions_changed": NOW - SETTLE, "containers": ()},
        },
        Reason.COMPLETED,
        id="a completed pod without container times is kept until the change of its conditions has settled",
    ),
    pytest.param(
        Reason.SETTLING,
        {"ti": TaskInstance("success"), "pod": {"containers": (ended(since=NOW + DAY),)}},
        {"ti": TaskInstance("success"), "pod": {"containers": (ended(since=NOW - DAY),)}},
        Reason.ORPHANED,
        id="a pod whose main container ended in the future is kept",
    ),
    pytest.param(
        Reason.COMPLETED,
        {"pod": {"phase": "Succeeded"}, "delete_completed_pods": False},
        {"pod": {"phase": "Succeeded"}, "delete_completed_pods": True},
        Reason.COMPLETED,
        id="a succeeded pod is kept unless delete_completed_pods is set",
    ),
    pytest.param(
        Reason.COMPLETED,
        {"pod": {"phase": "Failed"}},
        {"pod": {"phase": "Running"}},
        Reason.ORPHANED,
        id="a failed pod is kept by default",
    ),
    pytest.param(
        Reason.COMPLETED,
        {"pod": {"phase": "Failed"}, "delete_pods_on_failure": False},
        {"pod": {"phase": "Failed"}, "delete_pods_on_failure": True},
        Reason.COMPLETED,
        id="a failed pod is kept unless delete_pods_on_failure is set",
    ),
    pytest.param(
        Reason.COMPLETED,
        {"pod": {"phase": "Succeeded", "already_checked": True}},
        {"pod": {"phase": "Succeeded", "already_checked": False}},
        Reason.COMPLETED,
        id="a succeeded pod that its operator kept on purpose is kept",
    ),
    pytest.param(
        Reason.COMPLETED,
        {"pod": {"phase": "Succeeded", "already_checked": True}, "ttl_seconds_after_finished": HOUR},
        {"pod": {"phase": "Succeeded", "already_checked": True}, "ttl_seconds_after_finished": HOUR - 1},
        Reason.COMPLETED,
        id="a pod that was kept on purpose is kept until ttl_seconds_after_finished has passed",
    ),
    pytest.param(
        Reason.SUPERSEDED,
        {"ti": ACTIVE._replace(try_number=2), "pod": {"already_checked": True, "phase": "Failed"}},
        {"ti": ACTIVE._replace(try_number=2), "pod": {"already_checked": True, "phase": "Running"}},
        Reason.SUPERSEDED,
        id="a superseded pod that has completed is kept if a completed one would be",
    ),
]


def verdict_of_case(case: Any) -> Verdict:
    case = dict(case)
    return classify_pod(make_pod(**case.pop("pod", {})), case.pop("ti", FINISHED), **case)


class TestKeepRules:
    @pytest.mark.parametrize(("reason", "kept", "twin", "twins_reason"), KEEP_RULES)
    def test_a_keep_rule_keeps_a_pod_and_its_twin_is_deleted(
        self, reason: Reason, kept: dict[str, Any], twin: dict[str, Any], twins_reason: Reason
    ) -> None:
        assert_kept(verdict_of_case(kept), reason)
        assert_zombie(verdict_of_case(twin), twins_reason)

    def test_every_reason_that_can_keep_a_pod_has_a_row(self) -> None:
        with_a_keep = {row.values[0] for row in KEEP_RULES}
        reasons = set(Reason) - {Reason.ORPHANED}  # the only reason that never keeps
        assert with_a_keep == reasons, "add a row to KEEP_RULES in tests/unit/test_classify.py"


class TestOrderOfRules:
    """If several rules apply to a pod, the first one decides."""

    @pytest.mark.parametrize("first", range(4))
    def test_the_rules_about_the_pod_itself_apply_in_their_order(self, first: int) -> None:
        marks: list[tuple[Reason, dict[str, Any]]] = [
            (Reason.BAD_LABELS, {"label_problem": "label task_id is missing"}),
            (Reason.PROTECTED, {"protected_by": "kpo-cleanup/protect=true"}),
            (Reason.OWNED, {"controller": JOB}),
            (Reason.TERMINATING, {"deletion_deadline": NOW}),
        ]
        everything_after = {name: value for _, mark in marks[first:] for name, value in mark.items()}
        pod = make_pod(**everything_after)
        for ti in (FINISHED, ACTIVE, NO_TI):
            assert_kept(classify_pod(pod, ti, unresolved=True, delete_unmatched_pods=True), marks[first][0])

    def test_an_overdue_terminating_pod_is_classified_like_any_other(self) -> None:
        late = {"deletion_deadline": NOW - DAY}
        assert_kept(classify_pod(make_pod(**late), ACTIVE), Reason.ACTIVE)
        assert_kept(classify_pod(make_pod(**late), NO_TI), Reason.UNMATCHED)
        assert_kept(classify_pod(make_pod(**late), make_ti(ended=NOW)), Reason.SETTLING)
        assert_zombie(classify_pod(make_pod(**late)), Reason.ORPHANED)

    def test_unresolved_precedes_every_rule_about_the_task_instance(self) -> None:
        for ti in (FINISHED, ACTIVE, NO_TI):
            assert_kept(classify_pod(make_pod(), ti, unresolved=True), Reason.UNRESOLVED)

    def test_superseded_precedes_stalled(self) -> None:
        pod = make_pod(containers=(ended(), running("sidecar")), already_checked=True)
        assert_zombie(classify_pod(pod, ACTIVE._replace(try_number=2)), Reason.SUPERSEDED)

    def test_active_precedes_completed(self) -> None:
        pod = make_pod(phase="Succeeded", containers=(ended(),))
        assert_kept(classify_pod(pod, ACTIVE, ttl_seconds_after_finished=0), Reason.ACTIVE)

    @pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
    def test_settling_precedes_completed(self, phase: str) -> None:
        pod = make_pod(phase=phase)
        verdict = classify_pod(pod, make_ti(ended=NOW - 10), ttl_seconds_after_finished=1, delete_pods_on_failure=True)
        assert_kept(verdict, Reason.SETTLING)


class TestActive:
    @pytest.mark.parametrize("state", ACTIVE_STATES, ids=repr)
    def test_a_state_that_is_not_known_to_be_terminal_is_active(self, state: str | None) -> None:
        assert_kept(classify_pod(make_pod(), TaskInstance(state)), Reason.ACTIVE)

    @pytest.mark.parametrize("state", sorted(FINISHED_STATES))
    def test_a_terminal_state_is_not_active(self, state: str) -> None:
        assert_zombie(classify_pod(make_pod(), make_ti(state=state)), Reason.ORPHANED)

    @pytest.mark.parametrize("state", ACTIVE_STATES, ids=repr)
    def test_an_active_task_instance_stays_active_although_the_end_of_its_last_try_is_on_record(
        self, state: str | None
    ) -> None:
        assert_kept(classify_pod(make_pod(), make_ti(state=state, ended=NOW - DAY)), Reason.ACTIVE)

    @pytest.mark.parametrize("phase", ["Pending", "Running", "Unknown", "Succeeded", "Failed", ""])
    def test_the_pod_of_an_active_task_instance_is_kept_in_any_phase(self, phase: str) -> None:
        assert_kept(classify_pod(make_pod(phase=phase), ACTIVE), Reason.ACTIVE)


class TestSuperseded:
    def test_a_pod_is_superseded_by_a_newer_pod_of_the_same_task_instance(self) -> None:
        old, new = make_pod(), make_pod(try_number=2)
        verdict = classify_pod(old, SECOND_TRY, new)
        assert_zombie(verdict, Reason.SUPERSEDED)
        assert verdict.evidence == Evidence(Rule.REPLACED, NOW, SECOND_TRY, new)
        assert_kept(classify_pod(new, SECOND_TRY, old), Reason.ACTIVE)

    @pytest.mark.parametrize(
        "record",
        [
            pytest.param(Record(), id="there is no record"),
            pytest.param(Record(frozenset({"airflow/another"})), id="the record names a third pod"),
        ],
    )
    def test_a_newer_pod_that_the_operator_has_not_recorded_does_not_supersede(self, record: Record) -> None:
        verdict = classify_pod(make_pod(), SECOND_TRY, make_pod(try_number=2, name="newer"), record=record)
        assert (verdict.rule, verdict.is_zombie) == (Rule.NOT_RECORDED, False)
        assert phrases(verdict)[0].startswith("may still be in use: newer of try 2 is newer")

    @pytest.mark.parametrize("try_number", [None, 2, 3])
    def test_a_pod_of_a_try_that_has_not_begun_does_not_supersede_if_tries_are_known(
        self, try_number: int | None
    ) -> None:
        ti = ACTIVE._replace(try_number=try_number)
        assert_zombie(classify_pod(make_pod(), ti, make_pod(try_number=2)), Reason.SUPERSEDED)
        assert_kept(classify_pod(make_pod(), ACTIVE, make_pod(try_number=2)), Reason.ACTIVE)

    def test_the_successor_is_of_no_later_try_than_the_task_instance(self) -> None:
        pods = [make_pod(try_number=number) for number in (1, 2, 3)]
        assert find_successors(pods, answer({pods[0].key: SECOND_TRY})) == {pods[0].uid: pods[1]}

    @pytest.mark.parametrize(
        ("mine", "its", "differs"),
        [
            pytest.param(
                [("step", "train")], [("step", "load")], "step", id="another operator of the same task created it"
            ),
            pytest.param([("env", "staging")], [("env", "production")], "env", id="another Airflow created it"),
            pytest.param(
                [("sha", "a"), ("team", "x")], [("sha", "b"), ("team", "x")], "sha", id="another deployment created it"
            ),
            pytest.param([], [("hash", "1"), ("zone", "b")], "hash, zone", id="a webhook labelled it"),
        ],
    )
    def test_a_newer_pod_with_other_labels_does_not_supersede_and_is_named_with_the_labels(
        self, mine: list[tuple[str, str]], its: list[tuple[str, str]], differs: str
    ) -> None:
        older, newer = make_pod(labels=tuple(mine)), make_pod(labels=tuple(its), try_number=2, name="newer")
        verdict = classify_pod(older, SECOND_TRY, newer)
        assert_kept(verdict, Reason.ACTIVE)
        assert verdict.evidence == Evidence(Rule.ACTIVE, NOW, SECOND_TRY, newer)
        assert phrases(verdict)[0] == f"not replaced by newer of try 2, which differs in label {differs}"

    @pytest.mark.parametrize(
        "changes",
        [
            pytest.param({"created": NOW - 2 * HOUR}, id="was created in the same second"),
            pytest.param({"created": NOW - HOUR, "try_number": 1}, id="is of the same try"),
            pytest.param({"already_checked": True}, id="is checked"),
            pytest.param(
                {"try_number": 3, "labels": make_pod().labels},
                id="has the same labels and a later try than the TI",
            ),
        ],
    )
    def test_a_pod_is_not_named_as_one_with_other_labels_if_it(self, changes: dict[str, Any]) -> None:
        other = make_pod(**{"labels": (("sha", "b"),), "try_number": 2, **changes})
        verdict = classify_pod(make_pod(created=NOW - 2 * HOUR, already_checked=True), ACTIVE, other)
        assert verdict.evidence == Evidence(Rule.ACTIVE, NOW, ACTIVE)

    def test_the_newest_pod_with_other_labels_is_named_for_each_older_one(self) -> None:
        pods = [make_pod(labels=(("sha", name),), try_number=tries) for tries, name in ((3, "c"), (1, "a"), (2, "b"))]
        ti, expected = ACTIVE._replace(try_number=3), {1: pods[0], 2: pods[0], 3: None}
        verdicts = classify(Snapshot(pods, answer({pods[0].key: ti}), Settings(), NOW))
        named = {verdict.workload.try_number: verdict.evidence for verdict in verdicts}
        assert named == {try_number: Evidence(Rule.ACTIVE, NOW, ti, newer) for try_number, newer in expected.items()}

    @pytest.mark.parametrize(("seconds", "reason"), [(1, Reason.SUPERSEDED), (0, Reason.ACTIVE), (-1, Reason.ACTIVE)])
    def test_a_newer_pod_supersedes_if_it_is_younger_by_at_least_a_second(self, seconds: int, reason: Reason) -> None:
        newer = make_pod(try_number=2, created=NOW - HOUR + seconds)
        assert classify_pod(make_pod(created=NOW - HOUR), SECOND_TRY, newer).reason is reason

    @pytest.mark.parametrize(
        "changes",
        [
            pytest.param({"already_checked": True}, id="it is marked as checked"),
            pytest.param({"deletion_deadline": NOW + 30}, id="it is being deleted"),
            pytest.param({"controller": JOB}, id="it has a controller"),
            pytest.param({"deletion_deadline": NOW - DAY}, id="its deletion is long overdue"),
            pytest.param({"namespace": "staging"}, id="it is in another namespace"),
            pytest.param({"map_index": 0}, id="it has another map index"),
            pytest.param({"run_id": "run_2"}, id="it is of another run"),
            pytest.param({"task_id": "load"}, id="it is of another task"),
            pytest.param({"dag_id": "invoices"}, id="it is of another DAG"),
            pytest.param({"try_number": 1}, id="it is of the same try"),
            pytest.param({"label_problem": "label task_id is missing"}, id="it is badly labelled"),
        ],
    )
    def test_a_newer_pod_does_not_supersede_if(self, changes: dict[str, Any]) -> None:
        newer = make_pod(**{"try_number": 2, **changes})
        assert_kept(classify_pod(make_pod(), SECOND_TRY, newer), Reason.ACTIVE)

    @pytest.mark.parametrize(
        "changes",
        [
            pytest.param({"phase": "Pending", "containers": ()}, id="it is pending"),
            pytest.param({"phase": "Succeeded"}, id="it has completed and is not marked as checked"),
            pytest.param({"protected_by": "kpo-cleanup/protect=true"}, id="it is protected"),
        ],
    )
    def test_a_newer_pod_supersedes_although(self, changes: dict[str, Any]) -> None:
        newer = make_pod(**{"try_number": 2, **changes})
        assert_zombie(classify_pod(make_pod(), SECOND_TRY, newer), Reason.SUPERSEDED)

    def test_the_successor_is_the_newest_adoptable_pod_behind_one_that_cannot_be_adopted(self) -> None:
        pods = [make_pod(try_number=1), make_pod(try_number=2), make_pod(try_number=3, already_checked=True)]
        assert find_successors(pods, TaskInstances()) == {pods[0].uid: pods[1]}

    def test_an_older_pod_of_a_run_that_was_created_again_does_not_supersede(self) -> None:
        # The DAG run was deleted and created again with the same run_id, and the tries began with 1 again.
        dead = make_pod(try_number=3, created=NOW - DAY)
        assert_kept(classify_pod(make_pod(created=NOW - HOUR), ACTIVE, dead), Reason.ACTIVE)

    def test_the_newest_of_many_pods_supersedes_all_others(self) -> None:
        pods = [make_pod(try_number=number) for number in (3, 1, 4, 2)]
        assert {uid: pod.try_number for uid, pod in find_successors(pods, TaskInstances()).items()} == {
            pods[index].uid: 4 for index in (0, 1, 3)
        }

    def test_a_pod_of_the_same_try_is_not_a_successor(self) -> None:
        assert find_successors([make_pod(try_number=2), make_pod(try_number=2)], TaskInstances()) == {}

    def test_a_pod_with_a_newer_one_is_orphaned_if_its_task_instance_has_finished(self) -> None:
        assert_zombie(classify_pod(make_pod(), FINISHED, make_pod(try_number=2)), Reason.ORPHANED)

    def test_a_pod_with_a_newer_one_is_unmatched_if_its_task_instance_is_unknown(self) -> None:
        assert_kept(classify_pod(make_pod(), NO_TI, make_pod(try_number=2)), Reason.UNMATCHED)

    def test_a_superseded_pod_need_not_settle(self) -> None:
        old = make_pod(created=NOW - 5, containers=(running(since=NOW - 5),))
        assert_zombie(classify_pod(old, SECOND_TRY, make_pod(try_number=2, created=NOW)), Reason.SUPERSEDED)

    @pytest.mark.parametrize(
        ("changes", "settings", "is_deleted"),
        [
            pytest.param({"phase": "Succeeded"}, {}, True, id="a succeeded pod is deleted"),
            pytest.param(
                {"phase": "Succeeded"},
                {"delete_completed_pods": False},
                False,
                id="a succeeded pod is kept without delete_completed_pods",
            ),
            pytest.param({"phase": "Failed"}, {}, False, id="a failed pod is kept"),
            pytest.param(
                {"phase": "Failed"},
                {"delete_pods_on_failure": True},
                True,
                id="a failed pod is deleted with delete_pods_on_failure",
            ),
            pytest.param(
                {"phase": "Succeeded", "already_checked": True}, {}, False, id="a pod that was kept on purpose is kept"
            ),
            pytest.param(
                {"phase": "Failed"},
                {"ttl_seconds_after_finished": 2 * HOUR},
                False,
                id="a failed pod is kept before its ttl",
            ),
            pytest.param(
                {"phase": "Failed"}, {"ttl_seconds_after_finished": HOUR}, False, id="a failed pod is kept at its ttl"
            ),
            pytest.param(
                {"phase": "Failed"},
                {"ttl_seconds_after_finished": HOUR - 1},
                True,
                id="a failed pod is deleted after its ttl",
            ),
            pytest.param(
                {"phase": "Failed", "containers": (ended(since=None),), "created": NOW - DAY},
                {"ttl_seconds_after_finished": 0},
                False,
                id="a failed pod whose end is unknown is kept",
            ),
            pytest.param(
                {"phase": "Failed", "containers": (ended(since=NOW + HOUR),)},
                {"ttl_seconds_after_finished": 0},
                False,
                id="a failed pod whose end is in the future is kept",
            ),
        ],
    )
    def test_a_superseded_pod_that_has_completed_falls_under_the_policies_for_completed_pods(
        self, changes: dict[str, Any], settings: dict[str, Any], is_deleted: bool
    ) -> None:
        old = make_pod(**{"containers": (ended(since=NOW - HOUR),), **changes})
        verdict = classify_pod(old, SECOND_TRY, make_pod(try_number=2), **settings)
        assert (verdict.reason, verdict.is_zombie) == (Reason.SUPERSEDED, is_deleted)


class TestRecordWithoutTries:
    @pytest.mark.parametrize(("try_number", "rule"), [(1, Rule.RECORD_NAMES_ANOTHER), (2, Rule.ORPHANED)])
    def test_a_record_proves_that_an_older_pod_is_of_the_same_task_instance_only_if_it_names_one_of_a_later_try(
        self, try_number: int, rule: Rule
    ) -> None:
        named = make_pod(try_number=try_number)
        record = Record(frozenset({str(named)}))
        assert classify_pod(make_pod(), TaskInstance("failed"), named, record=record).rule is rule


class TestPodOfAnotherTaskInstance:
    """A task that was mapped and is a plain task now adopts the pod of one of its map indexes."""

    @pytest.mark.parametrize("ti", [FINISHED, NO_TI], ids=["its own TI has finished", "its own TI is gone"])
    @pytest.mark.parametrize("user", [ACTIVE, FINISHED], ids=["in use", "no longer in use"])
    def test_a_pod_is_active_while_the_record_of_an_active_task_instance_names_it(
        self, ti: TaskInstance | None, user: TaskInstance
    ) -> None:
        pod = make_pod(map_index=0, created=NOW - 2 * DAY)
        plain = pod.key._replace(map_index=UNMAPPED)
        found = {key: each for key, each in {pod.key: ti, plain: user}.items() if each}
        snapshot = Snapshot([pod], answer(found), Settings(delete_unmatched_pods=True), NOW)
        assert plain in with_plain_tasks([pod.key])
        assert (plain in keys_needing_records(snapshot)) == user.is_active
        (verdict,) = classify(replace(snapshot, records={plain: Record(frozenset({str(pod)}))}))
        assert (verdict.rule is Rule.USED_BY_ANOTHER, verdict.is_zombie) == (user.is_active, not user.is_active)

    @pytest.mark.parametrize("user", [ACTIVE, FINISHED], ids=["active", "finished"])
    def test_a_pod_is_kept_until_its_plain_task_has_recorded_a_pod_while_that_task_is(self, user: TaskInstance) -> None:
        pod, another = make_pod(map_index=0), make_pod(name="another")
        plain = pod.key._replace(map_index=UNMAPPED)
        snapshot = Snapshot([pod], answer({pod.key: FINISHED, plain: user}), Settings(), NOW)
        assert (plain in keys_needing_records(snapshot)) == user.is_active
        (verdict,) = classify(snapshot)
        assert (verdict.rule is Rule.ADOPTABLE, verdict.is_zombie) == (user.is_active, not user.is_active)
        records = {plain: Record(frozenset({str(another)}))}
        verdicts = classify(replace(snapshot, workloads=[pod, another], records=records))
        assert next(each for each in verdicts if each.workload == pod).is_zombie

    @pytest.mark.parametrize(
        "another",
        [
            pytest.param([], id="no longer exists"),
            pytest.param([make_pod(name="another", labels=(("step", "2"),))], id="is of another operator of the task"),
            pytest.param(
                [make_pod(name="another", kind="SparkApplication", labels=(("step", "1"),))], id="is of another kind"
            ),
            pytest.param(
                [make_pod(name="another", namespace="elsewhere", labels=(("step", "1"),))], id="is in another namespace"
            ),
        ],
    )
    def test_a_pod_is_kept_if_the_pod_that_its_active_plain_task_has_recorded(self, another: list[Workload]) -> None:
        pod = make_pod(map_index=0, labels=(("step", "1"),))
        plain = pod.key._replace(map_index=UNMAPPED)
        record = Record(frozenset(each.record_name for each in another or [make_pod(name="another")]))
        task_instances = answer({pod.key: FINISHED, plain: ACTIVE})
        verdicts = classify(Snapshot([pod, *another], task_instances, Settings(), NOW, {plain: record}))
        assert next(each for each in verdicts if each.workload == pod).rule is Rule.ADOPTABLE

    def test_a_pod_is_unresolved_if_its_plain_task_is(self) -> None:
        pod = make_pod(map_index=0)
        task_instances = TaskInstances({pod.key: FINISHED}, {pod.key._replace(map_index=UNMAPPED): "no answer"})
        (verdict,) = classify(Snapshot([pod], task_instances, Settings(), NOW))
        assert_kept(verdict, Reason.UNRESOLVED)

    @pytest.mark.parametrize("user", [ACTIVE, FINISHED], ids=["active", "finished"])
    def test_a_pod_is_unresolved_if_the_record_of_its_plain_task_cannot_be_read_and_that_task_is(
        self, user: TaskInstance
    ) -> None:
        pod = make_pod(map_index=0)
        plain = pod.key._replace(map_index=UNMAPPED)
        task_instances = answer({pod.key: FINISHED, plain: user})
        snapshot = Snapshot([pod], task_instances, Settings(), NOW, {plain: Record(problem="it is a dict")})
        (verdict,) = classify(snapshot)
        assert (verdict.rule is Rule.RECORD_UNREADABLE, verdict.is_zombie) == (user.is_active, not user.is_active)


class TestRecordedNamespace:
    @pytest.mark.parametrize(
        ("namespace", "is_zombie"),
        [
            pytest.param("requested", False, id="the namespace that was recorded has the pod"),
            pytest.param("elsewhere", True, id="the namespace that was recorded has no pod of that name"),
        ],
    )
    def test_the_recorded_namespace_decides_between_pods_of_one_name_only_if(
        self, namespace: str, is_zombie: bool
    ) -> None:
        pod, sibling = make_pod(name="load"), make_pod(name="load", namespace="requested")
        record = Record(frozenset({f"{namespace}/load"}))
        assert classify_pod(pod, FINISHED, sibling, record=record).is_zombie is is_zombie

    def test_a_pod_is_superseded_by_one_that_the_record_names_in_another_namespace(self) -> None:
        old, new = make_pod(name="a"), make_pod(name="b", try_number=2)
        record = Record(frozenset({"requested/b"}))
        assert_zombie(classify_pod(old, SECOND_TRY, new, record=record), Reason.SUPERSEDED)
        assert_kept(classify_pod(new, SECOND_TRY, old, record=record), Reason.ACTIVE)


class TestStalled:
    @pytest.mark.parametrize(
        ("containers", "stalled"),
        [
            pytest.param((ended(), running("sidecar")), True, id="a sidecar is still running"),
            pytest.param((ended(code=1), running("sidecar")), True, id="a sidecar is still running after a failure"),
            pytest.param(
                (ended(since=NOW - SETTLE - 1), running("sidecar")),
                True,
                id="the main container ended more than settle_seconds ago",
            ),
            pytest.param(
                (ended(since=NOW - SETTLE), running("sidecar")),
                False,
                id="the main container ended exactly settle_seconds ago",
            ),
            pytest.param(
                (ended(since=NOW + HOUR), running("sidecar")), False, id="the main container ended in the future"
            ),
            pytest.param((ended(since=None), running("sidecar")), False, id="the end of the main container is unknown"),
            pytest.param((ended(), ended("sidecar")), False, id="the sidecar has ended as well"),
            pytest.param((ended(), waiting("sidecar", "CrashLoopBackOff")), False, id="the sidecar is waiting"),
            pytest.param(
                (ended(), running("sidecar")._replace(is_native=True)), False, id="only a native sidecar is running"
            ),
            pytest.param((ended(),), False, id="there is no sidecar"),
            pytest.param((running(), running("sidecar")), False, id="the main container is running"),
            pytest.param((running("base"), ended("sidecar")), False, id="only the sidecar has ended"),
            pytest.param((ended("work"), running("sidecar")), False, id="the main container has no status"),
            pytest.param((), False, id="no container has a status"),
        ],
    )
    def test_a_pod_is_stalled_if_its_task_waits_for_a_sidecar(
        self, containers: tuple[Container, ...], stalled: bool
    ) -> None:
        verdict = classify_pod(make_pod(containers=containers), ACTIVE)
        assert_kept(verdict, Reason.STALLED if stalled else Reason.ACTIVE)

    @pytest.mark.parametrize(
        ("state", "reason"),
        [
            *((state, Reason.STALLED) for state in ("running", "deferred", "restarting")),
            *((state, Reason.ACTIVE) for state in (None, "queued", "scheduled", "up_for_retry", "up_for_reschedule")),
        ],
    )
    def test_a_pod_is_stalled_only_while_an_operator_is_attached(self, state: str | None, reason: Reason) -> None:
        verdict = classify_pod(make_pod(containers=(ended(), running("sidecar"))), make_ti(state=state, ended=None))
        assert_kept(verdict, reason)
        assert verdict.rule is (Rule.STALLED if reason is Reason.STALLED else Rule.LEFT_OVER)

    def test_the_main_container_may_have_any_name(self) -> None:
        pod = make_pod(main_container="worker", containers=(ended("worker"), running("base")))
        assert_kept(classify_pod(pod, ACTIVE), Reason.STALLED)


class TestTaskThatIsStuckOnItsPod:
    @pytest.mark.parametrize("state", ["running", "deferred", "restarting"])
    @pytest.mark.parametrize(
        ("pod", "rule"),
        [
            pytest.param(
                {"deletion_deadline": NOW - SETTLE - 1}, Rule.OVERDUE, id="an overdue pod keeps its task waiting"
            ),
            pytest.param({"deletion_deadline": NOW - SETTLE}, Rule.TERMINATING, id="a terminating pod is not overdue"),
            pytest.param(
                {"phase": "Pending", "created": NOW - DAY - 1, "containers": ()},
                Rule.NOT_STARTED,
                id="a pod that has been Pending for more than a day has not started",
            ),
            pytest.param(
                {"phase": "Pending", "created": NOW - DAY - 1, "containers": (waiting("base", "ImagePullBackOff"),)},
                Rule.NOT_STARTED,
                id="a pod whose container has been waiting for more than a day has not started",
            ),
            pytest.param(
                {"phase": "Pending", "created": NOW - DAY, "containers": ()},
                Rule.ACTIVE,
                id="a pod that has been Pending for a day is active",
            ),
            pytest.param(
                {"phase": "Unknown", "created": NOW - DAY - 1, "containers": ()},
                Rule.ACTIVE,
                id="a pod whose phase is unknown is active",
            ),
            pytest.param(
                {"phase": "Failed", "created": NOW - DAY - 1, "containers": ()},
                Rule.ACTIVE,
                id="a pod that failed before it started, at an unknown time, is active",
            ),
            pytest.param(
                {"phase": "Pending", "created": NOW - DAY - 1, "containers": (running("setup"),)},
                Rule.ACTIVE,
                id="a pod in which a container is running is active",
            ),
            pytest.param(
                {
                    "phase": "Pending",
                    "created": NOW - DAY - 1,
                    "containers": (waiting("base", "CrashLoopBackOff")._replace(restarts=1),),
                },
                Rule.ACTIVE,
                id="a pod in which a container has run before is active",
            ),
        ],
    )
    def test_the_rule_shows_whether_a_task_that_is_attached_is_stuck_on_its_pod(
        self, pod: dict[str, Any], rule: Rule, state: str
    ) -> None:
        verdict = classify_pod(make_pod(**pod), ACTIVE._replace(state=state))
        assert (verdict.rule, verdict.is_zombie) == (rule, False)

    @pytest.mark.parametrize(
        "pod", [{"deletion_deadline": NOW - DAY}, {"phase": "Pending", "created": NOW - 2 * DAY, "containers": ()}]
    )
    def test_a_task_that_is_not_attached_is_not_stuck_on_its_pod(self, pod: dict[str, Any]) -> None:
        verdict = classify_pod(make_pod(**pod), ACTIVE._replace(state="up_for_retry"))
        assert (verdict.rule, verdict.is_zombie) == (Rule.ACTIVE, False)


class TestTaskWithoutItsPod:
    @pytest.mark.parametrize(
        ("ti", "pod", "rule"),
        [
            pytest.param(
                ACTIVE,
                {"containers": (ended(since=NOW - DAY - 1),)},
                Rule.ENDED_LONG_AGO,
                id="a pod that ended more than a day ago ended long ago",
            ),
            pytest.param(
                ACTIVE,
                {"containers": (ended(since=NOW - DAY),)},
                Rule.ACTIVE,
                id="a pod that ended a day ago is active",
            ),
            pytest.param(
                ACTIVE._replace(state="deferred"),
                {"containers": (ended(since=NOW - DAY - 1),)},
                Rule.ENDED_LONG_AGO,
                id="a pod that ended more than a day ago, and whose task is deferred, ended long ago",
            ),
            pytest.param(
                ACTIVE._replace(state="queued"),
                {"containers": (ended(since=NOW - 2 * DAY),)},
                Rule.ACTIVE,
                id="a pod whose task is queued is active",
            ),
            pytest.param(
                ACTIVE,
                {"created": NOW - 2 * DAY, "containers": ()},
                Rule.ACTIVE,
                id="a pod whose end is unknown is active",
            ),
            pytest.param(
                ACTIVE,
                {"phase": "Running", "containers": (ended(since=NOW - 2 * DAY),)},
                Rule.ACTIVE,
                id="a pod that has not completed is active",
            ),
        ],
    )
    def test_the_rule_shows_whether_a_pod_ended_long_ago_although_its_task_is_running(
        self, ti: TaskInstance, pod: dict[str, Any], rule: Rule
    ) -> None:
        verdict = classify_pod(make_pod(**{"phase": "Succeeded", **pod}), ti)
        assert (verdict.rule, verdict.is_zombie) == (rule, False)


class TestFinalizers:
    def test_an_overdue_pod_is_held_by_its_finalizers_and_one_in_its_grace_period_is_not(self) -> None:
        held = make_pod(deletion_deadline=NOW - DAY, finalizers=("example.com/a", "kueue.x-k8s.io/managed"))
        assert classify_pod(held).rule is Rule.HELD_BY_FINALIZERS
        assert classify_pod(replace(held, deletion_deadline=NOW)).rule is Rule.TERMINATING


class TestEvidence:
    """The data that a verdict carries, besides the pod."""

    @pytest.mark.parametrize(
        ("pod", "ti", "case", "evidence"),
        [
            pytest.param(
                {"controller": JOB}, FINISHED, {}, Evidence(Rule.OWNED, NOW, FINISHED), id="an owned pod has its TI"
            ),
            pytest.param(
                {},
                NO_TI,
                {"unresolved": True},
                Evidence(Rule.NOT_RESOLVED, NOW, problem="the source does not know"),
                id="an unresolved pod has the problem of the source",
            ),
            pytest.param(
                {},
                FINISHED,
                {"record": Record(problem="it is pickled")},
                Evidence(Rule.RECORD_UNREADABLE, NOW, FINISHED, problem="it is pickled"),
                id="a pod whose record is unreadable has the problem of the record",
            ),
            pytest.param(
                {},
                NO_TI,
                {},
                Evidence(Rule.NO_TASK_INSTANCE, NOW, policy=Policy(False, "delete_unmatched_pods", False)),
                id="an unmatched pod that is kept has the setting that keeps it",
            ),
            pytest.param(
                {"created": NOW - DAY},
                NO_TI,
                {"delete_unmatched_pods": True},
                Evidence(Rule.NO_TASK_INSTANCE, NOW, policy=Policy(False, "delete_unmatched_pods", True)),
                id="an unmatched pod that is too young has the setting that will delete it",
            ),
            pytest.param(
                {"created": NOW - DAY - 1},
                NO_TI,
                {"delete_unmatched_pods": True},
                Evidence(Rule.NO_TASK_INSTANCE, NOW),
                id="an unmatched pod that is deleted needs no setting",
            ),
            pytest.param(
                {"phase": "Failed"},
                FINISHED,
                {},
                Evidence(Rule.COMPLETED, NOW, FINISHED, policy=Policy(False, "delete_pods_on_failure", False)),
                id="a completed pod has the setting that decided",
            ),
            pytest.param(
                {"phase": "Failed"},
                FINISHED,
                {"ttl_seconds_after_finished": 60},
                Evidence(Rule.COMPLETED, NOW, FINISHED, policy=Policy(True, "ttl_seconds_after_finished", 60)),
                id="a completed pod that is past its ttl has the ttl",
            ),
            pytest.param(
                {"already_checked": True},
                SECOND_TRY,
                {},
                Evidence(Rule.CHECKED, NOW, SECOND_TRY),
                id="a checked pod has the TI at its later try",
            ),
        ],
    )
    def test_a_verdict_carries_what_decided(
        self, pod: dict[str, Any], ti: TaskInstance | None, case: dict[str, Any], evidence: Evidence
    ) -> None:
        assert classify_pod(make_pod(**pod), ti, **case).evidence == evidence

    def test_a_pod_that_the_record_does_not_name_carries_the_record(self) -> None:
        record = Record(frozenset({"airflow/load-9c1b"}))
        evidence = classify_pod(make_pod(), FINISHED, record=record).evidence
        assert isinstance(evidence, Evidence)
        assert (evidence.rule, evidence.record) == (Rule.RECORD_NAMES_ANOTHER, record)

    @pytest.mark.parametrize(
        ("pod_try", "ti", "is_zombie"),
        [
            pytest.param(2, FINISHED, False, id="its try is one later, because the try number lags"),
            pytest.param(1, FINISHED, False, id="its try is the last one"),
            pytest.param(1, FINISHED._replace(try_number=2), True, id="its try is an earlier one"),
            pytest.param(2, FINISHED._replace(try_number=None), False, id="its try is that of the recorded pod"),
            pytest.param(1, FINISHED._replace(try_number=None), True, id="its try is earlier than the recorded pod's"),
        ],
    )
    def test_a_record_of_another_pod_keeps_a_pod_unless_its_try_is_earlier(
        self, pod_try: int, ti: TaskInstance, is_zombie: bool
    ) -> None:
        pod, recorded = make_pod(try_number=pod_try), make_pod(try_number=2, already_checked=True)
        record = Record(frozenset({str(recorded)}))
        verdict = classify_pod(pod, ti, recorded, record=record, try_number_may_lag=True)
        assert (verdict.rule, verdict.is_zombie) == (
            (Rule.ORPHANED, True) if is_zombie else (Rule.RECORD_NAMES_ANOTHER, False)
        )

    def test_a_pod_of_the_same_second_is_not_named_as_newer(self) -> None:
        pod = make_pod(labels=(("step", "a"),))
        verdict = classify_pod(pod, ACTIVE, make_pod(labels=(("step", "b"),), try_number=2, created=pod.created))
        assert isinstance(verdict.evidence, Evidence)
        assert verdict.evidence.other is None

    def test_every_rule_has_the_reason_that_its_verdicts_give(self) -> None:
        verdicts = [
            verdict_of_case(case) for _, kept, twin, _ in (row.values for row in KEEP_RULES) for case in (kept, twin)
        ]
        assert [
            verdict for verdict in verdicts if verdict.rule is None or verdict.rule.reason is not verdict.reason
        ] == []


class TestRawIds:
    def test_a_verdict_has_the_raw_ids_of_the_pods_task_instance_unless_several_have_its_labels(self) -> None:
        pod, raw = make_pod(), RawIds("orders", "extract", "scheduled__2026-11-24T00:00:00+00:00")

        def raw_ids_of(*found: RawIds) -> RawIds | None:
            task_instances = TaskInstances.from_found([(pod.key, ids, FINISHED) for ids in found], {})
            return classify(Snapshot([pod], task_instances, Settings(), NOW))[0].raw_ids

        assert raw_ids_of() is None
        assert raw_ids_of(raw) == raw
        assert raw_ids_of(raw, raw._replace(run_id="run_1")) is None


class TestEligibleAt:
    """The time at which a pod that is kept becomes a zombie, if nothing changes until then."""

    @pytest.mark.parametrize(
        ("ti", "pod", "eligible_at"),
        [
            pytest.param(
                make_ti(ended=NOW - 10),
                {},
                NOW - 10 + SETTLE,
                id="a pod is eligible once its task instance has settled",
            ),
            pytest.param(
                make_ti(ended=NOW + HOUR),
                {},
                NOW + HOUR + SETTLE,
                id="a pod whose task instance ends in the future is eligible once that has settled",
            ),
            pytest.param(
                make_ti(ended=NOW - 10),
                {"phase": "Failed"},
                None,
                id="a settling pod that a policy keeps is never eligible",
            ),
            pytest.param(
                make_ti(ended=NOW - 10), {"try_number": 2}, None, id="a settling pod of a later try is never eligible"
            ),
            pytest.param(
                FINISHED,
                {"deletion_deadline": NOW + 30},
                NOW + 31 + SETTLE,
                id="a terminating pod is eligible once it is overdue",
            ),
            pytest.param(
                ACTIVE,
                {"deletion_deadline": NOW + 30},
                None,
                id="a terminating pod of an active task instance is never eligible",
            ),
            pytest.param(ACTIVE, {}, None, id="the time of a pod of an active task instance is unknown"),
            pytest.param(FINISHED, {}, None, id="a zombie needs no time"),
        ],
    )
    def test_a_kept_pod_becomes_a_zombie_exactly_when_it_is_eligible(
        self, ti: TaskInstance, pod: dict[str, Any], eligible_at: int | None
    ) -> None:
        verdict = classify_pod(make_pod(**pod), ti)
        assert verdict.eligible_at == eligible_at
        if eligible_at is not None:
            snapshot = Snapshot([verdict.workload], answer({verdict.workload.key: ti}), Settings(), eligible_at)
            assert classify(snapshot)[0].is_zombie
            assert not classify(replace(snapshot, now=eligible_at - 1))[0].is_zombie


class TestEndTimeUnknown:
    """A pod whose task ended at an unknown time is deleted with a grace period."""

    @pytest.mark.parametrize(
        ("ti", "pod", "end_time_unknown"),
        [
            pytest.param(TaskInstance("failed"), {}, True, id="the end is unknown while the main container is running"),
            pytest.param(
                TaskInstance("failed"), {"containers": ()}, True, id="the end is unknown without a container status"
            ),
            pytest.param(
                TaskInstance("failed"),
                {"phase": "Pending", "containers": ()},
                True,
                id="the end is unknown if the pod never started",
            ),
            pytest.param(
                TaskInstance("failed"),
                {"containers": (ended(), running("sidecar"))},
                False,
                id="the end is known if the main container has ended",
            ),
            pytest.param(FINISHED, {}, False, id="the end is known if the source knows it"),
            pytest.param(
                TaskInstance("failed"),
                {"phase": "Succeeded", "containers": (ended(),)},
                False,
                id="the end is known if the pod has completed",
            ),
            pytest.param(
                TaskInstance("failed"),
                {"main_container": "", "containers": (ended("linkerd-proxy"), running("train"))},
                True,
                id="the end is unknown if it is not known which container is the main one",
            ),
        ],
    )
    def test_a_verdict_shows_whether_the_end_of_the_task_is_known(
        self, ti: TaskInstance, pod: dict[str, Any], end_time_unknown: bool
    ) -> None:
        verdict = classify_pod(make_pod(**pod), ti)
        assert (verdict.is_zombie, verdict.end_time_unknown) == (True, end_time_unknown)


class TestSettling:
    @pytest.mark.parametrize(
        ("seconds_ago", "settles"), [(0, True), (SETTLE - 1, True), (SETTLE, False), (SETTLE + 1, False)]
    )
    @pytest.mark.parametrize("settle_seconds", [SETTLE, 10 * MINUTE])
    def test_a_pod_settles_for_settle_seconds(self, seconds_ago: int, settles: bool, settle_seconds: int) -> None:
        ti = make_ti(ended=NOW - seconds_ago - settle_seconds + SETTLE)
        verdict = classify_pod(make_pod(), ti, settle_seconds=settle_seconds)
        assert (verdict.reason, verdict.is_zombie) == ((Reason.SETTLING, False) if settles else (Reason.ORPHANED, True))

    @pytest.mark.parametrize(
        "ti",
        [make_ti(ended=NOW + HOUR), TaskInstance("failed")],
        ids=["the TI ended in the future", "the pod ended in the future"],
    )
    def test_an_end_in_the_future_counts_as_now(self, ti: TaskInstance) -> None:
        pod = make_pod(containers=(ended(since=NOW + HOUR),))
        assert_zombie(classify_pod(pod, ti, settle_seconds=0), Reason.ORPHANED)
        assert_kept(classify_pod(pod, ti, settle_seconds=1), Reason.SETTLING)

    def test_the_end_of_the_task_instance_precedes_that_of_the_pod(self) -> None:
        just_ended = make_pod(containers=(ended(since=NOW - 1), running("sidecar")))
        assert_zombie(classify_pod(just_ended, make_ti(ended=NOW - HOUR)), Reason.ORPHANED)
        long_ended = make_pod(containers=(ended(since=NOW - DAY), running("sidecar")))
        assert_kept(classify_pod(long_ended, make_ti(ended=NOW - 1)), Reason.SETTLING)

    def test_the_end_of_the_main_container_counts_and_not_that_of_another(self) -> None:
        containers = (ended(since=NOW - HOUR), ended("proxy", since=NOW - 1), running("sidecar", since=NOW - 1))
        assert_zombie(classify_pod(make_pod(containers=containers), TaskInstance("failed")), Reason.ORPHANED)
        containers = (ended(since=NOW - 1), ended("proxy", since=NOW - HOUR), running("sidecar"))
        assert_kept(classify_pod(make_pod(containers=containers), TaskInstance("failed")), Reason.SETTLING)


POLICIES = [
    # phase, already_checked, delete_completed_pods, delete_pods_on_failure, ttl, deleted; the TI ended an hour ago
    ("Succeeded", False, True, False, None, True),
    ("Succeeded", False, True, True, None, True),
    ("Succeeded", False, False, False, None, False),
    ("Succeeded", False, False, True, None, False),
    ("Succeeded", True, True, False, None, False),
    ("Succeeded", True, True, True, None, False),
    ("Succeeded", True, False, False, None, False),
    ("Succeeded", True, False, True, None, False),
    ("Failed", False, True, False, None, False),
    ("Failed", False, True, True, None, True),
    ("Failed", False, False, False, None, False),
    ("Failed", False, False, True, None, True),
    ("Failed", True, True, False, None, False),
    ("Failed", True, True, True, None, True),
    ("Failed", True, False, False, None, False),
    ("Failed", True, False, True, None, True),
]


class TestCompleted:
    @pytest.mark.parametrize(("phase", "checked", "completed", "on_failure", "ttl", "is_deleted"), POLICIES)
    def test_a_completed_pod_is_deleted_as_the_settings_say(
        self, phase: str, checked: bool, completed: bool, on_failure: bool, ttl: int | None, is_deleted: bool
    ) -> None:
        verdict = classify_pod(
            make_pod(phase=phase, already_checked=checked),
            delete_completed_pods=completed,
            delete_pods_on_failure=on_failure,
            ttl_seconds_after_finished=ttl,
        )
        assert (verdict.reason, verdict.is_zombie) == (Reason.COMPLETED, is_deleted)

    @pytest.mark.parametrize(("phase", "checked", "completed", "on_failure", "ttl", "is_deleted"), POLICIES)
    def test_a_completed_pod_is_deleted_once_its_ttl_has_passed_whatever_the_other_policies(
        self, phase: str, checked: bool, completed: bool, on_failure: bool, ttl: int | None, is_deleted: bool
    ) -> None:
        policies: dict[str, Any] = {"delete_completed_pods": completed, "delete_pods_on_failure": on_failure}
        pod = make_pod(phase=phase, already_checked=checked)
        assert_zombie(classify_pod(pod, ttl_seconds_after_finished=HOUR - 1, **policies), Reason.COMPLETED)
        # A ttl that has not passed does not keep a pod that the other policies delete.
        assert classify_pod(pod, ttl_seconds_after_finished=HOUR, **policies).is_zombie == is_deleted

    @pytest.mark.parametrize("phase", ["Pending", "Running", "Unknown", "", "A phase of a later Kubernetes"])
    def test_a_pod_in_another_phase_has_not_completed(self, phase: str) -> None:
        verdict = classify_pod(make_pod(phase=phase, already_checked=True), delete_completed_pods=False)
        assert_zombie(verdict, Reason.ORPHANED)

    @pytest.mark.parametrize("state", sorted(FINISHED_STATES))
    def test_the_phase_of_the_pod_decides_and_not_the_state_of_the_task(self, state: str) -> None:
        assert_zombie(classify_pod(make_pod(phase="Succeeded"), make_ti(state=state)), Reason.COMPLETED)
        assert_kept(classify_pod(make_pod(phase="Failed"), make_ti(state=state)), Reason.COMPLETED)

    def test_the_ttl_counts_from_the_end_of_the_pod_if_that_of_the_task_is_unknown(self) -> None:
        pod = make_pod(phase="Succeeded", already_checked=True, containers=(ended(since=NOW - HOUR),))
        ti = TaskInstance("success")
        assert_kept(classify_pod(pod, ti, ttl_seconds_after_finished=HOUR), Reason.COMPLETED)
        assert_zombie(classify_pod(pod, ti, ttl_seconds_after_finished=HOUR - 1), Reason.COMPLETED)

    @pytest.mark.parametrize("ttl", [None, 0])
    def test_a_completed_pod_that_nothing_dates_is_kept_if_the_end_of_its_task_is_unknown(
        self, ttl: int | None
    ) -> None:
        pod = make_pod(phase="Succeeded", containers=())
        verdict = classify_pod(pod, TaskInstance("success"), ttl_seconds_after_finished=ttl)
        assert (verdict.rule, verdict.is_zombie) == (Rule.UNDATED, False)
        assert_zombie(classify_pod(pod, make_ti(), ttl_seconds_after_finished=ttl), Reason.COMPLETED)

    def test_an_evicted_pod_finished_when_it_was_evicted_and_not_when_it_was_created(self) -> None:
        evicted = {"phase": "Failed", "created": NOW - 26 * HOUR, "containers": (ended(since=None),)}
        pod = make_pod(**evicted, conditions_changed=NOW - 10 * MINUTE)
        assert_kept(classify_pod(pod, TaskInstance("failed"), ttl_seconds_after_finished=DAY), Reason.COMPLETED)
        long_ago = make_pod(**evicted, conditions_changed=NOW - 25 * HOUR)
        assert_zombie(classify_pod(long_ago, TaskInstance("failed"), ttl_seconds_after_finished=DAY), Reason.COMPLETED)


def keys_needing_records(snapshot: Snapshot) -> set[TaskInstanceKey]:
    return record_keys(snapshot, uncertain_workloads(snapshot))


def keys_to_complete(snapshot: Snapshot) -> list[TaskInstanceKey]:
    return incomplete_keys(snapshot.task_instances, uncertain_workloads(snapshot))


class TestTaskSdk:
    """Task instances of the Task SDK have a state, but no try number, end or operator."""

    def test_the_state_alone_makes_an_orphaned_zombie(self) -> None:
        assert_zombie(classify_pod(make_pod(), TaskInstance("failed")), Reason.ORPHANED)

    def test_the_state_alone_makes_a_superseded_zombie_if_there_is_a_successor(self) -> None:
        assert_zombie(classify_pod(make_pod(), TaskInstance("running"), make_pod(try_number=2)), Reason.SUPERSEDED)

    def test_the_state_alone_shows_a_stalled_task(self) -> None:
        pod = make_pod(containers=(ended(), running("sidecar")))
        assert_kept(classify_pod(pod, TaskInstance("running")), Reason.STALLED)

    @pytest.mark.parametrize(
        ("state", "pod", "settings", "needed"),
        [
            pytest.param("failed", {}, {}, True, id="of a zombie"),
            pytest.param("failed", {"containers": (ended(since=NOW),)}, {}, True, id="of a settling pod"),
            pytest.param(
                "failed", {"kind": "Job", "containers": (ended(since=NOW),)}, {}, True, id="of a settling Job"
            ),
            pytest.param("success", {"phase": "Succeeded", "containers": ()}, {}, True, id="that dates a pod"),
            pytest.param(
                "failed", {"phase": "Failed"}, {"delete_unmatched_pods": True}, True, id="of an unmatched pod"
            ),
            pytest.param(
                "failed",
                {"phase": "Failed", "containers": (ended(),)},
                {},
                False,
                id="of a pod that a policy keeps",
            ),
            pytest.param("running", {}, {}, False, id="of an active pod"),
            pytest.param("running", {"already_checked": True}, {}, True, id="of an active pod that is checked"),
            pytest.param(
                "running",
                {"already_checked": True, "containers": (ended(), running("sidecar"))},
                {},
                True,
                id="of a stalled pod that is checked",
            ),
            pytest.param("failed", {"protected_by": "x"}, {}, False, id="of a protected pod"),
        ],
    )
    def test_the_try_and_the_end_are_requested_only_if_they_can_change_the_verdict(
        self, state: str, pod: dict[str, Any], settings: dict[str, Any], needed: bool
    ) -> None:
        classified = make_pod(**pod)
        for ti, expected in ((TaskInstance(state), needed), (make_ti(state=state), False)):
            snapshot = Snapshot([classified], answer({classified.key: ti}), Settings(**settings), NOW)
            assert keys_to_complete(snapshot) == [classified.key] * expected

    def test_the_try_is_requested_if_a_newer_pod_may_supersede_the_pod(self) -> None:
        pods = [make_pod(), make_pod(try_number=2)]
        snapshot = Snapshot(pods, answer({pods[0].key: TaskInstance("running")}), Settings(), NOW)
        assert keys_to_complete(snapshot) == [pods[0].key]

    def test_the_tries_and_ends_of_the_oldest_pods_are_requested_first(self) -> None:
        pods = [make_pod(task_id=name, created=NOW - age * DAY) for name, age in (("a", 1), ("b", 3), ("c", 2))]
        found = {pod.key: TaskInstance("failed") for pod in pods}
        keys = keys_to_complete(Snapshot(pods, answer(found), Settings(), NOW))
        assert [key.task_id for key in keys] == ["b", "c", "a"]


class TestRecord:
    def test_a_record_of_a_pod_of_a_later_try_keeps_no_older_pod_if_tries_are_unknown(self) -> None:
        older, newer = make_pod(), make_pod(try_number=2, name="newer")
        record = Record(frozenset({"airflow/newer"}))
        assert_zombie(classify_pod(older, TaskInstance("failed"), newer, record=record), Reason.ORPHANED)
        assert_kept(classify_pod(older, TaskInstance("failed"), record=record), Reason.UNMATCHED)

    @pytest.mark.parametrize(
        ("ti", "pod", "needed"),
        [
            pytest.param(FINISHED, {}, True, id="the record of a zombie is needed"),
            pytest.param(make_ti(ended=NOW), {}, True, id="the record of a settling pod is needed"),
            pytest.param(make_ti(ended=NOW), {"kind": "Job"}, True, id="the record of a settling Job is needed"),
            pytest.param(
                FINISHED,
                {"kind": "Job", "deletion_deadline": NOW},
                True,
                id="the record of a Job that is being deleted is needed",
            ),
            pytest.param(FINISHED, {"phase": "Succeeded"}, True, id="the record of a completed zombie is needed"),
            pytest.param(SECOND_TRY, {"already_checked": True}, True, id="the record of a superseded pod is needed"),
            pytest.param(
                FINISHED,
                {"phase": "Failed"},
                True,
                id="the record of a pod that a policy keeps is needed if unmatched pods are deleted",
            ),
            pytest.param(ACTIVE, {}, False, id="the record of an active pod is not needed"),
            pytest.param(NO_TI, {}, False, id="the record of a pod without a TI is not needed"),
            pytest.param(FINISHED, {"protected_by": "x"}, False, id="the record of a protected pod is not needed"),
        ],
    )
    def test_a_record_is_needed_only_if_it_can_change_the_verdict(
        self, ti: TaskInstance | None, pod: dict[str, Any], needed: bool
    ) -> None:
        classified = make_pod(**pod)
        snapshot = Snapshot([classified], answer({classified.key: ti}), Settings(delete_unmatched_pods=True), NOW)
        assert keys_needing_records(snapshot) == ({classified.key} if needed else set())

    def test_the_record_of_a_pod_that_a_policy_keeps_is_not_needed_if_unmatched_pods_are_kept(self) -> None:
        kept = make_pod(phase="Failed")
        assert keys_needing_records(Snapshot([kept], answer({kept.key: FINISHED}), Settings(), NOW)) == set()


class TestOrderOfVerdicts:
    def test_zombies_come_first_and_the_oldest_first_among_them(self) -> None:
        young, old, kept = (
            make_pod(created=NOW - DAY),
            make_pod(created=NOW - 2 * DAY),
            make_pod(controller=JOB),
        )
        verdicts = classify_all([kept, young, old], answer({young.key: FINISHED}), Settings(), NOW)
        assert [verdict.workload for verdict in verdicts] == [old, young, kept]

    def test_reasons_are_counted_in_the_order_of_the_rules(self) -> None:
        pods = [
            make_pod(),
            make_pod(controller=JOB),
            make_pod(),
            make_pod(protected_by="x"),
        ]
        verdicts = classify_all(pods, answer({pods[0].key: FINISHED}), Settings(), NOW)
        assert list(count_reasons(verdicts).items()) == [("protected", 1), ("owned", 1), ("orphaned", 2)]

    def test_there_are_no_verdicts_without_pods(self) -> None:
        assert classify_all([], TaskInstances(), Settings(), NOW) == []
        assert count_reasons([]) == {}


# Random clusters: few keys, so that pods share task instances, and times around the boundaries.
T = TypeVar("T")
TIMES = [NOW + offset for offset in (-DAY, -HOUR, -301, -300, -299, -1, 0, 1, 299, 300, 301, HOUR)]
MAYBE_TIMES = [*[None] * len(TIMES), *TIMES]


def combinations(build: Callable[..., T], *values: Sequence[Any]) -> st.SearchStrategy[T]:
    """Return a strategy that draws one of each at once, because each draw takes longer than a classification."""
    return st.sampled_from(list(itertools.product(*values))).map(lambda combination: build(*combination))


def fields(**values: Sequence[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return combinations(lambda *combination: dict(zip(values, combination, strict=True)), *values.values())


NOWS = st.sampled_from(TIMES)
KEYS = combinations(TaskInstanceKey, ["d"], ["a", "b"], ["r1", "r2"], [UNMAPPED, 0])
CONTAINERS = combinations(
    Container, ["base", "sidecar"], ["running", "waiting", "terminated"], MAYBE_TIMES, MAYBE_TIMES, [None, None, 0, 137]
)
TRIES = [*[None] * 5, *range(5)]
TIS = combinations(TaskInstance, [*sorted(FINISHED_STATES), *ACTIVE_STATES], TRIES, MAYBE_TIMES)
ACTIVE_TIS = combinations(TaskInstance, ACTIVE_STATES, TRIES, MAYBE_TIMES)
ANSWERS = st.builds(
    TaskInstances,
    st.dictionaries(KEYS, TIS, max_size=8),
    st.dictionaries(KEYS, st.just("the source does not know"), max_size=2),
)
SETTINGS = combinations(
    lambda settle, completed, failed, ttl, unmatched: Settings(
        settle_seconds=settle,
        delete_completed_pods=completed,
        delete_pods_on_failure=failed,
        ttl_seconds_after_finished=ttl,
        delete_unmatched_pods=unmatched,
    ),
    [0, 300, HOUR],
    [False, True],
    [False, True],
    [None, 0, 300, DAY],
    [False, True],
)
PODS = st.lists(
    st.tuples(
        fields(
            dag_id=["d"],
            task_id=["a", "b"],
            run_id=["r1", "r2"],
            map_index=[UNMAPPED, 0],
            try_number=[1, 2, 3],
            namespace=["one", "one", "two"],
            phase=["Pending", "Running", "Running", "Succeeded", "Failed", "Unknown"],
            already_checked=[False, True],
        ),
        fields(created=TIMES, deletion_deadline=[*[None] * 36, *TIMES]),
        fields(
            label_problem=[*[""] * 9, "label x is missing"],
            protected_by=[*[""] * 9, "kpo-cleanup/protect=true"],
            controller=[*[None] * 9, JOB],
        ),
        st.lists(CONTAINERS, max_size=2).map(tuple),
    ),
    max_size=6,
).map(
    lambda pods: [
        make_pod(name=f"pod-{number}", uid=f"uid-{number}", containers=containers, **common, **times, **marks)
        for number, (common, times, marks, containers) in enumerate(pods)
    ]
)


def by_uid(verdicts: Sequence[Verdict]) -> dict[str, Verdict]:
    return {verdict.workload.uid: verdict for verdict in verdicts}


RECORDS = st.dictionaries(
    KEYS,
    st.builds(
        Record,
        st.frozensets(st.sampled_from([f"one/pod-{number}" for number in range(6)]), max_size=2),
        st.sampled_from(["", "", "it is pickled"]),
    ),
    max_size=8,
)


class TestInvariants:
    """Invariants over random clusters."""

    @given(PODS, ANSWERS, RECORDS, SETTINGS, NOWS)
    def test_a_record_makes_no_zombie_but_a_superseded_or_unmatched_one_and_keeps_the_pods_that_it_names(
        self,
        pods: list[Workload],
        answers: TaskInstances,
        records: dict[TaskInstanceKey, Record],
        settings: Settings,
        now: int,
    ) -> None:
        before = by_uid(classify_all(pods, answers, settings, now))
        for verdict in classify(Snapshot(pods, answers, settings, now, records)):
            if verdict.is_zombie and not before[verdict.workload.uid].is_zombie:
                # With delete_unmatched_pods, pods are deleted that a policy kept.
                assert verdict.reason in (Reason.SUPERSEDED, Reason.UNMATCHED)
            if verdict.is_zombie and verdict.rule is Rule.REPLACED:
                assert str(verdict.workload) not in records[verdict.workload.key].workloads
                assert isinstance(verdict.evidence, Evidence)
                assert str(verdict.evidence.other) in records[verdict.workload.key].workloads

    @given(PODS, ANSWERS, SETTINGS, NOWS)
    def test_every_pod_has_one_verdict_whose_evidence_can_be_rendered(
        self, pods: list[Workload], answers: TaskInstances, settings: Settings, now: int
    ) -> None:
        verdicts = classify_all(pods, answers, settings, now)
        assert sorted(verdict.workload.uid for verdict in verdicts) == sorted(pod.uid for pod in pods)
        assert all(all(phrases(verdict)) and phrases(verdict) for verdict in verdicts)

    @given(PODS, ANSWERS, SETTINGS, NOWS)
    def test_the_only_pod_of_an_active_task_instance_is_never_a_zombie_unless_it_is_marked_as_checked(
        self, pods: list[Workload], answers: TaskInstances, settings: Settings, now: int
    ) -> None:
        verdicts = classify_all(pods, answers, settings, now)
        keys = [pod.key for pod in pods]
        for verdict in verdicts:
            ti = answers.found.get(verdict.workload.key)
            if (
                ti is not None
                and ti.is_active
                and not verdict.workload.already_checked
                and keys.count(verdict.workload.key) == 1
            ):
                assert not verdict.is_zombie

    @given(PODS, ANSWERS, SETTINGS, NOWS)
    def test_the_pod_that_an_active_task_instance_can_adopt_is_never_a_zombie(
        self, pods: list[Workload], answers: TaskInstances, settings: Settings, now: int
    ) -> None:
        verdicts = by_uid(classify_all(pods, answers, settings, now))
        adoptable = [pod for pod in pods if not (pod.already_checked or pod.label_problem or pod.deletion_deadline)]
        for place in {(pod.namespace, pod.key) for pod in adoptable}:
            ti = answers.found.get(place[1])
            if ti is None or not ti.is_active:
                continue
            of_the_place = [pod for pod in adoptable if (pod.namespace, pod.key) == place]
            newest = max(pod.created for pod in of_the_place)
            assert not any(verdicts[pod.uid].is_zombie for pod in of_the_place if pod.created == newest)

    @given(PODS, ANSWERS, SETTINGS, NOWS)
    def test_a_zombie_of_an_active_task_instance_is_superseded(
        self, pods: list[Workload], answers: TaskInstances, settings: Settings, now: int
    ) -> None:
        for verdict in classify_all(pods, answers, settings, now):
            ti = answers.found.get(verdict.workload.key)
            if verdict.is_zombie and ti is not None and ti.is_active:
                assert verdict.reason is Reason.SUPERSEDED

    @given(PODS, ANSWERS, st.dictionaries(KEYS, ACTIVE_TIS, min_size=1), SETTINGS, NOWS)
    def test_more_active_task_instances_make_no_zombie_that_is_not_superseded(
        self,
        pods: list[Workload],
        answers: TaskInstances,
        active: dict[TaskInstanceKey, TaskInstance],
        settings: Settings,
        now: int,
    ) -> None:
        before = by_uid(classify_all(pods, answers, settings, now))
        more = replace(answers, found={**answers.found, **active})
        for verdict in classify_all(pods, more, settings, now):
            if verdict.is_zombie and not before[verdict.workload.uid].is_zombie:
                assert verdict.reason is Reason.SUPERSEDED

    @given(PODS, ANSWERS, st.dictionaries(KEYS, TIS, min_size=1), SETTINGS, NOWS)
    def test_more_task_instances_make_a_zombie_only_of_a_pod_whose_own_was_missing(
        self,
        pods: list[Workload],
        answers: TaskInstances,
        more: dict[TaskInstanceKey, TaskInstance],
        settings: Settings,
        now: int,
    ) -> None:
        before = by_uid(classify_all(pods, answers, settings, now))
        for verdict in classify_all(pods, replace(answers, found={**more, **answers.found}), settings, now):
            if verdict.is_zombie and not before[verdict.workload.uid].is_zombie:
                key = verdict.workload.key
                assert key not in answers.found
                assert not more[key].is_active or verdict.reason is Reason.SUPERSEDED

    @given(PODS, PODS, ANSWERS, SETTINGS, NOWS)
    def test_more_pods_make_no_zombie_that_is_not_superseded(
        self, pods: list[Workload], others: list[Workload], answers: TaskInstances, settings: Settings, now: int
    ) -> None:
        others = [replace(pod, uid=f"other-{pod.uid}") for pod in others]
        before = by_uid(classify_all(pods, answers, settings, now))
        after = by_uid(classify_all(pods + others, answers, settings, now))
        for uid, verdict in before.items():
            if after[uid].is_zombie != verdict.is_zombie or after[uid].reason != verdict.reason:
                assert Reason.SUPERSEDED in (after[uid].reason, verdict.reason)

    @given(PODS, ANSWERS, SETTINGS, NOWS, st.randoms(use_true_random=False))
    def test_the_order_of_pods_and_task_instances_does_not_matter(
        self, pods: list[Workload], answers: TaskInstances, settings: Settings, now: int, random: Any
    ) -> None:
        shuffled, found = list(pods), list(answers.found.items())
        random.shuffle(shuffled)
        random.shuffle(found)
        answered = replace(answers, found=dict(found))
        assert classify_all(shuffled, answered, settings, now) == classify_all(pods, answers, settings, now)

    @given(PODS, ANSWERS, SETTINGS, NOWS)
    def test_unidentified_protected_owned_and_unresolved_pods_are_never_zombies(
        self, pods: list[Workload], answers: TaskInstances, settings: Settings, now: int
    ) -> None:
        for verdict in classify_all(pods, answers, settings, now):
            pod = verdict.workload
            if pod.label_problem or pod.protected_by or pod.controller or pod.key in answers.unresolved:
                assert not verdict.is_zombie

    @given(PODS, ANSWERS, NOWS)
    def test_unmatched_pods_are_never_zombies_by_default(
        self, pods: list[Workload], answers: TaskInstances, now: int
    ) -> None:
        for verdict in classify_all(pods, answers, Settings(), now):
            assert not (verdict.is_zombie and verdict.reason is Reason.UNMATCHED)

    @given(PODS, SETTINGS, NOWS)
    def test_an_answer_without_task_instances_makes_only_unmatched_zombies(
        self, pods: list[Workload], settings: Settings, now: int
    ) -> None:
        zombies = [verdict for verdict in classify_all(pods, TaskInstances(), settings, now) if verdict.is_zombie]
        assert {verdict.reason for verdict in zombies} <= {Reason.UNMATCHED}
        assert settings.delete_unmatched_pods or not zombies

    @given(PODS, ANSWERS, SETTINGS, NOWS)
    def test_stricter_settings_never_make_a_zombie(
        self, pods: list[Workload], answers: TaskInstances, settings: Settings, now: int
    ) -> None:
        strict = replace(
            settings,
            delete_completed_pods=False,
            delete_pods_on_failure=False,
            ttl_seconds_after_finished=None,
            delete_unmatched_pods=False,
        )
        loose = by_uid(classify_all(pods, answers, settings, now))
        for verdict in classify_all(pods, answers, strict, now):
            assert loose[verdict.workload.uid].is_zombie or not verdict.is_zombie

    @given(PODS, ANSWERS, SETTINGS)
    def test_the_passage_of_time_alone_spares_no_zombie(
        self, pods: list[Workload], answers: TaskInstances, settings: Settings
    ) -> None:
        assume(any(pod.key in answers.found for pod in pods))
        later = by_uid(classify_all(pods, answers, settings, NOW + 30 * DAY))
        for verdict in classify_all(pods, answers, settings, NOW):
            assert later[verdict.workload.uid].is_zombie or not verdict.is_zombie

    @given(PODS, ANSWERS, SETTINGS, NOWS)
    def test_a_pod_has_the_same_verdict_if_only_the_possible_successors_are_known(
        self, pods: list[Workload], answers: TaskInstances, settings: Settings, now: int
    ) -> None:
        records = {pod.key: Record(frozenset({str(pod)})) for pod in pods if pod.try_number > 1}
        snapshot = Snapshot(pods, answers, settings, now, records)
        named = [pod for pod in pods if any(str(pod) in record.workloads for record in records.values())]
        for pod in pods:
            few = {each.uid: each for each in (pod, *possible_successors(pods), *named)}
            verdict = Classifier(replace(snapshot, workloads=[*few.values()])).classify(pod)
            assert verdict == Classifier(snapshot).classify(pod)


def test_of_the_pods_of_one_try_only_the_youngest_is_a_possible_successor() -> None:
    older, youngest, other = (make_pod(created=NOW - age, try_number=age % 2) for age in (HOUR, HOUR - 2, HOUR - 1))
    checked = make_pod(created=NOW, already_checked=True)
    assert possible_successors([older, youngest, other, checked]) == [youngest, other]
