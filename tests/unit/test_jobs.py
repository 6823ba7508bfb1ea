"""Jobs: what is parsed of them, and the verdicts on them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from include.kpo_cleanup import report, xcom
from include.kpo_cleanup.classify import Snapshot, classify
from include.kpo_cleanup.constants import Outcome, Reason
from include.kpo_cleanup.evidence import phrases, warning_of
from include.kpo_cleanup.kube.interface import Listing
from include.kpo_cleanup.results import Result
from include.kpo_cleanup.settings import Settings
from include.kpo_cleanup.surge import find_surge
from include.kpo_cleanup.task_instance import Record, TaskInstance
from include.kpo_cleanup.task_instances.records import Unreadable, build_records
from include.kpo_cleanup.verdict import Verdict
from include.kpo_cleanup.workloads.registry import KINDS
from include.kpo_cleanup.workloads.workload import Container, Links, Owner, Workload
from tests.unit.builders import (
    DAY,
    FINISHED,
    HOUR,
    MINUTE,
    NO_TI,
    NOW,
    answer,
    classify_pod,
    make_item,
    make_pod,
    make_ti,
    timestamp,
)

RUNNING = make_ti(state="running", ended=None)
IN_TRY_2 = make_ti(state="running", try_number=2, ended=None)
SUCCEEDED = make_ti(state="success")


def make_job(**overrides: Any) -> Workload:
    """Return a running Job with one pod, two hours old."""
    return make_pod(**{"kind": "Job", "name": "job-load-x", "links": Links(pods=1), **overrides})


def item(
    metadata: Mapping[str, Any] | None = None,
    spec: Mapping[str, Any] | None = None,
    status: Mapping[str, Any] | None = None,
    template: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return a Job as the API server returns it. Its labels are those of its template."""
    pod = make_item(metadata={"name": "job-load-x"})["metadata"]
    own = {name: value for name, value in pod.items() if name not in ("labels", "annotations")}
    return {
        "kind": "Job",
        "metadata": {**own, **(metadata or {})},
        "spec": {"template": {"metadata": {"labels": pod["labels"], **(template or {})}}, **(spec or {})},
        "status": dict(status or {}),
    }


def parse(job: Mapping[str, Any], *pods: Workload) -> Workload:
    return KINDS["Job"].parse(job, pods)


def finished(condition: str, **more: Any) -> dict[str, Any]:
    return {"conditions": [{"type": condition, "status": "True", "lastTransitionTime": timestamp(NOW - HOUR), **more}]}


