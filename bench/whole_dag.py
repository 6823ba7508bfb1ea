"""The four tasks of the DAG without Airflow's overhead, compared with the obvious way to do the same.

The obvious way is the project's starting point: a typed listing, a query for all unfinished task instances, and
sequential deletions. It is a baseline only, because it assumes that every task instance it does not find has finished.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from inspect import unwrap
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch
from uuid import UUID

from airflow.providers.cncf.kubernetes.cli.kubernetes_command import cleanup_pods
from airflow.sdk.execution_time.context import set_current_context
from sqlalchemy import column, create_engine, insert, or_, select, table, text
from sqlalchemy.engine import Engine

from bench.cluster import CONN_ID, Cluster, namespace_of
from bench.context import Bench
from bench.latency import LATENCIES, added_latency
from bench.listing import typed
from bench.pod_template import ids_of, name_of
from bench.results import Figure, Panel, Point, at_least, mebibytes, seconds
from bench.timing import stopwatch
from include.kpo_cleanup.config import read_settings
from include.kpo_cleanup.identity import UNMAPPED, TaskInstanceKey, make_key
from include.kpo_cleanup.kube.workloads import KubeClient
from include.kpo_cleanup.tasks import Cleanup
from tests.databases import Database, postgresql

SIZES = (1_000, 10_000)
PODS_PER_ZOMBIE = 10
HISTORY = range(10_000_000, 10_050_000)  # task instances whose pods were deleted long ago
CALLER = HISTORY.stop  # the number of the caller's task instance
METADATA = "bench_metadata"
PANEL = Panel("dag", "The whole DAG, API server on the same machine", "pods", "seconds")
OURS, OBVIOUS = "kpo_cleanup", "the obvious way"
UNFINISHED = ("scheduled", "queued", "running", "restarting", "up_for_retry", "up_for_reschedule", "deferred")
TASK_INSTANCE = table("task_instance", *map(column, ("dag_id", "task_id", "run_id", "map_index", "state")))


def measure(bench: Bench) -> Iterator[Figure | Point]:
    sizes = [size for size in SIZES if size <= bench.pods[-1]]
    cluster = bench.cluster  # started first, because no pod may be created after its task instance has ended
    bench.progress("starting PostgreSQL with Airflow's tables")
    with postgresql() as database:
        bench.versions["PostgreSQL"] = database.name.split()[-1]
        engine = _migrate(database)
        _insert(engine, HISTORY, lambda _: "success")
        _insert(engine, range(CALLER, CALLER + 1), lambda _: "running")
        filled = 0
        for size in sizes:
            _insert(engine, range(filled, size), lambda number: "running" if number % PODS_PER_ZOMBIE else "failed")
            filled = size
            for place, latency in LATENCIES.items() if size == sizes[-1] else [next(iter(LATENCIES.items()))]:
                bench.progress(f"the whole DAG with {size:,} pods, API server {place}")
                ours, obvious = _take_turns(cluster, engine, size, latency, bench.repetitions)
                if not latency:
                    yield Point(PANEL, OURS, size, ours)
                    yield Point(PANEL, OBVIOUS, size, obvious)
                if size == sizes[-1]:
                    name = f"the whole DAG, API server {place}"
                    pods = f"{size:,} pods, {size // PODS_PER_ZOMBIE:,} zombies"
                    yield Figure(name, OBVIOUS, pods, seconds(ours), seconds(obvious), obvious / ours, at_least(5))
            yield _requests(bench, engine, size)
        engine.dispose()


def _take_turns(cluster: Cluster, engine: Engine, size: int, latency: float, repetitions: int) -> tuple[float, float]:
    """Return the median seconds of kpo_cleanup and of the obvious way; the zombies are recreated before each run."""
    namespace, api = namespace_of(800_000 + size), KubeClient(CONN_ID)
    zombies = range(0, size, PODS_PER_ZOMBIE)
    cluster.put(namespace, [number for number in range(size) if number % PODS_PER_ZOMBIE])
    _insert_records(engine, namespace, zombies)
    methods: dict[str, Callable[[], None]] = {
        OURS: partial(_run_tasks, namespace, size),
        OBVIOUS: partial(_obvious_way, cluster, engine, namespace),
    }
    times: dict[str, list[float]] = {name: [] for name in methods}
    for round_ in range(1 + repetitions):
        for name, clean_up in methods.items():
            cluster.put(namespace, zombies, is_zombie=True)
            with added_latency(latency):
                took = stopwatch(clean_up)
            if round_:  # the first round includes imports and connections
                times[name].append(took)
            remaining, expected = len(api.list_workloads([namespace]).workloads), size - len(zombies)
            if remaining != expected:
                raise RuntimeError(f"{name} left {remaining:,} of {size:,} pods, expected {expected:,}")
    return median(times[OURS]), median(times[OBVIOUS])


def _requests(bench: Bench, engine: Engine, size: int) -> Figure:
    """Compare the requests that a run causes at the API server with those of `airflow kubernetes cleanup-pods`."""
    cluster, namespace, zombies = bench.cluster, namespace_of(800_000 + size), range(0, size, PODS_PER_ZOMBIE)
    cluster.put(namespace, zombies, is_zombie=True)
    kubeconfig = cluster.control_plane.write_kubeconfig(Path(bench.stack.enter_context(TemporaryDirectory()), "config"))
    options = {"AIRFLOW__KUBERNETES_EXECUTOR__IN_CLUSTER": "False"}
    options["AIRFLOW__KUBERNETES_EXECUTOR__CONFIG_FILE"] = str(kubeconfig)
    arguments = SimpleNamespace(namespace=namespace, min_pending_minutes=30, min_completed_minutes=0, verbose=False)
    with patch.dict(os.environ, options):
        # Unwrapped, because a decorator records the command in Airflow's database.
        theirs = cluster.traffic_of(lambda: unwrap(cleanup_pods)(arguments))
    ours = cluster.traffic_of(lambda: _run_tasks(namespace, size))
    ours_text, theirs_text = (f"{requests:,.0f} requests, {mebibytes(size)}" for requests, size in (ours, theirs))
    measurement, pods = "requests to the API server, and their responses", f"{size:,} pods, {len(zombies):,} zombies"
    return Figure(measurement, "cleanup-pods, which deletes none of them", pods, ours_text, theirs_text)


def _run_tasks(namespace: str, size: int) -> None:
    """Run the code of the four tasks, and pass their results on as JSON."""
    settings = {"kubernetes_conn_id": CONN_ID, "namespaces": namespace, "airflow_conn_id": METADATA}
    cleanup = Cleanup(partial(read_settings, {**settings, "max_deletes": size, "settle_seconds": 0}))
    caller = SimpleNamespace(
        **ids_of(CALLER),
        id=_id_of(CALLER),
        map_index=UNMAPPED,
        xcom_push=lambda **_: None,
        task=SimpleNamespace(execution_timeout=None),
    )
    context: Any = {"params": {}, "dag_run": SimpleNamespace(conf={}), "ti": caller}
    with set_current_context(context):
        listing = _through_xcom(cleanup.list_pods())
        task_instances = _through_xcom(cleanup.fetch_active_tis(listing))
        classification = _through_xcom(cleanup.classify(listing, task_instances))
        cleanup.reap(classification)


def _through_xcom(value: dict[str, Any]) -> dict[str, Any]:
    received: dict[str, Any] = json.loads(json.dumps(value))
    return received


def _obvious_way(cluster: Cluster, engine: Engine, namespace: str) -> None:
    pods = list(typed(cluster, namespace))
    ti = TASK_INSTANCE.c
    with engine.connect() as connection:
        query = select(*ti).where(or_(ti.state.is_(None), ti.state.in_(UNFINISHED)))
        active = {make_key(row.dag_id, row.task_id, row.run_id, row.map_index) for row in connection.execute(query)}
    zombies = []
    for pod in pods:
        labels = pod.metadata.labels
        key = TaskInstanceKey(
            labels["dag_id"], labels["task_id"], labels["run_id"], int(labels.get("map_index", UNMAPPED))
        )
        if key not in active:
            zombies.append(pod)
    for pod in zombies:
        cluster.core.delete_namespaced_pod(pod.metadata.name, namespace, grace_period_seconds=0)


def _migrate(database: Database) -> Engine:
    """Create Airflow's tables, and define the Airflow connection `METADATA` to them."""
    url = database.url("psycopg2")
    environment = {**os.environ, "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": url}
    airflow = Path(sys.executable).with_name("airflow")
    subprocess.run([airflow, "db", "migrate"], env=environment, check=True, capture_output=True)
    os.environ[f"AIRFLOW_CONN_{METADATA.upper()}"] = database.url().replace("postgresql", "postgres")
    return create_engine(url)


