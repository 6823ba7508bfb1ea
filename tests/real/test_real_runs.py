"""The scheduled cleanup with the real operator, scheduler, workers and triggerer, on PostgreSQL."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy.exc import ProgrammingError

from demo.airflow_settings import IS_AIRFLOW_3
from tests.databases import Database
from tests.real.conftest import READER
from tests.real.records import Records
from tests.real.story import LATE, SURVIVORS, ZOMBIES, Evidence

pytestmark = [pytest.mark.real, pytest.mark.timeout(1200)]

READABLE = {"task_instance", "dag_run", "xcom"}


def test_all_zombies_and_no_other_pods_are_deleted(evidence: Evidence) -> None:
    before, after = set(evidence.before), set(evidence.after)
    # The operator deletes its pod when it is stopped, unless Airflow starts the next try before that.
    cleared = {role for role in before | after if role.startswith("lively.cleared#")}
    assert len(cleared & after) == 1
    assert before - after - cleared == ZOMBIES
    [replacement] = after - before - cleared
    assert replacement.startswith("lively.replaced#")


def test_the_task_instance_of_every_deleted_pod_was_finished_or_used_another_pod(evidence: Evidence) -> None:
    assert {deletion.role for deletion in evidence.deletions} >= ZOMBIES - {"lively.deferred_failed#1"} | {LATE}
    assert [one for one in evidence.deletions if not (one.is_over or one.is_replaced)] == []


def test_the_pods_of_active_tasks_are_kept(evidence: Evidence) -> None:
    kept = {f"lively.{task}#1" for task in ("reattached", "mapped[1]", "stalled", "deferred", "kept")}
    assert {role: evidence.after[role].metadata.uid for role in kept} == {
        role: evidence.before[role].metadata.uid for role in kept
    }
    phases = {role: pod.status.phase for role, pod in evidence.after.items()}
    assert phases == {**dict.fromkeys(evidence.after, "Running"), "lively.kept#1": "Succeeded"}


def test_every_task_has_the_state_that_it_would_have_without_the_cleanup(evidence: Evidence) -> None:
    assert {name: ti.state for name, ti in evidence.tasks.items()} == {
        **dict.fromkeys(SURVIVORS, "running"),
        **dict.fromkeys(("sidecar", "mapped[0]", "deferred_failed"), "failed"),
        "deferred": "deferred",
        "kept": "success",
    }
    ends = {(ti.name, ti.state, ti.try_number) for ti in evidence.busy}
    assert ends == {("succeeds", "success", 1), ("fails", "failed", 2)}


def test_the_schedule_started_at_least_three_runs_and_all_succeeded(evidence: Evidence) -> None:
    assert len(evidence.cleanups) >= 3
    assert {(run.run_type, run.state) for run in evidence.cleanups} == {("scheduled", "success")}


def test_only_the_latest_run_still_has_its_large_xcoms(evidence: Evidence, folder: Path) -> None:
    runs = sorted(run.run_id for run in evidence.cleanups)
    left = {result for result in evidence.results if result[1] != "reap"}  # reap has none if it is skipped
    assert left == {(run, "classify") for run in runs} | {
        (runs[-1], task) for task in ("list_pods", "fetch_active_tis")
    }
    logs = [path.read_text() for path in folder.glob("task-logs/dag_id=kpo_cleanup/*/task_id=list_pods/*.log")]
    assert len(logs) >= len(runs)
    assert [log for log in logs if "earlier run" in log or "XCom not found" in log] == []


def test_the_task_instances_came_from_the_configured_source(evidence: Evidence, folder: Path) -> None:
    logs = [path.read_text() for path in folder.glob("task-logs/dag_id=kpo_cleanup/*/task_id=fetch_active_tis/*.log")]
    assert len(logs) >= len(evidence.cleanups)
    source = "the metadata database because" if IS_AIRFLOW_3 else "Airflow's session because"
    assert [log for log in logs if f"Task instances come from {source}" not in log] == []


def test_nothing_runs_while_the_cleanup_is_paused(evidence: Evidence) -> None:
    assert evidence.paused_runs == []
    assert LATE in evidence.paused_pods


@pytest.mark.usefixtures("evidence")
def test_the_role_of_the_metadata_connection_can_read_only_three_tables(database: Database, records: Records) -> None:
    tables = {name for (name,) in records.query("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")}
    assert tables > READABLE
    reader = Records(database.url("psycopg2", user=READER))
    assert {table for table in tables if _may(reader, f'SELECT 1 FROM "{table}" LIMIT 1')} == READABLE
    writes = ("INSERT INTO {} DEFAULT VALUES", "UPDATE {} SET dag_id = NULL", "DELETE FROM {}", "TRUNCATE {} CASCADE")
    assert [write.format(table) for table in READABLE for write in writes if _may(reader, write.format(table))] == []


def _may(reader: Records, sql: str) -> bool:
    """Return whether PostgreSQL allows this role to execute a statement."""
    try:
        reader.execute(sql)
    except ProgrammingError as error:
        if "permission denied" not in str(error):
            raise
        return False
    return True
