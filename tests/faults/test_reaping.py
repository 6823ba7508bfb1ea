"""Faults of some requests of a whole ``reap``: the other pods are tried, and each pod is accounted for."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping

import pytest

from include.kpo_cleanup.classify import classify
from include.kpo_cleanup.kube import CONCURRENT_DELETES
from include.kpo_cleanup.kube.pods import PodApi
from include.kpo_cleanup.reap import Result, reap
from include.kpo_cleanup.settings import Settings
from include.kpo_cleanup.vocabulary import Outcome
from tests import proxy
from tests.faults.cases import DELETE_CASES, LIST_CASES, Case, Does, says_pattern
from tests.faults.servers import Server
from tests.faults.world import MemorySource, Task

FAILED_ONCE = Task("", "orders", "over", "run_1", state="failed", ended=0)
IN_TRY_2 = Task("", "orders", "live", "run_1", state="running", try_number=2)


def create(server: Server, namespace: str, name: str, task: Task, try_number: int = 1) -> None:
    server.create_pod(namespace, name, {**task.labels, "try_number": str(try_number)})


def source_of(*tasks: Task) -> MemorySource:
    return MemorySource({task.key: task for task in tasks})


def clean_up(api: PodApi, namespace: str, source: MemorySource) -> dict[str, Result]:
    """Judge all pods and reap; the results by pod name."""
    settings = Settings(namespaces=namespace, settle_seconds=0)
    listed = api.list_pods(settings.namespace_list(), settings.label_selector).pods
    told = source.fetch({pod.key for pod in listed})
    verdicts = classify(listed, told, settings, int(time.time()) + 1)
    doomed = [verdict for verdict in verdicts if verdict.is_zombie]
    results = reap(doomed, api, source, settings, lambda: time.time() + 1)
    assert sorted(r.verdict.pod.uid for r in results) == sorted(v.pod.uid for v in doomed)
    return {result.verdict.pod.name: result for result in results}


def outcomes(results: Mapping[str, Result]) -> dict[str, Outcome]:
    return {name: result.outcome for name, result in results.items()}


@pytest.mark.parametrize(
    "case", [c for c in DELETE_CASES if c.does in (Does.DELETE_RETRIES, Does.DELETE_FAILS)], ids=lambda case: case.id
)
def test_a_pod_that_cannot_be_deleted_does_not_stop_the_others(
    server: Server, api: PodApi, namespace: str, case: Case
) -> None:
    names = ["zombie-0", "zombie-1", "zombie-2"]
    for name in names:
        create(server, namespace, name, FAILED_ONCE)
    server.proxy.spoil("DELETE .*/zombie-1$", case.fault)
    results = clean_up(api, namespace, source_of(FAILED_ONCE))
    assert outcomes(results) == {**dict.fromkeys(names, Outcome.DELETED), "zombie-1": Outcome.FAILED}
    assert says_pattern(case.says, namespace=namespace, pod="zombie-1").search(str(results["zombie-1"].deletion))


@pytest.mark.parametrize("case", LIST_CASES, ids=lambda case: case.id)
def test_where_the_successor_cannot_be_looked_up_its_pod_is_kept_and_the_others_go(
    server: Server, api: PodApi, namespace: str, case: Case
) -> None:
    create(server, namespace, "zombie", FAILED_ONCE)
    create(server, namespace, "older", IN_TRY_2, 1)
    create(server, namespace, "newer", IN_TRY_2, 2)
    server.proxy.spoil("GET .*labelSelector=dag_id", case.fault)
    results = clean_up(api, namespace, source_of(FAILED_ONCE, IN_TRY_2))
    assert outcomes(results) == {"zombie": Outcome.DELETED, "older": Outcome.FAILED}
    assert set(server.pods(namespace)) == {"older", "newer"}
    says = "400 Bad Request; the server says: unable to parse" if case.does is Does.RUN_FAILS else case.says
    assert says_pattern(says, namespace=namespace).search(str(results["older"].deletion))


def test_two_runs_at_once_do_not_get_in_each_others_way(server: Server, api: PodApi, namespace: str) -> None:
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


def test_an_api_server_that_answers_no_more_is_left_alone(server: Server, api: PodApi, namespace: str) -> None:
    names = [f"zombie-{number}" for number in range(3 * CONCURRENT_DELETES)]
    for name in names:
        create(server, namespace, name, FAILED_ONCE)
    server.proxy.spoil("DELETE ", proxy.reset)
    found = Counter(outcomes(clean_up(api, namespace, source_of(FAILED_ONCE))).values())
    assert set(found) == {Outcome.FAILED, Outcome.LEFT_FOR_NEXT_RUN}
    assert found[Outcome.FAILED] < 2 * CONCURRENT_DELETES  # those that were under way, each with all its attempts
    assert set(server.pods(namespace)) == set(names)


def test_the_pod_of_a_run_that_was_made_again_is_no_older_pod(server: Server, api: PodApi, namespace: str) -> None:
    """A DAG run was deleted, and made anew under its run_id: its tries begin with 1 again.

    With ``reattach_on_restart=False`` the operator makes a pod of try 1, while one of try 3 is still there from
    before. The higher try number is that of the dead pod.
    """
    again = Task("", "orders", "live", "run_1", state="running", try_number=1)
    create(server, namespace, "dead", again, 3)
    time.sleep(1.1)  # the API server has no more than seconds; by them the operator tells which is the later one
    create(server, namespace, "live", again, 1)
    results = clean_up(api, namespace, source_of(again))
    assert "live" in server.pods(namespace), results["live"].verdict.evidence


def test_a_second_look_sees_what_became_of_the_successor(server: Server, api: PodApi, namespace: str) -> None:
    create(server, namespace, "older", IN_TRY_2, 1)
    create(server, namespace, "newer", IN_TRY_2, 2)
    server.proxy.spoil("GET .*labelSelector=dag_id", proxy.first(lambda: server.delete(namespace, "newer")))
    assert outcomes(clean_up(api, namespace, source_of(IN_TRY_2))) == {"older": Outcome.SPARED}
    assert set(server.pods(namespace)) == {"older"}
