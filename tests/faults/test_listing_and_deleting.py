"""Faults of the API server and of the network in front of it, one at a time, over HTTP."""

from __future__ import annotations

import itertools
import json
import logging
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from include.kpo_cleanup.constants import Outcome, Reason
from include.kpo_cleanup.errors import KpoCleanupError, KubernetesError, SettingsError
from include.kpo_cleanup.kube.workloads import MAX_FAILING_NAMESPACES, MAX_RESTARTS, KubeClient
from include.kpo_cleanup.reap import reap
from include.kpo_cleanup.reap.deleter import MAX_CONFLICTS
from include.kpo_cleanup.results import Result
from include.kpo_cleanup.retry import RetryPolicy
from include.kpo_cleanup.settings import Settings
from include.kpo_cleanup.verdict import Verdict
from include.kpo_cleanup.workloads.workload import Workload
from tests import proxy
from tests.faults.cases import (
    CONNECTION_CASES,
    DELETE_CASES,
    LIST_CASES,
    SETUP_CASES,
    Case,
    ConnectionCase,
    Does,
    SetupCase,
    render,
    says_pattern,
)
from tests.faults.conftest import CONN_ID, PAGE_SIZE, Connect
from tests.faults.runs import FAILED_ONCE, IN_TRY_2, QUICK, clean_up, create, message_of, source_of
from tests.faults.servers import Server, connection

REPOSITORY = Path(__file__).parents[2]
SECOND_PAGE = "GET .*continue="
DELETE = "DELETE "
BOUND = 15.0  # seconds that no fault may take with the timeouts of these tests
PODS = 12  # three pages
OWNER = {"apiVersion": "batch/v1", "kind": "Job", "name": "nightly", "uid": "1", "controller": True}


