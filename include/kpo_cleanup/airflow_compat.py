"""Hide the differences between Airflow 2 and 3."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import pendulum
from airflow import __version__ as AIRFLOW_VERSION
from airflow.configuration import conf
from airflow.timetables.base import TimeRestriction
from airflow.timetables.interval import CronDataIntervalTimetable
from packaging.version import Version

from .errors import KpoCleanupError

AIRFLOW_RELEASE = tuple(int(number) for number in AIRFLOW_VERSION.split(".")[:2])
IS_AIRFLOW_3 = AIRFLOW_RELEASE >= (3, 0)
# A task that is marked as failed while deferred keeps a try number that is too low by one.
TRY_NUMBER_MAY_LAG = AIRFLOW_RELEASE < (2, 10)
# To return one task instance, the API server loads all earlier ones of the task (apache/airflow#72358).
PREVIOUS_TI_READS_HISTORY = Version(AIRFLOW_VERSION) < Version("3.3.2")

if IS_AIRFLOW_3:
    from airflow.sdk import DAG, Param, get_current_context, task
else:
    from airflow.decorators import task  # type: ignore[no-redef]
    from airflow.models.dag import DAG
    from airflow.models.param import Param
    from airflow.operators.python import get_current_context
try:
    from airflow.sdk import BaseHook  # since 3.1
except ImportError:
    from airflow.hooks.base import BaseHook
try:
    from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowNotFoundException  # since 3.2
except ImportError:
    from airflow.exceptions import AirflowException, AirflowFailException, AirflowNotFoundException

# Airflow's own names, which other modules import from here.
__all__ = [
    "AIRFLOW_VERSION",
    "DAG",
    "AirflowException",
    "AirflowFailException",
    "AirflowNotFoundException",
    "BaseHook",
    "Param",
    "conf",
    "get_current_context",
    "task",
]

# States in which the column of Airflow 2.7 to 2.9 is lower by one than that of later versions.
_STATES_BETWEEN_TRIES = frozenset({"scheduled", "queued", "deferred", "up_for_reschedule"})

_MYSQL_BLOB = 65_535  # bytes


def is_schedule(value: Any) -> bool:
    """Return whether Airflow accepts this as a schedule: a cron expression, a preset, or an object such as an asset."""
    if value in ("@once", "@continuous"):
        return True
    if not isinstance(value, str):
        try:
            DAG("of_this_schedule", schedule=value, start_date=datetime(2024, 1, 1, tzinfo=timezone.utc))
        except Exception:  # the class differs between Airflow versions
            return False
        return True
    restriction = TimeRestriction(earliest=pendulum.now("UTC"), latest=None, catchup=False)
    try:
        timetable = CronDataIntervalTimetable(value, "UTC")
        timetable.next_dagrun_info(last_automated_data_interval=None, restriction=restriction)
    except Exception:  # the cron libraries raise many classes, such as one for February 31
        return False
    return True


def display_name(name: str) -> dict[str, str]:
    """Return the argument for a task's name in the UI, which Airflow supports from 2.9 on."""
    return {"task_display_name": name} if AIRFLOW_RELEASE >= (2, 9) else {}


def current_try(state: str | None, column: int | None) -> int | None:
    """Return a task instance's current try from its state and the column ``try_number``.

    Before Airflow 2.10 the column is incremented when a try starts running, and decremented when the task defers or is
    rescheduled. From 2.10 on it is incremented when the scheduler schedules a try, and never decremented.
    """
    if column is not None and AIRFLOW_RELEASE < (2, 10) and state in _STATES_BETWEEN_TRIES:
        return column + 1
    return column


def dag_folders(running_task_instance: Any) -> list[Path]:
    """List the folders of DAG files on the disk of an Airflow 3 worker, that of the task's own DAG bundle first.

    Of bundles that have to be downloaded, this finds what Airflow has already downloaded. It downloads none, because
    that takes time and credentials.
    """
    from airflow.dag_processing.bundles.base import get_bundle_storage_root_path

    bundle = getattr(running_task_instance, "bundle_instance", None)  # there is none under `airflow dags test`
    kwargs = [each.get("kwargs") or {} for each in conf.getjson("dag_processor", "dag_bundle_config_list") or []]
    paths = [bundle and bundle.path, conf.get("core", "dags_folder"), *(each.get("path") for each in kwargs)]
    return [Path(path) for path in dict.fromkeys([*filter(None, paths), get_bundle_storage_root_path()])]


def xcom_backend() -> Any:
    """Return the class that reads and writes XComs in a task: the configured backend, which has no public name."""
    if IS_AIRFLOW_3:
        from airflow.sdk.execution_time.xcom import XCom
    else:
        from airflow.models.xcom import XCom
    return XCom


def deserialize_xcom(stored: Mapping[str, Any]) -> Any:
    """Return the value of an XCom by the backend that is configured on this worker, as for any task that pulls it.

    :param stored: the ids, key and value that the metadata database has, which may be a pickle or only a reference.
    """
    return xcom_backend().deserialize_value(SimpleNamespace(**stored))


