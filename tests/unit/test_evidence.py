"""The evidence of verdicts and the warnings, as people read them."""

from __future__ import annotations

from typing import Any

import pytest

from include.kpo_cleanup.constants import Reason
from include.kpo_cleanup.evidence import (
    PodWarning,
    ago,
    container_states,
    duration,
    phrases,
    task_instance_state,
    warning_of,
)
from include.kpo_cleanup.task_instance import Record, TaskInstance
from include.kpo_cleanup.verdict import Evidence, Rule
from include.kpo_cleanup.workloads.workload import Container, Links
from tests.unit.builders import (
    DAY,
    FINISHED,
    HOUR,
    JOB,
    MINUTE,
    NO_TI,
    NOW,
    classify_pod,
    make_pod,
    make_ti,
    make_verdict,
)

ACTIVE = make_ti(state="running", ended=None)
SECOND_TRY = ACTIVE._replace(try_number=2)
BASE_ENDED = Container("base", "terminated", None, NOW - HOUR, 0)
BASE_KILLED = BASE_ENDED._replace(exit_code=137)
BASE_WAITING = Container("base", "waiting", reason="ImagePullBackOff")
PROXY = Container("proxy", "running", NOW - 2 * HOUR)
FAILED = "task instance failed (try 1) 60 min ago"
RUNNING = "base running 2 h"


STATES_ARE_ENOUGH = {Rule.REPLACED, Rule.ACTIVE, Rule.SETTLING, Rule.COMPLETED, Rule.ORPHANED}


