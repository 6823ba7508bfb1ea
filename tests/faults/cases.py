"""The documented faults. The tests inject them, and docs/faults.md is generated from the same tables.

    python -m tests.faults.cases > docs/faults.md

In a message (``says``), ``…`` stands for any text, and ``{namespace}`` and ``{pod}`` for names.
"""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web
from sqlalchemy import column, create_engine, insert, table, text

from include.kpo_cleanup import xcom
from include.kpo_cleanup.config import read_settings
from include.kpo_cleanup.constants import Reason
from include.kpo_cleanup.identity import UNMAPPED, TaskInstanceKey
from include.kpo_cleanup.kube.interface import CONCURRENT_DELETES, DELETE_TIMEOUT
from include.kpo_cleanup.kube.workloads import MAX_RESTARTS, KubeClient
from include.kpo_cleanup.reap.schedule import (
    BATCH,
    MAX_FAILURES,
    MAX_NAMESPACES,
    MAX_PROBES,
    MAX_QUERY_FAILURES,
    MAX_QUERY_SECONDS,
    MAX_SILENT,
)
from include.kpo_cleanup.reap.snapshot import MAX_SNAPSHOT_AGE
from include.kpo_cleanup.retry import RetryPolicy
from include.kpo_cleanup.settings import Settings
from include.kpo_cleanup.surge import find_surge
from include.kpo_cleanup.task_instance import CallerTaskInstance
from include.kpo_cleanup.task_instances.interface import TaskInstanceSource
from include.kpo_cleanup.task_instances.rest import RestSource
from include.kpo_cleanup.task_instances.rest_api import RestApi
from include.kpo_cleanup.task_instances.sdk_queries import SdkQueries
from include.kpo_cleanup.task_instances.sql import TASK_INSTANCE, SqlSource, metadata_connection
from include.kpo_cleanup.task_instances.task_sdk import TaskSdkSource
from include.kpo_cleanup.tasks import pull_return_values
from include.kpo_cleanup.workloads.labels import PROTECT_KEY
from tests import proxy
from tests.proxy import Fault

LISTING = "listing pods in namespace '{namespace}': "
DELETING = "deleting the pod: "
NO_RESPONSE = "no answer from …: "
POLICY = RetryPolicy()
LOGIN_PAGE = "<html><body>Please log in</body></html>"


class Does(StrEnum):
    """The reaction of a run to a persistent fault."""

    LIST_RETRIES = f"Makes {POLICY.attempts} attempts, then skips the namespace."
    LIST_GIVES_UP = "Skips the namespace at once."
    LIST_RESTARTS = f"Restarts the listing up to {MAX_RESTARTS} times, then skips the namespace."
    RUN_FAILS = "`list_pods` fails without a retry. Nothing is deleted."
    TASK_FAILS = "The task fails before its first request. Nothing is deleted."
    REAP_STOPS = "`reap` fails before its first deletion."
    DELETE_RETRIES = f"Makes {POLICY.attempts} attempts, then the pod is `failed`."
    DELETE_FAILS = "The pod is `failed` at once."
    ALREADY_GONE = "The pod is `already_gone`. The run succeeds."
    DELETED = "The pod is `deleted`. The run succeeds."
    FETCH_FAILS = "`fetch_active_tis` fails. Nothing is deleted."
    FETCH_RETRIES = f"Tries up to {POLICY.attempts} times. Then `fetch_active_tis` fails. Nothing is deleted."
    FETCH_GIVES_UP = "`fetch_active_tis` fails at once and is not retried. Nothing is deleted."


@dataclass(frozen=True)
class Case:
    """One fault of one request, and what the person on call has to do."""

    id: str
    wrong: str
    does: Does
    says: str
    to_do: str
    fault: Fault = field(repr=False)


@dataclass(frozen=True)
class ConnectionCase:
    """A wrong address. ``cluster`` returns the kubeconfig's cluster, given the right one."""

    id: str
    wrong: str
    says: str
    to_do: str
    cluster: Callable[[Mapping[str, Any]], dict[str, Any]] = field(repr=False)
    does = Does.LIST_RETRIES


@dataclass(frozen=True)
class SourceCase:
    """A source of task instances that does not respond."""

    id: str
    wrong: str
    says: str
    to_do: str
    source: Callable[[], TaskInstanceSource] = field(repr=False)
    does = Does.FETCH_FAILS


@dataclass(frozen=True)
class SetupCase:
    """A setting or a connection that cannot be used."""

    id: str
    wrong: str
    does: Does
    says: str
    to_do: str
    fails: Callable[[], Any] = field(repr=False)  # raises the error, or returns it


@dataclass(frozen=True)
class PodCase:
    """An odd pod. It would be a zombie otherwise: its task instance failed long ago, and it is still running."""

    id: str
    odd: str
    reason: Reason
    labels: Mapping[str, str | None] = field(default_factory=dict)  # None = without that label
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_zombie(self) -> bool:
        return self.reason is Reason.ORPHANED


def says_pattern(says: str, **names: str) -> re.Pattern[str]:
    """Return the pattern that the message must match."""
    for name, value in names.items():
        says = says.replace("{" + name + "}", value)
    return re.compile(".*".join(re.escape(part) for part in says.split("…")), re.DOTALL)


def _json(value: object, code: int = 200) -> Fault:
    return proxy.answer(code, json.dumps(value), "application/json")


def _too_many_requests() -> Fault:
    return proxy.status(429, "TooManyRequests", "the server has received too many requests", Retry_After="0")


_OVERLOADED = "The API server is overloaded. Check its priority and fairness metrics. The next run tries again."
_SERVER_DOWN = "The control plane is failing or restarting. Check its logs. The next run tries again."
_NETWORK = "Check the network, the load balancer and any proxies. The next run tries again."
_NOT_KUBERNETES = (
    "A gateway or a login page responded instead of the API server. Correct the host of the connection "
    "`kubernetes_conn_id`."
)
_CREDENTIALS = "Renew the credentials of the connection `kubernetes_conn_id`."

