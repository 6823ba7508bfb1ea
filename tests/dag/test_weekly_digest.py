"""The weekly digest that docs/operating.md recommends, sent by a real run to an SMTP server."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest
from airflow.models.dagrun import DagRun
from kubernetes import client

from tests.conftest import HOME, TEST_DAGS
from tests.dag import airflow_runs
from tests.dag.pods import NO_SCHEDULER, create, labels_of, wait_for_another_second
from tests.documents import block
from tests.proxy import FaultProxy
from tests.smtp import SmtpServer

pytest.importorskip("airflow.providers.smtp.operators.smtp", reason="this Airflow has no SMTP provider")

NAMESPACE = "default"


@pytest.fixture(scope="module")
def _digest(_proxy: FaultProxy) -> Iterator[None]:
    path = TEST_DAGS / "digest.py"
    path.write_text(block("docs/operating.md", "Weekly digest", "python"))
    yield
    path.unlink()


@pytest.fixture(scope="module")
def _cleanups(core: client.CoreV1Api, _proxy: FaultProxy) -> None:
    """Run the cleanup five times, and backdate the first run. The fourth run fails, and the last finds nothing."""
    with closing(sqlite3.connect(HOME / "airflow.db", timeout=60)) as database, database:
        database.execute("DELETE FROM xcom WHERE dag_id = 'kpo_cleanup'")  # left by other tests
    backdate(clean_up(core, "sales"))
    clean_up(core, "orders", "sales")
    clean_up(core, "orders")
    failed = clean_up(core, "orders", namespaces=f"{NAMESPACE},no-such")
    assert airflow_runs.states(failed)["reap"] == "failed"
    idle = clean_up(core)
    assert airflow_runs.states(idle)["reap"] == "skipped"


def clean_up(core: client.CoreV1Api, *dag_ids: str, namespaces: str = NAMESPACE) -> DagRun:
    """Create a zombie of each of these DAGs, and run the cleanup."""
    for dag_id in dag_ids:
        create(core, f"of-{dag_id}", labels_of(dag_id, "task", "run"), NAMESPACE, NO_SCHEDULER)
    wait_for_another_second()  # an unmatched pod must be older than settle_seconds
    config = {"namespaces": namespaces, "delete_unmatched_pods": True, "settle_seconds": 0}
    run = airflow_runs.run("kpo_cleanup", config=config)
    assert core.list_namespaced_pod(NAMESPACE, label_selector="kubernetes_pod_operator").items == []
    return run


def backdate(run: DagRun) -> None:
    """Move a run to January 2026: its run_id and the time of its XComs."""
    moved = "manual__2026-01-01T00:00:00+00:00"
    with closing(sqlite3.connect(HOME / "airflow.db", timeout=60)) as database, database:
        for table in ("dag_run", "task_instance", "xcom"):
            database.execute(f"UPDATE {table} SET run_id = ? WHERE run_id = ?", (moved, run.run_id))
        database.execute("UPDATE xcom SET timestamp = '2026-01-01 00:00:00.000000' WHERE run_id = ?", (moved,))


@pytest.mark.usefixtures("_digest", "_cleanups")
def test_the_digest_names_the_dags_with_the_most_zombies_deleted_in_the_last_seven_days(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with SmtpServer() as server:
        extra = {"disable_ssl": True, "disable_tls": True, "from_email": "airflow@example.com"}
        connection = {"conn_type": "smtp", "host": "127.0.0.1", "port": server.server_address[1], "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_SMTP_DEFAULT", json.dumps(connection))
        run = airflow_runs.run("kpo_cleanup_digest")
        assert airflow_runs.states(run) == {"worst_offenders": "success", "send": "success"}
        (message,) = server.messages
    assert message["To"] == "platform@example.com"
    body = message.get_body(("html",))
    assert body is not None
    found = re.findall(r"^ *(\d+) (.+?)(?:</pre>)?\s*$", body.get_content(), re.M)
    assert found == [("3", "orders"), ("1", "sales"), ("4", "in total")]