class TestParsing:
    def test_a_job_has_the_labels_of_its_template_and_describes_its_pods(self) -> None:
        pods = [
            make_pod(created=NOW - HOUR, requests=(("cpu", 1.0), ("memory", 5.0)), node="worker-1"),
            make_pod(created=NOW - MINUTE, requests=(("cpu", 0.5),), containers=(Container("base", "waiting"),)),
            make_pod(phase="Failed", requests=(("cpu", 9.0),)),
        ]
        job = parse(item(), *pods)
        assert (str(job), job.key, job.try_number) == ("Job airflow/job-load-x", make_pod().key, 1)
        assert (job.phase, job.label_problem, job.resource_version) == ("Running", "", "4711")
        assert (job.links.pods, dict(job.requests)) == (3, {"cpu": 1.5, "memory": 5.0})
        assert (job.containers, job.node) == (pods[0].containers, "worker-1")  # of the pod that is working
        assert job.record_name == "Job airflow/job-load-x"

    @pytest.mark.parametrize(
        ("condition", "phase", "why", "message"),
        [("Complete", "Succeeded", "", ""), ("Failed", "Failed", "BackoffLimitExceeded", "limit reached")],
    )
    def test_a_finished_job_has_its_end(self, condition: str, phase: str, why: str, message: str) -> None:
        status = finished(condition, reason="BackoffLimitExceeded", message="limit reached")
        job = parse(item(status=status), make_pod(phase=phase))
        assert (job.phase, job.phase_reason, job.phase_message) == (phase, why, message)
        assert job.is_completed
        assert job.finished_at == NOW - HOUR
        assert job.held_requests == ()

    @pytest.mark.parametrize("condition", ["SuccessCriteriaMet", "FailureTarget", "Suspended"])
    def test_a_job_that_is_about_to_finish_has_not_finished(self, condition: str) -> None:
        assert not parse(item(status=finished(condition)), make_pod()).is_completed

    def test_a_job_whose_pods_have_all_failed_waits_for_the_next_attempt(self) -> None:
        job = parse(item(status={"failed": 2}), make_pod(phase="Failed"), make_pod(phase="Failed"))
        assert (job.phase, job.phase_reason, job.containers) == ("Running", "pods failed: 2", ())

    def test_a_suspended_job_without_pods_is_pending(self) -> None:
        job = parse(item(spec={"suspend": True}))
        assert (job.phase, job.phase_reason, job.links.pods) == ("Pending", "Suspended", 0)

    @pytest.mark.parametrize(
        ("metadata", "spec", "controller"),
        [
            pytest.param({}, {}, None, id="nothing"),
            pytest.param({}, {"managedBy": "kubernetes.io/job-controller"}, None, id="the Job controller"),
            pytest.param({"labels": {"kueue.x-k8s.io/queue-name": "q"}}, {"suspend": True}, None, id="a queue"),
            pytest.param({}, {"managedBy": "kueue.x-k8s.io/multikueue"}, "spec.managedBy", id="another controller"),
            pytest.param(
                {"ownerReferences": [{"kind": "CronJob", "name": "c", "uid": "1", "controller": True}]},
                {},
                "CronJob",
                id="a CronJob",
            ),
            pytest.param(
                {"annotations": {"argocd.argoproj.io/tracking-id": "app"}}, {}, "Argo CD application", id="Argo CD"
            ),
        ],
    )
    def test_only_a_foreign_manager_owns_a_job(
        self, metadata: dict[str, Any], spec: dict[str, Any], controller: str | None
    ) -> None:
        job = parse(item(metadata, spec), make_pod())
        assert (job.controller.kind if job.controller else None) == controller

    @pytest.mark.parametrize(
        "job",
        [
            item({"annotations": {"kpo-cleanup/protect": "true"}}),
            item({"labels": {"kpo-cleanup/protect": "true"}}),
            item(template={"annotations": {"kpo-cleanup/protect": "true"}}),
        ],
        ids=["annotation", "label", "pod template"],
    )
    def test_a_job_is_protected_by_its(self, job: dict[str, Any]) -> None:
        assert parse(job, make_pod()).protected_by == "kpo-cleanup/protect=true"

    def test_a_protected_pod_protects_its_job(self) -> None:
        assert parse(item(), make_pod(protected_by="kpo-cleanup/protect=1"), make_pod()).protected_by

    def test_an_object_that_is_not_a_job_is_an_error(self) -> None:
        with pytest.raises(ValueError, match="lacks namespace, name, uid or creationTimestamp"):
            parse({"metadata": {}}, make_pod())


def reason_of(verdict: Verdict) -> str:
    return f"zombie {verdict.reason.value}" if verdict.is_zombie else verdict.reason.value


DETACHED = Record(frozenset({"Job airflow/job-load-x"}), is_detached=True)
NAMED = Record(frozenset({"Job airflow/job-load-x"}))
ANOTHER = Record(frozenset({"Job airflow/job-load-y"}))