# Retryable faults of any request: id, fault, how to inject it, end of the message, and what to do.
_RETRYABLE: list[tuple[str, str, Fault, str, str]] = [
    (
        "429",
        "429 Too Many Requests",
        _too_many_requests(),
        "429 Too Many Requests; server message: the server has received too many requests",
        _OVERLOADED,
    ),
    (
        "500",
        "500 Internal Server Error",
        proxy.status(500, "InternalError", "etcdserver: leader changed"),
        "500 Internal Server Error; server message: etcdserver: leader changed",
        _SERVER_DOWN,
    ),
    (
        "500-not-text",
        "an error whose body is not text",
        proxy.answer(500, b"\xff\xfe\x00"),
        "the response is an error whose body is not text",
        _NETWORK,
    ),
    (
        "502-gateway",
        "502 from a gateway",
        proxy.answer(502, "<h1>Bad Gateway</h1>"),
        "502 Bad Gateway; server message: …",
        _NETWORK,
    ),
    (
        "503",
        "503 Service Unavailable",
        proxy.status(503, "ServiceUnavailable", "apiserver is shutting down"),
        "503 Service Unavailable; server message: apiserver is shutting down",
        _SERVER_DOWN,
    ),
    (
        "504",
        "504 Gateway Timeout",
        proxy.status(504, "Timeout", "request did not complete within the allotted timeout"),
        "504 Gateway Timeout; server message: request did not complete",
        _OVERLOADED,
    ),
    (
        "reset",
        "the connection is reset",
        proxy.reset,
        f"{NO_RESPONSE}connection reset by peer; check the network…",
        _NETWORK,
    ),
    (
        "reset-midway",
        "the connection is reset in the middle of the response",
        proxy.reset_midway,
        f"{NO_RESPONSE}connection reset by peer; check the network…",
        _NETWORK,
    ),
    (
        "truncated",
        "the response is cut off",
        proxy.truncated,
        f"{NO_RESPONSE}IncompleteRead…; check the network…",
        _NETWORK,
    ),
    (
        "silent",
        f"no response within {POLICY.read_timeout:g} s",
        proxy.silent,
        f"{NO_RESPONSE}read timed out…; check the load of the API server…",
        "The API server or the network is too slow. Check the load of the API server. The next run tries again.",
    ),
    (
        "login-page",
        "an HTML page instead of JSON",
        proxy.answer(200, LOGIN_PAGE),
        "the response is not JSON: …Please log in",
        _NOT_KUBERNETES,
    ),
    (
        "json-list",
        "JSON that is not an object (`[]`)",
        _json([]),
        "the response is not a JSON object: b'[]'",
        _NOT_KUBERNETES,
    ),
    (
        "redirect",
        "a redirect to another page",
        proxy.answer(302, "", Location="/login"),
        f"{NO_RESPONSE}too many redirects; check that the connection's host is a Kubernetes API server",
        _NOT_KUBERNETES,
    ),
]


_CUT_OFF = ("truncated", "reset-midway")  # responses of an API server that has done what was requested


def _retryable(prefix: str, does: Does) -> list[Case]:
    return [Case(name, wrong, does, prefix + end, to_do, fault) for name, wrong, fault, end, to_do in _RETRYABLE]


LIST_CASES = [
    *_retryable(LISTING, Does.LIST_RETRIES),
    Case(
        "other-json",
        "JSON of another kind",
        Does.LIST_GIVES_UP,
        LISTING
        + "the response has no kind, not a PodList; check that the connection's host is a Kubernetes API server",
        _NOT_KUBERNETES,
        _json({"login": "https://sso.example.org"}),
    ),
    Case(
        "not-a-pod",
        "a list of objects that are not pods",
        Does.LIST_GIVES_UP,
        LISTING + "an item lacks namespace, name, uid or creationTimestamp",
        _NOT_KUBERNETES,
        _json({"kind": "PodList", "items": [{"metadata": {"name": "odd"}}]}),
    ),
    Case(
        "401",
        "401 Unauthorized",
        Does.LIST_GIVES_UP,
        LISTING + "401 Unauthorized; renew the connection's credentials, which are missing, wrong or expired; "
        "server message: …",
        _CREDENTIALS,
        proxy.status(401, "Unauthorized", "Unauthorized"),
    ),
    Case(
        "403",
        "403 Forbidden",
        Does.LIST_GIVES_UP,
        LISTING + "403 Forbidden; allow verb 'list' on resource 'pods' in a Role for namespace '{namespace}' "
        "(see manifests/rbac.yaml), and check that the namespace exists; server message: …",
        "Apply the RBAC manifest to that namespace, or correct `namespaces`.",
        proxy.forbidden("list", "airflow"),
    ),
    Case(
        "404-gateway",
        "404 from a gateway",
        Does.LIST_GIVES_UP,
        LISTING + "404 Not Found, not from an API server; check that the connection's host is a Kubernetes API server; "
        "server message: …",
        _NOT_KUBERNETES,
        proxy.answer(404, "<h1>Not Found</h1>"),
    ),
    Case(
        "404-gateway-json",
        "404 from a gateway, as JSON with a message",
        Does.LIST_GIVES_UP,
        LISTING + "404 Not Found, not from an API server; check that the connection's host is a Kubernetes API server; "
        "server message: no Route matched with those values",
        _NOT_KUBERNETES,
        _json({"message": "no Route matched with those values"}, 404),
    ),
    Case(
        "http-to-https",
        "an http address for an https port",
        Does.LIST_GIVES_UP,
        LISTING + "400 Bad Request, not from an API server; …; server message: Client sent an HTTP request to an HTTPS "
        "server.",
        "Start the host of the connection `kubernetes_conn_id` with `https://`.",
        proxy.answer(400, "Client sent an HTTP request to an HTTPS server.\n", "text/plain"),
    ),
    Case(
        "bad-selector",
        "the label selector is invalid",
        Does.RUN_FAILS,
        "label_selector=… was rejected by the API server; correct its syntax; "
        "server message: unable to parse requirement: …",
        "Correct `label_selector`.",
        proxy.status(400, "BadRequest", "unable to parse requirement: found 'x', expected: ')'"),
    ),
    Case(
        "410",
        "the continue token has expired (410)",
        Does.LIST_RESTARTS,
        LISTING + "410 Gone; server message: The provided continue parameter is too old",
        "The listing takes longer than etcd keeps old revisions. Narrow `namespaces` or `label_selector`.",
        proxy.status(410, "Expired", "The provided continue parameter is too old to display a consistent list"),
    ),
]

