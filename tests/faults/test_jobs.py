"""Listing and deleting Jobs over HTTP, with faults one at a time."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from include.kpo_cleanup.constants import Outcome, Reason
from include.kpo_cleanup.errors import AdmissionDenied, KubernetesError
from include.kpo_cleanup.kube.interface import CONCURRENT_DELETES
from include.kpo_cleanup.kube.workloads import KubeClient
from include.kpo_cleanup.results import Result
from include.kpo_cleanup.task_instance import Record
from include.kpo_cleanup.workloads.registry import KINDS
from tests import proxy
from tests.faults.conftest import CONN_ID, PAGE_SIZE
from tests.faults.jobs import create_job, create_pod, delete_job, jobs, names_of_jobs, recording
from tests.faults.runs import FAILED_ONCE, IN_TRY_2, QUICK, clean_up, outcomes, source_of
from tests.faults.servers import Server
from tests.faults.world import Task

GET_JOB = "GET /apis/batch/"
SUCCEEDED = Task("", "orders", "done", "run_1", state="success", ended=2**31)


@pytest.fixture
def client(api: KubeClient) -> KubeClient:
    """Return a client for pods and Jobs that uses the same connection as `api`."""
    return KubeClient(CONN_ID, QUICK, PAGE_SIZE, [KINDS["Pod"], KINDS["Job"]])


def count_reads(server: Server) -> int:
    return sum(line.startswith(GET_JOB) for line in server.proxy.requests)


def reap_it(client: KubeClient, namespace: str) -> Result:
    """Reap, and return the result of the only zombie."""
    (result,) = clean_up(client, namespace, source_of(recording(FAILED_ONCE, namespace, "job"), IN_TRY_2)).values()
    return result


def annotating(key: str) -> Callable[[Server, str], object]:
    """Return a function that annotates the Job."""
    patch = {"metadata": {"annotations": {key: "true"}}}
    return lambda server, namespace: server.call(
        "PATCH", f"{jobs(namespace)}/job", patch, "application/merge-patch+json"
    )


class TestListing:
    def test_a_job_takes_the_place_of_its_pods_and_is_read_once(
        self, server: Server, client: KubeClient, namespace: str
    ) -> None:
        create_job(server, namespace, "three", FAILED_ONCE, pods=3)
        create_job(server, namespace, "one", IN_TRY_2)
        server.create_pod(namespace, "plain", {**FAILED_ONCE.labels, "try_number": "1"})
        workloads = client.list_workloads([namespace]).workloads
        assert {(str(each), each.links.pods) for each in workloads} == {
            (f"Job {namespace}/three", 3),
            (f"Job {namespace}/one", 1),
            (f"{namespace}/plain", 0),
        }
        assert count_reads(server) == 2

    def test_the_log_counts_workloads_instead_of_the_pods_through_which_they_are_found(
        self, server: Server, client: KubeClient, namespace: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        create_job(server, namespace, "three", FAILED_ONCE, pods=3)
        with caplog.at_level(logging.INFO):
            client.list_workloads([namespace])
            server.create_pod(namespace, "plain", {**FAILED_ONCE.labels, "try_number": "1"})
            client.list_workloads([namespace])
        assert [line for line in caplog.messages if " in namespace " in line] == [
            f"1 Job in namespace {namespace!r}",
            f"2 workloads in namespace {namespace!r}",
        ]

    def test_the_pods_of_a_job_are_owned_and_no_job_is_read_if_jobs_are_not_cleaned_up(
        self, server: Server, api: KubeClient, namespace: str
    ) -> None:
        create_job(server, namespace, "job", FAILED_ONCE)
        (pod,) = api.list_workloads([namespace]).workloads
        assert (str(pod), pod.is_owned) == (f"{namespace}/job-0", True)
        assert count_reads(server) == 0

    def test_only_jobs_are_listed_if_pods_are_not_cleaned_up(
        self, server: Server, api: KubeClient, namespace: str
    ) -> None:
        create_job(server, namespace, "job", FAILED_ONCE)
        server.create_pod(namespace, "plain", {**FAILED_ONCE.labels, "try_number": "1"})
        only_jobs = KubeClient(CONN_ID, QUICK, PAGE_SIZE, [KINDS["Job"]])
        assert [str(each) for each in only_jobs.list_workloads([namespace]).workloads] == [f"Job {namespace}/job"]

    @pytest.mark.parametrize("controlled", [True, False], ids=["not yet collected", "orphaned"])
    @pytest.mark.parametrize("recreated", [False, True], ids=["gone", "replaced"])
    def test_a_pod_is_deleted_like_an_ordinary_one_if_its_job_is(
        self, server: Server, client: KubeClient, namespace: str, controlled: bool, recreated: bool
    ) -> None:
        job = create_job(server, namespace, "job", FAILED_ONCE, pods=0)
        create_pod(server, namespace, "left", job, controlled=controlled)
        delete_job(server, namespace, "job")
        if recreated:
            create_job(server, namespace, "job", IN_TRY_2, pods=0)
        assert outcomes(clean_up(client, namespace, source_of(FAILED_ONCE, IN_TRY_2))) == {"left": Outcome.DELETED}

    def test_a_pod_that_has_only_the_labels_of_a_job_that_exists_is_owned(
        self, server: Server, client: KubeClient, namespace: str
    ) -> None:
        job = create_job(server, namespace, "job", FAILED_ONCE, pods=0)
        create_pod(server, namespace, "released", job, controlled=False)
        (pod,) = client.list_workloads([namespace]).workloads
        assert (str(pod), pod.is_owned) == (f"{namespace}/released", True)

    @pytest.mark.parametrize(
        ("fault", "cause"),
        [
            pytest.param(proxy.status(403, "Forbidden", "no"), "403 Forbidden", id="it is forbidden"),
            pytest.param(proxy.status(500, "InternalError", "no"), "500", id="the server fails"),
            pytest.param(proxy.answer(404, "404 page not found\n", "text/plain"), "404", id="there is no such API"),
            pytest.param(proxy.answer(200, '{"kind": "PodList"}', "application/json"), "not a Job", id="it is odd"),
        ],
    )
    def test_pods_stay_owned_if_their_jobs_cannot_be_read_because(
        self, server: Server, client: KubeClient, namespace: str, fault: proxy.Fault, cause: str
    ) -> None:
        for number in range(3 * CONCURRENT_DELETES):
            create_job(server, namespace, f"job-{number:02d}", FAILED_ONCE)
        server.proxy.spoil(GET_JOB, fault)
        listing = client.list_workloads([namespace])
        assert {each.kind for each in listing.workloads} == {"Pod"}
        assert all(each.is_owned and cause in each.links.owner_problem for each in listing.workloads[:1])
        assert len(listing.workloads) == len(listing.unread) == 3 * CONCURRENT_DELETES
        assert list(listing.errors_by_kind) == ["Job"]
        assert listing.errors_by_namespace == {}
        assert cause in listing.errors_by_kind["Job"].cause

    def test_pods_stay_owned_if_their_job_is_malformed(
        self, server: Server, client: KubeClient, namespace: str
    ) -> None:
        job = {**create_job(server, namespace, "job", FAILED_ONCE), "status": {"conditions": 5}}
        server.proxy.spoil(GET_JOB, proxy.answer(200, json.dumps(job), "application/json"))
        listing = client.list_workloads([namespace])
        assert [(str(each), each.is_owned) for each in listing.workloads] == [(f"{namespace}/job-0", True)]
        assert "not iterable" in listing.errors_by_kind["Job"].cause

    @pytest.mark.parametrize(
        ("fault", "attempts"),
        [(proxy.status(403, "Forbidden", "no"), 1), (proxy.status(500, "InternalError", "no"), QUICK.attempts)],
        ids=["forbidden", "failing"],
    )
    def test_no_more_than_one_batch_is_requested_in_vain(
        self, server: Server, client: KubeClient, namespace: str, fault: proxy.Fault, attempts: int
    ) -> None:
        for number in range(3 * CONCURRENT_DELETES):
            create_job(server, namespace, f"job-{number:02d}", FAILED_ONCE)
        server.proxy.spoil(GET_JOB, fault)
        client.list_workloads([namespace])
        assert count_reads(server) == CONCURRENT_DELETES * attempts

    def test_the_error_names_the_rule_that_permits_reading_jobs(
        self, server: Server, client: KubeClient, namespace: str
    ) -> None:
        create_job(server, namespace, "job", FAILED_ONCE)
        server.proxy.spoil(GET_JOB, proxy.status(403, "Forbidden", "no"))
        assert client.list_workloads([namespace]).errors_by_kind["Job"].remedy == (
            "allow verb 'get' on resource 'jobs' of API group 'batch' in a Role for namespace "
            f"{namespace!r} (see manifests/rbac.yaml)"
        )

    @pytest.mark.parametrize("code", [429, 500, 503])
    def test_a_transient_fault_is_retried(self, server: Server, client: KubeClient, namespace: str, code: int) -> None:
        create_job(server, namespace, "job", FAILED_ONCE)
        server.proxy.spoil(GET_JOB, proxy.status(code, "Busy", "later"), times=1)
        listing = client.list_workloads([namespace])
        assert [each.kind for each in listing.workloads] == ["Job"]
        assert (listing.unread, listing.errors_by_kind) == ({}, {})


class TestDeleting:
    def test_only_the_jobs_of_finished_tasks_are_deleted(
        self, server: Server, client: KubeClient, namespace: str
    ) -> None:
        create_job(server, namespace, "zombie", FAILED_ONCE, pods=2)
        create_job(server, namespace, "live", IN_TRY_2)
        create_job(server, namespace, "detached", SUCCEEDED)
        create_job(server, namespace, "protected", FAILED_ONCE, annotations={"kpo-cleanup/protect": "true"})
        failed = recording(FAILED_ONCE, namespace, "zombie", "protected")
        results = clean_up(client, namespace, source_of(failed, IN_TRY_2, SUCCEEDED))
        assert outcomes(results) == {"zombie": Outcome.DELETED}
        assert results["zombie"].detail == "the garbage collector deletes its 2 pods"
        # By default, the API server would keep the deleted Job until a garbage collector has orphaned its pods.
        assert names_of_jobs(server, namespace) == {"live", "detached", "protected"}

    def test_a_job_whose_operator_did_not_wait_for_it_stays(
        self, server: Server, client: KubeClient, namespace: str
    ) -> None:
        record = Record(frozenset({f"Job {namespace}/job"}), is_detached=True)
        create_job(server, namespace, "job", FAILED_ONCE)
        assert clean_up(client, namespace, source_of(replace(FAILED_ONCE, kind="Job", record=record))) == {}

    def test_a_job_stays_if_no_record_shows_whether_its_operator_waited_for_it(
        self, server: Server, client: KubeClient, namespace: str
    ) -> None:
        create_job(server, namespace, "job", FAILED_ONCE)
        assert clean_up(client, namespace, source_of(replace(FAILED_ONCE, kind="Job"))) == {}

    def test_the_error_names_the_rule_that_permits_deleting_jobs(
        self, server: Server, client: KubeClient, namespace: str
    ) -> None:
        create_job(server, namespace, "job", FAILED_ONCE)
        server.proxy.spoil("DELETE ", proxy.status(403, "Forbidden", "no"))
        result = reap_it(client, namespace)
        assert result.outcome is Outcome.FAILED
        assert result.error is not None
        assert "deleting the Job: 403 Forbidden" in str(result.error)
        assert "allow verb 'delete' on resource 'jobs' of API group 'batch'" in result.error.remedy

    def test_a_policy_that_denies_the_deletion_of_a_job_is_named(
        self, server: Server, client: KubeClient, namespace: str
    ) -> None:
        create_job(server, namespace, "job", FAILED_ONCE)
        message = "jobs.batch \"job\" is forbidden: ValidatingAdmissionPolicy 'keep' with binding 'b' denied it"
        server.proxy.spoil("DELETE ", proxy.status(403, "Forbidden", message))
        error = reap_it(client, namespace).error
        assert isinstance(error, AdmissionDenied)
        assert "ValidatingAdmissionPolicy 'keep'" in error.cause

    def test_the_last_lines_of_a_running_pod_of_the_job_are_saved(
        self, server: Server, client: KubeClient, namespace: str
    ) -> None:
        create_job(server, namespace, "job", FAILED_ONCE, pods=3)
        server.start(namespace, "job-1")
        server.proxy.spoil("/pods/job-1/log", proxy.answer(200, "one\ntwo\n", "text/plain"))
        source = source_of(recording(FAILED_ONCE, namespace, "job"))
        (result,) = clean_up(client, namespace, source, last_log_lines=2).values()
        assert (result.outcome, result.log) == (Outcome.DELETED, ("one", "two"))

    def test_a_deletion_that_was_carried_out_is_detected_although_its_response_was_lost(
        self, server: Server, client: KubeClient, namespace: str
    ) -> None:
        create_job(server, namespace, "job", FAILED_ONCE)
        server.proxy.spoil("DELETE ", proxy.too_late(proxy.reset), times=1)
        assert reap_it(client, namespace).outcome is Outcome.DELETED

    @pytest.mark.parametrize(
        ("change", "outcome", "detail"),
        [
            pytest.param(annotating("kpo-cleanup/protect"), Outcome.SPARED, "", id="protects it"),
            pytest.param(
                annotating("note"), Outcome.DELETED, "the garbage collector deletes its 2 pods", id="annotates it"
            ),
            pytest.param(
                lambda server, namespace: delete_job(server, namespace, "job"),
                Outcome.ALREADY_GONE,
                "the Job no longer exists",
                id="deletes it",
            ),
        ],
    )
    def test_a_job_is_classified_again_if_somebody(
        self,
        server: Server,
        client: KubeClient,
        namespace: str,
        change: Callable[[Server, str], object],
        outcome: Outcome,
        detail: str,
    ) -> None:
        create_job(server, namespace, "job", FAILED_ONCE, pods=2)
        server.proxy.spoil("DELETE ", proxy.first(lambda: change(server, namespace)), times=1)
        result = reap_it(client, namespace)
        assert (result.outcome, result.detail) == (outcome, detail)
        assert (result.verdict.reason is Reason.PROTECTED) is (outcome is Outcome.SPARED)


class TestBetweenTheListings:
    """The cluster changes between the listing of ``list_pods`` and that of ``reap``."""

    def reap_after(self, client: KubeClient, server: Server, namespace: str, change: Callable[[], object]) -> Result:
        """Change the cluster right before ``reap`` lists again."""
        source = source_of(recording(FAILED_ONCE, namespace, "job"))
        seen: list[object] = []

        def before_fetch() -> None:
            if not seen:
                seen.append(change())

        source.before_fetch = before_fetch
        (result,) = clean_up(client, namespace, source).values()
        return result

    def test_a_job_whose_pods_are_gone_is_read_by_its_name(
        self, server: Server, client: KubeClient, namespace: str
    ) -> None:
        create_job(server, namespace, "job", FAILED_ONCE)
        result = self.reap_after(client, server, namespace, lambda: server.delete(namespace, "job-0"))
        assert result.outcome is Outcome.DELETED
        assert names_of_jobs(server, namespace) == set()

    def test_a_job_is_deleted_although_its_pods_have_lost_their_controller(
        self, server: Server, client: KubeClient, namespace: str
    ) -> None:
        create_job(server, namespace, "job", FAILED_ONCE)
        released = {"ownerReferences": None}
        result = self.reap_after(client, server, namespace, lambda: server.patch(namespace, "job-0", released))
        assert result.outcome is Outcome.DELETED
        assert names_of_jobs(server, namespace) == set()

    def test_a_job_that_is_gone_with_its_pods_is_already_gone(
        self, server: Server, client: KubeClient, namespace: str
    ) -> None:
        def delete() -> None:
            delete_job(server, namespace, "job")
            server.delete(namespace, "job-0")

        create_job(server, namespace, "job", FAILED_ONCE)
        result = self.reap_after(client, server, namespace, delete)
        assert (result.outcome, result.detail) == (Outcome.ALREADY_GONE, "the Job is no longer listed")

    def test_a_job_that_was_replaced_by_one_of_the_same_name_is_already_gone(
        self, server: Server, client: KubeClient, namespace: str
    ) -> None:
        def replace() -> None:
            delete_job(server, namespace, "job")
            create_job(server, namespace, "job", IN_TRY_2, pods=0)

        create_job(server, namespace, "job", FAILED_ONCE)
        result = self.reap_after(client, server, namespace, replace)
        assert result.outcome is Outcome.ALREADY_GONE
        assert names_of_jobs(server, namespace) == {"job"}

    def test_a_job_that_cannot_be_read_again_is_not_deleted(
        self, server: Server, client: KubeClient, namespace: str
    ) -> None:
        create_job(server, namespace, "job", FAILED_ONCE)
        fault = proxy.status(403, "Forbidden", "no")
        result = self.reap_after(client, server, namespace, lambda: server.proxy.spoil(GET_JOB, fault))
        assert result.outcome is Outcome.FAILED
        assert isinstance(result.error, KubernetesError)
        assert re.search("reading a Job: 403 Forbidden", str(result.error))
        assert names_of_jobs(server, namespace) == {"job"}
