"""Faults of the API server and of what is between, one at a time, over real HTTP."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path

import pytest

from include.kpo_cleanup.errors import KubernetesError, SettingsError
from include.kpo_cleanup.kube.pods import MAX_RESTARTS, PodApi
from include.kpo_cleanup.pod import Pod
from include.kpo_cleanup.vocabulary import Outcome
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
from tests.faults.conftest import ATTEMPTS, PAGE_SIZE, Connect
from tests.faults.servers import Server

REPOSITORY = Path(__file__).parents[2]
SECOND_PAGE = "GET .*continue="
DELETE = "DELETE "
BOUND = 15.0  # seconds that no fault may exceed with the timeouts of these tests
PODS = 12  # three pages


def by_id(case: Case | ConnectionCase) -> str:
    return case.id


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Fails a test that takes longer."""
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
def zombie(server: Server, api: PodApi, namespace: str) -> Pod:
    """A pod to delete, as the product lists it, with another one next to it."""
    for name in ("zombie", "bystander"):
        server.create_pod(namespace, name, {"kubernetes_pod_operator": "True"})
    (zombie,) = (pod for pod in api.list_pods([namespace]).pods if pod.name == "zombie")
    server.proxy.heal()
    return zombie


def names(pods: Sequence[Pod]) -> list[str]:
    return sorted(pod.name for pod in pods)


ALL_PODS = [f"pod-{number:02d}" for number in range(PODS)]


def requests_like(server: Server, pattern: str) -> int:
    return sum(bool(re.search(pattern, line)) for line in server.proxy.requests)