DELETE_CASES = [
    *(case for case in _retryable(DELETING, Does.DELETE_RETRIES) if case.id not in _CUT_OFF),
    *(
        replace(case, id=f"carried-out-{case.id}", does=Does.DELETED, says="", to_do="Nothing.")
        for case in _retryable(DELETING, Does.DELETE_RETRIES)
        if case.id in _CUT_OFF
    ),
    Case(
        "webhook-down",
        "an admission webhook does not respond (500)",
        Does.DELETE_RETRIES,
        DELETING + '500 Internal Server Error, because webhook "guard.example.com" fails; restore the service of …',
        "Repair the webhook, or the policy engine that serves it. The next run tries again.",
        proxy.status(
            500,
            "InternalError",
            'Internal error occurred: failed calling webhook "guard.example.com": failed to call webhook: Post '
            '"https://guard.policy.svc:443/validate?timeout=10s": context deadline exceeded',
        ),
    ),
    Case(
        "other-json",
        "JSON of another kind",
        Does.DELETE_FAILS,
        DELETING + "the response has no kind, not a Pod or Status",
        _NOT_KUBERNETES,
        _json({"login": "https://sso.example.org"}),
    ),
    Case(
        "400",
        "400 Bad Request",
        Does.DELETE_FAILS,
        DELETING + "400 Bad Request; server message: the body of the request was in an unknown format",
        "The API server does not accept the request. Report this as a bug.",
        proxy.status(400, "BadRequest", "the body of the request was in an unknown format"),
    ),
    Case(
        "401",
        "401 Unauthorized",
        Does.DELETE_FAILS,
        DELETING + "401 Unauthorized; renew the connection's credentials, …; server message: Unauthorized",
        _CREDENTIALS,
        proxy.status(401, "Unauthorized", "Unauthorized"),
    ),
    Case(
        "403",
        "403 Forbidden",
        Does.DELETE_FAILS,
        DELETING + "403 Forbidden; allow verb 'delete' on resource 'pods' in a Role for namespace '{namespace}' "
        "(see manifests/rbac.yaml); server message: …",
        "Apply the RBAC manifest to that namespace.",
        proxy.forbidden("delete", "airflow"),
    ),
    *(
        Case(
            f"{code}-admission",
            f"an admission webhook or policy denies it with {code}",
            Does.DELETE_FAILS,
            DELETING + f'{code} {reason}, by admission webhook "guard.example.com"; exempt the cleanup from …; '
            'server message: admission webhook "guard.example.com" denied …',
            "Change the policy, or annotate the pod with `kpo-cleanup/protect`.",
            proxy.denied(code, words),
        )
        for code, reason, words in [
            (403, "Forbidden", "Forbidden"),
            (404, "Not Found", "NotFound"),
            (409, "Conflict", "Conflict"),
        ]
    ),
    Case(
        "404-gateway",
        "404 from a gateway",
        Does.DELETE_FAILS,
        DELETING + "404 Not Found, not from an API server; …; server message: …",
        _NOT_KUBERNETES,
        proxy.answer(404, "<h1>Not Found</h1>"),
    ),
    Case(
        "404-gateway-json",
        "404 from a gateway, as JSON with a message",
        Does.DELETE_FAILS,
        DELETING + "404 Not Found, not from an API server; …; server message: no Route matched with those values",
        _NOT_KUBERNETES,
        _json({"message": "no Route matched with those values"}, 404),
    ),
    Case(
        "409-gateway",
        "409 from a gateway",
        Does.DELETE_FAILS,
        DELETING + "409 Conflict, not from an API server; …",
        _NOT_KUBERNETES,
        proxy.answer(409, "<h1>Conflict</h1>"),
    ),
    Case(
        "410",
        "410 Gone from a gateway",
        Does.DELETE_FAILS,
        DELETING + "410 Gone, not from an API server; …",
        _NOT_KUBERNETES,
        proxy.answer(410, "<h1>Gone</h1>"),
    ),
    Case(
        "carried-out-reset",
        "the connection is reset after the API server has deleted the pod",
        Does.DELETED,
        "",
        "Nothing.",
        proxy.too_late(proxy.reset),
    ),
    Case(
        "carried-out-silent",
        "the API server deletes the pod, but its response is lost",
        Does.DELETED,
        "",
        "Nothing.",
        proxy.too_late(proxy.silent),
    ),
    Case(
        "carried-out-garbled",
        "the API server deletes the pod, but its response is not JSON",
        Does.DELETED,
        "",
        "Nothing.",
        proxy.too_late(proxy.answer(200, LOGIN_PAGE)),
    ),
    Case(
        "carried-out-other-json",
        "the API server deletes the pod, but the response is JSON of another kind",
        Does.DELETED,
        "",
        "Nothing.",
        proxy.too_late(_json({"login": "https://sso.example.org"})),
    ),
    Case(
        "404",
        "the pod no longer exists (404)",
        Does.ALREADY_GONE,
        "the pod no longer exists",
        "Nothing.",
        proxy.status(404, "NotFound", 'pods "zombie" not found'),
    ),
    Case(
        "409",
        "409 Conflict, although the pod has not changed",
        Does.DELETE_FAILS,
        DELETING + "409 Conflict; server message: the admission webhook is busy",
        "Find out what rejects the request, using the server message.",
        proxy.status(409, "Conflict", "the admission webhook is busy"),
    ),
]


