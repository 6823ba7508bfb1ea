"""Deletion of XComs that an earlier run left behind: its list of pods and its answers from Airflow.

They are nearly everything that a run leaves in the metadata database. The verdicts and the report stay.
"""

from __future__ import annotations

import logging
from typing import Any

from .airflow_compat import earlier_scheduled_run, remove_xcom
from .text import printable, wrap

log = logging.getLogger(__name__)

# The listing comes first: even if nothing else is deleted, a task of that run that is cleared later fails without it.
_TASKS = ("list_pods", "fetch_active_tis")


def delete_previous_inputs(context: Any) -> None:
    """Delete the XComs of `list_pods` and `fetch_active_tis` of the last scheduled run that succeeded.

    A run that is in progress or has failed keeps them, because its tasks may be cleared. So does a run that a user
    triggered, because the user may want to inspect it. Deleting them is optional, so a failure is only logged.

    :param context: the context of the running task.
    """
    run_id = None
    try:
        run_id = earlier_scheduled_run(context)
        if run_id:
            for task_id in _TASKS:
                remove_xcom(context["ti"].dag_id, task_id, run_id)
    except Exception as error:  # any class: the API server, the database or a custom XCom backend raises it
        which = f"earlier run {run_id}" if run_id else "the earlier run"
        problem = printable(error) or type(error).__name__
        for line in wrap(f"The XComs of {' and '.join(_TASKS)} of {which} were not deleted: {problem}"):
            log.warning("%s", line)