class TestPhrases:
    @pytest.mark.parametrize("rule", Rule)
    def test_the_evidence_starts_with_what_decided_unless_the_states_are_enough(self, rule: Rule) -> None:
        pod = make_pod(
            label_problem="label dag_id is missing",
            protected_by="kpo-cleanup/protect=yes",
            controller=JOB,
            finalizers=("example.com/backup",),
            deletion_deadline=NOW - HOUR,
        )
        evidence = Evidence(rule, NOW, FINISHED, make_pod(), record=Record(frozenset({"a/b"})), problem="denied")
        states = phrases(make_verdict(workload=pod, evidence=evidence._replace(rule=Rule.ACTIVE)))
        starts_with_states = phrases(make_verdict(workload=pod, evidence=evidence))[0] == states[0]
        assert starts_with_states == (rule in STATES_ARE_ENOUGH), "add a phrase for the rule to evidence.py"

    @pytest.mark.parametrize(
        ("pod", "ti", "expected"),
        [
            pytest.param(
                {"label_problem": "label dag_id is missing"},
                NO_TI,
                ["label dag_id is missing"],
                id="a badly labelled pod has the problem with its labels",
            ),
            pytest.param(
                {"protected_by": "kpo-cleanup/protect=yes"},
                NO_TI,
                ["kpo-cleanup/protect=yes"],
                id="a protected pod has the annotation",
            ),
            pytest.param(
                {"controller": JOB}, NO_TI, ["controlled by Job/nightly"], id="an owned pod has its controller"
            ),
            pytest.param(
                {"controller": JOB},
                FINISHED,
                ["controlled by Job/nightly, still running although its task instance ended 60 min ago (failed)"],
                id="an owned pod that outlives its task has the time since the end",
            ),
            pytest.param(
                {"controller": JOB},
                TaskInstance("failed"),
                ["controlled by Job/nightly, still running although its task instance has ended (failed)"],
                id="an owned pod that outlives its task has the state if the end is unknown",
            ),
            pytest.param(
                {"links": Links(JOB), "phase": "Succeeded"},
                FINISHED,
                ["labelled as a pod of Job/nightly"],
                id="a pod with the labels of a Job has the Job",
            ),
            pytest.param(
                {"deletion_deadline": NOW + 5},
                NO_TI,
                ["being deleted, within its grace period", RUNNING],
                id="a terminating pod has its deadline",
            ),
            pytest.param(
                {"deletion_deadline": NOW - DAY, "finalizers": ("example.com/hold",)},
                NO_TI,
                ["held by example.com/hold", RUNNING, "being deleted, deadline 24 h ago, finalizers example.com/hold"],
                id="a pod that finalizers hold has the finalizers",
            ),
            pytest.param(
                {},
                NO_TI,
                ["no task instance on record, pod created 2 h ago", RUNNING],
                id="an unmatched pod has its age",
            ),
            pytest.param(
                {"created": NOW - HOUR + 13, "containers": (PROXY._replace(name="base", started=NOW - 5),)},
                FINISHED,
                ["created 13 s after its task instance ended", FAILED, "base running 5 s"],
                id="a pod that was created after the end has the time in between",
            ),
            pytest.param(
                {"try_number": 3},
                FINISHED,
                ["pod of try 3, but its task instance ended at try 1", FAILED, RUNNING],
                id="a pod of a later try has both tries",
            ),
            pytest.param(
                {"already_checked": True},
                SECOND_TRY,
                [
                    "marked already_checked by its operator; its task is at try 2 now",
                    "task instance running (try 2)",
                    RUNNING,
                ],
                id="a checked pod has the later try",
            ),
            pytest.param(
                {"containers": (BASE_ENDED, PROXY)},
                ACTIVE,
                [
                    "proxy keeps the task waiting",
                    "task instance running (try 1)",
                    "base exited 0 60 min ago, proxy running 2 h",
                ],
                id="a stalled pod has the sidecar",
            ),
            pytest.param(
                {"containers": (BASE_ENDED, PROXY)},
                ACTIVE._replace(state="up_for_retry"),
                [
                    "left over from try 1; a retry may adopt it",
                    "task instance up_for_retry (try 1)",
                    "base exited 0 60 min ago, proxy running 2 h",
                ],
                id="a pod that a retry may adopt has its try",
            ),
            pytest.param(
                {"phase": "Succeeded", "containers": (BASE_ENDED._replace(ended=NOW - 2 * DAY),)},
                ACTIVE,
                [
                    "its task is still running, but the pod ended more than a day ago",
                    "task instance running (try 1)",
                    "base exited 0 2 d ago",
                ],
                id="a pod that ended long before its task has both states",
            ),
            pytest.param({}, ACTIVE, ["task instance running (try 1)", RUNNING], id="an active pod has both states"),
            pytest.param(
                {},
                TaskInstance(None),
                ["task instance cleared", RUNNING],
                id="a task instance without a state is cleared",
            ),
            pytest.param({}, FINISHED, [FAILED, RUNNING], id="an orphaned pod has both states"),
            pytest.param(
                {"finalizers": ("example.com/hold",)},
                FINISHED,
                [FAILED, RUNNING, "finalizers example.com/hold"],
                id="a zombie has the finalizers that will hold it",
            ),
            pytest.param(
                {"deletion_deadline": NOW - DAY},
                FINISHED,
                [FAILED, RUNNING, "being deleted, deadline 24 h ago"],
                id="an overdue pod has its deadline",
            ),
            pytest.param(
                {"phase": "Pending", "containers": (BASE_WAITING,)},
                FINISHED,
                [FAILED, "base waiting (ImagePullBackOff)"],
                id="a pod that never started has the reason",
            ),
            pytest.param(
                {"phase": "Pending", "phase_reason": "Unschedulable", "containers": ()},
                FINISHED,
                [FAILED, "pod Pending (Unschedulable), no container status"],
                id="a pod without a node has the reason",
            ),
            pytest.param(
                {"phase": "Failed", "containers": (BASE_KILLED,)},
                FINISHED,
                ["pod Failed, delete_pods_on_failure=False", FAILED, "base exited 137 60 min ago"],
                id="a completed pod has the setting that decided",
            ),
            pytest.param(
                {"phase": "Failed", "phase_reason": "Evicted", "containers": ()},
                FINISHED,
                [
                    "pod Failed (Evicted), delete_pods_on_failure=False",
                    FAILED,
                    "pod Failed (Evicted), no container status",
                ],
                id="an evicted pod has the eviction",
            ),
            pytest.param(
                {"phase": "Succeeded", "already_checked": True, "containers": (BASE_ENDED,)},
                FINISHED,
                ["pod Succeeded, kept on purpose by its operator", FAILED, "base exited 0 60 min ago"],
                id="a pod that was kept on purpose says so",
            ),
        ],
    )
    def test_the_evidence_starts_with_what_decided_and_ends_with_the_states(
        self, pod: dict[str, Any], ti: TaskInstance | None, expected: list[str]
    ) -> None:
        assert list(phrases(classify_pod(make_pod(**pod), ti))) == expected

    def test_a_completed_pod_past_its_ttl_has_the_ttl(self) -> None:
        verdict = classify_pod(make_pod(phase="Failed", containers=()), ttl_seconds_after_finished=60)
        assert phrases(verdict)[0] == "pod Failed, finished for longer than ttl_seconds_after_finished=60"

    def test_a_superseded_pod_has_its_successor(self) -> None:
        verdict = classify_pod(make_pod(), SECOND_TRY, make_pod(try_number=2, name="newer"))
        assert phrases(verdict)[0] == "replaced by newer of try 2"

    def test_a_pod_that_the_record_does_not_name_has_the_pod_of_the_record(self) -> None:
        verdict = classify_pod(make_pod(), FINISHED, record=Record(frozenset({"airflow/load-9c1b"})))
        assert phrases(verdict) == ("the operator's record names pod airflow/load-9c1b", FAILED, RUNNING)

    def test_a_superseded_pod_whose_record_is_unreadable_has_the_problem_and_the_successor(self) -> None:
        newer = make_pod(try_number=2, name="newer")
        verdict = classify_pod(make_pod(), SECOND_TRY, newer, record=Record(problem="its XCom pod_name is pickled"))
        assert phrases(verdict)[:2] == ("its XCom pod_name is pickled", "replaced by newer of try 2")

    def test_an_unresolved_pod_has_the_problem_of_the_source_alone(self) -> None:
        assert phrases(classify_pod(make_pod(), NO_TI, unresolved=True)) == ("the source does not know",)

    def test_what_an_earlier_task_has_rendered_stays_as_it_is(self) -> None:
        verdict = make_verdict(evidence=("task instance failed 1 h ago", "base running 2 h"))
        assert phrases(verdict) == ("task instance failed 1 h ago", "base running 2 h")