def free_port() -> int:
    """Return a port on which nothing listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


_HOST_WRONG = "Correct the host of the connection `kubernetes_conn_id`."
CONNECTION_CASES = [
    ConnectionCase(
        "refused",
        "nothing listens at the address",
        LISTING + NO_RESPONSE + "connection refused; check that the API server is running…",
        "Check that the API server is running. " + _HOST_WRONG,
        lambda _right: {"server": f"https://127.0.0.1:{free_port()}"},
    ),
    ConnectionCase(
        "no-such-host",
        "the host name cannot be resolved",
        LISTING + NO_RESPONSE + "failed to resolve 'no-such-host.invalid' …; check that DNS works…",
        "Check that DNS works. " + _HOST_WRONG,
        lambda _right: {"server": "https://no-such-host.invalid"},
    ),
    ConnectionCase(
        "untrusted",
        "the certificate is not trusted",
        LISTING + NO_RESPONSE + "…certificate verify failed: …; put the cluster's CA…",
        "Put the cluster's CA into the kubeconfig of the connection. A cluster that was recreated has a new CA.",
        lambda right: {"server": right["server"]},
    ),
    ConnectionCase(
        "other-name",
        "the certificate is for another name",
        LISTING + NO_RESPONSE + "…certificate is not valid for 'elsewhere.example.org'…; use a name…",
        "Use a name that is in the API server's certificate.",
        lambda right: {**right, "tls-server-name": "elsewhere.example.org"},
    ),
    ConnectionCase(
        "https-to-http",
        "an https address for an http port",
        LISTING + NO_RESPONSE + "[SSL…; correct the host of connection '…'",
        _HOST_WRONG,
        lambda right: {"server": right["plain"].replace("http://", "https://")},
    ),
]


class NoXComs:
    """XComs of operators that pushed none."""

    def get_all(self, **_query: Any) -> None:
        return None

    def get_one(self, **_query: Any) -> None:
        return None


NO_XCOMS = NoXComs()


class Broken(Exception):
    """Something that went wrong in Airflow."""


# The caller: the cleanup's own task instance.
OWN = CallerTaskInstance("kpo_cleanup", "fetch_active_tis", "run_1", UNMAPPED, "0197f0a2-5b1c-7d3e-8f90-a1b2c3d4e5f6")


def _sdk(get_task_states: Callable[..., Any]) -> TaskInstanceSource:
    queries = SdkQueries(SimpleNamespace(get_task_states=get_task_states), _sdk_raises)
    return TaskSdkSource(queries, NO_XCOMS, OWN, "the Task SDK", [Path(__file__).parent])


def _sdk_raises(*_ids: object, **_query: object) -> Any:
    raise Broken("API_SERVER_ERROR: 500")


def _sql(*own_rows: tuple[str, str]) -> TaskInstanceSource:
    """Return a source whose database has the caller's task instance with these states and ids."""

    @contextmanager
    def connect() -> Any:
        with create_engine("sqlite://").connect() as connection:
            names = ", ".join(column.name for column in TASK_INSTANCE.columns)
            connection.execute(text(f"CREATE TABLE task_instance ({names}, id)"))
            for state, id_ in own_rows:
                values = {**OWN._asdict(), "state": state, "id": id_}
                connection.execute(insert(table("task_instance", *map(column, values))), values)
            yield connection

    return SqlSource(connect, OWN, "the metadata connection")


def _empty() -> AbstractContextManager[Any]:
    return create_engine("sqlite://").connect()


def _replica() -> AbstractContextManager[Any]:
    """Connect to a PostgreSQL server that reports that it is a replica."""
    yes = SimpleNamespace(scalar=lambda: True)
    return nullcontext(SimpleNamespace(dialect=SimpleNamespace(name="postgresql"), execute=lambda _statement: yes))


def _rest(host: str) -> TaskInstanceSource:
    connection = SimpleNamespace(host=host, port=None, login=None, password="a token")
    return RestSource(RestApi("airflow_api", connection, RetryPolicy(initial_backoff=0.02)), OWN, "the REST API")


