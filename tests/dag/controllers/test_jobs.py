"""Jobs of the real KubernetesJobOperator, which a Job controller runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from airflow.models.dagrun import DagRun
from kubernetes import client

from include.kpo_cleanup.airflow_compat import AIRFLOW_RELEASE
from tests.dag import airflow_runs
from tests.dag.conftest import SOURCES
from tests.dag.controllers.workloads import Workloads, role
from tests.dag.pods import wait_until
from tests.proxy import FaultProxy, forbidden

pytest.importorskip(
    "airflow.providers.cncf.kubernetes.operators.job", reason="there is no such operator before provider 8.0"
)

# States that task instances get after the run, which all of them finish.
STATE_CHANGES = {"deferred": "deferred", "retrying": "running", "detached_and_failed": "failed"}
# By task and try.
ZOMBIES = {"waiting#1": "orphaned", "retried#1": "orphaned", "retried#2": "orphaned", "orphaning#1": "orphaned"}
KEPT = {
    "deferred#1": "active",
    "retrying#1": "active",
    "retrying#2": "active",
    "managed#1": "owned",
    "detached#1": "detached",
    "detached_and_failed#1": "detached",
    "completed#1": "completed",
}
JOB_SET = {
    "apiVersion": "jobset.x-k8s.io/v1alpha2",
    "kind": "JobSet",
    "name": "nightly",
    "uid": "1",
    "controller": True,
}
RULE = "allow verb '{}' on resource 'jobs' of API group 'batch' in a Role for namespace 'airflow'"


class Jobs(Workloads):
    dag_id = "jobs"
    expected = frozenset({*ZOMBIES, *KEPT})

    def __init__(self, core: client.CoreV1Api) -> None:
        super().__init__(core)
        self._batch = client.BatchV1Api(core.api_client)

    def names(self) -> dict[str, str]:
        return {role(job.spec.template.metadata.labels, ""): job.metadata.name for job in self._list()}

    def delete(self) -> None:
        self._batch.delete_collection_namespaced_job("airflow", propagation_policy="Background")

    def is_settled(self) -> bool:
        completed = [job for job in self._list() if job.status.completion_time]
        are_running = all(pod.status.phase != "Pending" for pod in self.list_pods())
        return are_running and self.pods().keys() == self.expected and len(completed) == 1

    def prepare(self, run: DagRun) -> None:
        for task_id, state in STATE_CHANGES.items():
            airflow_runs.set_state(run, task_id, state)
        if AIRFLOW_RELEASE < (2, 10):  # whose tasks lower it when they defer
            airflow_runs.set_try(run, "deferred", 0)
        names = self.names()
        self._batch.delete_namespaced_job(names["orphaning#1"], "airflow")  # orphans the pods
        self._batch.patch_namespaced_job(names["managed#1"], "airflow", {"metadata": {"ownerReferences": [JOB_SET]}})
        wait_until(lambda: "orphaning#1" not in self.names())

    def _list(self) -> list[Any]:
        return list(self._batch.list_namespaced_job("airflow").items)


@pytest.fixture(scope="module")
def jobs(core: client.CoreV1Api, _proxy: FaultProxy) -> Iterator[Jobs]:
    jobs = Jobs(core)
    yield jobs
    jobs.clear()


@pytest.fixture
def run(jobs: Jobs) -> DagRun:
    return jobs.run()


def test_a_dry_run_finds_the_jobs_that_nobody_waits_for(
    run: DagRun, proxy: FaultProxy, jobs: Jobs, source: dict[str, Any]
) -> None:
    cleanup = airflow_runs.run("kpo_cleanup", settle_seconds=0, dry_run=True, config=source)
    found = airflow_runs.result(cleanup, "classify")
    assert jobs.verdicts(found["zombies"]) == ZOMBIES
    assert found["kept_by_reason"] == dict(Counter(KEPT.values()))
    assert {*jobs.verdicts(found["untouched"])} == {role for role, reason in KEPT.items() if reason != "active"}
    assert not [line for line in proxy.requests if not line.startswith("GET ")]


def test_a_run_deletes_only_the_jobs_that_nobody_waits_for_with_their_pods(
    run: DagRun, proxy: FaultProxy, jobs: Jobs, log_text: Callable[[], str]
) -> None:
    name = jobs.names()["waiting#1"]
    cleanup = airflow_runs.run("kpo_cleanup", settle_seconds=0)
    assert airflow_runs.states(cleanup)["reap"] == "success"
    assert {*jobs.names()} == {*KEPT}
    wait_until(lambda: jobs.pods().keys() == {*KEPT})  # the garbage collector deletes the pods
    assert f"Job airflow/{name} and its 3 pods" in log_text()


def test_a_job_whose_task_is_marked_failed_while_it_is_deferred_is_deleted(
    run: DagRun, proxy: FaultProxy, jobs: Jobs
) -> None:
    airflow_runs.set_state(run, "deferred", "failed")
    airflow_runs.set_end_date("jobs")
    airflow_runs.run("kpo_cleanup", settle_seconds=0)
    assert {*jobs.names()} == {*KEPT} - {"deferred#1"}


def test_the_first_job_is_kept_with_a_warning_while_a_retry_may_wait_for_its_pods(
    run: DagRun, proxy: FaultProxy, jobs: Jobs, log_text: Callable[[], str]
) -> None:
    # The Task SDK returns the tries only of task instances whose workloads might be deleted.
    config = SOURCES.get("metadata_connection", {})
    airflow_runs.run("kpo_cleanup", settle_seconds=0, dry_run=True, config=config)
    warning = "kept 1 active Job: of try 1, but try 2 is active and may be waiting for the pods of this Job"
    assert warning in log_text()
    assert f"Job airflow/{jobs.names()['retrying#1']}" in log_text()


def test_without_the_right_to_read_jobs_their_pods_are_kept_with_one_notice(
    run: DagRun, proxy: FaultProxy, jobs: Jobs, log_text: Callable[[], str]
) -> None:
    proxy.spoil("GET /apis/batch/v1/", forbidden("get", "airflow", "jobs", "batch"))
    cleanup = airflow_runs.run("kpo_cleanup", settle_seconds=0)
    assert cleanup.state == "success"
    assert airflow_runs.result(cleanup, "classify")["kept_by_reason"] == {"owned": jobs.pods().total()}
    assert log_text().count(RULE.format("get")) == 1


def test_without_the_right_to_read_jobs_a_run_fails_if_they_were_asked_for(
    run: DagRun, proxy: FaultProxy, jobs: Jobs, log_text: Callable[[], str]
) -> None:
    proxy.spoil("GET /apis/batch/v1/", forbidden("get", "airflow", "jobs", "batch"))
    cleanup = airflow_runs.run("kpo_cleanup", config={"kinds": "pods, jobs"}, settle_seconds=0)
    assert cleanup.state == "failed"
    assert RULE.format("get") in log_text()
    assert jobs.pods().keys() == jobs.expected


def test_without_the_right_to_delete_jobs_a_run_deletes_the_rest_and_fails(
    run: DagRun, proxy: FaultProxy, jobs: Jobs, log_output: Callable[[], str]
) -> None:
    proxy.spoil("DELETE /apis/batch/v1/", forbidden("delete", "airflow", "jobs", "batch"))
    cleanup = airflow_runs.run("kpo_cleanup", settle_seconds=0)
    assert airflow_runs.states(cleanup)["reap"] == "failed"
    assert RULE.format("delete") in log_output()
    assert jobs.pods().keys() == jobs.expected - {"orphaning#1"}


def test_other_kinds_of_workload_than_those_that_were_asked_for_are_left_alone(
    run: DagRun, proxy: FaultProxy, jobs: Jobs
) -> None:
    cleanup = airflow_runs.run("kpo_cleanup", config={"kinds": "pods"}, settle_seconds=0, dry_run=True)
    assert airflow_runs.result(cleanup, "classify")["kept_by_reason"] == {"owned": jobs.pods().total()}
    assert not [line for line in proxy.requests if "/apis/" in line]
