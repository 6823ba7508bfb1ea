"""Faults of single requests during ``reap``: the other pods are deleted, and each pod has a result."""

from __future__ import annotations

import itertools
import os
import re
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web
from kubernetes.client import AdmissionregistrationV1Api
from kubernetes.config import new_client_from_config_dict

from include.kpo_cleanup.constants import Outcome, Reason
from include.kpo_cleanup.kube.interface import CONCURRENT_DELETES, DELETE_TIMEOUT, LOG_TIMEOUT
from include.kpo_cleanup.kube.workloads import KubeClient
from include.kpo_cleanup.reap.steps import MAX_TERMINATION
from include.kpo_cleanup.report import failures
from include.kpo_cleanup.results import NOT_LISTED, Result
from include.kpo_cleanup.retry import RetryPolicy
from include.kpo_cleanup.task_instance import Record
from include.kpo_cleanup.termination import raise_on_sigterm
from include.kpo_cleanup.text import MAX_VALUE
from tests import proxy
from tests.control_plane import ControlPlane
from tests.faults.cases import DELETE_CASES, LIST_CASES, LOGIN_PAGE, Case, Does, says_pattern
from tests.faults.conftest import CONN_ID, Connect
from tests.faults.runs import FAILED_ONCE, IN_TRY_2, QUICK, clean_up, create, message_of, outcomes, source_of
from tests.faults.servers import Server
from tests.faults.world import Task
from tests.proxy import Fault

SECOND_LISTING = "GET .*/pods\\?"


@pytest.mark.parametrize(
    "case", [c for c in DELETE_CASES if c.does in (Does.DELETE_RETRIES, Does.DELETE_FAILS)], ids=lambda case: case.id
)
def test_a_pod_that_cannot_be_deleted_does_not_stop_the_others(
    server: Server, api: KubeClient, namespace: str, case: Case
) -> None:
    names = ["zombie-0", "zombie-1", "zombie-2"]
    for name in names:
        create(server, namespace, name, FAILED_ONCE)
    server.proxy.spoil("DELETE .*/zombie-1\\?", case.fault)
    results = clean_up(api, namespace, source_of(FAILED_ONCE))
    assert outcomes(results) == {**dict.fromkeys(names, Outcome.DELETED), "zombie-1": Outcome.FAILED}
    assert says_pattern(case.says, namespace=namespace, pod="zombie-1").search(message_of(results["zombie-1"]))


@pytest.mark.parametrize("case", LIST_CASES, ids=lambda case: case.id)
def test_nothing_is_deleted_if_the_second_listing_fails_and_the_result_names_the_cause(
    server: Server, api: KubeClient, namespace: str, case: Case
) -> None:
    create(server, namespace, "zombie", FAILED_ONCE)
    source = source_of(FAILED_ONCE)
    source.before_fetch = lambda: server.proxy.spoil(SECOND_LISTING, case.fault)  # which is after the first listing
    results = clean_up(api, namespace, source)
    assert outcomes(results) == {"zombie": Outcome.FAILED}
    assert results["zombie"].detail == NOT_LISTED
    assert set(server.pods(namespace)) == {"zombie"}
    assert says_pattern(case.says, namespace=namespace).search(message_of(results["zombie"]))


def test_a_pod_that_a_concurrent_run_deletes_is_already_gone(server: Server, api: KubeClient, namespace: str) -> None:
    create(server, namespace, "zombie", FAILED_ONCE)
    create(server, namespace, "live", IN_TRY_2, 1)
    source = source_of(FAILED_ONCE, IN_TRY_2)
    other_run: dict[str, Result] = {}

    def run_the_other() -> None:
        other_run.update(clean_up(api, namespace, source))

    server.proxy.spoil("DELETE ", proxy.first(run_the_other), times=1)
    assert outcomes(clean_up(api, namespace, source)) == {"zombie": Outcome.ALREADY_GONE}
    assert outcomes(other_run) == {"zombie": Outcome.DELETED}
    assert set(server.pods(namespace)) == {"live"}


def test_a_pod_with_a_grace_period_is_terminating_until_a_later_run_finds_it_overdue_and_forces_it(
    server: Server, api: KubeClient, namespace: str
) -> None:
    create(server, namespace, "zombie", FAILED_ONCE)
    server.bind(namespace, "zombie")
    source = source_of(FAILED_ONCE)
    result = clean_up(api, namespace, source, grace_period_seconds=300)["zombie"]
    assert result.outcome is Outcome.TERMINATING
    assert result.deadline == pytest.approx(time.time() + 300, abs=30)
    assert clean_up(api, namespace, source, grace_period_seconds=300) == {}  # it is kept
    assert set(server.pods(namespace)) == {"zombie"}
    overdue = clean_up(api, namespace, source, grace_period_seconds=300, seconds=400)
    assert outcomes(overdue) == {"zombie": Outcome.DELETED}
    assert server.pods(namespace) == {}


