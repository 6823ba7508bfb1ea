"""`python -m bench.source_worker`: run the same queries with each source of one Airflow; print one line of JSON each.

It runs in a separate process, on the metadata database of ``[database] sql_alchemy_conn``, which it fills with rows.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, text
from sqlalchemy.engine import Engine

from bench.bounded import fetch_and_reap
from bench.history import ROWS_PER_RUN, add_dags, add_records, add_runs, find_caller, keys_of_pods, random_keys
from bench.queries import recorded
from bench.timing import stopwatch
from include.kpo_cleanup.airflow_compat import AIRFLOW_VERSION, IS_AIRFLOW_3, PREVIOUS_TI_READS_HISTORY
from include.kpo_cleanup.identity import UNMAPPED, TaskInstanceKey
from include.kpo_cleanup.task_instance import CallerTaskInstance
from include.kpo_cleanup.task_instances.interface import TaskInstanceSource
from include.kpo_cleanup.task_instances.sql import SqlSource, airflow_session, metadata_connection

CONN_ID = "bench_airflow"
ROWS = 100_000
MANY_DAGS = keys_of_pods(runs=10)  # 10,000
LATEST = keys_of_pods(runs=2)  # 2,000
AT_RANDOM = random_keys(2_000, runs=ROWS // ROWS_PER_RUN)
ZOMBIES = sorted(LATEST)[::4]  # 500
WARM_UP = sorted(LATEST)[:10]
BACKLOGS = (1_000, 20_000)  # zombies, of which a run deletes 500
ZOMBIES_OF_A_RUN = ZOMBIES[:50]  # one batch of `reap`

CallCount = Callable[[], int]  # returns the number of calls made so far


def main() -> None:
    url = os.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]
    engine = create_engine(url)
    add_runs(engine, 0, ROWS)
    add_records(engine)
    with engine.connect() as connection:
        caller = find_caller(connection)
    query_sql(url, caller)
    if IS_AIRFLOW_3:
        query_sdk(caller)
        query_rest(engine, url, caller)


def query_sql(url: str, caller: CallerTaskInstance) -> None:
    _set_connection(url.replace("postgresql+psycopg2", "postgres"))
    name = "metadata connection" if IS_AIRFLOW_3 else "session"
    with (metadata_connection(CONN_ID) if IS_AIRFLOW_3 else airflow_session)() as connection:
        source = SqlSource(lambda: nullcontext(connection), caller, "bench")
        with recorded(connection) as statements:
            measure_source(name, source, lambda: len(statements), "statement")


def query_sdk(caller: CallerTaskInstance) -> None:
    """Measure the Task SDK's own client, which calls the code of the execution API without a network."""
    from bench.sdk_client import SdkClient
    from include.kpo_cleanup.task_instances.sdk_queries import SdkQueries
    from include.kpo_cleanup.task_instances.task_sdk import TaskSdkSource

    client = SdkClient()
    queries = SdkQueries(client, client.fetch_dag_run, PREVIOUS_TI_READS_HISTORY)
    source = TaskSdkSource(queries, client, caller, "bench", [Path(__file__).parent])
    measure_source("Task SDK", source, lambda: client.calls, "call")


def query_rest(engine: Engine, url: str, caller: CallerTaskInstance) -> None:
    from bench.api_server import PASSWORD, api_server
    from demo.airflow_settings import USER
    from include.kpo_cleanup.airflow_compat import BaseHook
    from include.kpo_cleanup.task_instances.rest import RestSource
    from include.kpo_cleanup.task_instances.rest_api import RestApi

    class CountingRestApi(RestApi):
        """Count the requests."""

        requests = 0

        def get(self, path: str, **parameters: Any) -> dict[str, Any]:
            self.requests += 1
            return super().get(path, **parameters)

        def post(self, path: str, body: Any) -> dict[str, Any]:
            self.requests += 1
            return super().post(path, body)

    add_dags(engine)
    with api_server(url) as api_url:
        _set_connection({"conn_type": "http", "host": api_url, "login": USER, "password": PASSWORD})
        api = CountingRestApi(CONN_ID, BaseHook.get_connection(CONN_ID))
        source = RestSource(api, caller, "bench")
        measure_source("REST API", source, lambda: api.requests, "request")
        separate_runs = frozenset(
            TaskInstanceKey(key.dag_id, "transform_0", f"run_of_a_pod_{number:012}", UNMAPPED)
            for number, key in enumerate(MANY_DAGS)
        )
        small = sorted(MANY_DAGS)[::10]
        for pods, keys in (
            ("1,000 pods, 50 zombies", small),
            ("10,000 pods, 50 zombies", MANY_DAGS),
            ("10,000 pods, each of its own DAG run, 50 zombies", separate_runs),
        ):
            with audit_log_growth(engine) as growth:
                found = source.fetch(keys)
                source.read_records(source.fetch(ZOMBIES_OF_A_RUN), ZOMBIES_OF_A_RUN)
            print_result("audit log", pods, **growth, found=len(found.found))


def measure_source(name: str, source: TaskInstanceSource, call_count: CallCount, unit: str) -> None:
    """Run each query once, after a warm-up."""

    def measure(query: str, call: Callable[[], Collection[Any]]) -> None:
        before, results = call_count(), []
        seconds = stopwatch(lambda: results.append(call()))
        print_result(name, query, calls=call_count() - before, unit=unit, seconds=seconds, found=len(results[0]))

    task_instances = source.fetch(ZOMBIES)
    source.read_records(task_instances, WARM_UP)
    for query, keys in (("many DAGs", MANY_DAGS), ("latest", LATEST), ("at random", AT_RANDOM)):
        measure(query, lambda keys=keys: source.fetch(keys).found)  # type: ignore[misc]
    measure("records", lambda: source.read_records(task_instances, ZOMBIES))
    if any(ti.try_number is None for ti in task_instances.found.values()):
        measure("tries and ends", lambda: source.complete(task_instances, ZOMBIES).found)
    for backlog in BACKLOGS:
        before = call_count()
        for task, seconds in fetch_and_reap(source, backlog):
            print_result(name, task, calls=call_count() - before, unit=unit, seconds=seconds, zombies=backlog)
            before = call_count()


def print_result(source: str, query: str, **values: Any) -> None:
    print(json.dumps({"airflow": AIRFLOW_VERSION, "source": source, "query": query, **values}), flush=True)


@contextmanager
def audit_log_growth(engine: Engine) -> Iterator[dict[str, int]]:
    """Yield a dict that is filled at the end with the rows added to Airflow's audit log and their bytes as text."""
    query = text("SELECT count(*), coalesce(sum(octet_length(log::text)), 0) FROM log")

    def rows_and_bytes() -> tuple[int, int]:
        with engine.connect() as connection:
            rows, size = connection.execute(query).one()
            return int(rows), int(size)

    growth: dict[str, int] = {}
    at_start = rows_and_bytes()
    yield growth
    growth["rows"], growth["bytes"] = (after - before for after, before in zip(rows_and_bytes(), at_start, strict=True))


def _set_connection(connection: str | dict[str, str]) -> None:
    value = connection if isinstance(connection, str) else json.dumps(connection)
    os.environ[f"AIRFLOW_CONN_{CONN_ID.upper()}"] = value


if __name__ == "__main__":
    main()
