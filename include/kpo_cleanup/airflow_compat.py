"""The differences between Airflow 2 and 3, in one place."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import pendulum
from airflow import __version__ as AIRFLOW_VERSION
from airflow.configuration import conf
from airflow.timetables.base import TimeRestriction
from airflow.timetables.interval import CronDataIntervalTimetable

from .errors import KpoCleanupError

AIRFLOW_RELEASE = tuple(int(number) for number in AIRFLOW_VERSION.split(".")[:2])
IS_AIRFLOW_3 = AIRFLOW_RELEASE >= (3, 0)
# A task that is marked failed while deferred keeps a try number that is too low by one.
TRY_NUMBER_MAY_LAG = AIRFLOW_RELEASE < (2, 10)

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
    from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException  # since 3.2
except ImportError:
    from airflow.exceptions import AirflowException, AirflowFailException, AirflowSkipException

__all__ = [
    "AIRFLOW_RELEASE",
    "AIRFLOW_VERSION",
    "DAG",
    "IS_AIRFLOW_3",
    "TRY_NUMBER_MAY_LAG",
    "AirflowException",
    "AirflowFailException",
    "AirflowSkipException",
    "BaseHook",
    "Param",
    "add_to_counters",
    "conf",
    "current_try",
    "display_name",
    "earlier_scheduled_run",
    "get_current_context",
    "is_schedule",
    "is_too_long",
    "reject_long_xcom",
    "remove_xcom",
    "set_gauges",
    "task",
    "xcom_backend",
]

# In these states, the column of Airflow 2.7 to 2.9 is lower by one than in later versions.
_BETWEEN_COUNTS = frozenset({"scheduled", "queued", "deferred", "up_for_reschedule"})

_MYSQL_BLOB = 65_535  # bytes


def is_schedule(text: str) -> bool:
    """Tell whether Airflow can use this cron expression or preset as a schedule."""
    if text in ("@once", "@continuous"):
        return True
    from_now_on = TimeRestriction(earliest=pendulum.now("UTC"), latest=None, catchup=False)
    try:
        timetable = CronDataIntervalTimetable(text, "UTC")
        timetable.next_dagrun_info(last_automated_data_interval=None, restriction=from_now_on)
    except Exception:  # the libraries for cron have many errors, one of them for 31 February
        return False
    return True


def display_name(name: str) -> dict[str, str]:
    """Return the argument for a task's name in the UI; before Airflow 2.9 there is none."""
    return {"task_display_name": name} if AIRFLOW_RELEASE >= (2, 9) else {}


def current_try(state: str | None, column: int | None) -> int | None:
    """Find a task instance's current try, from its state and the column ``try_number``.

    Before Airflow 2.10 the column counts the tries that began. It goes up when a task starts to run. It goes down again
    when the task defers or asks to be rescheduled. Since 2.10 it goes up when the scheduler takes the task, and stays.
    """
    if column is not None and AIRFLOW_RELEASE < (2, 10) and state in _BETWEEN_COUNTS:
        return column + 1
    return column


def xcom_backend() -> Any:
    """Return the class that reads and writes XComs in a task of Airflow 3, where it has no public name."""
    from airflow.sdk.execution_time.xcom import XCom

    return XCom


def earlier_scheduled_run(context: Any) -> str | None:
    """Find the run_id of the last scheduled run that succeeded before the one of this task; None if there is none.

    Airflow 3 tells one run: the last that succeeded, of any type. If that is a manual one, the answer is None. The
    manual run already had the scheduled run before it as its earlier one.
    """
    if IS_AIRFLOW_3:
        earlier = context["ti"].get_previous_dagrun(state="success")
        return str(earlier.run_id) if earlier and earlier.run_type == "scheduled" else None
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session

    with create_session() as session:
        # By date, manual runs come in between: a scheduled run is dated an interval before it starts.
        found = (
            session.query(DagRun.run_id)
            .filter_by(dag_id=context["ti"].dag_id, run_type="scheduled", state="success")
            .filter(DagRun.execution_date < context["dag_run"].logical_date)
            .order_by(DagRun.execution_date.desc())
            .first()
        )
        return str(found.run_id) if found else None


def remove_xcom(dag_id: str, task_id: str, run_id: str) -> None:
    """Remove the return value of a task of another run, if it still exists."""
    ids = {"dag_id": dag_id, "task_id": task_id, "run_id": run_id}
    if not IS_AIRFLOW_3:
        from airflow.models.xcom import XCom

        XCom.clear(**ids)
        return
    # To delete asks for the value first, and a miss is an error in the log.
    if xcom_backend().get_all(key="return_value", **ids) is not None:
        xcom_backend().delete(key="return_value", **ids)


def is_too_long(value: Mapping[str, Any]) -> bool:
    """Tell whether a task cannot return this. Before Airflow 2.9 the column of MySQL holds 64 KB."""
    is_short = AIRFLOW_RELEASE < (2, 9) and conf.get("database", "sql_alchemy_conn").startswith("mysql")
    if not is_short or conf.get("core", "xcom_backend") != "airflow.models.xcom.BaseXCom":
        return False
    return len(json.dumps(value).encode()) > _MYSQL_BLOB


def reject_long_xcom(value: Mapping[str, Any], what: str) -> None:
    """Refuse an answer that a task cannot return.

    :param what: the answer, for people.
    :raises KpoCleanupError: in place of the database's later error, or of a value that is cut.
    """
    if is_too_long(value):
        raise KpoCleanupError(
            f"{what} take {len(json.dumps(value).encode())} bytes as an XCom, and the metadata database takes "
            f"{_MYSQL_BLOB}: MySQL and MariaDB with Airflow {AIRFLOW_VERSION}; narrow namespaces or label_selector, "
            "or upgrade to Airflow 2.9"
        )


def add_to_counters(dag_id: str, counts: Mapping[str, int]) -> None:
    """Add to counters of Airflow's metrics, tagged with this DAG; do nothing if Airflow has no metrics."""
    for name, count in counts.items():
        _send("incr", name, count, dag_id)


def set_gauges(dag_id: str, values: Mapping[str, int]) -> None:
    """Set gauges of Airflow's metrics, tagged with this DAG; do nothing if Airflow has no metrics."""
    for name, value in values.items():
        _send("gauge", name, value, dag_id)


def _send(method: str, name: str, value: int, dag_id: str) -> None:
    with suppress(ImportError), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        getattr(_stats(), method)(f"kpo_cleanup.{name}", value, tags={"dag_id": dag_id})


def _stats() -> Any:
    if IS_AIRFLOW_3:
        with suppress(ImportError):
            from airflow.sdk.observability.stats import Stats  # its home since 3.2

            return Stats
    from airflow.stats import Stats

    return Stats
