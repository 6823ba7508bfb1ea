"""A source of task instances that fails in any of its queries: no answer never means "there are none"."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.exc import OperationalError

from include.kpo_cleanup.classify import Snapshot, classify
from include.kpo_cleanup.constants import Outcome
from include.kpo_cleanup.errors import SettingsError, TaskInstanceSourceError
from include.kpo_cleanup.identity import TaskInstanceKey
from include.kpo_cleanup.kube.workloads import KubeClient
from include.kpo_cleanup.reap import reap
from include.kpo_cleanup.results import Result
from include.kpo_cleanup.retry import RetryPolicy
from include.kpo_cleanup.settings import Settings
from include.kpo_cleanup.task_instances.interface import TaskInstanceSource
from include.kpo_cleanup.task_instances.rest import RestSource
from include.kpo_cleanup.task_instances.rest_api import RestApi
from include.kpo_cleanup.task_instances.sdk_queries import SdkQueries
from include.kpo_cleanup.task_instances.sql import SqlSource
from include.kpo_cleanup.task_instances.task_sdk import TaskSdkSource
from tests.faults.cases import NO_XCOMS, OWN, REST_CASES, SOURCE_CASES, Broken, Case, Does, SourceCase, says_pattern
from tests.faults.servers import Server
from tests.proxy import FaultProxy

KEY = TaskInstanceKey("orders", "extract", "run_1")
PODS, BATCH = 5, 2
QUERIES = 1 + -(-PODS // BATCH)  # one to classify, and one before each batch of deletions


class Rows:
    """The rows of the database: all tasks failed."""

    def all(self) -> list[tuple[Any, ...]]:
        return [("orders", task, "run_1", -1, "failed", 1, "2026-11-24 00:00:00", "Operator") for task in TASKS]

    def __iter__(self) -> Iterator[Any]:
        """Return no XCom."""
        return iter(())

    def first(self) -> tuple[str, Any]:
        """Return the caller's task instance."""
        return "running", OWN.id


TASKS = [f"task_{number}" for number in range(PODS)]


def failing_on(
    query: int, answer: Any, error: Exception, counts: Callable[..., bool] = lambda *_args, **_kwargs: True
) -> Callable[..., Any]:
    """Return a function that returns the answer, except to one of the queries that count (0 is the first)."""
    queries = itertools.count()

    def ask(*args: Any, **kwargs: Any) -> Any:
        if counts(*args, **kwargs) and next(queries) == query:
            raise error
        return answer

    return ask


def sdk_source(fails_on: int) -> TaskInstanceSource:
    answer = {"run_1": {**dict.fromkeys(TASKS, "failed"), OWN.task_id: "running"}}
    ask = failing_on(fails_on, answer, Broken("API_SERVER_ERROR"), lambda **question: question["dag_id"] == "orders")
    queries = SdkQueries(SimpleNamespace(get_task_states=ask), ask)
    return TaskSdkSource(queries, NO_XCOMS, OWN, "the Task SDK", [Path(__file__).parent])


def connection(execute: Callable[..., Any]) -> Any:
    return SimpleNamespace(execute=execute, dialect=DefaultDialect())


def sql_source(fails_on: int) -> TaskInstanceSource:
    error = OperationalError("SELECT", {}, Exception("server closed the connection unexpectedly"))
    fails_once = connection(failing_on(fails_on, Rows(), error, lambda _statement, values=None: values is None))
    return SqlSource(lambda: nullcontext(fails_once), OWN, "the metadata connection")


def sql_source_without_connection(fails_on: int) -> TaskInstanceSource:
    error = OperationalError("connect", {}, Exception("could not translate host name"))
    # The query before each batch connects once more, for the records.
    connect: Callable[[], AbstractContextManager[Any]] = failing_on(
        max(2 * fails_on - 1, 0), nullcontext(connection(lambda *_: Rows())), error
    )
    return SqlSource(connect, OWN, "the metadata connection")


SOURCES = {
    "the Task SDK": (
        sdk_source,
        "(?s)the Task SDK could not read task states for .*API_SERVER_ERROR; see the log of Airflow's API server",
    ),
    "SQL": (sql_source, "(?s)task instances could not be read .*server closed the connection .*grant SELECT on"),
    "connecting": (
        sql_source_without_connection,
        "(?s)task instances could not be read .*could not translate host name",
    ),
}


@pytest.fixture
def pods(server: Server, namespace: str) -> list[str]:
    for task in TASKS:
        labels = {"dag_id": "orders", "task_id": task, "run_id": "run_1", "try_number": "1"}
        name = task.replace("_", "-")
        server.create_pod(namespace, name, {**labels, "kubernetes_pod_operator": "True"})
    return sorted(server.pods(namespace))