class TestVerdicts:
    @pytest.mark.parametrize(
        ("ti", "job", "record", "expected"),
        [
            pytest.param(RUNNING, {}, None, "active", id="its task is running"),
            pytest.param(IN_TRY_2, {}, None, "active", id="a later try is running"),
            pytest.param(SUCCEEDED, {}, None, "detached", id="its task succeeded"),
            pytest.param(make_ti(state="skipped"), {}, NAMED, "zombie orphaned", id="its task was skipped"),
            pytest.param(FINISHED, {}, NAMED, "zombie orphaned", id="its task failed while waiting"),
            # It may be of a run that was deleted and created again, whose tries count from 1 again.
            pytest.param(FINISHED, {}, None, "detached", id="its task failed without a record"),
            pytest.param(FINISHED, {}, DETACHED, "detached", id="its task failed after it did not wait"),
            pytest.param(FINISHED, {}, ANOTHER, "unmatched", id="the record names another Job"),
            pytest.param(FINISHED, {}, Record(problem="garbled"), "unresolved", id="the record is unreadable"),
            pytest.param(make_ti(ended=NOW - 1), {}, None, "settling", id="its task has just failed"),
            pytest.param(make_ti(try_number=2), {}, ANOTHER, "zombie orphaned", id="the last try has another Job"),
            pytest.param(make_ti(try_number=2), {}, None, "detached", id="the last try has recorded no Job"),
            pytest.param(TaskInstance("failed"), {}, None, "detached", id="neither the try nor a Job is known"),
            pytest.param(FINISHED, {"try_number": 2}, None, "unmatched", id="it is of a later try"),
            pytest.param(FINISHED, {"created": NOW - MINUTE}, None, "unmatched", id="it was created too late"),
            pytest.param(NO_TI, {}, None, "unmatched", id="there is no task instance"),
            pytest.param(FINISHED, {"phase": "Succeeded"}, None, "completed", id="it has finished"),
            pytest.param(SUCCEEDED, {"phase": "Failed"}, None, "completed", id="it has failed"),
            pytest.param(NO_TI, {"phase": "Failed"}, None, "unmatched", id="it has failed without a task instance"),
            pytest.param(RUNNING, {"phase": "Succeeded"}, None, "active", id="it has finished before its task"),
            pytest.param(IN_TRY_2, {"phase": "Failed"}, None, "active", id="it has failed and a later try is running"),
            pytest.param(FINISHED, {"controller": Owner("CronJob", "c", "1", "")}, None, "owned", id="it is owned"),
            pytest.param(FINISHED, {"protected_by": "x"}, None, "protected", id="it is protected"),
            pytest.param(FINISHED, {"deletion_deadline": NOW}, None, "terminating", id="it is being deleted"),
        ],
    )
    def test_a_job_has_the_expected_verdict_if(
        self, ti: TaskInstance | None, job: dict[str, Any], record: Record | None, expected: str
    ) -> None:
        assert reason_of(classify_pod(make_job(**job), ti, record=record)) == expected

    @pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
    @pytest.mark.parametrize(("ttl", "is_zombie"), [(None, False), (2 * HOUR, False), (HOUR - 1, True)])
    def test_only_the_ttl_decides_about_a_finished_job(self, phase: str, ttl: int | None, is_zombie: bool) -> None:
        others: dict[str, Any] = {"delete_completed_pods": True, "delete_pods_on_failure": True}
        verdict = classify_pod(make_job(phase=phase), ttl_seconds_after_finished=ttl, **others)
        assert verdict.is_zombie is is_zombie

    @pytest.mark.parametrize(("ttl", "is_zombie"), [(2 * MINUTE, False), (MINUTE - 1, True)])
    def test_the_ttl_of_a_job_that_finished_after_its_task_begins_when_it_finished(
        self, ttl: int, is_zombie: bool
    ) -> None:
        job = make_job(phase="Succeeded", conditions_changed=NOW - MINUTE)
        assert classify_pod(job, SUCCEEDED, record=DETACHED, ttl_seconds_after_finished=ttl).is_zombie is is_zombie

    def test_a_job_that_matches_no_task_instance_is_kept_because_it_may_be_detached(self) -> None:
        job = make_job(created=NOW - 9 * DAY, phase="Pending", containers=())
        assert reason_of(classify_pod(job, NO_TI, delete_unmatched_pods=True)) == "unmatched"

    def test_a_newer_job_does_not_supersede_an_older_one(self) -> None:
        newer = make_job(name="job-load-y", try_number=2)
        record = Record(frozenset({str(newer)}))
        assert reason_of(classify_pod(make_job(), IN_TRY_2, newer, record=record)) == "active"

    def test_a_pod_with_the_name_of_a_job_does_not_match_the_record_of_the_job(self) -> None:
        pod = make_pod(name="job-load-x", try_number=1)
        assert reason_of(classify_pod(pod, FINISHED, record=NAMED)) == "unmatched"

    def test_the_record_of_a_job_may_name_another_namespace(self) -> None:
        record = Record(frozenset({"Job other/job-load-x"}), is_detached=True)
        assert reason_of(classify_pod(make_job(), FINISHED, record=record)) == "detached"

    def test_the_evidence_of_a_detached_job_has_the_time_since_its_task_ended(self) -> None:
        assert phrases(classify_pod(make_job(), make_ti(state="success", ended=NOW - 90 * MINUTE)))[0] == (
            "running without its task for 90 min"
        )

    def test_the_job_of_an_earlier_try_causes_a_warning(self) -> None:
        warning = warning_of(classify_pod(make_job(), IN_TRY_2))
        assert warning is not None
        assert warning.problem == "of try 1, but try 2 is active and may be waiting for the pods of this Job"

    @pytest.mark.parametrize("ti", [RUNNING, IN_TRY_2._replace(state="queued"), RUNNING._replace(try_number=None)])
    def test_the_job_of_the_same_or_an_unknown_try_causes_no_warning(self, ti: TaskInstance) -> None:
        assert warning_of(classify_pod(make_job(), ti)) is None

    def test_a_task_that_waits_for_a_sidecar_of_its_job_is_stalled(self) -> None:
        containers = (Container("base", "terminated", ended=NOW - HOUR, exit_code=0), Container("proxy", "running"))
        assert reason_of(classify_pod(make_job(containers=containers), RUNNING)) == "stalled"