@pytest.mark.usefixtures("decoder")
class TestListing:
    def test_without_a_fault_it_takes_three_pages(self, server: Server, api: PodApi, full_namespace: str) -> None:
        assert names(api.list_pods([full_namespace]).pods) == ALL_PODS
        assert len(server.proxy.requests) == -(-PODS // PAGE_SIZE)

    def test_of_all_namespaces_leaves_out_those_that_are_excluded(self, server: Server, api: PodApi) -> None:
        namespaces = [server.create_namespace() for _ in range(4)]
        for namespace in namespaces:
            server.create_pod(namespace, "pod", {"kubernetes_pod_operator": "True", "only": namespaces[0]})
        listed = api.list_pods(["*"], f"only={namespaces[0]}", excluded=namespaces[2:]).pods
        assert sorted(pod.namespace for pod in listed) == sorted(namespaces[:2])

    def test_takes_no_pod_that_the_operator_did_not_make_whatever_the_selector(
        self, server: Server, api: PodApi, namespace: str
    ) -> None:
        server.create_pod(namespace, "stranger", {"team": "a"})
        server.create_pod(namespace, "ours", {"team": "a", "kubernetes_pod_operator": "True"})
        server.create_pod(namespace, "others", {"team": "b", "kubernetes_pod_operator": "True"})
        assert names(api.list_pods([namespace], "team=a").pods) == ["ours"]

    @pytest.mark.parametrize("case", [c for c in LIST_CASES if c.does is Does.LIST_RETRIES], ids=by_id)
    def test_a_fault_that_passes_is_sat_out(self, server: Server, api: PodApi, full_namespace: str, case: Case) -> None:
        server.proxy.spoil(SECOND_PAGE, case.fault, times=ATTEMPTS - 1)
        with within(BOUND):
            listing = api.list_pods([full_namespace])
        assert names(listing.pods) == ALL_PODS
        assert listing.problems == []
        assert len(server.proxy.requests) == 3 + ATTEMPTS - 1

    @pytest.mark.parametrize("case", LIST_CASES, ids=by_id)
    def test_a_fault_that_lasts_fails_the_run_and_is_named(
        self, server: Server, api: PodApi, full_namespace: str, case: Case
    ) -> None:
        server.proxy.spoil(SECOND_PAGE, case.fault)
        error = SettingsError if case.does is Does.RUN_FAILS else KubernetesError
        with within(BOUND), pytest.raises(error) as caught:
            api.list_pods([full_namespace])
        assert says_pattern(case.says, namespace=full_namespace).search(str(caught.value))
        attempts = {Does.LIST_RETRIES: ATTEMPTS, Does.LIST_RESTARTS: MAX_RESTARTS + 1}
        assert requests_like(server, SECOND_PAGE) == attempts.get(case.does, 1)

    @pytest.mark.parametrize("case", [c for c in LIST_CASES if c.does is not Does.RUN_FAILS], ids=by_id)
    def test_it_does_not_stop_the_other_namespaces(
        self, server: Server, api: PodApi, full_namespace: str, case: Case
    ) -> None:
        others = [server.create_namespace(), server.create_namespace()]
        for other in others:
            server.create_pod(other, f"in-{other}", {"kubernetes_pod_operator": "True"})
        server.proxy.spoil(f"GET /api/v1/namespaces/{full_namespace}/", case.fault)
        with within(BOUND):
            listing = api.list_pods([others[0], full_namespace, others[1]])
        assert names(listing.pods) == sorted(f"in-{other}" for other in others)
        (problem,) = listing.problems
        assert says_pattern(case.says, namespace=full_namespace).search(problem)

    @pytest.mark.parametrize("times", range(1, MAX_RESTARTS + 1))
    def test_an_expired_token_starts_the_listing_again(
        self, server: Server, api: PodApi, full_namespace: str, times: int
    ) -> None:
        (expired,) = (case.fault for case in LIST_CASES if case.does is Does.LIST_RESTARTS)
        server.proxy.spoil(SECOND_PAGE, expired, times=times)
        listing = api.list_pods([full_namespace])
        assert names(listing.pods) == ALL_PODS  # nothing twice, nothing missing
        assert listing.problems == []
        assert len(server.proxy.requests) == 3 + 2 * times

    def test_what_is_born_and_dies_meanwhile_is_seen_as_it_was_when_the_listing_began_anew(
        self, server: Server, api: PodApi, full_namespace: str
    ) -> None:
        def change() -> None:
            server.delete(full_namespace, "pod-00")
            server.create_pod(full_namespace, "born", {"kubernetes_pod_operator": "True"})

        (expired,) = (case.fault for case in LIST_CASES if case.does is Does.LIST_RESTARTS)
        server.proxy.spoil(SECOND_PAGE, proxy.first(change), times=1)
        assert names(api.list_pods([full_namespace]).pods) == ALL_PODS
        server.proxy.spoil(SECOND_PAGE, expired, times=1)
        assert names(api.list_pods([full_namespace]).pods) == ["born", *ALL_PODS[1:]]

    def test_the_server_itself_refuses_a_bad_selector(self, api: PodApi, namespace: str) -> None:
        with pytest.raises(SettingsError, match=r"label_selector='a in \(' was refused .*; correct its syntax"):
            api.list_pods([namespace], "a in (")

    def test_a_namespace_that_does_not_exist_is_told_from_an_empty_one(self, api: PodApi, namespace: str) -> None:
        listing = api.list_pods([namespace, "nowhere"])
        assert listing.pods == []
        (problem,) = listing.problems
        assert "namespace 'nowhere' does not exist; correct namespaces" in problem

    def test_a_gateway_cannot_say_that_a_namespace_does_not_exist(
        self, server: Server, api: PodApi, namespace: str
    ) -> None:
        (kong,) = (case.fault for case in LIST_CASES if case.id == "404-gateway-json")
        server.proxy.spoil(f"GET /api/v1/namespaces/{namespace}$", kong)
        assert api.list_pods([namespace]).problems == []

    def test_a_gateway_that_serves_the_same_page_for_ever_is_given_up(
        self, server: Server, api: PodApi, full_namespace: str
    ) -> None:
        """A cache that does not know the token gives page one, with its token, again and again."""
        path = f"namespaces/{full_namespace}/pods?limit={PAGE_SIZE}"
        page = server.call("GET", path)
        server.proxy.spoil(SECOND_PAGE, proxy.answer(200, json.dumps(page), "application/json"), times=200)
        with within(BOUND), pytest.raises(KubernetesError, match="the same page was served twice"):
            api.list_pods([full_namespace])
        assert requests_like(server, SECOND_PAGE) < 200


def slow_down(value: str) -> proxy.Fault:
    return proxy.status(429, "TooManyRequests", "slow down", Retry_After=value)


class TestRetryAfter:
    """``max_wait`` is one second here."""

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
        self, server: Server, api: PodApi, zombie: Pod, what: str, value: str, at_least: float, at_most: float
    ) -> None:
        server.proxy.spoil(what, slow_down(value), times=1)
        if what == DELETE:
            assert api.delete(zombie, 0).outcome is Outcome.DELETED
        else:
            fill(server, zombie.namespace)
            assert len(api.list_pods([zombie.namespace]).pods) == PODS + 2
        first = next(i for i, line in enumerate(server.proxy.requests) if re.search(what, line))
        waited = server.proxy.arrivals[first + 1] - server.proxy.arrivals[first]
        assert at_least <= waited < at_most


