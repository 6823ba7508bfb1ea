"""Sources that query a real Airflow API server as different users, directly or through a proxy that injects faults."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import pytest

from demo.airflow_settings import USER
from include.kpo_cleanup.airflow_compat import BaseHook
from include.kpo_cleanup.retry import RetryPolicy
from include.kpo_cleanup.task_instance import CallerTaskInstance
from include.kpo_cleanup.task_instances.rest import RestSource
from include.kpo_cleanup.task_instances.rest_api import RestApi
from tests.proxy import FaultProxy
from tests.rest.database import CALLER, Database
from tests.rest.servers import PASSWORD, Servers, running

QUICK = RetryPolicy(initial_backoff=0.02)
Connect = Callable[..., RestSource]


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with running(tmp_path_factory.mktemp("airflow")) as servers:
        yield servers


@pytest.fixture(scope="session")
def database(servers: Servers) -> Database:
    return servers.database


@pytest.fixture(scope="session")
def _proxies(servers: Servers) -> Iterator[dict[str, FaultProxy]]:
    origins = {url: "{0.scheme}://{0.netloc}".format(urlsplit(url)) for url in (servers.simple, servers.fab)}
    with FaultProxy(origins[servers.simple]) as simple, FaultProxy(origins[servers.fab]) as fab:
        yield {servers.simple: simple, servers.fab: fab}


@pytest.fixture
def proxy(servers: Servers, _proxies: dict[str, FaultProxy]) -> FaultProxy:
    """Return the proxy in front of the server with the simple auth manager, without rules or recorded requests."""
    _proxies[servers.simple].heal()
    return _proxies[servers.simple]


def create_api(conn_id: str, url: str, login: str | None, password: str) -> RestApi:
    with pytest.MonkeyPatch.context() as environment:
        parts = {"conn_type": "http", "host": url, "login": login, "password": password}
        environment.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(parts))
        return RestApi(conn_id, BaseHook.get_connection(conn_id), QUICK)


@pytest.fixture
def connect(servers: Servers) -> Connect:
    """Return a function that creates a source: by default, as the administrator of the simple auth manager's server."""

    def create(url: str = servers.simple, login: str | None = USER, password: str = PASSWORD) -> RestSource:
        caller = CallerTaskInstance(*CALLER[:4], id=servers.database.id_of(CALLER))
        return RestSource(create_api("airflow_api", url, login, password), caller, "test")

    return create
