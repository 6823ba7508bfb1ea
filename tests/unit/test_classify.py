"""The specification of the verdict: each rule, their order, their boundaries, and invariants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from include.kpo_cleanup.classify import (
    Snapshot,
    Verdict,
    classify,
    count_reasons,
    find_successors,
    keys_needing_records,
)
from include.kpo_cleanup.constants import FINISHED_STATES, Reason
from include.kpo_cleanup.identity import UNMAPPED, TaskInstanceKey
from include.kpo_cleanup.pod import Container, Pod
from include.kpo_cleanup.settings import Settings
from include.kpo_cleanup.task_instance import Record, TaskInstance, TaskInstances
from tests.unit.builders import DAY, HOUR, JOB, MINUTE, NOW, SETTLE, answer, make_pod, make_ti

FINISHED = make_ti()
ACTIVE = make_ti(state="running", ended=None)
SECOND_TRY = ACTIVE._replace(try_number=2)
NO_TI = None

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
    return Container(name, "waiting", waiting_reason=why)


def classify_pod(
    pod: Pod,
    ti: TaskInstance | None = FINISHED,
    *others: Pod,
    unresolved: bool = False,
    try_number_may_lag: bool = False,
    record: Record | None = None,
    **settings: Any,
) -> Verdict:
    """Classify one pod, among others of the same listing."""
    task_instances = answer({pod.key: ti}, *([pod.key] if unresolved else []), try_number_may_lag=try_number_may_lag)
    records = {} if record is None else {pod.key: record}
    verdicts = classify(Snapshot([pod, *others], task_instances, Settings(**settings), NOW, records))
    return next(verdict for verdict in verdicts if verdict.pod is pod)


def judge_all(
    pods: Sequence[Pod], task_instances: TaskInstances, settings: Settings | None = None, now: int = NOW
) -> list[Verdict]:
    return classify(Snapshot(pods, task_instances, settings or Settings(), now))


def assert_kept(verdict: Verdict, reason: Reason) -> None:
    assert (verdict.reason, verdict.is_zombie) == (reason, False), verdict.evidence
    assert verdict.evidence


def assert_zombie(verdict: Verdict, reason: Reason) -> None:
    assert (verdict.reason, verdict.is_zombie) == (reason, True), verdict.evidence
    assert verdict.evidence


# Each row: a feature that keeps a pod, that feature of a twin which is deleted, and the twin's reason.
# All else is as in a running pod whose task instance failed an hour ago.
KEEP_RULES = [
    pytest.param(
        Reason.BAD_LABELS,
        {"pod": {"label_problem": "label task_id is missing"}},
        {"pod": {"label_problem": ""}},
        Reason.ORPHANED,
        id="a pod that an identifying label is missing on is kept",
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
        id="a pod with a controller is left to it",
    ),
    pytest.param(
        Reason.OWNED,
        {"pod": {"job": "nightly"}},
        {"pod": {"job": ""}},
        Reason.ORPHANED,
        id="a pod that a Job's labels are on is left to the Job although it has no owner reference",
    ),
    pytest.param(
        Reason.TERMINATING,
        {"pod": {"deletion_deadline": NOW - DAY, "finalizers": ("example.com/hold",)}},
        {"pod": {"deletion_deadline": NOW - DAY, "finalizers": ()}},
        Reason.ORPHANED,
        id="a pod that a finalizer holds is kept however late it is",
    ),
    pytest.param(
        Reason.TERMINATING,
        {"pod": {"deletion_deadline": NOW - SETTLE}},
        {"pod": {"deletion_deadline": NOW - SETTLE - 1}},
        Reason.ORPHANED,
        id="a pod that is being deleted is kept until its deadline and the margin have passed",
    ),
    pytest.param(
        Reason.TERMINATING,
        {"pod": {"deletion_deadline": NOW + DAY}},
        {"pod": {"deletion_deadline": None}},
        Reason.ORPHANED,
        id="a pod with a long grace period is kept while that lasts",
    ),
    pytest.param(
        Reason.UNRESOLVED,
        {"ti": NO_TI, "unresolved": True, "delete_unmatched_pods": True},
        {"ti": NO_TI, "unresolved": False, "delete_unmatched_pods": True},
        Reason.UNMATCHED,
        id="a pod whose task instance the source cannot look up is kept even where unmatched pods go",
    ),
    pytest.param(
        Reason.UNMATCHED,
        {"ti": NO_TI},
        {"ti": FINISHED},
        Reason.ORPHANED,
        id="not knowing a task instance is not knowing that it is over",
    ),
    pytest.param(
        Reason.UNMATCHED,
        {"ti": NO_TI, "delete_unmatched_pods": False},
        {"ti": NO_TI, "delete_unmatched_pods": True},
        Reason.UNMATCHED,
        id="an unmatched pod is kept unless the settings let it go",
    ),
    pytest.param(
        Reason.UNMATCHED,
        {"ti": NO_TI, "delete_unmatched_pods": True, "pod": {"created": NOW - SETTLE}},
        {"ti": NO_TI, "delete_unmatched_pods": True, "pod": {"created": NOW - SETTLE - 1}},
        Reason.UNMATCHED,
        id="an unmatched pod must be older than the settling time",
    ),
    pytest.param(
        Reason.UNMATCHED,
        {"ti": NO_TI, "delete_unmatched_pods": True, "pod": {"created": NOW + HOUR}},
        {"ti": NO_TI, "delete_unmatched_pods": True, "pod": {"created": NOW - HOUR}},
        Reason.UNMATCHED,
        id="an unmatched pod from the future is kept",
    ),
    pytest.param(
        Reason.UNMATCHED,
        {"ti": make_ti(ended=NOW - HOUR), "pod": {"created": NOW - HOUR + 6}},
        {"ti": make_ti(ended=NOW - HOUR), "pod": {"created": NOW - HOUR + 5}},
        Reason.ORPHANED,
        id="a pod that was made after its task instance ended is another Airflow's",
    ),
    pytest.param(
        Reason.UNMATCHED,
        {"ti": make_ti(ended=NOW - HOUR), "pod": {"created": NOW - MINUTE, "already_checked": False}},
        {"ti": make_ti(ended=NOW - HOUR), "pod": {"created": NOW - MINUTE, "already_checked": True}},
        Reason.ORPHANED,
        id="a pod that its operator checked off is no stranger, whatever the clocks say",
    ),
    pytest.param(
        Reason.UNMATCHED,
        {"pod": {"created": NOW - MINUTE}, "delete_unmatched_pods": True},
        {"pod": {"created": NOW - SETTLE - 1}, "delete_unmatched_pods": True},
        Reason.UNMATCHED,
        id="a pod that is not shown to be its task instance's must be older than the settling time, too",
    ),
    pytest.param(
        Reason.UNMATCHED,
        {"ti": make_ti(try_number=1), "pod": {"try_number": 2}},
        {"ti": make_ti(try_number=2), "pod": {"try_number": 2}},
        Reason.ORPHANED,
        id="a pod of a later try than the task instance had is another Airflow's",
    ),
    pytest.param(
        Reason.UNMATCHED,
        {"ti": make_ti(try_number=1), "pod": {"try_number": 3}, "try_number_may_lag": True},
        {"ti": make_ti(try_number=1), "pod": {"try_number": 2}, "try_number_may_lag": True},
        Reason.ORPHANED,
        id="before Airflow 2.10 the try number may be one too low, and not more",
    ),
    pytest.param(
        Reason.UNMATCHED,
        {"record": Record(frozenset({"airflow/other"}))},
        {"record": None},
        Reason.ORPHANED,
        id="a pod is kept if the operator's record of the same try names another one",
    ),
    pytest.param(
        Reason.UNMATCHED,
        {"record": Record(frozenset({"airflow/other"})), "ti": make_ti(try_number=1)},
        {"record": Record(frozenset({"airflow/other"})), "ti": make_ti(try_number=2)},
        Reason.ORPHANED,
        id="a record of a later try says nothing against the pod of an earlier one",
    ),
    pytest.param(
        Reason.UNMATCHED,
        {"record": Record(frozenset({"airflow/other"})), "ti": TaskInstance("failed")},
        {"record": Record(frozenset({"airflow/it"})), "ti": TaskInstance("failed"), "pod": {"name": "it"}},
        Reason.ORPHANED,
        id="without try numbers a record that names another pod keeps this one",
    ),
    pytest.param(
        Reason.UNMATCHED,
        {"record": Record(frozenset({"other/it"})), "pod": {"name": "it"}},
        {"record": Record(frozenset({"airflow/it"})), "pod": {"name": "it"}},
        Reason.ORPHANED,
        id="a record names a pod by its namespace, too",
    ),
    pytest.param(
        Reason.UNRESOLVED,
        {"record": Record(problem="XCom pod_name is pickled")},
        {"record": Record()},
        Reason.ORPHANED,
        id="a record that cannot be read is not one that says nothing",
    ),
    pytest.param(
        Reason.UNRESOLVED,
        {"record": Record(problem="XCom pod_name is pickled"), "pod": {"name": "it"}},
        {"record": Record(frozenset({"airflow/it"}), "XCom pod_name is pickled"), "pod": {"name": "it"}},
        Reason.ORPHANED,
        id="of two records one that names the pod clears it",
    ),
    pytest.param(
        Reason.UNRESOLVED,
        {"ti": SECOND_TRY, "record": Record(problem="XCom pod_name is pickled"), "pod": {"already_checked": True}},
        {"ti": SECOND_TRY, "record": Record(), "pod": {"already_checked": True}},
        Reason.SUPERSEDED,
        id="a superseded pod whose record cannot be read is kept",
    ),
    pytest.param(
        Reason.ACTIVE,
        {"ti": SECOND_TRY, "record": Record(frozenset({"airflow/it"})), "pod": {"name": "it", "already_checked": True}},
        {"ti": SECOND_TRY, "record": Record(frozenset({"airflow/x"})), "pod": {"name": "it", "already_checked": True}},
        Reason.SUPERSEDED,
        id="a pod that the operator's record names is never superseded",
    ),
    pytest.param(
        Reason.STALLED,
        {"ti": ACTIVE, "pod": {"containers": (ended(), running("sidecar"))}},
        {"ti": FINISHED, "pod": {"containers": (ended(), running("sidecar"))}},
        Reason.ORPHANED,
        id="a task that hangs on its sidecar is warned about and becomes a zombie when it has failed",
    ),
    pytest.param(
        Reason.ACTIVE, {"ti": ACTIVE}, {"ti": FINISHED}, Reason.ORPHANED, id="the pod of an active task is kept"
    ),
    pytest.param(
        Reason.ACTIVE,
        {"ti": ACTIVE._replace(try_number=2), "pod": {"already_checked": False}},
        {"ti": ACTIVE._replace(try_number=2), "pod": {"already_checked": True}},
        Reason.SUPERSEDED,
        id="the reattach trap: a retry uses its first try's pod until the operator has checked that off",
    ),
    pytest.param(
        Reason.ACTIVE,
        {"ti": ACTIVE._replace(try_number=1), "pod": {"already_checked": True}},
        {"ti": ACTIVE._replace(try_number=2), "pod": {"already_checked": True}},
        Reason.SUPERSEDED,
        id="a pod that is checked off in its own try is kept until the next one",
    ),
    pytest.param(
        Reason.ACTIVE,
        {"ti": ACTIVE._replace(try_number=1), "pod": {"already_checked": True, "try_number": 2}},
        {"ti": ACTIVE._replace(try_number=3), "pod": {"already_checked": True, "try_number": 2}},
        Reason.SUPERSEDED,
        id="a pod of a later try than the task instance's is no old pod",
    ),
    pytest.param(
        Reason.ACTIVE,
        {"ti": TaskInstance("running"), "pod": {"already_checked": True}},
        {"ti": TaskInstance("running", try_number=2), "pod": {"already_checked": True}},
        Reason.SUPERSEDED,
        id="where the source gives no try number a checked pod is kept",
    ),
    pytest.param(
        Reason.SETTLING,
        {"ti": make_ti(ended=NOW - SETTLE + 1)},
        {"ti": make_ti(ended=NOW - SETTLE)},
        Reason.ORPHANED,
        id="a task instance settles before its pod is a zombie",
    ),
    pytest.param(
        Reason.SETTLING,
        {"ti": make_ti(ended=NOW)},
        {"ti": make_ti(ended=NOW), "settle_seconds": 0},
        Reason.ORPHANED,
        id="nothing settles where settle_seconds is zero",
    ),
    pytest.param(
        Reason.SETTLING,
        {"ti": make_ti(ended=NOW + DAY)},
        {"ti": make_ti(ended=NOW - HOUR)},
        Reason.ORPHANED,
        id="an end in the future has not settled",
    ),
    pytest.param(
        Reason.SETTLING,
        {"ti": TaskInstance("success"), "pod": {"created": NOW - DAY, "containers": (ended(since=NOW - 1),)}},
        {"ti": TaskInstance("success"), "pod": {"created": NOW - DAY, "containers": (ended(since=NOW - SETTLE),)}},
        Reason.ORPHANED,
        id="without an end on record the end of the main container counts",
    ),
    pytest.param(
        Reason.SETTLING,
        {"ti": TaskInstance("success"), "pod": {"phase": "Succeeded", "created": NOW - SETTLE + 1, "containers": ()}},
        {"ti": TaskInstance("success"), "pod": {"phase": "Succeeded", "created": NOW - SETTLE, "containers": ()}},
        Reason.COMPLETED,
        id="without any end the creation of a completed pod counts",
    ),
    pytest.param(
        Reason.SETTLING,
        {"ti": TaskInstance("success"), "pod": {"containers": (ended(since=NOW + DAY),)}},
        {"ti": TaskInstance("success"), "pod": {"containers": (ended(since=NOW - DAY),)}},
        Reason.ORPHANED,
        id="a kubelet whose clock is ahead does not make a task instance settle",
    ),
    pytest.param(
        Reason.COMPLETED,
        {"pod": {"phase": "Succeeded"}, "delete_completed_pods": False},
        {"pod": {"phase": "Succeeded"}, "delete_completed_pods": True},
        Reason.COMPLETED,
        id="a succeeded pod goes only where the settings let it",
    ),
    pytest.param(
        Reason.COMPLETED,
        {"pod": {"phase": "Failed"}},
        {"pod": {"phase": "Running"}},
        Reason.ORPHANED,
        id="a failed pod is kept for debugging",
    ),
    pytest.param(
        Reason.COMPLETED,
        {"pod": {"phase": "Failed"}, "delete_pods_on_failure": False},
        {"pod": {"phase": "Failed"}, "delete_pods_on_failure": True},
        Reason.COMPLETED,
        id="a failed pod goes only where the settings let it",
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
        id="a pod that was kept on purpose goes once its ttl has passed",
    ),
    pytest.param(
        Reason.SUPERSEDED,
        {"ti": ACTIVE._replace(try_number=2), "pod": {"already_checked": True, "phase": "Failed"}},
        {"ti": ACTIVE._replace(try_number=2), "pod": {"already_checked": True, "phase": "Running"}},
        Reason.SUPERSEDED,
        id="a superseded pod that is completed is kept where a completed one would be",
    ),
]


def verdict_of_case(case: dict[str, Any]) -> Verdict:
    case = dict(case)
    return classify_pod(make_pod(**case.pop("pod", {})), case.pop("ti", FINISHED), **case)


class TestEveryKeepRule:
    @pytest.mark.parametrize(("reason", "kept", "twin", "twins_reason"), KEEP_RULES)
    def test_keeps_a_pod_and_lets_its_twin_go(
        self, reason: Reason, kept: dict[str, Any], twin: dict[str, Any], twins_reason: Reason
    ) -> None:
        assert_kept(verdict_of_case(kept), reason)
        assert_zombie(verdict_of_case(twin), twins_reason)

    def test_is_in_the_table(self) -> None:
        with_a_keep = {row.values[0] for row in KEEP_RULES}
        assert with_a_keep == set(Reason) - {Reason.ORPHANED}  # the only reason that never keeps


class TestOrder:
    """The order of the rules: a pod that several rows fit gets the first of them."""

    @pytest.mark.parametrize("first", range(4))
    def test_of_the_rules_about_the_pod_itself(self, first: int) -> None:
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

    def test_a_pod_that_is_late_in_terminating_is_judged_like_any_other(self) -> None:
        late = {"deletion_deadline": NOW - DAY}
        assert_kept(classify_pod(make_pod(**late), ACTIVE), Reason.ACTIVE)
        assert_kept(classify_pod(make_pod(**late), NO_TI), Reason.UNMATCHED)
        assert_kept(classify_pod(make_pod(**late), make_ti(ended=NOW)), Reason.SETTLING)
        assert_zombie(classify_pod(make_pod(**late)), Reason.ORPHANED)

    def test_unresolved_comes_before_everything_about_the_task_instance(self) -> None:
        for ti in (FINISHED, ACTIVE, NO_TI):
            assert_kept(classify_pod(make_pod(), ti, unresolved=True), Reason.UNRESOLVED)

    def test_superseded_comes_before_stalled(self) -> None:
        pod = make_pod(containers=(ended(), running("sidecar")), already_checked=True)
        assert_zombie(classify_pod(pod, ACTIVE._replace(try_number=2)), Reason.SUPERSEDED)

    def test_active_comes_before_completed(self) -> None:
        pod = make_pod(phase="Succeeded", containers=(ended(),))
        assert_kept(classify_pod(pod, ACTIVE, ttl_seconds_after_finished=0), Reason.ACTIVE)

    @pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
    def test_settling_comes_before_completed(self, phase: str) -> None:
        pod = make_pod(phase=phase)
        verdict = classify_pod(pod, make_ti(ended=NOW - 10), ttl_seconds_after_finished=1, delete_pods_on_failure=True)
        assert_kept(verdict, Reason.SETTLING)


class TestActive:
    @pytest.mark.parametrize("state", ACTIVE_STATES, ids=repr)
    def test_is_every_state_that_is_not_known_to_be_terminal(self, state: str | None) -> None:
        assert_kept(classify_pod(make_pod(), TaskInstance(state)), Reason.ACTIVE)

    @pytest.mark.parametrize("state", sorted(FINISHED_STATES))
    def test_is_no_terminal_state(self, state: str) -> None:
        assert_zombie(classify_pod(make_pod(), make_ti(state=state)), Reason.ORPHANED)

    @pytest.mark.parametrize("state", ACTIVE_STATES, ids=repr)
    def test_holds_although_an_end_of_the_last_try_is_on_record(self, state: str | None) -> None:
        assert_kept(classify_pod(make_pod(), make_ti(state=state, ended=NOW - DAY)), Reason.ACTIVE)

    @pytest.mark.parametrize("phase", ["Pending", "Running", "Unknown", "Succeeded", "Failed", ""])
    def test_keeps_a_pod_in_any_phase(self, phase: str) -> None:
        assert_kept(classify_pod(make_pod(phase=phase), ACTIVE), Reason.ACTIVE)


class TestSuperseded:
    def test_needs_a_newer_pod_of_the_same_task_instance(self) -> None:
        old, new = make_pod(), make_pod(try_number=2)
        verdict = classify_pod(old, SECOND_TRY, new)
        assert_zombie(verdict, Reason.SUPERSEDED)
        assert f"replaced by {new.name} of try 2" in verdict.evidence
        assert_kept(classify_pod(new, SECOND_TRY, old), Reason.ACTIVE)

    @pytest.mark.parametrize("try_number", [None, 2, 3])
    def test_needs_a_try_that_the_task_instance_has_had_if_its_tries_are_told(self, try_number: int | None) -> None:
        ti = ACTIVE._replace(try_number=try_number)
        assert_zombie(classify_pod(make_pod(), ti, make_pod(try_number=2)), Reason.SUPERSEDED)
        assert_kept(classify_pod(make_pod(), ACTIVE, make_pod(try_number=2)), Reason.ACTIVE)

    def test_finds_the_latest_try_that_the_task_instance_has_had(self) -> None:
        pods = [make_pod(try_number=number) for number in (1, 2, 3)]
        assert find_successors(pods, answer({pods[0].key: SECOND_TRY})) == {pods[0].uid: pods[1]}

    @pytest.mark.parametrize(
        ("mine", "its", "differs"),
        [
            pytest.param([("step", "train")], [("step", "load")], "step", id="two operators in one task"),
            pytest.param([("env", "staging")], [("env", "production")], "env", id="two Airflows"),
            pytest.param([("sha", "a"), ("team", "x")], [("sha", "b"), ("team", "x")], "sha", id="two deployments"),
            pytest.param([], [("hash", "1"), ("zone", "b")], "hash, zone", id="a webhook that stamps pods"),
        ],
    )
    def test_does_not_count_a_pod_of_other_labels_and_says_which_differ(
        self, mine: list[tuple[str, str]], its: list[tuple[str, str]], differs: str
    ) -> None:
        older, newer = make_pod(labels=tuple(mine)), make_pod(labels=tuple(its), try_number=2, name="newer")
        verdict = classify_pod(older, SECOND_TRY, newer)
        assert_kept(verdict, Reason.ACTIVE)
        assert verdict.evidence.startswith(f"newer of try 2 has another {differs}; ")

    @pytest.mark.parametrize(("seconds", "reason"), [(1, Reason.SUPERSEDED), (0, Reason.ACTIVE), (-1, Reason.ACTIVE)])
    def test_needs_a_pod_that_is_younger_by_at_least_a_second(self, seconds: int, reason: Reason) -> None:
        newer = make_pod(try_number=2, created=NOW - HOUR + seconds)
        assert classify_pod(make_pod(created=NOW - HOUR), SECOND_TRY, newer).reason is reason

    @pytest.mark.parametrize(
        "changes",
        [
            pytest.param({"already_checked": True}, id="is checked off"),
            pytest.param({"deletion_deadline": NOW + 30}, id="is being deleted"),
            pytest.param({"controller": JOB}, id="has a controller"),
            pytest.param({"deletion_deadline": NOW - DAY}, id="should have been deleted long ago"),
            pytest.param({"namespace": "staging"}, id="is in another namespace"),
            pytest.param({"map_index": 0}, id="has another map index"),
            pytest.param({"run_id": "run_2"}, id="is of another run"),
            pytest.param({"task_id": "load"}, id="is of another task"),
            pytest.param({"dag_id": "invoices"}, id="is of another DAG"),
            pytest.param({"try_number": 1}, id="is of the same try"),
            pytest.param({"label_problem": "label task_id is missing"}, id="is badly labelled"),
        ],
    )
    def test_does_not_count_a_newer_pod_that(self, changes: dict[str, Any]) -> None:
        newer = make_pod(**{"try_number": 2, **changes})
        assert_kept(classify_pod(make_pod(), SECOND_TRY, newer), Reason.ACTIVE)

    @pytest.mark.parametrize(
        "changes",
        [
            pytest.param({"phase": "Pending", "containers": ()}, id="is pending"),
            pytest.param({"phase": "Succeeded"}, id="is completed and not checked off"),
            pytest.param({"protected_by": "kpo-cleanup/protect=true"}, id="is protected"),
        ],
    )
    def test_counts_a_newer_pod_that(self, changes: dict[str, Any]) -> None:
        newer = make_pod(**{"try_number": 2, **changes})
        assert_zombie(classify_pod(make_pod(), SECOND_TRY, newer), Reason.SUPERSEDED)

    def test_finds_the_newest_that_can_be_attached_to_behind_a_newer_one_that_cannot(self) -> None:
        pods = [make_pod(try_number=1), make_pod(try_number=2), make_pod(try_number=3, already_checked=True)]
        assert find_successors(pods, TaskInstances()) == {pods[0].uid: pods[1]}

    def test_does_not_count_an_older_pod_of_a_run_that_was_made_anew(self) -> None:
        # Its DAG run was deleted and made again under its run_id, and the tries began with 1 again.
        dead = make_pod(try_number=3, created=NOW - DAY)
        assert_kept(classify_pod(make_pod(created=NOW - HOUR), ACTIVE, dead), Reason.ACTIVE)

    def test_leaves_the_newest_of_many(self) -> None:
        pods = [make_pod(try_number=number) for number in (3, 1, 4, 2)]
        assert {uid: pod.try_number for uid, pod in find_successors(pods, TaskInstances()).items()} == {
            pods[index].uid: 4 for index in (0, 1, 3)
        }

    def test_says_nothing_about_two_pods_of_one_try(self) -> None:
        assert find_successors([make_pod(try_number=2), make_pod(try_number=2)], TaskInstances()) == {}

    def test_is_not_a_reason_where_the_task_instance_is_over(self) -> None:
        assert_zombie(classify_pod(make_pod(), FINISHED, make_pod(try_number=2)), Reason.ORPHANED)

    def test_is_not_a_reason_where_the_task_instance_is_unknown(self) -> None:
        assert_kept(classify_pod(make_pod(), NO_TI, make_pod(try_number=2)), Reason.UNMATCHED)

    def test_does_not_wait_for_anything_to_settle(self) -> None:
        old = make_pod(created=NOW - 5, containers=(running(since=NOW - 5),))
        assert_zombie(classify_pod(old, SECOND_TRY, make_pod(try_number=2, created=NOW)), Reason.SUPERSEDED)

    @pytest.mark.parametrize(
        ("changes", "settings", "goes"),
        [
            pytest.param({"phase": "Succeeded"}, {}, True, id="succeeded"),
            pytest.param({"phase": "Succeeded"}, {"delete_completed_pods": False}, False, id="succeeded, gate closed"),
            pytest.param({"phase": "Failed"}, {}, False, id="failed"),
            pytest.param({"phase": "Failed"}, {"delete_pods_on_failure": True}, True, id="failed, gate open"),
            pytest.param({"phase": "Succeeded", "already_checked": True}, {}, False, id="kept on purpose"),
            pytest.param({"phase": "Failed"}, {"ttl_seconds_after_finished": 2 * HOUR}, False, id="ttl not over"),
            pytest.param({"phase": "Failed"}, {"ttl_seconds_after_finished": HOUR}, False, id="ttl just not over"),
            pytest.param({"phase": "Failed"}, {"ttl_seconds_after_finished": HOUR - 1}, True, id="ttl over"),
            pytest.param(
                {"phase": "Failed", "containers": (ended(since=NOW + HOUR),)},
                {"ttl_seconds_after_finished": 0},
                False,
                id="ttl with an end in the future",
            ),
        ],
    )
    def test_falls_under_the_completed_gates_where_the_pod_is_completed(
        self, changes: dict[str, Any], settings: dict[str, Any], goes: bool
    ) -> None:
        old = make_pod(**{"containers": (ended(since=NOW - HOUR),), **changes})
        verdict = classify_pod(old, SECOND_TRY, make_pod(try_number=2), **settings)
        assert (verdict.reason, verdict.is_zombie) == (Reason.SUPERSEDED, goes)


class TestStalled:
    @pytest.mark.parametrize(
        ("containers", "stalled"),
        [
            pytest.param((ended(), running("sidecar")), True, id="a sidecar runs on"),
            pytest.param((ended(code=1), running("sidecar")), True, id="a sidecar runs on after a failure"),
            pytest.param((ended(since=NOW - SETTLE - 1), running("sidecar")), True, id="for just long enough"),
            pytest.param((ended(since=NOW - SETTLE), running("sidecar")), False, id="for just not long enough"),
            pytest.param((ended(since=NOW + HOUR), running("sidecar")), False, id="by a clock that is ahead"),
            pytest.param((ended(since=None), running("sidecar")), False, id="since nobody knows when"),
            pytest.param((ended(), ended("sidecar")), False, id="the sidecar has ended too"),
            pytest.param((ended(), waiting("sidecar", "CrashLoopBackOff")), False, id="it waits"),
            pytest.param((ended(),), False, id="there is no sidecar"),
            pytest.param((running(), running("sidecar")), False, id="the base container runs"),
            pytest.param((running("base"), ended("sidecar")), False, id="only the sidecar has ended"),
            pytest.param((ended("work"), running("sidecar")), False, id="the main container has no state"),
            pytest.param((), False, id="no container has a state"),
        ],
    )
    def test_is_a_task_that_waits_for_a_sidecar(self, containers: tuple[Container, ...], stalled: bool) -> None:
        verdict = classify_pod(make_pod(containers=containers), ACTIVE)
        assert_kept(verdict, Reason.STALLED if stalled else Reason.ACTIVE)

    @pytest.mark.parametrize(
        ("state", "reason"),
        [
            *((state, Reason.STALLED) for state in ("running", "deferred", "restarting")),
            *((state, Reason.ACTIVE) for state in (None, "queued", "scheduled", "up_for_retry", "up_for_reschedule")),
        ],
    )
    def test_is_a_task_whose_operator_is_attached(self, state: str | None, reason: Reason) -> None:
        verdict = classify_pod(make_pod(containers=(ended(), running("sidecar"))), make_ti(state=state, ended=None))
        assert_kept(verdict, reason)
        left_over = "left over from try 1, which the retry may take over"
        assert (left_over in verdict.evidence) == (reason is Reason.ACTIVE)

    def test_goes_by_the_main_container_whatever_it_is_called(self) -> None:
        pod = make_pod(main_container="worker", containers=(ended("worker"), running("base")))
        assert_kept(classify_pod(pod, ACTIVE), Reason.STALLED)

    def test_names_the_remedy(self) -> None:
        verdict = classify_pod(make_pod(containers=(ended(), running("proxy"))), ACTIVE)
        assert verdict.warning == "container proxy keeps its task waiting"
        assert verdict.remedy == "make proxy a native sidecar, or give the task an execution_timeout"

    def test_says_which_containers_it_waits_for_and_since_when(self) -> None:
        containers = (ended(), running("airflow-xcom-sidecar"), running("proxy"), ended("init"))
        evidence = classify_pod(make_pod(containers=containers), ACTIVE).evidence
        assert "container airflow-xcom-sidecar and proxy keeps its task waiting" in evidence
        assert "base exited 0 60 min ago" in evidence
        assert "task instance running (try 1)" in evidence


class TestWarnings:
    @pytest.mark.parametrize(
        ("ti", "pod", "warns"),
        [
            pytest.param(ACTIVE, {"containers": (ended(since=NOW - DAY - 1),)}, True, id="for more than a day"),
            pytest.param(ACTIVE, {"containers": (ended(since=NOW - DAY),)}, False, id="for a day"),
            pytest.param(ACTIVE._replace(state="queued"), {"containers": (ended(since=NOW - 2 * DAY),)}, False),
            pytest.param(ACTIVE, {"phase": "Running", "containers": (ended(since=NOW - 2 * DAY),)}, False),
        ],
    )
    def test_of_a_task_that_runs_although_its_pod_has_been_over(
        self, ti: TaskInstance, pod: dict[str, Any], warns: bool
    ) -> None:
        assert bool(classify_pod(make_pod(**{"phase": "Succeeded", **pod}), ti).warning) is warns

    def test_of_a_finalizer_name_it(self) -> None:
        held = make_pod(deletion_deadline=NOW - DAY, finalizers=("example.com/a", "kueue.x-k8s.io/managed"))
        assert "held by example.com/a, kueue.x-k8s.io/managed" in classify_pod(held).warning
        assert not classify_pod(replace(held, deletion_deadline=NOW)).warning  # as long as its grace period lasts


class TestDue:
    """The time at which a pod that is kept for now will be deleted, if nothing happens until then."""

    @pytest.mark.parametrize(
        ("ti", "pod", "due"),
        [
            pytest.param(make_ti(ended=NOW - 10), {}, NOW - 10 + SETTLE, id="once its task instance has settled"),
            pytest.param(make_ti(ended=NOW - 10), {"phase": "Failed"}, None, id="never, if a gate keeps it"),
            pytest.param(make_ti(ended=NOW - 10), {"try_number": 2}, None, id="never, if it is another Airflow's"),
            pytest.param(FINISHED, {"deletion_deadline": NOW + 30}, NOW + 31 + SETTLE, id="once its grace is over"),
            pytest.param(ACTIVE, {"deletion_deadline": NOW + 30}, None, id="never, if its task instance is active"),
            pytest.param(ACTIVE, {}, None, id="not to be told of an active one"),
            pytest.param(FINISHED, {}, None, id="not to be told of a zombie"),
        ],
    )
    def test_is(self, ti: TaskInstance, pod: dict[str, Any], due: int | None) -> None:
        verdict = classify_pod(make_pod(**pod), ti)
        assert verdict.eligible_at == due
        if due is not None:
            facts = Snapshot([verdict.pod], answer({verdict.pod.key: ti}), Settings(), due)
            assert classify(facts)[0].is_zombie
            assert not classify(replace(facts, now=due - 1))[0].is_zombie


class TestSoftly:
    """A pod whose task has been over for an unknown time: it is asked to end before it is forced."""

    @pytest.mark.parametrize(
        ("ti", "pod", "end_time_unknown"),
        [
            pytest.param(TaskInstance("failed"), {}, True, id="the main container runs"),
            pytest.param(TaskInstance("failed"), {"containers": ()}, True, id="no container has a state"),
            pytest.param(TaskInstance("failed"), {"phase": "Pending", "containers": ()}, True, id="it never started"),
            pytest.param(TaskInstance("failed"), {"containers": (ended(), running("sidecar"))}, False, id="it ended"),
            pytest.param(FINISHED, {}, False, id="the end is on record"),
            pytest.param(TaskInstance("failed"), {"phase": "Succeeded"}, False, id="the pod is completed"),
        ],
    )
    def test(self, ti: TaskInstance, pod: dict[str, Any], end_time_unknown: bool) -> None:
        verdict = classify_pod(make_pod(**pod), ti)
        assert (verdict.is_zombie, verdict.end_time_unknown) == (True, end_time_unknown)


class TestSettling:
    @pytest.mark.parametrize(
        ("seconds_ago", "settles"), [(0, True), (SETTLE - 1, True), (SETTLE, False), (SETTLE + 1, False)]
    )
    @pytest.mark.parametrize("settle_seconds", [SETTLE, 10 * MINUTE])
    def test_lasts_for_settle_seconds(self, seconds_ago: int, settles: bool, settle_seconds: int) -> None:
        ti = make_ti(ended=NOW - seconds_ago - settle_seconds + SETTLE)
        verdict = classify_pod(make_pod(), ti, settle_seconds=settle_seconds)
        assert (verdict.reason, verdict.is_zombie) == ((Reason.SETTLING, False) if settles else (Reason.ORPHANED, True))

    @pytest.mark.parametrize("ti", [make_ti(ended=NOW + HOUR), TaskInstance("failed")], ids=["of the TI", "of the pod"])
    def test_counts_from_now_where_an_end_is_in_the_future(self, ti: TaskInstance) -> None:
        pod = make_pod(containers=(ended(since=NOW + HOUR),))
        assert_zombie(classify_pod(pod, ti, settle_seconds=0), Reason.ORPHANED)
        assert_kept(classify_pod(pod, ti, settle_seconds=1), Reason.SETTLING)

    def test_believes_the_task_instance_before_the_pod(self) -> None:
        just_ended = make_pod(containers=(ended(since=NOW - 1), running("sidecar")))
        assert_zombie(classify_pod(just_ended, make_ti(ended=NOW - HOUR)), Reason.ORPHANED)
        long_ended = make_pod(containers=(ended(since=NOW - DAY), running("sidecar")))
        assert_kept(classify_pod(long_ended, make_ti(ended=NOW - 1)), Reason.SETTLING)

    def test_goes_by_the_end_of_the_main_container_and_not_by_that_of_another(self) -> None:
        containers = (ended(since=NOW - HOUR), ended("proxy", since=NOW - 1), running("sidecar", since=NOW - 1))
        assert_zombie(classify_pod(make_pod(containers=containers), TaskInstance("failed")), Reason.ORPHANED)
        containers = (ended(since=NOW - 1), ended("proxy", since=NOW - HOUR), running("sidecar"))
        assert_kept(classify_pod(make_pod(containers=containers), TaskInstance("failed")), Reason.SETTLING)


GATES = [
    # phase, checked, delete_completed_pods, delete_pods_on_failure, ttl, goes; the task instance ended an hour ago
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
    @pytest.mark.parametrize(("phase", "checked", "completed", "on_failure", "ttl", "goes"), GATES)
    def test_goes_through_the_gates(
        self, phase: str, checked: bool, completed: bool, on_failure: bool, ttl: int | None, goes: bool
    ) -> None:
        verdict = classify_pod(
            make_pod(phase=phase, already_checked=checked),
            delete_completed_pods=completed,
            delete_pods_on_failure=on_failure,
            ttl_seconds_after_finished=ttl,
        )
        assert (verdict.reason, verdict.is_zombie) == (Reason.COMPLETED, goes)

    @pytest.mark.parametrize(("phase", "checked", "completed", "on_failure", "ttl", "goes"), GATES)
    def test_goes_through_every_gate_once_its_ttl_is_over(
        self, phase: str, checked: bool, completed: bool, on_failure: bool, ttl: int | None, goes: bool
    ) -> None:
        gates: dict[str, Any] = {"delete_completed_pods": completed, "delete_pods_on_failure": on_failure}
        pod = make_pod(phase=phase, already_checked=checked)
        assert_zombie(classify_pod(pod, ttl_seconds_after_finished=HOUR - 1, **gates), Reason.COMPLETED)
        # A ttl that is not over does not keep a pod that the gates let go.
        assert classify_pod(pod, ttl_seconds_after_finished=HOUR, **gates).is_zombie == goes

    @pytest.mark.parametrize("phase", ["Pending", "Running", "Unknown", "", "A phase to come"])
    def test_is_no_pod_in_another_phase(self, phase: str) -> None:
        verdict = classify_pod(make_pod(phase=phase, already_checked=True), delete_completed_pods=False)
        assert_zombie(verdict, Reason.ORPHANED)

    @pytest.mark.parametrize("state", sorted(FINISHED_STATES))
    def test_goes_by_the_phase_of_the_pod_and_not_by_the_state_of_the_task(self, state: str) -> None:
        assert_zombie(classify_pod(make_pod(phase="Succeeded"), make_ti(state=state)), Reason.COMPLETED)
        assert_kept(classify_pod(make_pod(phase="Failed"), make_ti(state=state)), Reason.COMPLETED)

    def test_counts_its_ttl_from_the_pod_where_the_source_gives_no_end(self) -> None:
        pod = make_pod(phase="Succeeded", already_checked=True, containers=(ended(since=NOW - HOUR),))
        ti = TaskInstance("success")
        assert_kept(classify_pod(pod, ti, ttl_seconds_after_finished=HOUR), Reason.COMPLETED)
        assert_zombie(classify_pod(pod, ti, ttl_seconds_after_finished=HOUR - 1), Reason.COMPLETED)


class TestTaskSdk:
    """Task instances of the Task SDK: they have a state, but no try number, end or operator."""

    def test_gives_enough_for_a_zombie(self) -> None:
        assert_zombie(classify_pod(make_pod(), TaskInstance("failed")), Reason.ORPHANED)

    def test_gives_enough_for_a_superseded_pod_with_a_successor(self) -> None:
        assert_zombie(classify_pod(make_pod(), TaskInstance("running"), make_pod(try_number=2)), Reason.SUPERSEDED)

    def test_gives_enough_for_a_stalled_task(self) -> None:
        pod = make_pod(containers=(ended(), running("sidecar")))
        assert_kept(classify_pod(pod, TaskInstance("running")), Reason.STALLED)


class TestEvidence:
    @pytest.mark.parametrize(
        ("pod", "ti", "expected"),
        [
            pytest.param({"label_problem": "label dag_id is missing"}, NO_TI, "label dag_id is missing", id="labels"),
            pytest.param(
                {"protected_by": "kpo-cleanup/protect=yes"}, NO_TI, "kpo-cleanup/protect=yes", id="protection"
            ),
            pytest.param(
                {"controller": JOB},
                NO_TI,
                "controlled by Job/nightly",
                id="the owner",
            ),
            pytest.param(
                {"controller": JOB},
                FINISHED,
                "controlled by Job/nightly; it goes on although its task is over since 60 min (failed)",
                id="the owner, which goes on",
            ),
            pytest.param(
                {"job": "nightly", "phase": "Succeeded"}, FINISHED, "labelled as a pod of Job/nightly", id="its Job"
            ),
            pytest.param(
                {"created": NOW - HOUR + 13, "containers": (running(since=NOW - 5),)},
                FINISHED,
                "made 13 s after its task instance ended; task instance failed (try 1) 60 min ago; base running 5 s",
                id="the time between an end and the making of a pod",
            ),
            pytest.param(
                {"try_number": 3},
                FINISHED,
                "it is of try 3, and its task instance ended at try 1; task instance failed (try 1) 60 min ago; "
                "base running 2 h",
                id="the tries",
            ),
            pytest.param(
                {"phase": "Failed", "phase_reason": "Evicted", "containers": ()},
                FINISHED,
                "pod Failed (Evicted), delete_pods_on_failure=False; task instance failed (try 1) 60 min ago; "
                "pod Failed (Evicted), no container status",
                id="an eviction",
            ),
            pytest.param(
                {"phase": "Pending", "phase_reason": "Unschedulable", "containers": ()},
                FINISHED,
                "task instance failed (try 1) 60 min ago; pod Pending (Unschedulable), no container status",
                id="a pod that found no node",
            ),
            pytest.param(
                {"finalizers": ("example.com/hold",)},
                FINISHED,
                "task instance failed (try 1) 60 min ago; base running 2 h; finalizers example.com/hold",
                id="a finalizer that will hold it",
            ),
            pytest.param(
                {"deletion_deadline": NOW + 5}, NO_TI, "being deleted, within its grace period", id="being deleted"
            ),
            pytest.param(
                {"deletion_deadline": NOW - 40, "finalizers": ("example.com/hold",)},
                NO_TI,
                "being deleted, deadline 40 s ago, finalizers example.com/hold",
                id="being deleted, and what holds it",
            ),
            pytest.param(
                {}, NO_TI, "no task instance on record; created 2 h ago; base running 2 h", id="an unmatched pod"
            ),
            pytest.param(
                {}, FINISHED, "task instance failed (try 1) 60 min ago; base running 2 h", id="a finished task instance"
            ),
            pytest.param({}, ACTIVE, "task instance running (try 1); base running 2 h", id="an active task instance"),
            pytest.param(
                {}, TaskInstance(None), "task instance cleared; base running 2 h", id="a cleared task instance"
            ),
            pytest.param(
                {"deletion_deadline": NOW - DAY},
                FINISHED,
                "task instance failed (try 1) 60 min ago; base running 2 h; being deleted, deadline 24 h ago",
                id="a pod that does not go",
            ),
            pytest.param(
                {"phase": "Failed", "containers": (ended(code=137),)},
                FINISHED,
                "pod Failed, delete_pods_on_failure=False; task instance failed (try 1) 60 min ago; "
                "base exited 137 60 min ago",
                id="the gate that keeps it",
            ),
            pytest.param(
                {"phase": "Pending", "containers": (waiting("base", "ImagePullBackOff"),)},
                FINISHED,
                "task instance failed (try 1) 60 min ago; base waiting (ImagePullBackOff)",
                id="a container that waits",
            ),
        ],
    )
    def test_says_in_short_what_the_verdict_rests_on(
        self, pod: dict[str, Any], ti: TaskInstance | None, expected: str
    ) -> None:
        assert classify_pod(make_pod(**pod), ti).evidence == expected

    def test_names_the_pod_of_the_record(self) -> None:
        verdict = classify_pod(make_pod(), FINISHED, record=Record(frozenset({"airflow/load-9c1b"})))
        assert verdict.evidence.startswith("Airflow's record names pod airflow/load-9c1b; task instance failed")


class TestTheRecord:
    def test_names_another_pod_that_is_of_a_later_try_where_the_source_tells_no_tries(self) -> None:
        older, newer = make_pod(), make_pod(try_number=2, name="newer")
        record = Record(frozenset({"airflow/newer"}))
        assert_zombie(classify_pod(older, TaskInstance("failed"), newer, record=record), Reason.ORPHANED)
        assert_kept(classify_pod(older, TaskInstance("failed"), record=record), Reason.UNMATCHED)

    @pytest.mark.parametrize(
        ("ti", "pod", "asked"),
        [
            pytest.param(FINISHED, {}, True, id="of a pod that would go"),
            pytest.param(make_ti(ended=NOW), {}, True, id="of one that will go soon"),
            pytest.param(FINISHED, {"phase": "Succeeded"}, True, id="of a completed one that would go"),
            pytest.param(SECOND_TRY, {"already_checked": True}, True, id="of a superseded one"),
            pytest.param(FINISHED, {"phase": "Failed"}, True, id="of one that a gate keeps if it is this one's"),
            pytest.param(ACTIVE, {}, False, id="not of an active one"),
            pytest.param(NO_TI, {}, False, id="not of one without a task instance"),
            pytest.param(FINISHED, {"protected_by": "x"}, False, id="not of a protected one"),
        ],
    )
    def test_is_asked_for_only_where_it_can_change_the_verdict(
        self, ti: TaskInstance | None, pod: dict[str, Any], asked: bool
    ) -> None:
        judged = make_pod(**pod)
        facts = Snapshot([judged], answer({judged.key: ti}), Settings(delete_unmatched_pods=True), NOW)
        assert keys_needing_records(facts) == ({judged.key} if asked else set())

    def test_is_not_asked_for_of_a_pod_that_a_gate_keeps_whoever_made_it(self) -> None:
        kept = make_pod(phase="Failed")
        assert keys_needing_records(Snapshot([kept], answer({kept.key: FINISHED}), Settings(), NOW)) == set()


class TestOrderOfVerdicts:
    def test_has_the_zombies_first_and_the_oldest_first_among_them(self) -> None:
        young, old, kept = (
            make_pod(created=NOW - DAY),
            make_pod(created=NOW - 2 * DAY),
            make_pod(controller=JOB),
        )
        verdicts = judge_all([kept, young, old], answer({young.key: FINISHED}), Settings(), NOW)
        assert [verdict.pod for verdict in verdicts] == [old, young, kept]

    def test_counts_reasons_in_the_order_of_the_rules(self) -> None:
        pods = [
            make_pod(),
            make_pod(controller=JOB),
            make_pod(),
            make_pod(protected_by="x"),
        ]
        verdicts = judge_all(pods, answer({pods[0].key: FINISHED}), Settings(), NOW)
        assert list(count_reasons(verdicts).items()) == [("protected", 1), ("owned", 1), ("orphaned", 2)]

    def test_of_nothing_is_nothing(self) -> None:
        assert judge_all([], TaskInstances(), Settings(), NOW) == []
        assert count_reasons([]) == {}


# Random clusters: few keys, so that pods meet each other and their task instances, and times around the boundaries.
OFFSETS = st.sampled_from([-DAY, -HOUR, -301, -300, -299, -1, 0, 1, 299, 300, 301, HOUR])
TIMES = OFFSETS.map(lambda offset: NOW + offset)
KEYS = st.builds(
    TaskInstanceKey,
    st.just("d"),
    st.sampled_from(["a", "b"]),
    st.sampled_from(["r1", "r2"]),
    st.sampled_from([UNMAPPED, 0]),
)
MOSTLY_EMPTY = {
    "label_problem": "label x is missing",
    "protected_by": "kpo-cleanup/protect=true",
    "controller": JOB,
}
CONTAINERS = st.builds(
    Container,
    st.sampled_from(["base", "sidecar"]),
    st.sampled_from(["running", "waiting", "terminated"]),
    st.none() | TIMES,
    st.none() | TIMES,
    st.none() | st.sampled_from([0, 137]),
)
STATES = st.sampled_from([*sorted(FINISHED_STATES), *ACTIVE_STATES])
TIS = st.builds(TaskInstance, STATES, st.none() | st.integers(0, 4), st.none() | TIMES)
ACTIVE_TIS = st.builds(TaskInstance, st.sampled_from(ACTIVE_STATES), st.none() | st.integers(0, 4), st.none() | TIMES)
ANSWERS = st.builds(
    TaskInstances,
    st.dictionaries(KEYS, TIS, max_size=8),
    st.dictionaries(KEYS, st.just("the source cannot tell"), max_size=2),
)
SETTINGS = st.builds(
    Settings,
    settle_seconds=st.sampled_from([0, 300, HOUR]),
    delete_completed_pods=st.booleans(),
    delete_pods_on_failure=st.booleans(),
    ttl_seconds_after_finished=st.sampled_from([None, 0, 300, DAY]),
    delete_unmatched_pods=st.booleans(),
    dry_run=st.booleans(),
    max_deletes=st.integers(1, 3),
)


@st.composite
def pods_of_a_cluster(draw: st.DrawFn) -> list[Pod]:
    pods = []
    for number in range(draw(st.integers(0, 6))):
        key = draw(KEYS)
        marks = {name: mark for name, mark in MOSTLY_EMPTY.items() if draw(st.integers(0, 9)) == 0}
        pods.append(
            make_pod(
                name=f"pod-{number}",
                uid=f"uid-{number}",
                namespace=draw(st.sampled_from(["one", "one", "two"])),
                created=draw(TIMES),
                phase=draw(st.sampled_from(["Pending", "Running", "Running", "Succeeded", "Failed", "Unknown"])),
                try_number=draw(st.integers(1, 3)),
                already_checked=draw(st.booleans()),
                deletion_deadline=draw(st.none() | st.none() | TIMES),
                containers=tuple(draw(st.lists(CONTAINERS, max_size=2))),
                **key._asdict(),
                **marks,
            )
        )
    return pods


PODS = pods_of_a_cluster()


def by_uid(verdicts: Sequence[Verdict]) -> dict[str, Verdict]:
    return {verdict.pod.uid: verdict for verdict in verdicts}


RECORDS = st.dictionaries(
    KEYS,
    st.builds(
        Record,
        st.frozensets(st.sampled_from([f"one/pod-{number}" for number in range(6)]), max_size=2),
        st.sampled_from(["", "", "it is pickled"]),
    ),
    max_size=8,
)


class TestWhateverComes:
    """Invariants over random clusters."""

    @given(PODS, ANSWERS, RECORDS, SETTINGS, TIMES)
    def test_a_record_makes_no_zombie_and_saves_whom_it_names(
        self,
        pods: list[Pod],
        answers: TaskInstances,
        records: dict[TaskInstanceKey, Record],
        settings: Settings,
        now: int,
    ) -> None:
        before = by_uid(judge_all(pods, answers, settings, now))
        for verdict in classify(Snapshot(pods, answers, settings, now, records)):
            if verdict.is_zombie and not before[verdict.pod.uid].is_zombie:
                assert verdict.reason is Reason.UNMATCHED  # delete_unmatched_pods deletes pods that a gate kept
            if verdict.is_zombie and verdict.reason is Reason.SUPERSEDED:
                assert str(verdict.pod) not in records.get(verdict.pod.key, Record()).pods

    @given(PODS, ANSWERS, SETTINGS, TIMES)
    def test_every_pod_has_one_verdict_with_evidence(
        self, pods: list[Pod], answers: TaskInstances, settings: Settings, now: int
    ) -> None:
        verdicts = judge_all(pods, answers, settings, now)
        assert sorted(verdict.pod.uid for verdict in verdicts) == sorted(pod.uid for pod in pods)
        assert all(verdict.evidence for verdict in verdicts)

    @given(PODS, ANSWERS, SETTINGS, TIMES)
    def test_the_only_pod_of_an_active_task_instance_is_never_a_zombie_unless_it_was_checked_off(
        self, pods: list[Pod], answers: TaskInstances, settings: Settings, now: int
    ) -> None:
        verdicts = judge_all(pods, answers, settings, now)
        keys = [pod.key for pod in pods]
        for verdict in verdicts:
            ti = answers.found.get(verdict.pod.key)
            if ti is not None and ti.is_active and not verdict.pod.already_checked and keys.count(verdict.pod.key) == 1:
                assert not verdict.is_zombie

    @given(PODS, ANSWERS, SETTINGS, TIMES)
    def test_the_pod_that_an_active_task_instance_can_attach_to_is_never_a_zombie(
        self, pods: list[Pod], answers: TaskInstances, settings: Settings, now: int
    ) -> None:
        verdicts = by_uid(judge_all(pods, answers, settings, now))
        attachable = [pod for pod in pods if not (pod.already_checked or pod.label_problem or pod.deletion_deadline)]
        for place in {(pod.namespace, pod.key) for pod in attachable}:
            ti = answers.found.get(place[1])
            if ti is None or not ti.is_active:
                continue
            of_the_place = [pod for pod in attachable if (pod.namespace, pod.key) == place]
            newest = max(pod.created for pod in of_the_place)
            assert not any(verdicts[pod.uid].is_zombie for pod in of_the_place if pod.created == newest)

    @given(PODS, ANSWERS, SETTINGS, TIMES)
    def test_a_zombie_of_an_active_task_instance_is_superseded(
        self, pods: list[Pod], answers: TaskInstances, settings: Settings, now: int
    ) -> None:
        for verdict in judge_all(pods, answers, settings, now):
            ti = answers.found.get(verdict.pod.key)
            if verdict.is_zombie and ti is not None and ti.is_active:
                assert verdict.reason is Reason.SUPERSEDED

    @given(PODS, ANSWERS, st.dictionaries(KEYS, ACTIVE_TIS, min_size=1), SETTINGS, TIMES)
    def test_more_active_task_instances_make_no_zombie_that_is_not_superseded(
        self,
        pods: list[Pod],
        answers: TaskInstances,
        active: dict[TaskInstanceKey, TaskInstance],
        settings: Settings,
        now: int,
    ) -> None:
        before = by_uid(judge_all(pods, answers, settings, now))
        more = replace(answers, found={**answers.found, **active})
        for verdict in judge_all(pods, more, settings, now):
            if verdict.is_zombie and not before[verdict.pod.uid].is_zombie:
                assert verdict.reason is Reason.SUPERSEDED

    @given(PODS, ANSWERS, st.dictionaries(KEYS, TIS, min_size=1), SETTINGS, TIMES)
    def test_more_task_instances_make_a_zombie_only_of_a_pod_whose_own_was_found_at_last(
        self,
        pods: list[Pod],
        answers: TaskInstances,
        more: dict[TaskInstanceKey, TaskInstance],
        settings: Settings,
        now: int,
    ) -> None:
        before = by_uid(judge_all(pods, answers, settings, now))
        for verdict in judge_all(pods, replace(answers, found={**more, **answers.found}), settings, now):
            if verdict.is_zombie and not before[verdict.pod.uid].is_zombie:
                key = verdict.pod.key
                assert key not in answers.found
                assert not more[key].is_active or verdict.reason is Reason.SUPERSEDED

    @given(PODS, PODS, ANSWERS, SETTINGS, TIMES)
    def test_more_pods_make_no_zombie_that_is_not_superseded(
        self, pods: list[Pod], others: list[Pod], answers: TaskInstances, settings: Settings, now: int
    ) -> None:
        others = [replace(pod, uid=f"other-{pod.uid}") for pod in others]
        before = by_uid(judge_all(pods, answers, settings, now))
        after = by_uid(judge_all(pods + others, answers, settings, now))
        for uid, verdict in before.items():
            if after[uid].is_zombie != verdict.is_zombie or after[uid].reason != verdict.reason:
                assert Reason.SUPERSEDED in (after[uid].reason, verdict.reason)

    @given(PODS, ANSWERS, SETTINGS, TIMES, st.randoms(use_true_random=False))
    def test_the_order_of_pods_and_task_instances_does_not_matter(
        self, pods: list[Pod], answers: TaskInstances, settings: Settings, now: int, random: Any
    ) -> None:
        shuffled, found = list(pods), list(answers.found.items())
        random.shuffle(shuffled)
        random.shuffle(found)
        told = replace(answers, found=dict(found))
        assert judge_all(shuffled, told, settings, now) == judge_all(pods, answers, settings, now)

    @given(PODS, ANSWERS, SETTINGS, TIMES)
    def test_unidentified_protected_owned_and_unresolved_pods_are_never_zombies(
        self, pods: list[Pod], answers: TaskInstances, settings: Settings, now: int
    ) -> None:
        for verdict in judge_all(pods, answers, settings, now):
            pod = verdict.pod
            if pod.label_problem or pod.protected_by or pod.controller or pod.key in answers.unresolved:
                assert not verdict.is_zombie

    @given(PODS, ANSWERS, TIMES)
    def test_unknown_pods_are_never_zombies_by_default(self, pods: list[Pod], answers: TaskInstances, now: int) -> None:
        for verdict in judge_all(pods, answers, Settings(), now):
            assert not (verdict.is_zombie and verdict.reason is Reason.UNMATCHED)

    @given(PODS, SETTINGS, TIMES)
    def test_an_answer_without_task_instances_makes_no_zombie_but_unknown_ones(
        self, pods: list[Pod], settings: Settings, now: int
    ) -> None:
        zombies = [verdict for verdict in judge_all(pods, TaskInstances(), settings, now) if verdict.is_zombie]
        assert {verdict.reason for verdict in zombies} <= {Reason.UNMATCHED}
        assert settings.delete_unmatched_pods or not zombies

    @given(PODS, ANSWERS, SETTINGS, TIMES)
    def test_stricter_gates_never_make_a_zombie(
        self, pods: list[Pod], answers: TaskInstances, settings: Settings, now: int
    ) -> None:
        strict = replace(
            settings,
            delete_completed_pods=False,
            delete_pods_on_failure=False,
            ttl_seconds_after_finished=None,
            delete_unmatched_pods=False,
        )
        loose = by_uid(judge_all(pods, answers, settings, now))
        for verdict in judge_all(pods, answers, strict, now):
            assert loose[verdict.pod.uid].is_zombie or not verdict.is_zombie

    @given(PODS, ANSWERS, SETTINGS)
    def test_time_alone_turns_no_zombie_back(self, pods: list[Pod], answers: TaskInstances, settings: Settings) -> None:
        assume(any(pod.key in answers.found for pod in pods))
        later = by_uid(judge_all(pods, answers, settings, NOW + 30 * DAY))
        for verdict in judge_all(pods, answers, settings, NOW):
            assert later[verdict.pod.uid].is_zombie or not verdict.is_zombie