class TestRecords:
    @pytest.mark.parametrize(
        ("values", "expected"),
        [
            pytest.param({}, Record(frozenset({"Job airflow/job-x"})), id="it is waiting"),
            pytest.param(
                {"job": {"status": None}},
                Record(frozenset({"Job airflow/job-x"}), is_detached=True),
                id="it did not wait",
            ),
            pytest.param(
                {"job": {"status": {"conditions": [{"type": "Complete"}]}}},
                Record(frozenset({"Job airflow/job-x"})),
                id="it has waited",
            ),
            pytest.param({"job_namespace": None}, Record(frozenset({"Job job-x"})), id="the namespace is missing"),
            pytest.param({"job_name": None}, Record(problem="its XCom job_name is missing"), id="the name is missing"),
            pytest.param(
                {"job": "s3://x"}, Record(problem="its XCom job is a str, not an object"), id="it is a reference"
            ),
            pytest.param(
                {"job": Unreadable("access denied")},
                Record(problem="its XCom job cannot be read: access denied"),
                id="it cannot be read",
            ),
        ],
    )
    def test_the_xcoms_of_an_operator_show_its_job_and_whether(self, values: dict[str, Any], expected: Record) -> None:
        pushed = {"job_name": "job-x", "job_namespace": "airflow", **values}
        xcoms = {name: value for name, value in pushed.items() if value is not None}
        key = make_pod().key
        assert build_records({key: [xcoms]}, KINDS["Job"].record_keys) == {key: expected}

    def test_a_record_passes_through_an_xcom(self) -> None:
        records = {make_pod().key: DETACHED}
        dumped = xcom.dump_task_instances(answer({make_pod().key: FINISHED}), records)
        assert xcom.load_task_instances(json.loads(json.dumps(dumped)))[1] == records


def left_by(name: str, **overrides: Any) -> Workload:
    """Return a pod whose Job no longer exists."""
    owner = Owner("Job", name, "1", "batch/v1")
    return make_pod(**{"links": Links(owner, owner, "", f"Job airflow/{name}"), **overrides})