_CALLER_IS = "this task, kpo_cleanup.fetch_active_tis of run 'run_1', is"
_REJECTED = f"the answers of the metadata connection were rejected as another Airflow's or stale: {_CALLER_IS}"
_SDK_REJECTED = f"the answers of the Task SDK were rejected as another Airflow's or stale: {_CALLER_IS}"
_CONNECT_TO_PRIMARY = "point the connection to the primary server of this Airflow's database"
SOURCE_CASES = [
    SourceCase(
        "sdk-error",
        "the Task SDK raises an error",
        "the Task SDK could not read task states for {'dag_id': …: API_SERVER_ERROR: 500; see the log of Airflow's API "
        "server",
        "See the log of Airflow's API server.",
        lambda: _sdk(_sdk_raises),
    ),
    SourceCase(
        "sdk-nonsense",
        "the Task SDK returns an unexpected value",
        "the Task SDK returned 'None' as task states for {'dag_id': …",
        "This Airflow may be too new. Set `airflow_conn_id`, and report it as a bug.",
        lambda: _sdk(lambda **_: None),
    ),
    SourceCase(
        "sql-error",
        "the database rejects the query, or is not running",
        "task instances could not be read from the metadata connection: …no such table: task_instance…; the database "
        "must be reachable and grant SELECT on task_instance, dag_run, xcom",
        "Check that the database runs. Grant SELECT on these tables.",
        lambda: SqlSource(_empty, OWN, "the metadata connection"),
    ),
    SourceCase(
        "replica",
        "the metadata connection leads to a read-only replica",
        "the metadata connection is a read-only replica (pg_is_in_recovery()), which may lag behind; point the "
        "connection to the primary server",
        "Point the connection to the primary server.",
        lambda: SqlSource(_replica, OWN, "the metadata connection"),
    ),
    SourceCase(
        "foreign-database",
        "the metadata connection leads to an empty database, or to another Airflow's",
        f"{_REJECTED} missing there; {_CONNECT_TO_PRIMARY}",
        "Correct the connection.",
        _sql,
    ),
    SourceCase(
        "old-database",
        "the metadata connection leads to a copy that is older than the run",
        f"{_REJECTED} 'queued' there instead of 'running'; {_CONNECT_TO_PRIMARY}",
        "Point the connection to the primary server.",
        lambda: _sql(("queued", str(OWN.id))),
    ),
    SourceCase(
        "other-try",
        "the database has another try of this task",
        f"{_REJECTED.removesuffix('is')}has id 0197 there instead of 0197f0a2-5b1c-7d3e-8f90-a1b2c3d4e5f6",
        "Nothing if the task was cleared. Otherwise, point the connection to the primary server.",
        lambda: _sql(("running", "0197")),
    ),
    SourceCase(
        "sdk-ended",
        "the cleanup's own task is marked as failed while it is running",
        f"{_SDK_REJECTED} 'failed' there instead of 'running'; …"
        "If this task was cleared or marked as failed in the meantime, run it again",
        "Nothing.",
        lambda: _sdk(lambda **_: {OWN.run_id: {OWN.task_id: "failed"}}),
    ),
    SourceCase(
        "sdk-missing",
        "Airflow's API server uses another database",
        f"{_SDK_REJECTED} missing there; point Airflow's API server to the primary server of its database (see "
        "its configuration)",
        "See `[database] sql_alchemy_conn` of Airflow's API server.",
        lambda: _sdk(lambda **_: {}),
    ),
    *(
        SourceCase(
            name,
            wrong,
            f"no response (ConnectError) …{reason}…; check that Airflow's API server is running, or correct the host "
            "of connection 'airflow_api'",
            "Check that Airflow's API server is running, or correct the host of the connection `airflow_conn_id`.",
            partial(_rest, host),
        )
        for name, wrong, reason, host in [
            (
                "rest-refused",
                "nothing listens at the address of the REST API",
                "Connection refused",
                "http://127.0.0.1:9",
            ),
            (
                "rest-no-such-host",
                "the host name of the REST API cannot be resolved",
                "",
                "http://no-such-host.invalid",
            ),
        ]
    ),
]


_REST = "querying Airflow's API (POST …/api/v2/dags/~/dagRuns/~/taskInstances/list): "
_REST_HOST = "correct the connection's host: it must be the base URL of Airflow's API server, with its path"
_REST_REJECTED = f"the answers of the REST API were rejected as another Airflow's or stale: {_CALLER_IS}"
_CORRECT_HOST = "Correct the host of the connection `airflow_conn_id`: Airflow's own address, with its path."
_AIRFLOW_DOWN = "Airflow's API server or its proxy has a fault or is overloaded. See its log. The next run tries again."
_RENEW = "Put a new token, or the right password, into the connection `airflow_conn_id`."


def _detail(code: int, detail: str) -> Fault:
    return _json({"detail": detail}, code)


def _own(state: str, its_id: str | None) -> Fault:
    row = {"dag_id": OWN.dag_id, "task_id": OWN.task_id, "dag_run_id": OWN.run_id, "map_index": OWN.map_index}
    row |= {"id": its_id, "state": state, "try_number": 1, "end_date": None, "operator": None}
    return _json({"task_instances": [row], "total_entries": 1})


def _cut_off(cut: Fault) -> Fault:
    """Cut off a correct response."""

    async def fault(request: web.Request, forward: proxy.Forward) -> web.StreamResponse:
        return await cut(request, lambda: _own("running", OWN.id)(request, forward))

    return fault


