"""Which of the three task instance sources a run uses."""

from __future__ import annotations

import logging
from typing import Any

from include.kpo_cleanup.airflow_compat import AIRFLOW_VERSION, IS_AIRFLOW_3
from include.kpo_cleanup.settings import Settings
from include.kpo_cleanup.task_instances import TaskInstanceSource

log = logging.getLogger(__name__)


def choose_source(settings: Settings, running_task_instance: Any) -> TaskInstanceSource:
    """The source for this Airflow and these settings; logs which, and why."""
    from include.kpo_cleanup.sdk_source import TaskSdkSource
    from include.kpo_cleanup.sql_source import SqlSource, airflow_session, metadata_connection

    source: TaskInstanceSource
    if not IS_AIRFLOW_3:
        source = SqlSource(airflow_session, f"Airflow's session: this is Airflow {AIRFLOW_VERSION}")
        if settings.airflow_conn_id:
            log.warning("airflow_conn_id=%r has no effect on Airflow 2", settings.airflow_conn_id)
    elif settings.airflow_conn_id:
        connect = metadata_connection(settings.airflow_conn_id)
        source = SqlSource(connect, f"the metadata connection: airflow_conn_id={settings.airflow_conn_id!r} is set")
    else:
        source = TaskSdkSource(
            running_task_instance.get_task_states,
            f"the Task SDK: this is Airflow {AIRFLOW_VERSION} and airflow_conn_id is not set",
        )
    log.info("Task instances come from %s", source.description)
    return source