def _insert(engine: Engine, numbers: range, state_of: Callable[[int], str]) -> None:
    """Insert the task instances of the pods with these numbers, and their runs; finished ones have just ended."""
    now = datetime.now(UTC)
    all_ids = [ids_of(number) for number in numbers]
    runs = {(ids["dag_id"], ids["run_id"]) for ids in all_ids}
    run_rows = [
        {
            "dag_id": dag_id,
            "run_id": run_id,
            "run_type": "scheduled",
            "state": "running",
            "logical_date": datetime.fromisoformat(run_id.partition("__")[2]),
            "run_after": now,
            "clear_number": 0,
        }
        for dag_id, run_id in runs
    ]
    rows = [
        {
            **ids,
            "id": _id_of(number),
            "map_index": UNMAPPED,
            "state": (state := state_of(number)),
            "try_number": 1,
            "max_tries": 2,
            "end_date": None if state == "running" else now,
            "operator": "KubernetesPodOperator",
            "pool": "default_pool",
            "pool_slots": 1,
            "hostname": "worker-0",
            "span_status": "not_started",
        }
        for number, ids in zip(numbers, all_ids, strict=True)
    ]
    with engine.begin() as connection:
        for name, table_rows in (("dag_run", run_rows), ("task_instance", rows)):
            connection.execute(insert(table(name, *map(column, table_rows[0]))), table_rows)
    with engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").execute(text("ANALYZE"))


def _insert_records(engine: Engine, namespace: str, numbers: range) -> None:
    """Replace all XComs with the records of these pods."""
    statement = text(
        "INSERT INTO xcom (dag_run_id, dag_id, task_id, run_id, map_index, key, value, timestamp) "
        "SELECT id, dag_id, :task_id, run_id, -1, :key, to_jsonb(CAST(:value AS text)), now() FROM dag_run "
        "WHERE dag_id = :dag_id AND run_id = :run_id"
    )
    records = [
        {**ids_of(number), "key": key, "value": value}
        for number in numbers
        for key, value in (("pod_name", name_of(number)), ("pod_namespace", namespace))
    ]
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM xcom"))
        connection.execute(statement, records)
        if connection.execute(text("SELECT count(*) FROM xcom")).scalar() != len(records):
            raise RuntimeError("some pods have no record")


def _id_of(number: int) -> UUID:
    return UUID(int=number)
