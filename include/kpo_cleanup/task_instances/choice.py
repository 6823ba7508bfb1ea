"""The choice among the four sources of task instances."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Any

from ..airflow_compat import AIRFLOW_VERSION, IS_AIRFLOW_3, BaseHook, xcom_backend
from ..task_instance import CallerTaskInstance
from . import TaskInstanceSource

log = logging.getLogger(__name__)


def choose_source(airflow_conn_id: str, running_task_instance: Any) -> TaskInstanceSource:
    """Choose the source for this Airflow, and log which and why.

    :param airflow_conn_id: the setting of that name.
    :param running_task_instance: of the task that asks, by which the source proves itself.
    """
    from .rest import RestSource
    from .rest_api import RestApi
    from .sql import SqlSource, airflow_session, metadata_connection
    from .task_sdk import TaskSdkSource

    ti = running_task_instance
    own = CallerTaskInstance(ti.dag_id, ti.task_id, ti.run_id, ti.map_index, str(ti.id) if IS_AIRFLOW_3 else None)
    source: TaskInstanceSource
    if not IS_AIRFLOW_3:
        source = SqlSource(airflow_session, own, f"Airflow's session: this is Airflow {AIRFLOW_VERSION}")
        if airflow_conn_id:
            log.warning("airflow_conn_id=%r has no effect on Airflow 2", airflow_conn_id)
    elif airflow_conn_id and _type_of(airflow_conn_id) == "http":
        api = RestApi(airflow_conn_id, BaseHook.get_connection(airflow_conn_id))
        source = RestSource(api, own, f"the REST API at {api.url}: airflow_conn_id={airflow_conn_id!r} is of type http")
    elif airflow_conn_id:
        connect = metadata_connection(airflow_conn_id)
        source = SqlSource(connect, own, f"the metadata connection: airflow_conn_id={airflow_conn_id!r} is set")
    else:
        source = TaskSdkSource(
            ti.get_task_states,
            xcom_backend(),
            own,
            f"the Task SDK: this is Airflow {AIRFLOW_VERSION} and airflow_conn_id is not set",
        )
    log.info("Task instances come from %s", source.description)
    return source


def _type_of(conn_id: str) -> str | None:
    """Look up a connection's type; None if that fails, which the database's source explains."""
    with suppress(Exception):  # a missing connection or a secrets backend can raise anything
        return str(BaseHook.get_connection(conn_id).conn_type)
    return None
