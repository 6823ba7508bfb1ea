"""A source of task instances that fails, in each of its calls: no answer never means "there are none"."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.exc import OperationalError

from include.kpo_cleanup.classify import Snapshot, classify
from include.kpo_cleanup.constants import Outcome
from include.kpo_cleanup.errors import TaskInstanceSourceError
from include.kpo_cleanup.identity import TaskInstanceKey
from include.kpo_cleanup.kube.pods import PodClient
from include.kpo_cleanup.reap import Result, reap
from include.kpo_cleanup.report import failures
from include.kpo_cleanup.retry import RetryPolicy
from include.kpo_cleanup.settings import Settings
from include.kpo_cleanup.task_instances.interface import TaskInstanceSource
from include.kpo_cleanup.task_instances.rest import RestSource
from include.kpo_cleanup.task_instances.rest_api import RestApi
from include.kpo_cleanup.task_instances.sql import SqlSource
from include.kpo_cleanup.task_instances.task_sdk import TaskSdkSource
from tests.faults.cases import NO_XCOMS, OWN, REST_CASES, SOURCE_CASES, Broken, Case, Does, SourceCase, says_pattern
from tests.faults.servers import Server
from tests.proxy import FaultProxy

KEY = TaskInstanceKey("orders", "extract", "run_1")
PODS, BATCH = 5, 2
LOOKS = 1 + -(-PODS // BATCH)  # one before the verdict, and one before each batch of deletions


class Rows:
    """Rows of the database: all tasks failed."""

    def all(self) -> list[tuple[Any, ...]]:
        return [("orders", task, "run_1", -1, "failed", 1, "2026-11-24 00:00:00", "Operator") for task in TASKS]

    def __iter__(self) -> Iterator[Any]:
        """Return no XCom."""
        return iter(())

    def first(self) -> tuple[str, Any]:
        """Return our own task instance."""
        return "running", OWN.id


TASKS = [f"task_{number}" for number in range(PODS)]


def failing_on(
    look: int, answer: Any, error: Exception, is_look: Callable[..., bool] = lambda *_args, **_kwargs: True
) -> Callable[..., Any]:
    """Make a function that gives the answer at each call, except at one look (0 is the first)."""
    looks = iter(range(1_000))

    def ask(*args: Any, **kwargs: Any) -> Any:
        if is_look(*args, **kwargs) and next(looks) == look:
            raise error
        return answer

    return ask


def sdk_source(fails_on: int) -> TaskInstanceSource:
    answer = {"run_1": {**dict.fromkeys(TASKS, "failed"), OWN.task_id: "running"}}
    ask = failing_on(fails_on, answer, Broken("API_SERVER_ERROR"), lambda **question: question["dag_id"] == "orders")
    return TaskSdkSource(ask, NO_XCOMS, OWN, "the Task SDK")


def connection(execute: Callable[..., Any]) -> Any:
    return SimpleNamespace(execute=execute, dialect=DefaultDialect())


def sql_source(fails_on: int) -> TaskInstanceSource:
    error = OperationalError("SELECT", {}, Exception("server closed the connection unexpectedly"))
    fails_once = connection(failing_on(fails_on, Rows(), error, lambda _statement, values=(): "runs" in values))
    return SqlSource(lambda: nullcontext(fails_once), OWN, "the metadata connection")


def sql_source_without_connection(fails_on: int) -> TaskInstanceSource:
    error = OperationalError("connect", {}, Exception("could not translate host name"))
    # The looks before a batch connect once more, for the records.
    connect: Callable[[], AbstractContextManager[Any]] = failing_on(
        max(2 * fails_on - 1, 0), nullcontext(connection(lambda *_: Rows())), error
    )
    return SqlSource(connect, OWN, "the metadata connection")


SOURCES = {
    "the Task SDK": (
        sdk_source,
        "(?s)the Task SDK could not read task states for .*API_SERVER_ERROR; see the API server's log",
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


def clean_up(api: PodClient, namespace: str, source: TaskInstanceSource) -> list[Result]:
    """Run the steps of a run in which each unmatched pod would be deleted at once."""
    settings = Settings(namespaces=namespace, settle_seconds=0, delete_unmatched_pods=True)
    listed = api.list_pods(settings.namespace_list(), settings.label_selector).pods
    told = source.fetch({pod.key for pod in listed})
    verdicts = classify(Snapshot(listed, told, settings, int(time.time()) + 1))
    doomed = [verdict for verdict in verdicts if verdict.is_zombie]
    assert len(doomed) == PODS
    return reap(doomed, api, source, settings, [namespace], lambda: time.time() + 1, batch_size=BATCH)


def of(outcome: Outcome, results: Collection[Result]) -> list[Result]:
    return [result for result in results if result.outcome is outcome]


@pytest.mark.parametrize(("make", "message"), SOURCES.values(), ids=SOURCES)
class TestFailsOn:
    def test_none_of_its_calls(
        self, server: Server, api: PodClient, namespace: str, pods: list[str], make: Any, message: str
    ) -> None:
        assert len(of(Outcome.DELETED, clean_up(api, namespace, make(fails_on=LOOKS)))) == PODS
        assert server.pods(namespace) == {}

    def test_the_first_look(
        self, server: Server, api: PodClient, namespace: str, pods: list[str], make: Any, message: str
    ) -> None:
        with pytest.raises(TaskInstanceSourceError, match=message):
            clean_up(api, namespace, make(fails_on=0))
        assert sorted(server.pods(namespace)) == pods

    @pytest.mark.parametrize("look", range(1, LOOKS))
    def test_the_look_before_a_batch(
        self, server: Server, api: PodClient, namespace: str, pods: list[str], make: Any, message: str, look: int
    ) -> None:
        results = clean_up(api, namespace, make(fails_on=look))
        deleted = (look - 1) * BATCH
        failed = of(Outcome.FAILED, results)
        assert len(of(Outcome.DELETED, results)) == deleted
        assert len(failed) == min(BATCH, PODS - deleted)
        assert len(of(Outcome.LEFT_FOR_NEXT_RUN, results)) == PODS - deleted - len(failed)
        assert len(server.pods(namespace)) == PODS - deleted
        for line in failures(results):
            assert re.search(message, line)


@pytest.mark.parametrize("case", SOURCE_CASES, ids=lambda case: case.id)
def test_what_is_wrong_with_the_source_is_named(case: SourceCase) -> None:
    with pytest.raises(TaskInstanceSourceError) as caught:
        case.source().fetch([KEY])
    assert says_pattern(case.says).search(str(caught.value))


@pytest.mark.parametrize("case", REST_CASES, ids=lambda case: case.id)
def test_what_is_wrong_with_the_rest_api_is_named(case: Case) -> None:
    patience = RetryPolicy(read_timeout=0.3 if case.id == "silent" else 5, initial_backoff=0.01)
    with FaultProxy("http://127.0.0.1:9") as proxy:
        proxy.spoil("", case.fault)
        connection = SimpleNamespace(host=proxy.url, port=None, login=None, password="a token")
        with pytest.raises(TaskInstanceSourceError) as caught:
            RestSource(RestApi("airflow_api", connection, patience), OWN, "the REST API").fetch([KEY])
        assert says_pattern(case.says).search(str(caught.value))
        assert len(proxy.requests) == (patience.attempts if case.does is Does.FETCH_RETRIES else 1)
        assert caught.value.is_retryable is (case.does is not Does.FETCH_GIVES_UP)