# Faults of the REST API as a source, injected into the query for task instances, which most of its requests are.
REST_CASES = [
    *(
        Case(name, wrong, Does.FETCH_RETRIES, says, to_do, fault)
        for name, wrong, says, to_do, fault in (
            (
                "429",
                "429 Too Many Requests",
                f"{_REST}429 Too Many Requests; server message: …",
                _AIRFLOW_DOWN,
                _too_many_requests(),
            ),
            (
                "500",
                "500 Internal Server Error",
                f"{_REST}500 Internal Server Error; server message: Internal Server Error",
                _AIRFLOW_DOWN,
                proxy.answer(500, "Internal Server Error", "text/plain"),
            ),
            (
                "502-gateway",
                "502 from a gateway",
                f"{_REST}502 Bad Gateway; server message: <h1>Bad Gateway</h1>",
                _AIRFLOW_DOWN,
                proxy.answer(502, "<h1>Bad Gateway</h1>"),
            ),
            ("reset", "the connection is reset", f"{_REST}no response (ReadError)", _NETWORK, proxy.reset),
            (
                "reset-midway",
                "the connection is reset in the middle of the response",
                f"{_REST}no response (Re",
                _NETWORK,
                _cut_off(proxy.reset_midway),
            ),
            (
                "truncated",
                "the response is cut off",
                f"{_REST}no response (RemoteProtocolError)",
                _NETWORK,
                _cut_off(proxy.truncated),
            ),
            (
                "silent",
                f"no response within {POLICY.read_timeout} s",
                f"{_REST}no response (ReadTimeout)",
                _AIRFLOW_DOWN,
                proxy.silent,
            ),
        )
    ),
    *(
        Case(name, wrong, Does.FETCH_GIVES_UP, says, to_do, fault)
        for name, wrong, says, to_do, fault in (
            (
                "login-page",
                "an HTML page instead of JSON",
                f"{_REST}200 OK; {_REST_HOST}; server message: {LOGIN_PAGE}",
                _CORRECT_HOST,
                proxy.answer(200, LOGIN_PAGE),
            ),
            (
                "json-list",
                "JSON that is not an object (`[]`)",
                f"{_REST}200 OK; {_REST_HOST}; server message: []",
                _CORRECT_HOST,
                _json([]),
            ),
            (
                "redirect",
                "a redirect to a login page",
                f"{_REST}302 Found; {_REST_HOST} (this one redirects to sso.example.org/login)",
                _CORRECT_HOST,
                proxy.answer(302, "", Location="https://sso.example.org/login?state=1"),
            ),
            (
                "401",
                "the token has expired",
                f"{_REST}401 Unauthorized; renew the token of connection 'airflow_api'; server message: Token Expired",
                _RENEW,
                _detail(401, "Token Expired"),
            ),
            (
                "bad-token",
                "the token is wrong",
                f"{_REST}403 Forbidden; renew the token of connection 'airflow_api'; server message: Invalid JWT token",
                _RENEW,
                _detail(403, "Invalid JWT token"),
            ),
            (
                "403",
                "the user may not read task instances",
                f"{_REST}403 Forbidden; allow the user of connection 'airflow_api' to read DAGs, DAG runs, task "
                "instances and XComs; server message: Forbidden",
                "Grant these permissions to the user's role.",
                _detail(403, "Forbidden"),
            ),
            (
                "wrong-path",
                "the path of the address is wrong (405)",
                f"{_REST}405 Method Not Allowed; {_REST_HOST}; server message: Method Not Allowed",
                _CORRECT_HOST,
                _detail(405, "Method Not Allowed"),
            ),
        )
    ),
    *(
        Case(name, wrong, Does.FETCH_FAILS, says, to_do, fault)
        for name, wrong, says, to_do, fault in (
            (
                "other-json",
                "JSON of another kind",
                "reading a list of task_instances from Airflow's API: unexpected object with keys ['login'] "
                "(KeyError); …",
                _CORRECT_HOST,
                _json({"login": "https://sso.example.org"}),
            ),
            (
                "another-airflow",
                "another Airflow responds, or the user may not read the cleanup's own DAG",
                f"{_REST_REJECTED} missing there; point the connection's host to the API server of this Airflow, "
                "without a cache in front of it, and allow the connection's user to read DAG 'kpo_cleanup'",
                _CORRECT_HOST + " Or allow the user to read the cleanup's DAG as well.",
                _json({"task_instances": [], "total_entries": 0}),
            ),
            (
                "same-run-of-another-airflow",
                "another Airflow with the same DAG and run responds",
                f"{_REST_REJECTED.removesuffix('is')}has id 0197 there instead of …",
                _CORRECT_HOST,
                _own("running", "0197"),
            ),
            (
                "old-answer",
                "a response is stale",
                f"{_REST_REJECTED} 'queued' there instead of 'running'",
                "Use no cache in front of Airflow's API server, and no replica behind it.",
                _own("queued", OWN.id),
            ),
        )
    ),
]


def _no_default_connection() -> Any:
    with pytest.MonkeyPatch.context() as environment:
        environment.delenv("AIRFLOW_CONN_KUBERNETES_DEFAULT", raising=False)
        environment.delenv("KUBERNETES_SERVICE_HOST", raising=False)
        environment.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", "/no")
        return KubeClient("kubernetes_default").list_workloads(["airflow"])


def _connection(**extra: str) -> Any:
    """Use the connection `gpu`, after storing it if it has an extra."""
    with pytest.MonkeyPatch.context() as environment:
        if extra:
            environment.setenv("AIRFLOW_CONN_GPU", json.dumps({"conn_type": "kubernetes", "extra": extra}))
        return KubeClient("gpu").list_workloads(["airflow"])


def _source_of_type(conn_type: str) -> Any:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AIRFLOW_CONN_AIRFLOW_DB", f"{conn_type}://")
        source = SqlSource(metadata_connection("airflow_db"), OWN, "the metadata connection")
        return source.fetch([TaskInstanceKey("orders", "extract", "run_1")])


def _pull_a_missing_xcom() -> Any:
    from airflow.sdk.execution_time.context import (
        set_current_context,
    )  # Airflow 2 imports this module, but has no Task SDK

    context: Any = {"ti": SimpleNamespace(xcom_pull=lambda task_ids: None)}
    with set_current_context(context):
        return pull_return_values("list_pods")