class TestWarnings:
    @pytest.mark.parametrize(
        ("pod", "ti", "warning"),
        [
            pytest.param(
                {"label_problem": "label dag_id is missing"},
                NO_TI,
                PodWarning(Reason.BAD_LABELS, "label dag_id is missing", "if nobody needs such pods, delete them"),
                id="a badly labelled pod has a warning",
            ),
            pytest.param(
                {"deletion_deadline": NOW - DAY, "finalizers": ("example.com/a", "kueue.x-k8s.io/managed")},
                NO_TI,
                PodWarning(
                    Reason.TERMINATING,
                    "held by example.com/a, kueue.x-k8s.io/managed",
                    "repair the controller that sets this finalizer, or remove the finalizer",
                ),
                id="a pod that finalizers hold has a warning that names them",
            ),
            pytest.param(
                {},
                NO_TI,
                PodWarning(
                    Reason.UNMATCHED,
                    "",
                    "if no other Airflow uses these namespaces, delete_unmatched_pods=True deletes such pods, "
                    "running ones after a day",
                ),
                id="an unmatched pod has a warning with the setting that deletes it",
            ),
            pytest.param(
                {"containers": (BASE_ENDED, PROXY, PROXY._replace(name="logs"))},
                ACTIVE,
                PodWarning(
                    Reason.STALLED,
                    "proxy and logs keep the task waiting",
                    "stop them, or mark the task as failed; permanent fix: make proxy and logs native "
                    "sidecars, or set an execution_timeout",
                ),
                id="a stalled pod has a warning that names the sidecars",
            ),
            pytest.param(
                {"phase": "Succeeded", "containers": (BASE_ENDED._replace(ended=NOW - 2 * DAY),)},
                ACTIVE,
                PodWarning(
                    Reason.ACTIVE,
                    "its task is still running, but the pod ended more than a day ago",
                    "find out what the task is still doing",
                ),
                id="a pod that ended long before its task has a warning",
            ),
            pytest.param(
                {"phase": "Succeeded", "containers": (BASE_ENDED._replace(ended=NOW - 2 * DAY),)},
                ACTIVE._replace(state="deferred"),
                PodWarning(
                    Reason.ACTIVE,
                    "its task is still deferred, but the pod ended more than a day ago",
                    "find out what the task is still doing",
                ),
                id="a pod that ended long before its deferred task has a warning",
            ),
            pytest.param(
                {"deletion_deadline": NOW - DAY},
                ACTIVE,
                PodWarning(
                    Reason.ACTIVE,
                    "its task is still running, but the deadline of the pod's deletion has passed",
                    "check whether its node is down; if so, clear the task or mark it as failed",
                ),
                id="a pod past its deadline that keeps a task waiting has a warning",
            ),
            pytest.param(
                {"phase": "Pending", "phase_reason": "Unschedulable", "created": NOW - 2 * DAY, "containers": ()},
                ACTIVE._replace(state="deferred"),
                PodWarning(
                    Reason.ACTIVE,
                    "its task is still deferred, but the pod has not started for more than a day (Unschedulable)",
                    "see the events of the pod; if it cannot start, mark the task as failed",
                ),
                id="a pod that does not start has a warning with the reason",
            ),
            pytest.param(
                {"containers": (BASE_ENDED, PROXY, PROXY._replace(name="airflow-xcom-sidecar"))},
                ACTIVE._replace(state="deferred"),
                PodWarning(
                    Reason.STALLED,
                    "proxy and airflow-xcom-sidecar keep the task waiting",
                    "stop them, or mark the task as failed; permanent fix: make proxy a native sidecar, or "
                    "upgrade the operator's provider, because only the operator ends airflow-xcom-sidecar",
                ),
                id="a stalled pod of a deferred task has a warning without an execution_timeout",
            ),
            pytest.param({}, ACTIVE, None, id="an active pod has no warning"),
            pytest.param({}, FINISHED, None, id="a zombie has no warning"),
            pytest.param({"deletion_deadline": NOW}, NO_TI, None, id="a terminating pod has no warning"),
            pytest.param({"controller": JOB}, NO_TI, None, id="an owned pod has no warning"),
            pytest.param({"phase": "Failed"}, FINISHED, None, id="a pod that a policy keeps has no warning"),
        ],
    )
    def test_a_kept_pod_that_needs_attention_has_a_warning(
        self, pod: dict[str, Any], ti: TaskInstance | None, warning: PodWarning | None
    ) -> None:
        assert warning_of(classify_pod(make_pod(**pod), ti)) == warning

    def test_the_remedy_does_not_end_a_task_that_is_using_a_newer_pod_with_other_labels(self) -> None:
        older = make_pod(containers=(BASE_ENDED, PROXY), labels=(("env", "a"),))
        newer = make_pod(name="newer", try_number=2, labels=(("env", "b"),))
        alone, beside = warning_of(classify_pod(older, SECOND_TRY)), warning_of(classify_pod(older, SECOND_TRY, newer))
        assert alone
        assert beside
        assert beside.remedy == f"check first whether the task is using its newer pod instead; {alone.remedy}"

    def test_an_unresolved_pod_has_a_warning_with_the_problem_of_the_source(self) -> None:
        verdict = classify_pod(make_pod(), NO_TI, unresolved=True)
        assert warning_of(verdict) == PodWarning(Reason.UNRESOLVED, "the source does not know")

    def test_a_pod_whose_record_is_unreadable_has_a_warning_with_the_problem_of_the_record(self) -> None:
        verdict = classify_pod(make_pod(), FINISHED, record=Record(problem="its XCom pod_name is pickled"))
        assert warning_of(verdict) == PodWarning(Reason.UNRESOLVED, "its XCom pod_name is pickled")

    @pytest.mark.parametrize(
        ("pod", "phrase"),
        [
            pytest.param({}, "kept until it is a day old, because base may be running", id="its base may be running"),
            pytest.param({"containers": ()}, "kept until it is older than settle_seconds", id="nothing runs in it"),
        ],
    )
    def test_an_unmatched_pod_that_is_only_too_young_says_until_when_it_is_kept_if(
        self, pod: dict[str, Any], phrase: str
    ) -> None:
        assert phrase in phrases(classify_pod(make_pod(created=NOW, **pod), NO_TI, delete_unmatched_pods=True))
        assert phrase not in phrases(classify_pod(make_pod(created=NOW, **pod), NO_TI, delete_unmatched_pods=False))

    def test_an_unmatched_pod_that_is_only_too_young_has_no_warning(self) -> None:
        verdict = classify_pod(make_pod(created=NOW), NO_TI, delete_unmatched_pods=True)
        assert (verdict.rule, verdict.is_zombie, warning_of(verdict)) == (Rule.NO_TASK_INSTANCE, False, None)