def earlier_scheduled_run(context: Any) -> str | None:
    """Return the run_id of the last successful scheduled run before this task's, or None if there is none.

    Airflow 3 returns only the last successful run of any type. If that is a manual run, the result is None: the manual
    run has already handled the scheduled run before it.
    """
    if IS_AIRFLOW_3:
        earlier = context["ti"].get_previous_dagrun(state="success")
        return str(earlier.run_id) if earlier and earlier.run_type == "scheduled" else None
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session

    with create_session() as session:
        # Filtered by type, because manual runs sort in between: a scheduled run's date is an interval before its start.
        found = (
            session.query(DagRun.run_id)
            .filter_by(dag_id=context["ti"].dag_id, run_type="scheduled", state="success")
            .filter(DagRun.execution_date < context["dag_run"].logical_date)
            .order_by(DagRun.execution_date.desc())
            .first()
        )
        return str(found.run_id) if found else None


def remove_xcom(dag_id: str, task_id: str, run_id: str) -> None:
    """Delete the return value of a task of another run, if it still exists."""
    ids = {"dag_id": dag_id, "task_id": task_id, "run_id": run_id}
    if not IS_AIRFLOW_3:
        xcom_backend().clear(**ids)
        return
    # Checked first, because delete() reads the value and logs a miss as an error.
    if xcom_backend().get_all(key="return_value", **ids) is not None:
        xcom_backend().delete(key="return_value", **ids)


def skip_tasks(context: Any, return_value: Mapping[str, Any], *task_ids: str) -> None:
    """Set later tasks of this run to skipped, as a short circuit does.

    :param return_value: the return value of the current task, which Airflow 3 ends here with an exception.
    """
    if not IS_AIRFLOW_3:
        for task_id in task_ids:
            context["dag_run"].get_task_instance(task_id).set_state("skipped")
        return
    try:
        from airflow.sdk.exceptions import DownstreamTasksSkipped  # since 3.2
    except ImportError:
        from airflow.exceptions import DownstreamTasksSkipped
    context["ti"].xcom_push(key="return_value", value=return_value)
    raise DownstreamTasksSkipped(tasks=[*task_ids])


def ui_url() -> str:
    """Return the address of the UI, which Airflow itself puts into e-mails."""
    if IS_AIRFLOW_3:
        return str(conf.get("api", "base_url", fallback="http://localhost:8080")).rstrip("/")
    return str(conf.get("webserver", "base_url")).rstrip("/")


def link_to(base_url: str, dag_id: str, task_id: str, run_id: str, map_index: int) -> str:
    """Return the address of a task instance in the UI."""
    dag_id, task_id, run_id = (quote(raw_id, safe=":") for raw_id in (dag_id, task_id, run_id))
    is_mapped = map_index >= 0
    if IS_AIRFLOW_3:
        task = f"/dags/{dag_id}/runs/{run_id}/tasks/{task_id}" + (f"/mapped/{map_index}" if is_mapped else "")
        return base_url + task
    query = f"?dag_run_id={run_id}&task_id={task_id}" + (f"&map_index={map_index}" if is_mapped else "")
    return base_url + f"/dags/{dag_id}/grid{query}"


def is_too_long(value: Mapping[str, Any]) -> bool:
    """Return whether this value is too long for an XCom: before Airflow 2.9 the column is 64 KB long on MySQL."""
    is_limited = AIRFLOW_RELEASE < (2, 9) and conf.get("database", "sql_alchemy_conn").startswith("mysql")
    if not is_limited or conf.get("core", "xcom_backend") != "airflow.models.xcom.BaseXCom":
        return False
    return len(json.dumps(value).encode()) > _MYSQL_BLOB


def reject_long_xcom(value: Mapping[str, Any], what: str) -> None:
    """Raise an error if a value is too long for an XCom, before the database rejects or truncates it.

    :param what: what the value contains, for the message.
    :raises KpoCleanupError: if it is too long.
    """
    if is_too_long(value):
        raise KpoCleanupError(
            f"the XCom with {what} is too long",
            cause=f"it has {len(json.dumps(value).encode())} bytes, and MySQL and MariaDB store at most {_MYSQL_BLOB} "
            f"with Airflow {AIRFLOW_VERSION}",
            remedy="narrow namespaces or label_selector, or upgrade to Airflow 2.9",
        )


def add_to_counters(counts: Mapping[str, float], tags: Mapping[str, str]) -> None:
    """Increment counters of Airflow's metrics; do nothing if Airflow has no metrics."""
    for name, count in counts.items():
        _send("incr", name, count, tags)


def set_gauges(values: Mapping[str, int], tags: Mapping[str, str]) -> None:
    """Set gauges of Airflow's metrics; do nothing if Airflow has no metrics."""
    for name, value in values.items():
        _send("gauge", name, value, tags)


def _send(method: str, name: str, value: float, tags: Mapping[str, str]) -> None:
    with suppress(ImportError), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        getattr(_stats(), method)(f"kpo_cleanup.{name}", value, tags={**tags})


def _stats() -> Any:
    if IS_AIRFLOW_3:
        with suppress(ImportError):
            from airflow.sdk.observability.stats import Stats  # since 3.2

            return Stats
    from airflow.stats import Stats

    return Stats