_NO_CLIENT = "connection 'gpu' provides no Kubernetes client: "
SETUP_CASES = [
    SetupCase(
        "invalid-setting",
        "a setting is invalid",
        Does.RUN_FAILS,
        "1 invalid setting…max_deletes='many' (the DAG file):…set it to a whole number from 1 to 100000",
        "Correct the setting where the message says it is set.",
        lambda: read_settings({"max_deletes": "many"}).validated(),
    ),
    SetupCase(
        "no-such-connection",
        "the connection does not exist",
        Does.RUN_FAILS,
        f"{_NO_CLIENT}…; create connection 'gpu', or correct kubernetes_conn_id",
        "Create the connection, or correct `kubernetes_conn_id`.",
        _connection,
    ),
    SetupCase(
        "no-default-connection",
        "a worker outside the cluster has no connection `kubernetes_default`",
        Does.RUN_FAILS,
        "connection 'kubernetes_default' provides no Kubernetes client: it does not exist, and …; "
        "create connection 'kubernetes_default', with kube_config_path or kube_config",
        "[Create the connection](installation.md#an-airflow-outside-the-cluster).",
        _no_default_connection,
    ),
    SetupCase(
        "no-kubeconfig",
        "the worker does not have the connection's kubeconfig",
        Does.RUN_FAILS,
        f"{_NO_CLIENT}there is no kubeconfig at '/etc/kube/gpu' on this worker; …",
        "Mount the file into the workers, or correct the connection.",
        partial(_connection, kube_config_path="/etc/kube/gpu"),
    ),
    SetupCase(
        "no-provider",
        "the provider of the metadata connection's type is missing",
        Does.FETCH_FAILS,
        "airflow_conn_id='airflow_db' is not a usable database connection: Unknown hook type \"oracel\"; "
        "install the provider …",
        "Install the provider on the workers, or correct `airflow_conn_id`.",
        partial(_source_of_type, "oracel"),
    ),
    SetupCase(
        "max_delete_percent",
        "too many pods are zombies",
        Does.REAP_STOPS,
        "no pods are deleted: 15 of 20 pods are zombies, more than max_delete_percent=50: …; check the zombies …",
        "Check the zombies in the log of `classify`. If they may be deleted, trigger one run with "
        "`max_delete_percent=100`.",
        lambda: find_surge([], 15, 20, Settings(max_delete_percent=50)),
    ),
    SetupCase(
        "missing-xcom",
        "the XCom of an earlier task is missing",
        Does.TASK_FAILS,
        "this run has no XCom of list_pods: a later run or an XCom cleanup deleted it; clear list_pods and …",
        "Trigger a new run. If you cleared a task of an old run, nothing is lost: later runs have done its work.",
        _pull_a_missing_xcom,
    ),
    SetupCase(
        "other-version",
        "kpo_cleanup was upgraded during the run",
        Does.TASK_FAILS,
        "the XCom of list_pods was written by kpo_cleanup 0.2.0, but this is …",
        "Nothing: the next run succeeds.",
        partial(xcom.load_listing, {"version": "0.2.0"}),
    ),
]
_SETUP_INTRODUCTION = """Most are final: Airflow does not retry the task. In the message of a run, an invalid setting is
followed by its remedy. Before Airflow 2.9, MySQL and MariaDB store at most 64 KB per XCom: a task with a longer result
fails with `the XCom with … is too long`, and the message says what to narrow."""


_OWNER = {"apiVersion": "batch/v1", "kind": "Job", "name": "nightly", "uid": "7f0b2c1e-5f1c-4c3e-9d53-9a1b2c3d4e5f"}
POD_CASES = [
    *(
        PodCase(f"{name}-{how}", f"label `{name}` is {how}", Reason.BAD_LABELS, {name: value})
        for name in ("dag_id", "task_id", "run_id", "try_number")
        for how, value in (("missing", None), ("empty", ""))
    ),
    *(
        PodCase(f"{name}-{value or 'empty'}", f"label `{name}` is `{value}`", Reason.BAD_LABELS, {name: value})
        for name in ("try_number", "map_index")
        for value in ("one", "1.0", "01", "1e3", "0x1", "2147483648", "9" * 63)
    ),
    PodCase("map_index-empty", "label `map_index` is empty", Reason.BAD_LABELS, {"map_index": ""}),
    PodCase("try-0", "label `try_number` is `0`", Reason.ORPHANED, {"try_number": "0"}),
    PodCase("try-max", "the largest try number", Reason.ORPHANED, {"try_number": "2147483647"}),
    PodCase("map_index-other", "a map index that its task does not have", Reason.UNMATCHED, {"map_index": "7"}),
    PodCase("no-such-dag", "a DAG that this Airflow does not know", Reason.UNMATCHED, {"dag_id": "elsewhere"}),
    PodCase("case-matters", "an id that differs in upper and lower case", Reason.UNMATCHED, {"dag_id": "Orders"}),
    PodCase("63-characters", "an id of 63 characters", Reason.ORPHANED, {"task_id": "t" * 63}),
    PodCase(
        "like-a-hash", "an id that ends with what looks like a hash", Reason.ORPHANED, {"dag_id": "orders-0123456ab"}
    ),
    PodCase("checked", "checked off by its operator, but still running", Reason.ORPHANED, {"already_checked": "True"}),
    PodCase("checked-odd", "label `already_checked` is `maybe`", Reason.ORPHANED, {"already_checked": "maybe"}),
    *(
        PodCase(
            f"protect-{value or 'empty'}",
            f"annotation `{PROTECT_KEY}` is `{value}`" if value else f"annotation `{PROTECT_KEY}` is empty",
            Reason.PROTECTED,
            metadata={"annotations": {PROTECT_KEY: value}},
        )
        for value in ("true", "TRUE", "yes", "0", "ja, bitte", "")
    ),
    PodCase("protect-label", f"label `{PROTECT_KEY}` is `true`", Reason.PROTECTED, {PROTECT_KEY: "true"}),
    PodCase(
        "protect-false",
        f"annotation `{PROTECT_KEY}` is `False`",
        Reason.ORPHANED,
        metadata={"annotations": {PROTECT_KEY: " False "}},
    ),
    PodCase(
        "unicode",
        "annotations with any Unicode",
        Reason.ORPHANED,
        metadata={"annotations": {"note": "Ünïcödé 🚀 \u202e\u200b ‮ \\ \" ' \t\n </script> %s {0} ${HOME}"}},
    ),
    PodCase(
        "large-annotation",
        "an annotation of 200 kB",
        Reason.ORPHANED,
        metadata={"annotations": {"spec": "{[" * 100_000}},
    ),
    PodCase("owned", "a controller", Reason.OWNED, metadata={"ownerReferences": [{**_OWNER, "controller": True}]}),
    PodCase("owner", "an owner that is not a controller", Reason.ORPHANED, metadata={"ownerReferences": [_OWNER]}),
]