def clean_up(api: KubeClient, namespace: str, source: TaskInstanceSource) -> list[Result]:
    """Run a cleanup that would delete each unmatched pod at once."""
    settings = Settings(namespaces=namespace, settle_seconds=0, delete_unmatched_pods=True)
    listed = api.list_workloads(settings.namespace_list(), settings.label_selector).workloads
    task_instances = source.fetch({pod.key for pod in listed})
    verdicts = classify(Snapshot(listed, task_instances, settings, int(time.time()) + 1))
    zombies = [verdict for verdict in verdicts if verdict.is_zombie]
    assert len(zombies) == PODS
    return reap(zombies, api, source, settings, [namespace], lambda: time.time() + 1, batch_size=BATCH)


def of(outcome: Outcome, results: Collection[Result]) -> list[Result]:
    return [result for result in results if result.outcome is outcome]


@pytest.mark.parametrize(("make", "message"), SOURCES.values(), ids=SOURCES)
class TestASourceThatFails:
    def test_all_pods_are_deleted_if_no_query_fails(
        self, server: Server, api: KubeClient, namespace: str, pods: list[str], make: Any, message: str
    ) -> None:
        assert len(of(Outcome.DELETED, clean_up(api, namespace, make(fails_on=QUERIES)))) == PODS
        assert server.pods(namespace) == {}

    def test_nothing_is_deleted_if_the_first_query_fails(
        self, server: Server, api: KubeClient, namespace: str, pods: list[str], make: Any, message: str
    ) -> None:
        with pytest.raises(TaskInstanceSourceError, match=message):
            clean_up(api, namespace, make(fails_on=0))
        assert sorted(server.pods(namespace)) == pods

    @pytest.mark.parametrize("query", range(1, QUERIES))
    def test_a_pod_whose_query_fails_alone_is_not_deleted_and_others_are_queried_again(
        self, server: Server, api: KubeClient, namespace: str, pods: list[str], make: Any, message: str, query: int
    ) -> None:
        results = clean_up(api, namespace, make(fails_on=query))
        failed = of(Outcome.FAILED, results)
        assert len(failed) == (query == QUERIES - 1)  # the batch of one pod
        assert len(of(Outcome.DELETED, results)) == PODS - len(failed)
        assert len(server.pods(namespace)) == len(failed)
        for result in failed:
            assert re.search(message, str(result.error))


@pytest.mark.parametrize("case", SOURCE_CASES, ids=lambda case: case.id)
def test_each_fault_of_a_source_has_its_documented_message(case: SourceCase) -> None:
    with pytest.raises(TaskInstanceSourceError) as caught:
        case.source().fetch([KEY])
    assert says_pattern(case.says).search(str(caught.value))


@pytest.mark.parametrize("case", REST_CASES, ids=lambda case: case.id)
def test_each_fault_of_the_rest_api_has_its_documented_message(case: Case) -> None:
    policy = RetryPolicy(read_timeout=0.3 if case.id == "silent" else 5, initial_backoff=0.02)
    with FaultProxy("http://127.0.0.1:9") as proxy:
        proxy.spoil("", case.fault)
        connection = SimpleNamespace(host=proxy.url, port=None, login=None, password="a token")
        with pytest.raises(TaskInstanceSourceError) as caught:
            RestSource(RestApi("airflow_api", connection, policy), OWN, "the REST API").fetch([KEY])
        assert says_pattern(case.says).search(str(caught.value))
        assert len(proxy.requests) == (policy.attempts if case.does is Does.FETCH_RETRIES else 1)
        assert caught.value.is_retryable is (case.does is not Does.FETCH_GIVES_UP)


@pytest.mark.parametrize(
    ("parts", "problem"),
    [
        pytest.param({"host": None}, "the host of connection 'x' is None", id="it has no host"),
        pytest.param({"host": "airflow"}, "the host of connection 'x' is 'airflow'", id="its host is not a URL"),
        pytest.param({"host": "ftp://airflow"}, "is 'ftp://airflow'", id="its host is of another protocol"),
        pytest.param({"host": "http://airflow:y"}, "is 'http://airflow:y'", id="its host has no valid port"),
        pytest.param({"port": 8080}, "is 'http://airflow'", id="the port has a field of its own"),
        pytest.param({"host": "http://me:hush@airflow"}, "is a URL with credentials", id="its host has credentials"),
        pytest.param({"password": None}, "connection 'x' has no usable password", id="it has no password"),
        pytest.param(
            {"password": "hush\nhush"},
            "connection 'x' has no usable password",
            id="its token cannot be sent in a header",
        ),
    ],
)
def test_a_connection_to_the_rest_api_is_rejected_without_its_secrets_if(parts: dict[str, Any], problem: str) -> None:
    fields = {"host": "http://airflow", "port": None, "login": None, "password": "token", **parts}
    with pytest.raises(SettingsError) as caught:
        RestApi("x", SimpleNamespace(**fields))
    assert problem in caught.value.summary
    assert "hush" not in str(caught.value)