@pytest.mark.usefixtures("api")
# With a short timeout, a busy machine loses responses, and then both cleanups may have deleted a pod.
@pytest.mark.parametrize("retry_policy", [replace(QUICK, read_timeout=30)], ids=["patient"])
def test_of_two_cleanups_at_once_none_fails_and_no_pod_is_counted_twice(server: Server, namespace: str) -> None:
    """Let both list the pods before either of them deletes one."""
    names = {f"zombie-{number:02d}" for number in range(4 * CONCURRENT_DELETES)}
    for name in names:
        create(server, namespace, name, FAILED_ONCE)
    both_have_listed = threading.Barrier(2)
    # A deletion without a response counts, even if the other cleanup has deleted the pod: none may time out here.
    client = KubeClient(CONN_ID, replace(QUICK, read_timeout=60))

    def run_one(_: int) -> dict[str, Result]:
        source, fetches = source_of(FAILED_ONCE), itertools.count()
        source.before_fetch = lambda: both_have_listed.wait(60) if next(fetches) == 1 else None
        return clean_up(client, namespace, source)

    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(run_one, range(2))
    assert one.keys() == other.keys() == names
    for name in names:
        assert {one[name].outcome, other[name].outcome} == {Outcome.DELETED, Outcome.ALREADY_GONE}
    assert server.pods(namespace) == {}


def test_nothing_more_is_sent_to_an_api_server_that_no_longer_responds(
    server: Server, api: KubeClient, namespace: str
) -> None:
    names = [f"zombie-{number}" for number in range(5 * CONCURRENT_DELETES)]
    for name in names:
        create(server, namespace, name, FAILED_ONCE)
    server.proxy.spoil("DELETE ", proxy.reset)
    found = Counter(outcomes(clean_up(api, namespace, source_of(FAILED_ONCE))).values())
    assert set(found) == {Outcome.FAILED, Outcome.LEFT_FOR_NEXT_RUN}
    assert found[Outcome.FAILED] < len(names)
    assert set(server.pods(namespace)) == set(names)


def test_a_pod_is_unknown_if_the_response_to_its_deletion_is_lost_and_it_cannot_be_read_afterwards(
    server: Server, api: KubeClient, namespace: str
) -> None:
    create(server, namespace, "zombie", FAILED_ONCE)
    server.proxy.spoil("DELETE ", proxy.too_late(proxy.reset))
    server.proxy.spoil(r"GET .*fieldSelector=metadata.name", proxy.status(503, "ServiceUnavailable", "busy"))
    (result,) = clean_up(api, namespace, source_of(FAILED_ONCE)).values()
    assert result.outcome is Outcome.UNKNOWN
    assert "no answer from http" in message_of(result)
    assert "503 Service Unavailable" in result.detail


LOG = "GET .*/pods/zombie/log\\?"


def start(server: Server, namespace: str) -> None:
    create(server, namespace, "zombie", FAILED_ONCE)
    server.start(namespace, "zombie")


def test_the_last_lines_of_a_log_are_requested_and_stored_without_control_characters(
    server: Server, api: KubeClient, namespace: str
) -> None:
    start(server, namespace)
    server.proxy.spoil(LOG, proxy.answer(200, b"one\ntwo\x1b[2K\xff\n" + b"x" * 9_999, "text/plain"))
    (result,) = clean_up(api, namespace, source_of(FAILED_ONCE), last_log_lines=2).values()
    assert result.outcome is Outcome.DELETED
    assert result.log == (r"two\x1b[2K�", "x" * (MAX_VALUE - 1) + "…")
    (request,) = (request for request in server.proxy.requests if re.search(LOG, request))
    assert {"container=base", "tailLines=2"} < {*request.partition("?")[2].split("&")}


@pytest.mark.parametrize(
    "fault",
    [proxy.forbidden("get", "airflow"), proxy.answer(200, LOGIN_PAGE), proxy.reset, proxy.silent, proxy.truncated],
    ids=["is forbidden", "is a login page", "is reset", "never comes", "is cut off"],
)
def test_a_zombie_is_deleted_although_the_response_to_the_request_of_its_log(
    server: Server, api: KubeClient, namespace: str, fault: Fault
) -> None:
    start(server, namespace)
    server.proxy.spoil(LOG, fault)
    assert outcomes(clean_up(api, namespace, source_of(FAILED_ONCE), last_log_lines=2)) == {"zombie": Outcome.DELETED}


