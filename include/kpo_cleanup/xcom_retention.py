"""The leftovers of an earlier run that nobody needs: its listing and its task instances.

They are nearly all that a run leaves in the metadata database. The verdicts and the report stay.
"""

from __future__ import annotations

import logging
from typing import Any

from .airflow_compat import earlier_scheduled_run, remove_xcom

log = logging.getLogger(__name__)

# The listing first: whoever has a task of that run done again is then told that it is gone.
_TASKS = ("list_pods", "fetch_active_tis")


def delete_previous_inputs(context: Any) -> None:
    """Remove the listing and the task instances of the last scheduled run that succeeded.

    One that goes on or has failed keeps them, for its tasks may be cleared. One that a person triggered keeps them,
    too: it was made to be looked at. Nobody needs any of it to go, so a failure is a line in the log.

    :param context: of the task that runs.
    """
    run_id = None
    try:
        run_id = earlier_scheduled_run(context)
        if run_id:
            for task_id in _TASKS:
                remove_xcom(context["ti"].dag_id, task_id, run_id)
    except Exception as error:  # of the API server, the database, or a custom XCom backend: of any class
        which = f"earlier run {run_id}" if run_id else "the earlier run"
        problem = " ".join(str(error).split())[:200] or type(error).__name__
        log.warning("The listing and task instances of %s stay: %s", which, problem)