class TestTimes:
    @pytest.mark.parametrize(
        ("seconds", "text"),
        [
            (-5, "0 s"),
            (0, "0 s"),
            (59, "59 s"),
            (MINUTE, "1 min"),
            (119, "1 min"),
            (2 * HOUR - 1, "119 min"),
            (2 * HOUR, "2 h"),
            (2 * DAY - 1, "47 h"),
            (2 * DAY, "2 d"),
            (400 * DAY, "400 d"),
        ],
    )
    def test_a_duration_is_rendered_in_one_unit(self, seconds: int, text: str) -> None:
        assert duration(seconds) == text

    def test_a_time_in_the_future_is_rendered_as_now(self) -> None:
        assert ago(NOW + HOUR, NOW) == "0 s ago"


class TestWhyItDied:
    IN_A_LOOP = BASE_WAITING._replace(reason="CrashLoopBackOff", restarts=208, last_end="OOMKilled")
    UNBOUND = "0/3 nodes are available: pod has unbound immediate PersistentVolumeClaims."

    @pytest.mark.parametrize(
        ("pod", "expected"),
        [
            pytest.param(
                {"phase": "Failed", "containers": (BASE_KILLED._replace(reason="OOMKilled"),)},
                "base exited 137 (OOMKilled) 60 min ago",
                id="why its container ended",
            ),
            pytest.param(
                {"containers": (IN_A_LOOP,)},
                "base waiting (CrashLoopBackOff), 208 restarts (OOMKilled)",
                id="why its container is restarted",
            ),
            pytest.param(
                {"containers": (PROXY._replace(name="base", restarts=1),)},
                "base running 2 h, 1 restart",
                id="that its container was restarted",
            ),
            pytest.param(
                {"phase": "Pending", "containers": (BASE_WAITING._replace(message='Back-off pulling image "no:1"'),)},
                'base waiting (ImagePullBackOff: Back-off pulling image "no:1")',
                id="why its container waits, in the words of the kubelet",
            ),
            pytest.param(
                {
                    "phase": "Pending",
                    "phase_reason": "Unschedulable",
                    "phase_message": UNBOUND,
                    "containers": (),
                },
                f"pod Pending (Unschedulable: {UNBOUND}), no container status",
                id="why it is not scheduled, in the words of the scheduler",
            ),
        ],
    )
    def test_the_evidence_of_a_dead_pod_says_why_it_died(self, pod: dict[str, Any], expected: str) -> None:
        verdict = classify_pod(make_pod(image="busybox:1.36", node="worker-3", **pod), delete_pods_on_failure=True)
        assert phrases(verdict)[-3:] == (expected, "image busybox:1.36", "node worker-3")

    @pytest.mark.parametrize("container", [PROXY._replace(name="base"), BASE_ENDED], ids=["runs", "has succeeded"])
    def test_the_evidence_of_an_ordinary_zombie_has_neither_image_nor_node(self, container: Container) -> None:
        verdict = classify_pod(make_pod(image="busybox:1.36", node="worker-3", containers=(container, PROXY)))
        assert not {"image busybox:1.36", "node worker-3"} & {*phrases(verdict)}