def test_the_logs_of_a_batch_delay_it_by_no_more_than_their_timeout_together(
    server: Server, api: KubeClient, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    names = [f"zombie-{number:02d}" for number in range(CONCURRENT_DELETES + 5)]
    for name in names:
        create(server, namespace, name, FAILED_ONCE)
        server.start(namespace, name)
    server.proxy.spoil("/log\\?", proxy.silent)
    start = time.monotonic()
    results = clean_up(api, namespace, source_of(FAILED_ONCE), replace(QUICK), last_log_lines=2)
    assert outcomes(results) == dict.fromkeys(names, Outcome.DELETED)
    assert time.monotonic() - start < 2 * LOG_TIMEOUT + 5  # one after the other, they would take 30 s
    slow = f"reading the log of a pod: no response within {LOG_TIMEOUT} s; its last lines are not saved"
    assert caplog.messages.count(slow) == 1


@pytest.mark.parametrize("does_respond", [True, False], ids=["responds in time", "does not respond"])
def test_after_sigterm_nothing_more_is_sent_and_every_zombie_has_a_result_if_the_api_server(
    server: Server, api: KubeClient, namespace: str, does_respond: bool
) -> None:
    """Send the signal while the responses of deletions that are carried out are awaited."""
    names = [f"zombie-{number:02d}" for number in range(3 * CONCURRENT_DELETES)]
    for name in names:
        create(server, namespace, name, FAILED_ONCE)
    is_terminated = threading.Event()

    def terminate() -> None:
        if not is_terminated.is_set():
            is_terminated.set()
            os.kill(os.getpid(), signal.SIGTERM)

    async def carry_out(request: web.Request, forward: proxy.Forward) -> web.StreamResponse:
        response = await proxy.first(terminate)(request, forward)
        return response if does_respond else await proxy.silent(request, forward)

    server.proxy.spoil("DELETE ", carry_out)
    start = time.monotonic()
    with raise_on_sigterm():
        results = clean_up(api, namespace, source_of(FAILED_ONCE), RetryPolicy())
    assert time.monotonic() - start < 2 * MAX_TERMINATION
    sent = [line for line in server.proxy.requests if line.startswith("DELETE ")]
    counts = Counter(outcomes(results).values())
    # A request that was about to be sent is unknown as well.
    assert 0 <= counts[Outcome.UNKNOWN] - (0 if does_respond else len(sent)) <= 1
    assert counts[Outcome.DELETED] >= (len(sent) - 1 if does_respond else 0)
    assert counts[Outcome.LEFT_FOR_NEXT_RUN] >= len(names) - len(sent) - 1
    assert set(server.pods(namespace)).isdisjoint(n for n, r in results.items() if r.outcome is Outcome.DELETED)
    assert "reap received SIGTERM" in " ".join(str(error) for error in failures(results.values()))
    server.proxy.wait_until_idle()
    assert len([line for line in server.proxy.requests if line.startswith("DELETE ")]) == len(sent)


def test_a_live_pod_of_a_recreated_dag_run_is_not_superseded_by_a_dead_one_of_a_later_try(
    server: Server, api: KubeClient, namespace: str
) -> None:
    """A recreated DAG run counts its tries from 1 again.

    With ``reattach_on_restart=False`` the operator creates a pod of try 1 while the dead one of try 3 still exists.
    """
    recreated = Task("", "orders", "live", "run_1", state="running", try_number=1)
    create(server, namespace, "dead", recreated, 3)
    time.sleep(1.1)  # creation times are whole seconds
    create(server, namespace, "live", recreated, 1)
    results = clean_up(api, namespace, source_of(recreated))
    assert "live" in server.pods(namespace), results["live"].verdict.evidence


def test_a_superseded_pod_is_spared_if_the_second_listing_no_longer_has_its_successor(
    server: Server, api: KubeClient, namespace: str
) -> None:
    create(server, namespace, "older", IN_TRY_2, 1)
    time.sleep(1.1)  # creation times are whole seconds
    create(server, namespace, "newer", IN_TRY_2, 2)
    source = source_of(replace(IN_TRY_2, record=Record(frozenset({f"{namespace}/newer"}))))

    def vanish() -> None:
        if "newer" in server.pods(namespace):
            server.delete(namespace, "newer")

    source.before_fetch = vanish
    assert outcomes(clean_up(api, namespace, source)) == {"older": Outcome.SPARED}
    assert set(server.pods(namespace)) == {"older"}


@pytest.mark.parametrize(
    ("selector", "label", "value", "problem"),
    [
        pytest.param(
            "keep notin (true)", "keep", "true", "label_selector='keep notin (true)' no longer", id="the user's"
        ),
        pytest.param("", "kubernetes_pod_operator", None, "label kubernetes_pod_operator is None", id="the operator's"),
    ],
)
def test_a_pod_is_spared_if_somebody_removes_it_from_the_selection_right_before_the_deletion_by_a_label_of(
    server: Server, api: KubeClient, namespace: str, selector: str, label: str, value: str | None, problem: str
) -> None:
    create(server, namespace, "zombie", FAILED_ONCE)
    relabel = proxy.first(lambda: server.patch(namespace, "zombie", {"labels": {label: value}}))
    server.proxy.spoil("DELETE ", relabel, times=1)
    results = clean_up(api, namespace, source_of(FAILED_ONCE), label_selector=selector)
    assert outcomes(results) == {"zombie": Outcome.SPARED}
    assert results["zombie"].verdict.reason is Reason.BAD_LABELS
    assert results["zombie"].verdict.workload.label_problem.startswith(problem)
    assert set(server.pods(namespace)) == {"zombie"}


def test_each_deletion_names_a_time_after_which_the_api_server_drops_it(
    server: Server, api: KubeClient, namespace: str
) -> None:
    create(server, namespace, "zombie", FAILED_ONCE)
    clean_up(api, namespace, source_of(FAILED_ONCE))
    deletions = [line for line in server.proxy.requests if line.startswith("DELETE ")]
    assert deletions == [f"DELETE /api/v1/namespaces/{namespace}/pods/zombie?timeout={DELETE_TIMEOUT}s"]


@contextmanager
def validating_webhook(control_plane: ControlPlane, namespace: str, **options: Any) -> Iterator[None]:
    """Register a webhook for the deletion of pods in one namespace."""
    registration = AdmissionregistrationV1Api(new_client_from_config_dict(control_plane.kubeconfig))
    webhook = {
        "name": "guard.example.com",
        "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["DELETE"], "resources": ["pods"]}],
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        **options,
    }
    registration.create_validating_webhook_configuration({"metadata": {"name": namespace}, "webhooks": [webhook]})
    time.sleep(3)  # until the API server knows of it
    try:
        yield
    finally:
        registration.delete_validating_webhook_configuration(namespace)


@pytest.mark.cluster
def test_a_webhook_that_is_down_is_named_with_the_remedy(
    control_plane: ControlPlane, real_server: Server, connect: Connect
) -> None:
    real_server.proxy.heal()
    namespace = real_server.create_namespace()
    create(real_server, namespace, "zombie", FAILED_ONCE)
    with validating_webhook(control_plane, namespace, clientConfig={"url": "https://127.0.0.1:9"}):
        api = connect({"server": real_server.proxy.url})
        result = clean_up(api, namespace, source_of(FAILED_ONCE), RetryPolicy(attempts=1))["zombie"]
    assert result.error is not None
    assert result.error.cause == '500 Internal Server Error, because webhook "guard.example.com" fails'
    assert result.error.remedy == "restore the service of this webhook; the next run tries again"


@pytest.mark.cluster
@pytest.mark.parametrize("retry_policy", [RetryPolicy(read_timeout=30, attempts=1)], ids=["patient"])
def test_the_real_api_server_drops_a_deletion_that_waits_for_a_webhook(
    control_plane: ControlPlane, real_server: Server, connect: Connect
) -> None:
    """Simulate a webhook that does not answer for 20 seconds and is then ignored."""
    real_server.proxy.heal()
    namespace = real_server.create_namespace()
    create(real_server, namespace, "zombie", FAILED_ONCE)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        options = {"clientConfig": {"url": url}, "failurePolicy": "Ignore", "timeoutSeconds": 20}
        with validating_webhook(control_plane, namespace, **options):
            start = time.monotonic()
            api = connect({"server": real_server.proxy.url})
            result = clean_up(api, namespace, source_of(FAILED_ONCE), RetryPolicy(attempts=1))["zombie"]
            seconds = time.monotonic() - start
            time.sleep(max(0, 22 - seconds))  # until it would have been carried out
    # It responds with 504, or closes the connection.
    assert re.search("504|no answer from", message_of(result))
    assert seconds < 2 * DELETE_TIMEOUT + 5  # the API server notices it late while it waits for a TLS handshake
    assert set(real_server.pods(namespace)) == {"zombie"}