_INTRODUCTION = f"""# Faults, and what a run does about them

For the engineer on call: the known causes of a failed task. Generated by
`python -m tests.faults.cases > docs/faults.md`. The tests inject each fault in these tables, and check its message.

- A run retries what may succeed later: it makes up to {POLICY.attempts} attempts, and starts none later than
  {POLICY.deadline:g} s after the first. The timeout of a response is {POLICY.read_timeout:g} s, that of a connection
  {POLICY.connect_timeout:g} s.
- Between two attempts, it waits as long as the server asks (`Retry-After`, in seconds), but no longer than
  {POLICY.max_backoff:g} s. If the server does not ask, it waits for a random time: up to {POLICY.initial_backoff:g} s
  at first, and up to twice as long each time (exponential backoff with jitter).
- The tables describe persistent faults.
- No pod is deleted if Airflow's response is older than {MAX_SNAPSHOT_AGE:g} s. The run therefore queries Airflow again
  before it retries a deletion.
- The API server is asked to drop a deletion that it has not carried out within {DELETE_TIMEOUT} s.
- `…` in a message stands for any text.
- No fault turns a pod into a zombie: a pod is kept if the run cannot find out whether it is one.
"""
_LIST_INTRODUCTION = """A namespace that cannot be listed is skipped. The zombies in all others are deleted, and then
`reap` fails with the message. If no namespace can be listed, `list_pods` fails and nothing is deleted. Airflow retries
`list_pods` twice if that may help. `reap` lists the pods again, and deletes nothing in a namespace where that fails.

A namespace that does not exist is reported as
`namespace 'airflow' does not exist; correct namespaces or the connection's namespace`. Without the permission to read
Namespaces, it is reported as 403, or looks like one without pods."""
_DELETE_INTRODUCTION = f"""The other pods are deleted nevertheless. Then `reap` fails with the reasons for its `failed`
pods, and the next run tries again. If the response to a deletion was lost, `reap` reads the pod at the end of the run,
at least {DELETE_TIMEOUT} s later: it is `deleted` if it is gone, and `unknown` if it cannot be read.

After {MAX_SILENT} pods in a row without any response, the run deletes no more: the other pods are
`left_for_next_run`. After {MAX_FAILURES} failed attempts in a row in one namespace, the run first deletes the pods of
the other namespaces. Then it tries some pods of this one, chosen at random: {MAX_PROBES}, or {CONCURRENT_DELETES} if
deletions are rejected or get no response. If all of these fail, its other pods are `left_for_next_run`. A rejection by
an admission webhook or policy applies to a single pod, and does not count. Once {MAX_NAMESPACES} namespaces have failed
for the same cause, one failed attempt is enough in each of the others.
`reap` begins no deletion after 80 % of its `execution_timeout`, or once its run is marked as failed: the other pods are
`left_for_next_run`, and the task stays failed. [How to stop a run](operating.md#stop-it-now)."""
_SOURCE_INTRODUCTION = f"""A missing response never counts as "no task instances". Airflow retries `fetch_active_tis`
twice. If only the queries for some DAGs fail, the pods of these DAGs are `unresolved`. `reap` queries Airflow again for
up to {BATCH} pods at a time. If a query fails or takes too long, it queries fewer, down to a single pod, which is
`failed` if its query fails as well. After {MAX_QUERY_FAILURES} such failures in a row (3 if they took more than
{MAX_QUERY_SECONDS} s), the others are `left_for_next_run`. Pods that were deleted before are not affected: their
deletions were verified."""
_POD_INTRODUCTION = """The reason that `classify` assigns to a pod with odd labels that is still running although its
task instance failed long ago. Only `orphaned` pods are deleted."""


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _table(cases: Iterable[Case | ConnectionCase | SourceCase | SetupCase]) -> list[str]:
    rows = [_row(("fault", "what the run does", "message", "what to do")), _row(["---"] * 4)]
    for case in cases:
        says = case.says.replace("{namespace}", "airflow").replace("{pod}", "extract-x1y2z3")
        rows.append(_row((case.wrong, case.does.value, f"`{says}`" if says else "", case.to_do)))
    return rows


def render() -> str:
    """Return the content of docs/faults.md."""
    sections: list[tuple[str, str, list[str]]] = [
        ("Settings, connections and XComs", _SETUP_INTRODUCTION, _table(SETUP_CASES)),
        (
            "Reaching the API server",
            "These make the listing fail; the next section describes the consequences.",
            _table(CONNECTION_CASES),
        ),
        ("Listing pods (`list_pods`)", _LIST_INTRODUCTION, _table(LIST_CASES)),
        ("Deleting pods (`reap`)", _DELETE_INTRODUCTION, _table(DELETE_CASES)),
        ("Querying Airflow (`fetch_active_tis`, `reap`)", _SOURCE_INTRODUCTION, _table(SOURCE_CASES)),
        ("Querying Airflow through its REST API", "As above, for every request.", _table(REST_CASES)),
        (
            "Odd pods (`classify`)",
            _POD_INTRODUCTION,
            [_row(("what is odd", "reason")), _row(["---"] * 2)]
            + [_row((case.odd, f"`{case.reason.value}`")) for case in POD_CASES],
        ),
    ]
    parts = [_INTRODUCTION]
    for title, introduction, lines in sections:
        parts.append("\n".join([f"## {title}", "", introduction, "", *lines, ""]))
    return "\n".join(parts)


if __name__ == "__main__":
    print(render(), end="")
