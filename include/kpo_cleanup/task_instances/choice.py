"""Select the source of task instances for a run."""

from __future__ import annotations

import logging
from typing import Any

from ..airflow_compat import (
    AIRFLOW_VERSION,
    IS_AIRFLOW_3,
    PREVIOUS_TI_READS_HISTORY,
    AirflowNotFoundException,
    BaseHook,
    dag_folders,
    xcom_backend,
)
from ..errors import SettingsError
from ..task_instance import CallerTaskInstance
from ..text import wrap
from .interface import TaskInstanceSource

log = logging.getLogger(__name__)


def choose_source(airflow_conn_id: str, running_task_instance: Any) -> TaskInstanceSource:
    """Return the source for this Airflow, and log which one it is and why.

    :param airflow_conn_id: the setting of that name.
    :param running_task_instance: the task instance of the calling task, which the source uses to verify its answers.
    """
    ti = running_task_instance
    caller = CallerTaskInstance(ti.dag_id, ti.task_id, ti.run_id, ti.map_index, str(ti.id) if IS_AIRFLOW_3 else None)
    conn_type = _type_of(airflow_conn_id) if IS_AIRFLOW_3 and airflow_conn_id else None
    source: TaskInstanceSource
    # Each branch imports what it needs: not every worker has the libraries of all sources.
    if not IS_AIRFLOW_3:
        from .sql import SqlSource, airflow_session

        source, reason = SqlSource(airflow_session, caller, "Airflow's session"), f"this is Airflow {AIRFLOW_VERSION}"
        if airflow_conn_id:
            for line in wrap(f"ignored airflow_conn_id={airflow_conn_id!r}, which has no effect on Airflow 2"):
                log.warning("%s", line)
    elif conn_type == "generic":
        raise SettingsError(
            f"the type of connection {airflow_conn_id!r} is 'generic'",
            cause="'airflow connections add --conn-type' stores this type if the provider of the given one is missing",
            remedy='create it again with --conn-json \'{"conn_type": "http", …}\', which needs no provider, or add '
            "the provider first (for a database: postgres or mysql)",
        )
    elif conn_type == "http":
        from .rest import RestSource
        from .rest_api import RestApi

        api = RestApi(airflow_conn_id, BaseHook.get_connection(airflow_conn_id))
        source = RestSource(api, caller, f"the REST API at {api.url}")
        reason = f"airflow_conn_id={airflow_conn_id!r} is of type http"
    elif airflow_conn_id:
        from .sql import SqlSource, metadata_connection

        connect = metadata_connection(airflow_conn_id)
        source = SqlSource(connect, caller, "the metadata database")
        reason = f"airflow_conn_id={airflow_conn_id!r} is set"
    else:
        from .sdk_queries import SdkQueries, fetch_dag_run
        from .task_sdk import TaskSdkSource

        queries = SdkQueries(ti, fetch_dag_run, PREVIOUS_TI_READS_HISTORY)
        source = TaskSdkSource(queries, xcom_backend(), caller, "the Task SDK", dag_folders(ti))
        reason = f"this is Airflow {AIRFLOW_VERSION} and airflow_conn_id is empty"
    for line in wrap(f"Task instances come from {source.description} because {reason}"):
        log.info("%s", line)
    return source


def _type_of(conn_id: str) -> str | None:
    """Return a connection's type, or None if it cannot be read; the error is then raised by the database source.

    :raises SettingsError: if there is no such connection.
    """
    try:
        return str(BaseHook.get_connection(conn_id).conn_type)
    except AirflowNotFoundException as error:
        remedy = f"create connection {conn_id!r}, or correct airflow_conn_id"
        raise SettingsError(f"airflow_conn_id={conn_id!r} names no connection", remedy=remedy) from error
    except Exception:  # a secrets backend can raise anything
        return None