class TestStates:
    @pytest.mark.parametrize(
        ("ti", "text"),
        [
            (TaskInstance("failed", 2, NOW - 3 * HOUR), "task instance failed (try 2) 3 h ago"),
            (TaskInstance("failed"), "task instance failed"),
            (TaskInstance(None), "task instance cleared"),
            (TaskInstance("up_for_retry", 1, NOW - HOUR), "task instance up_for_retry (try 1)"),
            (TaskInstance("running", 0), "task instance running (try 0)"),
        ],
    )
    def test_a_task_instance_is_rendered_with_what_is_known(self, ti: TaskInstance, text: str) -> None:
        assert task_instance_state(ti, NOW) == text

    def test_each_container_is_rendered_with_what_is_known(self) -> None:
        pod = make_pod(
            containers=(
                Container("base", "terminated", None, NOW - 2 * HOUR, 0),
                Container("setup", "terminated", is_init=True),
                Container("sidecar", "running", NOW - 3 * HOUR),
                Container("proxy", "running"),
                Container("logs", "waiting", reason="ErrImagePull"),
                Container("other", "waiting"),
            )
        )
        assert container_states(pod, NOW) == (
            "base exited 0 2 h ago, init container setup exited ?, sidecar running 3 h, proxy running, "
            "logs waiting (ErrImagePull), other waiting"
        )

    def test_a_pod_without_container_statuses_is_rendered_with_its_phase(self) -> None:
        assert container_states(make_pod(phase="Pending", containers=()), NOW) == "pod Pending, no container status"
