"""Faults of some requests of a whole ``reap``: the other pods are tried, and each pod is accounted for."""

from __future__ import annotations

import time
from collections import Counter

import pytest

from include.kpo_cleanup.constants import Outcome
from include.kpo_cleanup.kube import CONCURRENT_DELETES
from include.kpo_cleanup.kube.pods import PodClient
from include.kpo_cleanup.reap import Result
from tests import proxy
from tests.faults.cases import DELETE_CASES, LIST_CASES, Case, Does, says_pattern
from tests.faults.runs import FAILED_ONCE, IN_TRY_2, clean_up, create, outcomes, source_of
from tests.faults.servers import Server
from tests.faults.world import Task

SECOND_LISTING = "GET .*/pods\\?"


@pytest.mark.parametrize(
    "case", [c for c in DELETE_CASES if c.does in (Does.DELETE_RETRIES, Does.DELETE_FAILS)], ids=lambda case: case.id
)
def test_a_pod_that_cannot_be_deleted_does_not_stop_the_others(
    server: Server, api: PodClient, namespace: str, case: Case
) -> None:
    names = ["zombie-0", "zombie-1", "zombie-2"]
    for name in names:
        create(server, namespace, name, FAILED_ONCE)
    server.proxy.spoil("DELETE .*/zombie-1$", case.fault)
    results = clean_up(api, namespace, source_of(FAILED_ONCE))
    assert outcomes(results) == {**dict.fromkeys(names, Outcome.DELETED), "zombie-1": Outcome.FAILED}
    assert says_pattern(case.says, namespace=namespace, pod="zombie-1").search(str(results["zombie-1"].deletion))


@pytest.mark.parametrize("case", LIST_CASES, ids=lambda case: case.id)
def test_if_the_second_listing_fails_nothing_is_deleted_and_the_report_says_why(
    server: Server, api: PodClient, namespace: str, case: Case
) -> None:
    create(server, namespace, "zombie", FAILED_ONCE)
    source = source_of(FAILED_ONCE)
    source.before_fetch = lambda: server.proxy.spoil(SECOND_LISTING, case.fault)  # that is, after the first listing
    results = clean_up(api, namespace, source)
    assert outcomes(results) == {"zombie": Outcome.FAILED}
    assert set(server.pods(namespace)) == {"zombie"}
    assert says_pattern(case.says, namespace=namespace).search(str(results["zombie"].deletion))


def test_two_runs_at_once_do_not_get_in_each_others_way(server: Server, api: PodClient, namespace: str) -> None:
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


def test_an_api_server_that_answers_no_more_is_left_alone(server: Server, api: PodClient, namespace: str) -> None:
    names = [f"zombie-{number}" for number in range(3 * CONCURRENT_DELETES)]
    for name in names:
        create(server, namespace, name, FAILED_ONCE)
    server.proxy.spoil("DELETE ", proxy.reset)
    found = Counter(outcomes(clean_up(api, namespace, source_of(FAILED_ONCE))).values())
    assert set(found) == {Outcome.FAILED, Outcome.LEFT_FOR_NEXT_RUN}
    assert found[Outcome.FAILED] < 2 * CONCURRENT_DELETES  # those that were under way, each with all its attempts
    assert set(server.pods(namespace)) == set(names)


def test_the_pod_of_a_run_that_was_made_again_is_no_older_pod(server: Server, api: PodClient, namespace: str) -> None:
    """Delete a DAG run and make it again under its run_id: its tries begin with 1 again.

    With ``reattach_on_restart=False`` the operator makes a pod of try 1, while an older one of try 3 still exists. The
    dead pod has the higher try number.
    """
    again = Task("", "orders", "live", "run_1", state="running", try_number=1)
    create(server, namespace, "dead", again, 3)
    time.sleep(1.1)  # the API server has no more than seconds; by them the operator tells which is the later one
    create(server, namespace, "live", again, 1)
    results = clean_up(api, namespace, source_of(again))
    assert "live" in server.pods(namespace), results["live"].verdict.evidence


def test_the_second_listing_sees_what_became_of_the_successor(server: Server, api: PodClient, namespace: str) -> None:
    create(server, namespace, "older", IN_TRY_2, 1)
    time.sleep(1.1)  # the API server has no more than seconds
    create(server, namespace, "newer", IN_TRY_2, 2)
    source = source_of(IN_TRY_2)

    def vanish() -> None:
        if "newer" in server.pods(namespace):
            server.delete(namespace, "newer")

    source.before_fetch = vanish
    assert outcomes(clean_up(api, namespace, source)) == {"older": Outcome.SPARED}
    assert set(server.pods(namespace)) == {"older"}


@pytest.mark.parametrize(
    ("selector", "label", "value", "why"),
    [
        pytest.param(
            "keep notin (true)", "keep", "true", "label_selector='keep notin (true)' does not match", id="the user's"
        ),
        pytest.param("", "kubernetes_pod_operator", None, "label kubernetes_pod_operator is None", id="the operator's"),
    ],
)
def test_a_pod_that_is_taken_out_of_the_selection_at_the_last_moment_is_spared_by_label(
    server: Server, api: PodClient, namespace: str, selector: str, label: str, value: str | None, why: str
) -> None:
    create(server, namespace, "zombie", FAILED_ONCE)
    relabel = proxy.first(lambda: server.patch(namespace, "zombie", {"labels": {label: value}}))
    server.proxy.spoil("DELETE ", relabel, times=1)
    results = clean_up(api, namespace, source_of(FAILED_ONCE), label_selector=selector)
    assert outcomes(results) == {"zombie": Outcome.SPARED}
    assert str(results["zombie"].deletion).startswith(f"bad_labels now: {why}")
    assert set(server.pods(namespace)) == {"zombie"}
