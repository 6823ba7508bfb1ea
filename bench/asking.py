"""`python -m bench.asking`: what each source of one Airflow needs for the same questions; a line of JSON an answer.

It runs in a process of its own, on the metadata database of ``[database] sql_alchemy_conn``, which it fills.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from sqlalchemy import create_engine, text
from sqlalchemy.engine import Engine

from bench.history import ROWS_OF_ONE_RUN, add_dags, add_records, fill, keys_at_random, keys_of_pods, own_task_instance
from bench.queries import recorded
from bench.timing import stopwatch
from include.kpo_cleanup.airflow_compat import AIRFLOW_VERSION, IS_AIRFLOW_3
from include.kpo_cleanup.identity import UNMAPPED, TaskInstanceKey
from include.kpo_cleanup.task_instance import CallerTaskInstance
from include.kpo_cleanup.task_instances.interface import TaskInstanceSource
from include.kpo_cleanup.task_instances.sql import SqlSource, airflow_session, metadata_connection

CONN_ID = "bench_airflow"
ROWS = 100_000
MANY_DAGS = keys_of_pods(runs=10)  # 10,000
LATEST = keys_of_pods(runs=2)  # 2,000
AT_RANDOM = keys_at_random(2_000, runs=ROWS // ROWS_OF_ONE_RUN)
ZOMBIES = sorted(LATEST)[::4]  # 500
FEW = sorted(LATEST)[:10]  # to warm up with
A_LOOK = ZOMBIES[:50]  # of `reap`, and the zombies of a run

Count = Callable[[], int]  # how many calls were made so far


def main() -> None:
    url = os.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]
    engine = create_engine(url)
    fill(engine, 0, ROWS)
    add_records(engine)
    with engine.connect() as connection:
        own = own_task_instance(connection)
    ask_sql(url, own)
    if IS_AIRFLOW_3:
        ask_sdk(own)
        ask_rest(engine, url, own)


def ask_sql(url: str, own: CallerTaskInstance) -> None:
    _connect(url.replace("postgresql+psycopg2", "postgres"))
    name = "metadata connection" if IS_AIRFLOW_3 else "session"
    with (metadata_connection(CONN_ID) if IS_AIRFLOW_3 else airflow_session)() as connection:
        source = SqlSource(lambda: nullcontext(connection), own, "bench")
        with recorded(connection) as statements:
            ask(name, source, lambda: len(statements), "statements")


def ask_sdk(own: CallerTaskInstance) -> None:
    """Ask the Task SDK's own client with the code of the execution API behind it, without a network between them."""
    from bench.sdk_client import SdkClient
    from include.kpo_cleanup.task_instances.task_sdk import TaskSdkSource

    client = SdkClient()
    ask("Task SDK", TaskSdkSource(client.get_task_states, client, own, "bench"), lambda: client.calls, "calls")


def ask_rest(engine: Engine, url: str, own: CallerTaskInstance) -> None:
    from bench.api_server import PASSWORD, api_server
    from demo.airflow_settings import USER
    from include.kpo_cleanup.airflow_compat import BaseHook
    from include.kpo_cleanup.task_instances.rest import RestSource
    from include.kpo_cleanup.task_instances.rest_api import RestApi

    class Counted(RestApi):
        """The same, with its requests pluralize."""

        requests = 0

        def get(self, path: str, **parameters: Any) -> dict[str, Any]:
            self.requests += 1
            return super().get(path, **parameters)

        def post(self, path: str, body: Any) -> dict[str, Any]:
            self.requests += 1
            return super().post(path, body)

    add_dags(engine)
    with api_server(url) as api_url:
        _connect({"conn_type": "http", "host": api_url, "login": USER, "password": PASSWORD})
        api = Counted(CONN_ID, BaseHook.get_connection(CONN_ID))
        source = RestSource(api, own, "bench")
        ask("REST API", source, lambda: api.requests, "requests")
        runs_of_their_own = frozenset(
            TaskInstanceKey(key.dag_id, "transform_0", f"run_of_a_pod_{number:012}", UNMAPPED)
            for number, key in enumerate(MANY_DAGS)
        )
        small = sorted(MANY_DAGS)[::10]
        for pods, keys in (
            ("1,000 pods, 50 zombies", small),
            ("10,000 pods, 50 zombies", MANY_DAGS),
            ("10,000 pods, each of its own DAG run, 50 zombies", runs_of_their_own),
        ):
            with audited(engine) as audit:
                found = source.fetch(keys)
                source.read_records(source.fetch(A_LOOK), A_LOOK)
            say("audit log", pods, **audit, found=len(found.found))


def ask(name: str, source: TaskInstanceSource, calls_so_far: Count, unit: str) -> None:
    """Ask all questions, each once, with everything warm."""

    def timed(question: str, call: Callable[[], Collection[Any]]) -> None:
        before, answers = calls_so_far(), []
        seconds = stopwatch(lambda: answers.append(call()))
        say(name, question, calls=calls_so_far() - before, unit=unit, seconds=seconds, found=len(answers[0]))

    told = source.fetch(ZOMBIES)
    source.read_records(told, FEW)
    for question, keys in (("many DAGs", MANY_DAGS), ("latest", LATEST), ("at random", AT_RANDOM)):
        timed(question, lambda keys=keys: source.fetch(keys).found)  # type: ignore[misc]
    timed("records", lambda: source.read_records(told, ZOMBIES))


def say(source: str, question: str, **values: Any) -> None:
    print(json.dumps({"airflow": AIRFLOW_VERSION, "source": source, "question": question, **values}), flush=True)


@contextmanager
def audited(engine: Engine) -> Iterator[dict[str, int]]:
    """Count the rows that come into Airflow's audit log, and their bytes as text."""
    query = text("SELECT count(*), coalesce(sum(octet_length(log::text)), 0) FROM log")

    def now() -> tuple[int, int]:
        with engine.connect() as connection:
            rows, size = connection.execute(query).one()
            return int(rows), int(size)

    grown: dict[str, int] = {}
    rows, size = now()
    yield grown
    grown["rows"], grown["bytes"] = (after - before for after, before in zip(now(), (rows, size), strict=True))


def _connect(connection: str | dict[str, str]) -> None:
    value = connection if isinstance(connection, str) else json.dumps(connection)
    os.environ[f"AIRFLOW_CONN_{CONN_ID.upper()}"] = value


if __name__ == "__main__":
    main()