class TestDeleting:
    @pytest.mark.parametrize("case", [c for c in DELETE_CASES if c.does is Does.DELETE_RETRIES], ids=by_id)
    def test_a_fault_that_passes_is_sat_out(self, server: Server, api: PodApi, zombie: Pod, case: Case) -> None:
        server.proxy.spoil(DELETE, case.fault, times=ATTEMPTS - 1)
        with within(BOUND):
            deletion = api.delete(zombie, 0)
        # Where half of the answer came, or none, the API server may have done it at the first attempt.
        assert deletion.outcome in (Outcome.DELETED, Outcome.ALREADY_GONE)
        assert requests_like(server, DELETE) == ATTEMPTS
        assert set(server.pods(zombie.namespace)) == {"bystander"}

    @pytest.mark.parametrize("case", DELETE_CASES, ids=by_id)
    def test_a_fault_that_lasts_is_told_for_what_it_is(
        self, server: Server, api: PodApi, zombie: Pod, case: Case
    ) -> None:
        deed_done = case.id.startswith("deed-done")
        server.proxy.spoil(DELETE, case.fault, times=1 if deed_done else None)
        with within(BOUND):
            deletion = api.delete(zombie, 0)
        outcomes = {Does.ALREADY_GONE: Outcome.ALREADY_GONE, Does.SPARED: Outcome.SPARED}
        assert deletion.outcome is outcomes.get(case.does, Outcome.FAILED)
        assert deletion.is_passing is (case.does is Does.DELETE_RETRIES)
        assert says_pattern(case.says, namespace=zombie.namespace, pod="zombie").search(str(deletion))
        attempts = ATTEMPTS if case.does is Does.DELETE_RETRIES else 2 if deed_done else 1
        assert requests_like(server, DELETE) == attempts
        may_be_gone = deed_done or case.id in ("truncated", "reset-midway")  # their answers are the API server's own
        assert set(server.pods(zombie.namespace)) == ({"bystander"} if may_be_gone else {"zombie", "bystander"})

    def test_a_pod_that_vanished_is_gone(self, server: Server, api: PodApi, zombie: Pod) -> None:
        server.delete(zombie.namespace, "zombie")
        assert api.delete(zombie, 0).outcome is Outcome.ALREADY_GONE
        assert requests_like(server, DELETE) == 1

    def test_a_new_pod_of_the_same_name_is_spared(self, server: Server, api: PodApi, zombie: Pod) -> None:
        server.delete(zombie.namespace, "zombie")
        server.create_pod(zombie.namespace, "zombie", {"kubernetes_pod_operator": "True"})
        deletion = api.delete(zombie, 0)
        assert deletion.outcome is Outcome.SPARED
        assert "the UID in the precondition" in deletion.said
        assert set(server.pods(zombie.namespace)) == {"zombie", "bystander"}

    @pytest.mark.parametrize("fault", [proxy.reset, proxy.silent], ids=["reset", "silent"])
    def test_a_new_pod_is_spared_even_where_the_first_attempt_deleted_the_old_one(
        self, server: Server, api: PodApi, zombie: Pod, fault: proxy.Fault
    ) -> None:
        def replace() -> None:
            server.create_pod(zombie.namespace, "zombie", {"kubernetes_pod_operator": "True"})

        server.proxy.spoil(DELETE, proxy.too_late(fault), times=1)
        server.proxy.spoil(DELETE, proxy.first(replace), times=1)
        assert api.delete(zombie, 0).outcome is Outcome.SPARED
        assert set(server.pods(zombie.namespace)) == {"zombie", "bystander"}


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
