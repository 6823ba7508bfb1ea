"""Faults of the API server and of the network before it, one at a time, over real HTTP."""

from __future__ import annotations

import itertools
import json
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from include.kpo_cleanup.classify import Verdict
from include.kpo_cleanup.constants import Outcome, Reason
from include.kpo_cleanup.errors import KubernetesError, SettingsError
from include.kpo_cleanup.kube.pods import MAX_RESTARTS, SILENT_NAMESPACES, PodClient
from include.kpo_cleanup.pod import Pod
from include.kpo_cleanup.reap import MAX_CONFLICTS, Result, reap
from include.kpo_cleanup.retry import RetryPolicy
from include.kpo_cleanup.settings import Settings
from tests import proxy
from tests.faults.cases import (
    CONNECTION_CASES,
    DELETE_CASES,
    LIST_CASES,
    Case,
    ConnectionCase,
    Does,
    render,
    says_pattern,
)
from tests.faults.conftest import PAGE_SIZE, Connect
from tests.faults.runs import FAILED_ONCE, IN_TRY_2, QUICK, clean_up, create, source_of
from tests.faults.servers import Server

REPOSITORY = Path(__file__).parents[2]
SECOND_PAGE = "GET .*continue="
DELETE = "DELETE "
BOUND = 15.0  # seconds that no fault may exceed with the timeouts of these tests
PODS = 12  # three pages
OWNER = {"apiVersion": "batch/v1", "kind": "Job", "name": "nightly", "uid": "1", "controller": True}