class TestPodsWithoutTheirJob:
    @pytest.mark.parametrize(
        ("ti", "record", "expected"),
        [
            pytest.param(FINISHED, None, "zombie orphaned", id="its task failed"),
            pytest.param(SUCCEEDED, DETACHED, "zombie orphaned", id="its task succeeded"),
            pytest.param(FINISHED, ANOTHER, "unmatched", id="the record names another Job"),
            pytest.param(RUNNING, None, "active", id="its task is running"),
            pytest.param(IN_TRY_2, None, "active", id="a later try is running"),
            pytest.param(NO_TI, None, "unmatched", id="there is no task instance"),
        ],
    )
    def test_a_pod_whose_job_is_gone_is_classified_as_an_ordinary_pod(
        self, ti: TaskInstance | None, record: Record | None, expected: str
    ) -> None:
        verdict = classify_pod(left_by("job-load-x"), ti, record=record)
        assert reason_of(verdict) == expected
        assert "its Job/job-load-x no longer exists" in phrases(verdict)

    def test_such_a_pod_of_a_later_try_does_not_supersede_one_of_an_earlier_try(self) -> None:
        newer = left_by("job-load-y", try_number=2)
        record = Record(frozenset({"Job airflow/job-load-y"}))
        assert reason_of(classify_pod(left_by("job-load-x"), IN_TRY_2, newer, record=record)) == "active"

    def test_a_pod_whose_job_could_not_be_read_is_owned_with_the_reason(self) -> None:
        pod = make_pod(
            controller=Owner("Job", "job-load-x", "1", "batch/v1"), links=Links(owner_problem="403 Forbidden")
        )
        verdict = classify_pod(pod)
        assert reason_of(verdict) == "owned"
        assert phrases(verdict) == ("controlled by Job/job-load-x, which could not be read: 403 Forbidden",)


def test_a_job_and_a_pod_of_one_task_are_classified_separately() -> None:
    job, pod = make_job(), make_pod(labels=(("a", "b"),), try_number=2)
    task_instances = answer({job.key: IN_TRY_2})
    verdicts = classify(Snapshot([job, pod], task_instances, Settings(), NOW, {job.key: Record(frozenset({str(pod)}))}))
    assert {str(verdict.workload): verdict.reason for verdict in verdicts} == {
        str(job): Reason.ACTIVE,
        str(pod): Reason.ACTIVE,
    }


class TestWords:
    """What logs and summaries say if there are Jobs as well as pods."""

    def test_a_classification_of_both_counts_workloads(self) -> None:
        verdicts = [classify_pod(make_job(), record=NAMED), classify_pod(make_pod(), RUNNING)]
        assert report.classification_summary(verdicts, Settings()) == "1 zombie of 2 workloads: orders 1"
        assert xcom.dump_listing(Listing([v.workload for v in verdicts]))["summary"] == "workloads: 2, in: airflow"
        loaded = xcom.load_classification(json.loads(json.dumps(xcom.dump_classification(verdicts, {}))))
        assert (loaded.workloads, loaded.noun) == (2, "workload")

    def test_a_classification_of_jobs_counts_jobs(self) -> None:
        verdicts = [classify_pod(make_job(), SUCCEEDED)]
        assert report.classification_summary(verdicts, Settings()) == "nothing to delete among 1 Job"

    def test_a_result_names_the_job_and_its_pods(self) -> None:
        result = Result(classify_pod(make_job(links=Links(pods=3)), record=NAMED), Outcome.DELETED)
        assert report.result_lines([result])[:3] == [
            "deleted: 1 orphaned Job",
            "    orders.extract try 1 of run run_1",
            "        Job airflow/job-load-x and its 3 pods: task instance failed (try 1) 60 min ago;",
        ]
        assert (
            report.reap_report([result], "")["zombies"][0].items()
            >= {"kind": "Job", "name": "airflow/job-load-x"}.items()
        )

    def test_a_dry_run_and_a_surge_count_workloads(self) -> None:
        job = classify_pod(make_job())
        would_delete = [Result(job, Outcome.WOULD_DELETE)]
        assert report.reap_summary(would_delete, Settings(dry_run=True), 3, 0, "workload")[0] == (
            "DRY RUN: would delete 1 of 3 workloads: orders 1"
        )
        surge = find_surge([job] * 20, 0, 20, Settings(max_delete_percent=50), "workload")
        assert surge is not None
        assert surge.summary.startswith("no workloads are deleted: 20 of 20 workloads are zombies")