def by_id(case: Case | ConnectionCase) -> str:
    return case.id


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Fail the test if the block takes longer."""
    start = time.monotonic()
    yield
    assert time.monotonic() - start < seconds


@pytest.fixture
def full_namespace(server: Server, namespace: str) -> str:
    fill(server, namespace)
    return namespace


def fill(server: Server, namespace: str) -> None:
    for number in range(PODS):
        server.create_pod(namespace, f"pod-{number:02d}", {"kubernetes_pod_operator": "True"})


@pytest.fixture
def namespace_with_zombie(server: Server, namespace: str) -> str:
    """Create a zombie, and a pod that must stay."""
    create(server, namespace, "zombie", FAILED_ONCE)
    create(server, namespace, "bystander", IN_TRY_2)
    return namespace


def reap_it(api: KubeClient, namespace: str) -> Result:
    """Reap, and return the result of the zombie."""
    return clean_up(api, namespace, source_of(FAILED_ONCE, IN_TRY_2))["zombie"]


def names(pods: Sequence[Workload]) -> list[str]:
    return sorted(pod.name for pod in pods)


ALL_PODS = [f"pod-{number:02d}" for number in range(PODS)]


def count_requests(server: Server, pattern: str) -> int:
    return sum(bool(re.search(pattern, line)) for line in server.proxy.requests)


@pytest.mark.usefixtures("decoder")
class TestListing:
    def test_twelve_pods_take_three_pages(self, server: Server, api: KubeClient, full_namespace: str) -> None:
        assert names(api.list_workloads([full_namespace]).workloads) == ALL_PODS
        assert len(server.proxy.requests) == -(-PODS // PAGE_SIZE)

    def test_a_listing_of_all_namespaces_leaves_out_the_excluded_ones(
        self, server: Server, api: KubeClient, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO")
        namespaces = [server.create_namespace() for _ in range(4)]
        for namespace in namespaces:
            server.create_pod(namespace, "pod", {"kubernetes_pod_operator": "True", "only": namespaces[0]})
        listed = api.list_workloads(["*"], f"only={namespaces[0]}", excluded=namespaces[2:]).workloads
        assert sorted(pod.namespace for pod in listed) == sorted(namespaces[:2])
        assert caplog.messages[-1:] == [f"2 pods in all namespaces except {', '.join(namespaces[2:])}"]

    def test_without_the_right_to_list_all_namespaces_the_error_names_the_manifest_for_it(
        self, server: Server, api: KubeClient
    ) -> None:
        server.proxy.spoil("GET ", proxy.status(403, "Forbidden", "no"))
        with pytest.raises(KubernetesError) as caught:
            api.list_workloads(["*"])
        assert caught.value.remedy == (
            "allow verb 'list' on resource 'pods' in a ClusterRole for all namespaces "
            "(see manifests/rbac-all-namespaces.yaml)"
        )

    def test_only_pods_of_the_operator_are_listed_whatever_the_selector(
        self, server: Server, api: KubeClient, namespace: str
    ) -> None:
        server.create_pod(namespace, "foreign", {"team": "a"})
        server.create_pod(namespace, "ours", {"team": "a", "kubernetes_pod_operator": "True"})
        server.create_pod(namespace, "others", {"team": "b", "kubernetes_pod_operator": "True"})
        assert names(api.list_workloads([namespace], "team=a").workloads) == ["ours"]

    @pytest.mark.parametrize("case", [c for c in LIST_CASES if c.does is Does.LIST_RETRIES], ids=by_id)
    def test_a_transient_fault_is_retried(
        self, server: Server, api: KubeClient, full_namespace: str, case: Case
    ) -> None:
        server.proxy.spoil(SECOND_PAGE, case.fault, times=QUICK.attempts - 1)
        with within(BOUND):
            listing = api.list_workloads([full_namespace])
        assert names(listing.workloads) == ALL_PODS
        assert listing.errors_by_namespace == {}
        assert len(server.proxy.requests) == 3 + QUICK.attempts - 1

    @pytest.mark.parametrize("case", LIST_CASES, ids=by_id)
    def test_a_persistent_fault_fails_the_listing_with_its_message(
        self, server: Server, api: KubeClient, full_namespace: str, case: Case
    ) -> None:
        server.proxy.spoil(SECOND_PAGE, case.fault)
        error = SettingsError if case.does is Does.RUN_FAILS else KubernetesError
        with within(BOUND), pytest.raises(error) as caught:
            api.list_workloads([full_namespace])
        assert says_pattern(case.says, namespace=full_namespace).search(str(caught.value))
        assert "none of" not in str(caught.value)  # the message for several namespaces
        attempts = {Does.LIST_RETRIES: QUICK.attempts, Does.LIST_RESTARTS: MAX_RESTARTS + 1}
        assert count_requests(server, SECOND_PAGE) == attempts.get(case.does, 1)

    @pytest.mark.parametrize("case", [c for c in LIST_CASES if c.does is not Does.RUN_FAILS], ids=by_id)
    def test_a_persistent_fault_of_one_namespace_does_not_stop_the_others(
        self, server: Server, api: KubeClient, full_namespace: str, case: Case
    ) -> None:
        others = [server.create_namespace(), server.create_namespace()]
        for other in others:
            server.create_pod(other, f"in-{other}", {"kubernetes_pod_operator": "True"})
        server.proxy.spoil(f"GET /api/v1/namespaces/{full_namespace}/", case.fault)
        with within(BOUND):
            listing = api.list_workloads([others[0], full_namespace, others[1]])
        assert names(listing.workloads) == sorted(f"in-{other}" for other in others)
        (error,) = listing.errors_by_namespace.values()
        assert says_pattern(case.says, namespace=full_namespace).search(str(error))

    @pytest.mark.parametrize("times", range(1, MAX_RESTARTS + 1))
    def test_an_expired_continue_token_restarts_the_listing(
        self, server: Server, api: KubeClient, full_namespace: str, times: int
    ) -> None:
        (expired,) = (case.fault for case in LIST_CASES if case.does is Does.LIST_RESTARTS)
        server.proxy.spoil(SECOND_PAGE, expired, times=times)
        listing = api.list_workloads([full_namespace])
        assert names(listing.workloads) == ALL_PODS  # nothing twice, nothing missing
        assert listing.errors_by_namespace == {}
        assert len(server.proxy.requests) == 3 + 2 * times

    def test_a_listing_shows_the_pods_as_they_were_when_it_was_started_or_restarted(
        self, server: Server, api: KubeClient, full_namespace: str
    ) -> None:
        def change() -> None:
            server.delete(full_namespace, "pod-00")
            server.create_pod(full_namespace, "created-later", {"kubernetes_pod_operator": "True"})

        (expired,) = (case.fault for case in LIST_CASES if case.does is Does.LIST_RESTARTS)
        server.proxy.spoil(SECOND_PAGE, proxy.first(change), times=1)
        assert names(api.list_workloads([full_namespace]).workloads) == ALL_PODS
        server.proxy.spoil(SECOND_PAGE, expired, times=1)
        assert names(api.list_workloads([full_namespace]).workloads) == ["created-later", *ALL_PODS[1:]]

    def test_the_api_server_rejects_an_invalid_selector(self, api: KubeClient, namespace: str) -> None:
        with pytest.raises(SettingsError, match=r"label_selector='a in \(' was rejected .*; correct its syntax"):
            api.list_workloads([namespace], "a in (")

    def test_a_missing_namespace_is_an_error_unlike_an_empty_one(self, api: KubeClient, namespace: str) -> None:
        listing = api.list_workloads([namespace, "nowhere"])
        assert listing.workloads == []
        (error,) = listing.errors_by_namespace.values()
        assert "namespace 'nowhere' does not exist; correct namespaces" in str(error)

    def test_a_404_from_a_gateway_does_not_mean_that_a_namespace_is_missing(
        self, server: Server, api: KubeClient, namespace: str
    ) -> None:
        (kong,) = (case.fault for case in LIST_CASES if case.id == "404-gateway-json")
        server.proxy.spoil(f"GET /api/v1/namespaces/{namespace}$", kong)
        assert api.list_workloads([namespace]).errors_by_namespace == {}

    def test_every_tenth_page_of_a_long_listing_is_logged(
        self, server: Server, api: KubeClient, namespace: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        page = server.call("GET", f"namespaces/{namespace}/pods")
        for number in range(1, 31):  # the last page has no token
            token = {"continue": str(number)} if number < 30 else {}
            page["metadata"] = {**token, **({"remainingItemCount": 7} if number == 10 else {})}
            server.proxy.spoil("GET .*/pods", proxy.answer(200, json.dumps(page), "application/json"), times=1)
        with caplog.at_level(logging.INFO):
            api.list_workloads([namespace])
        listing = f"listing pods in namespace {namespace!r}: 0 so far"
        assert [message for message in caplog.messages if "so far" in message] == [f"{listing}, 7 to go", listing]

    def test_the_error_for_all_namespaces_has_the_first_cause_and_the_others_are_logged(
        self, server: Server, api: KubeClient, caplog: pytest.LogCaptureFixture
    ) -> None:
        namespaces = [server.create_namespace() for _ in range(3)]
        forbidden, broken = proxy.status(403, "Forbidden", "no"), proxy.status(500, "InternalError", "no")
        for namespace, fault in zip(namespaces, [forbidden, broken, broken], strict=True):
            server.proxy.spoil(f"GET /api/v1/namespaces/{namespace}/", fault)
        with pytest.raises(KubernetesError, match="none of 3 namespaces could be listed") as caught:
            api.list_workloads(namespaces)
        assert caught.value.is_retryable
        first, *others = namespaces
        assert caught.value.cause == f"403 Forbidden ({first}), 500 Internal Server Error ({', '.join(others)})"
        logged = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
        assert [line for line in logged if "listing pods" in line] == [
            f"listing pods in namespace {namespaces[1]!r}: 500 Internal Server Error; server message: no"
        ]

    def test_a_cache_that_returns_the_same_page_again_and_again_is_an_error(
        self, server: Server, api: KubeClient, full_namespace: str
    ) -> None:
        """Simulate a cache that ignores the continue token."""
        path = f"namespaces/{full_namespace}/pods?limit={PAGE_SIZE}"
        page = server.call("GET", path)
        server.proxy.spoil(SECOND_PAGE, proxy.answer(200, json.dumps(page), "application/json"), times=200)
        with within(BOUND), pytest.raises(KubernetesError, match="the same page was returned twice"):
            api.list_workloads([full_namespace])
        assert count_requests(server, SECOND_PAGE) < 200


def slow_down(value: str) -> proxy.Fault:
    return proxy.status(429, "TooManyRequests", "slow down", Retry_After=value)


class TestRetryAfter:
    """The header ``Retry-After``; ``max_backoff`` is one second here."""

    @pytest.mark.parametrize(
        ("value", "at_least", "at_most"),
        [
            ("0", 0, 0.5),
            ("0.4", 0.4, 0.9),
            ("1", 1, 1.5),
            ("86400", 1, 1.5),
            ("1e400", 1, 1.5),
            ("inf", 1, 1.5),
            ("-5", 0, 0.5),
            ("", 0, 0.5),
            ("soon", 0, 0.5),
            ("nan", 0, 0.5),
            (formatdate(time.time() + 3600, usegmt=True), 0, 0.5),
        ],
        ids=lambda value: "http-date" if isinstance(value, str) and "GMT" in value else repr(value),
    )
    @pytest.mark.parametrize("what", [SECOND_PAGE, DELETE], ids=["listing", "deleting"])
    def test_the_next_attempt_waits_as_long_as_the_header_asks_within_the_maximum(
        self,
        server: Server,
        api: KubeClient,
        namespace_with_zombie: str,
        what: str,
        value: str,
        at_least: float,
        at_most: float,
    ) -> None:
        server.proxy.spoil(what, slow_down(value), times=1)
        if what == DELETE:
            assert reap_it(api, namespace_with_zombie).outcome is Outcome.DELETED
        else:
            fill(server, namespace_with_zombie)
            assert len(api.list_workloads([namespace_with_zombie]).workloads) == PODS + 2
        first = next(i for i, line in enumerate(server.proxy.requests) if re.search(what, line))
        waited = server.proxy.arrivals[first + 1] - server.proxy.arrivals[first]
        assert at_least <= waited < at_most


class TestDeleting:
    @pytest.mark.parametrize("case", [c for c in DELETE_CASES if c.does is Does.DELETE_RETRIES], ids=by_id)
    def test_a_transient_fault_is_retried(
        self, server: Server, api: KubeClient, namespace_with_zombie: str, case: Case
    ) -> None:
        server.proxy.spoil(DELETE, case.fault, times=QUICK.attempts - 1)
        with within(BOUND):
            result = reap_it(api, namespace_with_zombie)
        # If the response is cut off, the first attempt may have deleted the pod.
        assert result.outcome is Outcome.DELETED
        assert count_requests(server, DELETE) == QUICK.attempts
        assert set(server.pods(namespace_with_zombie)) == {"bystander"}

    @pytest.mark.parametrize("case", DELETE_CASES, ids=by_id)
    def test_a_persistent_fault_has_its_documented_outcome_and_message(
        self, server: Server, api: KubeClient, namespace_with_zombie: str, case: Case
    ) -> None:
        was_carried_out = case.id.startswith("carried-out")
        server.proxy.spoil(DELETE, case.fault)
        with within(BOUND):
            result = reap_it(api, namespace_with_zombie)
        outcomes = {Does.ALREADY_GONE: Outcome.ALREADY_GONE, Does.DELETED: Outcome.DELETED}
        assert result.outcome is outcomes.get(case.does, Outcome.FAILED)
        assert bool(result.error and result.error.is_retryable) is (case.does is Does.DELETE_RETRIES)
        names = {"namespace": namespace_with_zombie, "pod": "zombie"}
        assert says_pattern(case.says, **names).search(message_of(result))
        is_retried = case.does is Does.DELETE_RETRIES or (was_carried_out and case.id != "carried-out-other-json")
        assert count_requests(server, DELETE) == (QUICK.attempts if is_retried else 1)
        left = {"bystander"} if was_carried_out else {"zombie", "bystander"}
        assert set(server.pods(namespace_with_zombie)) == left

    def test_a_pod_that_somebody_else_deletes_is_already_gone(
        self, server: Server, api: KubeClient, namespace_with_zombie: str
    ) -> None:
        server.proxy.spoil(DELETE, proxy.first(lambda: server.delete(namespace_with_zombie, "zombie")))
        assert reap_it(api, namespace_with_zombie).outcome is Outcome.ALREADY_GONE
        assert count_requests(server, DELETE) == 1

    @pytest.mark.parametrize("fault", [proxy.reset, proxy.silent], ids=["reset", "silent"])
    def test_a_new_pod_with_the_same_name_stays_if_an_attempt_whose_response_was_lost_deleted_the_old_one(
        self, server: Server, api: KubeClient, namespace_with_zombie: str, fault: proxy.Fault
    ) -> None:
        def create_it_again() -> None:
            create(server, namespace_with_zombie, "zombie", FAILED_ONCE)

        server.proxy.spoil(DELETE, proxy.too_late(fault), times=1)
        server.proxy.spoil(DELETE, proxy.first(create_it_again), times=1)
        assert reap_it(api, namespace_with_zombie).outcome is Outcome.DELETED
        assert set(server.pods(namespace_with_zombie)) == {"zombie", "bystander"}


class TestPreconditions:
    """Changes of a pod between the second listing and the deletion."""

    def test_a_new_pod_with_the_same_name_is_spared(
        self, server: Server, api: KubeClient, namespace_with_zombie: str
    ) -> None:
        def replace_it() -> None:
            server.delete(namespace_with_zombie, "zombie")
            create(server, namespace_with_zombie, "zombie", FAILED_ONCE)

        server.proxy.spoil(DELETE, proxy.first(replace_it), times=1)
        result = reap_it(api, namespace_with_zombie)
        assert (result.outcome, result.detail) == (Outcome.SPARED, "another pod has its name now")
        assert set(server.pods(namespace_with_zombie)) == {"zombie", "bystander"}

    def test_the_preconditions_are_the_uid_and_the_resource_version_of_the_pod_that_was_classified(
        self, server: Server, api: KubeClient, namespace_with_zombie: str
    ) -> None:
        sent: list[Any] = []

        async def record(request: web.Request, forward: proxy.Forward) -> web.StreamResponse:
            sent.append((await request.json())["preconditions"])
            return await forward()

        metadata = server.pods(namespace_with_zombie)["zombie"]["metadata"]
        server.proxy.spoil(DELETE, record)
        assert reap_it(api, namespace_with_zombie).outcome is Outcome.DELETED
        assert sent == [{"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]}]

    @pytest.mark.parametrize(
        ("patch", "reason"),
        [
            pytest.param({"annotations": {"kpo-cleanup/protect": "true"}}, Reason.PROTECTED, id="it is protected"),
            pytest.param({"ownerReferences": [OWNER]}, Reason.OWNED, id="it gets a controller"),
            pytest.param({"labels": {"try_number": "one"}}, Reason.BAD_LABELS, id="an identifying label changes"),
        ],
    )
    def test_a_pod_is_spared_if(
        self, server: Server, api: KubeClient, namespace_with_zombie: str, patch: dict[str, Any], reason: Reason
    ) -> None:
        server.proxy.spoil(DELETE, proxy.first(lambda: server.patch(namespace_with_zombie, "zombie", patch)), times=1)
        result = reap_it(api, namespace_with_zombie)
        assert (result.outcome, result.verdict.reason) == (Outcome.SPARED, reason)
        assert set(server.pods(namespace_with_zombie)) == {"zombie", "bystander"}

    def test_a_pod_is_spared_if_it_fails_and_failed_pods_are_kept(
        self, server: Server, api: KubeClient, namespace_with_zombie: str
    ) -> None:
        def fail() -> None:
            server.set_status(namespace_with_zombie, "zombie", phase="Failed")

        server.proxy.spoil(DELETE, proxy.first(fail), times=1)
        result = reap_it(api, namespace_with_zombie)
        assert (result.outcome, result.verdict.reason) == (Outcome.SPARED, Reason.COMPLETED)

    @pytest.mark.parametrize(("times", "outcome"), [(MAX_CONFLICTS, Outcome.DELETED), (None, Outcome.FAILED)])
    def test_a_pod_whose_status_keeps_changing_is_deleted_after_some_reads_or_its_outcome_is_failed(
        self, server: Server, api: KubeClient, namespace_with_zombie: str, times: int | None, outcome: Outcome
    ) -> None:
        numbers = itertools.count()

        def change() -> None:
            server.set_status(namespace_with_zombie, "zombie", message=f"change {next(numbers)}")

        server.proxy.spoil(DELETE, proxy.first(change), times=times)
        assert reap_it(api, namespace_with_zombie).outcome is outcome

    def test_a_pod_that_a_finalizer_holds_is_awaiting_its_finalizer(
        self, server: Server, api: KubeClient, namespace_with_zombie: str
    ) -> None:
        server.patch(namespace_with_zombie, "zombie", {"finalizers": ["example.com/backup"]})
        result = reap_it(api, namespace_with_zombie)
        assert (result.outcome, result.detail) == (Outcome.AWAITING_FINALIZER, "held by example.com/backup")
        server.patch(namespace_with_zombie, "zombie", {"finalizers": None})

    def test_a_pod_whose_namespace_was_deleted_is_already_gone(
        self, server: Server, api: KubeClient, namespace_with_zombie: str
    ) -> None:
        (zombie,) = (pod for pod in api.list_workloads([namespace_with_zombie]).workloads if pod.name == "zombie")
        gone = replace(zombie, namespace="no-such-namespace")
        verdict = Verdict(gone, True, Reason.ORPHANED, ())
        source, settings = source_of(FAILED_ONCE), Settings(settle_seconds=0)
        (result,) = reap([verdict], api, source, settings, ["no-such-namespace"])
        assert result.outcome is Outcome.ALREADY_GONE


def test_the_listing_ends_after_a_few_namespaces_if_the_api_server_is_silent(
    server: Server, api: KubeClient, namespace: str, retry_policy: RetryPolicy
) -> None:
    others = [f"other-{number}" for number in range(20)]
    server.proxy.spoil("GET ", proxy.silent)
    with (
        within(BOUND),
        pytest.raises(KubernetesError, match=r"none of 21 namespaces could be listed: .*read timed out"),
    ):
        api.list_workloads([namespace, *others])
    assert len(server.proxy.requests) == MAX_FAILING_NAMESPACES * retry_policy.attempts


def test_the_listing_continues_if_the_api_server_responds_in_between(server: Server, api: KubeClient) -> None:
    namespaces = [server.create_namespace() for _ in range(2 * MAX_FAILING_NAMESPACES + 2)]
    places: dict[str, int] = {}  # by path, in the random order of the first requests

    async def fail_every_other(request: web.Request, forward: proxy.Forward) -> web.StreamResponse:
        is_failing = places.setdefault(request.path, len(places)) % 2 == 0
        return await (proxy.reset(request, forward) if is_failing else forward())

    server.proxy.spoil("/pods\\?", fail_every_other)
    errors = api.list_workloads(namespaces).errors_by_namespace
    assert len(errors) == len(namespaces) / 2
    assert not [error for error in errors.values() if "skipped" in error.cause]


def test_namespaces_that_always_fail_do_not_keep_the_others_from_being_listed_in_some_run(
    server: Server, api: KubeClient
) -> None:
    namespaces = [server.create_namespace() for _ in range(MAX_FAILING_NAMESPACES + 1)]
    for namespace in namespaces[:-1]:
        server.proxy.spoil(f"GET /api/v1/namespaces/{namespace}/", proxy.answer(504, "Gateway Timeout"))

    def is_last_listed() -> bool:
        with suppress(KubernetesError):
            errors = api.list_workloads(namespaces).errors_by_namespace
            return namespaces[-1] not in errors
        return False

    assert any(is_last_listed() for _run in range(20))


class TestConnecting:
    @pytest.mark.parametrize("case", CONNECTION_CASES, ids=by_id)
    def test_a_wrong_address_has_its_documented_message(
        self, server: Server, connect: Connect, namespace: str, case: ConnectionCase
    ) -> None:
        api = connect(case.cluster(server.cluster))
        with within(BOUND), pytest.raises(KubernetesError) as caught:
            api.list_workloads([namespace])
        assert says_pattern(case.says, namespace=namespace).search(str(caught.value))
        assert server.proxy.requests == []

    @pytest.mark.parametrize(
        ("configured", "listed", "origin"),
        [
            pytest.param("team-a", "team-a", f"connection {CONN_ID!r}", id="that of the connection"),
            pytest.param("", "default", "the default of Kubernetes", id="the default of Kubernetes"),
        ],
    )
    def test_without_namespaces_the_namespace_in_which_operators_start_pods_is_listed_which_is(
        self, server: Server, monkeypatch: pytest.MonkeyPatch, configured: str, listed: str, origin: str
    ) -> None:
        to_the_proxy = connection({"server": server.proxy.url}, configured)
        monkeypatch.setenv(f"AIRFLOW_CONN_{CONN_ID.upper()}", json.dumps(to_the_proxy))
        client = KubeClient(CONN_ID, QUICK)
        assert client.own_namespace_and_origin() == (listed, origin)
        client.list_workloads([], must_exist=False)
        assert count_requests(server, f"GET /api/v1/namespaces/{listed}/pods") == 1

    @pytest.mark.parametrize(
        ("conn", "message"),
        [
            pytest.param(
                None, "isn't defined; create connection 'odd', or correct kubernetes_conn_id", id="is missing"
            ),
            pytest.param({"conn_type": "http"}, "its type is 'http', not 'kubernetes'", id="is of another type"),
            pytest.param(
                {"conn_type": "kubernetes", "extra": {"kube_config_path": "/no"}},
                "there is no kubeconfig at '/no' on this worker; check the connection",
                id="names no file",
            ),
        ],
    )
    def test_a_connection_is_a_final_error_if_it(
        self, monkeypatch: pytest.MonkeyPatch, conn: dict[str, Any] | None, message: str
    ) -> None:
        if conn is not None:
            monkeypatch.setenv("AIRFLOW_CONN_ODD", json.dumps(conn))
        with pytest.raises(KubernetesError, match="connection 'odd' provides no Kubernetes client") as caught:
            KubeClient("odd", QUICK).list_workloads(["default"])
        assert message in str(caught.value)
        assert not caught.value.is_retryable

    def test_a_failure_of_the_client_itself_is_retried_and_shows_no_token(
        self, server: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        odd = connection({"server": server.proxy.url})
        odd["extra"]["kube_config"]["users"][0]["user"] = {"token": "hush\nhush"}
        monkeypatch.setenv("AIRFLOW_CONN_ODD", json.dumps(odd))
        with pytest.raises(KubernetesError, match="the client failed: ") as caught:
            KubeClient("odd", QUICK).list_workloads(["default"])
        assert (caught.value.is_retryable, caught.value.has_response) == (True, False)
        assert "hush" not in str(caught.value)
        assert server.proxy.requests == []

    def test_the_api_server_refuses_requests_without_credentials(
        self, server: Server, connect: Connect, namespace: str, request: pytest.FixtureRequest
    ) -> None:
        if "embedded" in request.node.callspec.id:
            pytest.skip("the embedded one needs no credentials")
        api = connect({k: v for k, v in server.cluster.items() if k != "plain"})
        with pytest.raises(KubernetesError, match=r"40[13] .*(credentials|allow verb 'list')"):
            api.list_workloads([namespace])


@pytest.mark.parametrize("case", SETUP_CASES, ids=by_id)
def test_a_setting_or_connection_that_cannot_be_used_has_its_documented_message(case: SetupCase) -> None:
    try:
        error = case.fails()
    except KpoCleanupError as raised:
        error = raised
    assert says_pattern(case.says).search(str(error))


def test_the_documentation_is_up_to_date() -> None:
    written = (REPOSITORY / "docs/faults.md").read_text()
    assert written == render(), "python -m tests.faults.cases > docs/faults.md"