def by_id(case: Case | ConnectionCase) -> str:
    return case.id


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Fail a test that takes longer."""
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
    """Make a pod to delete, and another one beside it."""
    create(server, namespace, "zombie", FAILED_ONCE)
    create(server, namespace, "bystander", IN_TRY_2)
    return namespace


def reap_it(api: PodClient, namespace: str) -> Result:
    """Reap, and return the result of the zombie."""
    return clean_up(api, namespace, source_of(FAILED_ONCE, IN_TRY_2))["zombie"]


def names(pods: Sequence[Pod]) -> list[str]:
    return sorted(pod.name for pod in pods)


ALL_PODS = [f"pod-{number:02d}" for number in range(PODS)]


def requests_like(server: Server, pattern: str) -> int:
    return sum(bool(re.search(pattern, line)) for line in server.proxy.requests)


@pytest.mark.usefixtures("decoder")
class TestListing:
    def test_without_a_fault_it_takes_three_pages(self, server: Server, api: PodClient, full_namespace: str) -> None:
        assert names(api.list_pods([full_namespace]).pods) == ALL_PODS
        assert len(server.proxy.requests) == -(-PODS // PAGE_SIZE)

    def test_of_all_namespaces_leaves_out_those_that_are_excluded(self, server: Server, api: PodClient) -> None:
        namespaces = [server.create_namespace() for _ in range(4)]
        for namespace in namespaces:
            server.create_pod(namespace, "pod", {"kubernetes_pod_operator": "True", "only": namespaces[0]})
        listed = api.list_pods(["*"], f"only={namespaces[0]}", excluded=namespaces[2:]).pods
        assert sorted(pod.namespace for pod in listed) == sorted(namespaces[:2])

    def test_refuses_a_namespace_of_its_own_that_is_excluded(self, server: Server, api: PodClient) -> None:
        why = "exclude_namespaces has 'default', which comes from connection 'faults', for namespaces is empty"
        with pytest.raises(SettingsError, match=why):
            api.list_pods([], excluded=["default"])
        assert server.proxy.requests == []

    def test_takes_no_pod_that_the_operator_did_not_make_whatever_the_selector(
        self, server: Server, api: PodClient, namespace: str
    ) -> None:
        server.create_pod(namespace, "stranger", {"team": "a"})
        server.create_pod(namespace, "ours", {"team": "a", "kubernetes_pod_operator": "True"})
        server.create_pod(namespace, "others", {"team": "b", "kubernetes_pod_operator": "True"})
        assert names(api.list_pods([namespace], "team=a").pods) == ["ours"]

    @pytest.mark.parametrize("case", [c for c in LIST_CASES if c.does is Does.LIST_RETRIES], ids=by_id)
    def test_a_fault_that_passes_is_sat_out(
        self, server: Server, api: PodClient, full_namespace: str, case: Case
    ) -> None:
        server.proxy.spoil(SECOND_PAGE, case.fault, times=QUICK.attempts - 1)
        with within(BOUND):
            listing = api.list_pods([full_namespace])
        assert names(listing.pods) == ALL_PODS
        assert listing.errors_by_namespace == {}
        assert len(server.proxy.requests) == 3 + QUICK.attempts - 1

    @pytest.mark.parametrize("case", LIST_CASES, ids=by_id)
    def test_a_fault_that_lasts_fails_the_run_and_is_named(
        self, server: Server, api: PodClient, full_namespace: str, case: Case
    ) -> None:
        server.proxy.spoil(SECOND_PAGE, case.fault)
        error = SettingsError if case.does is Does.RUN_FAILS else KubernetesError
        with within(BOUND), pytest.raises(error) as caught:
            api.list_pods([full_namespace])
        assert says_pattern(case.says, namespace=full_namespace).search(str(caught.value))
        attempts = {Does.LIST_RETRIES: QUICK.attempts, Does.LIST_RESTARTS: MAX_RESTARTS + 1}
        assert requests_like(server, SECOND_PAGE) == attempts.get(case.does, 1)

    @pytest.mark.parametrize("case", [c for c in LIST_CASES if c.does is not Does.RUN_FAILS], ids=by_id)
    def test_it_does_not_stop_the_other_namespaces(
        self, server: Server, api: PodClient, full_namespace: str, case: Case
    ) -> None:
        others = [server.create_namespace(), server.create_namespace()]
        for other in others:
            server.create_pod(other, f"in-{other}", {"kubernetes_pod_operator": "True"})
        server.proxy.spoil(f"GET /api/v1/namespaces/{full_namespace}/", case.fault)
        with within(BOUND):
            listing = api.list_pods([others[0], full_namespace, others[1]])
        assert names(listing.pods) == sorted(f"in-{other}" for other in others)
        (problem,) = listing.errors_by_namespace.values()
        assert says_pattern(case.says, namespace=full_namespace).search(problem)

    @pytest.mark.parametrize("times", range(1, MAX_RESTARTS + 1))
    def test_an_expired_token_starts_the_listing_again(
        self, server: Server, api: PodClient, full_namespace: str, times: int
    ) -> None:
        (expired,) = (case.fault for case in LIST_CASES if case.does is Does.LIST_RESTARTS)
        server.proxy.spoil(SECOND_PAGE, expired, times=times)
        listing = api.list_pods([full_namespace])
        assert names(listing.pods) == ALL_PODS  # nothing twice, nothing missing
        assert listing.errors_by_namespace == {}
        assert len(server.proxy.requests) == 3 + 2 * times

    def test_what_is_born_and_dies_meanwhile_is_seen_as_it_was_when_the_listing_began_anew(
        self, server: Server, api: PodClient, full_namespace: str
    ) -> None:
        def change() -> None:
            server.delete(full_namespace, "pod-00")
            server.create_pod(full_namespace, "born", {"kubernetes_pod_operator": "True"})

        (expired,) = (case.fault for case in LIST_CASES if case.does is Does.LIST_RESTARTS)
        server.proxy.spoil(SECOND_PAGE, proxy.first(change), times=1)
        assert names(api.list_pods([full_namespace]).pods) == ALL_PODS
        server.proxy.spoil(SECOND_PAGE, expired, times=1)
        assert names(api.list_pods([full_namespace]).pods) == ["born", *ALL_PODS[1:]]

    def test_the_server_itself_refuses_a_bad_selector(self, api: PodClient, namespace: str) -> None:
        with pytest.raises(SettingsError, match=r"label_selector='a in \(' was refused .*; correct its syntax"):
            api.list_pods([namespace], "a in (")

    def test_a_namespace_that_does_not_exist_is_told_from_an_empty_one(self, api: PodClient, namespace: str) -> None:
        listing = api.list_pods([namespace, "nowhere"])
        assert listing.pods == []
        (problem,) = listing.errors_by_namespace.values()
        assert "namespace 'nowhere' does not exist; correct namespaces" in problem

    def test_a_gateway_cannot_say_that_a_namespace_does_not_exist(
        self, server: Server, api: PodClient, namespace: str
    ) -> None:
        (kong,) = (case.fault for case in LIST_CASES if case.id == "404-gateway-json")
        server.proxy.spoil(f"GET /api/v1/namespaces/{namespace}$", kong)
        assert api.list_pods([namespace]).errors_by_namespace == {}

    def test_a_gateway_that_serves_the_same_page_for_ever_is_given_up(
        self, server: Server, api: PodClient, full_namespace: str
    ) -> None:
        """Act as a cache that does not know the token: it gives page one, with its token, again and again."""
        path = f"namespaces/{full_namespace}/pods?limit={PAGE_SIZE}"
        page = server.call("GET", path)
        server.proxy.spoil(SECOND_PAGE, proxy.answer(200, json.dumps(page), "application/json"), times=200)
        with within(BOUND), pytest.raises(KubernetesError, match="the same page was served twice"):
            api.list_pods([full_namespace])
        assert requests_like(server, SECOND_PAGE) < 200


def slow_down(value: str) -> proxy.Fault:
    return proxy.status(429, "TooManyRequests", "slow down", Retry_After=value)


class TestRetryAfter:
    """``Retry-After``; ``max_backoff`` is one second here."""

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
    def test_is_honoured_where_it_makes_sense(
        self,
        server: Server,
        api: PodClient,
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
            assert len(api.list_pods([namespace_with_zombie]).pods) == PODS + 2
        first = next(i for i, line in enumerate(server.proxy.requests) if re.search(what, line))
        waited = server.proxy.arrivals[first + 1] - server.proxy.arrivals[first]
        assert at_least <= waited < at_most


class TestDeleting:
    @pytest.mark.parametrize("case", [c for c in DELETE_CASES if c.does is Does.DELETE_RETRIES], ids=by_id)
    def test_a_fault_that_passes_is_sat_out(
        self, server: Server, api: PodClient, namespace_with_zombie: str, case: Case
    ) -> None:
        server.proxy.spoil(DELETE, case.fault, times=QUICK.attempts - 1)
        with within(BOUND):
            result = reap_it(api, namespace_with_zombie)
        # If the answer is cut off, the API server may have deleted the pod at the first attempt: then we did it.
        assert result.outcome is Outcome.DELETED
        assert requests_like(server, DELETE) == QUICK.attempts
        assert set(server.pods(namespace_with_zombie)) == {"bystander"}

    @pytest.mark.parametrize("case", DELETE_CASES, ids=by_id)
    def test_a_fault_that_lasts_is_told_for_what_it_is(
        self, server: Server, api: PodClient, namespace_with_zombie: str, case: Case
    ) -> None:
        deed_done = case.id.startswith("deed-done")
        server.proxy.spoil(DELETE, case.fault, times=1 if deed_done else None)
        with within(BOUND):
            result = reap_it(api, namespace_with_zombie)
        outcomes = {Does.ALREADY_GONE: Outcome.ALREADY_GONE, Does.DELETED: Outcome.DELETED}
        assert result.outcome is outcomes.get(case.does, Outcome.FAILED)
        assert result.deletion.is_retryable is (case.does is Does.DELETE_RETRIES)
        names = {"namespace": namespace_with_zombie, "pod": "zombie"}
        assert says_pattern(case.says, **names).search(str(result.deletion))
        attempts = QUICK.attempts if case.does is Does.DELETE_RETRIES else 2 if deed_done else 1
        assert requests_like(server, DELETE) == attempts
        may_be_gone = deed_done or case.id in ("truncated", "reset-midway")  # their answers are the API server's own
        left = {"bystander"} if may_be_gone else {"zombie", "bystander"}
        assert set(server.pods(namespace_with_zombie)) == left

    def test_a_pod_that_vanishes_is_gone(self, server: Server, api: PodClient, namespace_with_zombie: str) -> None:
        server.proxy.spoil(DELETE, proxy.first(lambda: server.delete(namespace_with_zombie, "zombie")))
        assert reap_it(api, namespace_with_zombie).outcome is Outcome.ALREADY_GONE
        assert requests_like(server, DELETE) == 1

    @pytest.mark.parametrize("fault", [proxy.reset, proxy.silent], ids=["reset", "silent"])
    def test_a_new_pod_stays_if_the_first_attempt_deleted_the_old_one_and_its_answer_got_lost(
        self, server: Server, api: PodClient, namespace_with_zombie: str, fault: proxy.Fault
    ) -> None:
        def make_it_anew() -> None:
            create(server, namespace_with_zombie, "zombie", FAILED_ONCE)

        server.proxy.spoil(DELETE, proxy.too_late(fault), times=1)
        server.proxy.spoil(DELETE, proxy.first(make_it_anew), times=1)
        assert reap_it(api, namespace_with_zombie).outcome is Outcome.DELETED
        assert set(server.pods(namespace_with_zombie)) == {"zombie", "bystander"}


class TestPreconditions:
    """Changes between the second listing and the deletion."""

    def test_a_new_pod_of_the_same_name_is_spared(
        self, server: Server, api: PodClient, namespace_with_zombie: str
    ) -> None:
        def replace_it() -> None:
            server.delete(namespace_with_zombie, "zombie")
            create(server, namespace_with_zombie, "zombie", FAILED_ONCE)

        server.proxy.spoil(DELETE, proxy.first(replace_it), times=1)
        result = reap_it(api, namespace_with_zombie)
        assert (result.outcome, str(result.deletion)) == (Outcome.SPARED, "another pod has its name now")
        assert set(server.pods(namespace_with_zombie)) == {"zombie", "bystander"}

    def test_are_the_uid_and_the_version_of_the_pod_that_was_judged(
        self, server: Server, api: PodClient, namespace_with_zombie: str
    ) -> None:
        asked: list[Any] = []

        async def take_down(request: web.Request, forward: proxy.Forward) -> web.StreamResponse:
            asked.append((await request.json())["preconditions"])
            return await forward()

        metadata = server.pods(namespace_with_zombie)["zombie"]["metadata"]
        server.proxy.spoil(DELETE, take_down)
        assert reap_it(api, namespace_with_zombie).outcome is Outcome.DELETED
        assert asked == [{"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]}]

    @pytest.mark.parametrize(
        ("patch", "reason"),
        [
            pytest.param({"annotations": {"kpo-cleanup/protect": "true"}}, "protected", id="was protected"),
            pytest.param({"ownerReferences": [OWNER]}, "owned", id="got a controller"),
            pytest.param({"labels": {"try_number": "one"}}, "bad_labels", id="lost an identifying label"),
        ],
    )
    def test_a_pod_is_spared_that(
        self, server: Server, api: PodClient, namespace_with_zombie: str, patch: dict[str, Any], reason: str
    ) -> None:
        server.proxy.spoil(DELETE, proxy.first(lambda: server.patch(namespace_with_zombie, "zombie", patch)), times=1)
        result = reap_it(api, namespace_with_zombie)
        assert result.outcome is Outcome.SPARED
        assert str(result.deletion).startswith(f"{reason} now: ")
        assert set(server.pods(namespace_with_zombie)) == {"zombie", "bystander"}

    def test_a_pod_that_failed_is_kept_as_evidence(
        self, server: Server, api: PodClient, namespace_with_zombie: str
    ) -> None:
        def fail() -> None:
            server.set_status(namespace_with_zombie, "zombie", phase="Failed")

        server.proxy.spoil(DELETE, proxy.first(fail), times=1)
        result = reap_it(api, namespace_with_zombie)
        assert str(result.deletion).startswith("completed now: pod Failed, delete_pods_on_failure=False")

    @pytest.mark.parametrize(("times", "outcome"), [(MAX_CONFLICTS, Outcome.DELETED), (None, Outcome.FAILED)])
    def test_a_pod_whose_status_changes_all_the_time_is_deleted_in_the_same_run(
        self, server: Server, api: PodClient, namespace_with_zombie: str, times: int | None, outcome: Outcome
    ) -> None:
        numbers = itertools.count()

        def change() -> None:
            server.set_status(namespace_with_zombie, "zombie", message=f"still at it: {next(numbers)}")

        server.proxy.spoil(DELETE, proxy.first(change), times=times)
        assert reap_it(api, namespace_with_zombie).outcome is outcome

    def test_a_pod_that_a_finalizer_holds_is_not_called_deleted(
        self, server: Server, api: PodClient, namespace_with_zombie: str
    ) -> None:
        server.patch(namespace_with_zombie, "zombie", {"finalizers": ["example.com/backup"]})
        result = reap_it(api, namespace_with_zombie)
        assert (result.outcome, str(result.deletion)) == (Outcome.AWAITING_FINALIZER, "held by example.com/backup")
        server.patch(namespace_with_zombie, "zombie", {"finalizers": None})

    def test_a_namespace_that_was_deleted_meanwhile_has_no_pods(
        self, server: Server, api: PodClient, namespace_with_zombie: str
    ) -> None:
        (zombie,) = (pod for pod in api.list_pods([namespace_with_zombie]).pods if pod.name == "zombie")
        gone = replace(zombie, namespace="no-such-namespace")
        verdict = Verdict(gone, True, Reason.ORPHANED, "")
        source, settings = source_of(FAILED_ONCE), Settings(settle_seconds=0)
        (result,) = reap([verdict], api, source, settings, ["no-such-namespace"])
        assert result.outcome is Outcome.ALREADY_GONE


def test_a_silent_api_server_is_given_up_after_some_namespaces(
    server: Server, api: PodClient, namespace: str, patience: RetryPolicy
) -> None:
    others = [f"other-{number}" for number in range(20)]
    server.proxy.spoil("GET ", proxy.silent)
    with within(BOUND), pytest.raises(KubernetesError, match="not tried, for the API server does not answer"):
        api.list_pods([namespace, *others])
    assert len(server.proxy.requests) == SILENT_NAMESPACES * patience.attempts


class TestConnecting:
    @pytest.mark.parametrize("case", CONNECTION_CASES, ids=by_id)
    def test_what_is_wrong_with_the_address_is_named(
        self, server: Server, connect: Connect, namespace: str, case: ConnectionCase
    ) -> None:
        api = connect(case.cluster(server.cluster))
        with within(BOUND), pytest.raises(KubernetesError) as caught:
            api.list_pods([namespace])
        assert says_pattern(case.says, namespace=namespace).search(str(caught.value))
        assert server.proxy.requests == []

    def test_without_credentials_the_server_refuses(
        self, server: Server, connect: Connect, namespace: str, request: pytest.FixtureRequest
    ) -> None:
        if "embedded" in request.node.callspec.id:
            pytest.skip("the embedded one lets everybody in")
        api = connect({k: v for k, v in server.cluster.items() if k != "plain"})
        with pytest.raises(KubernetesError, match=r"40[13] .*(credentials|allow verb 'list')"):
            api.list_pods([namespace])


def test_the_documentation_is_what_is_tested() -> None:
    written = (REPOSITORY / "docs/faults.md").read_text()
    assert written == render(), "python -m tests.faults.cases > docs/faults.md"
